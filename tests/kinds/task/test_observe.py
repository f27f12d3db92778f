"""What is read of the runs: enough to plan as if all were read, and no more when more wait."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.change import Action, Change
from reconciler.core.fleet import AgentView
from reconciler.kinds.kind import Desired, Facts, Listening
from reconciler.kinds.manifest import Loaded
from reconciler.kinds.task.observe import AT_ONCE, SHOWN, find_unended, read_states
from reconciler.kinds.task.plan import plan
from reconciler.kinds.task.state import TaskState, TaskStates
from reconciler.ports import Revision
from reconciler.settings import HubSpec
from reconciler.store import records
from reconciler.store.queue import Due
from reconciler.store.records import InstanceRecord, TaskRecord
from reconciler.store.store import Store
from tests.fakes.clock import START
from tests.fakes.fleet import agent_view
from tests.fakes.store import FusedStore
from tests.kinds.task.build import BOOT_S, instance_of, router, run_of, task_of

DUE = Due(boot_id="boot-1", boottime_s=BOOT_S)
HUB = HubSpec.model_validate({"orchestrator": {"maxParallelTasks": 3, "retry": {"maxAttempts": 2}}})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(FusedStore(tmp_path / "state.db")) as opened:
        yield opened


def instance(name: str, max_parallel: int = 1) -> InstanceRecord:
    written = {"labels": {}, "spec": {"tasks": {"maxParallel": max_parallel}}}
    return InstanceRecord(
        name=name,
        agent=name.rpartition("-")[0],
        ordinal=0,
        phase="executing",
        spec_digest="1:a",
        manifest=json.dumps(written),
        revision="r1",
    )


def waiting(number: int, state: TaskState = TaskState.AUTHORISED, **more: Any) -> TaskRecord:
    """A run from the API for the writer, the older the smaller its number."""
    run = run_of(task_of(f"t{number:03}", **more.pop("spec", {})), state)
    values = {"source": "api", "created_at": f"2026-01-01T11:00:{number // 1000:02}.{number % 1000:03}+00:00", **more}
    return replace(run, run=f"r{number:03}", **values)


def read(store: Store, hub: HubSpec = HUB) -> TaskStates:
    return read_states(store, hub, DUE, Listening(at_s=BOOT_S, since={"writer-0": 0.0}))


def planned(states: TaskStates, agents: list[AgentView], hub: HubSpec = HUB) -> list[Change]:
    desired = Desired(revision=Revision(id="r1"), hub=hub, loaded={"task": Loaded(by_name={})})
    facts = Facts(now=START, boottime=BOOT_S, boot_id="boot-1", router=router(), fleet={a.name: a for a in agents})
    return list(plan(desired, states, facts))


def shown(changes: list[Change]) -> dict[str, tuple[str, str]]:
    return {c.name: (str(c.action), c.reason) for c in changes}


def test_of_a_long_line_as_many_are_read_as_could_begin_and_the_last_says_how_many_more_there_are(store: Store) -> None:
    records.put_instance(store, instance("writer-0", max_parallel=2))
    records.put_tasks(store, [waiting(n) for n in range(50)])
    states = read(store)
    assert [r.run for r in states.runs] == ["r000", "r001"]
    assert states.unread == {"writer": 48}
    assert shown(planned(states, [agent_view(instances=(instance_of(),), max_parallel=2)])) == {
        "t000": ("dispatch", "to writer-0"),
        "t001": ("dispatch", "to writer-0; 48 more wait in line"),
    }


def test_one_of_a_line_is_read_though_nobody_is_free_so_that_the_plan_says_why(store: Store) -> None:
    records.put_instance(store, instance("writer-0"))
    records.put_tasks(store, [*(waiting(n) for n in range(5)), waiting(9, TaskState.RUNNING)])
    changes = shown(planned(read(store), [agent_view(instances=(instance_of(),))]))
    assert changes["t000"] == ("hold", "all instances of writer are busy; 4 more wait in line")
    assert sorted(changes) == ["t000", "t009"]


def test_priority_goes_before_age(store: Store) -> None:
    records.put_instance(store, instance("writer-0"))
    records.put_tasks(store, [waiting(1), waiting(2, spec={"priority": 5}), waiting(3)])
    assert [r.run for r in read(store).runs] == ["r002"]


def test_a_run_that_cannot_begin_does_not_stand_before_those_that_ask_for_something_else(store: Store) -> None:
    records.put_instance(store, instance("writer-0"))
    records.put_tasks(store, [waiting(1), waiting(2, spec={"agent": None, "requires": ["docs.write"]})])
    assert [r.run for r in read(store).runs] == ["r001", "r002"]


def test_policy_is_asked_about_so_many_at_once(store: Store) -> None:
    records.put_tasks(store, [waiting(n, TaskState.PENDING, agent="") for n in range(AT_ONCE + 7)])
    states = read(store)
    assert len(states.runs) == AT_ONCE
    assert states.more == {f"r{AT_ONCE - 1:03}": "7 more are asked about next"}


def test_those_that_wait_for_a_task_do_not_hide_those_that_can_begin(store: Store) -> None:
    records.put_instance(store, instance("writer-0"))
    records.put_tasks(store, [waiting(n, spec={"dependsOn": ["t900"]}) for n in range(SHOWN + 20)])
    records.put_tasks(store, [waiting(800), waiting(900, TaskState.RUNNING, agent="other", instance="other-0")])
    states = read(store)
    assert Counter(r.run < "r800" for r in states.runs) == {True: SHOWN, False: 2}
    changes = shown(planned(states, [agent_view(instances=(instance_of(),))]))
    assert changes["t800"] == ("dispatch", "to writer-0")
    assert changes["t009"] == ("hold", "waiting for t900; 20 more wait for other tasks")


@pytest.mark.parametrize(("end", "action"), [("succeeded", "dispatch"), ("failed", "complete")])
def test_the_end_of_a_task_is_seen_by_those_that_wait_for_it(store: Store, end: str, action: str) -> None:
    records.put_instance(store, instance("writer-0"))
    parent = waiting(1, TaskState(end), finished_at="2026-01-01T12:00:00+00:00")
    records.put_tasks(store, [parent, waiting(2, spec={"dependsOn": ["t001"]})])
    changes = shown(planned(read(store), [agent_view(instances=(instance_of(),))]))
    assert changes["t002"][0] == action


def test_of_runs_that_are_tried_again_later_the_next_are_read_and_say_when(store: Store) -> None:
    records.put_instance(store, instance("writer-0"))
    later = [waiting(n, not_before_boot=BOOT_S + 100 - n, attempts=1, reason="failed") for n in range(SHOWN + 5)]
    records.put_tasks(store, [*later, waiting(900)])
    states = read(store)
    assert {r.run for r in states.runs} == {"r900", *(f"r{n:03}" for n in range(5, SHOWN + 5))}
    changes = planned(states, [agent_view(instances=(instance_of(),))])
    assert min(c.wait_s for c in changes if c.wait_s is not None) == pytest.approx(100 - SHOWN - 4)
    assert any(c.reason.endswith("; 5 more are tried again later") for c in changes)


def test_what_waits_since_another_boot_may_begin_at_once(store: Store) -> None:
    records.put_instance(store, instance("writer-0"))
    records.put_tasks(store, [waiting(1, not_before_boot=BOOT_S * 2, boot_id="boot-0")])
    (change,) = planned(read(store), [agent_view(instances=(instance_of(),))])
    assert change.action is Action.DISPATCH


def test_a_run_without_attempts_left_is_ended_though_its_agent_is_busy(store: Store) -> None:
    records.put_instance(store, instance("writer-0"))
    records.put_tasks(store, [waiting(1), waiting(2, attempts=2, reason="failed on writer-0: no")])
    records.put_tasks(store, [waiting(3, attempts=2, reason="failed", spec={"retries": {"maxAttempts": 3}})])
    changes = shown(planned(read(store), [agent_view(instances=(instance_of(ready=False),))]))
    assert changes["t002"] == ("complete", "no attempts left: failed on writer-0: no")
    assert sorted(changes) == ["t001", "t002"]


def test_finished_runs_are_not_read(store: Store) -> None:
    done = [waiting(n, TaskState.SUCCEEDED, finished_at="2026-01-01T12:00:00+00:00") for n in range(3)]
    records.put_tasks(store, [*done, waiting(9, TaskState.FAILED, finished_at="x", escalated="operator")])
    for run in done:
        records.put_result(store, records.ResultRecord(run=run.run))
    assert [r.run for r in read(store).runs] == ["r009"]


def test_a_waiting_run_of_git_whose_manifest_is_gone_is_cancelled_however_far_back_it_stands(store: Store) -> None:
    records.put_instance(store, instance("writer-0"))
    records.put_tasks(store, [*(waiting(n) for n in range(9)), waiting(9, source="git")])
    changes = shown(planned(read(store), [agent_view(instances=(instance_of(),))]))
    assert changes["t009"] == ("cancel", "its manifest was removed from git")


def test_an_end_that_somebody_wrote_by_hand_is_found(store: Store) -> None:
    records.put_tasks(store, [waiting(1, TaskState.CANCELLED)])
    assert find_unended(store) == {"r001": TaskState.PENDING}
    assert [r.run for r in read(store).runs] == ["r001"]


RUNS = st.lists(
    st.fixed_dictionaries(
        {
            "state": st.sampled_from([s for s in TaskState if s != TaskState.CHECKING]),
            "priority": st.integers(0, 2),
            "agent": st.sampled_from(["writer", "other", "gone"]),
            "asks": st.sampled_from([{}, {"agent": None, "requires": ["docs.write"]}]),
            "needs": st.lists(st.integers(0, 30), max_size=1),
            "attempts": st.integers(0, 2),
            "later": st.sampled_from([0.0, 0.0, 5.0]),
        }
    ),
    max_size=30,
)


def build(values: list[dict[str, Any]]) -> list[TaskRecord]:
    out: list[TaskRecord] = []
    for number, v in enumerate(values):
        spec = {"agent": v["agent"], "priority": v["priority"], **v["asks"]}
        if needs := [f"t{n:03}" for n in v["needs"] if n < number]:
            spec["dependsOn"] = needs
        run = waiting(number, v["state"], spec=spec, attempts=v["attempts"], agent=v["agent"], finished_at="")
        if v["state"] in (TaskState.ASSIGNED, TaskState.RUNNING):
            run = replace(run, instance=f"{v['agent']}-0", generation=1)
        if v["state"] == TaskState.AUTHORISED and v["later"]:
            run = replace(run, not_before_boot=BOOT_S + v["later"])
        if v["state"] not in ("pending", "authorised", "assigned", "running"):
            run = replace(run, finished_at="2026-01-01T12:00:00+00:00")
        out.append(run)
    return out


@settings(max_examples=25, deadline=None)
@given(RUNS, st.booleans(), st.integers(1, 3))
def test_what_is_planned_of_a_part_is_what_would_be_planned_of_all(
    values: list[dict[str, Any]], is_ready: bool, places: int
) -> None:
    runs = build(values)
    agents = [
        agent_view("writer", instances=(instance_of(ready=is_ready),), max_parallel=places),
        agent_view("other", instances=(instance_of("other-0"),), max_parallel=1),
    ]
    with tempfile.TemporaryDirectory() as folder, closing(FusedStore(Path(folder) / "state.db")) as store:
        records.put_instance(store, instance("writer-0", places))
        records.put_instance(store, instance("other-0"))
        records.put_tasks(store, runs)
        for run in runs:
            if run.state == TaskState.SUCCEEDED:
                records.put_result(store, records.ResultRecord(run=run.run))
        states = read(store)
    part, whole = acting(planned(states, agents)), acting(planned(replace(states, **all_of(runs)), agents))
    assert part.items() <= whole.items()
    assert bool(part) == bool(whole)
    assert ended_or_begun(part) == ended_or_begun(whole)


def all_of(runs: list[TaskRecord]) -> dict[str, Any]:
    return {"runs": tuple(runs), "around": (), "more": {}, "unread": {}}


def acting(changes: list[Change]) -> dict[str, tuple[str, str]]:
    return {c.spec.run.run: (str(c.action), c.reason.partition("; ")[0]) for c in changes if c.action not in _STILL}


def ended_or_begun(planned: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {run: what for run, what in planned.items() if what[0] != "authorise"}


_STILL = (Action.HOLD, Action.KEEP)
