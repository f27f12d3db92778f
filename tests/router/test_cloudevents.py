"""CloudEvents: what of an event becomes a message, what is refused, and how a message is told as an event."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.router.cloudevents import is_event, read_event, write_event
from reconciler.router.message import MAX_PARTS, Deny, Message, parse_message

NOW = 1_760_000_000.0
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def event(**attributes: object) -> bytes:
    required = {"specversion": "1.0", "id": "e-1", "source": "/agents/writer", "type": "docs.published"}
    named = {**required, "data": {"n": 1}, **attributes}
    return json.dumps({name: value for name, value in named.items() if value is not None}).encode()


def read(**attributes: object) -> Message:
    translated = read_event(event(**attributes), NOW)
    assert isinstance(translated, bytes), translated
    message = parse_message(translated)
    assert isinstance(message, Message), message
    return message


def refusal(body: bytes) -> str:
    denied = read_event(body, NOW)
    assert isinstance(denied, Deny), denied
    assert denied.step == "schema"
    return f"{denied.code}: {denied.reason}"


@pytest.mark.parametrize(
    ("content_type", "is_one"),
    [
        (b"application/cloudevents+json", True),
        (b"Application/CloudEvents+JSON ; charset=utf-8", True),
        (b"application/json", False),
        (b"application/cloudevents-batch+json", False),
        (b"", False),
    ],
)
def test_the_media_type_tells_an_event(content_type: bytes, is_one: bool) -> None:
    assert is_event(content_type) is is_one


def test_an_event_goes_to_the_topic_of_its_type() -> None:
    message = read()
    assert (message.envelope.id, message.envelope.type, message.envelope.pattern) == ("e-1", "docs.published", "event")
    assert (message.envelope.topic, message.envelope.to, message.envelope.from_) == ("docs.published", None, "writer")
    assert bytes(message.envelope.payload) == b'{"n": 1}'


def test_one_of_the_hubs_own_types_goes_to_the_hub() -> None:
    assert read(type="security.alert").envelope.to == "hub"


def test_every_attribute_that_has_a_place_is_carried_on() -> None:
    envelope = read(
        source="/agents/writer/writer-0",
        to="reviewer/reviewer-1",
        time="2026-11-21T08:00:00.123Z",
        datacontenttype="application/vnd.review+json; charset=utf-8",
        correlationid="c-1",
        dataclassification="restricted",
        expirytime="2025-10-09T08:53:25Z",
        traceparent=TRACE,
    ).envelope
    assert (envelope.from_, envelope.to, envelope.topic) == ("writer/writer-0", "reviewer/reviewer-1", None)
    assert (envelope.correlation_id, envelope.sensitivity, envelope.ttl_s) == ("c-1", "restricted", 5.0)
    assert envelope.traceparent == TRACE


def test_without_data_the_payload_is_null() -> None:
    assert read(data=None).payload is None


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"specversion": None}, "the attribute specversion is missing"),
        ({"id": None}, "the attribute id is missing"),
        ({"source": None}, "the attribute source is missing"),
        ({"type": None}, "the attribute type is missing"),
        ({"id": ""}, "the attribute id must be text that is not empty"),
        ({"type": 7}, "the attribute type must be text"),
        ({"to": ["reviewer"]}, "the attribute to must be text"),
        ({"specversion": "0.3"}, "specversion is not 1.0"),
        ({"data": None, "data_base64": "AA=="}, "data_base64 is not taken"),
        ({"datacontenttype": "text/plain", "data": "x"}, "datacontenttype is not JSON"),
        ({"datacontenttype": "application/jsonx"}, "datacontenttype is not JSON"),
        ({"subject": "x"}, "the attribute 'subject' is not carried on"),
        ({"myext": 1}, "the attribute 'myext' is not carried on"),
        ({"source": "https://elsewhere/writer"}, "source is not /agents/<agent>"),
        ({"source": "writer"}, "source is not /agents/<agent>"),
        ({"source": "/agents/writer/writer-0/more"}, "source is not /agents/<agent>"),
        ({"time": "yesterday"}, "time is not a timestamp"),
        ({"time": "2026-11-21"}, "time is not a timestamp"),
        ({"time": "2026-13-21T08:00:00Z"}, "time is not a timestamp"),
        ({"expirytime": "soon"}, "expirytime is not a timestamp"),
        ({"expirytime": "2025-10-09T08:53:20Z"}, "expired: the event's expirytime has passed"),
        ({"pattern": "request"}, "only events come as CloudEvents"),
    ],
)
def test_what_has_no_place_in_a_message_is_refused_by_name(attributes: dict[str, object], said: str) -> None:
    assert said in refusal(event(**attributes))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "truncated"),
        (b"[]", "Expected `object`"),
        (event()[:-1] + b',"id":"e-2"}', "the key 'id' stands twice"),
        (event()[:-1] + b',"data":{"a":1,"a":2}}', "stands twice"),
        (event().replace(b'"e-1"', b'"\xff"'), "UTF-8"),
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes, said: str) -> None:
    assert said in refusal(body)


def delivered(**fields: object) -> bytes:
    known = {
        "id": "m-1",
        "from": "writer/writer-0",
        "type": "docs.published",
        "pattern": "event",
        "topic": "docs.published",
        "time": NOW + 0.25,
        "seq": 7,
        "ttl_s": 600.0,
        "sensitivity": "internal",
        "payload": {"n": [1.5]},
    }
    return json.dumps({**known, **fields}).encode()


def test_an_event_of_too_many_parts_is_refused_before_it_is_read() -> None:
    body = b'{"specversion":"1.0","data":[' + b"{}," * (MAX_PARTS + 1) + b"no JSON"
    refused = read_event(body, 0.0)
    assert isinstance(refused, Deny)
    assert refused.code == "too_large"


def test_a_message_is_told_as_an_event() -> None:
    assert json.loads(write_event(delivered(traceparent=TRACE, tracestate="a=1"))) == {
        "specversion": "1.0",
        "id": "m-1",
        "source": "/agents/writer/writer-0",
        "type": "docs.published",
        "time": "2025-10-09T08:53:20.250Z",
        "expirytime": "2025-10-09T09:03:20.250Z",
        "datacontenttype": "application/json",
        "pattern": "event",
        "topic": "docs.published",
        "sequence": "00000000000000000007",
        "dataclassification": "internal",
        "traceparent": TRACE,
        "tracestate": "a=1",
        "data": {"n": [1.5]},
    }


def test_a_message_of_the_hubs_own_names_the_hub_as_its_source() -> None:
    told = json.loads(write_event(delivered(**{"from": "hub"}, type="task.assigned", pattern="request", to="writer")))
    assert (told["source"], told["pattern"], told["to"]) == ("/hub", "request", "writer")
    assert json.loads(write_event(delivered(**{"from": "hub/operator"})))["source"] == "/hub/operator"


names = st.sampled_from(["writer", "reviewer/reviewer-0"])
dotted = st.from_regex(r"\A[a-z0-9_-]{1,8}(\.[a-z0-9_-]{1,8}){0,2}\Z")
payloads = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text("abé€:\\\"'"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé:"), inner, max_size=3),
    max_leaves=8,
)


@given(dotted.filter(lambda t: "." not in t), names, payloads, st.sampled_from(["public", "restricted"]))
def test_there_and_back_is_the_same_message(type_: str, sender: str, payload: object, sensitivity: str) -> None:
    fields = {"from": sender, "type": type_, "topic": type_, "payload": payload, "sensitivity": sensitivity}
    told = json.loads(write_event(delivered(**fields)))
    back = {name: value for name, value in told.items() if name not in ("sequence", "expirytime")}
    translated = read_event(json.dumps(back).encode(), time.time())
    assert isinstance(translated, bytes), translated
    message = parse_message(translated)
    assert isinstance(message, Message)
    assert (message.envelope.from_, message.envelope.type, message.envelope.topic) == (sender, type_, type_)
    assert (message.payload, message.envelope.sensitivity) == (payload, sensitivity)


@given(st.binary(max_size=80) | st.dictionaries(st.text(max_size=12), payloads).map(lambda v: json.dumps(v).encode()))
def test_any_body_is_an_event_or_a_refusal(body: bytes) -> None:
    assert isinstance(read_event(body, NOW), bytes | Deny)


@given(
    st.dictionaries(
        st.sampled_from(["time", "expirytime", "source", "datacontenttype", "topic", "traceparent", "data"]),
        st.text(max_size=30) | st.from_regex(r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([.]\d+)?(Z|[+-]\d\d:\d\d)\Z"),
    )
)
def test_any_attributes_are_carried_on_or_refused(attributes: dict[str, object]) -> None:
    translated = read_event(event(**attributes), NOW)
    assert isinstance(translated, Deny) or isinstance(parse_message(translated), Message | Deny)
