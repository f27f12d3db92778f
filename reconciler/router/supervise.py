"""Starting, finding and ending the router process, from the hub's side.

The router has a session of its own and outlives whoever started it; the next hub finds it by its pid file and adopts
it, or another one takes its place where the hub is of other code. It is ours when pid and start time are those of the
file, and its control socket answers for our fleet.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

from reconciler.errors import ForeignFleetError, RouterError
from reconciler.router.channel import call, is_listening
from reconciler.router.pidfile import read_pid_file
from reconciler.router.version import find_newer
from reconciler.runtime.detached import spawn_detached
from reconciler.runtime.pid import ProcessId, read_process

LOG_FILE = "router.log"
_START_S = 15.0
_STEP_S = 0.01
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_", "LD_", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHON", "RECONCILER_CRASH")


def start_router(run: Path, data: Path, fleet: str, *, timeout_s: float = _START_S) -> ProcessId:
    """The running router of this fleet, or a new one. Returns when its control socket answers.

    One of other code is ended first. `run` and `data` are made where they are missing. Raises RouterError, and
    ForeignFleetError when another fleet's router has this run directory.
    """
    found = find_router(run, fleet)
    if found is not None:
        if not find_newer(str(call(run, "GET", "/report").get("code_version"))):
            return found
        stop_router(run)
    run.mkdir(mode=0o711, parents=True, exist_ok=True)
    (data / "log").mkdir(parents=True, exist_ok=True)
    pid = _spawn(run, data, fleet)
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        found = find_router(run, fleet)
        if found is not None and found.pid == pid:
            return found
        if _is_over(pid):
            raise RouterError(f"starting the router: it ended at once; see {data / 'log' / LOG_FILE}")
        time.sleep(_STEP_S)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _is_over(pid)
    raise RouterError(f"starting the router: its control socket in {run} did not answer")


def find_router(run: Path, fleet: str) -> ProcessId | None:
    """The router that runs there, or None. Raises RouterError when it is alive and does not answer in time."""
    process = read_pid_file(run)
    if process is None or not is_listening(run):
        return None
    answers_for = call(run, "GET", "/report").get("fleet")
    if answers_for != fleet:
        raise ForeignFleetError(f"the router in {run} belongs to fleet {answers_for}, this is {fleet}")
    return process


def stop_router(run: Path, *, timeout_s: float = 10.0) -> None:
    """SIGTERM, and SIGKILL after `timeout_s`; returns when it has ended. None running is fine."""
    process = read_pid_file(run)
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if read_process(process.pid) == process:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                if not _wait_for_end(descriptor, timeout_s):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    _wait_for_end(descriptor, timeout_s)
        finally:
            os.close(descriptor)
    _is_over(process.pid)


def _spawn(run: Path, data: Path, fleet: str) -> int:
    """The pid of a process in a session of its own, with our log file and a few of our variables.

    Secrets that the hub was given in its environment are not among them.
    """
    package = Path(__file__).resolve().parent.parent.parent
    path = os.pathsep.join(p for p in (str(package), os.environ.get("PYTHONPATH", "")) if p)
    argv = [sys.executable, "-P", "-m", "reconciler.router"]
    argv += ["--run", str(run.absolute()), "--data", str(data.absolute()), "--fleet", fleet]
    log = str(data / "log" / LOG_FILE)
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT_ENVIRONMENT)}
    return spawn_detached(sys.executable, argv, {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}, log)


def _is_over(pid: int) -> bool:
    """Whether the process has ended; if it was our child, its zombie is gone then."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return read_process(pid) is None


def _wait_for_end(descriptor: int, timeout_s: float) -> bool:
    readable, _, _ = select.select([descriptor], [], [], timeout_s)
    return bool(readable)
