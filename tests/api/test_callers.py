"""Operations by hand say who asked and why: in each row of the log in one form, and refused where a reason lacks."""

import asyncio
import json
import pwd
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from reconciler.api.app import build_app
from reconciler.api.operations import HubOperations
from reconciler.kinds import KINDS
from reconciler.loop.serve import Hub
from reconciler.settings import OperatorAudit, OperatorSpec
from tests.api.test_messages import ToldRouter
from tests.api.test_tasks import by_any_peer, request
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, task_text

BY_HAND = [
    ("POST", "/api/v1/suspensions", {"subject": "agent/writer"}),
    ("DELETE", "/api/v1/suspensions/agent/writer", None),
    ("POST", "/api/v1/agents/writer/drain", None),
    ("POST", "/api/v1/agents/writer/release", None),
    ("POST", "/api/v1/agents/writer/restart", None),
    ("POST", "/api/v1/agents/writer/quarantine", None),
    ("POST", "/api/v1/tasks/job/cancel", None),
    ("POST", "/api/v1/tasks/job/retry", None),
    ("POST", "/api/v1/messages", {"type": "note.left", "to": "writer"}),
    ("POST", "/api/v1/down", None),
]
ALICE = {"as": "alice", "reason": "it leaks"}


class Plane:
    """A fleet with one agent and one task on its way, and the calls on its operator plane."""

    def __init__(self, folder: Path, operator: OperatorSpec) -> None:
        self.fleet = FakeFleet(folder, operator)
        self.fleet.commit({"agents.d/a.yaml": agent_text()})
        self.fleet.settle()
        self.fleet.agents.holding.add("job")
        self.fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text("job")})
        self.fleet.run()
        self.hub = hub = Hub(self.fleet.loop, self.fleet.world, KINDS, self.fleet.inspections)
        hub.last = self.fleet.look()
        world = replace(self.fleet.world, router=ToldRouter(self.fleet.clock))
        self.app = build_app(HubOperations(hub, self.fleet.loop, world, lambda _drain: None), by_any_peer)

    def call(self, method: str, path: str, body: Any = None, **said: str) -> tuple[int, Any]:
        target = f"{path}?{urlencode(said)}" if said else path
        content = json.dumps(body).encode() if body is not None else b""
        return asyncio.run(request(self.app, method, target, content, {}))

    def asked(self) -> list[tuple[str, str, str]]:
        """Action, actor and reason of what was done by hand."""
        rows = (e for e in self.fleet.audit() if e.cause == "operator" and e.actor.startswith("uid:"))
        return [(e.action, e.actor, e.reason) for e in rows]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    made = Plane(tmp_path, OperatorSpec())
    yield made
    made.fleet.end_hub()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Plane]:
    made = Plane(tmp_path, OperatorSpec(audit=OperatorAudit.model_validate({"reasonRequired": True})))
    yield made
    made.fleet.end_hub()


def test_every_operation_by_hand_is_a_row_with_name_and_reason(plane: Plane) -> None:
    for method, path, body in BY_HAND:
        code, answer = plane.call(method, path, body, **ALICE)
        assert code < 300, (path, answer)
    assert [(actor, reason.rpartition(": ")[2]) for _, actor, reason in plane.asked()] == [
        ("uid:7 (alice)", "it leaks")
    ] * len(BY_HAND)
    said = {reason for action, _, reason in plane.asked() if action != "suspend"}
    assert said == {"asked for: it leaks"}


def test_whoever_gives_no_name_is_called_by_the_login(plane: Plane) -> None:
    assert plane.call("POST", "/api/v1/agents/writer/drain")[0] == 202
    assert plane.asked() == [("drain", f"uid:7 ({pwd.getpwuid(7).pw_name})", "asked for")]


@pytest.mark.parametrize(("method", "path", "body"), BY_HAND)
def test_without_a_reason_that_is_required_nothing_is_done_and_the_option_is_named(
    strict: Plane, method: str, path: str, body: Any
) -> None:
    code, problem = strict.call(method, path, body, **{"as": "alice", "reason": "   "})
    assert (code, problem["status"]) == (400, 400)
    assert "--reason TEXT, in the API with ?reason=TEXT" in problem["detail"]
    assert strict.asked() == []


def test_looking_and_giving_work_take_no_reason(strict: Plane) -> None:
    for path in ("/status", "/api/v1/plan", "/api/v1/tasks", "/api/v1/suspensions"):
        assert strict.call("GET", path)[0] == 200
    content = task_text("other").encode()
    assert asyncio.run(request(strict.app, "POST", "/api/v1/tasks?as=alice", content, {}))[0] == 202
    (row,) = [e for e in strict.fleet.audit() if e.action == "create" and e.name == "other"]
    assert (row.actor, row.cause) == ("uid:7 (alice)", "api")


def test_with_a_reason_it_is_done(strict: Plane) -> None:
    assert strict.call("POST", "/api/v1/agents/writer/drain", **ALICE)[0] == 202
    assert strict.asked() == [("drain", "uid:7 (alice)", "asked for: it leaks")]


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"as": "a\nb"}, "the name must be one line"),
        ({"as": "x" * 101}, "the name must be one line"),
        ({"reason": "a\x1b[0m"}, "the reason must be one line"),
        ({"reason": "x" * 501}, "the reason must be one line"),
    ],
)
def test_names_and_reasons_that_no_row_should_hold_are_refused(plane: Plane, said: dict[str, str], what: str) -> None:
    code, problem = plane.call("POST", "/api/v1/agents/writer/drain", **said)
    assert (code, what in problem["detail"]) == (400, True)
    assert plane.asked() == []


def test_any_script_comes_through_as_it_is(plane: Plane) -> None:
    plane.call("POST", "/api/v1/agents/writer/drain", **{"as": "Ольга & Zoë", "reason": "50 % läuft über — 止めて"})
    assert plane.asked() == [("drain", "uid:7 (Ольга & Zoë)", "asked for: 50 % läuft über — 止めて")]


def test_what_waits_for_an_order_says_whose_it_is(plane: Plane) -> None:
    plane.call("POST", "/api/v1/agents/writer/quarantine", **ALICE)
    plane.fleet.run()
    assert plane.fleet.instances()["writer-0"].reason == "quarantined by uid:7 (alice)"
    plane.call("POST", "/api/v1/tasks/job/cancel", **ALICE)
    plane.fleet.run()
    assert plane.fleet.task("job").reason == "cancelled by uid:7 (alice): it leaks"
