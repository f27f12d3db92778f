"""Versions and ranges of versions as npm writes them, for following the newest tag within a range. Pure.

`>=1.2 <2`, `^1.4`, `~1.4.2`, `1.x`, `*`; alternatives are parted by `||`. A version before its release (`1.0.0-rc.1`)
is taken only where a bound of its own major, minor and patch names one. https://semver.org, §11.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import total_ordering

_VERSION = re.compile(
    r"v?(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})(?:-([0-9A-Za-z.-]{1,100}))?(?:\+[0-9A-Za-z.-]{1,100})?"
)
_BOUND = re.compile(
    r"(?P<sign>>=|<=|>|<|=|\^|~)?v?(?P<major>[0-9]{1,9}|[xX*])(?:\.(?P<minor>[0-9]{1,9}|[xX*]))?"
    r"(?:\.(?P<patch>[0-9]{1,9}|[xX*]))?(?:-(?P<pre>[0-9A-Za-z.-]{1,100}))?"
)
_LONGEST = 200


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """Ordered as §11 says; build metadata is left out."""

    numbers: tuple[int, int, int]
    pre: tuple[str, ...] = ()

    def __lt__(self, other: "Version") -> bool:
        return self._key() < other._key()

    def _key(self) -> tuple[object, ...]:
        parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in self.pre)
        return (self.numbers, not self.pre, parts)


@dataclass(frozen=True, slots=True)
class Range:
    """Any of the alternatives; each is bounds that all hold."""

    alternatives: tuple[tuple[tuple[str, Version], ...], ...]

    def holds(self, version: Version) -> bool:
        """Whether a version lies within."""
        return any(_all_hold(bounds, version) for bounds in self.alternatives)


def parse_version(text: str) -> Version | None:
    """`v1.2.3` or `1.2.3`, else None."""
    found = _VERSION.fullmatch(text)
    if found is None:
        return None
    pre = tuple(found[4].split(".")) if found[4] else ()
    return Version((int(found[1]), int(found[2]), int(found[3])), pre)


def parse_range(text: str) -> Range:
    """Raises ValueError that says what to write."""
    alternatives = [_parse_bounds(part, text) for part in text.split("||")] if len(text) <= _LONGEST else []
    if not alternatives:
        raise ValueError(f"is longer than {_LONGEST} characters; write a range such as '>=1.2 <2' or '^1.4'")
    return Range(tuple(alternatives))


def newest_within(wanted: Range, names: Iterable[str]) -> str | None:
    """The name of the newest version within the range; of two names of one version the one without `v`."""
    found = [(v, n) for n in names if (v := parse_version(n)) is not None and wanted.holds(v)]
    return max(found, key=lambda pair: (pair[0], not pair[1].startswith("v"), pair[1]))[1] if found else None


def _parse_bounds(part: str, text: str) -> tuple[tuple[str, Version], ...]:
    out: list[tuple[str, Version]] = []
    words = re.sub(r"(>=|<=|>|<|=|\^|~)\s+", r"\1", part).split()
    for word in words:
        found = _BOUND.fullmatch(word)
        if found is None:
            raise ValueError(f"is {text!r}, which is no range of versions; write one such as '>=1.2 <2' or '^1.4'")
        out.extend(_bounds_of(found))
    if not words:
        raise ValueError("has an empty range; write '*' for every version")
    return tuple(out)


def _bounds_of(found: "re.Match[str]") -> Sequence[tuple[str, Version]]:
    given = [int(n) for n in (found["major"], found["minor"], found["patch"]) if n is not None and n.isdigit()]
    lowest = Version((*given, *([0] * (3 - len(given)))), tuple(found["pre"].split(".")) if found["pre"] else ())  # type: ignore[arg-type]
    sign = found["sign"] or "="
    if not given:
        return [(">=", lowest)]
    match sign:
        case "^":
            fixed = next((i for i, n in enumerate(given) if n), len(given) - 1)
            return [(">=", lowest), ("<", _after(lowest, fixed))]
        case "~":
            return [(">=", lowest), ("<", _after(lowest, min(1, len(given) - 1)))]
        case "=" if len(given) < 3:
            return [(">=", lowest), ("<", _after(lowest, len(given) - 1))]
        case ">" | "<=" if len(given) < 3:
            return [(">=" if sign == ">" else "<", _after(lowest, len(given) - 1))]
        case _:
            return [(sign, lowest)]


def _after(version: Version, place: int) -> Version:
    """The first version in which the number at `place` is one higher."""
    numbers = list(version.numbers)
    numbers[place:] = [numbers[place] + 1, *([0] * (2 - place))]
    return Version((numbers[0], numbers[1], numbers[2]))


def _all_hold(bounds: Sequence[tuple[str, Version]], version: Version) -> bool:
    if version.pre and not any(b.pre and b.numbers == version.numbers for _, b in bounds):
        return False
    return all(_holds(sign, bound, version) for sign, bound in bounds)


def _holds(sign: str, bound: Version, version: Version) -> bool:
    match sign:
        case ">=":
            return version >= bound
        case "<=":
            return version <= bound
        case ">":
            return version > bound
        case "<":
            return version < bound
        case _:
            return version == bound
