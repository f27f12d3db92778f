"""OPA as an engine of the router: asked over kept connections, with a deadline for each question.

It is asked only while it is known to have the policy of the configuration. Whenever that is not known (at first, after
too many outages in a row, when it ends a connection, when it answers for another revision), a task of its own finds
out, and until then each question raises PolicyEngineError at once. After outages in a row it has a fault until it has
answered a question again, the one that failed or another, so that slowness does not make the fault come and go.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from reconciler.core.address import Address, UnixAddress, parse_address
from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.policy.opa_answer import (
    ANSWER_PATH,
    ENGINE,
    REVISION_PATH,
    Breaker,
    Fault,
    Unevaluated,
    other_revision,
    read_answer,
    read_revision,
    settle_unevaluated,
)
from reconciler.policy.opa_config import OPA_SOCKET
from reconciler.router.config import OpaEntry, PolicyEntry, RefusedError
from reconciler.router.engine import Engine
from reconciler.router.engines import Policed, StartEngine
from reconciler.router.opa_link import OpaLink, Reply

SETTLING_S = 10.0
"""How long OPA may take to fetch a policy before that counts as a fault."""

_SOONEST_S = 0.02
_PROBE_S = 1.0

_LOG = logging.getLogger("reconciler.router.policy")
_encoder = msgspec.json.Encoder()


def opa_starter(run: Path, on_change: Callable[[], None], kind: str = "message") -> StartEngine:
    """What makes the engine of a configuration. `run` is where the hub's own OPA has its socket."""

    async def start(config: Policed, policy: PolicyEntry, before: Engine | None) -> Engine | None:
        from reconciler.policy.bundle import answered_kinds

        if config.opa is None or kind not in answered_kinds(policy.modules):
            return None
        try:
            address = parse_address(config.opa.url) if config.opa.url else UnixAddress(path=str(run / OPA_SOCKET))
        except ValueError as error:
            raise RefusedError(f"opa.url: {error}") from error
        fault = before.fault if before is not None else ""
        return OpaEngine(config.opa, address, policy.digest, fault=fault, on_change=on_change)

    return start


class OpaEngine:
    """One policy, and the server that shall have it. `on_change` is called whenever `fault` changes.

    The `fault` of the engine before this one goes on: then nothing better is expected of another policy.
    """

    name = ENGINE
    reads = None

    def __init__(
        self,
        settings: OpaEntry,
        address: Address,
        revision: str,
        *,
        fault: str = "",
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.revision = revision
        self.settings = settings
        self._on_change = on_change
        self._breaker = Breaker(settings.failures, settings.half_open_after_s)
        self._link = OpaLink(address, on_lost=self._look)
        self._revision_head = self._link.head(f"/v1/data/{REVISION_PATH}")
        self._heads: dict[str, bytes] = {}
        self._failed: tuple[str, bytes] | None = None
        self.why_not = "it has not said yet which policies it has"
        self._is_settling = not fault
        self._fault = fault
        self._is_outage = True
        self._to_look = asyncio.Event()
        self._to_look.set()
        self._loop = asyncio.get_running_loop()
        self._watching = self._loop.create_task(self._watch())
        self._settled = self._loop.call_later(SETTLING_S, self._end_settling)

    @property
    def is_ready(self) -> bool:
        return not self.why_not

    @property
    def fault(self) -> str:
        """Why it cannot answer; empty while it can, and while it is still fetching the policy."""
        return self._fault

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        """Raises PolicyEngineError: what `read_answer` calls a fault, or it is known not to be able to answer."""
        if self.why_not:
            raise PolicyEngineError(self.why_not)
        body = b'{"input":%b}' % _encoder.encode(question)
        answer = await self._ask(entry_point, body)
        if isinstance(answer, Decision):
            self._breaker.succeed()
            if self._fault and not self.why_not:
                self._set_well()
            return answer
        if answer.is_outage:
            self._breaker.fail(self._loop.time())
        if self._breaker.is_open:
            self._failed = (entry_point, body)
        if self._breaker.is_open or not answer.is_outage:
            self._set_away(answer)
            self._look()
        raise PolicyEngineError(answer.reason)

    async def close(self) -> None:
        """Let what was asked be answered, within its deadline."""
        self._settled.cancel()
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching
        await self._link.close(self.settings.timeout_s)

    async def _ask(self, kind: str, body: bytes) -> Decision | Fault:
        head = self._heads.get(kind)
        if head is None:
            head = self._heads[kind] = self._link.head(f"/v1/data/{ANSWER_PATH}/{kind}?strict-builtin-errors=true")
        said = await self._link.ask(head, body, self.settings.timeout_s)
        if isinstance(said, Fault):
            return said
        answer = read_answer(kind, said.status, _read_json(said), self.revision)
        if isinstance(answer, Unevaluated):
            return settle_unevaluated(answer, await self._ask_revision(self.settings.timeout_s), self.revision)
        return answer

    async def _ask_revision(self, timeout_s: float) -> str | Fault:
        said = await self._link.ask(self._revision_head, b"{}", timeout_s)
        return said if isinstance(said, Fault) else read_revision(said.status, _read_json(said))

    # --- whether it can answer ---

    async def _watch(self) -> None:
        while True:
            await self._to_look.wait()
            self._to_look.clear()
            if self._breaker.is_open:
                await asyncio.sleep(self.settings.half_open_after_s)
            pause_s = _SOONEST_S
            while (fault := await self._find_fault()) is not None:
                self._set_away(fault)
                is_pausing = fault.is_outage and not self._is_settling
                pause_s = self.settings.half_open_after_s if is_pausing else pause_s * 2
                await asyncio.sleep(min(pause_s, self.settings.half_open_after_s))
            await self._come_back()

    async def _find_fault(self) -> Fault | None:
        """Why it cannot answer for this revision now."""
        found = await self._ask_revision(max(_PROBE_S, self.settings.timeout_s))
        if isinstance(found, Fault):
            return found
        return None if found == self.revision else other_revision(found, self.revision)

    async def _come_back(self) -> None:
        """Let questions through again. Where the one that failed still does, the next outage is one too many."""
        failed = self._failed
        if failed is None or isinstance(await self._ask(*failed), Decision):
            self._breaker.succeed()
            self._set_well()
        else:
            self._breaker.half_open()
            self.why_not = ""
            self._loop.call_later(self.settings.half_open_after_s, self._look)

    def _look(self) -> None:
        self._to_look.set()

    def _set_away(self, fault: Fault) -> None:
        self.why_not = fault.reason
        if not self._is_settling:
            self._set_fault(fault.reason, is_outage=fault.is_outage)

    def _set_well(self) -> None:
        self.why_not = ""
        self._failed = None
        self._is_settling = False
        self._set_fault("")

    def _end_settling(self) -> None:
        self._is_settling = False
        if self.why_not:
            self._set_fault(self.why_not)

    def _set_fault(self, fault: str, *, is_outage: bool = False) -> None:
        """One outage has one reason, the first; what comes next may only be another kind of fault."""
        before = self._fault
        if before == fault or (before and fault and is_outage == self._is_outage):
            return
        self._fault, self._is_outage = fault, is_outage
        if not before:
            _LOG.warning("policy engine opa cannot answer: %s", fault)
        elif not fault:
            _LOG.warning("policy engine opa answers again")
        self._on_change()


def _read_json(reply: Reply) -> object:
    """The value of the body: None where it is empty, text where it is not JSON."""
    if not reply.body:
        return None
    try:
        return msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return reply.body.decode(errors="replace")
