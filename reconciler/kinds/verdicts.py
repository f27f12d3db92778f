"""What a policy engine found wrong with bundles, remembered so that the same bundle is judged once.

A check may take seconds, and a start should not pay them again: what `load` reads and `save` writes outlives the
process. Verdicts of another judge (release, time limit) do not count.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from reconciler.core.problem import Problem

KEPT = 4


class Verdicts:
    """Problems by digest of the bundle, those of the newest few. `load` gives what `save` was given last, or empty."""

    def __init__(
        self, judge: str = "", load: Callable[[], str] = lambda: "", save: Callable[[str], None] = lambda _text: None
    ) -> None:
        self._judge, self._load, self._save = judge, load, save
        self._known: dict[str, tuple[Problem, ...]] | None = None

    def get(self, digest: str) -> Sequence[Problem] | None:
        """The problems of a bundle; None where it was not judged. Raises what `load` does."""
        return self._read().get(digest)

    def put(self, digest: str, problems: Sequence[Problem]) -> None:
        """Raises what `save` does."""
        known = {**{d: p for d, p in self._read().items() if d != digest}, digest: tuple(problems)}
        self._known = dict(list(known.items())[-KEPT:])
        found = {d: [p.to_json() for p in of_bundle] for d, of_bundle in self._known.items()}
        self._save(json.dumps({"judge": self._judge, "found": found}))

    def _read(self) -> dict[str, tuple[Problem, ...]]:
        if self._known is None:
            self._known = _parse(self._load(), self._judge)
        return self._known


def _parse(text: str, judge: str) -> dict[str, tuple[Problem, ...]]:
    """What is damaged is not known, and judged again."""
    try:
        value: Any = json.loads(text or "{}")
        if value.get("judge") != judge:
            return {}
        return {d: tuple(Problem(**fields) for fields in problems) for d, problems in value["found"].items()}
    except (ValueError, TypeError, AttributeError, KeyError):
        return {}
