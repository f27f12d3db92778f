"""Broadcasts: whom a filter reaches, and what an operator may not say."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.router.audience import Audience, check_operator, fits, show

DOCS = {"team": "docs", "tier": "1"}


@pytest.mark.parametrize(
    ("audience", "is_reached"),
    [
        (Audience(), True),
        (Audience(roles=("writer",)), True),
        (Audience(roles=("reviewer", "writer")), True),
        (Audience(roles=("reviewer",)), False),
        (Audience(labels={"team": "docs"}), True),
        (Audience(labels=DOCS), True),
        (Audience(labels={"team": "code"}), False),
        (Audience(labels={"area": "docs"}), False),
        (Audience(capabilities=("docs.write", "git.read")), True),
        (Audience(capabilities=("docs.write", "docs.publish")), False),
        (Audience(roles=("writer",), labels={"team": "code"}), False),
        (Audience(roles=("writer",), labels=DOCS, capabilities=("git.read",)), True),
    ],
)
def test_an_agent_is_reached_when_it_fits_all_of_the_filter(audience: Audience, is_reached: bool) -> None:
    assert fits(audience, "writer", DOCS, ("docs.write", "git.read")) is is_reached


words = st.sampled_from(["a", "b", "c"])
audiences = st.builds(
    Audience,
    roles=st.lists(words, max_size=2).map(tuple),
    labels=st.dictionaries(words, words, max_size=2),
    capabilities=st.lists(words, max_size=2).map(tuple),
)


@given(audiences, words, st.dictionaries(words, words), st.lists(words))
def test_a_narrower_filter_reaches_no_more(
    audience: Audience, role: str, labels: dict[str, str], capabilities: list[str]
) -> None:
    if fits(audience, role, labels, capabilities):
        for part in ("roles", "labels", "capabilities"):
            wider = msgspec.structs.replace(audience, **{part: type(getattr(audience, part))()})
            assert fits(wider, role, labels, capabilities)


@pytest.mark.parametrize(
    ("audience", "shown"),
    [
        (Audience(), "broadcast:*"),
        (
            Audience(roles=("writer", "reviewer"), labels={"tier": "1", "team": "docs"}, capabilities=("git.read",)),
            "broadcast:role=writer,role=reviewer,team=docs,tier=1,capability=git.read",
        ),
    ],
)
def test_the_log_says_whom_it_was_for(audience: Audience, shown: str) -> None:
    assert show(audience) == shown


@pytest.mark.parametrize(
    "wrong", ['{"role":"writer"}', '{"roles":[""]}', '{"labels":{"a":1}}', '{"capabilities":["A b"]}']
)
def test_a_filter_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(wrong, type=Audience)


def test_an_operator_cannot_speak_with_the_hubs_voice() -> None:
    assert check_operator("notice.maintenance") is None
    for type_ in ("task.assigned", "task.cancel", "policy.changed", "hub.anything"):
        assert f"{type_} is a type of the hub's own" in (check_operator(type_) or "")
