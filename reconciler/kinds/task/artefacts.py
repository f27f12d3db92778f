"""Artefacts as files that are named by their own digest: kept durably, read with the digest proved."""

import hashlib
import os
from pathlib import Path

from reconciler.errors import StoreError

_FOLDER = "artefacts"


def keep_artefact(state: Path, digest: str, content: bytes) -> None:
    """Durable before this returns; a repeat finds it there. Raises StoreError."""
    folder = state / _FOLDER
    target = folder / digest[:2] / digest
    if target.exists():
        return
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.parent.mkdir(exist_ok=True)
        temporary = target.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
        for changed in (target.parent, folder):
            _sync_folder(changed)
    except OSError as exc:
        raise StoreError(f"keeping artefacts in {folder} failed: {exc.strerror}") from exc


def read_artefact(state: Path, digest: str) -> bytes | None:
    """The content; None where it is gone. Raises StoreError where it cannot be read, or is not what was kept."""
    path = state / _FOLDER / digest[:2] / digest
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise StoreError(f"reading {path} failed: {exc.strerror}") from exc
    if hashlib.sha256(content).hexdigest() != digest:
        raise StoreError(f"{path} is not what was kept: its content has another digest; restore it from a backup")
    return content


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
