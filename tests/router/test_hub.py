"""Messages to the hub: hello, heartbeat, and what goes to hub_inbox."""

import base64
import hashlib
import threading

import pytest

from reconciler.router.channel import RefusedByRouterError
from reconciler.router.hub import Forgeries
from tests.router.fleet import Agent, Fleet, Reply, until

ATTEMPT = {"task": "t", "run": "r1", "generation": 2}


def inbox(fleet: Fleet, agent: Agent) -> list[tuple[str, object]]:
    rows = fleet.link.read_inbox(0, 10_000)
    return [(row.type, row.payload) for row in rows if row.instance == agent.name and row.seq > fleet.inbox_since]


def complete(agent: Agent, **fields: object) -> Reply:
    payload = {**ATTEMPT, "exit_code": 0, "result": {"ok": True}, "artefacts": [], "duration_s": 1.5}
    return agent.send("task.completed", to="hub", payload={**payload, **fields})


def test_a_hello_is_answered_by_the_router_and_shown_to_control(fleet: Fleet) -> None:
    fleet.link.wait_hint(0)
    writer = fleet.register("writer-0", hello=False)
    assert fleet.report().instances["writer-0"].hello is None
    reply = writer.hello()
    assert (reply.status, reply.body["payload"]) == (200, {"ok": True, "instance": "writer-0"})
    assert (reply.body["from"], reply.body["pattern"]) == ("hub", "reply")
    shown = fleet.report().instances["writer-0"]
    assert shown.hello == {"version": "1", "capabilities": ["docs.write"], "executor": "command"}
    assert shown.last_seen > 0
    assert fleet.link.wait_hint(60) == ["agent"]
    assert [row["recipient"] for row in fleet.rows("type='agent.hello'")] == ["hub"]


def test_a_heartbeat_carries_the_cancellations_back_and_costs_no_row_when_dropped(fleet: Fleet) -> None:
    fleet.configure(log={"per_type": {"agent.heartbeat": "drop"}})
    writer = fleet.register("writer-0")
    fleet.link.set_cancels("writer-0", [{"task": "t", "generation": 2}])
    payload = {"tasks": [{"task": "t", "generation": 2}]}
    for _ in range(3):
        reply = writer.send("agent.heartbeat", to="hub", payload=payload)
        assert (reply.status, reply.body["cancel"]) == (202, [{"task": "t", "generation": 2}])
    assert fleet.state()["instances"]["writer-0"]["heartbeat"] == payload
    assert fleet.rows("type='agent.heartbeat'") == []
    fleet.link.set_cancels("writer-0", [])
    assert writer.send("agent.heartbeat", to="hub", payload=payload).body["cancel"] == []


def test_a_command_that_talks_does_not_speak_for_its_hanging_daemon(fleet: Fleet) -> None:
    writer = fleet.register("writer-0", hello=False)
    writer.hello(takes="tasks")
    seen = fleet.report().instances["writer-0"].last_seen
    writer.poll()
    writer.send("finding.raised", topic="findings")
    assert fleet.report().instances["writer-0"].last_seen == seen
    writer.send("agent.heartbeat", to="hub", payload={"tasks": []})
    assert fleet.report().instances["writer-0"].last_seen > seen


def test_a_heartbeat_that_is_not_dropped_has_a_row(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    writer.send("agent.heartbeat", to="hub", payload={"tasks": []})
    assert len(fleet.rows("type='agent.heartbeat'")) == 1


def test_polls_cost_no_rows(fleet: Fleet) -> None:
    writer, where = fleet.register("writer-70"), "instance='writer-70'"
    before = len(fleet.rows(where))
    for _ in range(5):
        writer.poll()
    assert len(fleet.rows(where)) == before


def test_task_events_are_in_the_inbox_when_they_are_accepted(fleet: Fleet) -> None:
    fleet.link.wait_hint(0)
    writer = fleet.register("writer-0")
    fleet.link.wait_hint(0)
    assert writer.send("task.started", to="hub", payload=ATTEMPT).status == 202
    assert fleet.link.wait_hint(60) == ["task"]
    assert writer.send("task.progress", to="hub", payload={**ATTEMPT, "text": "half"}).status == 202
    assert complete(writer).status == 202
    failed = {**ATTEMPT, "exit_code": None, "reason": "timeout", "error": "e", "stderr_tail": "", "duration_s": 1}
    assert writer.send("task.failed", to="hub", payload=failed).status == 202
    assert writer.send("security.alert", to="hub", payload={"severity": "low", "summary": "odd"}).status == 202
    types = [type_ for type_, _ in inbox(fleet, writer)]
    assert types == ["task.started", "task.progress", "task.completed", "task.failed", "security.alert"]
    assert fleet.report().inbox_seq == fleet.inbox_since + 5


def test_a_repeated_task_event_is_one_row(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    body = writer.envelope("task.started", to="hub", payload=ATTEMPT)
    assert [writer.call("POST", "/api/hub/messages", body).body["status"] for _ in range(2)] == [
        "accepted",
        "duplicate",
    ]
    assert len(inbox(fleet, writer)) == 1


def test_the_inbox_keeps_a_large_body_that_the_log_drops(fleet: Fleet) -> None:
    fleet.configure(limits={"max_body_bytes": 2 * 2**20}, log={"payload": "drop"})
    writer = fleet.register("writer-0")
    content = bytes(range(256)) * 4096
    artefact = {
        "name": "report.md",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "content_base64": base64.b64encode(content).decode(),
    }
    assert complete(writer, artefacts=[artefact]).status == 202
    ((_, payload),) = inbox(fleet, writer)
    assert payload["artefacts"] == [artefact]  # type: ignore[index]
    (row,) = fleet.rows("type='task.completed'")
    assert (row["payload"], row["payload_sha256"]) == (None, None)
    assert row["size"] > len(content)


def test_an_artefact_without_its_digest_is_refused(fleet: Fleet) -> None:
    reply = complete(fleet.register("writer-0"), artefacts=[{"name": "a", "size": 1, "content_base64": ""}])
    assert reply.code == "invalid_payload"
    assert "/artefacts/0" in reply.body["reason"]


def test_the_hub_is_reached_even_when_agents_may_message_nobody_else(fleet: Fleet) -> None:
    fleet.configure(rules={"allow_cross_agent": False})
    writer, _ = fleet.register("writer-0"), fleet.register("reviewer-0")
    assert writer.send("task.started", to="hub", payload=ATTEMPT).status == 202
    assert writer.send("review.note", to="reviewer").code == "unknown_or_forbidden_recipient"
    assert writer.send("docs.published", topic="docs.new").code == "forbidden"


def answer(fleet: Fleet, instance: str, request: str, payload: object) -> None:
    """As control does."""
    message = {"type": "delegation.request", "pattern": "reply", "correlation_id": request, "payload": payload}
    fleet.link.send({"instance": instance, "message": message})


def test_a_delegation_goes_to_control_and_its_answer_to_who_waits(fleet: Fleet) -> None:
    writer, out = fleet.register("writer-0"), list[Reply]()
    request = writer.envelope("delegation.request", "request", to="hub", payload={"agent": "reviewer"})
    path = "/api/hub/messages?wait=30"
    asking = threading.Thread(target=lambda: out.append(writer.call("POST", path, request, timeout_s=120)))
    asking.start()
    until(lambda: inbox(fleet, writer) == [("delegation.request", {"agent": "reviewer"})])
    answer(fleet, "writer-0", str(request["id"]), {"ok": True})
    asking.join()
    assert (out[0].status, out[0].body["pattern"], out[0].body["from"]) == (200, "reply", "hub")
    assert (out[0].body["payload"], out[0].body["correlation_id"]) == ({"ok": True}, request["id"])
    assert writer.receive(wait_s=0) == []
    assert writer.call("POST", path, request).body["status"] == "duplicate"


def test_the_answer_to_a_delegation_may_come_after_its_senders_patience(fleet: Fleet) -> None:
    writer, other = fleet.register("writer-0"), fleet.register("writer-1")
    sent = writer.send("delegation.request", "request", wait_s=0.05, to="hub", payload={"agent": "reviewer"})
    assert (sent.status, sent.body["status"]) == (202, "accepted")
    answer(fleet, "writer-0", sent.body["id"], {"ok": False, "reason": "no"})
    (reply,) = writer.receive()
    assert (reply["payload"], reply["correlation_id"]) == ({"ok": False, "reason": "no"}, sent.body["id"])
    assert other.receive(wait_s=0) == []


def test_only_the_hub_answers_a_delegation(fleet: Fleet) -> None:
    writer, other = fleet.register("writer-0"), fleet.register("reviewer-0")
    sent = writer.send("delegation.request", "request", to="hub", payload={"agent": "reviewer"})
    forged = other.send("delegation.request", "reply", to="writer", correlation_id=sent.body["id"], payload={})
    assert forged.status >= 400
    message = {"type": "docs.note", "pattern": "reply", "correlation_id": sent.body["id"], "payload": {}}
    with pytest.raises(RefusedByRouterError, match="an operator is asked nothing"):
        fleet.link.send({"instance": "writer-0", "actor": "uid:0", "message": message})
    assert writer.receive(wait_s=0) == []


def test_a_delegation_to_nobody_is_refused_with_the_reason(fleet: Fleet) -> None:
    reply = fleet.register("writer-0").send("delegation.request", "request", to="hub", payload={"prompt": "Count."})
    assert (reply.status, reply.code) == (422, "invalid_payload")
    assert len(fleet.rows("type='delegation.request' AND verdict='deny'")) == 1


def test_forgeries_are_told_once_per_instance_until_a_minute_is_quiet() -> None:
    forgeries = Forgeries()
    assert [forgeries.note("a-0", now) for now in (0.0, 50.0, 100.0, 159.9)] == [True, False, False, False]
    assert forgeries.note("b-0", 160.0)
    assert forgeries.note("a-0", 219.9)
    forgeries.forget("a-0")
    assert forgeries.note("a-0", 220.0)
