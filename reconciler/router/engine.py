"""What a policy engine is to the router, and an agent as policies see it."""

from dataclasses import dataclass
from typing import Any, Protocol

from reconciler.core.decision import Decision
from reconciler.policy.reads import Reads
from reconciler.router.config import AgentEntry


class Engine(Protocol):
    """Something that answers. `decide` may be called many times at once; `revision` is that of the policy it has."""

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str: ...

    @property
    def reads(self) -> Reads | None:
        """What its policy can read of a question; None where it cannot tell."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether a question now would be answered, as far as it knows."""
        ...

    @property
    def fault(self) -> str:
        """Why it cannot answer, for people; empty while it can, and while it is only being made ready."""
        ...

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        """Raises PolicyEngineError when it cannot answer, within a time of its own."""
        ...

    async def close(self) -> None:
        """Answer what was asked, then end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """The parts of a question that say who an agent is. Made once per configuration, and never changed."""

    sender: dict[str, Any]
    recipient: dict[str, Any]
    grants: dict[str, Any]


def show_face(entry: AgentEntry) -> Face:
    """`sender` and `recipient` without the names, which differ per question."""
    public: dict[str, Any] = {
        "role": entry.role,
        "labels": entry.labels,
        "capabilities": list(entry.capabilities),
    }
    sends = [
        {
            **({"topic": grant.topic} if grant.to is None else {"to": grant.to}),
            "types": list(grant.types),
        }
        for grant in entry.sends
    ]
    return Face(sender={**public, "trust": entry.trust}, recipient=public, grants={"sends": sends})


NO_FACE = show_face(AgentEntry())
