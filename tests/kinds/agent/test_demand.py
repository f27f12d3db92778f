"""Instances that come and go with their work: sleep and waking, and one instance for each task."""

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.change import Action, Cause, Change
from reconciler.core.outcome import Failed
from reconciler.kinds.agent.demand import needed
from reconciler.kinds.agent.state import InstanceState, Phase
from reconciler.ports import InstanceReport
from tests.fakes.clock import START
from tests.fakes.fleet import FakeFleet, actions, change_of
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.texts import agent_text, task_text
from tests.kinds.agent.build import BOOT_S, facts_of, manifest_of, plan_all, plan_one, record_of, state_of

IDLE = manifest_of(idle={"after": "15m"})
PAIR = manifest_of(idle={"after": "15m"}, replicas=2)
ONCE = manifest_of(mode="per-task", replicas=2)


def awake(quiet: timedelta, **more: Any) -> InstanceState:
    """Ready for so long, and called just now."""
    return state_of(record_of(IDLE, updated_at=(START - quiet).isoformat()), **more)


def asleep(ordinal: int = 0, **more: Any) -> InstanceState:
    return state_of(record_of(IDLE, ordinal, phase=Phase.REGISTERED, token_sha256=""), container="", **more)


def said(change: Change) -> tuple[Action, Cause, str]:
    return change.action, change.cause, change.reason


# --- sleep ------------------------------------------------------------------------------------------------------------


def test_an_instance_without_work_for_long_enough_goes_to_sleep() -> None:
    early = plan_one(IDLE, awake(timedelta(minutes=10)))
    assert (*said(early), early.wait_s) == (Action.KEEP, Cause.COMMIT, "as in git; nothing to do", 300.0)
    assert said(plan_one(IDLE, awake(timedelta(minutes=15)))) == (
        Action.DEACTIVATE,
        Cause.TTL,
        "nothing to do for 15m",
    )


def test_a_task_that_began_or_ended_a_message_or_a_task_that_waits_keeps_it_awake() -> None:
    hour = timedelta(hours=1)
    worked = (START - timedelta(minutes=5)).isoformat()
    assert plan_one(IDLE, awake(hour, worked_at=worked)).wait_s == 600.0
    letter = InstanceReport(instance="writer-0", last_seen=BOOT_S, mailbox_messages=1)
    assert plan_one(IDLE, awake(hour, report=letter)).action is Action.KEEP
    assert plan_one(IDLE, awake(hour), waiting={"writer": 1}).action is Action.KEEP
    assert plan_one(IDLE, awake(hour), busy={"writer-0": 1}).action is Action.KEEP
    assert plan_one(manifest_of(), state_of(record_of(manifest_of()))).reason == "as in git"


def test_a_sleeper_is_kept_until_a_task_or_a_message_is_there_for_it() -> None:
    assert said(plan_one(IDLE, asleep())) == (Action.KEEP, Cause.TTL, "it sleeps until there is work for it")
    why = "there is work for it"
    assert said(plan_one(IDLE, asleep(), waiting={"writer": 1})) == (Action.CREATE, Cause.START, why)
    letter = InstanceReport(instance="writer-0", mailbox_messages=1)
    assert said(plan_one(IDLE, asleep(report=letter))) == (Action.CREATE, Cause.START, why)
    assert plan_one(IDLE, asleep(), waiting={"reader": 1}).action is Action.KEEP


def test_one_that_may_not_sleep_any_more_is_started() -> None:
    change = plan_one(manifest_of(), asleep())
    assert said(change) == (Action.CREATE, Cause.START, "it is not to sleep any more")


def test_a_container_that_is_left_of_a_sleeper_goes() -> None:
    record = record_of(IDLE, phase=Phase.REGISTERED, reason="nothing to do for 15m")
    assert plan_one(IDLE, state_of(record)).action is Action.DEACTIVATE
    assert plan_one(IDLE, state_of(record, sealed=False)).action is Action.HOLD


def test_only_as_many_are_up_as_the_tasks_take_and_who_is_up_comes_first() -> None:
    sleepers, second_up = [asleep(0), asleep(1)], [asleep(0), state_of(record_of(PAIR, 1))]

    def up(states: list[InstanceState], waiting: int, **more: Any) -> set[str]:
        return set(needed(PAIR.spec, "writer", states, facts_of(waiting={"writer": waiting}, **more)))

    assert up(sleepers, 0) == set()
    assert up(sleepers, 1) == {"writer-0"}
    assert up(second_up, 1) == {"writer-1"}
    assert up(second_up, 1, busy={"writer-1": 1}) == {"writer-0", "writer-1"}
    assert up(sleepers, 9) == {"writer-0", "writer-1"}


# --- one instance for each task ---------------------------------------------------------------------------------------


def per_task(*states: InstanceState, **facts: Any) -> dict[str, tuple[Action, Cause, str]]:
    return {str(c.instance): said(c) for c in plan_all([ONCE], *states, **facts)}


def used(**more: Any) -> InstanceState:
    return state_of(record_of(ONCE), worked_at="2026-01-01T11:59:30+00:00", **more)


def test_one_is_made_for_each_task_that_waits_as_far_as_there_are_places() -> None:
    nothing = (Action.KEEP, Cause.START, "one is made for each task")
    made = (Action.CREATE, Cause.START, "a task waits for it")
    assert per_task() == {"writer-0": nothing, "writer-1": nothing}
    assert per_task(waiting={"writer": 1}) == {"writer-0": made, "writer-1": nothing}
    assert per_task(waiting={"writer": 5}) == {"writer-0": made, "writer-1": made}


def test_one_that_is_on_its_way_counts_for_one_task() -> None:
    fresh = state_of(record_of(ONCE, phase=Phase.HANDSHAKING))
    found = per_task(fresh, waiting={"writer": 1})
    assert found["writer-0"][0] is Action.UPDATE
    assert found["writer-1"][0] is Action.KEEP
    assert per_task(fresh, waiting={"writer": 2})["writer-1"][0] is Action.CREATE


def test_it_ends_with_its_task_and_when_nobody_waits_any_more() -> None:
    assert per_task(used(), busy={"writer-0": 1})["writer-0"][0] is Action.KEEP
    assert per_task(used(), waiting={"writer": 3})["writer-0"] == (Action.DEACTIVATE, Cause.TTL, "its task is over")
    fresh = state_of(record_of(ONCE))
    assert per_task(fresh)["writer-0"] == (Action.DEACTIVATE, Cause.TTL, "no task waits for it any more")


# --- in a fleet -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    return FakeFleet(tmp_path)


def sleepy(fleet: FakeFleet, **spec: Any) -> None:
    """A fleet of one agent that has just gone to sleep."""
    fleet.commit({"agents.d/a.yaml": agent_text(idle={"after": "20s"}, **spec)})
    fleet.settle()
    fleet.watch(30, are_calling=True)
    assert fleet.instances()["writer-0"].phase == "registered"


def test_a_sleeper_has_no_container_and_no_token_but_a_mailbox_also_after_a_restart_of_hub_and_router(
    fleet: FakeFleet,
) -> None:
    sleepy(fleet)
    assert fleet.containers() == {}
    assert fleet.router.instances["writer-0"].tokens == frozenset()
    assert not (fleet.folder / "run" / "secrets" / "writer-0").exists()
    assert fleet.look().is_converged
    fleet.restart()
    fleet.router.die()
    fleet.settle()
    assert fleet.router.instances["writer-0"].tokens == frozenset()


def test_a_task_wakes_it_and_is_done_and_it_sleeps_again(fleet: FakeFleet) -> None:
    sleepy(fleet)
    fleet.commit({"agents.d/a.yaml": agent_text(idle={"after": "20s"}), "tasks.d/t.yaml": task_text("one")})
    fleet.settle()
    assert fleet.task("one").state == "succeeded"
    assert fleet.containers() == {"writer-0": "running"}
    fleet.watch(30, are_calling=True)
    assert fleet.containers() == {}


def test_a_message_wakes_it_and_is_not_lost(fleet: FakeFleet) -> None:
    sleepy(fleet)
    fleet.router.instances["writer-0"].mailbox.append(
        {"type": "docs.requested", "pattern": "event", "payload": {"run": "", "generation": 0}}
    )
    fleet.run()
    assert fleet.containers() == {"writer-0": "running"}
    assert len(fleet.router.instances["writer-0"].mailbox) == 1
    fleet.settle()
    assert fleet.instances()["writer-0"].phase == "executing"


LETTER = {"type": "docs.requested", "pattern": "event", "payload": {"run": "", "generation": 0}}


@pytest.mark.parametrize("method", ["create", "start"])
def test_a_message_waits_while_its_container_cannot_be_started(fleet: FakeFleet, method: str) -> None:
    sleepy(fleet)
    fleet.router.instances["writer-0"].mailbox.append(LETTER)
    fleet.runtime.fail_next(method, times=3)
    for _ in range(3):
        (done,) = fleet.run().done
        assert isinstance(done.outcome, Failed)
        assert fleet.router.instances["writer-0"].mailbox == [LETTER]
        fleet.clock.advance(60)
    fleet.run()
    assert fleet.containers() == {"writer-0": "running"}
    assert fleet.router.instances["writer-0"].mailbox == [LETTER]


def kill_everywhere(fleet: FakeFleet, folder: Path) -> Iterator[FakeFleet]:
    """The hub is killed at each effect of its next pass in turn, and started again for two."""
    fleet.end_hub()
    for number in range(1, 100):
        other = fleet.copy(folder.with_name(f"{folder.name}-{number}"), Fuse(number))
        with suppress(KilledError):
            other.run()
        was_killed = other.fuse.is_blown
        other.restart()
        other.run()
        other.run()
        yield other
        other.end_hub()
        if not was_killed:
            assert number > 5
            return
    raise AssertionError("one pass has no end")


def test_a_message_waits_while_the_hub_is_killed_amid_a_wake(fleet: FakeFleet, tmp_path: Path) -> None:
    sleepy(fleet)
    fleet.router.instances["writer-0"].mailbox.append(LETTER)
    for other in kill_everywhere(fleet, tmp_path):
        assert other.containers() == {"writer-0": "running"}
        assert other.router.instances["writer-0"].mailbox == [LETTER], other.fuse.visited


def test_what_waited_for_a_process_that_ended_does_not_reach_the_next(fleet: FakeFleet, tmp_path: Path) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    fleet.router.instances["writer-0"].mailbox.append(LETTER)
    fleet.runtime.remove_by_hand("writer-0")
    for other in kill_everywhere(fleet, tmp_path):
        assert other.containers() == {"writer-0": "running"}
        assert other.router.instances["writer-0"].mailbox == [], other.fuse.visited


def test_it_wakes_as_what_git_says_by_then(fleet: FakeFleet) -> None:
    sleepy(fleet)
    fleet.commit({"agents.d/a.yaml": agent_text(idle={"after": "20s"}, version="2")})
    assert actions(fleet.run()) == {"writer-0": "keep"}
    files = {"agents.d/a.yaml": agent_text(idle={"after": "20s"}, version="2"), "tasks.d/t.yaml": task_text("one")}
    fleet.commit(files)
    fleet.settle()
    assert json.loads(fleet.instances()["writer-0"].manifest)["spec"]["version"] == "2"


def test_a_sleeper_that_leaves_git_leaves_nothing(fleet: FakeFleet) -> None:
    sleepy(fleet)
    fleet.commit({"agents.d/b.yaml": agent_text("reader")})
    fleet.settle()
    assert (list(fleet.instances()), list(fleet.router.instances)) == (["reader-0"], ["reader-0"])
    assert not (fleet.folder / "run" / "hub" / "writer-0").exists()


def test_a_protected_agent_may_sleep(fleet: FakeFleet) -> None:
    sleepy(fleet, lifecycle={"protect": True})
    assert fleet.look().plan.refused == ()


def test_each_task_of_a_per_task_agent_has_an_instance_of_its_own(fleet: FakeFleet) -> None:
    agent = agent_text(mode="per-task", replicas=2, lifecycle={"protect": True})
    fleet.commit({"agents.d/a.yaml": agent})
    fleet.settle()
    assert (fleet.instances(), fleet.containers()) == ({}, {})
    tasks = {f"tasks.d/{n}.yaml": task_text(n) for n in ("one", "two", "three")}
    fleet.commit({"agents.d/a.yaml": agent, **tasks})
    most = 0
    for _ in range(60):
        most = max(most, len(fleet.containers()))
        if fleet.run().is_converged:
            break
        fleet.agents.step()
    assert fleet.states() == {"one": "succeeded", "two": "succeeded", "three": "succeeded"}
    assert (most, fleet.containers(), fleet.instances()) == (2, {}, {})
    created = [e for e in fleet.audit() if e.action == "create" and e.kind == "agent" and e.outcome == "applied"]
    assert len(created) == 3
    assert fleet.agents.violations == []


def test_a_task_that_is_cancelled_before_it_begins_leaves_no_instance(fleet: FakeFleet) -> None:
    agent = agent_text(mode="per-task")
    fleet.commit({"agents.d/a.yaml": agent, "tasks.d/one.yaml": task_text("one")})
    for _ in range(3):
        fleet.run()
    assert fleet.containers() == {"writer-0": "running"}
    fleet.commit({"agents.d/a.yaml": agent})
    fleet.settle()
    assert fleet.containers() == {}


def test_the_workspace_of_an_instance_goes_with_it_unless_it_is_to_stay(fleet: FakeFleet) -> None:
    volume = {"source": "volume", "writable": True}
    files = {
        "agents.d/a.yaml": agent_text("goes", workspace=volume),
        "agents.d/b.yaml": agent_text("stays", workspace={**volume, "retain": True}),
        "agents.d/c.yaml": agent_text("other"),
    }
    fleet.commit(files)
    fleet.settle()
    fleet.commit({**files, "agents.d/a.yaml": agent_text("goes", workspace=volume, version="2")})
    fleet.settle()
    kept = fleet.folder / "instances"
    assert sorted(p.name for p in kept.iterdir()) == ["goes-0", "stays-0"]
    fleet.commit({"agents.d/c.yaml": agent_text("other")})
    fleet.settle()
    assert sorted(p.name for p in kept.iterdir()) == ["stays-0"]


def test_who_sleeps_says_so(fleet: FakeFleet) -> None:
    sleepy(fleet)
    assert change_of(fleet.look(), "agent/writer-0").reason == "it sleeps until there is work for it"
