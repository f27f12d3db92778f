"""The built-in rules: what the manifests and the hub's settings alone allow. Pure; the last resort and the default.

They answer the kinds of questions for which a bundle has no policy, and those that no engine can answer where
`lastResort` says so. They know nothing of a team's Rego, so that an example policy may be stricter (roles, business
hours, change windows) and these rules still agree with the manifests: nothing that a manifest does not grant.

A question that is not of the form in the contracts is denied; nothing here raises.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from reconciler.core.decision import Decision

ENGINE = "builtin"

TO_HUB = frozenset(
    {
        "agent.hello",
        "agent.heartbeat",
        "task.started",
        "task.progress",
        "task.completed",
        "task.failed",
        "delegation.request",
        "capability.query",
        "security.alert",
    }
)
FROM_HUB = frozenset({"task.assigned", "task.cancel", "policy.changed"})

PRIVATE_ONLY = frozenset({"none", "private"})
ANYWHERE = PRIVATE_ONLY | {"public"}
SANDBOXED_ONLY = frozenset({"confidential", "restricted"})

_EXPOSURES: Mapping[str, frozenset[str]] = {
    "public": ANYWHERE,
    "internal": ANYWHERE,
    "confidential": PRIVATE_ONLY,
    "restricted": PRIVATE_ONLY,
}

Json: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the hub and the operator say.

    `images` holds lists of patterns, each of which must permit an image; without any, none is permitted.
    """

    allow_cross_agent: bool = True
    images: tuple[tuple[str, ...], ...] = ()
    exposures: Mapping[str, frozenset[str]] = field(default_factory=lambda: _EXPOSURES)


def decide(kind: str, question: Json, facts: Facts, revision: str) -> Decision:
    """The answer to a question of the kinds in `bundle.KINDS`; `revision` names the policy in force."""
    match kind:
        case "message":
            reasons = _against_message(question, facts)
        case "task":
            reasons = _against_task(question, facts)
        case "delegation":
            reasons = _against_delegation(question, facts)
        case "llm":
            reasons = _against_llm(question, facts)
        case "admission":
            reasons = _against_admission(question, facts)
        case _:
            reasons = [f"there are no rules for questions of kind {kind}"]
    return Decision(allow=not reasons, reasons=tuple(reasons), engine=ENGINE, revision=revision)


def matches_topic(pattern: str, topic: str) -> bool:
    """Whether a dotted topic (or type) fits a pattern: `*` is one part, a last `>` one part or more."""
    wanted, given = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


def _against_message(question: Json, facts: Facts) -> list[str]:
    sender, recipient = _part(question, "sender"), _part(question, "recipient")
    message = _part(question, "message")
    agent, name, kind = _text(sender, "agent"), _text(recipient, "name"), _text(recipient, "kind")
    sent = _text(message, "type")
    if not agent or not sent:
        return ["the question names no sender or no message type"]
    # The router has seen that it answers an open request.
    is_reply = _text(message, "pattern") == "reply"
    if kind == "hub":
        return [] if is_reply or sent in TO_HUB else [f"{sent} is no message for the hub"]
    if kind not in ("agent", "topic") or not name:
        return ["the question names no recipient"]
    if not facts.allow_cross_agent:
        return ["agents may message only the hub (orchestrator.allowCrossAgent is false)"]
    if sent in TO_HUB | FROM_HUB:
        return [f"{sent} is a message of the hub's own and goes between agents in no case"]
    if _text(message, "pattern") == "broadcast":
        return ["only the hub sends broadcasts"]
    if is_reply or any(_grants(grant, kind, name, sent) for grant in _parts(_part(question, "grants"), "sends")):
        return []
    return [f"{agent} has no grant to send {sent} to {kind} {name} (messaging.sends)"]


def _grants(grant: Json, kind: str, name: str, sent: str) -> bool:
    """Types are patterns as topics are. A grant for a topic that names none is for all; one for an agent names them."""
    types = _texts(grant, "types")
    is_type = any(matches_topic(pattern, sent) for pattern in types)
    if kind == "agent":
        return grant.get("to") == name and is_type
    topic = _text(grant, "topic")
    return bool(topic) and matches_topic(topic, name) and (is_type or not types)


def _against_task(question: Json, facts: Facts) -> list[str]:
    task, agent = _part(question, "task"), _part(question, "agent")
    if not _text(agent, "name"):
        return ["there is no such agent"]
    return [
        *_missing(_texts(task, "requires"), agent),
        *_against_sensitivity(_text(task, "sensitivity"), agent, facts),
    ]


def _against_sensitivity(sensitivity: str, agent: Json, facts: Facts) -> list[str]:
    name, exposure = _text(agent, "name"), _text(agent, "exposure")
    allowed = facts.exposures.get(sensitivity)
    if allowed is None:
        return [f"there is no sensitivity {sensitivity!r}"]
    reasons: list[str] = []
    if exposure not in allowed:
        reasons.append(f"{sensitivity} work may not reach {name}, whose model is {exposure or 'unknown'}")
    if sensitivity in SANDBOXED_ONLY and agent.get("sandboxed") is not True:
        reasons.append(f"{sensitivity} work needs an enforced sandbox, which {name} has not")
    return reasons


def _missing(required: Sequence[str], agent: Json) -> list[str]:
    missing = sorted(set(required) - set(_texts(agent, "capabilities")))
    return [f"{_text(agent, 'name')} lacks {', '.join(missing)}"] if missing else []


def _against_delegation(question: Json, facts: Facts) -> list[str]:
    parent, child = _part(question, "parent"), _part(question, "child")
    granted = _part(parent, "delegation")
    name, target = _text(parent, "name"), _text(child, "name")
    if not name or not target:
        return ["the question names no parent or no child"]
    reasons: list[str] = []
    if target not in _texts(granted, "to"):
        reasons.append(f"{name} may not delegate to {target} (delegation.to)")
    depth, deepest = _count(question, "depth", 1), _count(granted, "maxDepth", 1)
    if depth is None or deepest is None or depth > deepest:
        reasons.append(f"depth {depth} is more than {deepest} (delegation.maxDepth)")
    wanted = _texts(question, "capabilities")
    reasons += [*_missing(wanted, parent), *_missing(wanted, child)]
    if _is_spent(question.get("budget_left")):
        reasons.append(f"{name} has no budget left to delegate (delegation.budget)")
    return reasons + _against_sensitivity(_text(_part(question, "task"), "sensitivity"), child, facts)


def _against_llm(question: Json, facts: Facts) -> list[str]:
    """The law of sensitivity; budgets are the relay's."""
    agent, provider = _text(_part(question, "agent"), "name"), _part(question, "provider")
    name, exposure = _text(provider, "name"), _text(provider, "exposure")
    if not agent or not name:
        return ["the question names no agent or no provider"]
    sensitivity = _text(question, "sensitivity")
    allowed = facts.exposures.get(sensitivity)
    if allowed is None:
        return [f"there is no sensitivity {sensitivity!r}"]
    if exposure in allowed and exposure != "none":
        return []
    return [f"{agent} has had {sensitivity} work, which may not reach {name} ({exposure or 'of unknown reach'})"]


def _is_spent(budget: object) -> bool:
    """A number, or numbers by name; nothing said is no limit."""
    if isinstance(budget, Mapping):
        return any(_is_spent(left) for left in budget.values())
    if budget is None:
        return False
    return not isinstance(budget, int | float) or isinstance(budget, bool) or not budget > 0


def _against_admission(question: Json, facts: Facts) -> list[str]:
    kind, name = _text(question, "kind"), _text(question, "name")
    if kind not in ("agent", "task", "router"):
        return [f"there are no rules for resources of kind {kind!r}"]
    spec = question.get("spec")
    if spec is None or kind != "agent":
        return []
    image = _text(_part(question, "spec"), "image")
    # Here, because the router imports this module and does without pydantic.
    from reconciler.settings import permits_image

    if image and facts.images and all(permits_image(patterns, image) for patterns in facts.images):
        return []
    said = "; ".join(" ".join(patterns) for patterns in facts.images)
    return [f"agent {name}: image {image or '(none)'} is not among {said or 'those permitted (none)'}"]


def _part(value: Json, key: str) -> Json:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _parts(value: Json, key: str) -> list[Json]:
    found = value.get(key)
    return [v for v in found if isinstance(v, Mapping)] if isinstance(found, list | tuple) else []


def _text(value: Json, key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) else ""


def _texts(value: Json, key: str) -> list[str]:
    found = value.get(key)
    return [v for v in found if isinstance(v, str)] if isinstance(found, list | tuple) else []


def _count(value: Json, key: str, default: int) -> int | None:
    found = value.get(key, default)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None
