"""The table of conditions and modes, row by row: what stops, what goes on, and that all of it comes back by itself.

What routing does in each row is the router's own, and is tested there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core.condition import Mode
from reconciler.errors import StoreError
from reconciler.kinds import KINDS
from reconciler.loop.conditions import Fault
from reconciler.loop.run import Loop
from tests.fakes.agents import FakeAgents
from tests.fakes.fleet import FLEET, FakeFleet, told
from tests.fakes.runtime import FusedRuntime
from tests.fakes.texts import IMAGE, agent_text, hub_text, task_text

AGENTS = {"agents.d/a.yaml": agent_text(tasks={"maxParallel": 5})}
RUNNING = {**AGENTS, "tasks.d/long.yaml": task_text("long", timeout="1h")}
MORE = {**RUNNING, "agents.d/b.yaml": agent_text("reader"), "tasks.d/new.yaml": task_text("new")}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `new_work` says whether what is committed meanwhile is carried out."""

    condition: str
    mode: Mode
    new_work: bool
    begin: Callable[[FakeFleet], None]
    end: Callable[[FakeFleet], None]


def break_router(fleet: FakeFleet) -> None:
    fleet.router.die()
    fleet.router.fail_next("start", 1000)
    fleet.run()
    fleet.clock.advance(5)


def mend_router(fleet: FakeFleet) -> None:
    fleet.router.fail_next("start", -1000)
    fleet.clock.advance(60)


def fill_log(fleet: FakeFleet) -> None:
    fleet.router.is_log_full = True


def empty_log(fleet: FakeFleet) -> None:
    fleet.router.is_log_full = False


def fall_back(fleet: FakeFleet) -> None:
    fleet.router.policy_fault = "opa: connection refused"


def come_back(fleet: FakeFleet) -> None:
    fleet.router.policy_fault = ""


TABLE = (
    Row("LogUnwritable", Mode.DEGRADED, False, fill_log, empty_log),
    Row("RuntimeUnavailable", Mode.DEGRADED, False, lambda f: f.runtime.go_down(), lambda f: f.runtime.come_back()),
    Row("RouterDown", Mode.DEGRADED, False, break_router, mend_router),
    Row("PolicyFallback", Mode.NORMAL, True, fall_back, come_back),
)
CUT_OFF = ("RouterDown", "RuntimeUnavailable")
"""Where the agents of these tests cannot be seen, or cannot call."""
each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.condition)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    """A fleet at work on one task that goes on."""
    made = FakeFleet(tmp_path)
    made.agents.holding.add("long")
    made.commit(RUNNING)
    made.watch(10, are_calling=True)
    assert made.states() == {"long": "running"}
    yield made
    made.end_hub()


def is_taken_up(fleet: FakeFleet) -> tuple[bool, bool]:
    """Whether the new agent has a container, and whether the new task is with an agent."""
    return "reader-0" in fleet.containers(), fleet.states().get("new", "pending") not in ("pending", "authorised")


@each_row
def test_new_work_is_as_the_table_says_and_what_runs_goes_on(fleet: FakeFleet, row: Row) -> None:
    before = fleet.task("long")
    row.begin(fleet)
    fleet.commit(MORE)
    for _ in range(4):
        report = fleet.run()
        if row.condition not in CUT_OFF:
            fleet.agents.step()
    assert set(told(report)) == {row.condition}
    assert report.mode is row.mode
    row.end(fleet)
    if not row.new_work:
        assert is_taken_up(fleet) == (False, False)
    else:
        assert is_taken_up(fleet) == (True, True)
    assert fleet.task("long") == before
    fleet.agents.holding.clear()
    fleet.settle()
    assert (fleet.loop.mode, told(fleet.run())) == (Mode.NORMAL, {})
    assert fleet.states() == {"long": "succeeded", "new": "succeeded"}
    assert fleet.task("long").attempts == 1


@pytest.mark.parametrize("row", [r for r in TABLE if r.condition != "RouterDown"], ids=lambda row: row.condition)
def test_what_was_reported_of_a_task_is_taken_in_meanwhile(fleet: FakeFleet, row: Row) -> None:
    row.begin(fleet)
    fleet.run()
    work = {"task": "long", "run": fleet.task("long").run, "generation": 1}
    fleet.router.post("writer-0", "task.completed", {**work, "exit_code": 0, "result": None, "artefacts": []})
    fleet.run()
    assert fleet.states() == {"long": "succeeded"}


@each_row
def test_the_mode_is_kept_over_a_restart_until_its_cause_is_gone(fleet: FakeFleet, row: Row) -> None:
    row.begin(fleet)
    fleet.run()
    fleet.restart()
    assert fleet.loop.mode is row.mode


@pytest.mark.parametrize(
    ("begin", "condition"),
    [
        (lambda f: f.source.fail("no such branch"), "SourceUnavailable"),
        (lambda f: f.commit({"agents.d/a.yaml": "nonsense"}), "ConfigInvalid"),
    ],
)
def test_without_a_good_revision_the_last_one_stays_in_force_and_work_goes_on(
    fleet: FakeFleet, begin: Callable[[FakeFleet], object], condition: str
) -> None:
    begin(fleet)
    fleet.agents.holding.clear()
    for _ in range(3):
        fleet.agents.step()
        report = fleet.run()
    assert (set(told(report)), report.mode) == ({condition}, Mode.NORMAL)
    assert fleet.states() == {"long": "succeeded"}
    fleet.runtime.remove_by_hand("writer-0")
    fleet.run()
    assert fleet.containers() == {"writer-0": "running"}


def test_while_state_db_cannot_be_written_nothing_new_is_done_and_what_runs_goes_on(fleet: FakeFleet) -> None:
    fleet.commit(MORE)
    with fleet.store.read() as session:
        session.connection().exec_driver_sql("PRAGMA query_only=ON")
    for _ in range(3):
        with pytest.raises(StoreError) as failed:
            fleet.run()
        fleet.loop.note_store_fault(str(failed.value))
        fleet.agents.step()
    assert [c.type for c in fleet.loop.conditions] == ["StoreUnwritable"]
    assert fleet.loop.mode is Mode.DEGRADED
    assert fleet.containers() == {"writer-0": "running"}
    with fleet.store.read() as session:
        session.connection().exec_driver_sql("PRAGMA query_only=OFF")
    assert is_taken_up(fleet) == (False, False)
    fleet.agents.holding.clear()
    fleet.settle()
    assert (fleet.loop.mode, fleet.loop.conditions) == (Mode.NORMAL, ())
    assert fleet.states() == {"long": "succeeded", "new": "succeeded"}


def test_policies_that_fall_back_in_the_hub_itself_leave_it_normal(fleet: FakeFleet) -> None:
    faults: list[Fault] = [("PolicyFallback", "EngineAway", "embedded: it ended")]
    fleet.loop.close()
    fleet.loop = Loop(fleet.world, KINDS, faults=lambda: faults)
    fleet.commit(MORE)
    for _ in range(6):
        report = fleet.run()
        fleet.agents.step()
    assert (set(told(report)), report.mode) == ({"PolicyFallback"}, Mode.NORMAL)
    assert is_taken_up(fleet) == (True, True)


class PlainProcesses(FusedRuntime):
    """What isolates nothing."""

    @property
    def name(self) -> str:
        return "process"


def test_an_unsandboxed_runtime_is_shown_always_and_takes_no_confidential_work(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    fleet.end_hub()
    fleet.runtime = PlainProcesses(FLEET)
    fleet.runtime.add_image(IMAGE, "sha256:base1")
    fleet.agents = FakeAgents(fleet.runtime, fleet.router)
    fleet.start_hub()
    tasks = {f"tasks.d/{s}.yaml": task_text(s, sensitivity=s) for s in ("internal", "confidential", "restricted")}
    fleet.commit({**AGENTS, **tasks}, hub=hub_text())
    for _ in range(8):
        report = fleet.run()
        fleet.agents.step()
    assert (set(told(report)), report.mode) == ({"SandboxNotEnforced"}, Mode.NORMAL)
    assert fleet.states() == {"internal": "succeeded", "confidential": "rejected", "restricted": "rejected"}
    fleet.end_hub()
