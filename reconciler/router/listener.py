"""Doors: what connections (`line.py`) belong to, with the unix socket by which they come, made and removed here.

Those of a door without a socket come from elsewhere (`tls.py`).
"""

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Any

from uvicorn.server import ServerState

from reconciler.router.answer import Answer
from reconciler.router.eager import Eager
from reconciler.router.line import AnswerPlain, HttpConfig, Line

MAX_PATH_BYTES = 107
BACKLOG = 256
CLOSING_S = 2.0


class Door:
    """What lines belong to. `subject` is what they are about, `running` the plain requests under way.

    It listens on the unix socket `path`, where it has one.
    """

    def __init__(self, path: Path | None, config: HttpConfig, subject: Any = None, *, max_lines: int) -> None:
        self.path = path
        self.subject = subject
        self.max_lines = max_lines
        self.is_closed = False
        self.loop = asyncio.get_running_loop()
        self.state = ServerState()
        self.running: set[Eager[Answer]] = set()
        self._config = config
        self._server: asyncio.Server | None = None
        self._inode: tuple[int, int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether lines may come, which is to say that its path is still what it bound."""
        return not self.is_closed and (self.path is None or self._is_ours(self.path))

    async def open(self, uid: int | None) -> None:
        """Bind, mode 0600, owned by `uid` (None: by us). Raises OSError, ValueError for a path that is too long."""
        assert self.path is not None
        listening = bind_socket(self.path, uid)
        try:
            self._server = await self.loop.create_unix_server(self._make_line, sock=listening, backlog=BACKLOG)
        except OSError:
            listening.close()
            raise
        self._inode = _identify(self.path)

    def close(self) -> None:
        """Take no more connections, close the idle ones, and the busy ones after their answer."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._server is not None:
            self._server.close()
        if self.path is not None and self._is_ours(self.path):
            self.path.unlink()
        for line in list(self.state.connections):
            line.shutdown()

    def drop_slow(self, loop_s: float) -> None:
        """Close lines on which the head of a request does not come to its end."""
        for line in list(self.state.connections):
            if isinstance(line, Line):
                line.drop_slow(loop_s)

    async def finish(self, timeout_s: float = CLOSING_S) -> None:
        """Wait until running requests are answered; what takes longer is cancelled, and all lines are dropped."""
        under_way = [*self.state.tasks, *(running.ended() for running in self.running)]
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=timeout_s)
            for running in list(self.running):
                running.cancel()
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1)
        for line in list(self.state.connections):
            line.transport.close()
        await asyncio.sleep(0)

    def _is_ours(self, path: Path) -> bool:
        return self._inode is not None and _identify(path) == self._inode

    def _make_line(self) -> Line:
        return Line(self, self._config)


def bind_socket(path: Path, uid: int | None) -> socket.socket:
    """A unix socket bound to `path`, in place of what stood there.

    The directory of one with a `uid` is that user's, who could put a link in its place before it has its owner; so it
    is made beside that directory, and moved in when all is set.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ValueError(
            f"the socket path {path} has {len(os.fsencode(path))} bytes, and a unix socket at most "
            f"{MAX_PATH_BYTES}; use a shorter run directory"
        )
    made = path if uid is None else path.parent.with_name(f".{path.parent.name}.{path.stem}.new")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            made.unlink()
        listening.bind(str(made))
        made.chmod(0o600)
        if uid is not None and os.geteuid() == 0:
            os.chown(made, uid, uid)
        if made != path:
            made.rename(path)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def make_http_config(app: Any, answer_plain: AnswerPlain | None = None) -> HttpConfig:
    """uvicorn's settings, of which the protocol class reads only these. Without `answer_plain` all goes to `app`."""
    config = HttpConfig(
        app,
        interface="asgi3",
        http=Line,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
    )
    config.answer_plain = answer_plain
    config.load()
    return config


def _identify(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
