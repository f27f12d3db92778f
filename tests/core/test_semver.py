"""Versions, their order, and ranges of them."""

import itertools

import pytest

from reconciler.core.semver import Version, newest_within, parse_range, parse_version

ORDER = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1 1.10.0"


def test_versions_are_ordered_as_the_specification_has_it() -> None:
    versions = [_version(text) for text in ORDER.split()]
    assert all(a < b for a, b in itertools.pairwise(versions))


@pytest.mark.parametrize("text", ["", "1", "1.2", "01.2.3", "1.2.3.4", "v", "vv1.2.3", "1.2.3-", "1.2.3\n", "1.2.x"])
def test_what_is_no_version_is_none(text: str) -> None:
    assert parse_version(text) is None


@pytest.mark.parametrize(
    ("wanted", "within", "without"),
    [
        ("*", "0.0.1 9.9.9", "1.0.0-rc.1"),
        ("1", "1.0.0 1.9.9", "0.9.9 2.0.0"),
        ("1.x", "1.0.0 1.9.9", "2.0.0"),
        ("1.4", "1.4.0 1.4.9", "1.5.0"),
        ("=1.4.2", "1.4.2 v1.4.2 1.4.2+build", "1.4.3"),
        (">=1.2 <2", "1.2.0 1.99.0", "1.1.9 2.0.0 2.0.0-rc.1"),
        (">= 1.2 < 2", "1.2.0", "2.0.0"),
        (">1.2", "1.3.0", "1.2.9"),
        ("<=1.2", "1.2.9 0.1.0", "1.3.0"),
        (">1.2.3 <=1.2.5", "1.2.4 1.2.5", "1.2.3 1.2.6"),
        ("^1.2.3", "1.2.3 1.9.0", "1.2.2 2.0.0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.3.0"),
        ("^0.0.3", "0.0.3", "0.0.4"),
        ("^0", "0.0.1 0.9.9", "1.0.0"),
        ("~1.2.3", "1.2.3 1.2.9", "1.3.0"),
        ("~1", "1.0.0 1.9.9", "2.0.0"),
        ("^1 || ^3", "1.5.0 3.1.0", "2.0.0"),
        (">=1.0.0-rc.1", "1.0.0-rc.1 1.0.0-rc.2 1.0.0 1.1.0", "1.0.0-beta 1.1.0-rc.1"),
    ],
)
def test_a_range_holds_what_it_says(wanted: str, within: str, without: str) -> None:
    found = parse_range(wanted)
    for text in within.split():
        assert found.holds(_version(text)), text
    for text in without.split():
        assert not found.holds(_version(text)), text


@pytest.mark.parametrize("text", ["", "  ", "main", "1..2", ">>1", "1 ||", "^", "1.2.3.4", "*" * 300, "1,2"])
def test_what_is_no_range_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_range(text)


def test_the_newest_name_within_a_range_is_chosen_whatever_the_order() -> None:
    names = ["v1.2.0", "1.10.0", "v1.10.0", "latest", "v2.0.0", "1.9.0"]
    assert newest_within(parse_range("^1"), names) == "1.10.0" == newest_within(parse_range("^1"), reversed(names))
    assert newest_within(parse_range("^3"), names) is None


def _version(text: str) -> Version:
    version = parse_version(text)
    assert version is not None, text
    return version
