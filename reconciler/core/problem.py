"""A problem in a file of the author's: where it is, what was expected, what to do. Validation collects all of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

Place: TypeAlias = tuple[int, tuple[str | int, ...]]
"""A document of a file, by number, and a path in it."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Problem:
    """`line` and `column` count from 1; 0 where the file as a whole is meant.

    `at` says more exactly what is meant, for whoever has the file at hand and can find it there.
    """

    file: str
    line: int = 0
    column: int = 0
    message: str
    at: Place | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{where}: {self.message}"

    def to_json(self) -> dict[str, object]:
        return {"file": self.file, "line": self.line, "column": self.column, "message": self.message}


def sort_problems(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """By file, line, column; each once."""
    return tuple(sorted(set(problems)))
