"""Task manifests: what is refused, and how the committer or dropper is told."""

from typing import Any

import pytest

from reconciler.kinds.task.spec import parse_task
from tests.fakes.texts import task_text

FILE = "tasks.d/t.yaml"


def said_of(text: str) -> list[str]:
    return [str(p) for p in parse_task(FILE, text.encode()).problems]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"agent": None, "prompt": "x"},
            "4:1: spec: a task names either 'agent' or 'requires' (capabilities), not both and",
        ),
        ({"requires": ["docs.write"]}, "4:1: spec: a task names either 'agent' or 'requires'"),
        ({"select": {"role": "writer"}}, "4:1: spec: 'select' goes with 'requires'"),
        ({"agent": "Writer"}, "5:3: spec.agent: 'Writer' is not a name"),
        (
            {"sensitivity": "secret"},
            "6:3: spec.sensitivity is 'secret'; expected 'public', 'internal', 'confidential' or ",
        ),
        ({"priority": 101}, "6:3: spec.priority: input should be less than or equal to 100 (found 101)"),
        ({"priority": "1"}, "6:3: spec.priority is '1'; expected a whole number"),
        ({"timeout": "0s"}, "6:3: spec.timeout: input should be greater than 0"),
        ({"timeout": 600}, "6:3: spec.timeout: 600 is not a duration"),
        ({"retries": {"maxAttempt": 3}}, "6:13: unknown key 'maxAttempt' in spec.retries; did you mean 'maxAttempts'?"),
        ({"retries": {"maxAttempts": 0}}, "6:13: spec.retries.maxAttempts: input should be greater than or equal to 1"),
        (
            {"retries": {"strategy": "linear"}},
            "6:13: spec.retries.strategy is 'linear'; expected 'exponential' or 'fixed'",
        ),
        ({"output": {"maxSize": "1GiB"}}, "6:12: spec.output.maxSize: input should be less than or equal to "),
        ({"output": {"artefacts": ["/etc/x"]}}, "6:26: '/etc/x' leaves the output folder; use a relative name"),
        ({"output": {"artefacts": ["ok", "a/../../x"]}}, "6:32: 'a/../../x' leaves the output folder"),
        ({"output": {"artefacts": ["a\nb"]}}, "6:26: spec.output.artefacts.0: contains a control character"),
        ({"input": [1]}, "6:3: spec.input is [1]; expected a mapping"),
        (
            {"input": {"n": 2**60}},
            "6:11: spec.input.n: 1152921504606846976 is larger than JSON numbers can carry exactly; ",
        ),
        ({"dependsOn": "other"}, "6:3: spec.dependsOn is 'other'; expected a list"),
        ({"dependsOn": ["../x"]}, "6:15: spec.dependsOn.0: '../x' is not a name"),
        ({"acceptance": [{}]}, "6:16: spec.acceptance.0: a check is one of 'schema', 'regex', 'command' and 'agent'"),
        ({"acceptance": [{"regex": "a", "agent": "b"}]}, "6:16: spec.acceptance.0: a check is one of"),
        ({"acceptance": [{"regex": "a", "prompt": "b"}]}, "6:16: spec.acceptance.0: 'prompt' goes with 'agent'"),
        ({"acceptance": [{"regex": "(?<=a)b"}]}, "6:17: spec.acceptance.0.regex: '(?<=a)b' is no regular expression"),
        ({"acceptance": [{"regex": "a{999}{999}"}]}, "6:17: spec.acceptance.0.regex: 'a{999}{999}' is no regular"),
        ({"acceptance": [{"schema": "../x.json"}]}, "6:17: spec.acceptance.0.schema is '../x.json', which is not a"),
        ({"acceptance": [{"command": []}]}, "6:17: spec.acceptance.0.command: "),
        ({"acceptance": [{"regex": "a"}], "input": {"remediation": 1}}, "4:1: spec: 'input.remediation' is the hub's"),
        ({"escalate": {"to": "boss"}}, "6:14: spec.escalate.to is 'boss'; expected 'operator'"),
        ({"escalate": {}}, "6:3: spec.escalate: escalate either 'to: operator' or to an 'agent', not both and not"),
        ({"schedule": {"cron": "@daily"}}, "6:14: spec.schedule.cron: '@daily' is no cron expression; write five"),
        ({"schedule": {"cron": "61 * * * *"}}, "6:14: spec.schedule.cron: '61 * * * *' is no cron expression: bad"),
        (
            {"schedule": {"cron": "0 6 * * 1", "zone": "Europe/Atlantis"}},
            "6:35: spec.schedule.zone: 'Europe/Atlantis' is no time zone of this host",
        ),
        ({"schedule": {"cron": "0 6 * * 1", "missed": "none"}}, "6:35: spec.schedule.missed is 'none'; expected "),
    ],
)
def test_a_fault_in_the_spec_says_where_and_what(spec: dict[str, Any], said: str) -> None:
    (problem,) = said_of(task_text(**spec))
    assert problem.startswith(f"{FILE}:{said}")


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e999", "9" * 5000])
def test_numbers_that_json_cannot_carry_are_refused_at_their_place(number: str) -> None:
    (problem,) = said_of(task_text() + f"  input:\n    x:\n      - {number}\n")
    assert problem == f"{FILE}:7:5: spec.input.x: NaN and infinity are not JSON values"


def test_a_huge_number_is_to_be_written_as_text() -> None:
    (problem,) = said_of(task_text() + f"  input:\n    x: {'9' * 300}\n")
    assert problem.startswith(f"{FILE}:7:5: spec.input.x: 999")
    assert problem.endswith("write it as text in quotes")


def test_dates_in_input_stay_the_text_that_was_written() -> None:
    parsed = parse_task(FILE, (task_text() + "  input: {on: 2026-01-02, never: 2026-13-45}\n").encode())
    assert parsed.manifests[0].spec.input == {"on": "2026-01-02", "never": "2026-13-45"}


def test_keys_of_input_are_text() -> None:
    (problem,) = said_of(task_text() + "  input: {a: {1: x}}\n")
    assert problem == f"{FILE}:6:11: spec.input.a: key 1 is not text; put it in quotes"


def test_deep_input_is_refused() -> None:
    deep = "[" * 40 + "]" * 40
    (problem,) = said_of(task_text() + f"  input: {{a: {deep}}}\n")
    assert problem == f"{FILE}:6:11: spec.input.a: is nested deeper than 32 levels"


def test_defaults_of_a_task() -> None:
    spec = parse_task(FILE, task_text().encode()).manifests[0].spec
    assert (spec.sensitivity, spec.priority, spec.timeout, spec.retries) == ("internal", 0, 600.0, None)
