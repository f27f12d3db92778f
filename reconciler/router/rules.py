"""The configuration in force, compiled once per swap: validators by type, who subscribes to what, the engines.

A message uses one `Rules` on its whole way, so that a swap never shows it half of each.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from reconciler.policy.reads import Reads
from reconciler.router.buckets import Limit, Quotas
from reconciler.router.cache import Keys, compile_keys
from reconciler.router.config import (
    AgentEntry,
    Config,
    EngineName,
    LogRules,
    PolicyEntry,
    PolicyRules,
    QuotaEntry,
    RefusedError,
)
from reconciler.router.engine import Engine, Face, show_face
from reconciler.router.grants import GrantsEngine
from reconciler.router.message import HUB
from reconciler.router.schema import Validator, compile_schemas
from reconciler.router.topics import TopicIndex

StartEngine: TypeAlias = Callable[[Config, PolicyEntry, Engine | None], Awaitable[Engine | None]]
"""Makes the engine of a configuration's policy, None where that has no rules for messages; it follows the one given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """See the module. `policy_revision` is that of the first engine.

    `reads` is what its policy reads, where anybody can tell; without `keys` no decision is remembered.
    `quotas` by agent, and for those that the configuration does not name; None where rates are not limited.
    """

    config: Config
    validators: Mapping[str, Validator]
    topics: TopicIndex
    engines: Sequence[Engine]
    faces: Mapping[str, Face] = field(default_factory=dict)
    reads: Reads | None = None
    keys: Keys | None = None
    quotas: Mapping[str, Quotas] = field(default_factory=dict)
    default_quotas: Quotas | None = None

    @property
    def policy_revision(self) -> str:
        return self.engines[0].revision if self.engines else ""

    @property
    def answering_engine(self) -> str:
        """The name of the engine that answers now; `none` where no engine can."""
        return next((engine.name for engine in self.engines if engine.is_ready), "none")

    def find_agent(self, name: str) -> AgentEntry | None:
        """The agent of that name, or None."""
        return self.config.agents.get(name)

    def find_quotas(self, agent: str) -> Quotas | None:
        """What each instance of the agent may send; None for any amount."""
        return self.quotas.get(agent, self.default_quotas)


def initial_rules() -> Rules:
    """Before the first configuration: no agents, and with them nobody to send to."""
    return Rules(
        config=Config(digest="", revision="", log=LogRules(), rules=PolicyRules()),
        validators=compile_schemas({}),
        topics=TopicIndex(()),
        engines=(GrantsEngine(""),),
    )


async def compile_rules(config: Config, current: Rules, start: Mapping[EngineName, StartEngine]) -> Rules:
    """`config` ready to be swapped in, with engines that answer. An engine of the same policy digest is kept.

    Raises RefusedError, and leaves nothing running then.
    """
    _check(config)
    validators = compile_schemas(config.schemas)
    topics = TopicIndex(
        (name, subscription.topic, subscription.delivery == "all")
        for name, agent in config.agents.items()
        for subscription in agent.subscribes
    )
    engines = await _choose_engines(config, current, start)
    reads = await _find_reads(config, current, engines, start)
    faces = {name: show_face(agent) for name, agent in config.agents.items()}
    return Rules(
        config=config,
        validators=validators,
        topics=topics,
        engines=engines,
        faces=faces,
        reads=reads,
        keys=compile_keys(engines[0], reads, faces, config.rules) if engines and reads else None,
        quotas={name: quotas for name, agent in config.agents.items() if (quotas := _compile_quotas(config, agent))},
        default_quotas=_compile_quotas(config, AgentEntry()),
    )


async def _find_reads(
    config: Config, current: Rules, engines: Sequence[Engine], start: Mapping[EngineName, StartEngine]
) -> Reads | None:
    """What the first engine's policy reads. Where none of the listed engines can tell, a worker is started that can."""
    policy = config.policy
    if not engines or engines[0].name == "builtin" or policy is None:
        return engines[0].reads if engines else None
    found = next((engine.reads for engine in engines if engine.name != "builtin" and engine.reads is not None), None)
    if found is not None:
        return found
    if current.config.policy is not None and current.config.policy.digest == policy.digest and current.reads:
        return current.reads
    if not config.rules.cache_entries or "embedded" not in start:
        return None
    with contextlib.suppress(RefusedError):
        reader = await start["embedded"](config, policy, None)
        if reader is not None:
            await reader.close()
            return reader.reads
    return None


def _compile_quotas(config: Config, agent: AgentEntry) -> Quotas | None:
    rate = config.limits.rate
    if rate is None:
        return None
    own = _fill(agent.quota, rate)
    by_type = {**config.limits.rate_by_type, **agent.quota_by_type}
    return Quotas(own=own, hub=rate, by_type={type_: _fill(quota, own) for type_, quota in by_type.items()})


def _fill(quota: QuotaEntry, rest: Limit) -> Limit:
    """A whole limit: what the quota does not say is that of `rest`."""
    return Limit(
        messages_per_s=rest.messages_per_s if quota.messages_per_s is None else quota.messages_per_s,
        bytes_per_s=rest.bytes_per_s if quota.bytes_per_s is None else quota.bytes_per_s,
    )


def _check(config: Config) -> None:
    if HUB in config.agents:
        raise RefusedError(f"agents.{HUB}: this name is the hub's own")
    for name, agent in config.agents.items():
        for nth, grant in enumerate(agent.sends):
            if (grant.to is None) == (grant.topic is None):
                raise RefusedError(f"agents.{name}.sends[{nth}]: exactly one of to and topic is needed")
    if "opa" in config.rules.engines and config.opa is None:
        raise RefusedError("rules.engines: opa needs the member opa")


async def _choose_engines(
    config: Config, current: Rules, start: Mapping[EngineName, StartEngine]
) -> tuple[Engine, ...]:
    """What stands first is the main engine. Only builtin answers where no policy has rules for messages."""
    chosen: list[Engine] = []
    try:
        for name in config.rules.engines:
            engine = await _choose_engine(name, config, current, start)
            if engine is not None:
                chosen.append(engine)
    except BaseException:
        for engine in chosen:
            if engine not in current.engines:
                await engine.close()
        raise
    return tuple(chosen)


async def _choose_engine(
    name: EngineName, config: Config, current: Rules, start: Mapping[EngineName, StartEngine]
) -> Engine | None:
    if name == "builtin":
        return GrantsEngine(config.policy.digest if config.policy else "builtin")
    if config.policy is None or name not in start:
        return None
    running = next((engine for engine in current.engines if engine.name == name), None)
    is_as_before = name != "opa" or current.config.opa == config.opa
    if running is not None and running.revision == config.policy.digest and is_as_before:
        return running
    return await start[name](config, config.policy, running)
