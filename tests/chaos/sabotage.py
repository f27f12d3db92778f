"""The reconciler without one of its protections: a copy of the code in which a few words are others.

What a run must find wrong with such a hub is its negative control. The product has no switch for it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.flows.forks import ROOT


@dataclass(frozen=True)
class Sabotage:
    """`before` stands once in `file` of the package, and becomes `after`."""

    file: str
    before: str
    after: str


WITHOUT = {
    "generations": Sabotage(
        "kinds/task/receive.py",
        'is_current = run.generation == row.payload.get("generation") and run.instance == row.instance',
        "is_current = True",
    ),
    "fencing": Sabotage("kinds/task/apply.py", "if not attempt.ended_at and attempt.container_id:", "if False:"),
    "write-ahead": Sabotage("loop/apply.py", '[_entry(c, job, "intent", c.reason) for c in intended]', "[]"),
    "history": Sabotage("loop/guard.py", "if not facts.is_descendant:", "if False:"),
    "breaker": Sabotage("policy/opa_answer.py", "return self._count >= self._most", "return False"),
}


def make_code(folder: Path, without: str) -> Path:
    """Where a copy of the package is that lacks the protection."""
    code = folder / "code"
    shutil.copytree(ROOT / "reconciler", code / "reconciler", ignore=shutil.ignore_patterns("__pycache__"))
    sabotage = WITHOUT[without]
    file = code / "reconciler" / sabotage.file
    text = file.read_text()
    assert text.count(sabotage.before) == 1, f"{sabotage.file} does not say once: {sabotage.before}"
    file.write_text(text.replace(sabotage.before, sabotage.after))
    return code
