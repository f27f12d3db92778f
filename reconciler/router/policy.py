"""Step 4: one question, one answer; the engines are asked in order, and what cannot answer is passed over.

An engine that cannot answer raises PolicyEngineError; then the next one is asked, and builtin only where the
configuration permits it as the last resort. An answer, a denial as well as an undefined one, is final.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.router.clock import Minutes
from reconciler.router.engine import NO_FACE
from reconciler.router.message import HUB, Deny, Message
from reconciler.router.registry import Instance
from reconciler.router.rules import Rules

_LOG = logging.getLogger("reconciler.router.policy")
_UNKNOWN = "there is no such recipient, or sending this to it is not allowed"
_MAX_REASON = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressee:
    """Whom a message is for. `is_known` False must look to the sender like a denial."""

    kind: Literal["agent", "topic", "hub"]
    name: str
    is_known: bool = True


class Judge:
    """The chain. `on_change` is called when the first engine stops answering, and when it answers again."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._minutes = Minutes()
        self.is_falling_back = False

    async def check(self, rules: Rules, sender: Instance, addressee: Addressee, message: Message) -> Decision | Deny:
        """The allowing decision, or the denial as the sender may see it."""
        if addressee.kind != HUB and not rules.config.rules.allow_cross_agent:
            rule = "orchestrator.allowCrossAgent is false: agents may message only the hub"
            decision = Decision(allow=False, reasons=(rule,), engine="builtin", revision=rules.policy_revision)
            return _deny(decision, addressee)
        answer = await self._decide(rules, self._ask(rules, sender, addressee, message))
        if answer is None:
            return _unavailable(rules.policy_revision)
        return answer if answer.allow and addressee.is_known else _deny(answer, addressee)

    async def _decide(self, rules: Rules, question: dict[str, Any]) -> Decision | None:
        last_resort = rules.config.rules.last_resort
        for nth, engine in enumerate(rules.engines):
            if nth and engine.name == "builtin" and last_resort != "builtin":
                continue
            try:
                decision = await engine.decide("message", question)
            except PolicyEngineError as error:
                if not self.is_falling_back:
                    _LOG.warning("policy engine %s cannot answer: %s", engine.name, error)
                continue
            self._set_falling_back(nth > 0)
            return decision
        self._set_falling_back(True)
        return None

    def _set_falling_back(self, is_falling_back: bool) -> None:
        if is_falling_back != self.is_falling_back:
            self.is_falling_back = is_falling_back
            self._on_change()

    def _ask(self, rules: Rules, sender: Instance, addressee: Addressee, message: Message) -> dict[str, Any]:
        own = rules.faces.get(sender.agent, NO_FACE)
        other = rules.faces.get(addressee.name, NO_FACE) if addressee.kind == "agent" else NO_FACE
        envelope = message.envelope
        return {
            "sender": {"agent": sender.agent, "instance": sender.name, **own.sender},
            "recipient": {"kind": addressee.kind, "name": addressee.name, **other.recipient},
            "message": {
                "type": envelope.type,
                "pattern": envelope.pattern,
                "size_bytes": message.size_bytes,
                "sensitivity": envelope.sensitivity,
            },
            "grants": own.grants,
            "time": self._minutes.show(time.time()),
        }


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
