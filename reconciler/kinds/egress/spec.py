"""The way out as a resource: what `hub.yaml`, the operator and manifests say, in the process's own words. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.core.digest import digest
from reconciler.core.problem import Problem
from reconciler.core.routing import NoRoute, Provider, choose
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Loaded
from reconciler.kinds.route_entry import part_digest
from reconciler.kinds.tree import Tree
from reconciler.settings import HubSpec, OperatorSpec, ProviderKey, provider_url

NAME = "egress"
POLICY, POLICIES = "policy", "policies"
QUESTION = "llm"
"""The kind of question that is asked about a request to a model."""

_SHOWN = ("role", "labels", "capabilities", "trust")


def load(_tree: Tree, _hub: HubSpec) -> Loaded[Any]:
    """Nothing of its own: `hub.yaml` is read with the settings."""
    return Loaded(by_name={})


def contribute(_desired: Desired) -> Mapping[str, Any]:
    """Nothing: the router need not know."""
    return {}


def check(desired: Desired, _operator: OperatorSpec) -> Sequence[Problem]:
    """Agents whose model is not there, or that nothing fits."""
    hub, out = desired.hub, []
    for manifest in desired.of("agent").values():
        spec = manifest.spec
        if spec.llm is None:
            continue
        found = choose(spec.llm, hub.providers, hub.sensitivity.exposures, executor=spec.executor.type)
        if isinstance(found, NoRoute):
            out.append(manifest.problem(found.reason, "llm"))
    return out


def is_wanted(hub: HubSpec) -> bool:
    """Whether there is anything to reach."""
    return bool(hub.providers)


def write_config(desired: Desired, keys: Mapping[str, ProviderKey]) -> Mapping[str, Any]:
    """The whole configuration (see `egress/config.py`), and a digest over it without the revision."""
    hub, egress = desired.hub, desired.hub.egress
    config = {
        "providers": {p.name: _write_provider(p, keys.get(p.name)) for p in hub.providers},
        "exposures": {level: list(where) for level, where in hub.sensitivity.exposures.items()},
        "limits": {
            "connect_s": egress.connect,
            "first_byte_s": egress.first_byte,
            "whole_s": egress.whole,
            "idle_s": egress.idle,
            "max_body_bytes": egress.max_body,
            "parallel": egress.parallel,
            "failures": egress.breaker.failures,
            "half_open_after_s": egress.breaker.half_open_after,
        },
    }
    parts, asked = _write_policy(desired)
    return {**config, **asked, "digest": digest([config, parts]), "revision": desired.revision.id}


def _write_policy(desired: Desired) -> tuple[Any, Mapping[str, Any]]:
    """What the digest is made of, and the sections; nothing where no policy has rules for models.

    All of it is in the router's configuration too; modules and agents are known there by digests of their own.
    """
    policies = desired.of(POLICY).get(POLICIES)
    if policies is None or QUESTION not in policies.kinds:
        return None, {}
    users = sorted(name for name, manifest in desired.of("agent").items() if manifest.spec.llm is not None)
    known = {name: desired.route["agents"][name] for name in users}
    rules = {
        "engines": desired.route["rules"]["engines"],
        "last_resort": desired.hub.policy.last_resort.llm,
        "cache_entries": desired.route["rules"]["cache_entries"],
    }
    opa = desired.route["opa"]
    agents = {name: {key: agent[key] for key in _SHOWN if key in agent} for name, agent in known.items()}
    parts = [policies.digest, rules, opa, {name: part_digest(agent) for name, agent in known.items()}]
    return parts, {"policy": desired.route["policy"], "rules": rules, "opa": opa, "agents": agents}


def _write_provider(provider: Provider, key: ProviderKey | None) -> Mapping[str, Any]:
    return {
        "type": provider.type,
        "url": provider_url(provider, key),
        "exposure": provider.exposure,
        "key_file": key.file if key is not None else None,
        "models": {
            model.name: {
                "input": model.cost.input,
                "output": model.cost.output,
                "cache_read": model.cost.input if model.cost.cache_read is None else model.cost.cache_read,
                "cache_write": model.cost.input if model.cost.cache_write is None else model.cost.cache_write,
            }
            for model in provider.models
        },
    }
