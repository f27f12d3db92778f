"""Topics and patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.router.topics import Subscriber, TopicIndex, matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("review.done", "review.done", True),
        ("review.done", "review.done.x", False),
        ("review.*", "review.done", True),
        ("review.*", "review", False),
        ("review.*", "review.done.late", False),
        ("*.done", "review.done", True),
        ("review.*.late", "review.done.late", True),
        ("review.>", "review.done", True),
        ("review.>", "review.done.late", True),
        ("review.>", "review", False),
        ("review.>", "reviews.done", False),
        (">", "anything.at.all", True),
        ("*.>", "a.b", True),
        ("*.>", "a", False),
    ],
)
def test_patterns_match_levels(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


levels = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4)


@given(levels, st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4), st.booleans())
def test_the_index_finds_what_matches(name: list[str], pattern: list[str], is_open: bool) -> None:
    text = ".".join(pattern) + (".>" if is_open else "")
    topic = ".".join(name)
    index = TopicIndex([("writer", text, False)])
    assert bool(index.find(topic)) == matches(text, topic)
    assert index.find(topic) is index.find(topic)


def test_each_agent_comes_once_and_all_wins_over_one() -> None:
    index = TopicIndex([("b", "docs.*", False), ("b", "docs.new", True), ("a", "docs.>", False), ("c", "other", True)])
    assert index.find("docs.new") == (Subscriber("a", False), Subscriber("b", True))
