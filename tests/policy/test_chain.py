"""Who answers, and what happens when nobody can."""

from typing import Any

import pytest

from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.policy.chain import Answer, Chain, Order
from tests.policy.example import bundle_of, message_bundle, message_question, module
from tests.policy.fake_engine import FakeEngine

ALLOWED = message_question()
NOT_GRANTED = message_question(grants={"sends": []})
BUNDLE = bundle_of(
    {
        "a.rego": module('decision := {"allow": true}', "hub.message"),
        "b.rego": module('decision := {"allow": true}', "hub.admission"),
    }
)


class World:
    """Two engines in a chain, and what the hook was told."""

    def __init__(self, order: Order | None = None) -> None:
        self.opa, self.embedded = FakeEngine("opa"), FakeEngine("embedded")
        self.told: list[str | None] = []
        self.chain = Chain(
            {"opa": self.opa, "embedded": self.embedded},
            order or Order(engines=("opa", "embedded", "builtin")),
            self.told.append,
        )
        self.chain.activate(BUNDLE)

    def answer(self, question: dict[str, Any] | None = None, kind: str = "message") -> Answer:
        return self.chain.answer(kind, ALLOWED if question is None else question)


def test_the_first_engine_answers_and_the_others_are_not_asked() -> None:
    world = World()
    decision = Decision(allow=True, engine="opa", revision=BUNDLE.digest)
    assert world.answer() == Answer(decision=decision)
    assert world.embedded.asked == 0


def test_a_denial_is_an_answer() -> None:
    world = World()
    world.opa.allow = False
    answer = world.answer()
    assert (answer.decision.allow, answer.decision.engine, answer.fallback) == (False, "opa", False)
    assert world.embedded.asked == 0


def test_an_engine_that_cannot_answer_is_passed_over_and_named() -> None:
    world = World()
    world.opa.is_down = True
    answer = world.answer()
    assert (answer.decision.engine, answer.fallback) == ("embedded", True)
    assert answer.failures == (("opa", "opa is down"),)


def test_an_answer_for_another_revision_is_none() -> None:
    world = World()
    world.opa.stuck_at = "old"
    answer = world.answer()
    assert answer.decision.engine == "embedded"
    assert answer.failures == (("opa", f"answered for old, not {BUNDLE.digest}"),)


def test_the_last_resort_is_what_the_kind_says() -> None:
    world = World()
    world.opa.is_down = world.embedded.is_down = True
    assert world.answer().decision == Decision(allow=True, engine="builtin", revision=BUNDLE.digest)
    assert not world.answer(NOT_GRANTED).decision.allow
    admission = world.answer(kind="admission")
    assert (admission.decision.allow, admission.decision.engine, admission.fallback) == (False, "none", True)
    assert [name for name, _ in admission.failures] == ["opa", "embedded"]
    assert admission.decision.reasons == (
        "no policy engine can answer (opa: opa is down; embedded: embedded is down), "
        "and the last resort for admission is to deny",
    )


def test_a_kind_without_a_policy_is_the_built_in_rules_and_no_fallback() -> None:
    world = World()
    answer = world.answer({"task": {}, "agent": {}}, kind="task")
    assert (answer.decision.engine, answer.fallback) == ("builtin", False)
    assert world.opa.asked == 0


def test_the_built_in_rules_answer_alone_where_they_come_first() -> None:
    world = World(Order(engines=("builtin", "opa")))
    assert world.answer().decision.engine == "builtin"
    assert world.opa.asked == 0


def test_engines_that_are_listed_but_not_there_are_passed_over() -> None:
    world = World(Order(engines=("missing", "embedded")))
    assert world.answer().decision.engine == "embedded"
    world.chain.configure(Order(engines=("missing",)))
    assert world.answer(kind="admission").decision.engine == "none"


def test_one_alert_when_it_falls_back_and_one_when_it_recovers() -> None:
    world = World()
    world.opa.is_down = True
    for _ in range(3):
        world.answer()
    assert world.told == ["opa: opa is down"]
    assert world.chain.is_falling_back
    world.opa.is_down = False
    for _ in range(3):
        world.answer()
    assert world.told == ["opa: opa is down", None]
    assert not world.chain.is_falling_back


def test_a_kind_without_a_policy_does_not_look_like_a_recovery() -> None:
    world = World()
    world.opa.is_down = True
    world.answer()
    world.answer({}, kind="task")
    assert world.told == ["opa: opa is down"]


def test_a_bundle_is_in_force_as_soon_as_one_engine_has_it() -> None:
    world = World()
    world.opa.is_down = True
    new = message_bundle('decision := {"allow": false}')
    world.chain.activate(new)
    world.opa.is_down = False
    answer = world.answer()
    assert (world.chain.revision, answer.decision.engine, answer.decision.revision) == (
        new.digest,
        "embedded",
        new.digest,
    )
    world.opa.activate(new)
    assert world.answer().decision.engine == "opa"


def test_a_bundle_that_no_engine_takes_leaves_the_last_one() -> None:
    world = World()
    world.opa.is_down = world.embedded.is_down = True
    with pytest.raises(PolicyEngineError, match="opa: opa is down; embedded: embedded is down"):
        world.chain.activate(message_bundle('decision := {"allow": false}'))
    world.opa.is_down = False
    assert (world.chain.revision, world.answer().decision.engine) == (BUNDLE.digest, "opa")


def test_while_a_bundle_is_activated_the_old_and_the_new_one_may_answer() -> None:
    new = message_bundle('decision := {"allow": false}')
    seen: list[Decision] = []

    class Asking(FakeEngine):
        """Takes the bundle, and is asked before the chain knows that it has."""

        def activate(self, bundle: Any) -> None:
            super().activate(bundle)
            seen.append(chain.decide("message", ALLOWED))

    chain = Chain({"embedded": Asking()})
    chain.activate(BUNDLE)
    chain.activate(new)
    assert [d.engine for d in seen] == ["builtin", "embedded"]
    assert seen[1].revision == new.digest


def test_the_first_engine_that_can_checks() -> None:
    world = World()
    assert world.chain.check(BUNDLE)[0].file == "opa"
    world.opa.is_down = True
    assert world.chain.check(BUNDLE)[0].file == "embedded"
    world.embedded.is_down = True
    with pytest.raises(PolicyEngineError, match="no engine can"):
        world.chain.check(BUNDLE)


def test_without_any_bundle_the_built_in_rules_answer() -> None:
    chain = Chain({"embedded": FakeEngine()})
    assert chain.decide("message", ALLOWED) == Decision(allow=True, engine="builtin", revision="")


def test_closing_closes_all() -> None:
    world = World()
    world.chain.close()
    assert world.opa.is_closed
    assert world.embedded.is_closed
