"""YAML as committers write it, and as they should not: every fault has a file, a line, a column and a way out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.problem import Problem
from reconciler.core.yaml import MAX_BYTES, MAX_DEPTH, load_documents, locate


def fault(content: bytes | str) -> Problem:
    """The one problem of a file."""
    documents = load_documents(content.encode() if isinstance(content, str) else content, "agents.d/a.yaml")
    assert documents.values == ()
    (problem,) = documents.problems
    assert problem.file == "agents.d/a.yaml"
    return problem


def place(content: bytes | str) -> tuple[int, int, str]:
    problem = fault(content)
    return problem.line, problem.column, problem.message


def test_values_are_those_of_yaml_1_2() -> None:
    pairs = "a: 1,b: 1.5,c: true,d: null,e: yes,f: 0o17,g: 0x1F,h: 012,i: '1',j: 1_000,k: 1:30,l: ~,m: on"
    assert load_documents(pairs.replace(",", "\n").encode(), "f").values == (
        {
            "a": 1,
            "b": 1.5,
            "c": True,
            "d": None,
            "e": "yes",
            "f": 15,
            "g": 31,
            "h": 12,
            "i": "1",
            "j": "1_000",
            "k": "1:30",
            "l": None,
            "m": "on",
        },
    )


def test_dates_stay_text() -> None:
    assert load_documents(b"a: 2026-01-02\nb: 2026-13-45\nc: 2026-01-02T03:04:05Z\n", "f").values == (
        {"a": "2026-01-02", "b": "2026-13-45", "c": "2026-01-02T03:04:05Z"},
    )


def test_anchors_aliases_and_merges_work_within_one_document() -> None:
    text = "base: &b {x: 1, y: 2}\nsame: *b\nmore: {<<: *b, y: 3}\n"
    assert load_documents(text.encode(), "f").values == (
        {"base": {"x": 1, "y": 2}, "same": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}},
    )
    line, column, message = place("a: &x 1\n---\nb: *x\n")
    assert (line, column) == (3, 4)
    assert "has no anchor &x before it" in message


def test_an_empty_file_has_no_documents() -> None:
    assert load_documents(b"", "f").values == ()
    assert load_documents(b"# only a comment\n", "f").values == ()


def test_several_documents_are_several_values() -> None:
    assert load_documents(b"a: 1\n---\nb: 2\n---\n", "f").values == ({"a": 1}, {"b": 2}, None)


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        (
            "a: [1, 2\nb: 3\n",
            2,
            2,
            "is not valid YAML: did not find expected ',' or ']', in what begins on line 1, column 4",
        ),
        ("a: 1\nb: 'open\n\n", 4, 1, "found unexpected end of stream, in what begins on line 2, column 4"),
        ("a: b: c\n", 1, 5, "is not valid YAML: mapping values are not allowed"),
        ("a:\n\tb: 1\n", 2, 1, "a tab is used for indentation; YAML wants spaces"),
        ("a:\n  b: 1\n  \tc: 1\n", 3, 3, "a tab is used for indentation; YAML wants spaces"),
        ("a:\n\u00a0\u00a0b: 1\n  c: 2\n", 3, 4, "line 2 is indented by U+00A0, which only looks like a space"),
        ("é: 1\nä: \x01\n", 2, 4, "contains the character U+0001, which YAML forbids; remove it"),
        ("a: \x7f\n", 1, 4, "contains the character U+007F, which YAML forbids; remove it"),
        ("a: 1\nb: 2\na: 3\n", 3, 1, "found duplicate key 'a'; keep one of them"),
        ("a:\n  x: 1\n  x: 2\n", 3, 3, "found duplicate key 'x'; keep one of them"),
        ("a: *nowhere\n", 1, 4, "alias *nowhere has no anchor"),
        ("a: &x [1, *x]\n", 1, 11, "alias *x stands inside its own anchor; write the value out"),
        ("a: &x\n  b: {c: *x}\n", 2, 10, "alias *x stands inside its own anchor; write the value out"),
        ("a: !!python/object:os.system {}\n", 1, 4, "only plain YAML values are allowed"),
        ("a: !env SECRET\n", 1, 4, "only plain YAML values are allowed"),
        ("a: !!binary aGk=\n", 1, 4, "only plain YAML values are allowed"),
        ("a: 1\n---\nb: [\n", 4, 1, "is not valid YAML"),
        ("? [a, b]\n: 1\n", 1, 3, "a key is a list or a mapping; keys are plain words"),
        ("a: {<<: 5}\n", 1, 5, "'<<' merges mappings"),
    ],
)
def test_faults_have_a_place_and_a_way_out(text: str, line: int, column: int, said: str) -> None:
    found = fault(text)
    assert (found.line, found.column) == (line, column), found
    assert said in found.message


def test_bytes_that_are_no_utf_8_are_named_at_their_place() -> None:
    assert place(b"a: 1\nb: caf\xe9\n") == (2, 7, "is not UTF-8 text; save the file as UTF-8")
    assert place("a: ä\n".encode("utf-16")) == (1, 1, "is not UTF-8 text; save the file as UTF-8")


def test_a_nul_is_named_at_its_place() -> None:
    assert place(b"a: 1\nb: x\0y\n") == (2, 5, "contains a NUL character; remove it")
    assert place("é: ü\0y\n") == (1, 5, "contains a NUL character; remove it")


def test_an_oversized_text_is_refused_before_it_is_parsed() -> None:
    assert "at most 1048576" in fault(b"#" * (MAX_BYTES + 1)).message
    assert load_documents(b"#" * MAX_BYTES, "f").problems == ()


def test_anchors_that_explode_are_refused_where_they_do() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    line, column, message = place("\n".join(lines))
    assert (line, column) == (5, 45)
    assert message == "expands through its anchors to more than 100000 values; use fewer"


def test_too_many_values_are_refused_without_talk_of_anchors() -> None:
    assert place("- a\n" * 200_000) == (100_000, 3, "has more than 100000 values; use fewer")


def test_merges_that_explode_are_refused_too() -> None:
    lines = ["a0: &a0 {k0: [x, x, x, x, x, x, x, x, x, x]}"]
    lines += [f"a{n}: &a{n} {{<<: *a{n - 1}, k{n}: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 20)]
    assert fault("\n".join(lines)).message.startswith("expands through its anchors to more than")


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 5000 + "]" * 5000,
        "a: " + '{"b": ' * 5000 + "1" + "}" * 5000,
        "\n".join(" " * n + "a:" for n in range(1400)) + " 1",
        "\n".join(" " * (n // 2) + ("-" if n % 2 else "a:") for n in range(2000)),
        "- " * 5000 + "a",
        "? " * 5000 + "a",
    ],
    ids=["flow lists", "flow maps", "block maps", "maps in lists", "block lists", "keys"],
)
def test_deep_nesting_is_refused_however_it_is_written(text: str) -> None:
    found = fault(text)
    assert found.message.endswith(f"is nested deeper than {MAX_DEPTH} levels; flatten it")
    assert found.line > 0


def test_a_place_is_found_by_its_path_or_the_nearest_around_it() -> None:
    content = b"# comment\n\napiVersion: x\nspec:\n  items:\n    - name: a\n    - {name: b, deep: {x: 1}}\n---\nb: 2\n"
    assert locate(content, 0, ()) == (3, 1)
    assert locate(content, 0, ("spec", "items", 1, "deep", "x")) == (7, 24)
    assert locate(content, 0, ("spec", "items", 0, "missing", "deeper")) == (6, 7)
    assert locate(content, 0, ("nowhere",)) == (3, 1)
    assert locate(content, 1, ("b",)) == (9, 1)
    assert locate(content, 7, ("b",)) == (1, 1)


@given(
    st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>'\"#?,\n\t <~.0é\x00\u2028", max_size=40).map(str.encode)
)
def test_no_content_makes_it_raise_and_every_fault_has_a_message(content: bytes) -> None:
    documents = load_documents(content, "f")
    assert all(p.message for p in documents.problems)
    if not documents.problems:
        for number in range(len(documents.values)):
            line, column = locate(content, number, ("a", 0))
            assert line >= 1
            assert column >= 1
