"""OPA as an engine of the hub's, asked through opa-python-client: blocking, with a deadline for each question.

OPA fetches the policies from the router (`router/bundles.py`), so `activate` only says which revision counts from now
on, and `check` is for others. For a while after that OPA may still be at the revision before or none, and it may be
slow now and then: that raises PolicyPassingError, and the next engine answers without anybody being alarmed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

from reconciler.core.address import Address
from reconciler.core.decision import Decision
from reconciler.core.problem import Problem
from reconciler.errors import PolicyEngineError, PolicyPassingError
from reconciler.policy.opa_answer import (
    ANSWER_PATH,
    QUERY,
    REVISION_PATH,
    Breaker,
    Fault,
    Unevaluated,
    cannot_be_put,
    other_revision,
    read_answer,
    read_revision,
    settle_unevaluated,
)
from reconciler.ports import PolicyBundle

if TYPE_CHECKING:
    from reconciler.policy.opa_client import Client

SETTLING_S = 15.0
"""How long OPA may take to fetch a policy before that counts as a fault; a start of the router is part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaSettings:
    """Where OPA answers, how long a question may take, and its breaker; `missing` says why there can be none."""

    address: Address
    timeout_s: float = 0.05
    failures: int = 5
    half_open_after_s: float = 2.0
    missing: str = ""


class OpaEngine:
    """A `PolicyEngine` (`ports.py`) that several threads may use. `clock` is seconds that never go back."""

    def __init__(self, settings: OpaSettings | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._revision = ""
        self._settling_until = 0.0
        self._was_away = False
        self._client: Client | None = None
        self._settings = settings
        self._breaker = _make_breaker(settings)

    @property
    def revision(self) -> str:
        """The digest of the bundle that OPA shall have."""
        return self._revision

    def configure(self, settings: OpaSettings | None) -> None:
        """Ask another server, or another way, from now on; None asks nobody."""
        if settings == self._settings:
            return
        with self._lock:
            client, self._client = self._client, None
            self._settings, self._breaker = settings, _make_breaker(settings)
            self._settling_until = self._clock() + SETTLING_S
        if client is not None:
            client.close()

    def check(self, bundle: PolicyBundle) -> Sequence[Problem]:
        """Raises PolicyEngineError: OPA has only policies that were checked."""
        raise PolicyEngineError(f"it checks no policies, not {bundle.digest} either; the embedded engine does")

    def activate(self, bundle: PolicyBundle) -> None:
        """From now on answers for this bundle count."""
        with self._lock:
            self._revision = bundle.digest
            self._settling_until = 0.0 if self._was_away else self._clock() + SETTLING_S

    def decide(self, entry_point: str, question: Mapping[str, Any]) -> Decision:
        """Raises PolicyEngineError: what `read_answer` calls a fault; at first PolicyPassingError instead."""
        revision = self._revision
        answer = self._answer(lambda client: _ask(client, entry_point, question, revision))
        return answer if answer is not None else cannot_be_put(revision)

    def probe(self) -> None:
        """Whether it would answer. Raises as `decide` does."""
        revision = self._revision
        self._answer(lambda client: _look(client, revision))

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _answer(self, ask: Callable[["Client"], Decision | Fault | None]) -> Decision | None:
        """What `ask` returns, with what that means for the next one. Raises PolicyEngineError."""
        with self._lock:
            settings, breaker = self._settings, self._breaker
            if settings is None or settings.missing:
                raise PolicyEngineError(settings.missing if settings else "it is not configured")
            if not breaker.permits(self._clock()):
                raise PolicyEngineError(f"no answer {settings.failures} times in a row; it is tried again soon")
            client = self._client = self._client or _open(settings)
        answer = ask(client)
        with self._lock:
            if isinstance(answer, Fault):
                raise self._note_fault(answer, breaker)
            breaker.succeed()
            self._was_away, self._settling_until = False, 0.0
        return answer

    def _note_fault(self, fault: Fault, breaker: Breaker) -> PolicyEngineError:
        """While OPA is given the policies, and when it is slow once or twice, nobody need be alarmed."""
        if self._clock() < self._settling_until:
            return PolicyPassingError(fault.reason)
        if fault.is_outage:
            breaker.fail(self._clock())
        if fault.is_timeout and not breaker.is_open:
            return PolicyPassingError(fault.reason)
        self._was_away = True
        return PolicyEngineError(fault.reason)


def _make_breaker(settings: OpaSettings | None) -> Breaker:
    return Breaker(settings.failures, settings.half_open_after_s) if settings else Breaker(1, 1.0)


def _open(settings: OpaSettings) -> "Client":
    # Here, because the library takes long to import, and most commands ask nobody.
    from reconciler.policy.opa_client import Client

    return Client(settings.address, settings.timeout_s)


def _ask(client: "Client", kind: str, question: Mapping[str, Any], revision: str) -> Decision | Fault | None:
    """None where the question is not JSON."""
    said = client.query(ANSWER_PATH, kind, question, QUERY)
    if said is None or isinstance(said, Fault):
        return said
    answer = read_answer(kind, said.status, said.value, revision)
    return settle_unevaluated(answer, _find_revision(client), revision) if isinstance(answer, Unevaluated) else answer


def _look(client: "Client", revision: str) -> Fault | None:
    found = _find_revision(client)
    if isinstance(found, Fault):
        return found
    return None if found == revision else other_revision(found, revision)


def _find_revision(client: "Client") -> str | Fault:
    package, _, rule = REVISION_PATH.rpartition("/")
    said = client.query(package, rule, {}, {})
    if said is None or isinstance(said, Fault):
        return said or Fault(reason="its revision cannot be asked for")
    return read_revision(said.status, said.value)
