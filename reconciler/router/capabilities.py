"""The answer to `capability.query`: which agents can do this, of those that the asker may send something to.

Whether it may is asked of policy, as for a message, for each matching agent and each type that the asker could mean:
those of its grants, and those with a schema. What it may not reach looks as if it did not exist.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

from reconciler.core.message_type import is_reserved
from reconciler.router.audience import Audience, fits
from reconciler.router.config import AgentEntry, Config
from reconciler.router.registry import Registry

MAX_QUESTIONS: Final = 200

MaySend = Callable[[str, str], Awaitable[bool]]
"""Whether the asker may send a message of a type (second) to an agent (first)."""


async def find_agents(
    payload: Mapping[str, Any], asker: str, config: Config, registry: Registry, may_send: MaySend
) -> Mapping[str, Any]:
    """The payload of the reply. `payload` conforms to the schema of the query; `asker` is an agent's name."""
    wanted = _read(payload)
    own = config.agents.get(asker, AgentEntry())
    types = _types(own, config.schemas)
    found: list[Mapping[str, Any]] = []
    asked = 0
    for name, agent in sorted(config.agents.items()):
        if not fits(wanted, agent.role, agent.labels, agent.capabilities):
            continue
        if asked + len(types) > MAX_QUESTIONS:
            return {"agents": found, "complete": False}
        asked += len(types)
        sendable = [type_ for type_ in types if await may_send(name, type_)]
        if sendable:
            found.append(_show(name, agent, registry, sendable))
    return {"agents": found, "complete": True}


def _read(payload: Mapping[str, Any]) -> Audience:
    role = payload.get("role")
    return Audience(
        roles=(role,) if role else (),
        labels=payload.get("labels", {}),
        capabilities=tuple(payload.get("capabilities", ())),
    )


def _types(own: AgentEntry, schemas: Collection[str]) -> Sequence[str]:
    """Types that can be asked about: a wildcard of a grant names none. As many as fit into one answer."""
    granted = {type_ for grant in own.sends for type_ in grant.types if "*" not in type_ and ">" not in type_}
    return sorted(type_ for type_ in {*granted, *schemas} if not is_reserved(type_))[:MAX_QUESTIONS]


def _show(name: str, agent: AgentEntry, registry: Registry, types: Sequence[str]) -> Mapping[str, Any]:
    return {
        "agent": name,
        "role": agent.role,
        "labels": agent.labels,
        "capabilities": agent.capabilities,
        "ready": sum(instance.hello is not None for instance in registry.of_agent(name)),
        "types": types,
    }
