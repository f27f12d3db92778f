"""Decisions that were given before, by exactly the values that the policy can read, and by its revision.

What a policy reads of its input is known from its plan (`policy/reads.py`). All of that which is the same in each
message of an agent, the values of its face, is looked up once per configuration and becomes one interned text. So a key
is made of two texts and of what is read of the message itself, costs one tuple, and a swap that touches neither policy
nor agents leaves what is remembered in use.

The texts are JSON. Where a path leads nowhere, they say how far it led.
"""

import json
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from reconciler.core.decision import Decision
from reconciler.policy.reads import Path, Reads
from reconciler.router.config import PolicyRules
from reconciler.router.engine import NO_FACE, Engine, Face
from reconciler.router.message import HUB, Envelope, Message
from reconciler.router.registry import Instance

if TYPE_CHECKING:
    from reconciler.router.policy import Addressee

Key: TypeAlias = tuple[object, ...]

_OF_ENVELOPE = ("type", "pattern", "sensitivity")
_KINDS = ("agent", "topic", HUB)


class Decisions:
    """What was decided, by key; beyond the limit the oldest goes."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[Key, Decision] = OrderedDict()
        self.get = self._by_key.get

    def __len__(self) -> int:
        return len(self._by_key)

    def put(self, key: Key, decision: Decision, limit: int) -> None:
        """Remember it, at most `limit` in all."""
        self._by_key[key] = decision
        while len(self._by_key) > limit:
            self._by_key.popitem(last=False)


class Keys:
    """What makes a key, compiled for one configuration; `limit` is how many decisions are kept."""

    def __init__(self, reads: Reads, scope: str, faces: Mapping[str, Face], rules: PolicyRules) -> None:
        """`scope` names what answers depend on besides their question. `reads` has no obstacle."""
        self.limit = rules.cache_entries
        self.reads_time = any(path[0] == "time" for path in reads.paths)
        of_message = _find_fields(reads.paths, "message", (*_OF_ENVELOPE, "size_bytes"))
        envelope = [name for name in _OF_ENVELOPE if name in of_message]
        self._take_envelope = attrgetter(*envelope) if envelope else _take_nothing
        self._reads_size = "size_bytes" in of_message
        self._reads_instance = "instance" in _find_fields(reads.paths, "sender", ("instance",))
        self._reads_name = "name" in _find_fields(reads.paths, "recipient", ("name",))

        senders = [path for path in reads.paths if path[:2] != ("sender", "instance")]
        recipients = [path for path in reads.paths if path[:2] != ("recipient", "name")]
        self._senders = {agent: _show(scope, senders, _as_sender(agent, face)) for agent, face in faces.items()}
        self._recipients = {
            agent: _show(scope, recipients, _as_recipient("agent", face)) for agent, face in faces.items()
        }
        self._by_kind = {kind: _show(scope, recipients, _as_recipient(kind, NO_FACE)) for kind in _KINDS}
        if not rules.allow_cross_agent:
            # Only the hub is asked about, and it shares no answer with anybody else.
            self._by_kind[HUB] = sys.intern(f"{HUB} {self._by_kind[HUB]}")

    def make(self, sender: Instance, addressee: "Addressee", message: Message, minute: str | None) -> Key:
        """The key of one question. `minute` is its time, and None where `reads_time` is false."""
        kind = addressee.kind
        recipient = self._by_kind[kind]
        if kind == "agent":
            recipient = self._recipients.get(addressee.name, recipient)
        return (
            # An agent that the configuration does not have is known by its name alone.
            self._senders.get(sender.agent, sender.agent),
            recipient,
            self._take_envelope(message.envelope),
            addressee.name if self._reads_name else None,
            message.size_bytes if self._reads_size else None,
            sender.name if self._reads_instance else None,
            minute,
        )


def compile_keys(first: Engine, reads: Reads, faces: Mapping[str, Face], rules: PolicyRules) -> Keys | None:
    """The keys of what the first engine decides, or another one of its revision but builtin, whose rules are its own.

    None where nothing can be remembered: nobody can tell what the policy reads, or `cache_entries` is 0.
    """
    if reads.obstacle or not rules.cache_entries:
        return None
    who = "builtin" if first.name == "builtin" else "policy"
    whom = "agents" if rules.allow_cross_agent else HUB
    return Keys(reads, f"{who} {first.revision} {whom}", faces, rules)


def _take_nothing(_envelope: Envelope) -> None:
    return None


def _find_fields(paths: Iterable[Path], root: str, names: Sequence[str]) -> set[str]:
    """Those of `names` below `root` that are read."""
    found = {name for path in paths for name in names if path[:2] == (root, name)}
    return set(names) if (root,) in paths else found


def _as_sender(agent: str, face: Face) -> Mapping[str, Any]:
    return {"sender": {"agent": agent, **face.sender}, "grants": face.grants}


def _as_recipient(kind: str, face: Face) -> Mapping[str, Any]:
    return {"recipient": {"kind": kind, **face.recipient}}


def write_key(scope: str, reads: Reads, question: Mapping[str, Any]) -> Key:
    """A key of the whole question, where little of it is the same in the next one. `reads` has no obstacle."""
    return (json.dumps([scope, *(_look_up(question, path) for path in reads.paths)], sort_keys=True),)


def _show(scope: str, paths: Iterable[Path], document: Mapping[str, Any]) -> str:
    values = [_look_up(document, path) for path in paths if path[0] in document]
    return sys.intern(json.dumps([scope, *values], sort_keys=True))


def _look_up(document: Mapping[str, Any], path: Path) -> object:
    """The value in a list; where there is none, how far the path leads, and to what."""
    value: Any = document
    for depth, name in enumerate(path):
        if not isinstance(value, Mapping):
            return {"depth": depth, "value": value}
        if name not in value:
            return {"depth": depth}
        value = value[name]
    return [value]
