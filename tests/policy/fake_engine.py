"""A `PolicyEngine` that answers what it is told, and fails when it is told."""

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.core.decision import Decision
from reconciler.core.problem import Problem
from reconciler.errors import PolicyEngineError
from reconciler.ports import PolicyBundle


class FakeEngine:
    """`is_down` makes each call fail; `stuck_at` makes it answer for that revision whatever is activated."""

    def __init__(self, name: str = "embedded", *, allow: bool = True) -> None:
        self.name = name
        self.allow = allow
        self.is_down = False
        self.stuck_at: str | None = None
        self.asked = 0
        self.is_closed = False
        self._revision = ""

    @property
    def revision(self) -> str:
        return self._revision

    def check(self, bundle: PolicyBundle) -> Sequence[Problem]:
        self._fail()
        return (Problem(file=self.name, message=bundle.digest),)

    def activate(self, bundle: PolicyBundle) -> None:
        self._fail()
        self._revision = bundle.digest

    def decide(self, entry_point: str, question: Mapping[str, Any]) -> Decision:
        self.asked += 1
        self._fail()
        return Decision(allow=self.allow, engine=self.name, revision=self.stuck_at or self._revision)

    def close(self) -> None:
        self.is_closed = True

    def _fail(self) -> None:
        if self.is_down:
            raise PolicyEngineError(f"{self.name} is down")
