"""Carrying a plan out: which changes wait, what is noted of each, and that one's fault is not another's."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.core.condition import Mode
from reconciler.core.outcome import Applied, Failed, Outcome, Skipped
from reconciler.core.plan import Plan
from reconciler.errors import NameTakenError, RouterError, RuntimeRefusedError
from reconciler.kinds import KINDS
from reconciler.kinds.kind import Desired, Kind, World
from reconciler.loop.apply import TRANSIENT_CAP_S, Applying, Done, apply_plan
from reconciler.ports import Revision
from reconciler.settings import HubSpec
from reconciler.store import records
from tests.fakes.fleet import FakeFleet

DESIRED = Desired(
    revision=Revision(id="r1", author="Ada"), hub=HubSpec.model_validate({"loop": {"stalledAfter": 2}}), loaded={}
)


class Scripted:
    """A kind whose changes come out as told; `applied` lists what was tried, in order."""

    def __init__(self, **outcomes: Outcome | Exception) -> None:
        self.applied: list[str] = []
        self._outcomes = outcomes

    def kind(self, name: str = "agent") -> Kind:
        return replace(next(k for k in KINDS if k.name == name), apply=self._apply)

    def _apply(self, change: Change, _world: World, _desired: Desired) -> Outcome:
        self.applied.append(change.name)
        outcome = self._outcomes.get(change.name, Applied())
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def change(name: str, action: Action = Action.CREATE, kind: str = "agent", **more: Any) -> Change:
    values = {"reason": "because", "spec_digest": "1:a", **more}
    return Change(kind=kind, name=name, action=action, **values)


def carry_out(
    fleet: FakeFleet, script: Scripted, *changes: Change, mode: Mode = Mode.NORMAL, desired: Desired = DESIRED
) -> dict[str, Outcome]:
    plan = Plan(revision=desired.revision.id, compared_with="engine", changes=changes)
    told: list[Done] = []
    with ThreadPoolExecutor(max_workers=1) as pool:
        job = Applying(
            world=fleet.world, desired=desired, pool=pool, mode=mode, policy_revision="1:p", report=told.append
        )
        done = apply_plan(plan, [script.kind(k) for k in ("schema", "agent", "task")], job)
    assert tuple(told) == done
    return {d.change.name: d.outcome for d in done}


def rows(fleet: FakeFleet) -> list[tuple[str, str, str]]:
    return [(e.name, e.outcome, e.reason) for e in fleet.audit()]


def test_kinds_go_in_their_order_and_keep_and_hold_are_left_out(fleet: FakeFleet) -> None:
    script = Scripted()
    changes = (
        change("t", kind="task"),
        change("a"),
        change("kept", Action.KEEP),
        change("held", Action.HOLD),
        change("s", kind="schema"),
    )
    carry_out(fleet, script, *changes)
    assert script.applied == ["s", "a", "t"]


def test_what_came_of_each_is_noted_with_who_and_why(fleet: FakeFleet) -> None:
    script = Scripted(b=Failed(reason="no space"), c=Skipped(reason="changed meanwhile"), d=Applied(note="note"))
    fields = (FieldChange(path="x", before=1, after=2), FieldChange(path="y", after=[3]))
    drift = change("a", cause=Cause.DRIFT, fields=fields)
    carry_out(fleet, script, drift, change("b"), change("c"), change("d"))
    assert rows(fleet) == [
        ("a", "intent", "because"),
        ("b", "intent", "because"),
        ("c", "intent", "because"),
        ("d", "intent", "because"),
        ("a", "applied", "because"),
        ("b", "failed", "no space"),
        ("c", "skipped", "changed meanwhile"),
        ("d", "applied", "note"),
    ]
    entry = fleet.audit()[0]
    assert (entry.actor, entry.cause, entry.before, entry.after) == ("hub", "drift", '{"x": 1}', '{"x": 2, "y": [3]}')
    assert (entry.policy_revision, entry.revision) == ("1:p", "r1")
    assert fleet.audit()[1].actor == "Ada"


def test_what_is_done_is_on_record_while_others_are_at_work(fleet: FakeFleet) -> None:
    told = threading.Event()
    on_record: list[tuple[str, str, str]] = []

    def carry_out_one(change: Change, _world: World, _desired: Desired) -> Outcome:
        return Applied() if change.name == "quick" or told.wait(60) else Failed(reason="nothing was told")

    def tell(done: Done) -> None:
        if not told.is_set():
            on_record.extend(rows(fleet))
            told.set()

    kind = replace(Scripted().kind(), apply=carry_out_one)
    plan = Plan(revision="r1", compared_with="engine", changes=(change("slow"), change("quick")))
    with ThreadPoolExecutor(max_workers=2) as pool:
        done = apply_plan(
            plan, [kind], Applying(world=fleet.world, desired=DESIRED, pool=pool, mode=Mode.NORMAL, report=tell)
        )
    assert [(d.change.name, d.outcome) for d in done] == [("slow", Applied()), ("quick", Applied())]
    assert on_record[2:] == [("quick", "applied", "because")]


def test_an_error_of_the_surroundings_is_a_failure_with_its_cause(fleet: FakeFleet) -> None:
    cause = RouterError("sending to writer-0")
    cause.__cause__ = OSError("connection refused")
    script = Scripted(a=cause, b=RuntimeRefusedError("it declares volumes"))
    outcomes = carry_out(fleet, script, change("a"), change("b"))
    assert outcomes == {
        "a": Failed(reason="sending to writer-0: connection refused", transient=True),
        "b": Failed(reason="it declares volumes", retryable=False),
    }


def test_a_failed_unit_waits_and_then_tries_again(fleet: FakeFleet) -> None:
    script = Scripted(a=Failed(reason="no"))
    carry_out(fleet, script, change("a"))
    waiting = carry_out(fleet, script, change("a"))["a"]
    assert isinstance(waiting, Skipped)
    assert waiting.reason.startswith("failed 1 times, next attempt in 0.")
    fleet.clock.advance(1)
    carry_out(fleet, script, change("a"))
    assert script.applied == ["a", "a"]


def test_another_input_does_not_wait(fleet: FakeFleet) -> None:
    script = Scripted(a=Failed(reason="no"))
    carry_out(fleet, script, change("a"))
    for other in (change("a", spec_digest="1:b"), change("a", Action.REPLACE)):
        assert isinstance(carry_out(fleet, script, other)["a"], Failed)
    carry_out(fleet, script, change("a"))
    newer = replace(DESIRED, revision=Revision(id="r2"))
    assert isinstance(carry_out(fleet, script, change("a"), desired=newer)["a"], Failed)


def test_identical_failures_stall_and_what_will_never_work_stalls_at_once(fleet: FakeFleet) -> None:
    script = Scripted(a=Failed(reason="same"), b=Failed(reason="never", retryable=False))
    for _ in range(3):
        carry_out(fleet, script, change("a"), change("b"))
        fleet.clock.advance(400)
    units = records.units(fleet.store)
    assert (units["agent/a"].stalled, units["agent/a"].same_failures) == (True, 2)
    assert (units["agent/b"].stalled, units["agent/b"].failures) == (True, 1)
    assert script.applied == ["a", "b", "a"]


def test_a_part_that_does_not_answer_never_stalls_a_unit(fleet: FakeFleet) -> None:
    script = Scripted(
        a=RouterError("send: no answer"),
        b=Failed(reason="not there", transient=True),
        c=NameTakenError("create c: the name is in use"),
    )
    for _ in range(10):
        carry_out(fleet, script, change("a"), change("b"), change("c"))
        fleet.clock.advance(TRANSIENT_CAP_S)
    assert script.applied == ["a", "b", "c"] * 10
    assert not any(unit.stalled for unit in records.units(fleet.store).values())


def test_success_ends_a_back_off(fleet: FakeFleet) -> None:
    carry_out(fleet, Scripted(a=Failed(reason="no")), change("a"))
    fleet.clock.advance(1)
    carry_out(fleet, Scripted(), change("a"))
    assert records.units(fleet.store) == {}


@pytest.mark.parametrize("action", [Action.CREATE, Action.REPLACE, Action.DISPATCH])
def test_a_degraded_hub_provisions_and_dispatches_nothing(fleet: FakeFleet, action: Action) -> None:
    script = Scripted()
    changes = (change("a", action), change("t", action, "task"), change("s", action, "schema"))
    outcomes = carry_out(fleet, script, *changes, mode=Mode.DEGRADED)
    assert script.applied == ["s"]
    assert outcomes["a"] == Skipped(reason="the hub is degraded; nothing new is provisioned or dispatched")


@pytest.mark.parametrize("action", [Action.REMOVE, Action.RESTART, Action.UPDATE, Action.CANCEL, Action.COMPLETE])
def test_a_degraded_hub_goes_on_with_the_rest(fleet: FakeFleet, action: Action) -> None:
    script = Scripted()
    carry_out(fleet, script, change("a", action), mode=Mode.DEGRADED)
    assert script.applied == ["a"]


class Joining(Scripted):
    """All creations in one; `joint` lists the groups that were tried."""

    def __init__(self, joint_outcomes: list[Outcome] | Exception, **outcomes: Outcome | Exception) -> None:
        super().__init__(**outcomes)
        self.joint: list[list[str]] = []
        self._joint_outcomes = joint_outcomes

    def kind(self, name: str = "agent") -> Kind:
        def join(changes: Sequence[Change]) -> Sequence[Sequence[Change]]:
            return [[c for c in changes if c.action is Action.CREATE]]

        return replace(super().kind(name), join=join, apply_joint=self._apply_joint)

    def _apply_joint(self, changes: Sequence[Change], _world: World, _desired: Desired) -> Sequence[Outcome]:
        self.joint.append([c.name for c in changes])
        if isinstance(self._joint_outcomes, Exception):
            raise self._joint_outcomes
        return self._joint_outcomes


def test_what_a_kind_joins_is_applied_at_once_and_noted_in_the_order_of_the_plan(fleet: FakeFleet) -> None:
    script = Joining([Applied(note="1"), Failed(reason="2")])
    done = carry_out(fleet, script, change("a"), change("b", Action.UPDATE), change("c"))
    assert (script.joint, script.applied) == ([["a", "c"]], ["b"])
    assert list(done.items()) == [("a", Applied(note="1")), ("b", Applied()), ("c", Failed(reason="2"))]
    assert sorted(rows(fleet)[3:]) == [("a", "applied", "1"), ("b", "applied", "because"), ("c", "failed", "2")]
    assert list(records.units(fleet.store)) == ["agent/c"]


def test_one_alone_is_applied_by_itself_and_what_waits_is_not_joined(fleet: FakeFleet) -> None:
    carry_out(fleet, Scripted(b=Failed(reason="never", retryable=False)), change("b"))
    script = Joining([])
    done = carry_out(fleet, script, change("a"), change("b"))
    assert (script.joint, script.applied) == ([], ["a"])
    assert isinstance(done["b"], Skipped)


@pytest.mark.parametrize("error", [RouterError("sending"), ValueError("a fault"), None])
def test_where_several_at_once_fail_each_is_applied_by_itself(fleet: FakeFleet, error: Exception | None) -> None:
    script = Joining(error if error is not None else [Applied()], b=ValueError("poison"))
    done = carry_out(fleet, script, change("a"), change("b"), change("c"))
    assert script.applied == ["a", "b", "c"]
    assert [type(d) for d in done.values()] == [Applied, Failed, Applied]
