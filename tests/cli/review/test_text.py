"""A review on a terminal: a table within 100 columns, and nothing in it that a terminal would obey."""

import click

from reconciler.cli.output import WIDTH
from reconciler.cli.review import render
from reconciler.core.change import Action
from reconciler.core.problem import Problem
from tests.cli.review.build import change, everything, image, opinion, review


def text(*changes: object, **more: object) -> str:
    return click.unstyle(render(review(*changes, **more), "text"))  # type: ignore[arg-type]


def test_each_change_is_a_row_with_its_fields_below() -> None:
    assert text(change(instance="writer-0", fields=(image(),)), change("b", Action.KEEP)) == (
        "revision aaaaaaaaaaaa compared with base bbbbbbbbbbbb\n"
        "± replace   agent/writer-0                            changed in git\n"
        "    spec.image: a:1 → a:2\n"
        "1 to replace; 1 as they should be\n"
    )


def test_instances_of_which_the_same_is_said_share_a_row() -> None:
    rows = text(*(change(instance=f"writer-{n}") for n in range(3))).splitlines()
    assert rows[1].split()[1:5] == ["replace", "agent/writer", "(3", "instances)"]
    assert rows[-1].startswith("3 to replace")


def test_nothing_is_wider_than_100_columns_and_nothing_moves_the_cursor() -> None:
    shown = click.unstyle(render(everything(), "text", everything=True))
    assert max(map(len, shown.splitlines())) <= WIDTH
    assert "\x1b" not in shown
    long_name = "n" * 40
    wide = text(change(long_name, instance=f"{long_name}-10", reason="word " * 60, fields=(image("i" * 300),)))
    assert max(map(len, wide.splitlines())) <= WIDTH


def test_a_rename_is_one_row_and_not_two() -> None:
    rows = click.unstyle(render(everything(), "text")).splitlines()
    assert [r.split()[1:5] for r in rows if "agent/old" in r] == [["move", "agent/old", "→", "agent/new"]]
    assert not any("new-0" in r for r in rows)


def test_policies_that_disagree_are_named_and_those_that_agree_are_counted() -> None:
    shown = text(opinions=(opinion(base="too big"), opinion()))
    assert "admission: 1 of 2 changed manifests allowed by all policies asked\n" in shown
    assert "task/changelog: allowed by the head's policies, denied by the base's: too big\n" in shown
    assert "admission" not in text(change())


def test_a_refusal_says_how_it_is_confirmed() -> None:
    assert click.unstyle(render(everything(), "text")).endswith("  if this is meant: reconciler apply --confirm 1:c\n")


def test_problems_take_the_place_of_the_plan() -> None:
    shown = text(problems=(Problem(file="hub.yaml", line=2, column=1, message="no"),))
    assert shown == "revision aaaaaaaaaaaa\n1 problem\nhub.yaml:2:1: no\n"
