"""The hub's side of a shim: start one, end one, and settle what a dead one left.

In: a container's directory and what to start. Out: what goes on there. Effects: processes are
started, signalled and killed. The caller holds the container's lock.
"""

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from reconciler.crashpoint import point
from reconciler.errors import RuntimeRefusedError, RuntimeUnavailableError
from reconciler.runtime import shim
from reconciler.runtime.process_record import Observed, Phase, ShimProcess, observe, write_end
from reconciler.runtime.process_survivors import MARKER, Signs, find_survivors, kill_all

_PATIENCE_S = 2.0
_START_S = 20.0
_SETTLE_S = 10.0
_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """`program` is the shim's code, `path` the container's directory, `launch` the launch file with `token` in it.

    `marker` is the value of `MARKER`.
    """

    program: str
    path: str
    launch: bytes
    token: str
    marker: str


def start_shim(start: Start, boot_id: str) -> None:
    """Start a shim and wait until the program runs.

    Raises RuntimeRefusedError with the reason when it cannot be run, RuntimeUnavailableError when
    the shim does not answer, and OSError.
    """
    deadline = time.monotonic() + _START_S
    shim.write_atomically(f"{start.path}/{shim.LAUNCH}", start.launch)
    point("process.start.written")
    while True:
        reply = _ask_shim(start)
        point("process.start.answered")
        if reply == "ok":
            return
        if reply.startswith("error: "):
            raise RuntimeRefusedError(reply.removeprefix("error: "))
        if reply != "busy" or time.monotonic() > deadline:
            raise RuntimeUnavailableError(f"the shim says {reply[-500:]!r}")
        # A shim that an earlier hub started has only now come to life.
        if await_start(start.path, boot_id).phase == Phase.RUNNING:
            revoke_start(start.path)
            return


def await_start(path: str, boot_id: str) -> Observed:
    """Wait for a shim that is starting to say whether the program runs. Raises OSError."""
    deadline = time.monotonic() + _START_S
    while True:
        seen = observe(path, boot_id)
        if not seen.is_starting or time.monotonic() > deadline:
            return seen
        time.sleep(_PAUSE_S)


def revoke_start(path: str) -> None:
    """A shim that has not read the launch yet will start nothing. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(f"{path}/{shim.LAUNCH}")


def end_shim(process: ShimProcess, grace_s: float) -> None:
    """SIGTERM, after `grace_s` SIGKILL to all. A shim that does not do its work is killed after all else."""
    steps = [(signal.SIGTERM, grace_s), (signal.SIGUSR1, _PATIENCE_S)]
    for number, patience_s in steps if grace_s > 0 else steps[1:]:
        if not shim.send_signal(process.pid, process.start, number) or _await_end(process, patience_s):
            return
    kill_all(lambda: _find_below(process), _PATIENCE_S)
    shim.send_signal(process.pid, process.start, signal.SIGKILL)
    _await_end(process, _PATIENCE_S)


def settle(path: str, boot_id: str, signs: Signs) -> Observed:
    """What goes on, after killing what a lost shim left and writing down that the run has ended.

    Raises RuntimeUnavailableError when something of it cannot be killed, and OSError.
    """
    seen = observe(path, boot_id)
    if seen.phase != Phase.LOST:
        return seen
    if not kill_all(lambda: find_survivors(signs), _SETTLE_S):
        raise RuntimeUnavailableError("its shim is dead, and what that left cannot be killed")
    write_end(path, seen)
    root, name = os.path.split(path)
    shim.append_event(f"{root}/{shim.JOURNAL}", name, "die")
    return observe(path, boot_id)


def _ask_shim(start: Start) -> str:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", start.program, start.path, start.token],
        env={MARKER: start.marker},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        point("process.start.spawned")
        try:
            return process.communicate(timeout=_START_S)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            process.kill()
            return "nothing"


def _find_below(process: ShimProcess) -> list[shim.Process]:
    now = shim.read_process(process.pid)
    return shim.find_descendants({process.pid}) if now and now.start == process.start else []


def _await_end(process: ShimProcess, patience_s: float) -> bool:
    """Whether it has ended, at the latest after `patience_s`."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        now = shim.read_process(process.pid)
        if now is None or now.start != process.start:
            return True
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        return bool(poller.poll(patience_s * 1000))
    finally:
        os.close(handle)
