"""KLP: what a peer signed is taken once, what anybody changed is not, and what the hub signs can be proven."""

import base64
import json
from typing import Any

import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from reconciler.identity.klp import (
    MAX_REMEMBERED,
    NAME_BY_TYPE,
    WINDOW_S,
    Fault,
    Opened,
    Replays,
    open_message,
    seal_message,
    sign,
)

PEER, HUB, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))
NOW = 1_760_000_000.0
TOKEN = b"t" * 43
RESULT: dict[str, Any] = {
    "id": "k-1",
    "type": "TASK_RESULT",
    "from": "peer:peer-0",
    "to": "hub",
    "task_id": "abc123",
    "timestamp": "2025-10-09T08:53:20Z",
    "payload": {"action": "scrape", "target": "https://example.com", "params": {}},
}


def signed(**fields: object) -> bytes:
    named = {**RESULT, **fields}
    return sign({name: value for name, value in named.items() if value is not None}, PEER)


def open_it(body: bytes, *, wall_s: float = NOW) -> Opened | Fault:
    return open_message(body, PEER.public_key(), TOKEN, wall_s)


def message(body: bytes) -> dict[str, Any]:
    opened = open_it(body)
    assert isinstance(opened, Opened), opened
    return dict(json.loads(opened.message))


def fault(body: bytes, **options: float) -> str:
    found = open_it(body, **options)
    assert isinstance(found, Fault), found
    return f"{found.code}: {found.reason}"


# --- in ---------------------------------------------------------------------------------------------------------------


def test_a_signed_message_becomes_one_of_the_hubs_own_form() -> None:
    opened = open_it(signed())
    assert isinstance(opened, Opened)
    assert (opened.id, opened.signed_at) == ("k-1", NOW)
    assert json.loads(opened.message) == {
        "id": "k-1",
        "type": "task.completed",
        "pattern": "event",
        "from": "peer/peer-0",
        "to": "hub",
        "correlation_id": "abc123",
        "payload": RESULT["payload"],
    }


def test_signed_is_the_canonical_form_and_not_the_text() -> None:
    """The vector of RFC 8785, §3.2.3, within a message; the signature is made over bytes written by hand."""
    payload = rb"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
    canonical = (
        r'{"from":"peer:peer-0","id":"k-1","payload":{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,'
        r"4.5,0.002,1e-27],"
        r'"string":"€$\u000f\nA' + "'" + r'B\"\\\\\"/"},"timestamp":"2025-10-09T08:53:20Z","to":"hub",'
        r'"type":"TASK_RESULT"}'
    )
    signature = "ed25519:" + base64.b64encode(PEER.sign(canonical.encode())).decode()
    body = b'{"auth": {"signature": "' + signature.encode() + b'"}, "type":"TASK_RESULT", "payload": ' + payload
    body += b', "timestamp": "2025-10-09T08:53:20Z", "to":"hub", "id":"k-1", "from":"peer:peer-0"}'
    assert message(body)["payload"]["numbers"][3] == 0.002


@pytest.mark.parametrize(("type_", "name"), NAME_BY_TYPE.items())
def test_names_map_one_to_one(type_: str, name: str) -> None:
    assert message(signed(type=name))["type"] == type_
    assert f"{type_} is called {name} in KLP" in fault(signed(type=type_))
    delivered = json.dumps({"id": "m", "from": "hub", "type": type_, "pattern": "event", "payload": None})
    assert json.loads(seal_message(delivered.encode(), HUB, NOW))["type"] == name


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"type": "CAPABILITY_QUERY"}, "request"),
        ({"type": "TASK_REQUEST", "pattern": "request"}, "request"),
        ({"type": "SECURITY_ALERT"}, "event"),
        ({"type": "review.note"}, "event"),
        ({"type": "agent.hello", "pattern": "request"}, "request"),
        ({"type": "review.done", "pattern": "reply"}, "reply"),
    ],
)
def test_the_type_names_the_pattern_and_other_types_may_say_it(fields: dict[str, str], pattern: str) -> None:
    assert message(signed(**fields))["pattern"] == pattern


def test_extensions_have_the_names_of_the_envelope() -> None:
    extra = {"topic": "docs.new", "ttl_s": 5, "sensitivity": "restricted", "traceparent": "00-x", "tracestate": "a=1"}
    found = message(signed(to=None, type="docs.new", **extra))
    assert {name: found[name] for name in extra} == extra
    assert "to" not in found


def test_the_token_may_stand_in_it_too() -> None:
    body = json.loads(signed())
    body["auth"]["token"] = TOKEN.decode()
    assert isinstance(open_it(json.dumps(body).encode()), Opened)
    body["auth"]["token"] = "another"
    assert fault(json.dumps(body).encode()).startswith("unauthenticated: auth.token is not the token")


changes = st.sampled_from(sorted(RESULT.keys() - {"payload"}))


@given(changes, st.text(max_size=5) | st.integers() | st.none())
def test_any_change_of_what_was_signed_is_found(name: str, value: object) -> None:
    body = json.loads(signed())
    if body[name] == value:
        return
    body[name] = value
    try:
        found = open_it(json.dumps(body).encode())
    except UnicodeEncodeError:
        return
    assert isinstance(found, Fault)


def test_another_key_a_missing_and_a_broken_signature_are_refused() -> None:
    assert "does not fit the message" in fault(sign(RESULT, STRANGER))
    for auth in ({}, {"signature": None}, {"signature": "rsa:AAAA"}, {"signature": 7}):
        assert fault(json.dumps({**RESULT, "auth": auth}).encode()).startswith("unauthenticated: auth.signature is")
    for signature in ("ed25519:", "ed25519:AAAA", "ed25519:***", "ed25519:" + "A" * 86 + "=="):
        refused = fault(json.dumps({**RESULT, "auth": {"signature": signature}}).encode())
        assert refused.startswith("unauthenticated: the signature does not fit")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (b"{}", "the member id is missing"),
        (signed().replace(b'"to"', b'"id"'), "the key 'id' stands twice"),
        (signed(payload={"a": 1}).replace(b'{"a":1}', b'{"a":1,"a":1}'), "the key 'a' stands twice"),
        (signed(surprise=1), "there is no member 'surprise' in KLP"),
        (signed(timestamp="now"), "timestamp is not one of RFC 3339"),
        (signed(timestamp=7), "timestamp is not text"),
        (signed(to=["hub"]), "to is not text"),
        (signed(type="TASK_RESULT", pattern="request"), "TASK_RESULT is of pattern event"),
        (signed().replace(b'"params":{}', b'"params":9007199254740993'), "no canonical form of RFC 8785"),
        (signed().replace(b'"params":{}', b'"params":' + b"[" * 5000 + b"]" * 5000), "nested too deeply"),
        (signed().replace(b'"params":{}', b'"params":1e999'), "no canonical form of RFC 8785"),
        (json.dumps({**RESULT, "auth": "none"}).encode(), "auth is an object"),
        (json.dumps({**RESULT, "auth": {"key": 1}}).encode(), "auth is an object"),
    ],
)
def test_what_is_no_klp_message_is_refused_with_the_reason(body: bytes, said: str) -> None:
    found = fault(body)
    assert found.startswith("invalid_envelope: ")
    assert said in found


def test_what_would_take_long_to_bring_into_canonical_form_is_not_looked_at() -> None:
    assert fault(b'{"payload":[' + b"1," * 50_000 + b"1]}").startswith("too_large: a signed message has at most 50000")
    assert isinstance(open_it(signed(payload="," * 20_000)), Opened)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_fault(body: bytes) -> None:
    assert isinstance(open_it(body), Fault)


@pytest.mark.parametrize("wall_s", [NOW - WINDOW_S - 1, NOW + WINDOW_S + 1])
def test_what_was_signed_long_ago_or_is_from_the_future_is_refused(wall_s: float) -> None:
    assert fault(signed(), wall_s=wall_s) == "expired: timestamp is more than 300 s from the hub's time"
    assert isinstance(open_it(signed(), wall_s=NOW + WINDOW_S), Opened)


# --- replays ----------------------------------------------------------------------------------------------------------


def opened(id_: str, signed_at: float = NOW) -> Opened:
    return Opened(b"", id_, signed_at)


def test_a_message_is_taken_once() -> None:
    replays = Replays(NOW - 10)
    assert replays.begin(opened("a"), NOW) is None
    again = replays.begin(opened("a"), NOW + 1)
    assert again is not None
    assert again.code == "duplicate"
    assert replays.begin(opened("b"), NOW + 1) is None


def test_one_that_was_refused_after_all_may_come_again() -> None:
    replays = Replays(NOW)
    assert replays.begin(opened("a"), NOW) is None
    replays.forget(opened("a"))
    assert replays.begin(opened("a"), NOW) is None


def test_what_was_signed_before_the_router_started_may_be_a_replay() -> None:
    refused = Replays(NOW).begin(opened("a", NOW - 0.001), NOW)
    assert refused is not None
    assert refused.code == "expired"


def test_nothing_is_forgotten_while_it_could_be_replayed() -> None:
    replays = Replays(NOW)
    for n in range(MAX_REMEMBERED):
        assert replays.begin(opened(str(n)), NOW) is None
    refused = replays.begin(opened("one more"), NOW)
    assert refused is not None
    assert refused.code == "rate_limited"
    later = NOW + WINDOW_S + 1
    assert replays.begin(opened("one more", later), later) is None


# --- out --------------------------------------------------------------------------------------------------------------

payloads = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # half of a surrogate pair has no UTF-8
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé€:"), inner, max_size=3),
    max_leaves=8,
)


@given(payloads)
def test_what_the_hub_delivers_is_signed_and_says_the_same(payload: object) -> None:
    delivered = {
        "id": "m-1",
        "from": "writer/writer-0",
        "to": "peer",
        "type": "task.progress",
        "pattern": "event",
        "correlation_id": "abc123",
        "time": NOW - 60,
        "seq": 3,
        "ttl_s": 600.0,
        "sensitivity": "internal",
        "payload": payload,
    }
    sealed = json.loads(seal_message(json.dumps(delivered).encode(), HUB, NOW))
    signature = base64.b64decode(sealed.pop("auth")["signature"].removeprefix("ed25519:"))
    HUB.public_key().verify(signature, rfc8785.dumps(sealed))
    with pytest.raises(InvalidSignature):
        HUB.public_key().verify(signature, rfc8785.dumps({**sealed, "seq": 4}))
    assert sealed == {
        "id": "m-1",
        "from": "writer:writer-0",
        "to": "peer",
        "type": "STATUS_UPDATE",
        "pattern": "event",
        "task_id": "abc123",
        "timestamp": "2025-10-09T08:53:20.000Z",
        "seq": 3,
        "ttl_s": 600.0,
        "sensitivity": "internal",
        "payload": payload,
    }
