"""The router as a resource: what `hub.yaml` says of it, as the router's configuration wants it. Pure."""

from collections.abc import Mapping
from typing import Any

from reconciler.core.endpoint import parse_endpoint
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Loaded
from reconciler.kinds.route_entry import show_rate
from reconciler.kinds.tree import Tree
from reconciler.settings import AgentPlane, HubSpec, Policy

REQUEST_TIMEOUT_S = 60.0


def load(_tree: Tree, _hub: HubSpec) -> Loaded[Any]:
    """Nothing of its own: `hub.yaml` is read with the settings."""
    return Loaded(by_name={})


def contribute(desired: Desired) -> Mapping[str, Any]:
    """The sections `limits`, `log`, `rules` and `opa` of the router's configuration, and `tls` where it listens so."""
    router, hub = desired.hub.router, desired.hub
    return {
        "limits": {
            "mailbox_messages": router.mailbox.messages,
            "mailbox_bytes": router.mailbox.bytes,
            "lease_s": router.lease,
            "ttl_s": router.ttl,
            "max_body_bytes": router.max_body,
            "request_timeout_s": REQUEST_TIMEOUT_S,
            "rate": show_rate(router.rate.messages, router.rate.bytes),
            "rate_by_type": {name: show_rate(rate.messages, rate.bytes) for name, rate in router.rate.per_type.items()},
        },
        "log": {
            "payload": router.log.payload,
            "retention_s": router.log.retention,
            "per_type": dict(router.log.per_type),
        },
        "rules": {
            "allow_cross_agent": hub.orchestrator.allow_cross_agent,
            "crypto_required": hub.orchestrator.crypto_required,
            "engines": list(hub.policy.engines),
            "last_resort": hub.policy.last_resort.message,
            "cache_entries": hub.policy.cache.entries,
        },
        "opa": _show_opa(hub.policy),
        **_show_tls(desired.plane),
    }


def _show_tls(plane: AgentPlane) -> Mapping[str, Any]:
    """Where to listen, and by which names agents may know it."""
    endpoint = plane.listens_at
    if endpoint is None:
        return {}
    names = {parse_endpoint(plane.advertise).host} if plane.advertise else set()
    names |= set() if endpoint.is_any else {endpoint.host}
    return {"tls": {"host": endpoint.host, "port": endpoint.port, "names": sorted(names)}}


def _show_opa(policy: Policy) -> Mapping[str, Any] | None:
    """None where it is not asked; without an address it is the hub's own."""
    if policy.opa is None or "opa" not in policy.engines:
        return None
    return {
        "url": policy.opa.address,
        "timeout_s": policy.opa.timeout,
        "failures": policy.opa.breaker.failures,
        "half_open_after_s": policy.opa.breaker.half_open_after,
    }
