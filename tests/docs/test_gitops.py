"""`docs/gitops.md` names tests: each is there, and each row names one."""

import ast
import re
from functools import lru_cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs/gitops.md"
NAMED = re.compile(r"`([a-z_/]+\.py)` `(test_\w+)`")


@lru_cache
def functions_of(file: str) -> frozenset[str]:
    """Every function that is in it."""
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def rows() -> list[str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("| ") and " tests |" not in line]


def test_every_test_that_is_named_is_there() -> None:
    named = [match for row in rows() for match in NAMED.findall(row)]
    missing = [(file, name) for file, name in named if not (TESTS / file).exists() or name not in functions_of(file)]
    assert missing == []


def test_every_row_names_a_test_and_nothing_else_in_its_last_column() -> None:
    for row in rows():
        last = row.rstrip("|").rsplit("|", 1)[-1].strip()
        assert NAMED.sub("", last).strip(", ") == "", row
        assert NAMED.search(last), row


def test_no_point_is_left_out() -> None:
    numbers = [int(m[1]) for row in rows() if (m := re.match(r"\| (\d+) \|", row))]
    assert numbers == list(range(1, 17))
    assert len(rows()) == 16 + 15 + 10
