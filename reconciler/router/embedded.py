"""The embedded engine: Rego in a policy worker of the router's own, asked without blocking the loop.

Questions are written as they come and answered in order; equal ones that wait share an answer. A worker that misses the
deadline of the question it is at is killed and replaced; until the new one has loaded the bundle, each question raises
PolicyEngineError at once. The worker and its protocol are those of `reconciler/policy/worker.py`.
"""

import asyncio
import contextlib
import logging
import socket
import subprocess
from collections import deque
from typing import Any

import msgspec

from reconciler.core.backoff import backoff_s
from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.policy.reads import Reads, reads_from_json
from reconciler.policy.worker import command, frame_size
from reconciler.router.config import PolicyEntry, RefusedError

_START_S = 10.0
_LOAD_S = 20.0
_MEMORY_BYTES = 256 * 2**20
_HEAD = 4

_LOG = logging.getLogger("reconciler.router.policy")
_encoder = msgspec.json.Encoder()


class _Worker(asyncio.Protocol):
    """One child process and the link to it. Replies come in the order of the questions."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._waiting: deque[tuple[asyncio.Future[dict[str, Any]], float]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._number = 0
        self.ended: asyncio.Future[int] | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.ready: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting.append((self.ready, _START_S))
        self._watch_next()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while (reply := self._take_frame()) is not None:
                self._resolve(reply)
        except ValueError:
            self.kill("it broke the protocol")

    def connection_lost(self, _exc: Exception | None) -> None:
        self.kill("it ended")

    def ask(self, operation: str, deadline_s: float, fields: bytes) -> asyncio.Future[dict[str, Any]]:
        """The reply to come. `fields` is the rest of a JSON object, after its first members."""
        self._number += 1
        reply: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        if self.lost.done() or self._transport is None:
            reply.set_exception(PolicyEngineError("the policy worker is not running"))
            return reply
        head = b'{"id":%d,"op":"%s","deadline_s":%f,' % (self._number, operation.encode(), deadline_s)
        body = head + fields
        self._transport.write(len(body).to_bytes(_HEAD, "big") + body)
        self._waiting.append((reply, deadline_s))
        if len(self._waiting) == 1:
            self._watch_next()
        return reply

    def kill(self, reason: str) -> None:
        """End it; whoever waits gets PolicyEngineError. Dead already is fine."""
        if self.lost.done():
            return
        self.lost.set_result(None)
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.close()
        self._process.kill()
        self.ended = self._loop.run_in_executor(None, self._process.wait)
        for reply, _ in self._waiting:
            if not reply.done():
                reply.set_exception(PolicyEngineError(f"the policy worker is gone: {reason}"))
        self._waiting.clear()

    def _take_frame(self) -> dict[str, Any] | None:
        """The next whole reply, or None. Raises ValueError on what is none."""
        if len(self._buffer) < _HEAD:
            return None
        end = _HEAD + frame_size(bytes(self._buffer[:_HEAD]))
        if len(self._buffer) < end:
            return None
        reply = msgspec.json.decode(bytes(self._buffer[_HEAD:end]), type=dict[str, Any])
        del self._buffer[:end]
        return reply

    def _resolve(self, reply: dict[str, Any]) -> None:
        if not self._waiting:
            self.kill("it answered what nobody asked")
            return
        waiter, _ = self._waiting.popleft()
        if not waiter.done():
            waiter.set_result(reply)
        self._watch_next()

    def _watch_next(self) -> None:
        """The deadline of the question that the worker is at."""
        if self._watch is not None:
            self._watch.cancel()
        self._watch = None
        if self._waiting:
            deadline_s = self._waiting[0][1]
            self._watch = self._loop.call_later(deadline_s, self.kill, "it missed its deadline")


class EmbeddedEngine:
    """One policy and the worker that evaluates it."""

    name = "embedded"

    def __init__(self, policy: PolicyEntry, deadline_s: float, kind: str = "message") -> None:
        self.revision = policy.digest
        self.reads: Reads | None = None
        self._policy = policy
        self._deadline_s = deadline_s
        self._kind = kind
        self._worker: _Worker | None = None
        self._asked: dict[bytes, asyncio.Future[dict[str, Any]]] = {}
        self._reviving: asyncio.Task[None] | None = None
        self._failures = 0
        self._is_closing = False

    @property
    def is_ready(self) -> bool:
        return self._worker is not None

    @property
    def fault(self) -> str:
        return "" if self._worker else "the policy worker is being started again"

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        """Raises PolicyEngineError: no worker, the deadline, or an answer of another revision."""
        if self._worker is None:
            raise PolicyEngineError("the policy worker is being started again")
        encoded = _encoder.encode(question)
        key = entry_point.encode() + encoded
        asked = self._asked.get(key)
        if asked is None:
            fields = b'"kind":"%s","question":%s}' % (entry_point.encode(), encoded)
            asked = self._asked[key] = self._worker.ask("decide", self._deadline_s, fields)
            asked.add_done_callback(lambda _: self._asked.pop(key, None))
        reply = await asyncio.shield(asked)
        if "error" in reply:
            raise PolicyEngineError(f"the policy worker says: {reply['error']}")
        if reply["revision"] != self.revision:
            raise PolicyEngineError(f"the policy worker answered for revision {reply['revision']}")
        self._failures = 0
        reasons = tuple(str(reason) for reason in reply["reasons"])
        return Decision(allow=reply["allow"] is True, reasons=reasons, engine=self.name, revision=self.revision)

    async def load(self) -> set[str]:
        """Start a worker with the policy; returns the kinds of question that it has rules for.

        Raises PolicyEngineError when none can be started, RefusedError when it does not take the policy.
        """
        worker = await _start_worker()
        try:
            await worker.ready
            fields = {"modules": self._policy.modules, "data": self._policy.data}
            reply = await worker.ask("load", _LOAD_S, _encoder.encode(fields)[1:])
        except BaseException:
            worker.kill("it was given up")
            raise
        if "error" in reply or reply.get("revision") != self.revision:
            worker.kill("it does not take the policy")
            raise RefusedError(f"policy: {reply.get('error', 'its digest is not hub.revision')}")
        found = reply["reads"].get(self._kind)
        self.reads = reads_from_json(found) if found else None
        self._worker = worker
        worker.lost.add_done_callback(self._revive)
        return {str(kind) for kind in reply["kinds"]}

    async def close(self) -> None:
        """Answer what was asked, within its deadline, then end the worker."""
        self._is_closing = True
        if self._reviving is not None:
            self._reviving.cancel()
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if self._asked:
            await asyncio.wait(list(self._asked.values()), timeout=self._deadline_s)
        worker.kill("it is not needed any more")
        if worker.ended is not None:
            await worker.ended

    def _revive(self, _: "asyncio.Future[None]") -> None:
        self._worker = None
        if not self._is_closing:
            self._reviving = asyncio.get_running_loop().create_task(self._try_again())

    async def _try_again(self) -> None:
        while self._worker is None and not self._is_closing:
            self._failures += 1
            if self._failures > 1:
                await asyncio.sleep(backoff_s(self._failures - 1, base_s=0.1, cap_s=5.0))
            with contextlib.suppress(PolicyEngineError, RefusedError, OSError):
                await self.load()
                _LOG.warning("the policy worker was started again")


async def start_embedded(
    policy: PolicyEntry, *, kind: str = "message", deadline_s: float = 0.2
) -> EmbeddedEngine | None:
    """An engine that answers, or None where the policy has no rules for the kind. Raises RefusedError."""
    engine = EmbeddedEngine(policy, deadline_s, kind)
    try:
        kinds = await engine.load()
    except (PolicyEngineError, OSError) as error:
        raise RefusedError(f"policy: no worker can be started: {error}") from error
    if kind in kinds:
        return engine
    await engine.close()
    return None


async def _start_worker() -> _Worker:
    """A child process with our end of its frames. Raises OSError."""
    argv, environment = command(_MEMORY_BYTES)
    here, there = socket.socketpair()
    with there:
        process = await asyncio.to_thread(_spawn, argv, environment, there)
    here.setblocking(False)
    loop = asyncio.get_running_loop()
    _, worker = await loop.create_unix_connection(lambda: _Worker(process), sock=here)
    return worker


def _spawn(argv: list[str], environment: dict[str, str], there: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, env=environment, stdin=there.fileno(), stdout=there.fileno(), cwd="/")
