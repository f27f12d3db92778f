"""Rego text to tokens: what is code and what is not, with places."""

from hypothesis import given
from hypothesis import strategies as st

from reconciler.policy.tokens import Sort, tokenise


def texts(source: str) -> list[str]:
    tokens, _ = tokenise("p.rego", source)
    return [token.text for token in tokens]


def problems(source: str) -> list[str]:
    return [str(problem) for problem in tokenise("p.rego", source)[1]]


def test_comments_are_not_code_and_strings_are_one_token() -> None:
    assert texts('x := "a # b" # c "d"\n`e\n# f` 1.5e3') == ["x", ":=", '"a # b"', "`e\n# f`", "1.5e3"]


def test_escaped_quotes_do_not_end_a_string() -> None:
    assert texts(r'"a\"b" "\\" c') == [r'"a\"b"', r'"\\"', "c"]


def test_places_count_characters_also_behind_raw_strings_of_several_lines() -> None:
    tokens, _ = tokenise("p.rego", "é" * 0 + '"é" x\n`a\nbc` y')
    assert [(t.text, t.line, t.column) for t in tokens] == [
        ('"é"', 1, 1),
        ("x", 1, 5),
        ("`a\nbc`", 2, 1),
        ("y", 3, 5),
    ]


def test_an_open_string_is_a_problem_at_its_quote() -> None:
    assert problems('x := 1\ny := "open') == [
        "p.rego:2:6: has a string that does not end on its line; close it, or use back-quotes"
    ]
    assert problems("x := `open") == ["p.rego:1:6: has a raw string that does not end; close it with a back-quote"]


def test_template_strings_and_foreign_characters_are_problems() -> None:
    assert problems('x := $"{y}"') == [
        "p.rego:1:6: has a template string; the engines read it differently, use sprintf"
    ]
    assert problems("é := 1") == ["p.rego:1:1: has '\\xe9' outside of a string; remove it"]


def test_escapes_that_the_engines_read_differently_are_problems() -> None:
    assert len(problems('x := ["\\u00e9", "a\\/b", `\\u00e9`, "\\n\\t\\"\\\\u"]')) == 2


@given(st.text(alphabet='ab"`\\#$\n .()[]{}:=1é'))
def test_every_text_has_tokens_that_lie_where_they_say(source: str) -> None:
    tokens, _ = tokenise("p.rego", source)
    for token in tokens:
        assert source[token.start : token.end] == token.text
        assert source.count("\n", 0, token.start) + 1 == token.line
        assert token.sort in Sort
