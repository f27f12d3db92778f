"""What the router serves to OPA, so that OPA may restart while the hub is dead: the policies in force as a bundle.

    GET  /bundles/hub.tar.gz    OPA's bundle API: ETag, and a long poll where `Prefer` has a `wait`
    POST /logs                  its decision log
    POST /status                whether it took the bundle

It listens on 127.0.0.1, because OPA fetches from no unix socket, on a port that stays the same as long as nobody else
takes it. Each request shows the token of `OpaFiles`; the bundle is signed with its key, so that OPA takes none from
whoever else listens there. While no configuration names OPA nobody listens.
"""

import asyncio
import hmac
import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from reconciler.policy.opa_config import BUNDLE_PATH, KEY_ID
from reconciler.router.answer import Answer
from reconciler.router.config import Config, PolicyEntry
from reconciler.router.line import HttpConfig
from reconciler.router.listener import Door, make_http_config
from reconciler.router.opa_files import OpaFiles, open_opa_files
from reconciler.router.opa_reports import (
    DECISIONS_FILE,
    MAX_BYTES,
    MAX_PACKED_BYTES,
    BadReportError,
    DecisionFile,
    read_bundle_fault,
)
from reconciler.router.pipeline import report_exception
from reconciler.router.rim import Call, Receive, Scope, Send, serve

MAX_WAIT_S = 300.0
_HOST = "127.0.0.1"
_MAX_LINES = 16
_BACKLOG = 64
_BUNDLE_TYPE = b"application/vnd.openpolicyagent.bundles"
_OK = Answer(200, b"{}")

_LOG = logging.getLogger("reconciler.router.bundles")


class BundleService:
    """The service of one router. `fault` says why OPA does not get or not take the policies; empty where it may.

    `on_change` is called when that changes.
    """

    def __init__(self, data: Path, on_change: Callable[[], None]) -> None:
        self._data = data
        self._on_change = on_change
        self._door: _Port | None = None
        self._files: OpaFiles | None = None
        self._decisions = DecisionFile(data / "log" / DECISIONS_FILE)
        self._published: str | None = None
        self._archive, self._etag = b"", ""
        self._waiters: set[asyncio.Future[bytes | None]] = set()
        self.fault = ""

    async def apply(self, config: Config) -> None:
        """Serve the policies of the configuration that is in force now; nothing where it does not name OPA."""
        if config.opa is None:
            await self.close()
            return
        try:
            files = self._files
            if files is None:
                files = self._files = await asyncio.to_thread(open_opa_files, self._data)
            if self._door is None:
                await self._open(files)
        except OSError as error:
            self._set_fault(f"OPA gets no policies: the router cannot serve them: {error}")
            return
        await self._publish(config.policy, files.key)

    async def close(self) -> None:
        """Stop listening; whoever waits is answered."""
        door, self._door = self._door, None
        self._published, self._archive, self._etag = None, b"", ""
        self._set_fault("")
        self._wake()
        if door is not None:
            door.close()
            await door.finish()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await serve(self._answer, scope, receive, send)

    async def _open(self, files: OpaFiles) -> None:
        """Raises OSError."""
        listening = _bind(files.read_port())
        door = _Port(make_http_config(self))
        try:
            files.write_config(listening.getsockname()[1])
            await door.listen(listening)
        except OSError:
            listening.close()
            raise
        self._door = door

    async def _publish(self, policy: PolicyEntry | None, key: str) -> None:
        """Also that there are no policies any more is something that OPA must know."""
        policy = policy or PolicyEntry(digest="", modules={})
        if policy.digest == self._published:
            return
        from reconciler.policy.opa_bundle import build_archive, etag_of

        archive = await asyncio.to_thread(build_archive, policy.modules, policy.data, policy.digest, key.encode())
        self._published, self._archive, self._etag = policy.digest, archive, etag_of(archive)
        self._set_fault("")
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _set_fault(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            if fault:
                _LOG.warning("%s", fault)
            self._on_change()

    # --- requests ---

    async def _answer(self, call: Call) -> Answer:
        headers = {name.lower(): value for name, value in call.headers}
        token = self._files.token if self._files else ""
        if not hmac.compare_digest(headers.get(b"authorization", b""), f"Bearer {token}".encode()):
            return Answer(401, b'{"reason":"the bearer token is not that of this hub\'s OPA"}')
        try:
            match call.method, call.path:
                case "GET", path if path == BUNDLE_PATH:
                    return await self._give_bundle(call, headers)
                case "POST", "/logs":
                    return await self._take_decisions(call, headers)
                case "POST", "/status":
                    return await self._take_status(call)
            return Answer(404, b'{"reason":"there is nothing here"}')
        except ConnectionError:
            raise
        except BadReportError as error:
            return Answer(400, b'{"reason":"%s"}' % str(error).encode("ascii", "replace").replace(b'"', b"'"))
        except Exception as error:  # noqa: BLE001 - the rim: OPA tries again, and the router goes on
            report_exception(error, f"bundle service, {call.method} {call.path}")
            return Answer(500, b'{"reason":"the router failed at this call; see its log"}')

    async def _give_bundle(self, call: Call, headers: Mapping[bytes, bytes]) -> Answer:
        known = {tag.strip() for tag in headers.get(b"if-none-match", b"").decode("latin-1").split(",")}
        wait_s = _read_wait(headers.get(b"prefer", b""))
        if (not self._etag or self._etag in known) and wait_s:
            await self._wait(call, wait_s)
        if not self._etag:
            return Answer(503, b'{"reason":"there is no configuration yet"}', ((b"retry-after", b"1"),))
        tag = ((b"etag", self._etag.encode()),)
        if self._etag in known:
            return Answer(304, b"", tag, _BUNDLE_TYPE)
        return Answer(200, self._archive, tag, _BUNDLE_TYPE)

    async def _wait(self, call: Call, wait_s: float) -> None:
        waiter: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await call.wait(waiter, wait_s)
        finally:
            self._waiters.discard(waiter)

    async def _take_decisions(self, call: Call, headers: Mapping[bytes, bytes]) -> Answer:
        is_packed = headers.get(b"content-encoding", b"").lower() == b"gzip"
        if call.size_bytes is None or call.size_bytes > (MAX_PACKED_BYTES if is_packed else MAX_BYTES):
            return Answer(413, b'{"reason":"the body needs Content-Length, and is bounded"}')
        await self._decisions.append(await call.read(), is_packed=is_packed)
        return _OK

    async def _take_status(self, call: Call) -> Answer:
        if call.size_bytes is None or call.size_bytes > MAX_PACKED_BYTES:
            return Answer(413, b'{"reason":"the body needs Content-Length, and is bounded"}')
        fault = read_bundle_fault(await call.read(), KEY_ID)
        self._set_fault(f"OPA does not take the policies: {fault}" if fault else "")
        return _OK


class _Port(Door):
    """A door on a port instead of a socket file."""

    def __init__(self, config: HttpConfig) -> None:
        super().__init__(Path(), config, max_lines=_MAX_LINES)

    async def listen(self, listening: socket.socket) -> None:
        """Raises OSError."""
        self._server = await self.loop.create_server(self._make_line, sock=listening, backlog=_BACKLOG)


def _bind(port: int) -> socket.socket:
    """A socket on that port, or on another one if that is taken. Raises OSError."""
    for wanted in (port, 0):
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((_HOST, wanted))
            listening.setblocking(False)
        except OSError:
            listening.close()
            if not wanted:
                raise
        else:
            return listening
    raise OSError("no port is free")


def _read_wait(prefer: bytes) -> float:
    """The seconds of `wait` in `modes=snapshot,delta;wait=55`; 0 without."""
    for part in prefer.decode("latin-1").replace(",", ";").split(";"):
        name, _, value = part.strip().partition("=")
        if name == "wait" and value.isascii() and value.isdigit():
            return min(float(value[:6]), MAX_WAIT_S)
    return 0.0
