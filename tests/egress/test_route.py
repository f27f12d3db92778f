"""May this instance send this to that provider: the law of sensitivity, whatever is configured."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.exposure import LEVELS, PRIVATE_ONLY, runs_remotely
from reconciler.egress.config import Config, InstanceEntry
from reconciler.egress.instance import Instance
from reconciler.egress.problem import Deny
from reconciler.egress.route import Way, check_model, find_way

MODELS = ("a", "b", "c:cloud", "D-Cloud")
PROVIDERS = st.dictionaries(
    st.sampled_from(["p", "q"]),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["anthropic", "openai", "ollama"]),
            "url": st.just("http://127.0.0.1:1"),
            "exposure": st.sampled_from(["private", "public"]),
            "models": st.dictionaries(st.sampled_from(MODELS), st.just({}), max_size=3),
        }
    ),
)
EXPOSURES = st.dictionaries(st.sampled_from(LEVELS), st.lists(st.sampled_from(["private", "public"]), max_size=2))
CONFIGS = st.fixed_dictionaries({"digest": st.just("d"), "providers": PROVIDERS, "exposures": EXPOSURES}).map(
    lambda value: msgspec.convert(value, Config)
)
TOKENS = st.lists(st.sampled_from(["a" * 64, "b" * 64]), max_size=2)


def to_entry(value: dict[str, Any]) -> InstanceEntry:
    tokens = [{"sha256": token, "expires_at": 9e9} for token in value.pop("tokens")]
    return msgspec.convert({"agent": "writer", "tokens": tokens, **value}, InstanceEntry)


ENTRIES = st.fixed_dictionaries(
    {
        "tokens": TOKENS,
        "sensitivity": st.sampled_from(LEVELS),
        "route": st.none()
        | st.fixed_dictionaries({"provider": st.sampled_from("pq"), "model": st.sampled_from(MODELS)}),
    }
).map(to_entry)
APIS = st.sampled_from(["anthropic", "openai"])


@given(CONFIGS, ENTRIES, APIS)
def test_sensitive_work_finds_no_way_to_a_public_provider(config: Config, entry: InstanceEntry, api: Any) -> None:
    way = find_way(config, entry, api)
    if isinstance(way, Way):
        assert way.provider.exposure in config.exposures.get(entry.sensitivity, ())
        assert way.provider.exposure == "private" or entry.sensitivity not in PRIVATE_ONLY
        assert way.provider.exposure == "public" or not runs_remotely(way.model)
        assert entry.route is not None
        assert (way.name, way.model) == (entry.route.provider, entry.route.model)
        assert check_model(way, way.model) is None
        assert isinstance(check_model(way, "another"), Deny)


@given(CONFIGS, st.lists(ENTRIES, min_size=1), APIS)
def test_what_an_instance_has_heard_binds_it_through_all_changes_until_it_has_another_token(
    config: Config, entries: list[InstanceEntry], api: Any
) -> None:
    """A changed manifest, another provider, less sensitive work: none of them opens a way that was closed."""
    instance = Instance("writer-0", entries[0])
    heard, tokens = entries[0].sensitivity in PRIVATE_ONLY, {t.sha256 for t in entries[0].tokens}
    for entry in entries[1:]:
        instance.change(entry)
        now = {t.sha256 for t in entry.tokens}
        heard = entry.sensitivity in PRIVATE_ONLY or (heard and bool(tokens & now))
        tokens = now
        way = find_way(config, instance.entry, api)
        assert not (heard and isinstance(way, Way) and way.provider.exposure == "public")
