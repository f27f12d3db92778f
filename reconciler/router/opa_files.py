"""The files that let OPA find the router and prove who it is: made once, read again by the next router."""

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from reconciler.policy.opa_config import CONFIG_FILE, FOLDER, render_config


@dataclass(frozen=True, slots=True, kw_only=True)
class OpaFiles:
    """`folder` holds them. `token` is what OPA must show, `key` what the bundle is signed with; both are secrets."""

    folder: Path
    token: str
    key: str

    def read_port(self) -> int:
        """The port that the last router had; 0 where there is none."""
        with contextlib.suppress(OSError, ValueError):
            port = int((self.folder / "port").read_text(encoding="ascii"))
            return port if 0 < port < 2**16 else 0
        return 0

    def write_config(self, port: int) -> None:
        """Keep the port, and write what OPA is to be started with. Raises OSError."""
        _write(self.folder / "port", f"{port}\n")
        text = render_config(port=port, token_path=str(self.folder / "token"), key=self.key)
        _write(self.folder / CONFIG_FILE, text)


def open_opa_files(data: Path) -> OpaFiles:
    """The files of a data directory, made where they are missing. Raises OSError."""
    folder = data.absolute() / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    return OpaFiles(folder=folder, token=_secret(folder / "token"), key=_secret(folder / "key"))


def _secret(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        found = path.read_text(encoding="ascii").strip()
        if found:
            return found
    made = secrets.token_hex(32)
    _write(path, made)
    return made


def _write(path: Path, text: str) -> None:
    """By atomic rename, for our eyes only; what is the same already is left alone."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text:
            return
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
