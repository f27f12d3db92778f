"""May this request go to its model? The engines of the configuration are asked, as the router asks them of messages.

Without a policy for models the built-in rules answer: the law of sensitivity, which the relay holds to by itself before
anybody is asked. So a policy can only narrow.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from reconciler.core.decision import Decision
from reconciler.egress.config import NO_CONFIG, Config, EngineName
from reconciler.egress.question import KIND
from reconciler.policy import builtin
from reconciler.policy.builtin import Facts
from reconciler.policy.reads import Reads
from reconciler.router.cache import Key, write_key
from reconciler.router.chain import Chain
from reconciler.router.engines import Engines, StartEngine, check_engines, choose_engines


class Policy:
    """The chain about models, and the engines of the configuration in force. `wall_s` is the clock of its decisions."""

    def __init__(self, start: Mapping[EngineName, StartEngine], wall_s: Callable[[], float] = time.time) -> None:
        self._start = start
        self._config = NO_CONFIG
        self._engines = Engines(listed=(_Law(NO_CONFIG),))
        self._chain = Chain(KIND, lambda: None, wall_s)

    @property
    def engine(self) -> str:
        """The name of the engine that answers now; `none` where none can."""
        return next((engine.name for engine in self._engines.listed if engine.is_ready), "none")

    @property
    def fault(self) -> str:
        """Why the first engine cannot answer; empty while it can, and while it is only being made ready."""
        first = self._engines.listed[0]
        return f"{first.name}: {first.fault}" if first.fault else ""

    async def prepare(self, config: Config) -> Engines:
        """The engines of a configuration, to be used next. Raises RefusedError, and has started nothing then."""
        check_engines(config)
        found = await choose_engines(config, self._config, self._engines, self._start, lambda _: _Law(config))
        asked = [engine for engine in found.listed if engine.name != "builtin"]
        if asked:
            return found
        law = _Law(config)
        return Engines(listed=(law,), reads=law.reads)

    async def use(self, config: Config, engines: Engines) -> None:
        """Ask these from the next question on."""
        before, self._engines, self._config = self._engines, engines, config
        await before.close_but(engines.listed)

    async def decide(self, question: dict[str, Any]) -> Decision:
        """The decision; a denial by engine `none` where nobody can answer."""
        config, engines = self._config, self._engines
        key = self._find_key(question)
        found = self._chain.recall(key) if key is not None else None
        if found is not None:
            if self._chain.is_falling_back and engines.listed[0].is_ready:
                self._chain.set_falling_back(False)
            return found
        decision = await self._chain.decide(engines.listed, config.rules, question, key)
        if decision is not None:
            return decision
        reason = "no policy engine can answer now; ask again later"
        return Decision(allow=False, reasons=(reason,), engine="none", revision=engines.listed[0].revision)

    async def close(self) -> None:
        """End the engines."""
        await self._engines.close_but(())

    def _find_key(self, question: Mapping[str, Any]) -> Key | None:
        first, reads = self._engines.listed[0], self._engines.reads
        if reads is None or reads.obstacle or not self._config.rules.cache_entries:
            return None
        scope = self._config.digest if first.name == "builtin" else first.revision
        return write_key(scope, reads, question)


class _Law:
    """The built-in rules as an engine."""

    name = "builtin"
    is_ready = True
    fault = ""

    def __init__(self, config: Config) -> None:
        self.revision = config.policy.digest if config.policy is not None else "builtin"
        self.reads: Reads | None = Reads(paths=(("agent", "name"), ("provider", "exposure"), ("sensitivity",)))
        self._facts = Facts(exposures={level: frozenset(where) for level, where in config.exposures.items()})

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        return builtin.decide(entry_point, question, self._facts, self.revision)

    async def close(self) -> None:
        """Nothing to end."""
