"""One question put to the engines in order, and the answers that are remembered.

An engine that cannot answer raises PolicyEngineError; then the next one is asked, and builtin only where it is
permitted as the last resort. An answer, a denial as well as an undefined one, is final. It is remembered by what the
policy can read of the question (`cache.py`), and given again before any last resort, also while no engine can answer.
What a last resort says is never remembered, nor is a denial for want of an evaluation that went well.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.router.cache import Decisions, Key
from reconciler.router.config import PolicyRules
from reconciler.router.engine import Engine

_LOG = logging.getLogger("reconciler.router.policy")


class Chain:
    """For one kind of question. `on_change` is called when the first engine stops answering, and when it does again.

    `wall_s` is the clock by which decisions have their time.
    """

    def __init__(self, kind: str, on_change: Callable[[], None], wall_s: Callable[[], float]) -> None:
        self._kind = kind
        self._on_change = on_change
        self._wall_s = wall_s
        self._remembered = Decisions()
        self._failed = f"data.hub.{kind}.decision failed:"
        self.recall = self._remembered.get
        self.is_falling_back = False

    async def decide(
        self, engines: Sequence[Engine], rules: PolicyRules, question: dict[str, Any], key: Key | None
    ) -> Decision | None:
        """The decision; None where nobody can answer. Without a key it is not remembered."""
        for nth, engine in enumerate(engines):
            if nth and engine.name == "builtin":
                continue
            try:
                decision = await engine.decide(self._kind, question)
            except PolicyEngineError as error:
                if not self.is_falling_back:
                    _LOG.warning("policy engine %s cannot answer: %s", engine.name, error)
                continue
            self.set_falling_back(nth > 0)
            wall_s = self._wall_s()
            if key is not None and not self._has_failed(decision):
                self.remember(key, decision, wall_s, rules.cache_entries)
            return replace(decision, decided_at=wall_s)
        self.set_falling_back(True)
        return (self.recall(key) if key else None) or await self._ask_last_resort(engines, rules, question)

    def remember(self, key: Key, decision: Decision, wall_s: float, limit: int) -> None:
        """At most `limit` in all."""
        self._remembered.put(key, replace(decision, cached=True, decided_at=wall_s), limit)

    def set_falling_back(self, is_falling_back: bool) -> None:
        """Note whether the first engine could not answer."""
        if is_falling_back != self.is_falling_back:
            self.is_falling_back = is_falling_back
            self._on_change()

    async def _ask_last_resort(
        self, engines: Sequence[Engine], rules: PolicyRules, question: dict[str, Any]
    ) -> Decision | None:
        for engine in engines:
            if engine.name == "builtin" and rules.last_resort == "builtin":
                return await engine.decide(self._kind, question)
        return None

    def _has_failed(self, decision: Decision) -> bool:
        """Whether an engine says that it could not evaluate the policy, which may be otherwise the next time."""
        return not decision.allow and any(reason.startswith(self._failed) for reason in decision.reasons)
