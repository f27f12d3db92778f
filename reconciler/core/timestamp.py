"""Timestamps of RFC 3339, as messages carry them. Pure."""

import re
from datetime import UTC, datetime

_FORM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)


def read_timestamp(text: str) -> float | None:
    """Seconds since the epoch; None for what is no timestamp with a zone."""
    if not _FORM.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError):
        return None


def show_timestamp(wall_s: float) -> str:
    """`2026-11-21T08:15:00.250Z`."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
