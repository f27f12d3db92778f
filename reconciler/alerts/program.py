"""Running a program that gets something as its input, and no more than its time.

It runs in `/` with a closed environment, in a session of its own that is killed whole at the end. What it prints is
dropped.
"""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """`status` is how it ended, negative for a signal; where it did not end by itself `fault` says why."""

    status: int = 0
    fault: str = ""


def run_program(argv: Sequence[str], content: bytes, timeout_s: float) -> Ended:
    """Raises nothing."""
    try:
        child = subprocess.Popen(
            list(argv),
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            umask=0o077,
        )
    except OSError as exc:
        return Ended(fault=f"{argv[0]} cannot be run: {exc.strerror}")
    try:
        child.communicate(content, timeout_s)
    except subprocess.TimeoutExpired:
        return Ended(fault=f"{argv[0]} did not end within {timeout_s:g}s")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdin is not None:
            with suppress(OSError):
                child.stdin.close()
    return Ended(status=child.returncode)
