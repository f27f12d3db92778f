"""A review as SARIF: valid by the essential part of its schema, each result at a place in the repository."""

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from reconciler.cli.review import render
from reconciler.cli.review.sarif import RULES
from reconciler.core.problem import Problem
from reconciler.loop.review import Review, problem_review
from tests.cli.review.build import change, everything, review

SCHEMA = jsonschema_rs.validator_for(json.loads(Path(__file__).with_name("sarif.schema.json").read_text()))


def results(found: Review) -> list[dict[str, Any]]:
    value = json.loads(render(found, "sarif"))
    SCHEMA.validate(value)
    (run,) = value["runs"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    shown: list[dict[str, Any]] = run["results"]
    return shown


def place(result: dict[str, Any]) -> tuple[str, dict[str, int]]:
    physical = result["locations"][0]["physicalLocation"]
    return physical["artifactLocation"]["uri"], physical["region"]


def test_it_is_valid_whatever_is_in_it() -> None:
    assert {r["ruleId"] for r in results(everything())} == {"refused", "removal", "change"}
    assert results(review()) == []


def test_a_problem_is_an_error_where_it_stands() -> None:
    (result,) = results(review(problems=(Problem(file="agents.d/ä b.yaml", line=3, column=7, message="no"),)))
    assert (result["level"], result["message"]) == ("error", {"text": "no"})
    assert place(result) == ("agents.d/%C3%A4%20b.yaml", {"startLine": 3, "startColumn": 7})


@pytest.mark.parametrize("file", ["/etc/reconciler/operator.yaml", "../x", "https://hub.example.org"])
def test_what_is_outside_of_the_repository_is_told_in_words(file: str) -> None:
    (result,) = results(problem_review([Problem(file=file, message="no")]))
    assert place(result) == ("hub.yaml", {"startLine": 1})
    assert result["message"] == {"text": f"{file}: no"}


def test_a_change_is_a_note_at_its_manifest() -> None:
    (result,) = results(review(change(instance="writer-0")))
    assert (result["level"], place(result)) == ("note", ("agents.d/w.yaml", {"startLine": 3}))
    assert set(RULES) == {"problem", "refused", "removal", "change"}


def test_the_schema_refuses_what_is_wrong() -> None:
    value = json.loads(render(everything(), "sarif"))
    value["runs"][0]["results"][0]["level"] = "fatal"
    assert not SCHEMA.is_valid(value)
