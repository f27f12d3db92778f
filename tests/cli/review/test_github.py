"""A review as commands of a GitHub workflow: one per line, none of them a stranger's."""

import re

import pytest

from reconciler.cli.review import render
from reconciler.cli.review.github import command
from reconciler.core.change import Action
from reconciler.core.plan import Refusal
from reconciler.core.problem import Problem
from tests.cli.review.build import change, everything, review

COMMAND = re.compile(r"::(error|warning|notice)(?: (?P<properties>[^:]*))?::(?P<data>.*)")


def test_a_problem_is_an_error_at_its_line() -> None:
    found = review(problems=(Problem(file="agents.d/a.yaml", line=3, column=7, message="is not a list"),))
    assert render(found, "github").splitlines() == [
        "::error file=agents.d/a.yaml,line=3,col=7::is not a list",
        "::notice title=Plan of revision aaaaaaaaaaaa::1 problem",
    ]


def test_removals_are_warnings_before_the_other_changes() -> None:
    found = review(change(instance="writer-0"), change("gone", Action.REMOVE, reason="no longer in git"))
    assert render(found, "github").splitlines()[:2] == [
        "::warning file=hub.yaml,line=1,title=remove agent/gone::no longer in git",
        "::notice file=agents.d/w.yaml,line=3,title=replace agent/writer-0::changed in git",
    ]


def test_a_refusal_is_an_error_and_says_how_it_is_confirmed() -> None:
    found = review(refused=(Refusal(guard="protect", reason="agent x is protected", confirm="1:c"),))
    assert render(found, "github").splitlines()[0] == (
        "::error title=refused by protect::agent x is protected; if this is meant: reconciler apply --confirm 1:c"
    )


@pytest.mark.parametrize(
    ("text", "data", "value"),
    [
        ("50%", "50%25", "50%25"),
        ("a\r\nb", "a%0D%0Ab", "a%0D%0Ab"),
        ("a:b,c", "a:b,c", "a%3Ab%2Cc"),
        ("%0A::error::x", "%250A::error::x", "%250A%3A%3Aerror%3A%3Ax"),
    ],
)
def test_what_the_runner_would_read_as_its_own_is_escaped(text: str, data: str, value: str) -> None:
    assert command("error", text, file=text) == f"::error file={value}::{data}"


def test_every_line_is_one_command_whatever_strangers_write() -> None:
    lines = render(everything(), "github").split("\n")
    assert lines.pop() == ""
    assert all(COMMAND.fullmatch(line) for line in lines), lines
    assert sum(line.startswith("::error") for line in lines) == 1
