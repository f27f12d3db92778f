"""Which model an agent speaks to: providers and wishes come in, one route or a reason comes out. Pure.

Costs are in dollars per million tokens. An agent names a model, or says what it requires; then the cheapest that has
all of it is chosen: of equal ones that with the larger context, then the one that is declared first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, StrictFloat, field_validator, model_validator

from reconciler.core.exposure import Exposure, Sensitivity, permits, runs_remotely
from reconciler.core.model import Line, Model
from reconciler.core.names import DottedName, Name
from reconciler.core.quantity import Count

ModelName = Annotated[Line, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$", max_length=200)]
ProviderType: TypeAlias = Literal["anthropic", "openai", "ollama"]
Api: TypeAlias = Literal["anthropic", "openai"]
Dollars = Annotated[StrictFloat, Field(ge=0, allow_inf_nan=False)]

APIS: Mapping[ProviderType, frozenset[Api]] = {
    "anthropic": frozenset({"anthropic"}),
    "openai": frozenset({"openai"}),
    "ollama": frozenset({"anthropic", "openai"}),
}
"""In which shapes of requests each type of provider can be spoken to."""
_API_BY_EXECUTOR: Mapping[str, Api] = {"claude-code": "anthropic", "http": "openai"}
"""The shape that an executor speaks, where it is only one."""


def _or_number(schema: dict[str, Any]) -> None:
    whole = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "number", "minimum": 0}, whole]


class Cost(Model):
    """Of tokens read and written; in YAML also one number for both.

    Those read from a cache, and put into it, cost what others do unless it is said.
    """

    model_config = ConfigDict(json_schema_extra=_or_number)

    input: Dollars = 0.0
    output: Dollars = 0.0
    cache_read: Dollars | None = None
    cache_write: Dollars | None = None


class ProviderModel(Model):
    """One model. `context` is how many tokens it can hold."""

    name: ModelName
    context: Count = 0
    cost: Cost = Cost()
    capabilities: tuple[DottedName, ...] = ()

    @field_validator("cost", mode="before")
    @classmethod
    def _spread(cls, value: object) -> object:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"input": value, "output": value} if is_number else value


class Provider(Model):
    """Who answers, with which models; where it is, and its key, are the operator's."""

    name: Name
    type: ProviderType
    models: tuple[ProviderModel, ...]
    exposure: Exposure = "public"


class Require(Model):
    """What a model must have. `cost` bounds each kind of token; `sensitivity` is that of the work it is for."""

    context: Count | None = None
    exposure: Exposure | None = None
    sensitivity: Sensitivity | None = None
    capabilities: tuple[DottedName, ...] = ()
    cost: Dollars | None = None


class Allowance(Model):
    """How much may be used: tokens of all kinds, and dollars. What is left out is not bounded."""

    tokens: Annotated[Count, Field(ge=1)] | None = None
    cost: Dollars | None = None


class Budget(Model):
    """Of one run of a task, and of all instances of the agent together in a day (UTC)."""

    per_task: Allowance = Allowance()
    per_day: Allowance = Allowance()


class Llm(Model):
    """The section `llm` of an agent: one model by name, or what it must have."""

    provider: Name | None = None
    model: ModelName | None = None
    require: Require | None = None
    budget: Budget = Budget()

    @model_validator(mode="after")
    def _one_way(self) -> "Llm":
        is_named = self.provider is not None and self.model is not None
        if (self.provider is None) != (self.model is None) or is_named == (self.require is not None):
            raise ValueError("name either 'provider' and 'model', or what to 'require' (context, exposure, cost, …)")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One model of one provider."""

    provider: str
    model: str
    exposure: Exposure
    type: ProviderType


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRoute:
    """Why there is none, as a sentence."""

    reason: str


def choose(
    llm: Llm,
    providers: Sequence[Provider],
    exposures: Mapping[str, Sequence[str]],
    *,
    executor: str,
) -> Route | NoRoute:
    """The route of an agent with an executor of this type. A model that runs elsewhere is never on a private route."""
    api = _API_BY_EXECUTOR.get(executor)
    offers = list(_list_offers(providers))
    if llm.require is None:
        return _choose_named(llm, offers, api)
    fitting = [o for o in offers if not _lacks(o, llm.require, exposures, api)]
    if not fitting:
        reasons = "; ".join(f"{o.shown} {_lacks(o, llm.require, exposures, api)}" for o in offers[:5])
        return NoRoute(reason=f"no model has what llm.require asks for: {reasons or 'hub.yaml declares no providers'}")
    return min(fitting, key=lambda o: o.rank).route


def exposure_of(
    llm: Llm | None, providers: Sequence[Provider], exposures: Mapping[str, Sequence[str]], *, executor: str
) -> str:
    """How far an agent's words go: `none` without a model, and `public` where it cannot be told."""
    if llm is None:
        return "none"
    found = choose(llm, providers, exposures, executor=executor)
    return found.exposure if isinstance(found, Route) else "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """`place` is where it stands among all."""

    provider: Provider
    model: ProviderModel
    place: int

    @property
    def shown(self) -> str:
        return f"{self.provider.name}/{self.model.name}"

    @property
    def rank(self) -> tuple[float, int, int]:
        cost = self.model.cost
        return cost.input + cost.output, -self.model.context, self.place

    @property
    def route(self) -> Route:
        provider = self.provider
        return Route(provider=provider.name, model=self.model.name, exposure=provider.exposure, type=provider.type)


def _list_offers(providers: Sequence[Provider]) -> Iterator[_Offer]:
    pairs = ((provider, model) for provider in providers for model in provider.models)
    for place, (provider, model) in enumerate(pairs):
        yield _Offer(provider=provider, model=model, place=place)


def _choose_named(llm: Llm, offers: Sequence[_Offer], api: Api | None) -> Route | NoRoute:
    own = [o for o in offers if o.provider.name == llm.provider]
    if not own:
        known = ", ".join(sorted({o.provider.name for o in offers})) or "none"
        return NoRoute(
            reason=f"llm.provider names {llm.provider!r}, which hub.yaml does not declare; there are: {known}"
        )
    found = next((o for o in own if o.model.name == llm.model), None)
    if found is None:
        known = ", ".join(o.model.name for o in own)
        return NoRoute(reason=f"llm.model names {llm.model!r}, which {llm.provider} does not have; it has: {known}")
    fault = _is_unusable(found, api)
    return NoRoute(reason=f"{found.shown} {fault}") if fault else found.route


def _lacks(offer: _Offer, require: Require, exposures: Mapping[str, Sequence[str]], api: Api | None) -> str:
    """What an offer lacks, as the end of a sentence; empty where it fits."""
    provider, model = offer.provider, offer.model
    if fault := _is_unusable(offer, api):
        return fault
    if require.exposure is not None and provider.exposure != require.exposure:
        return f"is {provider.exposure}"
    if require.sensitivity is not None and not permits(exposures, require.sensitivity, provider.exposure):
        return f"is {provider.exposure}, where {require.sensitivity} work may not go"
    if require.context is not None and model.context < require.context:
        return f"holds {model.context} tokens"
    if missing := set(require.capabilities) - set(model.capabilities):
        return f"has no {', '.join(sorted(missing))}"
    if require.cost is not None and (dearest := max(model.cost.input, model.cost.output)) > require.cost:
        return f"costs {dearest:g}"
    return ""


def _is_unusable(offer: _Offer, api: Api | None) -> str:
    if offer.provider.exposure == "private" and runs_remotely(offer.model.name):
        return "is called private, but a model of that name runs elsewhere"
    if api is not None and api not in APIS[offer.provider.type]:
        return f"does not speak the {api} API, which its executor needs"
    return ""
