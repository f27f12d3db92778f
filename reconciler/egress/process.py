"""The egress process: one event loop, a control socket, and a socket per instance.

RUN/egress.sock and RUN/egress.pid say that it is there. SIGTERM, SIGINT and `POST /stop` end it: no new connections,
answers under way have a moment to come to their end, the ledger is written.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
from pathlib import Path

from reconciler.egress.control import ControlPlane
from reconciler.egress.ledger import Ledger
from reconciler.egress.policy import Policy
from reconciler.egress.question import KIND
from reconciler.egress.relay import Relay
from reconciler.egress.switchboard import Switchboard
from reconciler.router.config import PolicyEntry
from reconciler.router.embedded import start_embedded
from reconciler.router.engine import Engine
from reconciler.router.engines import Policed
from reconciler.router.listener import Door, make_http_config
from reconciler.router.opa import opa_starter
from reconciler.runtime.server import control_socket, pid_file, write_pid_file

NAME = "egress"
_CONTROL_LINES = 64
_TICK_S = 1.0

_LOG = logging.getLogger("reconciler.egress")


async def serve(run: Path, data: Path, fleet: str) -> None:
    """Run until told to stop. At start raises StoreError, OSError and ValueError."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ledger = Ledger(data)
    try:
        await _serve(run, fleet, ledger)
    finally:
        ledger.close()
    _LOG.info("stopped")


async def _serve(run: Path, fleet: str, ledger: Ledger) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    policy = Policy({"opa": opa_starter(run, lambda: None, KIND), "embedded": _start_embedded})
    switchboard = Switchboard(run=run, fleet=fleet, ledger=ledger, policy=policy)
    switchboard.http = make_http_config(Relay(switchboard))
    plane = make_http_config(ControlPlane(switchboard, stopping.set))
    control = Door(control_socket(run, NAME), plane, max_lines=_CONTROL_LINES)
    await control.open(None)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    write_pid_file(run, NAME, os.getpid())
    _LOG.info("started, fleet %s", fleet)
    ticking = loop.create_task(_tick(switchboard))
    try:
        await stopping.wait()
    finally:
        ticking.cancel()
        control.close()
        await switchboard.close()
        await control.finish()
        with contextlib.suppress(FileNotFoundError):
            pid_file(run, NAME).unlink()


async def _start_embedded(_config: Policed, policy: PolicyEntry, _before: Engine | None) -> Engine | None:
    return await start_embedded(policy, kind=KIND)


async def _tick(switchboard: Switchboard) -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        try:
            switchboard.tick()
        except Exception:  # noqa: BLE001 - the rim: the next tick must come
            _LOG.exception("tick")
