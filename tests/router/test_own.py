"""Messages of the hub's own and of operators: to one, to a topic, to all who match; and policy.changed."""

from typing import Any

import pytest

from reconciler.router.channel import RefusedByRouterError, call
from tests.router.fleet import Agent, Fleet, basic_config

AGENTS: dict[str, Any] = {
    "writer": {"role": "writer", "labels": {"team": "docs"}, "capabilities": ["docs.write"]},
    "reviewer": {"role": "reviewer", "labels": {"team": "docs"}, "subscribes": [{"topic": "notice.*"}]},
    "archive": {"role": "archive", "subscribes": [{"topic": "notice.>", "delivery": "all"}]},
}
ALLOW = 'package hub.message\nimport rego.v1\ndecision := {"allow": true, "reasons": []}\n'


@pytest.fixture
def agents(fleet: Fleet) -> dict[str, Agent]:
    fleet.configure(agents=AGENTS)
    names = ("writer-0", "writer-1", "reviewer-0", "archive-0", "archive-1")
    return {name: fleet.register(name) for name in names}


def send(
    fleet: Fleet, type_: str = "notice.planned", payload: object = None, actor: str = "uid:0", **to: object
) -> Any:
    pattern = "broadcast" if "audience" in to else "event"
    message = {"type": type_, "pattern": pattern, "payload": payload}
    return call(fleet.run, "POST", "/messages", {**to, "actor": actor, "message": message})


def waiting(agents: dict[str, Agent]) -> dict[str, int]:
    return {name: n for name, agent in agents.items() if (n := len(agent.receive(wait_s=0)))}


@pytest.mark.parametrize(
    ("audience", "reached"),
    [
        ({}, ["archive-0", "archive-1", "reviewer-0", "writer-0", "writer-1"]),
        ({"labels": {"team": "docs"}}, ["reviewer-0", "writer-0", "writer-1"]),
        ({"roles": ["writer", "archive"]}, ["archive-0", "archive-1", "writer-0", "writer-1"]),
        ({"capabilities": ["docs.write"], "labels": {"team": "docs"}}, ["writer-0", "writer-1"]),
        ({"roles": ["nobody"]}, []),
    ],
)
def test_a_broadcast_reaches_every_instance_of_the_agents_that_match(
    fleet: Fleet, agents: dict[str, Agent], audience: dict[str, object], reached: list[str]
) -> None:
    id_ = send(fleet, payload={"at": "noon"}, audience=audience)["id"]
    assert sorted(waiting(agents)) == reached
    (row,) = fleet.rows("msg_id=?", id_)
    assert (row["pattern"], row["instance"], row["agent"], row["verdict"]) == ("broadcast", "uid:0", "hub", "allow")
    assert row["recipient"].startswith("broadcast:")
    assert sorted(row["delivered"].split()) == reached


def test_who_reads_it_sees_an_operator(fleet: Fleet, agents: dict[str, Agent]) -> None:
    send(fleet, payload={"at": "noon"}, audience={})
    (received,) = agents["writer-0"].receive()
    assert (received["from"], received["pattern"], received["type"]) == ("hub/operator", "broadcast", "notice.planned")
    assert (received["payload"], "to" in received, "topic" in received) == ({"at": "noon"}, False, False)


def test_an_event_goes_to_one_instance_of_an_agent_to_a_named_one_or_to_a_topic(
    fleet: Fleet, agents: dict[str, Agent]
) -> None:
    send(fleet, to="writer")
    assert sum(waiting(agents).values()) == 1
    send(fleet, to="writer/writer-1")
    assert waiting(agents) == {"writer-1": 1}
    send(fleet, topic="notice.planned")
    assert waiting(agents) == {"reviewer-0": 1, "archive-0": 1, "archive-1": 1}
    assert [row["recipient"] for row in fleet.rows("instance='uid:0'")] == [
        "writer",
        "writer/writer-1",
        "topic:notice.planned",
    ]


@pytest.mark.parametrize(
    ("to", "status", "said"),
    [
        ({}, 400, "exactly one of instance, to, topic and audience"),
        ({"to": "writer", "topic": "a.b"}, 400, "exactly one of instance, to, topic and audience"),
        ({"to": "nobody"}, 404, "there is no instance of nobody"),
        ({"to": "writer/writer-7"}, 404, "there is no instance writer/writer-7"),
        ({"to": "reviewer/writer-0"}, 404, "there is no instance reviewer/writer-0"),
        ({"audience": {"role": "writer"}}, 400, "unknown field `role`"),
        ({"to": "../x"}, 400, r"\$\.to"),
        ({"to": "writer", "type_": "task.assigned"}, 400, "task.assigned is a type of the hub's own"),
        ({"audience": {}, "type_": "policy.changed"}, 400, "policy.changed is a type of the hub's own"),
    ],
)
def test_what_an_operator_may_not_send_is_refused_with_the_reason(
    fleet: Fleet, agents: dict[str, Agent], to: dict[str, Any], status: int, said: str
) -> None:
    with pytest.raises(RefusedByRouterError, match=said) as refused:
        send(fleet, **to)
    assert refused.value.status == status
    assert waiting(agents) == {}


def test_what_an_operator_sends_conforms_to_its_schema(fleet: Fleet, agents: dict[str, Agent]) -> None:
    fleet.configure(schemas={"notice.planned": {"type": "object", "required": ["at"]}})
    with pytest.raises(RefusedByRouterError, match='"at" is a required property') as refused:
        send(fleet, payload={}, to="writer")
    assert refused.value.status == 422
    send(fleet, payload={"at": "noon"}, to="writer")


def test_a_full_mailbox_is_left_out_and_the_others_get_it(fleet: Fleet, agents: dict[str, Agent]) -> None:
    fleet.configure(limits={"mailbox_messages": 1})
    for _ in range(2):
        send(fleet, to="writer/writer-0")
    send(fleet, audience={"roles": ["writer"]})
    assert waiting(agents) == {"writer-0": 2, "writer-1": 1}
    rows = fleet.rows("pattern='broadcast'")
    assert [(r["verdict"], r["code"], r["recipient"], r["delivered"]) for r in rows] == [
        ("deny", "mailbox_full", "writer/writer-0", None),
        ("allow", None, rows[1]["recipient"], "writer-1"),
    ]


def test_an_agent_cannot_broadcast(agents: dict[str, Agent]) -> None:
    reply = agents["writer-0"].send("notice.planned", "broadcast", topic="notice.planned")
    assert (reply.status, reply.code) == (400, "invalid_envelope")
    assert "only the hub broadcasts" in reply.body["reason"]


def test_another_policy_is_told_to_everybody_once(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0", hello=False)
    policy = {"digest": "p1", "modules": {"policies/a.rego": ALLOW}, "data": {"hub": {"revision": "p1"}}}
    fleet.configure(rules={"engines": ["embedded", "builtin"]}, policy=policy)
    for agent in (writer, reviewer):
        (told,) = agent.receive()
        assert (told["from"], told["type"], told["pattern"]) == ("hub", "policy.changed", "broadcast")
        assert told["payload"] == {"revision": "p1"}
    fleet.configure(limits={"lease_s": 20})
    assert reviewer.receive(wait_s=0) == []
    fleet.configure(policy=None, rules={})
    assert [m["payload"] for m in writer.receive()] == [{"revision": "builtin"}]


def test_another_policy_wakes_no_sleeper_and_only_the_newest_waits_for_it(fleet: Fleet) -> None:
    fleet.sleep("reviewer-0")
    for digest in ("p1", "p2", "p3"):
        policy = {"digest": digest, "modules": {"policies/a.rego": ALLOW}, "data": {"hub": {"revision": digest}}}
        fleet.configure(rules={"engines": ["embedded", "builtin"]}, policy=policy)
    assert fleet.report().instances["reviewer-0"].mailbox_messages == 0
    fleet.register("writer-0").send("review.note", to="reviewer")
    assert fleet.report().instances["reviewer-0"].mailbox_messages == 1
    received = fleet.register("reviewer-0").receive()
    assert [(m["type"], m["payload"].get("revision")) for m in received[:1]] == [("policy.changed", "p3")]
    assert [m["type"] for m in received[1:]] == ["review.note"]


# --- formats and traces -----------------------------------------------------------------------------------------------

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_trace_is_carried_through_and_stands_in_the_log(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    assert writer.send("review.note", to="reviewer", traceparent=TRACE, tracestate="a=1").status == 202
    (received,) = reviewer.receive()
    assert (received["traceparent"], received["tracestate"]) == (TRACE, "a=1")
    assert fleet.rows("type='review.note'")[0]["traceparent"] == TRACE


def test_where_there_is_no_trace_one_begins(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    writer.send("review.note", to="reviewer")
    writer.send("review.note", to="nobody")
    (received,) = reviewer.receive()
    traces = [row["traceparent"] for row in fleet.rows("type='review.note'")]
    assert traces[0] == received["traceparent"]
    assert len({trace[3:35] for trace in traces}) == 2
    assert "tracestate" not in received


@pytest.mark.parametrize(
    "fields", [{"traceparent": "00-zz"}, {"tracestate": "a=1"}, {"traceparent": TRACE, "tracestate": "?"}]
)
def test_a_trace_that_is_none_is_refused(fleet: Fleet, fields: dict[str, str]) -> None:
    reply = fleet.register("writer-0").send("review.note", to="reviewer", **fields)
    assert (reply.status, reply.code) == (400, "invalid_envelope")
    assert "trace" in reply.body["reason"]


def test_a_cloudevent_is_taken_and_messages_are_told_as_cloudevents(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    event = {"specversion": "1.0", "id": "e-1", "source": "/agents/writer", "type": "docs.published", "data": {"n": 1}}
    headers = {"Content-Type": "application/cloudevents+json"}
    fleet.configure(agents={**basic_config()["agents"], "reviewer": {"subscribes": [{"topic": "docs.published"}]}})
    assert writer.call("POST", "/api/hub/messages", event, headers=headers).status == 202
    forged = {**event, "id": "e-2", "source": "/agents/reviewer"}
    assert writer.call("POST", "/api/hub/messages", forged, headers=headers).code == "forbidden"
    assert writer.call("POST", "/api/hub/messages", {**event, "data_base64": ""}, headers=headers).status == 400

    reply = reviewer.call("GET", "/api/hub/messages", headers={"Accept": "application/cloudevents-batch+json"})
    assert reply.headers["Content-Type"] == "application/cloudevents-batch+json"
    (told,) = reply.body
    assert (told["id"], told["source"], told["type"]) == ("e-1", "/agents/writer/writer-0", "docs.published")
    assert (told["topic"], told["data"], told["specversion"]) == ("docs.published", {"n": 1}, "1.0")
    assert reviewer.poll(ack=reply.headers["Hub-Cursor"]).body["messages"] == []


def test_a_query_finds_who_may_be_written_to(fleet: Fleet) -> None:
    agents = basic_config()["agents"]
    fleet.configure(agents={**agents, "reviewer": {**agents["reviewer"], "capabilities": ["docs.review"]}})
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    fleet.register("archive-0")

    def ask(agent: Agent, payload: object) -> Any:
        return agent.send("capability.query", "request", to="hub", payload=payload)

    reply = ask(writer, {"capabilities": ["docs.review"]})
    assert (reply.status, reply.body["pattern"], reply.body["from"]) == (200, "reply", "hub")
    assert reply.body["payload"] == {
        "agents": [
            {
                "agent": "reviewer",
                "role": "reviewer",
                "labels": {},
                "capabilities": ["docs.review"],
                "ready": 1,
                "types": ["review.note", "review.request"],
            }
        ],
        "complete": True,
    }
    assert [agent["agent"] for agent in ask(writer, {}).body["payload"]["agents"]] == ["reviewer"]
    assert ask(fleet.agents["archive-0"], {}).body["payload"]["agents"] == []
    assert ask(writer, {"capability": "docs.review"}).code == "invalid_payload"
    assert len(fleet.rows("type='capability.query' AND verdict='allow'")) == 3
    assert fleet.report().inbox_seq == fleet.inbox_since


def test_a_query_asks_the_policy_in_force(fleet: Fleet) -> None:
    text = ALLOW.replace('{"allow": true, "reasons": []}', '{"allow": count(deny) == 0, "reasons": deny}') + (
        'deny contains "no" if { input.recipient.kind == "agent"; input.recipient.name != "archive" }\n'
    )
    policy = {"digest": "p2", "modules": {"policies/a.rego": text}, "data": {"hub": {"revision": "p2"}}}
    fleet.configure(rules={"engines": ["embedded", "builtin"]}, policy=policy, schemas={"a.b": {}})
    reply = fleet.register("writer-0").send("capability.query", "request", to="hub", payload={})
    assert [(a["agent"], "a.b" in a["types"]) for a in reply.body["payload"]["agents"]] == [("archive", True)]
