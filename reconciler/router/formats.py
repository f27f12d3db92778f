"""From a body to a message: in the hub's own form, a CloudEvent, or signed by a peer. The Content-Type says which."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from reconciler.router import cloudevents, identity
from reconciler.router.answer import JSON, Header, find_header
from reconciler.router.message import Deny, Message, parse_message
from reconciler.router.registry import Instance

if TYPE_CHECKING:
    from reconciler.identity.klp import Opened
    from reconciler.router.peers import Peers


class Read(NamedTuple):
    """The message or why there is none; `opened` where a peer signed it."""

    message: Message | Deny
    opened: "Opened | None" = None


def read_message(
    body: bytes, headers: Sequence[Header], sender: Instance, peers: "Peers | None", wall_s: float
) -> Read:
    """What the sender says. Whoever gets something `opened` settles whether it may come again."""
    content_type = find_header(headers, b"content-type")
    if content_type == JSON:
        return Read(parse_message(body))
    if cloudevents.is_event(content_type):
        translated = cloudevents.read_event(body, wall_s)
        return Read(translated if isinstance(translated, Deny) else parse_message(translated))
    if not identity.is_signed(content_type):
        return Read(parse_message(body))
    if peers is None or sender.agent not in peers:
        return Read(identity.deny_stranger(sender))
    opened = peers.open(sender.agent, body, headers, wall_s)
    return Read(opened) if isinstance(opened, Deny) else Read(parse_message(opened.message), opened)
