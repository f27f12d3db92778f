"""The configuration in force, compiled once per swap: validators by type, who subscribes to what, the engines.

A message uses one `Rules` on its whole way, so that a swap never shows it half of each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.policy.reads import Reads
from reconciler.router.buckets import Limit, Quotas
from reconciler.router.cache import Keys, compile_keys
from reconciler.router.config import (
    AgentEntry,
    Config,
    EngineName,
    LogRules,
    PolicyRules,
    QuotaEntry,
    RefusedError,
)
from reconciler.router.engine import Engine, Face, show_face
from reconciler.router.engines import Engines, StartEngine, check_engines, choose_engines
from reconciler.router.grants import GrantsEngine
from reconciler.router.message import HUB
from reconciler.router.schema import Validator, compile_schemas
from reconciler.router.topics import TopicIndex


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
    before = Engines(listed=tuple(current.engines), reads=current.reads)
    chosen = await choose_engines(config, current.config, before, start, GrantsEngine)
    engines, reads = chosen.listed, chosen.reads
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
    check_engines(config)
