"""The policies of a revision: each fault of Rego and of its data with its place."""

import pytest

from tests.fakes.desired import desired_of, problems_of
from tests.fakes.source import Odd

REGO = 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true, "reasons": []}\n'
FILE = "policies/task.rego"
DATA = "policies/data.yaml"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("a: [\n", f"{DATA}:2:1: is not valid YAML: did not find expected node content"),
        ("a: 1\n---\nb: 2\n", f"{DATA}: holds 2 documents; it may hold one"),
        ("- a\n", f"{DATA}:1:1: is not a mapping; write keys and values"),
        ("a: 1\nhub: {x: 1}\n", f"{DATA}:2:1: has the key 'hub', which is the hub's own; rename it"),
        ("a: 1\nsystem: {x: 1}\n", f"{DATA}:2:1: has the key 'system', which OPA keeps for itself; rename it"),
        ("a:\n  7: x\n", f"{DATA}:2:3: a has the key 7, which is not text; put it in quotes"),
        (
            "a:\n  - b: 1e300\n",
            f"{DATA}:2:5: a[0].b is 1e+300, which the engines do not read alike; write it as text, or smaller",
        ),
        (b"a: \xe9\n", f"{DATA}:1:4: is not UTF-8 text; save the file as UTF-8"),
        (Odd(b"/etc/passwd", mode="120000"), f"{DATA}: is a symbolic link; commit the file itself"),
    ],
)
def test_a_fault_in_the_data_says_where_and_what(data: str | bytes | Odd, said: str) -> None:
    assert problems_of({FILE: REGO, DATA: data}) == [said]


def test_a_package_where_data_stands_is_named_at_the_data() -> None:
    files = {"policies/lib.rego": REGO.replace("hub.task", "lib.limits"), DATA: "x: 1\nlib:\n  limits: {y: 1}\n"}
    assert problems_of(files) == [f"{DATA}:3:3: has a value where package lib.limits is; rename one of them"]


@pytest.mark.parametrize(
    ("rego", "said"),
    [
        (
            REGO.replace("import rego.v1\n", ""),
            f"{FILE}:1:1: does not import rego.v1; write 'import rego.v1' below the package",
        ),
        (
            REGO + "x := http.send({})\n",
            f"{FILE}:6:6: http.send reaches out of the hub; policies may not use it",
        ),
        (
            REGO.replace("hub.task", "system.log"),
            f"{FILE}:1:1: package system.log is below 'system', which OPA keeps for itself; choose another name",
        ),
        (b"package hub.task\n# caf\xe9\n", f"{FILE}:2:6: is not UTF-8 text; save the file as UTF-8"),
        ("package hub.task\n# é\0\n", f"{FILE}:2:4: contains a NUL character; remove it"),
        (Odd(b"../x", mode="120000"), f"{FILE}: is a symbolic link; commit the file itself"),
        (Odd(b"", size_bytes=50 * 2**20), f"{FILE}: has 52428800 bytes; at most 1048576 are read; split it"),
    ],
)
def test_a_fault_in_a_module_says_where_and_what(rego: str | bytes | Odd, said: str) -> None:
    assert problems_of({FILE: rego}) == [said]


def test_a_misspelt_decision_is_a_problem_of_the_revision_and_does_not_leave_the_question_to_others() -> None:
    message = "package hub.task has no rule 'decision', so that built-in rules would answer instead"
    assert problems_of({FILE: REGO.replace("decision", "decison")}) == [
        f"{FILE}:5:1: {message}; rename decison, if this is meant to be it"
    ]


def test_data_without_any_rego_is_no_policy() -> None:
    assert desired_of({DATA: "a: 1\n"}).of("policy") == {}
