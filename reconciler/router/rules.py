"""The configuration in force, compiled once per swap: validators by type, who subscribes to what, the engines.

A message uses one `Rules` on its whole way, so that a swap never shows it half of each.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.router.config import (
    AgentEntry,
    Config,
    EngineName,
    LogRules,
    PolicyEntry,
    PolicyRules,
    RefusedError,
)
from reconciler.router.engine import Engine, Face, show_face
from reconciler.router.grants import GrantsEngine
from reconciler.router.message import HUB
from reconciler.router.schema import Validator, compile_schemas
from reconciler.router.topics import TopicIndex

StartEngine = Callable[[PolicyEntry], Awaitable[Engine | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """See the module. `policy_revision` is that of the first engine."""

    config: Config
    validators: Mapping[str, Validator]
    topics: TopicIndex
    engines: Sequence[Engine]
    faces: Mapping[str, Face] = field(default_factory=dict)

    @property
    def policy_revision(self) -> str:
        return self.engines[0].revision if self.engines else ""

    def find_agent(self, name: str) -> AgentEntry | None:
        """The agent of that name, or None."""
        return self.config.agents.get(name)


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
    return Rules(
        config=config,
        validators=validators,
        topics=topics,
        engines=await _choose_engines(config, current, start),
        faces={name: show_face(agent) for name, agent in config.agents.items()},
    )


def _check(config: Config) -> None:
    if HUB in config.agents:
        raise RefusedError(f"agents.{HUB}: this name is the hub's own")
    for name, agent in config.agents.items():
        for nth, grant in enumerate(agent.sends):
            if (grant.to is None) == (grant.topic is None):
                raise RefusedError(f"agents.{name}.sends[{nth}]: exactly one of to and topic is needed")


async def _choose_engines(
    config: Config, current: Rules, start: Mapping[EngineName, StartEngine]
) -> tuple[Engine, ...]:
    """What stands first is the main engine. Only builtin answers where no policy has rules for messages."""
    builtin = GrantsEngine(config.policy.digest if config.policy else "builtin")
    chosen: list[Engine] = []
    for name in config.rules.engines:
        if name == "builtin":
            chosen.append(builtin)
        elif config.policy is not None and name in start:
            engine = _find_running(current, name, config.policy.digest)
            engine = engine or await start[name](config.policy)
            if engine is not None:
                chosen.append(engine)
    return tuple(chosen)


def _find_running(current: Rules, name: str, digest: str) -> Engine | None:
    return next((e for e in current.engines if e.name == name and e.revision == digest), None)
