"""The router process: one event loop, one log thread, a control socket, and a socket per instance.

RUN/control.sock and RUN/router.pid say that it is there; a lock on DATA/traffic.lock keeps a second one off the same
log. SIGTERM, SIGINT and `POST /stop` end it: no new connections, running requests answered, the log flushed.
"""

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from reconciler.errors import LockedError
from reconciler.router.asgi import AgentPlane
from reconciler.router.control import ControlPlane
from reconciler.router.embedded import start_embedded
from reconciler.router.hints import Hints
from reconciler.router.listener import Door, make_http_config
from reconciler.router.log import TrafficLog
from reconciler.router.pidfile import PID_FILE, write_pid_file
from reconciler.router.pipeline import Route, report_exception
from reconciler.router.registry import Registry
from reconciler.router.requests import Requests
from reconciler.router.rules import initial_rules
from reconciler.router.switchboard import Switchboard

CONTROL_SOCKET = "control.sock"
_CONTROL_LINES = 64
_TICK_S = 1.0
_LOCK_S = 1.0

_LOG = logging.getLogger("reconciler.router")


async def serve(run: Path, data: Path, fleet: str) -> None:
    """Run until told to stop. At start raises LockedError, StoreError, OSError and ValueError."""
    os.umask(0o077)
    gc.freeze()  # what the imports made lives as long as the process; no collection need look at it
    _raise_open_files()
    loop = asyncio.get_running_loop()
    with _lock(data):
        hints = Hints()
        log = TrafficLog(data, loop, on_change=lambda: hints.add("router"))
        try:
            await _serve(run, fleet, log, hints)
        finally:
            log.close()
    _LOG.info("stopped")


async def _serve(run: Path, fleet: str, log: TrafficLog, hints: Hints) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    epoch = secrets.token_hex(8)
    route = Route(rules=initial_rules(), registry=Registry(), requests=Requests(), log=log, hint=hints.add)
    switchboard = Switchboard(
        run=run, fleet=fleet, epoch=epoch, route=route, hints=hints, start_engine={"embedded": start_embedded}
    )
    plane = AgentPlane(route, epoch)
    switchboard.serve(make_http_config(plane))
    control = Door(
        run / CONTROL_SOCKET,
        make_http_config(ControlPlane(switchboard, stopping.set)),
        max_lines=_CONTROL_LINES,
    )
    await control.open(None)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    write_pid_file(run, os.getpid())
    _LOG.info("started, fleet %s, epoch %s", fleet, epoch)

    ticking = loop.create_task(_tick(switchboard))
    try:
        await stopping.wait()
    finally:
        ticking.cancel()
        plane.is_stopping = True
        hints.wake()
        control.close()
        await switchboard.close()
        await control.finish()
        with contextlib.suppress(FileNotFoundError):
            (run / PID_FILE).unlink()


async def _tick(switchboard: Switchboard) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        try:
            switchboard.tick()
        except Exception as error:  # noqa: BLE001 - the rim: the next tick must come
            report_exception(error, "tick")


@contextlib.contextmanager
def _lock(data: Path) -> Iterator[None]:
    """Raises LockedError while another router has this data directory; one that is ending is waited for."""
    until = time.monotonic() + _LOCK_S
    with open(data / "traffic.lock", "w", encoding="ascii") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise LockedError(f"another router writes {data / 'traffic.db'}") from error
                time.sleep(0.01)
            else:
                break
        yield


def _raise_open_files() -> None:
    """As many open files as we may have: each agent costs a socket and a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def set_up_logging() -> None:
    """To standard error, which is the router's log file. uvicorn's own talk about bad requests is left out."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
