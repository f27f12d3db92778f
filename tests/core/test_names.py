"""Names: short, lower-case ASCII, and the refusal says which character is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.names import MAX_NAME, check_dotted, check_name, instance_name


@pytest.mark.parametrize("name", ["a", "0", "writer", "doc-writer-2", "a" * MAX_NAME])
def test_names_that_are_fine(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "it must start and end with a letter or digit"),
        ("Writer", "'W' is not allowed"),
        ("wr_iter", "'_' is not allowed"),
        ("../etc", "'.' is not allowed"),
        ("..", "'.' is not allowed"),
        ("a/b", "'/' is not allowed"),
        ("writer\n", r"'\\n' is not allowed"),
        ("wr\u0456ter", r"'\\u0456' is not allowed"),
        ("\u0430gent", r"'\\u0430' is not allowed"),
        ("-a", "it must start and end with a letter or digit"),
        ("a-", "it must start and end with a letter or digit"),
        ("a" * (MAX_NAME + 1), "at most 40"),
    ],
)
def test_names_that_are_refused_and_why(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_name(name)


@given(st.text(max_size=50))
def test_whatever_passes_is_a_safe_file_name(text: str) -> None:
    try:
        check_name(text)
    except ValueError as exc:
        assert str(exc).isprintable()
        return
    assert text.isascii()
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(instance_name(text, 99)) <= 43


@pytest.mark.parametrize("name", ["docs.write", "a", "a_b.c-d.0"])
def test_dotted_names_that_are_fine(name: str) -> None:
    assert check_dotted(name) == name


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "A", "a b", "a\n", "\u0430.b", "a" * 101])
def test_dotted_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a dotted name; use parts of"):
        check_dotted(name)


def test_an_instance_is_named_after_its_agent() -> None:
    assert instance_name("writer", 0) == "writer-0"
