"""A Docker Engine that may be stopped and killed: a dockerd with data, containerd and socket of its own, and no network.

It has nothing in common with the machine's engine but the image, which is copied from there.
"""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.outside.checker import engine, has_engine

START_S = 60.0
STOP_S = 60.0
PROGRAMS = ("dockerd", "docker", "setpriv")
DISKS = ("/var/tmp", "/tmp", "/var/lib", "/root")
"""Overlay file systems cannot lie on every one."""
NO_DISKS = ("tmpfs", "ramfs", "overlay")


class NoOwnEngineError(Exception):
    """Why none can be had here."""


class OwnEngine:
    """Running from the start, with `image`. `ends` is how often it was ended. Raises NoOwnEngineError."""

    def __init__(self, image: str) -> None:
        if why := _why_not():
            raise NoOwnEngineError(why)
        self._folder = Path(_disk()) / f"rc-{secrets.token_hex(4)}"  # also a name in containerd, which has no "_"
        self._folder.mkdir(mode=0o711)
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.socket = self._folder / "sock"
        self.ends = 0
        try:
            self.start()
            self._copy(image)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """A value of DOCKER_HOST."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Returns when it answers; does nothing while it runs. Raises NoOwnEngineError with the end of its log."""
        if self._process is not None:
            return
        for left in ("pid", "sock", "exec/containerd/containerd.pid"):  # a zombie's pid counts as running there
            (self._folder / left).unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                env={k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                said = self._log.read_text(errors="replace").splitlines()[-10:]
                raise NoOwnEngineError("\n".join(["it does not start; the end of its log:", *said]))
            time.sleep(0.05)

    def end(self, number: signal.Signals) -> None:
        """By SIGTERM it ends its containers first; by SIGKILL it leaves them to the one that is started next."""
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self.ends += 1

    def close(self) -> None:
        """End it and everything of it, and remove its files."""
        self.end(signal.SIGTERM)
        for pid in self._left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for place in self._mounts():
            subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _command(self) -> list[str]:
        name, settings = self._folder.name, self._folder / "daemon.json"
        settings.write_text("{}")
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
        return [
            *("setpriv", "--pdeathsig", "TERM", "dockerd", "--host", self.address, "--config-file", str(settings)),
            *(part for option, place in places.items() for part in (f"--{option}", str(self._folder / place))),
            *("--containerd-namespace", name, "--containerd-plugins-namespace", f"{name}-plugins"),
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--live-restore=false"),
            *("--shutdown-timeout", "5"),
        ]

    def _answers(self) -> bool:
        with suppress(OSError, AssertionError):
            engine("GET", "/version", self.address)
            return True
        return False

    def _copy(self, image: str) -> None:
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            load = ["docker", "--host", self.address, "load", "--quiet"]
            done = subprocess.run(load, stdin=saved.stdout, check=False, capture_output=True, text=True)
        if saved.returncode or done.returncode:
            raise NoOwnEngineError(f"{image} cannot be copied into it: {done.stderr.strip()}")

    def _left(self) -> Iterator[int]:
        """Processes on whose command line its folder stands."""
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and bytes(self._folder) + b"/" in (entry / "cmdline").read_bytes():
                    yield int(entry.name)

    def _mounts(self) -> list[str]:
        """The innermost first."""
        places = (line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())
        return sorted((p for p in places if p.startswith(f"{self._folder}/")), reverse=True)


def _why_not() -> str:
    """Empty where it can be tried."""
    if os.geteuid() != 0:
        return "only root can start one"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"not installed: {', '.join(missing)}"
    return "" if has_engine() else "there is none to copy the image from"


def _disk() -> str:
    disks = [*filter(None, [os.environ.get("RECONCILER_CI_DIR")]), *(d for d in DISKS if Path(d).is_dir())]
    return next((disk for disk in disks if not _file_system(disk).startswith(NO_DISKS)), disks[0])


def _file_system(folder: str) -> str:
    return subprocess.run(["stat", "-f", "-c", "%T", folder], check=True, capture_output=True, text=True).stdout
