"""The log of every process of the hub: one JSON object a line, of one schema. Standard library only.

`time` (UTC, milliseconds), `level`, `msg`, `process` and `logger` are on each line; the fields of `ABOUT` where they
are known, given as `extra` to the loggers of Python. Payloads, tokens and secrets never are.
"""

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

ABOUT = ("fleet", "agent", "instance", "task", "run", "revision", "trace", "action", "outcome", "condition")
_NOISY = {"uvicorn.error": logging.CRITICAL, "asyncio": logging.WARNING}


class JsonLines(logging.Formatter):
    """`process` is `hub`, `router` or `egress`; `about` is on each line."""

    def __init__(self, process: str, **about: str) -> None:
        super().__init__()
        self._process, self._about = process, about

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever is in the message."""
        found = {name: getattr(record, name, None) or self._about.get(name) for name in ABOUT}
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "process": self._process,
            "logger": record.name,
            **{name: str(value) for name, value in found.items() if value},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_as_json(stream: TextIO, process: str, **about: str) -> None:
    """From now on everything of level INFO and above goes to `stream`. uvicorn's talk about bad requests does not."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines(process, **about))
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for name, level in _NOISY.items():
        logging.getLogger(name).setLevel(level)
