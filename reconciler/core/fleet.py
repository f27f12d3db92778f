"""The fleet as other kinds see it: which agents there are, what they can do, and which instances are ready."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """`ready` means: handshake done, container running, not draining. `reason` says why it is not."""

    name: str
    agent: str
    ready: bool
    reason: str = ""
    container_id: str = ""
    last_seen: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """One agent of the desired fleet. `exposure` is the reach of its model: `none`, `private` or `public`."""

    name: str
    role: str
    labels: Mapping[str, str]
    capabilities: tuple[str, ...]
    max_parallel: int
    sandboxed: bool
    grace_s: float
    trust: float = 1.0
    exposure: str = "none"
    workspace: str = "none"
    instances: tuple[InstanceView, ...] = ()

    def has(self, requires: tuple[str, ...]) -> bool:
        """Whether it has all of the required capabilities."""
        return set(requires) <= set(self.capabilities)


Fleet = Mapping[str, AgentView]
