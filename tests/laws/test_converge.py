"""What every fleet comes to: what git says, each task once, whatever happens in between."""

import tempfile
from contextlib import suppress
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from reconciler.api.access import RefusedRequest
from reconciler.api.agents import order_agent
from reconciler.core.caller import Caller
from reconciler.kinds.task.state import FINAL
from reconciler.store import audit, records
from tests.fakes.fleet import FakeFleet, show
from tests.laws.fleets import FEW, HUB, RandomFleet, fleets

INCIDENTS = ("crash", "remove", "pause", "limits", "router", "runtime", "hub", "silence", "reboot", "lost answer")


def check(fleet: FakeFleet, revision: RandomFleet) -> None:
    """The fleet is exactly what this revision says, and the record agrees."""
    desired = revision.desired()
    wanted = {f"{n}-{i}" for n, m in desired.of("agent").items() for i in range(m.spec.replicas)}
    assert fleet.containers() == dict.fromkeys(wanted, "running")
    assert {(r.name, r.phase) for r in fleet.instances().values()} == {(n, "executing") for n in wanted}
    assert set(fleet.router.instances) == wanted
    for record in fleet.instances().values():
        assert record.spec_digest == desired.of("agent")[record.agent].digest
    runs = fleet.tasks()
    assert {t.state for t in runs} <= FINAL
    keys = [(t.name, t.spec_digest) for t in runs]
    assert len(keys) == len(set(keys)), "a manifest ran twice"
    assert {(n, m.digest) for n, m in desired.of("task").items()} <= set(keys)
    for run in runs:
        open_attempts = [a for a in records.attempts(fleet.store, run.run) if not a.ended_at]
        assert open_attempts == []
    executed = [(w.run, w.generation) for w in fleet.agents.executed]
    assert len(executed) == len(set(executed)), "one generation was executed twice"
    assert fleet.agents.violations == []
    assert audit.verify_chain(fleet.store)[1] == ""


@FEW
@given(st.lists(fleets(), min_size=1, max_size=3))
def test_any_sequence_of_commits_is_carried_out_to_the_last(revisions: list[RandomFleet]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fleet = FakeFleet(Path(folder))
        for revision in revisions:
            fleet.commit(revision.files, hub=HUB)
            report = fleet.settle(80)
            check(fleet, revision)
        assert {t.state for t in fleet.tasks()} <= {"succeeded", "cancelled"}, show(report)
        refused = [e for e in fleet.audit() if e.outcome == "failed"]
        assert refused == [], "nothing is made twice, so nothing is refused"
        fleet.end_hub()


@FEW
@given(
    st.lists(fleets(), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from(INCIDENTS), st.integers(0, 5)), max_size=8),
)
def test_whatever_happens_between_passes_the_fleet_comes_to_what_git_says(
    revisions: list[RandomFleet], incidents: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fleet = FakeFleet(Path(folder))
        left = list(incidents)
        for revision in revisions:
            fleet.commit(revision.files, hub=HUB)
            for _ in range(6):
                fleet.run()
                fleet.agents.step()
                if left:
                    happen(fleet, *left.pop())
            fleet.runtime.come_back()
            fleet.agents.silent.clear()
        for _ in range(6):
            fleet.clock.advance(60)
            fleet.run()
            fleet.agents.step()
        fleet.settle(200)
        release(fleet)
        fleet.settle(200)
        check(fleet, revisions[-1])
        fleet.end_hub()


def release(fleet: FakeFleet) -> None:
    """As a person does who knows that agents were isolated, and roll-outs taken back, for no fault of theirs."""
    for agent in sorted({r.agent for r in fleet.instances().values()}):
        with suppress(RefusedRequest):
            order_agent(fleet.world, agent, "release", Caller(proven="uid:0"), "")


def happen(fleet: FakeFleet, incident: str, which: int) -> None:
    """Something goes wrong, to one container where it is about one."""
    names = sorted(n for n, state in fleet.containers().items() if state == "running") if incident != "runtime" else []
    name = names[which % len(names)] if names else ""
    match incident:
        case "crash" if name:
            fleet.runtime.crash(name, which)
        case "remove" if name:
            fleet.runtime.remove_by_hand(name)
        case "pause" if name:
            fleet.runtime.pause(name)
        case "limits" if name:
            fleet.runtime.change_field(name, "limits.pids", 7)
        case "silence" if name:
            fleet.agents.silent.add(name)
            fleet.clock.advance(40)
        case "router":
            fleet.router.die()
        case "runtime":
            fleet.runtime.go_down()
            fleet.run()
            fleet.runtime.come_back()
        case "hub":
            fleet.restart()
        case "reboot":
            fleet.clock.reboot()
            fleet.router.die()
            for other in names:
                fleet.runtime.crash(other, 255)
        case "lost answer":
            fleet.runtime.lose_answer_of_next(["create", "start", "stop", "remove", "update"][which % 5])
