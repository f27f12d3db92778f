"""Who gets what: requests and replies, events and topics, mailboxes that are full."""

import threading
from typing import Any

import pytest

from tests.router.fleet import Agent, Fleet, Reply, until


def ask(agent: Agent, out: list[Reply], *, wait_s: float = 50, **fields: object) -> threading.Thread:
    """Send a request in a thread and put its answer into `out`."""
    thread = threading.Thread(
        target=lambda: out.append(
            agent.send("review.request", "request", wait_s=wait_s, **{"to": "reviewer", "payload": {}, **fields})
        )
    )
    thread.start()
    return thread


def answer(agent: Agent, request: dict[str, Any], payload: object = None, **fields: object) -> Reply:
    return agent.send("review.result", "reply", correlation_id=request["id"], payload=payload, **fields)


def test_a_request_waits_for_its_reply(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    out: list[Reply] = []
    thread = ask(writer, out, payload={"file": "a"})
    (request,) = reviewer.receive()
    assert (request["pattern"], request["from"], request["payload"]) == ("request", "writer/writer-0", {"file": "a"})
    assert answer(reviewer, request, {"ok": True}, to="writer").status == 202
    thread.join()
    assert out[0].status == 200
    reply = out[0].body
    assert (reply["pattern"], reply["correlation_id"], reply["payload"]) == ("reply", request["id"], {"ok": True})
    assert (reply["from"], reply["to"]) == ("reviewer/reviewer-0", "writer")
    assert writer.receive(wait_s=0) == []


def test_without_waiting_the_reply_comes_to_the_mailbox(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    sent = writer.send("review.request", "request", to="reviewer")
    assert (sent.status, sent.body["status"]) == (202, "accepted")
    (request,) = reviewer.receive()
    answer(reviewer, request, "fine")
    (reply,) = writer.receive()
    assert (reply["correlation_id"], reply["payload"], reply["to"]) == (sent.body["id"], "fine", "writer")


def test_who_stops_waiting_finds_the_reply_in_the_mailbox(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    waited = writer.send("review.request", "request", to="reviewer", wait_s=0.2)
    assert (waited.status, waited.body["status"]) == (202, "accepted")
    (request,) = reviewer.receive()
    answer(reviewer, request)
    assert [m["correlation_id"] for m in writer.receive()] == [waited.body["id"]]


def test_a_repeated_request_waits_for_the_same_reply(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    body = writer.envelope("review.request", "request", to="reviewer")
    assert writer.call("POST", "/api/hub/messages", body).status == 202
    out: list[Reply] = []
    thread = threading.Thread(target=lambda: out.append(writer.call("POST", "/api/hub/messages?wait=50", body)))
    thread.start()
    (request,) = reviewer.receive()
    answer(reviewer, request, 1)
    thread.join()
    if out[0].status == 202:  # the reply was faster than the repeated request
        assert out[0].body["status"] == "duplicate"
    else:
        assert out[0].body["payload"] == 1
    assert reviewer.receive(wait_s=0) == []


def test_a_late_reply_is_refused_and_logged_and_the_waiter_is_told(fleet: Fleet) -> None:
    fleet.configure(limits={"request_timeout_s": 5})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    out: list[Reply] = []
    thread = ask(writer, out)
    (request,) = reviewer.receive()
    thread.join()
    assert (out[0].status, out[0].code) == (504, "expired")
    late = answer(reviewer, request)
    assert (late.status, late.code) == (410, "expired")
    assert [row["verdict"] for row in fleet.rows("code='expired' AND pattern='reply'")] == ["deny"]
    assert writer.receive(wait_s=0) == []


def test_a_request_takes_one_reply(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    writer.send("review.request", "request", to="reviewer")
    (request,) = reviewer.receive()
    assert answer(reviewer, request).status == 202
    second = answer(reviewer, request)
    assert (second.status, second.code) == (409, "duplicate")
    assert len(writer.receive()) == 1


def test_only_who_was_asked_may_reply(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    other = fleet.register("reviewer-1")
    writer.send("review.request", "request", to="reviewer/reviewer-0")
    (request,) = reviewer.receive()
    assert answer(other, request).code == "unknown_or_forbidden_recipient"
    assert answer(reviewer, request, to="archive").code == "unknown_or_forbidden_recipient"
    assert answer(reviewer, request, to="writer/writer-0").status == 202


def test_requests_of_the_same_id_from_two_senders_are_kept_apart(fleet: Fleet) -> None:
    first, second = fleet.register("writer-0"), fleet.register("writer-1")
    reviewer = fleet.register("reviewer-0")
    for writer in (first, second):
        body = {"id": "same", "type": "review.request", "pattern": "request", "to": "reviewer"}
        assert writer.call("POST", "/api/hub/messages", body).status == 202
    for request in reviewer.receive():
        assert answer(reviewer, request, request["from"], to=request["from"]).status == 202
    assert [m["payload"] for m in first.receive()] == ["writer/writer-0"]
    assert [m["payload"] for m in second.receive()] == ["writer/writer-1"]


def test_requests_go_to_the_ready_instance_with_the_fewest_outstanding(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    ready = [fleet.register("reviewer-0"), fleet.register("reviewer-1")]
    silent = fleet.register("reviewer-2", hello=False)
    for _ in range(6):
        assert writer.send("review.request", "request", to="reviewer").status == 202
    assert [len(reviewer.receive()) for reviewer in ready] == [3, 3]
    assert silent.receive(wait_s=0) == []


def test_a_request_to_an_agent_without_an_instance_may_come_again_later(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    body = writer.envelope("review.request", "request", to="reviewer")
    refused = writer.call("POST", "/api/hub/messages", body)
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "mailbox_full", "2")
    fleet.register("reviewer-0")
    assert writer.call("POST", "/api/hub/messages", body).body["status"] == "accepted"


def test_a_request_to_a_sleeper_wakes_it_and_waits_for_it(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    fleet.sleep("reviewer-0")
    fleet.link.wait_hint(0)
    out: list[Reply] = []
    thread = ask(writer, out)
    assert fleet.link.wait_hint(60) == ["agent"]
    assert fleet.report().instances["reviewer-0"].mailbox_messages == 1
    reviewer = fleet.register("reviewer-0")
    (request,) = reviewer.receive()
    answer(reviewer, request, "awake")
    thread.join()
    assert (out[0].status, out[0].body["payload"]) == (200, "awake")


def test_what_a_sleeper_is_sent_is_bounded_in_number_and_in_time(fleet: Fleet) -> None:
    fleet.configure(limits={"mailbox_messages": 2, "request_timeout_s": 0.2})
    writer = fleet.register("writer-0")
    fleet.sleep("reviewer-0")
    first = writer.send("review.request", "request", to="reviewer", wait_s=50)
    assert (first.status, first.code) == (504, "expired")
    until(lambda: fleet.report().instances["reviewer-0"].mailbox_messages == 0)
    codes = [writer.send("review.note", to="reviewer").status for _ in range(3)]
    assert codes == [202, 202, 429]


def test_an_unknown_recipient_looks_like_a_forbidden_one(fleet: Fleet) -> None:
    fleet.configure(
        agents={**fleet.config["agents"], "writer": {"sends": [{"to": "reviewer"}, {"to": "ghost"}]}, "secret": {}}
    )
    writer = fleet.register("writer-0")
    fleet.register("secret-0"), fleet.register("reviewer-0")
    targets = ("secret", "nobody", "ghost", "secret/secret-0", "nobody/nobody-0", "reviewer/reviewer-9")
    replies = [writer.send("a.b", pattern, to=to) for to in targets for pattern in ("event", "request")]
    assert {reply.status for reply in replies} == {403}
    assert len({repr(sorted(reply.body.items())) for reply in replies}) == 1
    reasons = {row["recipient"]: row["reason"] for row in fleet.rows("code='unknown_or_forbidden_recipient'")}
    assert "messaging.sends" in reasons["secret"]
    assert reasons["ghost"] == "there is no such recipient"


def test_an_event_to_an_agent_goes_to_one_of_its_instances(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    reviewers = [fleet.register("reviewer-0"), fleet.register("reviewer-1")]
    assert writer.send("review.note", to="reviewer").status == 202
    assert sum(len(reviewer.receive(wait_s=0)) for reviewer in reviewers) == 1


def test_a_topic_reaches_one_instance_per_agent_or_all(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    ones = [fleet.register("reviewer-0"), fleet.register("reviewer-1")]
    alls = [fleet.register("archive-0"), fleet.register("archive-1")]
    assert writer.send("docs.published", topic="docs.new", payload=1).status == 202
    assert sorted(len(agent.receive(wait_s=0)) for agent in ones) == [0, 1]
    assert [len(agent.receive(wait_s=0)) for agent in alls] == [1, 1]
    (row,) = fleet.rows("recipient='topic:docs.new'")
    assert {"archive-0", "archive-1"} < set(row["delivered"].split())


@pytest.mark.parametrize(("topic", "reached"), [("docs.new", 2), ("docs.new.today", 1)])
def test_wildcards_count_levels(fleet: Fleet, topic: str, reached: int) -> None:
    writer = fleet.register("writer-0")
    readers = [fleet.register("reviewer-0"), fleet.register("archive-0")]
    assert writer.send("docs.published", topic=topic).status == 202
    assert sum(len(reader.receive(wait_s=0)) for reader in readers) == reached


def test_a_topic_outside_the_grant_is_forbidden_with_the_reason(fleet: Fleet) -> None:
    reply = fleet.register("writer-0").send("docs.published", topic="news.today")
    assert (reply.status, reply.code) == (403, "forbidden")
    assert "topic news.today" in reply.body["reason"]


def test_a_topic_without_subscribers_is_accepted_and_logged(fleet: Fleet) -> None:
    assert fleet.register("writer-0").send("docs.published", topic="docs.new").status == 202
    assert [row["delivered"] for row in fleet.rows("recipient='topic:docs.new'")] == [""]


def test_an_event_never_comes_back_to_the_instance_that_sent_it(fleet: Fleet) -> None:
    agents = {"writer": {"sends": [{"topic": ">"}], "subscribes": [{"topic": "docs.>", "delivery": "all"}]}}
    fleet.configure(agents=agents)
    first, second = fleet.register("writer-0"), fleet.register("writer-1")
    first.send("docs.published", topic="docs.new")
    assert (len(first.receive(wait_s=0)), len(second.receive(wait_s=0))) == (0, 1)


def test_a_full_mailbox_is_a_429_and_takes_messages_again_when_it_is_emptied(fleet: Fleet) -> None:
    fleet.configure(limits={"mailbox_messages": 2})
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    bodies = [writer.envelope("review.note", to="reviewer") for _ in range(3)]
    replies = [writer.call("POST", "/api/hub/messages", body) for body in bodies]
    assert [reply.status for reply in replies] == [202, 202, 429]
    assert (replies[2].code, replies[2].headers["Retry-After"]) == ("mailbox_full", "2")
    assert replies[2].body["retry_after_s"] == 2
    assert len(reviewer.receive()) == 2
    assert writer.call("POST", "/api/hub/messages", bodies[2]).body["status"] == "accepted"
    assert [row["step"] for row in fleet.rows("code='mailbox_full'")] == ["deliver"]


def test_a_mailbox_is_bounded_by_bytes_too(fleet: Fleet) -> None:
    fleet.configure(limits={"mailbox_bytes": 3000})
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    replies = [writer.send("review.note", to="reviewer", payload="x" * 1000) for _ in range(3)]
    assert [reply.status for reply in replies] == [202, 202, 429]


def test_one_full_subscriber_does_not_keep_a_topic_from_the_others(fleet: Fleet) -> None:
    fleet.configure(limits={"mailbox_messages": 1})
    writer, reader = fleet.register("writer-0"), fleet.register("archive-0")
    fleet.register("archive-1")
    for _ in range(3):
        assert writer.send("docs.published", topic="docs.new").status == 202
        assert len(reader.receive()) == 1
    assert writer.send("docs.published", topic="docs.new").status == 202
    assert writer.send("docs.published", topic="docs.new").code == "mailbox_full"


def test_a_full_subscriber_of_a_hundred_goes_without_and_is_named(fleet: Fleet) -> None:
    grants = [{"to": "archive"}, {"topic": "docs.>"}]
    fleet.configure(agents={**fleet.config["agents"], "writer": {"sends": grants}}, limits={"mailbox_messages": 2})
    writer = fleet.register("writer-0")
    readers = [fleet.register(f"archive-{number}", hello=False) for number in range(100)]
    full = readers[42]
    for _ in range(2):
        assert writer.send("review.note", to=f"archive/{full.name}").status == 202
    replies = [writer.send("docs.published", topic="docs.new", payload=number) for number in range(2)]
    assert [reply.status for reply in replies] == [202, 202]
    for reader in readers:
        expected = [None, None] if reader is full else [0, 1]
        assert [message["payload"] for message in reader.receive(wait_s=0)] == expected, reader.name
    dropped = fleet.rows("code='mailbox_full'")
    assert [(row["verdict"], row["step"], row["recipient"], row["instance"]) for row in dropped] == [
        ("deny", "deliver", "archive/archive-42", "writer-0")
    ] * 2
    assert [row["msg_id"] for row in dropped] == [reply.body["id"] for reply in replies]
    delivered = [row["delivered"].split() for row in fleet.rows("verdict='allow' AND type='docs.published'")]
    assert delivered == [[reader.name for reader in readers if reader is not full]] * 2


def test_an_agent_without_room_in_any_instance_is_named_as_one_that_goes_without(fleet: Fleet) -> None:
    fleet.configure(limits={"mailbox_messages": 1})
    writer, archive = fleet.register("writer-0"), fleet.register("archive-0")
    for name in ("reviewer-0", "reviewer-1"):
        fleet.register(name)
        assert writer.send("review.note", to=f"reviewer/{name}").status == 202
    assert writer.send("docs.published", topic="docs.new").status == 202
    assert len(archive.receive(wait_s=0)) == 1
    assert [row["recipient"] for row in fleet.rows("code='mailbox_full'")] == ["reviewer"]


def test_an_unread_message_ends_with_its_time_to_live(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    writer.send("review.note", to="reviewer", ttl_s=0.1)
    writer.send("review.note", to="reviewer", payload="stays")
    until(lambda: bool(fleet.rows("verdict='expired'")))
    assert [m["payload"] for m in reviewer.receive()] == ["stays"]
    (row,) = fleet.rows("verdict='expired'")
    assert (row["instance"], row["code"]) == ("reviewer-0", "expired")


def test_a_repeated_id_is_accepted_once_and_delivered_once(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    body = writer.envelope("review.note", to="reviewer")
    replies = [writer.call("POST", "/api/hub/messages", body) for _ in range(3)]
    assert [(r.status, r.body["status"]) for r in replies] == [
        (202, "accepted"),
        (202, "duplicate"),
        (202, "duplicate"),
    ]
    assert len(reviewer.receive()) == 1


def test_the_same_id_of_another_sender_is_another_message(fleet: Fleet) -> None:
    first, second, reviewer = (fleet.register(n) for n in ("writer-0", "writer-1", "reviewer-0"))
    body = {"id": "same", "type": "review.note", "pattern": "event", "to": "reviewer"}
    assert [a.call("POST", "/api/hub/messages", body).body["status"] for a in (first, second)] == ["accepted"] * 2
    assert len(reviewer.receive()) == 2


def test_an_id_that_was_refused_may_come_again(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    body = writer.envelope("review.note", to="reviewer")
    assert writer.call("POST", "/api/hub/messages", body).status == 429
    fleet.register("reviewer-0")
    assert writer.call("POST", "/api/hub/messages", body).body["status"] == "accepted"


def test_many_at_once_with_one_id_are_delivered_once(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    body = writer.envelope("review.note", to="reviewer")
    out: list[Reply] = []
    threads = [
        threading.Thread(target=lambda: out.append(writer.call("POST", "/api/hub/messages", body))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {r.status for r in out} <= {202, 429}
    assert sum(r.body.get("status") == "accepted" for r in out) == 1
    assert len(reviewer.receive()) == 1


def test_messages_of_one_sender_keep_their_order(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    for n in range(30):
        writer.send("review.note", to="reviewer", payload=n)
    received = reviewer.receive()
    assert [m["payload"] for m in received] == list(range(30))
    assert [m["seq"] for m in received] == list(range(1, 31))


def test_a_message_on_its_way_to_a_removed_instance_is_not_delivered_to_its_successor(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    fleet.register("reviewer-0")
    writer.send("review.note", to="reviewer")
    fleet.link.remove_instance("reviewer-0")
    assert fleet.register("reviewer-0").receive(wait_s=0) == []


def test_who_waits_for_an_instance_that_is_removed_is_told_at_once(fleet: Fleet) -> None:
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    out: list[Reply] = []
    thread = ask(writer, out)
    reviewer.receive()
    fleet.link.remove_instance("reviewer-0")
    thread.join(timeout=60)
    assert out[0].code == "expired"


# --- instances made for one delegated task ---


def test_an_instance_for_one_delegated_task_is_addressed_by_nobody_and_its_requests_are_answered(fleet: Fleet) -> None:
    writer, delegate = fleet.register("writer-0"), fleet.register("writer-1000", capabilities=["docs.write"])
    reviewer = fleet.register("reviewer-0")
    fleet.register("reviewer-1000", capabilities=[])
    assert writer.send("review.note", to="reviewer/reviewer-1000").code == "unknown_or_forbidden_recipient"
    writer.send("docs.published", topic="docs.new")
    assert [m["type"] for m in reviewer.receive()] == ["docs.published"]
    sent = delegate.send("review.request", "request", to="reviewer", payload={})
    (request,) = reviewer.receive()
    assert request["from"] == "writer/writer-1000"
    assert answer(reviewer, request, "fine").status == 202
    assert [m["correlation_id"] for m in delegate.receive()] == [sent.body["id"]]
    assert writer.receive(wait_s=0) == []
    assert fleet.agents["reviewer-1000"].receive(wait_s=0) == []


CAPABLE = """package hub.message
import rego.v1
default decision := {"allow": false, "reasons": ["not capable"]}
decision := {"allow": true, "reasons": []} if input.recipient.kind == "hub"
decision := {"allow": true, "reasons": []} if "docs.publish" in input.sender.capabilities
"""


def test_policy_sees_the_capabilities_of_the_instance_and_not_those_of_its_agent(fleet: Fleet) -> None:
    agents = {"writer": {"capabilities": ["docs.write", "docs.publish"]}, "reviewer": {}}
    policy = {"digest": "p1", "modules": {"policies/m.rego": CAPABLE}, "data": {"hub": {"revision": "p1"}}}
    fleet.configure(agents=agents, policy=policy, rules={"engines": ["embedded", "builtin"]})
    fleet.register("reviewer-0")
    whole = fleet.register("writer-0")
    less = fleet.register("writer-1000", capabilities=["docs.write"])
    more = fleet.register("writer-1001", capabilities=["docs.publish"])
    for _ in range(2):
        assert whole.send("review.note", to="reviewer").status == 202
        assert less.send("review.note", to="reviewer").code == "unknown_or_forbidden_recipient"
        assert more.send("review.note", to="reviewer").status == 202
    shown = [agent.call("GET", "/api/hub/self").body["capabilities"] for agent in (whole, less)]
    assert shown == [["docs.write", "docs.publish"], ["docs.write"]]
    assert [row["reason"] for row in fleet.rows("verdict='deny' AND type='review.note'")] == ["not capable"] * 2
