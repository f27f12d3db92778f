"""Cross references of tasks, as a whole revision is judged, and those of a dropped one."""

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
        "tasks.d/t.yaml:1:1: agent 'writr' is not defined; agents are: writer"
    ]
    assert problems_of({"tasks.d/t.yaml": task_text()}) == [
        "tasks.d/t.yaml:1:1: agent 'writer' is not defined; agents are: none"
    ]


def test_a_capability_that_nobody_has_is_a_problem() -> None:
    files = {"tasks.d/t.yaml": task_text(agent=None, requires=["docs.write", "docs.print"])}
    assert said_of(files) == ["tasks.d/t.yaml:1:1: no agent has all of the capabilities docs.write, docs.print"]


def test_select_must_leave_somebody() -> None:
    def selecting(**select: object) -> dict[str, str]:
        return {"tasks.d/t.yaml": task_text(agent=None, requires=["docs.write"], select=select)}

    nobody = ["tasks.d/t.yaml:1:1: no agent with the required capabilities matches 'select'"]
    assert said_of(selecting(labels={"team": "docs"}, role="writer")) == []
    assert said_of(selecting(labels={"team": "other"})) == nobody
    assert said_of(selecting(role="reader")) == nobody


def test_an_unknown_dependency_is_a_problem() -> None:
    assert said_of(tasks(a=["b"])) == ["tasks.d/a.yaml:1:1: dependsOn names task 'b', which is not defined"]


def test_a_chain_and_a_diamond_are_fine() -> None:
    assert said_of(tasks(a=["b", "c"], b=["d"], c=["d"], d=[])) == []


def test_a_task_that_waits_for_itself_is_a_circle() -> None:
    assert said_of(tasks(a=["a"])) == ["tasks.d/a.yaml:1:1: dependsOn goes in a circle: a -> a"]


def test_a_circle_is_reported_once_and_whole() -> None:
    assert said_of(tasks(c=["a"], b=["c"], a=["b"])) == [
        "tasks.d/a.yaml:1:1: dependsOn goes in a circle: a -> b -> c -> a"
    ]


def test_two_separate_circles_are_reported_once_each() -> None:
    files = tasks(a=["b"], b=["a"], x=["y", "a"], y=["z"], z=["x"], lone=["x"])
    assert said_of(files) == [
        "tasks.d/a.yaml:1:1: dependsOn goes in a circle: a -> b -> a",
        "tasks.d/x.yaml:1:1: dependsOn goes in a circle: x -> y -> z -> x",
    ]


def test_two_circles_through_one_task_are_both_reported() -> None:
    said = said_of(tasks(a=["b", "c"], b=["a"], c=["a"]))
    assert said == [
        "tasks.d/a.yaml:1:1: dependsOn goes in a circle: a -> b -> a",
        "tasks.d/a.yaml:1:1: dependsOn goes in a circle: a -> c -> a",
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
