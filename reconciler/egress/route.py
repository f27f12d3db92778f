"""May this instance send this to that provider? The law of sensitivity first, then what the hub configured. Pure."""

from dataclasses import dataclass

from reconciler.core.exposure import permits, runs_remotely
from reconciler.egress.config import Config, InstanceEntry, ProviderEntry
from reconciler.egress.problem import Api, Deny

APIS: dict[str, tuple[Api, ...]] = {
    "anthropic": ("anthropic",),
    "openai": ("openai",),
    "ollama": ("anthropic", "openai"),
}


@dataclass(frozen=True, slots=True)
class Way:
    """The provider that a request goes to, and the only model that it may ask for."""

    name: str
    provider: ProviderEntry
    model: str


def find_way(config: Config, entry: InstanceEntry, api: Api) -> Way | Deny:
    """The one way of an instance, whatever it asks for."""
    route = entry.route
    if route is None:
        return _forbid("no_route", f"agent {entry.agent} has no llm section in its manifest")
    provider = config.providers.get(route.provider)
    if provider is None or route.model not in provider.models:
        shown = f"{route.provider}/{route.model}"
        return _forbid("no_route", f"{shown}, which agent {entry.agent} uses, is not in the configuration any more")
    if not permits(config.exposures, entry.sensitivity, provider.exposure):
        reason = f"it has had {entry.sensitivity} work, which may not reach {route.provider} ({provider.exposure})"
        return _forbid("sensitivity", reason)
    if provider.exposure == "private" and runs_remotely(route.model):
        return _forbid("sensitivity", f"{route.model} runs elsewhere, but {route.provider} is called private")
    if api not in APIS[provider.type]:
        reason = f"{route.provider} does not speak this API; use /llm/{APIS[provider.type][0]}/"
        return Deny(status=404, code="wrong_api", reason=reason)
    return Way(route.provider, provider, route.model)


def check_model(way: Way, model: str) -> Deny | None:
    """None where a request asks for the one model that it may."""
    if model == way.model:
        return None
    return Deny(status=404, code="unknown_model", reason=f"there is no model {model[:100]!a} here; use {way.model}")


def _forbid(code: str, reason: str) -> Deny:
    return Deny(status=403, code=code, reason=reason)
