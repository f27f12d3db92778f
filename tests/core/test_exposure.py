"""How far words go: the law that nobody can configure away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.exposure import EXPOSURES, LEVELS, PRIVATE_ONLY, highest, permits, runs_remotely

WORDS = st.one_of(st.sampled_from([*LEVELS, "private", "public", "none", "", "Public", "PRIVATE"]), st.text(max_size=9))


@given(st.dictionaries(WORDS, st.lists(WORDS, max_size=4)), st.sampled_from(sorted(PRIVATE_ONLY)), WORDS)
def test_what_is_confidential_or_restricted_goes_nowhere_but_private_whatever_is_configured(
    exposures: dict[str, list[str]], sensitivity: str, exposure: str
) -> None:
    assert not permits(exposures, sensitivity, exposure) or exposure == "private"


@given(st.dictionaries(WORDS, st.lists(WORDS, max_size=4)), WORDS, WORDS)
def test_nothing_goes_where_the_configuration_does_not_say(
    exposures: dict[str, list[str]], sensitivity: str, exposure: str
) -> None:
    assert not permits(exposures, sensitivity, exposure) or exposure in exposures[sensitivity]


def test_by_default_public_and_internal_work_may_go_anywhere() -> None:
    assert [[permits(EXPOSURES, level, where) for where in ("private", "public")] for level in LEVELS] == [
        [True, True],
        [True, True],
        [True, False],
        [True, False],
    ]


@given(st.sets(st.sampled_from(LEVELS)), st.sampled_from(LEVELS))
def test_the_highest_never_goes_down_and_is_one_of_them(levels: set[str], more: str) -> None:
    assert highest(levels) in {*levels, "public"}
    assert LEVELS.index(highest({*levels, more})) >= LEVELS.index(highest(levels))


def test_what_is_unknown_counts_as_the_most_sensitive() -> None:
    assert highest(["public", "top-secret"]) == "restricted"
    assert highest([]) == "public"


@pytest.mark.parametrize("model", ["qwen3:cloud", "gpt-oss:120b-cloud", "x-cloud", "Qwen3:480B-CLOUD", " kimi:cloud "])
def test_names_that_run_elsewhere(model: str) -> None:
    assert runs_remotely(model)


@pytest.mark.parametrize("model", ["qwen3", "cloud", "cloudy:7b", "x:cloud-7b", "cloud:7b"])
def test_names_that_run_here(model: str) -> None:
    assert not runs_remotely(model)
