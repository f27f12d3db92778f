"""Who is asked, in which order, and what happens when nobody can answer.

    the first engine that `hub.yaml` lists, then the next …   where one cannot answer, or answers for another revision
    the built-in rules, or a denial                           where none can, as `lastResort` says for the kind

A denial is an answer: nothing but `PolicyEngineError` or another revision's answer makes the chain ask the next engine,
because an agent must not be able to choose its judge. A kind for which the bundle has no policy is answered by the
built-in rules, and that is no fallback; nor is it one where the reason is expected to pass (`PolicyPassingError`), such
as that an engine is still being given the policies. Engines' processes are asked; nothing else is touched.

Nothing is remembered here: tasks, delegations and admissions are few beside messages, and each is asked anew. The cache
of messages is the router's (`router/cache.py`).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType
from typing import Any, Literal

from reconciler.core.decision import Decision
from reconciler.core.problem import Problem
from reconciler.errors import PolicyEngineError, PolicyPassingError
from reconciler.policy import builtin
from reconciler.policy.builtin import Facts
from reconciler.policy.bundle import answered_kinds
from reconciler.ports import PolicyBundle, PolicyEngine

LastResort = Literal["builtin", "deny"]

_NO_ENGINE = ("none", "no engine is listed that is there")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `hub.yaml` says of policies: engines by name, `builtin` among them, and the last resort by kind.

    `second_check` looks at a bundle with which the first engine that can say so finds nothing wrong.
    """

    engines: tuple[str, ...] = ("embedded", "builtin")
    last_resort: Mapping[str, LastResort] = field(default_factory=lambda: {"message": "builtin", "task": "builtin"})
    facts: Facts = field(default_factory=Facts)
    second_check: Callable[[PolicyBundle], Sequence[Problem]] = lambda _bundle: ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`fallback` means that the engine that should have answered could not; `failures` says why, by engine."""

    decision: Decision
    fallback: bool = False
    failures: tuple[tuple[str, str], ...] = ()


class Chain:
    """A `PolicyEngine` (`ports.py`) made of others. `decide` never raises.

    `on_fallback` is called with a reason when answers begin to fall back, and with None when the first engine answers
    again; not for each answer. `probes` are the engines that fetch the policies themselves, after `activate`, each with
    a way to find out whether it would answer; it raises what `decide` would.
    """

    def __init__(
        self,
        engines: Mapping[str, PolicyEngine],
        order: Order | None = None,
        on_fallback: Callable[[str | None], None] = lambda _reason: None,
        *,
        probes: Mapping[str, Callable[[], None]] = MappingProxyType({}),
    ) -> None:
        self._engines = engines
        self._probes = probes
        self._order = order or Order()
        self._on_fallback = on_fallback
        self._lock = Lock()
        self._revision = ""
        self._kinds: frozenset[str] = frozenset()
        self._accepted: frozenset[str] = frozenset()
        self._is_falling_back = False
        self._away: frozenset[str] = frozenset()

    @property
    def revision(self) -> str:
        """The digest of the bundle in force; empty where there is none."""
        return self._revision

    @property
    def is_falling_back(self) -> bool:
        return self._is_falling_back

    def configure(self, order: Order) -> None:
        """Use another order from the next question on."""
        if order.engines != self._order.engines:
            self._note(())
        self._order = order

    def check(self, bundle: PolicyBundle) -> Sequence[Problem]:
        """What the first engine that can say so finds wrong, then the second check. Raises PolicyEngineError."""
        failures: list[str] = []
        for name, engine in self._engines.items():
            try:
                return engine.check(bundle) or self._order.second_check(bundle)
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
        if failures and len(failures) == len(self._engines.keys() - self._probes.keys()):
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
        listed = self._list(order)
        if kind not in kinds or listed[:1] == [builtin.ENGINE]:
            return Answer(decision=builtin.decide(kind, question, order.facts, revision))
        failures: list[tuple[str, str]] = []
        passing: set[str] = set()
        for name in listed:
            if name == builtin.ENGINE:
                continue
            decision = self._ask(name, kind, question, failures, passing)
            if decision is not None:
                self._note_answer(failures, passing)
                return Answer(decision=decision, fallback=bool(failures), failures=tuple(failures))
        self._note_answer(failures or [_NO_ENGINE], passing)
        decision = _resort(kind, question, order, revision, failures or [_NO_ENGINE])
        return Answer(decision=decision, fallback=True, failures=tuple(failures))

    def probe(self) -> None:
        """Ask the first engine whether it would answer: its end and its return are noticed without questions."""
        with self._lock:
            order, kinds = self._order, self._kinds
        first = next(iter(self._list(order)), "")
        if not kinds or first not in self._probes:
            return
        try:
            self._probes[first]()
        except PolicyPassingError:
            return
        except PolicyEngineError as exc:
            self._note([(first, str(exc))])
        else:
            self._note(())

    @property
    def answering(self) -> str:
        """The engine that answers now, as far as is known; `none` where none does."""
        return next((name for name in self._list(self._order) if name not in self._away), "none")

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()

    def _ask(
        self,
        name: str,
        kind: str,
        question: Mapping[str, Any],
        failures: list[tuple[str, str]],
        passing: set[str],
    ) -> Decision | None:
        """The engine's decision; None, and one more failure, where it has none for a revision in force.

        While a bundle is being activated that is the old and the new one, each with its own name on its decisions.
        """
        before = self._accepted
        try:
            decision = self._engines[name].decide(kind, question)
        except PolicyEngineError as exc:
            failures.append((name, str(exc)))
            if isinstance(exc, PolicyPassingError):
                passing.add(name)
            return None
        if decision.revision not in before | self._accepted:
            failures.append((name, f"answered for {decision.revision or 'no revision'}, not {self._revision}"))
            return None
        return decision

    def _list(self, order: Order) -> Sequence[str]:
        """The engines of an order that are there, in its order."""
        return [name for name in order.engines if name == builtin.ENGINE or name in self._engines]

    def _note_answer(self, failures: Sequence[tuple[str, str]], passing: Collection[str]) -> None:
        """What an answer says of the engines; nothing where all that failed will pass."""
        faults = [failure for failure in failures if failure[0] not in passing]
        if faults or not passing:
            self._note(faults)

    def _note(self, failures: Sequence[tuple[str, str]]) -> None:
        with self._lock:
            self._away = frozenset(name for name, _ in failures)
            if bool(failures) == self._is_falling_back:
                return
            self._is_falling_back = bool(failures)
        self._on_fallback(f"{failures[0][0]}: {failures[0][1]}" if failures else None)


def _resort(
    kind: str, question: Mapping[str, Any], order: Order, revision: str, failures: Sequence[tuple[str, str]]
) -> Decision:
    if order.last_resort.get(kind) == "builtin":
        return builtin.decide(kind, question, order.facts, revision)
    why = "; ".join(f"{name}: {message}" for name, message in failures)
    reason = f"no policy engine can answer ({why}), and the last resort for {kind} is to deny"
    return Decision(allow=False, reasons=(reason,), engine="none", revision=revision)
