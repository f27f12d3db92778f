"""A policy engine that answers what a test says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reconciler.core.decision import Decision
from reconciler.core.problem import Problem
from reconciler.errors import PolicyEngineError
from reconciler.ports import PolicyBundle


class FakePolicy:
    """`PolicyEngine`. Allows everything but what `deny` was told; `asked` lists (entry point, question)."""

    def __init__(self) -> None:
        self.revision = ""
        self.problems: list[Problem] = []
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.is_away = False
        self._denies: list[tuple[str, Callable[[Mapping[str, Any]], bool], str]] = []

    def deny(self, entry_point: str, reason: str, when: Callable[[Mapping[str, Any]], bool] = lambda _q: True) -> None:
        """From now on a question of this kind for which `when` holds is denied."""
        self._denies.append((entry_point, when, reason))

    def check(self, bundle: PolicyBundle) -> Sequence[Problem]:
        self._need_engine("checking policies")
        return list(self.problems)

    def activate(self, bundle: PolicyBundle) -> None:
        self._need_engine("activating policies")
        self.revision = bundle.digest

    def decide(self, entry_point: str, question: Mapping[str, Any]) -> Decision:
        self._need_engine("asking policies")
        self.asked.append((entry_point, question))
        reasons = tuple(r for e, when, r in self._denies if e == entry_point and when(question))
        return Decision(allow=not reasons, reasons=reasons, engine="fake", revision=self.revision)

    def close(self) -> None:
        pass

    def _need_engine(self, doing: str) -> None:
        if self.is_away:
            raise PolicyEngineError(f"{doing}: the engine is away")
