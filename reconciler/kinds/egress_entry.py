"""What the way out is told of an instance: token, route, budgets, its work, and the most sensitive it had. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from reconciler.core.digest import digest
from reconciler.core.exposure import Sensitivity
from reconciler.core.quantity import NORMALISED
from reconciler.core.routing import Allowance, Llm, Route, choose
from reconciler.settings import HubSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """An instance on record whose manifest has a section `llm`, which is here as JSON.

    `executor` is the type of its own, as in manifests.
    `work` are the runs that it has now, each with its task; `sensitivity` is that of the most sensitive it ever had.
    `capabilities` are those of an instance that may have less than its agent, None for all others.
    """

    agent: str
    uid: int
    token_sha256: str
    token_expires_at: float
    llm: str
    executor: str = ""
    work: tuple[tuple[str, str], ...] = ()
    sensitivity: Sensitivity = "public"
    capabilities: tuple[str, ...] | None = None


def write_entry(outgoing: Outgoing, hub: HubSpec, providers_digest: str) -> Mapping[str, Any]:
    """One instance (see `egress/config.py`), on the route of the manifest it was made from; none where none fits."""
    return _write_entry(outgoing, _Routing(hub, providers_digest))


def digest_providers(hub: HubSpec) -> str:
    """What routes follow from, besides manifests."""
    return digest([[p.model_dump(mode="json") for p in hub.providers], hub.sensitivity.model_dump(mode="json")])


class _Routing:
    """`hub` by the digest of what routes follow from."""

    def __init__(self, hub: HubSpec, digest_: str) -> None:
        self.hub, self._digest = hub, digest_

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Routing) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)


@lru_cache(maxsize=8192)
def _write_entry(outgoing: Outgoing, routing: _Routing) -> Mapping[str, Any]:
    llm = read_llm(outgoing.llm)
    found = choose(llm, routing.hub.providers, routing.hub.sensitivity.exposures, executor=outgoing.executor)
    entry: dict[str, Any] = {
        "agent": outgoing.agent,
        "uid": outgoing.uid,
        "tokens": [{"sha256": outgoing.token_sha256, "expires_at": outgoing.token_expires_at}],
        "route": {"provider": found.provider, "model": found.model} if isinstance(found, Route) else None,
        "per_task": _write_allowance(llm.budget.per_task),
        "per_day": _write_allowance(llm.budget.per_day),
        "sensitivity": outgoing.sensitivity,
        "work": [{"run": run, "task": task} for run, task in outgoing.work],
    }
    if outgoing.capabilities is not None:
        entry["capabilities"] = list(outgoing.capabilities)
    return {**entry, "digest": digest(entry)}


@lru_cache(maxsize=8192)
def read_llm(text: str) -> Llm:
    """The section of a recorded manifest, from its JSON."""
    return Llm.model_validate(json.loads(text), context=NORMALISED)


def _write_allowance(allowance: Allowance) -> Mapping[str, Any]:
    return {"tokens": allowance.tokens, "cost": allowance.cost}
