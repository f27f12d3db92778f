"""The router process: one event loop, a process that writes the log, a control socket, and a socket per instance.

Instances that can have none come in by a TCP port with TLS (`gate.py`), where the operator wants one.

RUN/control.sock and RUN/router.pid say that it is there. SIGTERM, SIGINT and `POST /stop` end it: no new connections,
running requests answered, the log flushed. So does the end of the log's writer, without which nothing can be routed.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import secrets
import signal
from pathlib import Path

from reconciler.router.asgi import AgentPlane
from reconciler.router.bundles import BundleService
from reconciler.router.control import ControlPlane
from reconciler.router.embedded import start_embedded
from reconciler.router.gate import TlsGate
from reconciler.router.hints import Hints
from reconciler.router.listener import Door, make_http_config
from reconciler.router.log import TrafficLog
from reconciler.router.opa import opa_starter
from reconciler.router.pidfile import PID_FILE, write_pid_file
from reconciler.router.pipeline import Route, report_exception
from reconciler.router.registry import Registry
from reconciler.router.requests import Requests
from reconciler.router.rules import initial_rules
from reconciler.router.switchboard import Switchboard
from reconciler.router.writer import Writer

CONTROL_SOCKET = "control.sock"
_CONTROL_LINES = 64
_TICK_S = 1.0
_COLLECT_AFTER = 20_000

_LOG = logging.getLogger("reconciler.router")


async def serve(run: Path, data: Path, fleet: str, writer: Writer) -> bool:
    """Run until told to stop; False where the log's writer ended first.

    At start raises StoreError, OSError and ValueError.
    """
    _raise_open_files()
    hints, stopping = Hints(), asyncio.Event()
    loop = asyncio.get_running_loop()
    log = TrafficLog(writer, loop, on_change=lambda: hints.add("router"), on_lost=stopping.set)
    try:
        await _serve(run, data, fleet, log, hints, stopping)
    finally:
        log.close()
    _LOG.info("stopped")
    return not log.is_lost


async def _serve(run: Path, data: Path, fleet: str, log: TrafficLog, hints: Hints, stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    epoch = secrets.token_hex(8)
    route = Route(rules=initial_rules(), registry=Registry(), requests=Requests(), log=log, hint=hints.add)
    bundles = BundleService(data, lambda: hints.add("policy"))
    switchboard = Switchboard(
        run=run,
        data=data,
        fleet=fleet,
        epoch=epoch,
        route=route,
        hints=hints,
        start_engine={
            "opa": opa_starter(run, lambda: hints.add("policy")),
            "embedded": lambda _config, policy, _before: start_embedded(policy),
        },
        bundles=bundles,
    )
    plane = AgentPlane(route, epoch)
    gate = TlsGate(
        data=data,
        fleet=fleet,
        route=route,
        plane=plane,
        find_door=switchboard.find_door,
        on_change=lambda: hints.add("router"),
    )
    switchboard.serve(make_http_config(plane, plane.answer_plain), gate)
    control = Door(
        run / CONTROL_SOCKET,
        make_http_config(ControlPlane(switchboard, stopping.set)),
        max_lines=_CONTROL_LINES,
    )
    await control.open(None)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    write_pid_file(run, os.getpid())
    _calm_collector()
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


def _calm_collector() -> None:
    """What the start made lives as long as the process: no collection of cycles need look at it.

    Messages make next to none, so that collections may be rare.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 20)


def _raise_open_files() -> None:
    """As many open files as we may have: each agent costs a socket and a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
