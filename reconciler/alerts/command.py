"""The sink `command`: a program of the operator's gets the notice as its input; status 0 means that it arrived.

It runs in `/` with a closed environment, in a session of its own that is killed whole at the end. What it prints is
dropped.
"""

import os
import signal
import subprocess
from contextlib import suppress

from reconciler.alerts.sink import Sent
from reconciler.settings import SinkCommand

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


class CommandSink:
    """Starts one program for each notice."""

    def __init__(self, command: SinkCommand, timeout_s: float) -> None:
        self._argv, self._timeout_s = list(command.argv), timeout_s

    def send(self, document: bytes) -> Sent:
        try:
            child = subprocess.Popen(
                self._argv,
                cwd="/",
                env=_ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                umask=0o077,
            )
        except OSError as exc:
            return Sent(fault=f"{self._argv[0]} cannot be run: {exc.strerror}")
        try:
            child.communicate(document, self._timeout_s)
        except subprocess.TimeoutExpired:
            return Sent(fault=f"{self._argv[0]} did not end within {self._timeout_s:g}s")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if child.stdin is not None:
                with suppress(OSError):
                    child.stdin.close()
        if child.returncode:
            return Sent(fault=f"{self._argv[0]} ended with status {child.returncode}")
        return Sent()
