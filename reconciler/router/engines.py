"""The engines of a configuration, in its order: chosen and started, kept where nothing changed for them.

Shared by all that ask policies without blocking: the router about messages, the egress process about models. `kind` is
the kind of question that they ask.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from reconciler.policy.reads import Reads
from reconciler.router.config import EngineName, OpaEntry, PolicyEntry, PolicyRules, RefusedError
from reconciler.router.engine import Engine


class Policed(Protocol):
    """The sections of a configuration that say which policy is asked, and by whom."""

    @property
    def policy(self) -> PolicyEntry | None: ...

    @property
    def rules(self) -> PolicyRules: ...

    @property
    def opa(self) -> OpaEntry | None: ...


StartEngine: TypeAlias = Callable[[Policed, PolicyEntry, Engine | None], Awaitable[Engine | None]]
"""Makes the engine of a configuration's policy, None where that has no rules for the kind; it follows the one given."""

MakeBuiltin: TypeAlias = Callable[[str], Engine]
"""Makes the built-in rules, which answer under the name of a revision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """What stands first is the main engine. `reads` is what its policy reads, where anybody can tell."""

    listed: tuple[Engine, ...]
    reads: Reads | None = None

    async def close_but(self, kept: Sequence[Engine]) -> None:
        """End those that are not among `kept`."""
        for engine in self.listed:
            if engine not in kept:
                await engine.close()


def check_engines(wanted: Policed) -> None:
    """Raises RefusedError where one is listed of which nothing is said."""
    if "opa" in wanted.rules.engines and wanted.opa is None:
        raise RefusedError("rules.engines: opa needs the member opa")


async def choose_engines(
    wanted: Policed,
    before: Policed,
    current: Engines,
    start: Mapping[EngineName, StartEngine],
    make_builtin: MakeBuiltin,
) -> Engines:
    """Those of `wanted`; `current` are those of `before`. Only builtin is there where no policy has rules for the kind.

    Raises RefusedError, and leaves nothing running then that was not before.
    """
    chosen: list[Engine] = []
    try:
        for name in wanted.rules.engines:
            engine = await _choose(name, wanted, before, current.listed, start, make_builtin)
            if engine is not None:
                chosen.append(engine)
        engines = Engines(listed=tuple(chosen))
        return Engines(listed=engines.listed, reads=await _find_reads(wanted, before, engines, current, start))
    except BaseException:
        await Engines(listed=tuple(chosen)).close_but(current.listed)
        raise


async def _choose(
    name: EngineName,
    wanted: Policed,
    before: Policed,
    current: Sequence[Engine],
    start: Mapping[EngineName, StartEngine],
    make_builtin: MakeBuiltin,
) -> Engine | None:
    if name == "builtin":
        return make_builtin(wanted.policy.digest if wanted.policy else "builtin")
    if wanted.policy is None or name not in start:
        return None
    running = next((engine for engine in current if engine.name == name), None)
    is_as_before = name != "opa" or before.opa == wanted.opa
    if running is not None and running.revision == wanted.policy.digest and is_as_before:
        return running
    return await start[name](wanted, wanted.policy, running)


async def _find_reads(
    wanted: Policed, before: Policed, engines: Engines, current: Engines, start: Mapping[EngineName, StartEngine]
) -> Reads | None:
    """What the first engine's policy reads. Where none of the listed engines can tell, a worker is started that can."""
    policy, listed = wanted.policy, engines.listed
    if not listed or listed[0].name == "builtin" or policy is None:
        return listed[0].reads if listed else None
    found = next((engine.reads for engine in listed if engine.name != "builtin" and engine.reads is not None), None)
    if found is not None:
        return found
    if before.policy is not None and before.policy.digest == policy.digest and current.reads:
        return current.reads
    if not wanted.rules.cache_entries or "embedded" not in start:
        return None
    with contextlib.suppress(RefusedError):
        reader = await start["embedded"](wanted, policy, None)
        if reader is not None:
            await reader.close()
            return reader.reads
    return None
