"""Durations, sizes and rates as people write them: `200ms 10s 5m 8h 7d`, `512KiB 256MiB 1GiB`, `60/min`.

Text comes in, numbers in base units (seconds, bytes, per second) go out; `Duration`, `Size` and `Rate` are the types
that pydantic models use for such fields.
"""

import re
from collections.abc import Callable
from typing import Annotated, Final, TypeVar

from pydantic import BeforeValidator, ValidationInfo, WithJsonSchema

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
MAX_DURATION_S = 3650 * 86400.0
_THOUSANDS = {"k": 10**3, "M": 10**6}
_PER = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "hour": 3600.0}
_NUMBER_UNIT = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)[ ]?([A-Za-z]+)")


def parse_duration_s(text: object) -> float:
    """`'5m'` -> 300.0 seconds. Raises ValueError with an example."""
    if isinstance(text, str) and (m := _NUMBER_UNIT.fullmatch(text)) and m[2] in _SECONDS:
        if (seconds := float(m[1]) * _SECONDS[m[2]]) > MAX_DURATION_S:
            raise ValueError(f"{text} is longer than {show_duration(MAX_DURATION_S)}; use a shorter duration")
        return round(seconds, 6)
    raise ValueError(f"{text!r} is not a duration; write a number and one of ms, s, m, h, d (for example '30s')")


def parse_size_bytes(text: object) -> int:
    """`'512MiB'` -> 536870912 bytes. Raises ValueError with an example."""
    if isinstance(text, str) and (m := _NUMBER_UNIT.fullmatch(text)) and m[2] in _BYTES:
        return int(float(m[1]) * _BYTES[m[2]])
    raise ValueError(f"{text!r} is not a size; write a number and one of B, KiB, MiB, GiB (for example '512MiB')")


def parse_count_rate(text: object) -> float:
    """`'60/min'` -> 1.0 per second. Raises ValueError with an example."""
    if isinstance(text, str):
        amount, slash, per = text.partition("/")
        if slash and per in _PER and re.fullmatch(r"[0-9]{1,12}", amount):
            return int(amount) / _PER[per]
    raise ValueError(f"{text!r} is not a rate; write a number per s, min or h (for example '60/min')")


def parse_byte_rate(text: object) -> float:
    """`'60MiB/min'` -> 1048576.0 bytes per second. Raises ValueError with an example."""
    if isinstance(text, str):
        amount, slash, per = text.partition("/")
        if slash and per in _PER:
            return parse_size_bytes(amount) / _PER[per]
    raise ValueError(f"{text!r} is not a byte rate; write a size per s, min or h (for example '10MiB/min')")


def parse_count(text: object) -> int:
    """`'32k'` -> 32000, and whole numbers as they are. Raises ValueError with an example."""
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text < 10**12:
        return text
    if isinstance(text, str) and (m := _NUMBER_UNIT.fullmatch(text)) and m[2] in _THOUSANDS:
        return round(float(m[1]) * _THOUSANDS[m[2]])
    raise ValueError(f"{text!r} is not a count; write a whole number, or one with k or M (for example '32k')")


N = TypeVar("N", int, float)

NORMALISED: Final = {"normalised": True}
"""Validation context for what `Model.written` gave: quantities are numbers in base units already."""


def _or_number(parse: Callable[[object], N]) -> Callable[[object, ValidationInfo], N]:
    def validate(value: object, info: ValidationInfo) -> N:
        if info.context == NORMALISED and isinstance(value, int | float):
            return value  # type: ignore[return-value]
        return parse(value)

    return validate


def _schema(unit: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": rf"^\d+(\.\d+)? ?{unit}$", "examples": [example]})


Duration = Annotated[float, BeforeValidator(_or_number(parse_duration_s)), _schema("(ms|s|m|h|d)", "30s")]
Size = Annotated[int, BeforeValidator(_or_number(parse_size_bytes)), _schema("(B|KiB|MiB|GiB|TiB)", "512MiB")]
Rate = Annotated[float, BeforeValidator(_or_number(parse_count_rate)), _schema("/(s|sec|min|h|hour)", "60/min")]
Count = Annotated[
    int,
    BeforeValidator(_or_number(parse_count)),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)? ?(k|M)$"}]}
    ),
]
ByteRate = Annotated[
    float,
    BeforeValidator(_or_number(parse_byte_rate)),
    _schema("(B|KiB|MiB|GiB|TiB)/(s|sec|min|h|hour)", "10MiB/min"),
]


def show_duration(seconds: float) -> str:
    """300 -> `5m`; 0.25 -> `250ms`; the largest unit that divides it, else rounded seconds."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    for unit in ("d", "h", "m"):
        if seconds % _SECONDS[unit] == 0:
            return f"{int(seconds / _SECONDS[unit])}{unit}"
    return f"{seconds:g}s" if seconds < 10 else f"{round(seconds)}s"


def show_size(size_bytes: int) -> str:
    """536870912 -> `512MiB`."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _BYTES[unit] == 0:
            return f"{size_bytes // _BYTES[unit]}{unit}"
    return f"{size_bytes}B"
