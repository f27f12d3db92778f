"""Messages that operators send: JSON comes in, an order for the router goes out, or a refusal that says what is wrong.

`{type, payload?, to | topic | audience, sensitivity?, ttl_s?}`. `to` is an agent or agent/instance; `audience` makes it
a broadcast. The router checks names, and the payload against the schema of its type.
"""

import secrets
from typing import Annotated, Any, Literal

import msgspec

from reconciler.api.access import RefusedRequest
from reconciler.core.caller import Caller
from reconciler.router.audience import Audience, check_operator
from reconciler.router.message import DOTTED


class _Order(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    type: Annotated[str, msgspec.Meta(max_length=100, pattern=DOTTED)]
    payload: Any = None
    to: str | None = None
    topic: str | None = None
    audience: Audience | None = None
    sensitivity: Literal["public", "internal", "confidential", "restricted"] = "internal"
    ttl_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


def read_message(content: bytes, caller: Caller) -> dict[str, Any]:
    """What the router is asked to send, under a new id. Raises RefusedRequest."""
    try:
        order = msgspec.json.decode(content, type=_Order)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RefusedRequest(f"the message cannot be read: {exc}", status=400) from exc
    targets = {"to": order.to, "topic": order.topic, "audience": order.audience}
    chosen = {name: value for name, value in targets.items() if value is not None}
    if len(chosen) != 1:
        raise RefusedRequest("a message has exactly one of to, topic and audience", status=400)
    if (wrong := check_operator(order.type)) is not None:
        raise RefusedRequest(wrong, status=403)
    message: dict[str, Any] = {
        "id": f"operator-{secrets.token_hex(8)}",
        "type": order.type,
        "pattern": "broadcast" if order.audience is not None else "event",
        "sensitivity": order.sensitivity,
        "payload": order.payload,
    }
    if order.ttl_s is not None:
        message["ttl_s"] = order.ttl_s
    return {**msgspec.to_builtins(chosen), "actor": str(caller), "message": message}
