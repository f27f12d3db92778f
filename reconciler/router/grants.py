"""The builtin engine: a message may go where the sender's manifest says, to the hub, and back to who asked. Pure.

Used where no Rego is in force, and as the last resort for other engines. Which types the hub takes, and that a reply
answers a request that was made, is seen to by other steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.core.decision import Decision
from reconciler.policy.reads import Reads
from reconciler.router.topics import matches

_READS = Reads(
    paths=(
        ("grants", "sends"),
        ("message", "pattern"),
        ("message", "type"),
        ("recipient", "kind"),
        ("recipient", "name"),
        ("sender", "agent"),
    )
)


class GrantsEngine:
    """Decides `message` from the question alone."""

    name = "builtin"
    is_ready = True
    fault = ""

    def __init__(self, revision: str) -> None:
        self.reads = _READS
        self._allow = Decision(allow=True, engine=self.name, revision=revision)
        self.revision = revision

    async def decide(self, entry_point: str, question: dict[str, Any]) -> Decision:
        """As `answer`."""
        return self.answer(entry_point, question)

    def answer(self, entry_point: str, question: dict[str, Any]) -> Decision:
        """Never raises; another entry point than `message` is a denial."""
        if entry_point != "message":
            return self._deny(f"builtin has no rule for {entry_point}")
        kind, name = question["recipient"]["kind"], question["recipient"]["name"]
        type_ = question["message"]["type"]
        if kind == "hub" or question["message"]["pattern"] == "reply":
            return self._allow
        if find_grant(question) is not None:
            return self._allow
        where = f"topic {name}" if kind == "topic" else name
        return self._deny(f"messaging.sends of {question['sender']['agent']} does not name {type_} to {where}")

    async def close(self) -> None:
        """Nothing to end."""

    def _deny(self, reason: str) -> Decision:
        return Decision(allow=False, reasons=(reason,), engine=self.name, revision=self.revision)


def find_grant(question: Mapping[str, Any]) -> int | None:
    """The index of the first grant of the sender's that names the message; None where there is none."""
    kind, name = question["recipient"]["kind"], question["recipient"]["name"]
    type_ = question["message"]["type"]
    grants = question["grants"]["sends"]
    return next((nth for nth, grant in enumerate(grants) if _permits(grant, kind, name, type_)), None)


def _permits(grant: dict[str, Any], kind: str, name: str, type_: str) -> bool:
    if kind == "topic":
        topic = grant.get("topic")
        is_addressed = topic is not None and matches(topic, name)
    else:
        is_addressed = grant.get("to") == name
    types: Sequence[str] = grant["types"]
    return is_addressed and any(matches(pattern, type_) for pattern in types)
