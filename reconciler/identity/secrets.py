"""Where the values of secrets come from: files, the hub's environment, or a program of the operator's.

A name comes in, a `Reading` of the value goes out, its bytes unchanged. What a program printed besides is dropped and
never quoted: it might be the value.
"""

import os
import select
import signal
import subprocess
import time
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.core.secret import MAX_SECRET_BYTES, SecretValue
from reconciler.ports import SecretProvider
from reconciler.settings import OperatorSecrets

DEFAULT_PREFIX = "RECONCILER_SECRET_"
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_TOO_LARGE = Unavailable(reason=f"it is larger than {MAX_SECRET_BYTES // 1024} KiB")


def open_provider(settings: OperatorSecrets, environ: MutableMapping[str, str]) -> SecretProvider:
    """The provider that the operator chose. With `env` its variables are taken out of `environ`."""
    match settings.provider:
        case "env":
            return EnvSecrets(environ, settings.path or DEFAULT_PREFIX)
        case "command" if settings.path is not None:
            return CommandSecrets(settings.path, settings.timeout)
        case "file" if settings.path is not None:
            return FileSecrets(Path(settings.path))
        case _:
            return NoSecrets()


class NoSecrets:
    """For an operator who named no place."""

    def read(self, name: str) -> Reading[SecretValue]:
        return Unavailable(reason=f"the operator names no place for {name} (operator.yaml: secrets.path)")


@dataclass(frozen=True, slots=True)
class FileSecrets:
    """One file for each secret in one directory."""

    folder: Path

    def read(self, name: str) -> Reading[SecretValue]:
        try:
            # A pipe without a writer must not hold us, and what is no file has no end.
            descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return Absent() if self.folder.is_dir() else Unavailable(reason=f"{self.folder} is not there")
        except OSError as exc:
            return Unavailable(reason=f"{self.folder / name}: {exc.strerror}")
        try:
            with os.fdopen(descriptor, "rb") as file:
                return _checked(file.read(MAX_SECRET_BYTES + 1) or b"")
        except OSError as exc:
            return Unavailable(reason=f"{self.folder / name}: {exc.strerror}")


class EnvSecrets:
    """Variables of the hub's own environment; `docs-deploy-key` is `<prefix>DOCS_DEPLOY_KEY`."""

    def __init__(self, environ: MutableMapping[str, str], prefix: str) -> None:
        """Takes the variables out of `environ`, so that no child inherits them."""
        names = [name for name in environ if name.startswith(prefix)]
        self._values = {name: SecretValue(os.fsencode(environ.pop(name))) for name in names}
        self._prefix = prefix

    def read(self, name: str) -> Reading[SecretValue]:
        value = self._values.get(f"{self._prefix}{name.upper().replace('-', '_')}")
        return _checked(value.content) if value is not None else Absent()


@dataclass(frozen=True, slots=True)
class CommandSecrets:
    """A program that gets the name as its only argument and prints the value; nothing printed means there is none.

    It runs in `/` with a closed environment and without input, in a session of its own that is killed whole when the
    time is over. Any exit status but 0 means that it could not say.
    """

    program: str
    timeout_s: float

    def read(self, name: str) -> Reading[SecretValue]:
        try:
            child = subprocess.Popen(
                [self.program, name],
                cwd="/",
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                umask=0o077,
                bufsize=0,
            )
        except OSError as exc:
            return Unavailable(reason=f"{self.program} cannot be run: {exc.strerror}")
        try:
            return self._result(child, time.monotonic() + self.timeout_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if child.stdout is not None:
                child.stdout.close()

    def _result(self, child: "subprocess.Popen[bytes]", deadline: float) -> Reading[SecretValue]:
        content = _read_until(child, deadline)
        if content is None:
            return Unavailable(reason=f"{self.program} gave no answer within {self.timeout_s:g}s")
        if len(content) > MAX_SECRET_BYTES:
            return _TOO_LARGE
        try:
            status = child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return Unavailable(reason=f"{self.program} did not end within {self.timeout_s:g}s")
        return _checked(content) if status == 0 else Unavailable(reason=f"{self.program} ended with status {status}")


def _read_until(child: "subprocess.Popen[bytes]", deadline: float) -> bytes | None:
    """All that it prints, or one byte more than is allowed; None when the time is over."""
    out = child.stdout
    content = bytearray()
    while out is not None and len(content) <= MAX_SECRET_BYTES:
        if not select.select([out], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        piece = out.read(MAX_SECRET_BYTES + 1 - len(content))
        if not piece:
            break
        content += piece
    return bytes(content)


def _checked(content: bytes) -> Reading[SecretValue]:
    if len(content) > MAX_SECRET_BYTES:
        return _TOO_LARGE
    return Ok(SecretValue(content)) if content else Absent()
