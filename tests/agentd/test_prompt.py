from __future__ import annotations

import json

from reconciler.agentd.assignment import Assignment, Ref
from reconciler.agentd.prompt import build_prompt

REF = Ref(task="demo", run="r-1", generation=1)


def test_prompt_input_and_results_follow_one_another() -> None:
    assignment = Assignment(ref=REF, prompt="Do it.", input={"ä": [1]}, parents={"collect": None, "sort": "b\na"})
    assert build_prompt(assignment) == (
        'Do it.\n\nInput (JSON):\n{\n "ä": [\n  1\n ]\n}\n\n'
        'Result of collect (JSON):\nnull\n\nResult of sort (JSON):\n"b\\na"'
    )


def test_an_input_alone_is_a_question() -> None:
    assert build_prompt(Assignment(ref=REF, prompt=" \n", input=0)) == "Input (JSON):\n0"


def test_nothing_is_empty() -> None:
    assert build_prompt(Assignment(ref=REF, prompt=" \n")) == ""


def test_what_is_json_stays_json() -> None:
    value = {"a": ["\u2028", "x" * 1000, 1.5, None, True]}
    text = build_prompt(Assignment(ref=REF, input=value))
    assert json.loads(text.partition("\n")[2]) == value
