"""Servers of the hub's own that outlive it: started, found again, asked over their control socket, and ended.

Each has a session of its own. The next hub finds it by its pid file and adopts it: it is ours when pid and start time
are those of the file, and its control socket answers for our fleet. Standard library only: the servers use it too.
"""

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.errors import ForeignFleetError, ReconcilerError
from reconciler.runtime.detached import spawn_detached
from reconciler.runtime.pid import ProcessId, read_process

CALL_TIMEOUT_S = 10.0
_START_S = 15.0
_STEP_S = 0.01
_KEPT_ENVIRONMENT = (
    *("PATH", "HOME", "LANG", "LC_", "LD_", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHON", "RECONCILER_CRASH"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server of a fleet, running or not. `run` is on tmpfs; what it prints goes to `data`/log/<name>.log.

    Started as `python -m <module> --run RUN --data DATA --fleet FLEET`. Where it cannot be asked or started `error` is
    raised, and `refusal` with its reason where it says no.
    """

    name: str
    module: str
    run: Path
    data: Path
    fleet: str
    error: type[ReconcilerError]
    refusal: type[ReconcilerError]

    @property
    def control_socket(self) -> Path:
        return control_socket(self.run, self.name)

    @property
    def log(self) -> Path:
        return self.data / "log" / f"{self.name}.log"

    def start(self, *, timeout_s: float = _START_S) -> ProcessId:
        """The one that runs, or a new one; returns when it answers. Raises also ForeignFleetError."""
        found = self.find()
        if found is not None:
            return found
        self.run.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        pid = self._spawn()
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            found = self.find()
            if found is not None and found.pid == pid:
                return found
            if _is_over(pid):
                raise self.error(f"starting the {self.name} process: it ended at once; see {self.log}")
            time.sleep(_STEP_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _is_over(pid)
        raise self.error(f"starting the {self.name} process: {self.control_socket} did not answer")

    def find(self) -> ProcessId | None:
        """The one that runs, or None. Raises also ForeignFleetError."""
        process = read_pid_file(self.run, self.name)
        if process is None or not self.is_listening():
            return None
        answers_for = self.call("GET", "/report").get("fleet")
        if answers_for != self.fleet:
            raise ForeignFleetError(
                f"the {self.name} process in {self.run} belongs to fleet {answers_for}, this is {self.fleet}"
            )
        return process

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """SIGTERM, and SIGKILL after `timeout_s`; returns when it has ended. None running is fine.

        Raises ForeignFleetError; by its command line, because one that stands still does not say whose it is.
        """
        process = read_pid_file(self.run, self.name)
        if process is None:
            return
        if f"\0--fleet\0{self.fleet}\0" not in _read_command_line(process.pid):
            raise ForeignFleetError(f"the {self.name} process in {self.run} is not that of fleet {self.fleet}")
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

    def is_listening(self) -> bool:
        """Whether somebody takes connections on the control socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(CALL_TIMEOUT_S)
            try:
                probe.connect(str(self.control_socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except OSError as error:
                raise self.error(f"looking for the {self.name} process in {self.run}") from error
        return True

    def call(
        self, method: str, path: str, body: object = None, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> Mapping[str, Any]:
        """What it answers to one call on its control socket: JSON in, a JSON object out."""
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        what = f"{method} {path.partition('?')[0]} of the {self.name} process in {self.run}"
        with self._connect(timeout_s, what) as connection:
            try:
                connection.request(method, path, body=content)
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise self.error(f"{what} failed") from error
        if not isinstance(answer, dict):
            raise self.error(f"{what}: the answer is no object")
        if response.status >= 400:
            kind = self.error if response.status >= 500 else self.refusal
            raise kind(f"{what}: {answer.get('reason', response.reason)}")
        return answer

    @contextlib.contextmanager
    def _connect(self, timeout_s: float, what: str) -> Iterator[http.client.HTTPConnection]:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.settimeout(timeout_s)
        connection = http.client.HTTPConnection(self.name)
        connection.sock = link
        try:
            try:
                link.connect(os.fspath(self.control_socket))
            except OSError as error:
                raise self.error(f"{what} failed: it does not answer") from error
            yield connection
        finally:
            connection.close()
            link.close()

    def _spawn(self) -> int:
        """The pid of a process in a session of its own, with a few of our variables; no secrets are among them."""
        package = Path(__file__).resolve().parent.parent.parent
        path = os.pathsep.join(p for p in (str(package), os.environ.get("PYTHONPATH", "")) if p)
        argv = [sys.executable, "-P", "-m", self.module]
        argv += ["--run", str(self.run.absolute()), "--data", str(self.data.absolute()), "--fleet", self.fleet]
        kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT_ENVIRONMENT)}
        environment = {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        return spawn_detached(sys.executable, argv, environment, str(self.log))


def control_socket(run: Path, name: str) -> Path:
    """Where the server of that name takes calls of the hub."""
    return run / f"{name}.sock"


def pid_file(run: Path, name: str) -> Path:
    """Which process it is, by pid and start time, since a pid alone may be another's by now."""
    return run / f"{name}.pid"


def write_pid_file(run: Path, name: str, pid: int) -> None:
    """By atomic rename. Raises OSError."""
    process = read_process(pid)
    file = pid_file(run, name)
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(f"{pid} {process.start_ticks if process else 0}\n", encoding="ascii")
    temporary.replace(file)


def read_pid_file(run: Path, name: str) -> ProcessId | None:
    """The process that the file names, if it is alive and the same one; else None."""
    with contextlib.suppress(OSError, ValueError):
        pid, start_ticks = (int(word) for word in pid_file(run, name).read_text(encoding="ascii").split())
        process = read_process(pid)
        if process is not None and process.start_ticks == start_ticks:
            return process
    return None


def _is_over(pid: int) -> bool:
    """Whether the process has ended; if it was our child, its zombie is gone then."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return read_process(pid) is None


def _read_command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    return ""


def _wait_for_end(descriptor: int, timeout_s: float) -> bool:
    readable, _, _ = select.select([descriptor], [], [], timeout_s)
    return bool(readable)
