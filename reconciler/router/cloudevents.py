"""CloudEvents 1.0 in structured mode: an event comes in and goes on as a message, a message goes out as an event. Pure.

| attribute | in a message |
|---|---|
| `id`, `type`, `to`, `topic`, `traceparent`, `tracestate`, `data` | the same, `data` as `payload` |
| `source` | `from`: `/agents/<agent>` or `/agents/<agent>/<instance>`, and true |
| `correlationid`, `dataclassification` | `correlation_id`, `sensitivity` |
| `expirytime` | `ttl_s` |
| `time`, `sequence`, `pattern` | set by the hub; a `time` that comes in is checked and not carried on |

Without `to` and `topic` an event goes to the topic of its type, one of the hub's own types to the hub. What has no
place in a message is refused by name.
Source: github.com/cloudevents/spec, v1.0.2, JSON format and the extensions named above.
"""

import re
from typing import Any, Final

import msgspec

from reconciler.core.members import read_members
from reconciler.core.message_type import is_reserved
from reconciler.core.timestamp import read_timestamp, show_timestamp
from reconciler.router.message import HUB, Deny, check_parts

MEDIA_TYPE: Final = b"application/cloudevents+json"
BATCH_MEDIA_TYPE: Final = b"application/cloudevents-batch+json"

_REQUIRED: Final = ("specversion", "id", "source", "type")
_SAME: Final = ("id", "type", "to", "topic", "traceparent", "tracestate")
_RENAMED: Final = {"correlationid": "correlation_id", "dataclassification": "sensitivity"}
_OTHERS: Final = {"specversion", "source", "datacontenttype", "data", "time", "expirytime", "pattern"}
_KNOWN: Final = {*_SAME, *_RENAMED, *_OTHERS}
_SOURCE = re.compile(r"/agents/([^/?#]+(?:/[^/?#]+)?)")
_JSON_TYPE = re.compile(r"[\w!#$&^.+-]+/(?:[\w!#$&^.-]+\+)?json(?:\s*;.*)?", re.ASCII | re.IGNORECASE)

_encoder = msgspec.json.Encoder()


def is_event(content_type: bytes) -> bool:
    """Whether a Content-Type says that the body is one event in structured mode."""
    return content_type.partition(b";")[0].strip().lower() == MEDIA_TYPE


def read_event(body: bytes, wall_s: float) -> bytes | Deny:
    """The event as a message that is still to be parsed; or why it is not one."""
    if (denied := check_parts(body)) is not None:
        return denied
    members = read_members(body)
    if isinstance(members, str):
        return _deny(members)
    if (wrong := _find_unfit(members)) is not None:
        return _deny(wrong)
    texts: dict[str, str] = {}
    for name, raw in members.items():
        if name == "data":
            continue
        value = msgspec.json.decode(raw)
        if not isinstance(value, str) or not value:
            return _deny(f"the attribute {name} must be text that is not empty")
        texts[name] = value
    return _to_message(texts, members.get("data", msgspec.Raw(b"null")), wall_s)


def write_event(delivered: bytes) -> bytes:
    """A message as its recipient reads it, as an event. Requests and replies differ from events by `pattern`."""
    message: dict[str, Any] = msgspec.json.decode(delivered, type=dict[str, msgspec.Raw])
    payload = message.pop("payload", msgspec.Raw(b"null"))
    fields = {name: msgspec.json.decode(raw) for name, raw in message.items()}
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": fields["id"],
        "source": f"/agents/{fields['from']}" if fields["from"].partition("/")[0] != HUB else f"/{fields['from']}",
        "type": fields["type"],
        "time": show_timestamp(fields["time"]),
        "datacontenttype": "application/json",
        "pattern": fields["pattern"],
    }
    event |= {name: fields[name] for name in ("to", "topic", "traceparent", "tracestate") if name in fields}
    event |= {name: fields[ours] for name, ours in _RENAMED.items() if ours in fields}
    if "seq" in fields:
        event["sequence"] = f"{fields['seq']:020d}"
    if "ttl_s" in fields:
        event["expirytime"] = show_timestamp(fields["time"] + fields["ttl_s"])
    return _encoder.encode({**event, "data": payload})


def _find_unfit(members: dict[str, msgspec.Raw]) -> str | None:
    missing = [name for name in _REQUIRED if name not in members]
    if missing:
        return f"the attribute {missing[0]} is missing; CloudEvents 1.0 requires {', '.join(_REQUIRED)}"
    if "data_base64" in members:
        return "data_base64 is not taken: payloads are JSON, send them as data"
    unknown = next((name for name in members if name not in _KNOWN), None)
    if unknown is not None:
        return f"the attribute {unknown[:64]!a} is not carried on; put it into data"
    return None


def _to_message(texts: dict[str, str], data: msgspec.Raw, wall_s: float) -> bytes | Deny:
    if texts["specversion"] != "1.0":
        return _deny("specversion is not 1.0")
    if texts.get("pattern", "event") != "event":
        return _deny("only events come as CloudEvents; send requests and replies as application/json")
    if not _JSON_TYPE.fullmatch(texts.get("datacontenttype", "application/json")):
        return _deny("datacontenttype is not JSON; payloads are JSON, such as application/json")
    source = _SOURCE.fullmatch(texts["source"])
    if source is None:
        return _deny("source is not /agents/<agent> or /agents/<agent>/<instance>")
    if "time" in texts and read_timestamp(texts["time"]) is None:
        return _deny("time is not a timestamp of RFC 3339")
    message: dict[str, Any] = {"pattern": "event", "from": source[1]}
    message |= {name: texts[name] for name in _SAME if name in texts}
    message |= {ours: texts[name] for name, ours in _RENAMED.items() if name in texts}
    if "to" not in texts and "topic" not in texts:
        message |= {"to": HUB} if is_reserved(texts["type"]) else {"topic": texts["type"]}
    if "expirytime" in texts:
        expires_at = read_timestamp(texts["expirytime"])
        if expires_at is None:
            return _deny("expirytime is not a timestamp of RFC 3339")
        if expires_at <= wall_s:
            return Deny(code="expired", step="schema", reason="the event's expirytime has passed")
        message["ttl_s"] = expires_at - wall_s
    return _encoder.encode({**message, "payload": data})


def _deny(reason: str) -> Deny:
    return Deny(code="invalid_envelope", step="schema", reason=reason)
