"""What of a repository may be followed."""

import pytest

from reconciler.core.ref import parse_ref


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("main", "branch", "main"),
        ("release/1.x", "branch", "release/1.x"),
        ("tag:v1.4.0", "tag", "v1.4.0"),
        ("semver:>=1.2 <2", "semver", ">=1.2 <2"),
        (f"commit:{'a' * 40}", "commit", "a" * 40),
        (f"commit:{'a' * 64}", "commit", "a" * 64),
    ],
)
def test_a_ref_is_read_and_shown_as_it_is_written(text: str, kind: str, name: str) -> None:
    ref = parse_ref(text)
    assert (ref.kind, ref.name, str(ref)) == (kind, name, text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "-x", "a..b", "a b", "a\nb", "a.lock", "refs//x", "@{1}", "x" * 300, "a~1", "a^", "a*"),
        *("tag:", "tag:-x", "tag:a b", "semver:", "semver:main", "commit:abc", f"commit:{'A' * 40}", "branch:x"),
        *("+a:b", "a:b"),
    ],
)
def test_what_is_no_ref_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|cannot be"):
        parse_ref(text)
