"""`wait`: what came true, what cannot any more, and what has not yet, on the record and by a hub that may be away."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.api.agents import order_agent
from reconciler.api.app import build_app
from reconciler.api.operations import HubOperations
from reconciler.api.server import ApiServer
from reconciler.cli.reading import FleetView
from reconciler.cli.wait import await_goal, wait_command
from reconciler.cli.waiting import Outlook, Seen, parse_goal
from reconciler.core.caller import Caller
from reconciler.errors import UsageError
from reconciler.home import open_home, prepare_run
from reconciler.kinds import KINDS
from reconciler.loop.serve import Hub
from reconciler.loop.suspend import Suspension, suspend
from reconciler.store import records
from tests.fakes.fleet import FLEET, SEAL_KEY, FakeFleet
from tests.fakes.texts import agent_text, task_text


class Place:
    """A fleet of fakes, and its hub's operator plane, which can go away and come back."""

    def __init__(self, fleet: FakeFleet) -> None:
        self.fleet = fleet
        (fleet.folder / "fleet.json").write_text(json.dumps({"fleet": FLEET, "key": SEAL_KEY.hex()}))
        home = open_home(fleet.folder, create=False)
        assert home is not None
        prepare_run(home)
        self.run = home.run
        self.hub = Hub(fleet.loop, fleet.world, KINDS, fleet.inspections)
        self.start()

    def start(self) -> None:
        operations = HubOperations(self.hub, self.fleet.loop, self.fleet.world, lambda _drain: None)
        self.server = ApiServer(build_app(operations), self.run)
        self.server.start()

    def step(self) -> None:
        self.hub.last = self.fleet.run()
        self.fleet.agents.step()

    def settle(self) -> None:
        self.fleet.settle()
        self.hub.last = self.fleet.run()

    def ask(self, *arguments: str, timeout: str = "0s") -> Result:
        places = ("--data", str(self.fleet.folder), "--timeout", timeout)
        return CliRunner().invoke(wait_command, [*arguments, *places], standalone_mode=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp") as short:
        monkeypatch.setenv("RECONCILER_RUN", short)
        fleet = FakeFleet(tmp_path)
        made = Place(fleet)
        yield made
        made.server.stop()
        fleet.end_hub()


def said(result: Result) -> tuple[int, str]:
    assert result.exception is None, result.exception
    return result.return_value, result.stdout + result.stderr


# --- agents -----------------------------------------------------------------------------------------------------------


def test_an_agent_is_ready_when_all_its_instances_are(place: Place) -> None:
    place.fleet.commit({"agents.d/a.yaml": agent_text(replicas=2)})
    assert said(place.ask("agent/writer", "--for", "ready")) == (
        2,
        "error: after 0s the hub knows no agent or instance 'writer'\n",
    )
    place.step()
    code, text = said(place.ask("agent/writer", "--for", "ready"))
    assert (code, text.startswith("error: after 0s 0 of 2 instances of writer are ready: writer-0 is ")) == (2, True)
    place.settle()
    assert said(place.ask("agent/writer", "--for", "ready")) == (0, "2 of 2 instances of writer are ready\n")
    assert said(place.ask("agent/writer-1", "--for", "ready")) == (0, "1 of 1 instances of writer-1 are ready\n")


def test_a_revision_that_no_pass_has_looked_at_says_nothing_of_who_is_ready(place: Place) -> None:
    place.fleet.commit({"agents.d/a.yaml": agent_text()})
    place.settle()
    place.fleet.commit({"agents.d/a.yaml": agent_text(), "agents.d/b.yaml": agent_text("other")})
    place.fleet.run()
    assert said(place.ask("agent/writer", "--for", "ready"))[0] == 2


def test_a_drained_agent_has_no_tasks_left(place: Place) -> None:
    place.fleet.agents.holding.add("one")
    place.fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text("one")})
    for _ in range(6):
        place.step()
    assert said(place.ask("agent/writer", "--for", "drained"))[0] == 2
    order_agent(place.fleet.world, "writer", "drain", Caller(proven="uid:7"), "")
    code, text = said(place.ask("agent/writer", "--for", "drained"))
    assert (code, text.endswith(", with 1 tasks\n")) == (2, True)
    place.fleet.agents.holding.clear()
    for _ in range(4):
        place.step()
    assert said(place.ask("agent/writer", "--for", "drained"))[0] == 0
    assert said(place.ask("agent/writer", "--for", "ready"))[0] == 2


def test_quarantine_suspension_and_the_end_are_seen_on_the_record(place: Place) -> None:
    fleet = place.fleet
    fleet.commit({"agents.d/a.yaml": agent_text(replicas=2)})
    place.settle()
    assert [said(place.ask("agent/writer", "--for", s))[0] for s in ("quarantined", "suspended", "gone")] == [2, 2, 2]
    order_agent(fleet.world, "writer-0", "quarantine", Caller(proven="uid:7"), "")
    place.step()
    assert said(place.ask("agent/writer-0", "--for", "quarantined"))[0] == 0
    assert said(place.ask("agent/writer", "--for", "quarantined"))[0] == 2
    at = fleet.clock.now().isoformat()
    suspend(fleet.world, Suspension(subject="agent/writer", until="", reason="why", actor="uid:7", at=at), "")
    for name in ("writer", "writer-0"):
        answer = said(place.ask(f"agent/{name}", "--for", "suspended"))
        assert answer == (0, "agent/writer is suspended by uid:7: why\n")
    assert said(place.ask("agent/other", "--for", "gone"))[0] == 0


# --- tasks ------------------------------------------------------------------------------------------------------------


def ended(place: Place, state: str) -> None:
    place.fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text("one")})
    place.settle()
    run = replace(place.fleet.task("one"), state=state, reason="because")
    records.put_tasks(place.fleet.store, [run])


@pytest.mark.parametrize(
    ("state", "codes"),
    [
        ("pending", (2, 2, 2)),
        ("checking", (2, 2, 2)),
        ("succeeded", (0, 1, 0)),
        ("failed", (1, 0, 0)),
        ("timed_out", (1, 0, 0)),
        ("rejected", (1, 0, 0)),
        ("cancelled", (1, 1, 0)),
    ],
)
def test_a_task_that_ended_otherwise_cannot_end_as_wanted(
    place: Place, state: str, codes: tuple[int, int, int]
) -> None:
    ended(place, state)
    answers = [said(place.ask("task/one", "--for", wanted)) for wanted in ("succeeded", "failed", "ended")]
    assert tuple(code for code, _ in answers) == codes
    assert all(f"task one: {state}: because" in text for _, text in answers)


def test_a_task_that_is_not_there_may_come(place: Place) -> None:
    place.fleet.commit({"agents.d/a.yaml": agent_text()})
    place.settle()
    assert said(place.ask("task/one", "--for", "ended")) == (2, "error: after 0s there is no task 'one'\n")


# --- the fleet --------------------------------------------------------------------------------------------------------


def test_the_fleet_converges(place: Place) -> None:
    revision = place.fleet.commit({"agents.d/a.yaml": agent_text()})
    place.step()
    assert said(place.ask("--for", "converged"))[0] == 2
    place.settle()
    assert said(place.ask("--for", "converged")) == (0, f"the fleet has converged on {revision[:12]}\n")


def test_what_converged_while_the_source_cannot_be_read_is_not_known_to_be_all(place: Place) -> None:
    place.fleet.commit({"agents.d/a.yaml": agent_text()})
    place.settle()
    place.fleet.source.fail("it is gone")
    place.step()
    code, text = said(place.ask("--for", "converged"))
    assert (code, "SourceUnavailable" in text) == (2, True)


def test_a_revision_that_is_not_valid_neither_converges_nor_is_it_applied(place: Place) -> None:
    first = place.fleet.commit({"agents.d/a.yaml": agent_text()})
    place.settle()
    bad = place.fleet.commit({"agents.d/a.yaml": agent_text(replicas="many")})
    place.step()
    for goal in ("converged", f"revision={bad}"):
        code, text = said(place.ask("--for", goal))
        assert (code, "it has 1 problem; first: agents.d/a.yaml" in text) == (1, True)
    assert said(place.ask("--for", f"revision={first}"))[0] == 0


def test_a_refused_plan_is_waited_for_by_revision_since_it_may_be_confirmed(place: Place) -> None:
    place.fleet.commit({f"agents.d/a{n}.yaml": agent_text(f"a{n}") for n in range(6)})
    place.settle()
    second = place.fleet.commit({"agents.d/a0.yaml": agent_text("a0")})
    place.step()
    code, text = said(place.ask("--for", f"revision={second}"))
    assert (code, " is refused: " in text) == (2, True)
    assert said(place.ask("--for", "converged"))[0] == 1


def test_programs_get_one_object(place: Place) -> None:
    revision = place.fleet.commit({"agents.d/a.yaml": agent_text()})
    place.settle()
    assert json.loads(place.ask("--for", f"revision={revision}", "-o", "json").stdout) == {
        "subject": "fleet",
        "for": f"revision={revision}",
        "outlook": "true",
        "message": f"revision {revision[:12]} is applied",
    }


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_waiting_goes_on_while_the_hub_is_away(place: Place) -> None:
    place.fleet.commit({"agents.d/a.yaml": agent_text()})
    place.settle()
    place.server.stop()
    assert said(place.ask("--for", "converged")) == (
        2,
        "error: after 0s no hub answers, or one of an older release\n",
    )
    goal, outlooks = parse_goal(None, "converged", datetime.now(UTC)), []

    def look(fleet: FleetView) -> Seen:
        seen = goal(fleet)
        outlooks.append(seen.outlook)
        if seen.outlook is Outlook.NOT_YET:
            place.start()
        return seen

    await_goal(look, 600.0, str(place.fleet.folder), str(place.fleet.folder))
    assert outlooks == [Outlook.NOT_YET, Outlook.TRUE]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--for", "ready"), "without KIND/NAME one can wait for converged or revision=REV"),
        (("--for", "revision=abc"), "at least 4 characters"),
        (("agent/a", "--for", "succeeded"), "one of ready, drained, quarantined, suspended, gone"),
        (("task/t", "--for", "ready"), "one of succeeded, failed, ended, suspended"),
        (("policy/p", "--for", "ready"), "write agent/NAME or task/NAME"),
        (("agent/", "--for", "ready"), "write agent/NAME or task/NAME"),
        (("--for", "converged", "--timeout", "soon"), "--timeout: 'soon' is not a duration"),
    ],
)
def test_what_nobody_can_wait_for_is_said_at_once(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    places = ("--data", str(tmp_path))
    answer = CliRunner().invoke(wait_command, [*arguments, *places], standalone_mode=False)
    assert isinstance(answer.exception, UsageError)
    assert message in str(answer.exception)
