"""One sentence on an agent, for each state that it can be in."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.core.change import Action, Change, Suspended
from reconciler.core.condition import Mode
from reconciler.kinds.agent.explain import explain_agent, explain_without_hub
from reconciler.kinds.agent.state import InstanceState, Phase
from reconciler.ports import InstanceReport
from reconciler.store.records import UnitRecord
from tests.fakes.clock import START
from tests.kinds.agent.build import manifest_of, plan_all, record_of, state_of

WRITER = manifest_of()
SLEEPY = manifest_of(idle={"after": "15m"})


def explained(*states: InstanceState, manifest: Any = WRITER, name: str = "writer-0", **facts: Any) -> str:
    return explain_agent(name, plan_all([manifest], *states, **facts), {})


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (
            state_of(record_of(WRITER, phase=Phase.ACTIVATING), container=""),
            "writer-0 is being started, and the hub is about to create it: an earlier attempt did not finish.",
        ),
        (
            state_of(
                record_of(WRITER, phase=Phase.HANDSHAKING, updated_at=START.isoformat()),
                report=InstanceReport(instance="writer-0"),
            ),
            "writer-0 has started, and has not shaken hands: waiting for its handshake (looked at again in 2s).",
        ),
        (state_of(record_of(WRITER)), "writer-0 runs: as in git."),
        (
            state_of(record_of(WRITER), container="exited"),
            "writer-0 runs, and the hub is about to restart it: it exited.",
        ),
        (
            state_of(record_of(WRITER, phase=Phase.UPGRADING)),
            "writer-0 runs, and takes no new tasks, and the hub is about to update it: nothing to drain for any more.",
        ),
        (
            state_of(record_of(WRITER, phase=Phase.QUARANTINED, reason="it was bad"), container="exited"),
            "writer-0 is in quarantine: in quarantine: it was bad.",
        ),
    ],
)
def test_each_state_has_its_sentence(state: InstanceState, sentence: str) -> None:
    assert explained(state) == sentence


def test_one_that_is_not_made_yet_and_one_that_sleeps() -> None:
    assert explained() == "writer-0 is not made yet, and the hub is about to create it: new."
    asleep = state_of(record_of(SLEEPY, phase=Phase.REGISTERED), container="")
    assert explained(asleep, manifest=SLEEPY) == "writer-0 sleeps: it sleeps until there is work for it."


def test_one_that_goes_says_so() -> None:
    record = record_of(WRITER)
    changes = plan_all([], state_of(record))
    assert explain_agent("writer", changes, {}) == (
        "writer-0 runs, and the hub is about to remove it: no longer in git."
    )


def test_an_agent_with_several_instances_is_summed_up() -> None:
    three = manifest_of(replicas=3)
    states = [state_of(record_of(three, n)) for n in range(3)]
    assert explained(*states, manifest=three, name="writer") == "agent writer runs with all 3 instances, as git says."
    states[1] = state_of(record_of(three, 1), container="exited")
    assert explained(*states, manifest=three, name="writer") == (
        "agent writer runs with 2 of 3 instances: writer-1 runs, and the hub is about to restart it: it exited."
    )


def test_what_stands_in_the_way_comes_first() -> None:
    changes = plan_all([WRITER])
    unit = UnitRecord(
        unit="agent/writer-0",
        input_digest="",
        failures=5,
        same_failures=5,
        not_before_boot=0.0,
        boot_id="",
        reason="no such image",
    )
    assert explain_agent("writer", changes, {"agent/writer-0": unit}) == (
        "writer-0 is not made yet: it failed 5 times and is tried again soon: no such image."
    )
    stalled = {"agent/writer-0": replace(unit, stalled=True)}
    assert "stalled after 5 identical failures, until another revision: no such image" in explain_agent(
        "writer", changes, stalled
    )
    assert "the hub is degraded and makes nothing new (new)" in explain_agent("writer", changes, {}, Mode.DEGRADED)


def test_of_nobody_there_is_nothing_to_say() -> None:
    assert explain_agent("nobody", plan_all([WRITER]), {}) == ""
    assert explain_without_hub("nobody", []) == ""


def test_without_a_hub_the_record_speaks() -> None:
    record = record_of(WRITER, reason="it exited with 1", updated_at=(START - timedelta(minutes=1)).isoformat())
    assert explain_without_hub("writer", [record]) == (
        "writer-0 runs (it exited with 1), by the record, and no hub runs to go on with it."
    )


BY = "suspended by uid:7 until 2026-11-21T18:00:00+00:00: we look at it"


def suspended(*changes: Change) -> list[Change]:
    """As a pass holds them."""
    return [
        replace(
            c,
            action=Action.HOLD,
            reason=f"{c.reason}; {BY}",
            suspended=Suspended(by=BY, would=c.action, reason=c.reason),
        )
        if c.action is not Action.KEEP
        else c
        for c in changes
    ]


def test_who_is_suspended_is_not_said_to_be_changed_but_what_would_be_done() -> None:
    planned = suspended(*plan_all([manifest_of(version="2")], state_of(record_of(WRITER))))
    assert explain_agent("writer-0", planned, {}, suspended=BY) == (
        f"writer-0 runs, and is {BY}; without that the hub would replace it: changed in git."
    )


def test_of_several_instances_it_is_said_once() -> None:
    planned = suspended(*plan_all([manifest_of(replicas=2)], state_of(record_of(WRITER), container="exited")))
    assert explain_agent("writer", planned, {}, suspended=BY) == (
        f"agent writer is {BY}; without that the hub would replace writer-0: changed in git; create writer-1: new."
    )


def test_who_is_suspended_while_nothing_is_due_says_that_too() -> None:
    planned = suspended(*plan_all([WRITER], state_of(record_of(WRITER))))
    assert explain_agent("writer-0", planned, {}, suspended=BY) == (
        f"writer-0 runs: as in git; it is {BY}, and nothing would be done without that."
    )
    said = explain_without_hub("writer", [record_of(WRITER)], BY)
    assert said == f"writer-0 runs, by the record, and no hub runs to go on with it; it is {BY}."
