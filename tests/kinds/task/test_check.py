"""Cross references of tasks, as a whole revision is judged, and those of a dropped one."""

from typing import Any

from reconciler.kinds.task.check import check_dropped
from tests.fakes.desired import desired_of, problems_of, task_manifest
from tests.fakes.texts import agent_text, task_text

AGENT = {"agents.d/a.yaml": agent_text(labels={"team": "docs"})}


def tasks(**depends_on: list[str]) -> dict[str, str]:
    """A file per task, each depending on those named."""
    return {f"tasks.d/{n}.yaml": task_text(n, dependsOn=d) for n, d in depends_on.items()}


def said_of(files: dict[str, str]) -> list[str]:
    return problems_of({**AGENT, **files})


def test_an_unknown_agent_is_named_beside_those_that_are_there() -> None:
    assert said_of({"tasks.d/t.yaml": task_text(agent="writr")}) == [
        "tasks.d/t.yaml:5:3: agent 'writr' is not defined; agents are: writer"
    ]
    assert problems_of({"tasks.d/t.yaml": task_text()}) == [
        "tasks.d/t.yaml:5:3: agent 'writer' is not defined; agents are: none"
    ]


def test_a_capability_that_nobody_has_is_a_problem() -> None:
    files = {"tasks.d/t.yaml": task_text(agent=None, requires=["docs.write", "docs.print"])}
    assert said_of(files) == ["tasks.d/t.yaml:5:3: no agent has all of the capabilities docs.write, docs.print"]


def test_select_must_leave_somebody() -> None:
    def selecting(**select: object) -> dict[str, str]:
        return {"tasks.d/t.yaml": task_text(agent=None, requires=["docs.write"], select=select)}

    nobody = ["tasks.d/t.yaml:6:3: no agent with the required capabilities matches 'select'"]
    assert said_of(selecting(labels={"team": "docs"}, role="writer")) == []
    assert said_of(selecting(labels={"team": "other"})) == nobody
    assert said_of(selecting(role="reader")) == nobody


def test_an_unknown_dependency_is_a_problem() -> None:
    assert said_of(tasks(a=["b"])) == ["tasks.d/a.yaml:6:15: dependsOn names task 'b', which is not defined"]


def test_a_chain_and_a_diamond_are_fine() -> None:
    assert said_of(tasks(a=["b", "c"], b=["d"], c=["d"], d=[])) == []


def test_a_task_that_waits_for_itself_is_a_circle() -> None:
    assert said_of(tasks(a=["a"])) == ["tasks.d/a.yaml:6:3: dependsOn goes in a circle: a -> a"]


def test_a_circle_is_reported_once_and_whole() -> None:
    assert said_of(tasks(c=["a"], b=["c"], a=["b"])) == [
        "tasks.d/a.yaml:6:3: dependsOn goes in a circle: a -> b -> c -> a"
    ]


def test_two_separate_circles_are_reported_once_each() -> None:
    files = tasks(a=["b"], b=["a"], x=["y", "a"], y=["z"], z=["x"], lone=["x"])
    assert said_of(files) == [
        "tasks.d/a.yaml:6:3: dependsOn goes in a circle: a -> b -> a",
        "tasks.d/x.yaml:6:3: dependsOn goes in a circle: x -> y -> z -> x",
    ]


def test_two_circles_through_one_task_are_both_reported() -> None:
    said = said_of(tasks(a=["b", "c"], b=["a"], c=["a"]))
    assert said == [
        "tasks.d/a.yaml:6:3: dependsOn goes in a circle: a -> b -> a",
        "tasks.d/a.yaml:6:3: dependsOn goes in a circle: a -> c -> a",
    ]


def test_a_long_chain_is_no_problem() -> None:
    names = [f"t{n}" for n in range(1500)]
    chain = {name: [after] for name, after in zip(names, names[1:], strict=False)}
    assert said_of(tasks(**chain, t1499=[])) == []


def test_a_dropped_task_is_judged_against_the_fleet_in_force() -> None:
    desired = desired_of(AGENT)

    def said(text: str) -> list[str]:
        return [p.message for p in check_dropped(task_manifest(text), desired)]

    assert said(task_text()) == []
    assert said(task_text(agent="other")) == ["agent 'other' is not defined; agents are: writer"]
    assert said(task_text(agent=None, requires=["x"])) == ["no agent has all of the capabilities x"]
    assert said(task_text("t", dependsOn=["t"])) == ["dependsOn names the task itself"]


# --- schemas, schedules, and who is named -----------------------------------------------------------------------------

SCHEMA = {"schemas/report.schema.json": '{"type": "object"}'}


def test_a_schema_that_results_shall_fit_is_there_and_is_one() -> None:
    def said(path: str, **files: str) -> list[str]:
        return said_of({**AGENT, **SCHEMA, **files, "tasks.d/t.yaml": task_text("t", output={"schema": path})})

    assert said("schemas/report.schema.json") == []
    assert said("schemas/other.json") == [
        "tasks.d/t.yaml:6:12: schema 'schemas/other.json' is not directly in schemas/; "
        "schemas are: schemas/report.schema.json"
    ]
    for content, why in (
        ("{", "schemas/x.json:1:2: is not valid JSON"),
        ('{"type": "strin"}', "schemas/x.json:1:2: is not a JSON Schema 2020-12"),
        ('{"$ref": "https://example.org/x"}', "schemas/x.json:1:2: $ref 'https://example.org/x' leaves the file"),
        ('{"pattern": "(?<=a)b"}', "schemas/x.json:1:2: is not a JSON Schema 2020-12"),
    ):
        (problem,) = said("schemas/x.json", **{"schemas/x.json": content})
        assert problem.startswith(why), problem


def test_a_file_among_the_schemas_that_nobody_names_may_be_anything() -> None:
    assert said_of({**AGENT, "schemas/notes.json": "no JSON", "tasks.d/t.yaml": task_text("t")}) == []


def test_everybody_who_is_named_is_there() -> None:
    named: dict[str, dict[str, Any]] = {
        "6:17": {"acceptance": [{"agent": "nobody"}]},
        "6:14": {"escalate": {"agent": "nobody"}},
        "5:3": {"agent": "nobody"},
    }
    for place, spec in named.items():
        assert said_of({**AGENT, "tasks.d/t.yaml": task_text("t", **spec)}) == [
            f"tasks.d/t.yaml:{place}: agent 'nobody' is not defined; agents are: writer"
        ]


def test_a_fault_in_a_file_of_several_manifests_is_found_in_its_own() -> None:
    both = f"{task_text('t')}---\n{task_text('u', agent='nobody')}"
    assert said_of({**AGENT, "tasks.d/t.yaml": both}) == [
        "tasks.d/t.yaml:11:3: agent 'nobody' is not defined; agents are: writer"
    ]


def test_a_task_with_a_schedule_has_room_in_its_name_and_nothing_waits_for_it() -> None:
    daily = {"cron": "0 6 * * *"}
    assert said_of({**AGENT, "tasks.d/t.yaml": task_text("a" * 26, schedule=daily)}) == []
    (problem,) = said_of({**AGENT, "tasks.d/t.yaml": task_text("a" * 27, schedule=daily)})
    assert "the name of a task with a schedule has at most 26 characters" in problem
    files = {
        "tasks.d/t.yaml": task_text("daily", schedule=daily),
        "tasks.d/u.yaml": task_text("u", dependsOn=["daily"]),
    }
    (problem,) = said_of({**AGENT, **files})
    assert problem.startswith("tasks.d/u.yaml:6:15: dependsOn names task 'daily', which has a schedule")
