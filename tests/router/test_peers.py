"""External peers over the real route: signed in, signed out, once, and nothing else."""

import base64
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from reconciler.core.timestamp import show_timestamp
from reconciler.identity.hub_key import read_public_key, show_public_key
from reconciler.identity.klp import sign
from reconciler.router.channel import RefusedByRouterError
from tests.router.fleet import Agent, Fleet, Reply, basic_config, until

KEY, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
KLP = {"Content-Type": "application/klp+json"}


def configure(fleet: Fleet, **rules: object) -> None:
    """An agent `peer` that signs, and may write to the reviewer."""
    peer = {
        "klp": show_public_key(KEY.public_key()),
        "sends": [{"to": "reviewer", "types": ["review.*"]}],
        "subscribes": [{"topic": "docs.*"}],
    }
    agents = basic_config()["agents"]
    agents["writer"]["sends"].append({"to": "peer", "types": ["review.request", "review.note"]})
    agents["reviewer"]["sends"] = []
    fleet.configure(agents={**agents, "peer": peer}, rules=rules)


@pytest.fixture
def peer(fleet: Fleet) -> Agent:
    configure(fleet)
    fleet.register("reviewer-0")
    return fleet.register("peer-0")


def klp(**fields: object) -> dict[str, object]:
    message = {
        "id": f"k-{time.time_ns()}",
        "type": "review.note",
        "from": "peer:peer-0",
        "to": "reviewer",
        "timestamp": show_timestamp(time.time()),
        "payload": {"n": 1},
        **fields,
    }
    return {name: value for name, value in message.items() if value is not None}


def post(agent: Agent, message: dict[str, object], key: Ed25519PrivateKey = KEY, query: str = "") -> Reply:
    return agent.call("POST", f"/api/hub/messages{query}", sign(message, key), headers=KLP)


def prove(message: dict[str, Any], hub: Ed25519PublicKey) -> dict[str, Any]:
    """What the hub signed, without its signature. Raises InvalidSignature."""
    signature = base64.b64decode(message["auth"]["signature"].removeprefix("ed25519:"))
    signed = {name: value for name, value in message.items() if name != "auth"}
    hub.verify(signature, rfc8785.dumps(signed))
    return signed


def hub_key(agent: Agent) -> Ed25519PublicKey:
    return read_public_key(agent.call("GET", "/api/hub/self").body["hub_public_key"])


def test_a_signed_message_is_delivered_like_any_other(fleet: Fleet, peer: Agent) -> None:
    assert post(peer, klp(task_id="abc", sensitivity="public")).status == 202
    (received,) = fleet.agents["reviewer-0"].receive()
    assert (received["from"], received["type"], received["payload"]) == ("peer/peer-0", "review.note", {"n": 1})
    assert (received["correlation_id"], received["sensitivity"]) == ("abc", "public")


def test_a_klp_name_is_the_hubs_own_type(fleet: Fleet, peer: Agent) -> None:
    alert = {"severity": "low", "summary": "odd"}
    assert post(peer, klp(type="SECURITY_ALERT", to="hub", payload=alert)).status == 202
    (row,) = fleet.rows("type='security.alert'")
    assert (row["verdict"], row["delivered"], json.loads(row["payload"])) == ("allow", "hub", alert)
    result = {"task": "t", "run": "r", "generation": 1, "exit_code": 0, "result": 7, "artefacts": []}
    assert post(peer, klp(type="TASK_RESULT", to="hub", payload=result, task_id="t")).status == 202
    types = [entry.type for entry in fleet.link.read_inbox(fleet.inbox_since, 10)]
    assert types == ["security.alert", "task.completed"]


def test_what_is_not_signed_by_the_key_of_the_manifest_is_refused(fleet: Fleet, peer: Agent) -> None:
    message = klp()
    forged = json.loads(sign(message, KEY))
    forged["payload"] = {"n": 2}
    for reply in (post(peer, message, STRANGER), peer.call("POST", "/api/hub/messages", forged, headers=KLP)):
        assert (reply.status, reply.code, reply.body["step"]) == (401, "unauthenticated", "identity")
    assert fleet.agents["reviewer-0"].receive(wait_s=0) == []


def test_a_wrong_signature_is_told_to_control_once(fleet: Fleet) -> None:
    configure(fleet)
    peer = fleet.register("peer-9")
    while fleet.link.wait_hint(0):
        pass
    for key in (KEY, STRANGER, STRANGER):
        post(peer, klp(**{"from": "peer:peer-9"}), key)
    assert fleet.link.wait_hint(60) == ["task"]
    (entry,) = fleet.link.read_inbox(fleet.inbox_since, 10)
    reason = "the signature does not fit the message (RFC 8785, without auth) and the peer's public key"
    assert (entry.type, entry.instance, entry.payload) == ("hub.forged", "peer-9", {"reason": reason})
    assert len(fleet.rows("instance='peer-9' AND code='unauthenticated'")) == 2


def test_what_proves_nothing_about_the_signer_is_not_told(fleet: Fleet, peer: Agent) -> None:
    writer = fleet.register("writer-0")
    assert post(writer, klp(**{"from": "writer"})).code == "unauthenticated"
    assert post(peer, klp(timestamp=show_timestamp(time.time() - 400))).code == "expired"
    assert post(peer, klp(extra=1)).code == "invalid_envelope"
    assert fleet.link.read_inbox(fleet.inbox_since, 10) == []


def test_a_replay_is_refused_by_id_and_by_time(fleet: Fleet, peer: Agent) -> None:
    body = sign(klp(), KEY)
    replies = [peer.call("POST", "/api/hub/messages", body, headers=KLP) for _ in range(2)]
    assert [reply.status for reply in replies] == [202, 409]
    assert replies[1].code == "duplicate"
    old = post(peer, klp(timestamp=show_timestamp(time.time() - 400)))
    assert (old.status, old.code) == (410, "expired")
    assert len(fleet.agents["reviewer-0"].receive()) == 1


def test_what_was_signed_before_the_router_started_is_refused(
    start_fleet: Callable[[], Fleet],
) -> None:
    fleet = start_fleet()
    configure(fleet)
    fleet.register("reviewer-0")
    signed = sign(klp(), KEY)
    assert fleet.register("peer-0").call("POST", "/api/hub/messages", signed, headers=KLP).status == 202
    fleet.link.stop()
    again = start_fleet()
    configure(again)
    again.register("reviewer-0")
    reply = again.register("peer-0").call("POST", "/api/hub/messages", signed, headers=KLP)
    assert (reply.code, reply.body["reason"]) == ("expired", "it was signed before this router started; sign it again")


def test_a_message_that_was_refused_may_be_sent_again(fleet: Fleet, peer: Agent) -> None:
    message = klp(to="archive")
    assert post(peer, message).code == "unknown_or_forbidden_recipient"
    assert post(peer, message).code == "unknown_or_forbidden_recipient"


@pytest.mark.parametrize("token", ["right", "wrong"])
def test_a_token_in_the_message_must_be_that_of_the_connection(peer: Agent, token: str) -> None:
    body = json.loads(sign(klp(), KEY))
    body["auth"]["token"] = peer.token if token == "right" else "wrong"
    assert peer.call("POST", "/api/hub/messages", body, headers=KLP).status == (202 if token == "right" else 401)


def test_a_forged_sender_is_refused_though_it_is_signed(peer: Agent) -> None:
    reply = post(peer, klp(**{"from": "writer:writer-0"}))
    assert (reply.status, reply.code) == (403, "forbidden")


def test_a_peer_signs_what_it_sends_to_others_and_agentd_need_not(fleet: Fleet, peer: Agent) -> None:
    reply = peer.send("review.note", to="reviewer")
    assert (reply.status, reply.code, reply.body["step"]) == (403, "forbidden", "identity")
    assert "what it sends to others comes as application/klp+json" in reply.body["reason"]
    assert peer.send("agent.heartbeat", to="hub", payload={"tasks": []}).status == 202


def test_whose_key_nobody_knows_cannot_sign(fleet: Fleet, peer: Agent) -> None:
    writer = fleet.register("writer-0")
    reply = post(writer, klp(**{"from": "writer"}))
    assert (reply.status, reply.code) == (401, "unauthenticated")
    assert "names no messaging.klp.publicKey" in reply.body["reason"]


def test_what_is_delivered_to_a_peer_is_signed_by_the_hub(fleet: Fleet, peer: Agent) -> None:
    writer = fleet.register("writer-0")
    assert writer.send("review.note", to="peer", payload={"x": [1.5, "é"]}).status == 202
    assert writer.send("docs.published", topic="docs.new").status == 202
    first, second = (prove(message, hub_key(peer)) for message in peer.receive())
    assert (first["from"], first["to"], first["type"], first["payload"]) == (
        "writer:writer-0",
        "peer",
        "review.note",
        {"x": [1.5, "é"]},
    )
    assert (second["topic"], second["pattern"]) == ("docs.new", "event")


def test_a_reply_to_a_peer_is_signed_too(fleet: Fleet, peer: Agent) -> None:
    payload = {"version": "1", "capabilities": [], "executor": "klp"}
    reply = post(peer, klp(type="agent.hello", pattern="request", to="hub", payload=payload), query="?wait=5")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/klp+json"
    assert prove(reply.body, hub_key(peer))["payload"] == {"ok": True, "instance": "peer-0"}


def answer(fleet: Fleet, instance: str, request: str, payload: object) -> None:
    """What came of a delegation, as control says it."""
    message = {"type": "delegation.request", "pattern": "reply", "correlation_id": request, "payload": payload}
    fleet.link.send({"instance": instance, "message": message})


ENDED = {"ok": True, "task": "delegation-5f3a", "state": "succeeded", "result": {"users": 3, "share": 0.5}}


def test_what_came_of_a_delegates_work_reaches_a_peer_as_a_signed_result(fleet: Fleet, peer: Agent) -> None:
    request = klp(type="TASK_REQUEST", to="hub", payload={"agent": "reviewer", "prompt": "Who uses this?"})
    assert post(peer, request).status == 202
    answer(fleet, "peer-0", str(request["id"]), ENDED)
    (told,) = (prove(message, hub_key(peer)) for message in peer.receive())
    assert (told["type"], told["pattern"], told["from"], told["to"]) == ("TASK_RESULT", "reply", "hub", "peer:peer-0")
    assert (told["task_id"], told["payload"]) == (request["id"], ENDED)


def test_so_it_does_where_the_peer_waits_for_it(fleet: Fleet, peer: Agent) -> None:
    request = klp(type="TASK_REQUEST", to="hub", payload={"agent": "reviewer", "prompt": "Who uses this?"})
    out: list[Reply] = []
    asking = threading.Thread(target=lambda: out.append(post(peer, request, query="?wait=30")))
    asking.start()
    until(lambda: fleet.state()["open_requests"] == 1)
    answer(fleet, "peer-0", str(request["id"]), ENDED)
    asking.join()
    assert (out[0].status, out[0].headers["Content-Type"]) == (200, "application/klp+json")
    told = prove(out[0].body, hub_key(peer))
    assert (told["type"], told["task_id"], told["payload"]) == ("TASK_RESULT", request["id"], ENDED)


@pytest.mark.parametrize("to", [None, "writer", "writer:writer-1000"])
def test_a_peer_answers_the_request_of_a_delegate(fleet: Fleet, peer: Agent, to: str | None) -> None:
    delegate = fleet.register("writer-1000", agent="writer", capabilities=[])
    asked = delegate.send("review.request", "request", to="peer", payload={"path": "a.py"})
    assert asked.status == 202
    (got,) = (prove(message, hub_key(peer)) for message in peer.receive())
    assert (got["from"], got["type"], got["id"]) == ("writer:writer-1000", "review.request", asked.body["id"])
    reply = klp(type="review.done", pattern="reply", task_id=got["id"], to=to, payload={"ok": True})
    assert post(peer, reply).status == 202
    (told,) = delegate.receive()
    assert (told["from"], told["pattern"], told["correlation_id"]) == ("peer/peer-0", "reply", asked.body["id"])
    assert post(peer, klp(type="review.note", to="writer:writer-1000")).code == "unknown_or_forbidden_recipient"


def test_a_delegate_of_a_peer_signs_and_is_answered_in_signed_form(fleet: Fleet, peer: Agent) -> None:
    delegate = fleet.register("peer-1000", agent="peer", capabilities=[])
    reviewer = fleet.agents["reviewer-0"]
    assert delegate.send("review.request", "request", to="reviewer").code == "forbidden"
    asked = klp(**{"from": "peer:peer-1000"}, type="review.request", pattern="request")
    assert post(delegate, asked).status == 202
    (got,) = reviewer.receive()
    assert (got["from"], got["pattern"]) == ("peer/peer-1000", "request")
    answered = reviewer.send("review.done", "reply", to=got["from"], correlation_id=got["id"], payload={"ok": True})
    assert answered.status == 202
    (told,) = (prove(message, hub_key(delegate)) for message in delegate.receive())
    assert (told["type"], told["pattern"], told["task_id"]) == ("review.done", "reply", asked["id"])
    assert peer.receive(wait_s=0) == []


def test_what_cannot_be_signed_is_not_delivered_and_told_in_the_log(fleet: Fleet, peer: Agent) -> None:
    writer = fleet.register("writer-0")
    for payload in (2**60, "fine"):
        assert writer.send("review.note", to="peer", payload=payload).status == 202
    assert [prove(message, hub_key(peer))["payload"] for message in peer.receive()] == ["fine"]
    (row,) = fleet.rows("verdict='expired'")
    assert (row["code"], row["instance"]) == ("invalid_payload", "peer-0")


def test_where_signatures_are_required_nobody_else_reaches_another(fleet: Fleet) -> None:
    configure(fleet, crypto_required=True)
    writer, reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    reply = writer.send("review.note", to="reviewer")
    assert (reply.code, reply.body["step"]) == ("forbidden", "identity")
    assert "orchestrator.cryptoRequired is true" in reply.body["reason"]
    assert post(fleet.register("peer-0"), klp()).status == 202
    assert [m["from"] for m in reviewer.receive()] == ["peer/peer-0"]


def test_a_key_that_is_none_is_refused_by_name(fleet: Fleet) -> None:
    with pytest.raises(RefusedByRouterError, match=r"agents\.peer\.klp: not a public key"):
        fleet.link.configure({**fleet.config, "agents": {"peer": {"klp": "ed25519:AAAA"}}})


def test_the_hubs_key_lies_in_the_data_directory(fleet: Fleet, peer: Agent) -> None:
    written = (fleet.data / "hub.pub").read_text().strip()
    assert peer.call("GET", "/api/hub/self").body["hub_public_key"] == written
    assert "hub_public_key" not in fleet.register("writer-0").call("GET", "/api/hub/self").body
