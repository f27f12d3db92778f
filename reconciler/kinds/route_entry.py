"""What the router is told, and the digests by which it is compared: of an instance, and of its configuration. Pure."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from reconciler.core.digest import digest
from reconciler.core.fleet import FIRST_DELEGATE
from reconciler.store.records import InstanceRecord

ADDRESS: Final = "HUB_ADDRESS"
"""The variable in a container's environment that says where the router is, if it is not at the instance's socket."""


def instance_entry(record: InstanceRecord) -> Mapping[str, Any]:
    """Agent, uid and token digests; the entry's own digest changes with each token. Not to be changed by callers."""
    is_remote = bool(recorded_address(record.fields))
    made_from = record.manifest if record.ordinal >= FIRST_DELEGATE else ""
    return _entry(record.agent, record.uid, record.token_sha256, record.token_expires_at, is_remote, made_from)


def recorded_address(fields: str) -> str:
    """Where an instance whose container was made with these fields calls; empty where it is at its socket."""
    return _find_address(fields) if f'"{ADDRESS}": ' in fields else ""


@lru_cache(maxsize=8192)
def _entry(agent: str, uid: int, sha256: str, expires_at: float, is_remote: bool, made_from: str) -> Mapping[str, Any]:
    """`made_from` is the manifest of an instance that may have less than its agent, else empty."""
    tokens = [{"sha256": sha256, "expires_at": expires_at}] if sha256 else []
    entry: dict[str, Any] = {"agent": agent, "uid": uid, "tokens": tokens}
    if is_remote:
        entry["transport"] = "tls"
    if made_from:
        entry["capabilities"] = json.loads(made_from)["spec"].get("capabilities", [])
    return {**entry, "digest": digest(entry)}


@lru_cache(maxsize=8192)
def _find_address(fields: str) -> str:
    return str(json.loads(fields)["env"][ADDRESS])


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


def part_digest(part: Mapping[str, Any]) -> str:
    """Of a part, or of what is none."""
    return part.digest if isinstance(part, Part) else digest(part)


def config_digest(config: Mapping[str, Any]) -> str:
    """The digest of the router's whole configuration, by sections.

    A `Part` is represented by its own digest, so that of a thousand only the new ones are written out.
    """
    return digest({name: _parts_by_digest(section) for name, section in config.items()})


def with_trust(route: Mapping[str, Any], scores: Mapping[str, float], neutral: float) -> Mapping[str, Any]:
    """The configuration with what policies may know of trust, in tenths: each change is a configuration of its own."""
    agents = route.get("agents", {})
    shown = {name: round(scores.get(name, neutral), 1) for name in (agents if neutral != 1.0 else scores)}
    changed = {n: Part({**agents[n], "trust": t}) for n, t in sorted(shown.items()) if n in agents and t != 1.0}
    if not changed:
        return route
    sections = {**route, "agents": {**agents, **changed}}
    revision = sections.pop("revision")
    del sections["digest"]
    return {**sections, "revision": revision, "digest": config_digest(sections)}


def _parts_by_digest(section: object) -> object:
    if not isinstance(section, Mapping):
        return section
    return {name: part.digest if isinstance(part, Part) else part for name, part in section.items()}
