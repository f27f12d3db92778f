"""How much of the policies their tests reach, in what the engine that ran them can tell. Pure.

embedded   rules: a definition counts where its body held, and its value was made, in at least one evaluation
opa        lines, as `opa test --coverage` counts them
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reconciler.policy.marks import Definition, Marked

Unit = Literal["rules", "lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Lines that no test reaches, the last one included; `name` of the rule where it is known."""

    line: int
    last_line: int
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCoverage:
    """`covered` of `total` rules or lines; `gaps` are the others."""

    file: str
    covered: int
    total: int
    gaps: tuple[Gap, ...] = ()

    @property
    def percent(self) -> float:
        return _percent(self.covered, self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """`unmeasured` evaluations told nothing, so that more may be covered; nor do `uncounted` rules."""

    engine: Literal["embedded", "opa"]
    unit: Unit
    files: tuple[FileCoverage, ...]
    unmeasured: int = 0
    uncounted: int = 0

    @property
    def percent(self) -> float:
        """Of all files together; 100 where there is nothing to cover."""
        return _percent(sum(f.covered for f in self.files), sum(f.total for f in self.files))


def count_marks(marked: Marked, marks: frozenset[int], unmeasured: int) -> Coverage:
    """What was reached of the definitions, by their index."""
    by_file: dict[str, list[tuple[bool, Definition]]] = {}
    for number, definition in enumerate(marked.definitions):
        by_file.setdefault(definition.file, []).append((number in marks, definition))
    files = [
        FileCoverage(
            file=file,
            covered=sum(is_reached for is_reached, _ in found),
            total=len(found),
            gaps=tuple(
                Gap(line=d.line, last_line=d.last_line, name=d.name) for is_reached, d in found if not is_reached
            ),
        )
        for file, found in sorted(by_file.items())
    ]
    return Coverage(
        engine="embedded", unit="rules", files=tuple(files), unmeasured=unmeasured, uncounted=marked.unmarked
    )


def read_opa_report(report: Mapping[str, Any], paths: Mapping[str, str]) -> Coverage:
    """The JSON of `opa test --coverage`. `paths` are the files to tell of, by the names that OPA has for them."""
    files = [
        FileCoverage(
            file=path,
            covered=int(found.get("covered_lines", 0)),
            total=int(found.get("covered_lines", 0)) + int(found.get("not_covered_lines", 0)),
            gaps=tuple(_join(_read_ranges(found.get("not_covered", ())))),
        )
        for name, path in sorted(paths.items(), key=lambda item: item[1])
        for found in [report.get("files", {}).get(name, {})]
    ]
    return Coverage(engine="opa", unit="lines", files=tuple(files))


def _read_ranges(ranges: Sequence[Mapping[str, Any]]) -> list[Gap]:
    return [Gap(line=int(r["start"]["row"]), last_line=int(r["end"]["row"])) for r in ranges]


def _join(gaps: Sequence[Gap]) -> list[Gap]:
    """Ranges that overlap or follow one another become one."""
    joined: list[Gap] = []
    for gap in sorted(gaps, key=lambda gap: gap.line):
        if joined and gap.line <= joined[-1].last_line + 1:
            joined[-1] = Gap(line=joined[-1].line, last_line=max(joined[-1].last_line, gap.last_line))
        else:
            joined.append(gap)
    return joined


def _percent(covered: int, total: int) -> float:
    return 100.0 * covered / total if total else 100.0
