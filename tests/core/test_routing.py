"""Which model an agent gets: by name, or the cheapest that has what it requires."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reconciler.core.exposure import EXPOSURES, PRIVATE_ONLY, runs_remotely
from reconciler.core.routing import APIS, Llm, NoRoute, Provider, Route, choose

PRIVATE = Provider.model_validate(
    {
        "name": "gpu",
        "type": "ollama",
        "exposure": "private",
        "models": [{"name": "qwen3", "context": "32k", "cost": 0}, {"name": "kimi:cloud", "context": "256k"}],
    }
)
PUBLIC = Provider.model_validate(
    {
        "name": "anthropic",
        "type": "anthropic",
        "models": [
            {"name": "opus", "context": "200k", "cost": {"input": 15, "output": 75}, "capabilities": ["vision"]},
            {"name": "haiku", "context": "200k", "cost": {"input": 1, "output": 5}},
        ],
    }
)


def route(providers: Sequence[Provider] = (PRIVATE, PUBLIC), **llm: Any) -> str:
    found = choose(Llm.model_validate(llm), providers, EXPOSURES, executor="command")
    return f"{found.provider}/{found.model}" if isinstance(found, Route) else found.reason


def test_a_model_by_name() -> None:
    assert route(provider="anthropic", model="opus") == "anthropic/opus"
    found = choose(Llm.model_validate({"provider": "gpu", "model": "qwen3"}), [PRIVATE], EXPOSURES, executor="command")
    assert found == Route(provider="gpu", model="qwen3", exposure="private", type="ollama")


def test_what_is_not_there_is_said_with_what_is() -> None:
    assert route(provider="openai", model="x").endswith("does not declare; there are: anthropic, gpu")
    assert route(provider="gpu", model="x").endswith("which gpu does not have; it has: qwen3, kimi:cloud")
    assert route((), provider="gpu", model="x").endswith("there are: none")


@pytest.mark.parametrize(
    ("require", "chosen"),
    [
        ({}, "gpu/qwen3"),
        ({"context": "100k"}, "anthropic/haiku"),
        ({"exposure": "public"}, "anthropic/haiku"),
        ({"capabilities": ["vision"]}, "anthropic/opus"),
        ({"sensitivity": "restricted"}, "gpu/qwen3"),
        ({"sensitivity": "internal", "context": 33_000}, "anthropic/haiku"),
        ({"cost": 5, "exposure": "public"}, "anthropic/haiku"),
    ],
)
def test_the_cheapest_that_has_all_of_it(require: dict[str, Any], chosen: str) -> None:
    assert route(require=require) == chosen


def test_of_equals_the_one_with_more_context_then_the_first() -> None:
    def offer(name: str, context: int) -> dict[str, Any]:
        return {"name": name, "context": context, "cost": 1}

    equal = Provider.model_validate(
        {"name": "p", "type": "openai", "models": [offer("a", 1), offer("b", 2), offer("c", 2)]}
    )
    assert route((equal,), require={}) == "p/b"


def test_when_nothing_fits_it_says_what_each_lacks() -> None:
    assert route(require={"sensitivity": "confidential", "context": "100k"}) == (
        "no model has what llm.require asks for: gpu/qwen3 holds 32000 tokens; gpu/kimi:cloud is called private, but a "
        "model of that name runs elsewhere; anthropic/opus is public, where confidential work may not go; "
        "anthropic/haiku is public, where confidential work may not go"
    )
    assert "costs 5" in route(require={"cost": 2, "exposure": "public"})
    assert "has no audio" in route(require={"capabilities": ["audio"]})
    assert route((), require={}).endswith("hub.yaml declares no providers")


def test_a_model_that_runs_elsewhere_is_not_on_a_private_route_even_by_name() -> None:
    assert "runs elsewhere" in route(provider="gpu", model="kimi:cloud")


def test_an_executor_that_speaks_one_api_gets_a_provider_that_does() -> None:
    openai = Provider.model_validate({"name": "o", "type": "openai", "models": [{"name": "gpt"}]})
    llm = Llm.model_validate({"require": {}})
    assert choose(llm, [openai, PUBLIC], EXPOSURES, executor="claude-code") == choose(
        llm, [PUBLIC], EXPOSURES, executor="command"
    )
    named = choose(Llm.model_validate({"provider": "o", "model": "gpt"}), [openai], EXPOSURES, executor="claude-code")
    assert isinstance(named, NoRoute)
    assert "does not speak the anthropic API" in named.reason


@pytest.mark.parametrize(
    "llm",
    [
        {},
        {"provider": "p"},
        {"model": "m"},
        {"provider": "p", "model": "m", "require": {}},
        {"provider": "p", "require": {}},
        {"require": {"contxt": 1}},
        {"require": {"cost": -1}},
        {"require": {}, "budget": {"perTask": {"tokens": 0}}},
        {"provider": "p", "model": "two\nlines"},
    ],
)
def test_a_section_that_says_too_much_or_too_little_is_refused(llm: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Llm.model_validate(llm)


# --- laws ---


def name_of(found: Any) -> str:
    return str(found["name"])


MODELS = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b", "c:cloud", "d-cloud", "E-Cloud", "f"])},
    optional={
        "context": st.integers(0, 10**6),
        "cost": st.one_of(st.integers(0, 50), st.fixed_dictionaries({"input": st.integers(0, 9)})),
        "capabilities": st.lists(st.sampled_from(["x", "y"]), unique=True, max_size=2),
    },
)
PROVIDERS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["p", "q", "r"]),
            "type": st.sampled_from(sorted(APIS)),
            "exposure": st.sampled_from(["private", "public"]),
            "models": st.lists(MODELS, max_size=4, unique_by=name_of),
        }
    ),
    max_size=3,
    unique_by=name_of,
).map(lambda found: [Provider.model_validate(p) for p in found])
REQUIRES = st.fixed_dictionaries(
    {},
    optional={
        "context": st.integers(0, 10**6),
        "exposure": st.sampled_from(["private", "public"]),
        "sensitivity": st.sampled_from(sorted(EXPOSURES)),
        "capabilities": st.lists(st.sampled_from(["x", "y"]), max_size=2),
        "cost": st.integers(0, 50),
    },
)
LLMS = st.one_of(
    REQUIRES.map(lambda r: {"require": r}),
    st.fixed_dictionaries({"provider": st.sampled_from("pqr"), "model": st.sampled_from(["a", "c:cloud", "f"])}),
).map(Llm.model_validate)
EVERYWHERE = dict.fromkeys(EXPOSURES, ("private", "public"))


@given(LLMS, PROVIDERS)
def test_a_route_has_what_is_required_and_never_hides_that_it_is_public(llm: Llm, providers: list[Provider]) -> None:
    found = choose(llm, providers, EVERYWHERE, executor="command")
    if isinstance(found, NoRoute):
        assert found.reason
        return
    provider = next(p for p in providers if p.name == found.provider)
    model = next(m for m in provider.models if m.name == found.model)
    assert (found.exposure, found.type) == (provider.exposure, provider.type)
    assert found.exposure == "public" or not runs_remotely(found.model)
    if (require := llm.require) is None:
        assert (found.provider, found.model) == (llm.provider, llm.model)
        return
    assert require.exposure in (None, found.exposure)
    assert found.exposure == "private" or require.sensitivity not in PRIVATE_ONLY
    assert model.context >= (require.context or 0)
    assert set(require.capabilities) <= set(model.capabilities)
    assert require.cost is None or max(model.cost.input, model.cost.output) <= require.cost


@given(LLMS, PROVIDERS, st.randoms(use_true_random=False))
def test_nothing_cheaper_fits_and_the_order_of_what_does_not_fit_says_nothing(
    llm: Llm, providers: list[Provider], luck: random.Random
) -> None:
    found = choose(llm, providers, EXPOSURES, executor="command")
    shuffled = [*providers]
    luck.shuffle(shuffled)
    again = choose(llm, shuffled, EXPOSURES, executor="command")
    assert isinstance(found, NoRoute) == isinstance(again, NoRoute)
    if isinstance(found, Route) and isinstance(again, Route):
        assert rank(found, providers) == rank(again, providers)


def rank(route: Route, providers: list[Provider]) -> tuple[float, int]:
    model = next(m for p in providers if p.name == route.provider for m in p.models if m.name == route.model)
    return model.cost.input + model.cost.output, -model.context
