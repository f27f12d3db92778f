"""Broadcasts: to whom one goes, and who may send one. Pure.

The hub may, and an operator whom the operator plane let in; they come over the control socket. An agent cannot. What an
operator sends is not of a type of the hub's own, so that nobody else speaks with the hub's voice.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from reconciler.core.message_type import is_reserved
from reconciler.router.message import DOTTED, HUB

OPERATOR = f"{HUB}/operator"
"""What stands as `from` in an operator's messages; no agent may have the name of the hub."""

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Audience(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Agents that fit all of it: a role among `roles`, all of `labels`, all of `capabilities`. Empty: every agent."""

    roles: tuple[_Text, ...] = ()
    labels: dict[_Text, str] = {}
    capabilities: tuple[Annotated[str, msgspec.Meta(pattern=DOTTED)], ...] = ()


def fits(audience: Audience, role: str, labels: Mapping[str, str], capabilities: Sequence[str]) -> bool:
    """Whether an agent belongs to the audience."""
    if audience.roles and role not in audience.roles:
        return False
    if any(labels.get(name) != value for name, value in audience.labels.items()):
        return False
    return all(capability in capabilities for capability in audience.capabilities)


def show(audience: Audience) -> str:
    """The audience for a row of the message log: `broadcast:role=writer,team=docs`, `broadcast:*` for all."""
    parts = [f"role={role}" for role in audience.roles]
    parts += [f"{name}={value}" for name, value in sorted(audience.labels.items())]
    parts += [f"capability={capability}" for capability in audience.capabilities]
    return "broadcast:" + (",".join(parts) or "*")


def check_operator(type_: str) -> str | None:
    """Why an operator may not send messages of this type, or None."""
    if is_reserved(type_):
        return f"{type_} is a type of the hub's own, which only the hub sends; use a type of the fleet's"
    return None
