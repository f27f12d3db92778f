"""From a result to its acceptance, from a last attempt to another agent or a person; on a whole fleet in memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from reconciler.kinds import KINDS
from reconciler.kinds.task.escalation import escalations
from reconciler.loop.run import Loop
from reconciler.store import records
from tests.fakes.fleet import FakeFleet, told
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.texts import agent_text, hub_text, task_text

SCHEMA = json.dumps({"type": "object", "required": ["title"], "properties": {"title": {"pattern": "^[A-Z]"}}})
REVIEWER = agent_text("reviewer", capabilities=["docs.review"])
FAST = {"maxAttempts": 3, "strategy": "fixed", "baseDelay": "0s"}


def commit(fleet: FakeFleet, more: dict[str, str] | None = None, **spec: Any) -> None:
    fleet.commit(
        {
            "agents.d/a.yaml": agent_text(),
            "agents.d/r.yaml": REVIEWER,
            "schemas/report.schema.json": SCHEMA,
            "tasks.d/t.yaml": task_text(retries=FAST, **spec),
            **(more or {}),
        }
    )


def attempts(fleet: FakeFleet, name: str = "changelog") -> list[tuple[str, str]]:
    """Outcome and reason of each execution."""
    return [(a.outcome, a.reason) for a in records.attempts(fleet.store, fleet.task(name).run)]


def orders(fleet: FakeFleet, name: str = "changelog") -> list[Any]:
    """What the agents were told of a task, in order."""
    return [p for p in fleet.agents.told if p["task"].startswith(name)]


# --- acceptance -------------------------------------------------------------------------------------------------------


def test_a_result_that_is_refused_comes_back_with_the_reason_and_is_done_again(fleet: FakeFleet) -> None:
    commit(fleet, acceptance=[{"schema": "schemas/report.schema.json"}, {"regex": '"title":"[^"]{3,}"'}])
    fleet.agents.saying["writer"] = [{"title": "x"}, {"title": "Good"}]
    fleet.settle()
    run = fleet.task("changelog")
    assert (run.state, run.attempts, run.reason) == ("succeeded", 2, "")
    first, second = attempts(fleet)
    assert first[0] == "not_accepted"
    assert 'schema schemas/report.schema.json: title: "x" does not match' in first[1]
    assert 'regex "title":"[^"]{3,}": the result has nothing that matches' in first[1]
    assert second == ("succeeded", "")
    before, after = orders(fleet)
    assert "remediation" not in before["input"]
    assert after["input"]["remediation"]["result"] == {"title": "x"}
    assert f"not accepted: {after['input']['remediation']['reason']}" == first[1]


def test_what_is_refused_each_time_has_failed_and_keeps_every_reason(fleet: FakeFleet) -> None:
    commit(fleet, output={"schema": "schemas/report.schema.json"})
    fleet.settle()
    run = fleet.task("changelog")
    assert (run.state, run.attempts) == ("failed", 3)
    assert (
        run.reason == 'not accepted: schema schemas/report.schema.json: "title" is a required property (attempt 3 of 3)'
    )
    assert [outcome for outcome, _ in attempts(fleet)] == ["not_accepted"] * 3
    checked = [e.reason for e in fleet.audit() if (e.action, e.outcome) == ("check", "applied")]
    assert checked == ['schema schemas/report.schema.json: "title" is a required property'] * 3


def test_the_schema_is_that_of_the_commit_that_asked(fleet: FakeFleet) -> None:
    commit(fleet, output={"schema": "schemas/report.schema.json"})
    fleet.agents.saying["writer"] = [{"title": "Good"}]
    fleet.agents.holding.add("changelog")
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    fleet.agents.holding.clear()
    commit(fleet, {"schemas/report.schema.json": '{"type": "array"}'}, output={"schema": "schemas/report.schema.json"})
    fleet.settle()
    assert (fleet.task("changelog").state, len(fleet.tasks())) == ("succeeded", 1)


def test_a_command_sees_task_result_and_artefacts_and_its_exit_is_the_verdict(fleet: FakeFleet) -> None:
    commit(fleet, prompt="Write.", input={"n": 1}, acceptance=[{"command": ["python3", "check.py"]}])
    fleet.agents.failing["check"] = 1
    fleet.settle()
    run = fleet.task("changelog")
    assert (run.state, run.attempts) == ("succeeded", 2)
    assert attempts(fleet)[0] == ("not_accepted", "not accepted: command python3 check.py: it broke")
    order = orders(fleet, "check-")[0]
    assert order["argv"] == ["python3", "check.py"]
    assert order["input"] == {
        "task": "changelog",
        "run": run.run,
        "prompt": "Write.",
        "input": {"n": 1},
        "result": {"by": "writer-0"},
        "artefacts": [],
    }
    checks = sorted((t.state, t.attempts, t.agent) for t in fleet.tasks() if t.purpose == "check")
    assert checks == [("failed", 1, "writer"), ("succeeded", 1, "writer")]


def test_another_agent_says_whether_it_is_good(fleet: FakeFleet) -> None:
    commit(fleet, acceptance=[{"agent": "reviewer", "prompt": "Is it short?"}])
    fleet.agents.saying["reviewer"] = [{"accept": False, "reason": "far too long"}, '```json\n{"accept": true}\n```']
    fleet.settle()
    assert (fleet.task("changelog").state, fleet.task("changelog").attempts) == ("succeeded", 2)
    assert attempts(fleet)[0] == ("not_accepted", "not accepted: verdict of reviewer: far too long")
    assert orders(fleet)[1]["input"]["remediation"]["reason"] == "verdict of reviewer: far too long"
    assert orders(fleet, "check-")[0]["prompt"].startswith("Is it short?")


@pytest.mark.parametrize(
    "said", ["fine by me", {"accept": "yes"}, {"accept": True, "reason": 3}, None, [], {"accepted": True}]
)
def test_what_is_no_verdict_accepts_nothing(fleet: FakeFleet, said: object) -> None:
    commit(fleet, acceptance=[{"agent": "reviewer"}])
    fleet.agents.saying["reviewer"] = [said] * 3
    fleet.settle()
    assert fleet.task("changelog").state == "failed"
    assert "reviewer gave no verdict of the form {accept, reason}" in fleet.task("changelog").reason


def test_a_check_that_policy_forbids_is_told_as_such(fleet: FakeFleet) -> None:
    commit(fleet, acceptance=[{"agent": "reviewer"}])
    for _ in range(8):
        fleet.run()
        fleet.agents.step()
        if fleet.task("changelog").state == "checking":
            break
    fleet.policy.deny("task", "not the reviewer")
    fleet.settle()
    assert "it could not be made: check-" in fleet.task("changelog").reason
    assert "said no: not the reviewer" in fleet.task("changelog").reason


def test_a_command_that_could_not_be_run_is_tried_again_and_is_no_verdict(fleet: FakeFleet) -> None:
    commit(fleet, acceptance=[{"command": ["check"]}])
    for _ in range(20):
        fleet.run()
        if any(t.purpose == "check" and t.state == "running" for t in fleet.tasks()):
            break
        fleet.agents.step()
    fleet.runtime.crash("writer-0")
    fleet.settle(80)
    (check,) = [t for t in fleet.tasks() if t.purpose == "check"]
    assert (check.state, check.attempts) == ("succeeded", 2)
    assert fleet.task("changelog").attempts == 1


def test_a_run_that_is_checked_survives_a_restart_and_can_be_cancelled_with_its_checks(fleet: FakeFleet) -> None:
    commit(fleet, acceptance=[{"agent": "reviewer"}])
    fleet.agents.holding.add("check")
    for _ in range(8):
        fleet.run()
        fleet.agents.step()
    fleet.restart()
    fleet.run()
    assert fleet.task("changelog").state == "checking"
    fleet.commit({"agents.d/a.yaml": agent_text(), "agents.d/r.yaml": REVIEWER})
    fleet.settle()
    assert {t.state for t in fleet.tasks()} == {"cancelled"}
    assert len(fleet.tasks()) == 2


def test_a_kill_at_any_effect_makes_no_check_twice_and_forgets_none(tmp_path: Path) -> None:
    (tmp_path / "template").mkdir()
    fleet = FakeFleet(tmp_path / "template")
    commit(fleet, acceptance=[{"regex": "writer"}, {"command": ["c"]}, {"agent": "reviewer"}])
    fleet.agents.saying["reviewer"] = [{"accept": False, "reason": "no"}, *[{"accept": True}] * 9]
    for _ in range(8):
        fleet.run()
        fleet.agents.step()
        if fleet.task("changelog").state == "checking":
            break
    fleet.end_hub()
    whole = fleet.copy(tmp_path / "whole", Fuse())
    whole.settle(60)
    expected, places = outline(whole), list(whole.fuse.visited)
    whole.end_hub()
    assert expected == [("changelog", "succeeded", 2)] + [("check", "succeeded", 1)] * 4
    for number in range(2, len(places) + 1, 7):
        other = fleet.copy(tmp_path / str(number), Fuse(number))
        with pytest.raises(KilledError):
            other.settle(60)
        other.restart()
        other.clock.advance(1)
        other.settle(60)
        assert outline(other) == expected, places[number - 1]
        assert other.agents.violations == []
        other.end_hub()


def outline(fleet: FakeFleet) -> list[tuple[str, str, int]]:
    return sorted((t.purpose or t.name, t.state, t.attempts) for t in fleet.tasks())


# --- another agent ----------------------------------------------------------------------------------------------------


def two_agents(fleet: FakeFleet, **orchestrator: Any) -> None:
    fleet.commit(
        {
            "agents.d/a.yaml": agent_text("alpha"),
            "agents.d/b.yaml": agent_text("beta"),
            "tasks.d/t.yaml": task_text(agent=None, requires=["docs.write"], retries=FAST),
        },
        hub=hub_text(orchestrator=orchestrator),
    )


def test_when_one_agent_cannot_do_it_another_one_does(fleet: FakeFleet) -> None:
    two_agents(fleet)
    fleet.agents.failing["changelog"] = 3
    fleet.settle()
    run = fleet.task("changelog")
    assert (run.state, run.agent, run.attempts, run.tried) == ("succeeded", "beta", 4, "alpha")


def test_it_fails_when_all_have_tried(fleet: FakeFleet) -> None:
    two_agents(fleet)
    fleet.agents.failing["changelog"] = 99
    fleet.settle(60)
    run = fleet.task("changelog")
    assert (run.state, run.attempts) == ("failed", 6)
    assert run.reason == "failed on beta-0: it broke (attempt 3 of 3, after alpha)"


def test_an_agent_that_policy_forbids_is_passed_over(fleet: FakeFleet) -> None:
    two_agents(fleet)
    fleet.agents.failing["changelog"] = 99
    for _ in range(8):
        fleet.run()
        fleet.agents.step()
    fleet.policy.deny("task", "only alpha")
    fleet.settle(60)
    run = fleet.task("changelog")
    assert (run.state, run.agent, run.attempts, run.tried) == ("failed", "alpha", 3, "beta")


# --- escalation -------------------------------------------------------------------------------------------------------


def with_conditions(fleet: FakeFleet) -> None:
    fleet.loop.close()
    fleet.loop = Loop(fleet.world, KINDS, faults=lambda: escalations(fleet.store))


def test_a_person_hears_of_a_task_that_failed_until_it_is_edited(fleet: FakeFleet) -> None:
    with_conditions(fleet)
    commit(fleet, escalate={"to": "operator"})
    fleet.agents.failing["changelog"] = 3
    fleet.settle()
    message = told(fleet.run())["TaskEscalated"]
    assert message.startswith("came to no good end: changelog (failed: failed on writer-0: it broke (attempt 3 of 3))")
    (row,) = [e for e in fleet.audit() if (e.name, e.action, e.outcome) == ("changelog", "complete", "applied")]
    assert row.reason.endswith("; escalated to operator")
    commit(fleet, prompt="Try it so.", escalate={"to": "operator"})
    fleet.settle()
    assert "TaskEscalated" not in told(fleet.run())


def test_an_agent_hears_of_a_task_that_failed_once_and_a_person_when_that_fails_too(fleet: FakeFleet) -> None:
    with_conditions(fleet)
    commit(fleet, escalate={"agent": "reviewer"})
    fleet.agents.failing["changelog"] = 3
    fleet.settle()
    (child,) = [t for t in fleet.tasks() if t.purpose == "escalation"]
    assert (child.state, child.agent) == ("succeeded", "reviewer")
    (order,) = orders(fleet, "escalation-")
    assert order["input"] == {
        "task": "changelog",
        "run": fleet.task("changelog").run,
        "prompt": "",
        "input": {},
        "state": "failed",
        "reason": "failed on writer-0: it broke (attempt 3 of 3)",
        "attempts": 3,
        "error": "it broke",
    }
    assert "TaskEscalated" not in told(fleet.run())


def test_no_one_is_told_of_what_was_cancelled(fleet: FakeFleet) -> None:
    more = {"tasks.d/c.yaml": task_text("child", dependsOn=["changelog"], escalate={"to": "operator"})}
    commit(fleet, more)
    fleet.agents.failing["changelog"] = 3
    fleet.settle()
    assert fleet.states() == {"changelog": "failed", "child": "cancelled"}
    assert fleet.task("child").reason == "it depends on changelog, which failed"
    assert fleet.task("child").escalated == ""
