"""The hub's main thread: passes until converged, stuck, told to stop, or everything is taken down."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.kinds import KINDS
from reconciler.kinds.kind import Desired
from reconciler.loop.run import PassReport
from reconciler.loop.serve import Hub, nothing_desired, take_down
from reconciler.store import records
from tests.fakes.fleet import FakeFleet, put_beside
from tests.fakes.texts import agent_text, hub_text, task_text

GOOD = {"agents.d/a.yaml": agent_text()}
FAST = hub_text(loop={"resync": "50ms", "concurrency": 2})


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    made = FakeFleet(tmp_path)
    yield made
    made.runtime.close()
    made.end_hub()


def hub_of(
    fleet: FakeFleet,
    faults: list[str] | None = None,
    before_pass: Callable[[], None] = lambda: None,
    after_pass: Callable[[], None] = lambda: None,
) -> Hub:
    """A hub whose agents take a step after each pass, while its clock goes on."""

    def live(_report: PassReport) -> None:
        fleet.agents.step()
        fleet.clock.advance(0.2)

    told = faults if faults is not None else []
    return Hub(
        fleet.loop,
        fleet.world,
        KINDS,
        fleet.inspections,
        before_pass=before_pass,
        after_pass=after_pass,
        on_pass=live,
        on_fault=told.append,
    )


def last_good(fleet: FakeFleet) -> Desired:
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    return desired


def test_one_run_ends_when_the_fleet_is_as_git_says_and_all_tasks_are_done(fleet: FakeFleet) -> None:
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text()}, hub=FAST)
    hub = hub_of(fleet)
    assert hub.run_once(120.0)
    hub.stop()
    assert fleet.states() == {"changelog": "succeeded"}


def test_one_run_need_not_wait_for_tasks(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("changelog")
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text()}, hub=FAST)
    hub = hub_of(fleet)
    assert hub.run_once(20.0, wait_for_tasks=False)
    hub.stop()
    assert fleet.containers() == {"writer-0": "running"}


def test_one_run_ends_at_its_time_out(fleet: FakeFleet) -> None:
    fleet.commit({**GOOD, "agents.d/b.yaml": agent_text("b", image="agents/missing:1")}, hub=FAST)
    hub = hub_of(fleet)
    assert not hub.run_once(0.3)
    hub.stop()


def test_one_run_is_ended_by_a_word(fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/b.yaml": agent_text("b", image="agents/missing:1")}, hub=FAST)
    hub = hub_of(fleet)
    threading.Timer(0.1, hub.stop).start()
    began = time.monotonic()
    assert not hub.run_once(600.0)
    assert time.monotonic() - began < 300


def test_serving_goes_on_until_it_is_stopped_and_leaves_everything_running(fleet: FakeFleet) -> None:
    fleet.commit(GOOD, hub=FAST)
    hub = hub_of(fleet)
    thread = threading.Thread(target=hub.serve)
    thread.start()
    deadline = time.monotonic() + 60
    while fleet.containers() != {"writer-0": "running"} and time.monotonic() < deadline:
        time.sleep(0.01)
    hub.stop()
    thread.join(60)
    assert not thread.is_alive()
    assert not hub.is_going_down
    assert fleet.containers() == {"writer-0": "running"}
    assert fleet.router.is_running


def test_a_fault_ends_a_pass_and_not_the_hub(fleet: FakeFleet, caplog: pytest.LogCaptureFixture) -> None:
    faults: list[str] = []
    fleet.commit(GOOD, hub=FAST)
    divisors = iter([0])
    hub = hub_of(fleet, faults, before_pass=lambda: print(1 // next(divisors, 1)))
    assert hub.run_once(120.0)
    hub.stop()
    assert len(faults) == 1
    assert faults[0].startswith("PassFailed: a fault of the hub's own ended a pass: ZeroDivisionError")
    assert "a pass failed" in caplog.text
    assert fleet.loop.conditions == ()
    ends = [e.reason.partition(":")[0] for e in fleet.audit() if e.action == "PassFailed"]
    assert ends == ["now true", "over"]


def test_a_fault_behind_the_pass_stays_a_condition_until_a_whole_pass_goes_well(fleet: FakeFleet) -> None:
    fleet.commit(GOOD, hub=FAST)
    shown: list[tuple[str, ...]] = []

    def fail() -> None:
        shown.append(tuple(c.type for c in fleet.loop.conditions))
        if len(shown) < 4:
            raise LookupError("a secret of somebody's")

    hub = hub_of(fleet, after_pass=fail)
    assert hub.run_once(20.0)
    hub.stop()
    assert shown[:4] == [(), ("PassFailed",), ("PassFailed",), ("PassFailed",)]
    assert fleet.loop.conditions == ()
    (begun, ended) = [e for e in fleet.audit() if e.action == "PassFailed"]
    assert begun.reason.startswith("now true: a fault of the hub's own ended a pass: LookupError in ")
    assert "test_serve" in begun.reason or "serve.py" in begun.reason
    assert "secret" not in begun.reason
    assert ended.reason == "over: "
    assert [c for c in records.conditions(fleet.store).values() if c.status] == []


def test_a_store_that_cannot_be_written_is_told_as_a_condition(fleet: FakeFleet) -> None:
    faults: list[str] = []
    fleet.commit(GOOD, hub=FAST)
    with fleet.store.read() as session:
        session.connection().exec_driver_sql("PRAGMA query_only=ON")
    hub = hub_of(fleet, faults)
    assert not hub.run_once(0.2)
    hub.stop()
    assert faults
    assert faults[0].startswith("StoreUnwritable: writing ")


# --- down -------------------------------------------------------------------------------------------------------------


def down(
    fleet: FakeFleet,
    desired: Desired | None = None,
    *,
    drain: bool = True,
    patience_s: float = 120.0,
    timeout_s: float = 120.0,
    tell: Callable[[str], None] = print,
) -> str:
    """What is left of the fleet after taking it down."""
    return take_down(
        fleet.world,
        KINDS,
        desired or last_good(fleet),
        drain=drain,
        patience_s=patience_s,
        timeout_s=timeout_s,
        tell=tell,
    )


def test_taking_down_removes_every_container_and_ends_the_router(fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=2), "agents.d/b.yaml": agent_text("reader")})
    fleet.settle()
    assert down(fleet) == ""
    assert (fleet.containers(), fleet.instances(), fleet.router.is_running) == ({}, {}, False)
    rows = [e for e in fleet.audit() if e.action == "remove" and e.outcome == "applied"]
    assert {(e.cause, e.reason) for e in rows} == {("operator", "the hub is taken down")}


def test_taking_down_at_once_does_not_wait_for_tasks_and_loses_none(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("changelog")
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text()})
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    assert down(fleet, drain=False) == ""
    assert fleet.states() == {"changelog": "authorised"}
    fleet.agents.holding.clear()
    fleet.settle()
    assert fleet.states() == {"changelog": "succeeded"}


def test_taking_down_waits_for_tasks_where_it_drains(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("changelog")
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text()})
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    timer = threading.Timer(0.3, fleet.agents.holding.clear)
    timer.start()

    def live() -> None:
        while fleet.router.is_running:
            fleet.agents.step()
            time.sleep(0.05)

    agents = threading.Thread(target=live)
    agents.start()
    assert down(fleet, patience_s=0.1) == ""
    agents.join(60)
    assert fleet.states() == {"changelog": "succeeded"}
    assert fleet.containers() == {}


def test_taking_down_works_without_a_router(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    for desired in (last_good(fleet), nothing_desired()):
        fleet.settle()
        fleet.router.die()
        assert down(fleet, desired) == ""
        assert (fleet.containers(), fleet.router.is_running) == ({}, False)


def test_taking_down_waits_a_while_for_an_engine_that_is_away_and_says_so_at_once(fleet: FakeFleet) -> None:
    told: list[str] = []
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=2)})
    fleet.settle()
    before = fleet.instances()
    fleet.runtime.go_down("no such socket")
    left = down(fleet, patience_s=0.3, tell=told.append)
    assert left == "2 instances on record; the fake runtime cannot be read: list: no such socket"
    assert told == [f"waiting: {left}"]
    assert (fleet.instances(), fleet.router.is_running) == (before, True)
    fleet.runtime.come_back()
    assert down(fleet) == ""
    assert fleet.containers() == {}


def test_taking_down_goes_on_when_the_engine_comes_back_in_time(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.runtime.go_down()
    assert down(fleet, tell=lambda _text: fleet.runtime.come_back()) == ""
    assert fleet.containers() == {}


def test_taking_down_gives_up_on_what_the_engine_refuses_to_remove(fleet: FakeFleet) -> None:
    told: list[str] = []
    fleet.commit({**GOOD, "agents.d/b.yaml": agent_text("reader")})
    fleet.settle()
    fleet.runtime.refuse_next("stop", "it does not end")
    left = down(fleet, patience_s=0.3, tell=told.append)
    assert "1 instance on record; stalled after 1 identical failures: stop " in left
    assert "it does not end" in told[0]
    assert len(fleet.containers()) == 1


def test_taking_down_ends_at_its_time_out_while_tasks_are_waited_for(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("changelog")
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text()})
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    assert down(fleet, timeout_s=0.3) == "1 instance on record; draining: 1 running, at most 10m more"


def test_what_no_revision_describes_any_more_can_be_taken_down(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    assert down(fleet, nothing_desired()) == ""
    assert fleet.containers() == {}


def test_taking_down_leaves_what_is_not_ours(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    put_beside(fleet, "stranger", {})
    assert down(fleet) == ""
    assert fleet.containers() == {"stranger": "running"}
