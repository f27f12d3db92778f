"""The OPA that the hub runs itself: one server per fleet, on a unix socket that only the hub's user can reach.

It has a session of its own and outlives whoever started it; the next hub finds it by its pid file. A server that a hub
started and did not live to note is found by its command line, and ended before another one takes its socket.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import PolicyEngineError
from reconciler.policy.opa_config import CONFIG_FILE, FOLDER, OPA_SOCKET
from reconciler.runtime.detached import spawn_detached
from reconciler.runtime.shim import read_bytes, read_process, read_processes, send_signal, write_atomically

PROGRAM_VARIABLE = "RECONCILER_OPA"
PID_FILE = f"{FOLDER}/opa.pid"
LOG_FILE = "log/opa.log"

NO_PROGRAM = (
    "there is no program opa to run: install OPA, or name it in operator.yaml (policy.opaBinary) or $RECONCILER_OPA"
)

_START_S = 15.0
_STOP_S = 5.0
_STEP_S = 0.01
_LOGGED_BYTES = 2000
_VERSION = re.compile(rb"^Version: (\d+)\.(\d+)", re.MULTILINE)
_OLDEST = (1, 0)
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "GOMEMLIMIT": "512MiB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaProcess:
    """`start` is in clock ticks since boot, unique with `pid`; `digest` says with what it was started."""

    pid: int
    start: int
    digest: str


def find_program(named: str | None) -> str | None:
    """The program: the one that the operator names, else $RECONCILER_OPA, else `opa` on the PATH; None without."""
    chosen = named or os.environ.get(PROGRAM_VARIABLE) or "opa"
    found = shutil.which(chosen)
    return os.path.abspath(found) if found else None


def read_version(program: str) -> tuple[int, int] | None:
    """Major and minor version; None where the program does not say one."""
    try:
        said = subprocess.run([program, "version"], capture_output=True, timeout=_START_S, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(said)
    return (int(found[1]), int(found[2])) if found else None


def find_opa(run: Path) -> OpaProcess | None:
    """The running server, or None."""
    with contextlib.suppress(OSError, ValueError):
        pid, start, digest = read_bytes(str(run / PID_FILE)).decode("ascii").split()
        process = read_process(int(pid))
        if process is not None and process.start == int(start) and not _is_over(process.pid):
            return OpaProcess(pid=process.pid, start=process.start, digest=digest)
    return None


def digest_start(data: Path, program: str) -> str:
    """What a server would be started with now; empty while the router has not written its configuration yet."""
    try:
        config = read_bytes(str(data / FOLDER / CONFIG_FILE))
        stat = os.stat(program)
    except OSError:
        return ""
    said = repr((program, stat.st_size, stat.st_mtime_ns, _arguments(Path("run"), Path("data"))))
    return hashlib.sha256(config + said.encode()).hexdigest()[:32]


def start_opa(run: Path, data: Path, program: str) -> OpaProcess:
    """A new server, in place of what runs; returns when it listens. Raises PolicyEngineError."""
    digest = digest_start(data, program)
    version = read_version(program)
    if not digest or version is None or version < _OLDEST:
        shown = "has no version" if version is None else f"is version {version[0]}.{version[1]}"
        why = "the router has not said yet where it listens" if not digest else f"{program} {shown}; 1.0 is needed"
        raise PolicyEngineError(f"starting opa: {why}")
    stop_opa(run)
    (run / FOLDER).mkdir(mode=0o700, exist_ok=True)
    (run / FOLDER).chmod(0o700)
    (data / LOG_FILE).parent.mkdir(exist_ok=True)
    pid = _spawn(program, _arguments(run, data), str(data / LOG_FILE))
    process = read_process(pid)
    started = OpaProcess(pid=pid, start=process.start if process else 0, digest=digest)
    write_atomically(str(run / PID_FILE), f"{pid} {started.start} {digest}\n".encode())
    until = time.monotonic() + _START_S
    while not _is_listening(run):
        if _is_over(pid) or time.monotonic() > until:
            stop_opa(run)
            raise PolicyEngineError(f"starting opa: it ended at once or does not listen: {_read_end(data / LOG_FILE)}")
        time.sleep(_STEP_S)
    return started


def stop_opa(run: Path) -> None:
    """End the server, and any other one on its socket; none running is fine. Raises PolicyEngineError."""
    for pid, start in {*_noted(run), *_strays(run)}:
        with contextlib.suppress(PermissionError):
            send_signal(pid, start, signal.SIGTERM)
        if not _wait_for_end(pid, start):
            send_signal(pid, start, signal.SIGKILL)
            if not _wait_for_end(pid, start):
                raise PolicyEngineError(f"ending opa: process {pid} does not end")
    for name in (PID_FILE, OPA_SOCKET):
        (run / name).unlink(missing_ok=True)


def _noted(run: Path) -> Iterator[tuple[int, int]]:
    found = find_opa(run)
    if found is not None:
        yield found.pid, found.start


def _strays(run: Path) -> Iterator[tuple[int, int]]:
    """Processes whose command line says that they are servers of ours on this socket."""
    sign = f"\0--addr\0unix://{(run / OPA_SOCKET).absolute()}\0".encode()
    for process in read_processes():
        with contextlib.suppress(OSError):
            if sign in read_bytes(f"/proc/{process.pid}/cmdline") and not process.ended:
                yield process.pid, process.start


def _arguments(run: Path, data: Path) -> Sequence[str]:
    return (
        "run",
        "--server",
        *("--addr", f"unix://{(run / OPA_SOCKET).absolute()}"),
        *("--unix-socket-perm", "600"),
        *("--config-file", str((data / FOLDER / CONFIG_FILE).absolute())),
        *("--log-level", "error"),
        *("--shutdown-grace-period", "2"),
        "--skip-version-check",
    )


def _spawn(program: str, arguments: Sequence[str], log: str) -> int:
    """The pid of a process in a session of its own, which keeps no directory busy and gets none of our variables."""
    argv = ["sh", "-c", 'cd / && exec "$0" "$@"', program, *arguments]
    return spawn_detached("/bin/sh", argv, _ENVIRONMENT, log)


def _is_listening(run: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        return link.connect_ex(str(run / OPA_SOCKET)) == 0


def _is_over(pid: int) -> bool:
    """Whether the process has ended; if it was our child, its zombie is gone then."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    process = read_process(pid)
    return process is None or process.ended


def _wait_for_end(pid: int, start: int) -> bool:
    until = time.monotonic() + _STOP_S
    while True:
        process = read_process(pid)
        if process is None or process.start != start or _is_over(pid):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(_STEP_S)


def _read_end(log: Path) -> str:
    """The last words of a log, on one line."""
    try:
        return " ".join(log.read_text(encoding="utf-8", errors="replace")[-_LOGGED_BYTES:].split()) or "no word of it"
    except OSError:
        return "it has no log"
