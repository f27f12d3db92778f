"""A review as a comment: what strangers write in manifests is text there, and the comment is never too long."""

import html
import re
from dataclasses import replace

from reconciler.cli.review import render
from reconciler.cli.review.markdown import LIMIT, MARKER, code, escape
from reconciler.core.problem import Problem
from tests.cli.review.build import change, everything, image, review


def plain(markdown: str) -> str:
    """What a reader sees, without the marks."""
    return html.unescape(re.sub(r"</?code>", "", markdown)).replace("\u200b", "")


def test_it_has_a_marker_a_summary_a_table_and_the_fields_in_a_fold() -> None:
    assert plain(render(review(change(instance="writer-0", fields=(image(),))), "markdown")) == (
        f"{MARKER}\n"
        "### Plan: 1 to replace; 0 as they should be\n"
        "\n"
        "revision aaaaaaaaaaaa compared with base bbbbbbbbbbbb\n"
        "\n"
        "#### Changes\n"
        "\n"
        "|  | resource | what | why |\n"
        "|---|---|---|---|\n"
        "| ± | agent/writer-0 | replace | changed in git |\n"
        "\n"
        "<details><summary>Fields (1)</summary>\n"
        "\n"
        "| resource | field | before | after |\n"
        "|---|---|---|---|\n"
        "| agent/writer-0 | spec.image | a:1 | a:2 |\n"
        "\n"
        "</details>\n"
    )


def test_everything_a_review_holds_is_in_it() -> None:
    shown = plain(render(everything(), "markdown"))
    for part in ("agent/old → agent/new", "prune-budget", "loop.resync", "1m", "denied", "**(interrupts work)**"):
        assert part in shown, part
    assert "reconciler apply --confirm 1:c" in shown


def test_what_strangers_write_stays_text() -> None:
    shown = render(everything(), "markdown")
    assert not re.search(r"<script|http:|\]\(|`|@|::|\x1b", shown)
    assert "&#64;\u200bteam" in shown
    tables = [line for line in shown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {3, 4, 5}


def test_an_entity_is_only_what_it_stands_for() -> None:
    assert escape("a|b*c_d") == "a&#124;b&#42;c&#95;d"
    assert plain(code("spec.env: {A: 1}")) == "spec.env: {A: 1}"
    assert escape("two\nlines\x07") == "two lines�"


def test_a_long_plan_is_cut_and_says_how_much_is_missing() -> None:
    many = [change(f"agent-{n}", instance=f"agent-{n}-0", fields=(image("i" * 150, "j" * 150),)) for n in range(2000)]
    shown = render(review(*many), "markdown")
    assert len(shown) <= LIMIT
    assert re.search(r"^\d+ more rows of Changes: see the plan as text or JSON\.$", shown, re.MULTILINE)
    assert shown.count("<details>") == shown.count("</details>")
    problems = tuple(Problem(file="f" * 100, line=n, column=1, message="@" * 2000) for n in range(500))
    worst = replace(review(problems=problems), notes=("n" * 2000,) * 5)
    assert len(render(worst, "markdown")) <= LIMIT


def test_problems_say_where() -> None:
    found = review(
        problems=(Problem(file="agents.d/a.yaml", line=3, column=7, message="no"), Problem(file="b", message="c"))
    )
    shown = plain(render(found, "markdown"))
    assert "### Plan: 2 problems\n\nrevision aaaaaaaaaaaa\n" in shown
    assert "| agents.d/a.yaml:3:7 | no |\n| b | c |\n" in shown
