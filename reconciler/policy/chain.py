"""Who is asked, in which order, and what happens when nobody can answer.

    the first engine that `hub.yaml` lists, then the next …   where one cannot answer, or answers for another revision
    the built-in rules, or a denial                           where none can, as `lastResort` says for the kind

A denial is an answer: nothing but `PolicyEngineError` or another revision's answer makes the chain ask the next engine,
because an agent must not be able to choose its judge. A kind for which the bundle has no policy is answered by the
built-in rules, and that is no fallback. Engines' processes are asked; nothing else is touched.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal

from reconciler.core.decision import Decision
from reconciler.core.problem import Problem
from reconciler.errors import PolicyEngineError
from reconciler.policy import builtin
from reconciler.policy.builtin import Facts
from reconciler.policy.bundle import answered_kinds
from reconciler.ports import PolicyBundle, PolicyEngine

LastResort = Literal["builtin", "deny"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `hub.yaml` says of policies: engines by name, `builtin` among them, and the last resort by kind."""

    engines: tuple[str, ...] = ("embedded", "builtin")
    last_resort: Mapping[str, LastResort] = field(default_factory=lambda: {"message": "builtin", "task": "builtin"})
    facts: Facts = field(default_factory=Facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`fallback` means that the engine that should have answered could not; `failures` says why, by engine."""

    decision: Decision
    fallback: bool = False
    failures: tuple[tuple[str, str], ...] = ()


class Chain:
    """A `PolicyEngine` (`ports.py`) made of others. `decide` never raises.

    `on_fallback` is called with a reason when answers begin to fall back, and with None when the first engine answers
    again; not for each answer.
    """

    def __init__(
        self,
        engines: Mapping[str, PolicyEngine],
        order: Order | None = None,
        on_fallback: Callable[[str | None], None] = lambda _reason: None,
    ) -> None:
        self._engines = engines
        self._order = order or Order()
        self._on_fallback = on_fallback
        self._lock = Lock()
        self._revision = ""
        self._kinds: frozenset[str] = frozenset()
        self._accepted: frozenset[str] = frozenset()
        self._is_falling_back = False

    @property
    def revision(self) -> str:
        """The digest of the bundle in force; empty where there is none."""
        return self._revision

    @property
    def is_falling_back(self) -> bool:
        return self._is_falling_back

    def configure(self, order: Order) -> None:
        """Use another order from the next question on."""
        self._order = order

    def check(self, bundle: PolicyBundle) -> Sequence[Problem]:
        """What the first engine that can say so finds wrong. Raises PolicyEngineError where none can."""
        failures: list[str] = []
        for name, engine in self._engines.items():
            try:
                return engine.check(bundle)
            except PolicyEngineError as exc:
                failures.append(f"{name}: {exc}")
        raise PolicyEngineError(f"checking policies: no engine can ({'; '.join(failures) or 'none is there'})")

    def activate(self, bundle: PolicyBundle) -> None:
        """Make this bundle the one in force as soon as one engine has it; the others are passed over until they have.

        Raises PolicyEngineError where none can take it; then the last one stays in force.
        """
        failures: list[str] = []
        self._accepted = frozenset({self._revision, bundle.digest})
        for name, engine in self._engines.items():
            try:
                engine.activate(bundle)
            except PolicyEngineError as exc:
                failures.append(f"{name}: {exc}")
        if failures and len(failures) == len(self._engines):
            self._accepted = frozenset({self._revision})
            raise PolicyEngineError(f"activating policies {bundle.digest}: {'; '.join(failures)}")
        with self._lock:
            self._revision, self._kinds = bundle.digest, answered_kinds(bundle.modules)
            self._accepted = frozenset({bundle.digest})

    def decide(self, entry_point: str, question: Mapping[str, Any]) -> Decision:
        return self.answer(entry_point, question).decision

    def answer(self, kind: str, question: Mapping[str, Any]) -> Answer:
        """The decision, and how it came about."""
        with self._lock:
            order, revision, kinds = self._order, self._revision, self._kinds
        listed = [name for name in order.engines if name == builtin.ENGINE or name in self._engines]
        if kind not in kinds or listed[:1] == [builtin.ENGINE]:
            return Answer(decision=builtin.decide(kind, question, order.facts, revision))
        failures: list[tuple[str, str]] = []
        for name in listed:
            if name == builtin.ENGINE:
                continue
            decision = self._ask(name, kind, question, failures)
            if decision is not None:
                self._note(failures)
                return Answer(decision=decision, fallback=bool(failures), failures=tuple(failures))
        self._note(failures or [("none", "no engine is listed that is there")])
        return Answer(decision=_resort(kind, question, order, revision), fallback=True, failures=tuple(failures))

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()

    def _ask(
        self,
        name: str,
        kind: str,
        question: Mapping[str, Any],
        failures: list[tuple[str, str]],
    ) -> Decision | None:
        """The engine's decision; None, and one more failure, where it has none for a revision in force.

        While a bundle is being activated that is the old and the new one, each with its own name on its decisions.
        """
        before = self._accepted
        try:
            decision = self._engines[name].decide(kind, question)
        except PolicyEngineError as exc:
            failures.append((name, str(exc)))
            return None
        if decision.revision not in before | self._accepted:
            failures.append((name, f"answered for {decision.revision or 'no revision'}, not {self._revision}"))
            return None
        return decision

    def _note(self, failures: Sequence[tuple[str, str]]) -> None:
        with self._lock:
            if bool(failures) == self._is_falling_back:
                return
            self._is_falling_back = bool(failures)
        self._on_fallback(f"{failures[0][0]}: {failures[0][1]}" if failures else None)


def _resort(kind: str, question: Mapping[str, Any], order: Order, revision: str) -> Decision:
    if order.last_resort.get(kind) == "builtin":
        return builtin.decide(kind, question, order.facts, revision)
    reason = f"no policy engine can answer, and the last resort for {kind} is to deny"
    return Decision(allow=False, reasons=(reason,), engine="none", revision=revision)
