"""The log: one JSON object per line with time, level, msg, instance and task.

Never payloads, never the token.
"""

from __future__ import annotations

import json
import threading
from datetime import datetime, timezone
from typing import TextIO, Union

Field = Union[str, int, float, None]


class Log:
    """Writes whole lines, from any thread. A closed stream is not a reason to stop working."""

    def __init__(self, *, instance: str, stream: TextIO) -> None:
        self._instance = instance
        self._stream = stream
        self._lock = threading.Lock()

    def info(self, msg: str, *, task: str = "", **fields: Field) -> None:
        self._write("info", msg, task, fields)

    def warning(self, msg: str, *, task: str = "", **fields: Field) -> None:
        self._write("warning", msg, task, fields)

    def error(self, msg: str, *, task: str = "", **fields: Field) -> None:
        self._write("error", msg, task, fields)

    def _write(self, level: str, msg: str, task: str, fields: dict[str, Field]) -> None:
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        row = {
            "time": time,
            "level": level,
            "msg": msg,
            "instance": self._instance,
            "task": task,
            **fields,
        }
        try:
            with self._lock:
                self._stream.write(json.dumps(row) + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            return
