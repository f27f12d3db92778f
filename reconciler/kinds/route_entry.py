"""What the router is told, and the digests by which it is compared: of an instance, and of its configuration. Pure."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from reconciler.core.digest import digest
from reconciler.store.records import InstanceRecord


def instance_entry(record: InstanceRecord) -> Mapping[str, Any]:
    """Agent, uid and token digests; the entry's own digest changes with each token. Not to be changed by callers."""
    return _entry(record.agent, record.uid, record.token_sha256, record.token_expires_at)


@lru_cache(maxsize=8192)
def _entry(agent: str, uid: int, sha256: str, expires_at: float) -> Mapping[str, Any]:
    entry = {"agent": agent, "uid": uid, "tokens": [{"sha256": sha256, "expires_at": expires_at}]}
    return {**entry, "digest": digest(entry)}


def show_rate(messages: float | None, bytes_: float | None) -> Mapping[str, float]:
    """A limit per second; what is None is left out, and is then that of the configuration."""
    rates = {"messages_per_s": messages, "bytes_per_s": bytes_}
    return {name: rate for name, rate in rates.items() if rate is not None}


class Part(dict[str, Any]):
    """A part of a section of the router's configuration, with its digest. Not to be changed once made."""

    __slots__ = ("digest",)

    def __init__(self, value: Mapping[str, Any]) -> None:
        super().__init__(value)
        self.digest = digest(value)


def config_digest(config: Mapping[str, Any]) -> str:
    """The digest of the router's whole configuration, by sections.

    A `Part` is represented by its own digest, so that of a thousand only the new ones are written out.
    """
    return digest({name: _parts_by_digest(section) for name, section in config.items()})


def _parts_by_digest(section: object) -> object:
    if not isinstance(section, Mapping):
        return section
    return {name: part.digest if isinstance(part, Part) else part for name, part in section.items()}
