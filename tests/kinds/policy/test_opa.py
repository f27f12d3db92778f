"""The OPA that the hub is to run, as a resource beside the policies: what it lacks, and how it comes and goes."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.change import Action, Cause, Change
from reconciler.core.reading import Ok
from reconciler.errors import PolicyEngineError
from reconciler.kinds import KINDS
from reconciler.kinds.kind import Facts, World
from reconciler.kinds.policy.observe import OPA_WAS_RUNNING, observe
from reconciler.kinds.policy.plan import plan
from reconciler.kinds.policy.state import OpaState, PolicyState
from reconciler.loop.serve import take_down
from reconciler.policy.opa_process import find_opa, stop_opa
from reconciler.settings import OperatorSpec
from tests.fakes.clock import START
from tests.fakes.desired import desired_of
from tests.fakes.fleet import FakeFleet, actions, change_of
from tests.fakes.texts import agent_text, hub_text
from tests.policy.opa_servers import socket_folder
from tests.policy.test_opa_process import Place
from tests.router.fleet import until

FACTS = Facts(now=START, boottime=0.0, boot_id="b")
MANAGED = hub_text(policy={"opa": {"managed": True}})


def planned(hub: str, observed: OpaState) -> list[Change]:
    """The changes of `opa`."""
    return [c for c in plan(desired_of({"hub.yaml": hub}), PolicyState(opa=observed), FACTS) if c.name == "opa"]


@pytest.mark.parametrize(
    ("observed", "action", "cause", "reason"),
    [
        (OpaState(), Action.KEEP, Cause.COMMIT, "there is no program opa on this host; the next engine answers"),
        (OpaState(program="/o"), Action.HOLD, Cause.START, "waits until the router serves the policies"),
        (OpaState(program="/o", wanted="a"), Action.CREATE, Cause.START, "it is not running"),
        (OpaState(program="/o", wanted="a", was_running=True), Action.CREATE, Cause.CRASH, "it is not running"),
        (
            OpaState(program="/o", wanted="a", running="b"),
            Action.RESTART,
            Cause.DRIFT,
            "its program or its configuration changed",
        ),
        (OpaState(program="/o", wanted="a", running="a"), Action.KEEP, Cause.COMMIT, "as in hub.yaml"),
    ],
)
def test_a_managed_opa_is_brought_where_it_should_be(
    observed: OpaState, action: Action, cause: Cause, reason: str
) -> None:
    (change,) = planned(MANAGED, observed)
    assert (change.unit, change.action, change.cause, change.reason) == ("policy/opa", action, cause, reason)
    assert (change.spec, change.spec_digest) == (observed.program, observed.wanted)


@pytest.mark.parametrize(
    ("mode", "action", "said"),
    [
        ("correct", Action.RESTART, ""),
        ("report", Action.HOLD, " (drift is only reported)"),
        ("ignore", Action.KEEP, " (drift is ignored)"),
    ],
)
def test_an_opa_of_another_program_is_restarted_reported_or_left(mode: str, action: Action, said: str) -> None:
    hub = hub_text(policy={"opa": {"managed": True}}, loop={"drift": {"policies": mode}})
    (change,) = planned(hub, OpaState(program="/o", wanted="a", running="b"))
    assert (change.action, change.cause, change.wait_s) == (action, Cause.DRIFT, None)
    assert change.reason == f"its program or its configuration changed{said}"
    (started,) = planned(hub, OpaState(program="/o", wanted="a"))
    assert started.action is Action.CREATE


@pytest.mark.parametrize(
    "policy", [{}, {"opa": {}}, {"opa": {"managed": False}}, {"opa": {"managed": True}, "engines": ["embedded"]}]
)
def test_an_opa_that_nobody_asks_for_is_ended(policy: dict[str, object]) -> None:
    hub = hub_text(policy=policy)
    assert planned(hub, OpaState(program="/o", wanted="a")) == []
    (change,) = planned(hub, OpaState(program="/o", wanted="a", running="a"))
    assert (change.action, change.reason) == (Action.REMOVE, "hub.yaml does not ask for it any more")


@pytest.fixture
def place() -> Iterator[Place]:
    with socket_folder() as folder:
        made = Place(folder)
        yield made
        stop_opa(made.run)


@pytest.fixture
def fleet(place: Place) -> Iterator[FakeFleet]:
    """A hub that may run a program which is no OPA, and has run it."""
    operator = OperatorSpec.model_validate({"policy": {"opaBinary": place.program()}})
    place.run.rename(place.data / "run")
    place.run = place.data / "run"
    made = FakeFleet(place.data, operator)
    made.commit({"agents.d/a.yaml": agent_text()}, hub=MANAGED)
    made.settle()
    yield made
    made.end_hub()


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_its_program_is_looked_for_only_where_hub_yaml_asks_for_it(
    tmp_path: Path, place: Place, is_asked_for: bool
) -> None:
    program = place.program()
    fleet = FakeFleet(tmp_path, OperatorSpec.model_validate({"policy": {"opaBinary": program}}))
    hub = desired_of({"hub.yaml": MANAGED if is_asked_for else hub_text()}).hub
    observed = observe(fleet.world, fleet.router.report(), hub)
    assert observed == Ok(PolicyState(opa=OpaState(program=program if is_asked_for else None)))
    fleet.end_hub()


def test_it_waits_until_the_router_has_said_where_it_listens(place: Place) -> None:
    operator = OperatorSpec.model_validate({"policy": {"opaBinary": place.program()}})
    (place.data / "opa" / "config.yaml").rename(place.data / "later")
    fleet = FakeFleet(place.data, operator)
    fleet.commit({"agents.d/a.yaml": agent_text()}, hub=MANAGED)
    assert actions(fleet.run(), "policy") == {"opa": "hold"}
    assert fleet.router.config["opa"]["url"] is None
    (place.data / "later").rename(place.data / "opa" / "config.yaml")
    (place.data / "run").mkdir(exist_ok=True)
    assert actions(fleet.run(), "policy") == {"opa": "create"}
    assert find_opa(place.data / "run") is not None
    stop_opa(place.data / "run")
    fleet.end_hub()


def kill(place: Place, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    until(lambda: find_opa(place.run) is None)


def test_the_next_hub_adopts_it(place: Place, fleet: FakeFleet) -> None:
    before = find_opa(place.run)
    fleet.restart()
    assert actions(fleet.run(), "policy") == {"opa": "keep"}
    assert find_opa(place.run) == before


def test_one_that_died_is_started_again(place: Place, fleet: FakeFleet) -> None:
    before = find_opa(place.run)
    assert before is not None
    kill(place, before.pid)
    report = fleet.run()
    assert change_of(report, "policy/opa").cause is Cause.CRASH
    after = find_opa(place.run)
    assert after is not None
    assert after.pid != before.pid


def test_another_configuration_is_a_new_start(place: Place, fleet: FakeFleet) -> None:
    before = find_opa(place.run)
    place.configure(7)
    assert actions(fleet.run(), "policy") == {"opa": "restart"}
    assert find_opa(place.run) not in (before, None)


def test_it_ends_with_its_line_in_hub_yaml(place: Place, fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text()}, hub=hub_text())
    fleet.settle()
    assert find_opa(place.run) is None
    assert fleet.router.config["opa"] is None
    assert not fleet.store.get_meta(OPA_WAS_RUNNING)


def test_a_program_that_does_not_start_is_a_failure_that_is_tried_again(place: Place, fleet: FakeFleet) -> None:
    found = find_opa(place.run)
    assert found is not None
    place.program(before="sys.exit('odd')")
    kill(place, found.pid)
    (done,) = fleet.run().failed
    assert done.change.unit == "policy/opa"
    assert "odd" in str(done.outcome)
    place.program()
    fleet.clock.advance(5)
    fleet.settle()
    assert find_opa(place.run) is not None


def test_taking_the_hub_down_ends_it(place: Place, fleet: FakeFleet) -> None:
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    assert take_down(fleet.world, KINDS, desired, drain=False, patience_s=5.0) == ""
    assert find_opa(place.run) is None
    assert not list(Path(place.run / "opa").iterdir())
    fleet.settle()
    assert find_opa(place.run) is not None
    starts = [e.cause for e in fleet.audit() if (e.name, e.action, e.outcome) == ("opa", "create", "applied")]
    assert starts == ["start", "start"]


def test_what_does_not_end_is_left_and_named(place: Place, fleet: FakeFleet) -> None:
    def refuse(_world: World) -> None:
        raise PolicyEngineError("ending opa: process 7 does not end")

    kinds = [replace(k, take_down=refuse) if k.name in ("policy", "task") else k for k in KINDS]
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    left = take_down(fleet.world, kinds, desired, drain=False, patience_s=5.0)
    assert left == "ending opa: process 7 does not end; ending opa: process 7 does not end"
    assert find_opa(place.run) is not None
