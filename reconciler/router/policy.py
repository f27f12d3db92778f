"""Step 4: one question, one answer, as `chain.py` gets it of the engines, or remembers it.

Nobody is waited for where the answer is remembered, or the built-in rules are the main engine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from reconciler.core.decision import Decision
from reconciler.router.cache import Keys
from reconciler.router.chain import Chain
from reconciler.router.clock import Minutes
from reconciler.router.engine import NO_FACE
from reconciler.router.grants import GrantsEngine
from reconciler.router.message import HUB, Deny, Message
from reconciler.router.registry import Instance
from reconciler.router.rules import Rules

_UNKNOWN = "there is no such recipient, or sending this to it is not allowed"
_MAX_REASON = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressee:
    """Whom a message is for. `is_known` False must look to the sender like a denial.

    `capabilities` are those of an instance that has not all of its agent's.
    """

    kind: Literal["agent", "topic", "hub"]
    name: str
    is_known: bool = True
    capabilities: tuple[str, ...] | None = None


class Judge:
    """Asks the chain. `on_change` is called when the first engine stops answering, and when it answers again.

    `wall_s` is the clock from which policies have their time.
    """

    def __init__(self, on_change: Callable[[], None], wall_s: Callable[[], float] = time.time) -> None:
        self._wall_s = wall_s
        self._minutes = Minutes()
        self._chain = Chain("message", on_change, wall_s)

    @property
    def is_falling_back(self) -> bool:
        return self._chain.is_falling_back

    def decide_now(
        self, rules: Rules, sender: Instance, addressee: Addressee, message: Message
    ) -> Decision | Deny | None:
        """The same as `check` where nobody has to be waited for; None where `check` must be asked."""
        keys = _find_keys(rules, sender, addressee)
        if keys is not None:
            minute = self._minutes.show(self._wall_s()) if keys.reads_time else None
            found = self._chain.recall(keys.make(sender, addressee, message, minute))
            if found is not None:
                if self._chain.is_falling_back and rules.engines[0].is_ready:
                    self._chain.set_falling_back(False)
                return found if found.allow and addressee.is_known else _deny(found, addressee)
        return self._decide_alone(rules, sender, addressee, message)

    async def check(self, rules: Rules, sender: Instance, addressee: Addressee, message: Message) -> Decision | Deny:
        """The allowing decision, or the denial as the sender may see it; asks the engines whatever is remembered."""
        answer = self._decide_alone(rules, sender, addressee, message)
        if answer is not None:
            return answer
        minute = self._minutes.show(self._wall_s())
        question = write_question(rules, sender, addressee, message, minute)
        keys = _find_keys(rules, sender, addressee)
        key = keys.make(sender, addressee, message, minute if keys.reads_time else None) if keys else None
        decision = await self._chain.decide(rules.engines, rules.config.rules, question, key)
        return _unavailable(rules.policy_revision) if decision is None else _answer(decision, addressee)

    def _decide_alone(
        self, rules: Rules, sender: Instance, addressee: Addressee, message: Message
    ) -> Decision | Deny | None:
        """What needs no engine that has to be waited for; None where one is needed."""
        if addressee.kind != HUB and not rules.config.rules.allow_cross_agent:
            rule = "orchestrator.allowCrossAgent is false: agents may message only the hub"
            decision = Decision(allow=False, reasons=(rule,), engine="builtin", revision=rules.policy_revision)
            return _deny(decision, addressee)
        first = rules.engines[0] if rules.engines else None
        if not isinstance(first, GrantsEngine):
            return None
        wall_s = self._wall_s()
        question = write_question(rules, sender, addressee, message, self._minutes.show(wall_s))
        decision = first.answer("message", question)
        keys = _find_keys(rules, sender, addressee)
        if keys is not None:
            self._chain.remember(keys.make(sender, addressee, message, None), decision, wall_s, keys.limit)
        self._chain.set_falling_back(False)
        return _answer(decision, addressee)


def write_question(
    rules: Rules, sender: Instance, addressee: Addressee, message: Message, minute: str
) -> dict[str, Any]:
    """What a policy is asked about a message; `minute` is the time."""
    own = rules.faces.get(sender.agent, NO_FACE)
    other = rules.faces.get(addressee.name, NO_FACE) if addressee.kind == "agent" else NO_FACE
    envelope = message.envelope
    return {
        "sender": {"agent": sender.agent, "instance": sender.name, **own.sender, **_narrowed(sender)},
        "recipient": {"kind": addressee.kind, "name": addressee.name, **other.recipient, **_narrowed(addressee)},
        "message": {
            "type": envelope.type,
            "pattern": envelope.pattern,
            "size_bytes": message.size_bytes,
            "sensitivity": envelope.sensitivity,
        },
        "grants": own.grants,
        "time": minute,
    }


def _narrowed(who: Instance | Addressee) -> dict[str, Any]:
    """What stands in for the capabilities of the agent."""
    return {} if who.capabilities is None else {"capabilities": list(who.capabilities)}


def _find_keys(rules: Rules, sender: Instance, addressee: Addressee) -> Keys | None:
    """None where the question is about less than a whole agent: keys are made of agents."""
    return rules.keys if sender.capabilities is None and addressee.capabilities is None else None


def _answer(decision: Decision, addressee: Addressee) -> Decision | Deny:
    return decision if decision.allow and addressee.is_known else _deny(decision, addressee)


def _deny(decision: Decision, addressee: Addressee) -> Deny:
    """To an agent, one text whether it exists or not; the true reason stands in the log only."""
    why = "; ".join(decision.reasons)[:_MAX_REASON] or "the policy does not allow it"
    is_agent = addressee.kind == "agent"
    return Deny(
        code="unknown_or_forbidden_recipient" if is_agent else "forbidden",
        step="policy",
        reason=_UNKNOWN if is_agent else why,
        private_reason=why if addressee.is_known else "there is no such recipient",
        engine=decision.engine,
        policy_revision=decision.revision,
        cached=decision.cached,
        decided_at=decision.decided_at,
    )


def _unavailable(revision: str) -> Deny:
    reason = "no policy engine can answer now; send again later"
    return Deny(
        code="policy_unavailable",
        step="policy",
        reason=reason,
        retry_after_s=1,
        engine="none",
        policy_revision=revision,
    )
