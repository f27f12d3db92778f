"""Tasks over the operator plane: handed in under a key, shown, explained, fetched, acknowledged."""

import asyncio
import base64
import hashlib
import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Message

from reconciler.api.access import Access, RefusedRequest, Role
from reconciler.api.app import build_app
from reconciler.api.operations import HubOperations
from reconciler.core.caller import Caller
from reconciler.kinds import KINDS
from reconciler.loop.serve import Hub
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, task_text


@pytest.fixture
def plane(fleet: FakeFleet) -> HubOperations:
    """A fleet with one writer that has converged."""
    fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/s.yaml": scheduled()})
    fleet.settle()
    hub = Hub(fleet.loop, fleet.world, KINDS, fleet.inspections)
    return HubOperations(hub, fleet.loop, fleet.world, lambda _drain: None)


def scheduled() -> str:
    return task_text("report", schedule={"cron": "0 6 * * 1", "zone": "Europe/Berlin"})


def submit(plane: HubOperations, text: str, key: str = "", proven: str = "uid:7") -> str:
    return str(plane.submit(text.encode(), Caller(proven=proven), key)["run"])


JOB, OTHER = task_text("job"), task_text("job", prompt="another")


def test_the_same_key_and_manifest_is_the_same_run_also_when_it_is_over(plane: HubOperations, fleet: FakeFleet) -> None:
    first = submit(plane, JOB, "k1")
    assert submit(plane, JOB, "k1") == first
    fleet.settle()
    assert submit(plane, "# a comment\n" + JOB, "k1") == first
    assert [t.key for t in fleet.tasks()] == ["k1"]


def test_the_same_key_with_another_manifest_is_refused(plane: HubOperations, fleet: FakeFleet) -> None:
    first = submit(plane, JOB, "k1")
    fleet.settle()
    for text in (OTHER, task_text("other")):
        with pytest.raises(
            RefusedRequest, match=rf"the key 'k1' was used for another manifest \(task job, run {first}"
        ):
            submit(plane, text, "k1")
    assert len(fleet.tasks()) == 1


def test_another_key_is_another_run_once_the_first_is_over(plane: HubOperations, fleet: FakeFleet) -> None:
    first = submit(plane, JOB, "k1")
    with pytest.raises(RefusedRequest, match="task 'job' is pending with another manifest or key"):
        submit(plane, JOB, "k2")
    fleet.settle()
    assert submit(plane, JOB, "k2") != first
    fleet.settle()
    assert [t.state for t in fleet.tasks()] == ["succeeded", "succeeded"]


def test_one_submitter_s_keys_are_not_another_s(plane: HubOperations, fleet: FakeFleet) -> None:
    first = submit(plane, JOB, "k1", "uid:7")
    fleet.settle()
    assert submit(plane, task_text("other"), "k1", "uid:8") != first


def test_without_a_key_the_newest_run_of_that_manifest_is_meant(plane: HubOperations, fleet: FakeFleet) -> None:
    submit(plane, JOB, "k1")
    fleet.settle()
    fleet.clock.advance(1)
    second = submit(plane, JOB, "k2")
    assert submit(plane, JOB) == second


def test_a_manifest_may_carry_its_key_and_no_other_one_beside_it(plane: HubOperations, fleet: FakeFleet) -> None:
    text = JOB.replace('{"name": "job"}', '{"name": "job", "annotations": {"idempotency-key": "k1"}}')
    first = submit(plane, text)
    assert submit(plane, JOB, "k1") == first
    with pytest.raises(RefusedRequest, match="its annotation idempotency-key is another key"):
        submit(plane, text, "k2")
    for key in ("x" * 201, "a\nb"):
        with pytest.raises(RefusedRequest, match="at most 200 characters, all of which print"):
            submit(plane, JOB, key)


def test_the_calls_are_where_the_documents_say(plane: HubOperations, fleet: FakeFleet) -> None:
    def call(method: str, path: str, body: str = "", **headers: str) -> tuple[int, Any]:
        return asyncio.run(request(build_app(plane, by_any_peer), method, path, body.encode(), headers))

    assert call("POST", "/api/v1/tasks", JOB, **{"idempotency-key": "k1"})[0] == 202
    assert fleet.task("job").key == "k1"
    assert call("POST", "/api/v1/tasks?key=k1", OTHER)[0] == 422
    assert call("GET", "/api/v1/tasks")[1]["tasks"][0]["name"] == "job"
    assert call("GET", "/api/v1/tasks/job")[1]["state"] == "pending"
    assert call("GET", "/api/v1/tasks/job/explain")[1]["why"].startswith("task job (run ")
    status, problem = call("GET", "/api/v1/tasks/job/artefacts/a/b.md")
    assert (status, problem["detail"]) == (404, "task job left no artefact 'a/b.md'; it left: none")
    assert call("POST", "/api/v1/tasks/job/acknowledge")[0] == 409


def by_any_peer(request: Request) -> Access:
    """As for the socket's owner, whoever calls."""
    assert request.client is not None
    return Access(request.client.host, Role.OWNER)


async def request(app: ASGIApp, method: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    """Status and JSON, or text, of one call, as a server would make it."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        "client": ("uid:7", 0),
    }
    sent: list[Message] = []
    to_come: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return to_come.pop() if to_come else await asyncio.Future()

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    content = b"".join(m.get("body", b"") for m in sent[1:])
    is_json = b"json" in dict(sent[0]["headers"]).get(b"content-type", b"")
    return sent[0]["status"], json.loads(content) if is_json else content.decode()


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"schedule": {"cron": "* * * * *"}}, "a schedule needs a manifest in git"),
        ({"output": {"schema": "schemas/x.json"}}, "schema 'schemas/x.json' is not directly in schemas/"),
        ({"acceptance": [{"agent": "nobody"}]}, "agent 'nobody' is not defined"),
        ({"escalate": {"agent": "nobody"}}, "agent 'nobody' is not defined"),
        ({"dependsOn": ["report"]}, "dependsOn names task 'report', which has a schedule"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_reason(plane: HubOperations, spec: dict[str, Any], why: str) -> None:
    with pytest.raises(RefusedRequest, match=why):
        submit(plane, task_text("job", **spec))


def test_tasks_and_schedules_are_listed(plane: HubOperations) -> None:
    run = submit(plane, JOB)
    shown = plane.tasks()
    assert [(t["name"], t["run"], t["state"]) for t in shown["tasks"]] == [("job", run, "pending")]
    assert "manifest" not in shown["tasks"][0]
    assert [s["next"] for s in shown["schedules"]] == ["2026-01-05 06:00 Europe/Berlin"]


def test_a_task_is_shown_with_its_result(plane: HubOperations, fleet: FakeFleet) -> None:
    submit(plane, JOB)
    fleet.settle()
    shown = plane.task("job")
    assert (shown["state"], shown["result"], shown["checks"]) == ("succeeded", {"by": "writer-0"}, [])
    with pytest.raises(RefusedRequest, match="there is no task 'nothing'"):
        plane.task("nothing")


def test_an_artefact_is_fetched_by_its_name(plane: HubOperations, fleet: FakeFleet) -> None:
    fleet.agents.holding.add("job")
    run = submit(plane, task_text("job", output={"artefacts": ["a/*.md"]}))
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    content = b"# \xff"
    sent = {
        "name": "a/b.md",
        "size": 3,
        "sha256": hashlib.sha256(content).hexdigest(),
        "content_base64": base64.b64encode(content).decode(),
    }
    said = {"task": "job", "run": run, "generation": 1, "exit_code": 0, "result": 1, "artefacts": [sent]}
    fleet.router.post("writer-0", "task.completed", said)
    fleet.run()
    assert plane.artefact("job", "a/b.md") == content
    for name in ("../a", "other"):
        with pytest.raises(RefusedRequest, match=r"it left: a/b\.md"):
            plane.artefact("job", name)


def test_why_a_task_does_not_run_is_the_plan_s_reason(plane: HubOperations, fleet: FakeFleet) -> None:
    run = submit(plane, task_text("job", dependsOn=["later"]))
    assert plane.explain("job")["why"] == (
        f"task job (run {run}) is not running, it is pending: asking policy about writer."
    )
    fleet.run()
    fleet.run()
    assert plane.explain(run)["why"].endswith("is not running, it is authorised: waiting for later.")
    assert plane.explain("report")["why"] == (
        "task report runs by its schedule: due next at 2026-01-05 06:00 Europe/Berlin; it has not run yet."
    )
    with pytest.raises(RefusedRequest, match="there is no task 'nothing'"):
        plane.explain("nothing")


def test_a_person_says_that_a_task_was_seen_to(plane: HubOperations, fleet: FakeFleet) -> None:
    submit(plane, task_text("job", escalate={"to": "operator"}, retries={"maxAttempts": 1}))
    fleet.agents.failing["job"] = 1
    fleet.settle()
    assert fleet.task("job").escalated == "operator"
    plane.acknowledge("job", Caller(proven="uid:7"))
    assert fleet.task("job").escalated == "acknowledged"
    with pytest.raises(RefusedRequest, match="task job waits for no person"):
        plane.acknowledge("job", Caller(proven="uid:7"))
    assert [(e.actor, e.name) for e in fleet.audit() if e.action == "acknowledge"] == [("uid:7", "job")]


def test_a_task_that_is_tried_again_begins_anew(plane: HubOperations, fleet: FakeFleet) -> None:
    text = task_text("job", escalate={"to": "operator"}, retries={"maxAttempts": 1}, acceptance=[{"regex": "good"}])
    submit(plane, text)
    fleet.settle()
    assert (fleet.task("job").state, fleet.task("job").escalated) == ("failed", "operator")
    fleet.agents.saying["writer"] = ["good"]
    plane.retry("job", Caller(proven="uid:7"))
    fleet.settle()
    run = fleet.task("job")
    assert (run.state, run.attempts, run.generation, run.escalated) == ("succeeded", 1, 2, "")
    assert "remediation" not in fleet.agents.told[-1]["input"]


def test_a_run_that_stands_behind_others_is_explained_by_the_first_in_its_line(
    plane: HubOperations, fleet: FakeFleet
) -> None:
    fleet.agents.holding.update({"t0", "t1", "t2"})
    for number in range(4):
        submit(plane, task_text(f"t{number}"))
        fleet.run()
        fleet.clock.advance(0.1)
    for _ in range(3):
        fleet.run()
        fleet.agents.step()
    assert fleet.states() == {"t0": "running", "t1": "authorised", "t2": "authorised", "t3": "authorised"}
    assert plane.explain("t1")["why"].endswith("authorised: all instances of writer are busy; 2 more wait in line.")
    assert plane.explain("t3")["why"].endswith(
        "authorised: 2 others come first for writer, and of the first of them, t1, the plan says: "
        "all instances of writer are busy; 2 more wait in line."
    )


def test_tasks_are_listed_page_by_page_the_newest_first(plane: HubOperations, fleet: FakeFleet) -> None:
    for number in range(5):
        submit(plane, task_text(f"t{number}"))
        fleet.clock.advance(1)
    app = build_app(plane, by_any_peer)

    def page(query: str) -> tuple[list[str], str]:
        code, answer = asyncio.run(request(app, "GET", f"/api/v1/tasks?{query}", b"", {}))
        assert code == 200, answer
        return [t["name"] for t in answer["tasks"]], answer["before"]

    names, before = page("limit=2")
    assert names == ["t3", "t4"]
    names, before = page(f"limit=2&before={before}")
    assert names == ["t1", "t2"]
    assert page(f"limit=2&before={before}") == (["t0"], "")
    assert page("")[0] == ["t0", "t1", "t2", "t3", "t4"]


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "many", "99999999999"])
def test_a_page_of_no_size_or_too_large_a_one_is_refused(plane: HubOperations, limit: str) -> None:
    code, answer = asyncio.run(request(build_app(plane, by_any_peer), "GET", f"/api/v1/tasks?limit={limit}", b"", {}))
    assert (code, answer["detail"]) == (400, f"limit is a number from 1 to 1000, not {limit!r}")
