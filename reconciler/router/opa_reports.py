"""What OPA reports of itself: its decision log, kept as lines of JSON in a file that cannot grow for ever, and status.

Bodies as OPA posts them come in, packed or not; each has a bound before it is unpacked and after.
"""

import asyncio
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

DECISIONS_FILE = "opa-decisions.jsonl"
MAX_PACKED_BYTES = 2 * 2**20
MAX_BYTES = 32 * 2**20
_GZIP = 31
_MAX_FILE_BYTES = 64 * 2**20
_SHOWN_ERRORS = 3


class BadReportError(ValueError):
    """The message says what is wrong with a body."""


class _Bundle(msgspec.Struct):
    active_revision: str = ""
    code: str = ""
    message: str = ""
    errors: Sequence[object] = ()
    http_code: int | str = ""


class _Status(msgspec.Struct):
    bundles: dict[str, _Bundle] = {}


class DecisionFile:
    """Appends lines; a full file takes the place of the one before, which is lost."""

    def __init__(self, path: Path, max_bytes: int = _MAX_FILE_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._turn = asyncio.Lock()

    async def append(self, body: bytes, *, is_packed: bool) -> int:
        """Keep the decisions of one body, durably; returns how many. Raises BadReportError, OSError."""
        async with self._turn:
            return await asyncio.to_thread(self._append, body, is_packed)

    def _append(self, body: bytes, is_packed: bool) -> int:
        text = unpack(body) if is_packed else body
        try:
            rows = msgspec.json.decode(text, type=list[msgspec.Raw])
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadReportError(f"the body is no JSON list: {error}") from error
        # A line break outside of a JSON text is white space.
        lines = b"".join(bytes(row).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n" for row in rows)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if os.fstat(descriptor).st_size + len(lines) > self._max_bytes:
                os.replace(self.path, f"{self.path}.1")
                os.close(descriptor)
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            _write_all(descriptor, lines)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return len(rows)


def unpack(body: bytes) -> bytes:
    """The content of a gzip body. Raises BadReportError where it is none, or too large."""
    unpacking = zlib.decompressobj(wbits=_GZIP)
    try:
        text = unpacking.decompress(body, MAX_BYTES)
    except zlib.error as error:
        raise BadReportError(f"the body is not gzip: {error}") from error
    if unpacking.unconsumed_tail or not unpacking.eof:
        raise BadReportError(f"the body is cut off, or has more than {MAX_BYTES} bytes unpacked")
    return text


def read_bundle_fault(body: bytes, name: str) -> str:
    """Why OPA does not take the bundle of this name, from its status; empty where it does, or could not fetch it.

    Raises BadReportError.
    """
    try:
        status = msgspec.json.decode(body, type=_Status)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadReportError(f"the body is no status: {error}") from error
    bundle = status.bundles.get(name)
    if bundle is None or not bundle.code or bundle.http_code or bundle.message.startswith("request failed"):
        return ""
    errors = "; ".join(_show_error(error) for error in bundle.errors[:_SHOWN_ERRORS])
    return f"{bundle.message or bundle.code}{f': {errors}' if errors else ''}"[:1000]


def _show_error(error: object) -> str:
    """OPA's `{code, message, location: {file, row, col}}`."""
    match error:
        case {"message": str(message), "location": {"file": str(file), "row": int(row), "col": int(column)}}:
            return f"{file}:{row}:{column}: {message}"
        case {"message": str(message)}:
            return message
    return str(error)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
