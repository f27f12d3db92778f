"""The fleet as other kinds see it: which agents there are, what they can do, and which instances are ready."""

from collections.abc import Mapping
from dataclasses import dataclass

FIRST_DELEGATE = 1000
"""Where the ordinals of instances begin that are made for one delegated run; replicas have lower ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegate:
    """An instance that is made for one delegated run, and goes with it. `task` is the name of that run."""

    run: str
    task: str
    agent: str
    ordinal: int
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MayDelegate:
    """What an agent may delegate: to whom, how deep, and how much at most; None for any amount."""

    to: tuple[str, ...] = ()
    max_depth: int = 1
    tasks: int | None = None
    cpus: float | None = None


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
    """One agent of the desired fleet. `exposure` is the reach of its model: `none`, `private` or `public`.

    `replicas` is how many instances it may have; of a per-task agent there are fewer while less work is there.
    `delegates` are made for one delegated run each and take no other; `cpus` is what each instance may use.
    """

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
    replicas: int = 0
    instances: tuple[InstanceView, ...] = ()
    delegates: tuple[InstanceView, ...] = ()
    cpus: float = 0.0
    delegation: MayDelegate = MayDelegate()

    def has(self, requires: tuple[str, ...]) -> bool:
        """Whether it has all of the required capabilities."""
        return set(requires) <= set(self.capabilities)


Fleet = Mapping[str, AgentView]
