"""Tasks that tasks ask for: who gets one with which capabilities, what comes of it, and what ends it early."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.fleet import Fleet, MayDelegate
from reconciler.kinds.task.delegation import Grant, as_delegate, delegated_run, weigh
from reconciler.kinds.task.state import TaskState
from reconciler.policy.builtin import Facts, decide
from reconciler.policy.embedded import EmbeddedEngine
from reconciler.ports import InboxMessage
from reconciler.settings import HubSpec, OperatorSpec
from reconciler.store.records import DELEGATION, TaskRecord
from tests.fakes.clock import START
from tests.fakes.fleet import FakeFleet, agent_view
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.texts import agent_text, hub_text, task_text
from tests.kinds.task.build import instance_of, run_of, task_of
from tests.policy.example import example_bundle

ALL = ["git.read", "docs.write", "web.read"]
EACH = 7
"""Every so many effects the hub is killed in turn; it dies at each of them in tests/flows/test_crash.py."""
DEEP = {"to": ["helper", "leaf"], "maxDepth": 2}


# --- what the manifests allow: pure -----------------------------------------------------------------------------------


def lead(**more: Any) -> Any:
    values = {"capabilities": ("docs.write", "git.read"), "delegation": MayDelegate(to=("helper",), max_depth=2)}
    return agent_view("lead", **{**values, **more})


def helper(name: str = "helper", **more: Any) -> Any:
    return agent_view(name, **{"capabilities": ("git.read", "web.read"), "cpus": 0.5, **more})


def parent_of(**more: Any) -> TaskRecord:
    """A task that runs on lead-0."""
    return run_of(task_of(agent="lead"), TaskState.RUNNING, **{"agent": "lead", "instance": "lead-0", **more})


def asked(parent: TaskRecord, ordinal: int = 1000, **payload: Any) -> TaskRecord:
    request = InboxMessage(
        seq=1,
        instance=parent.instance,
        agent=parent.agent,
        type="delegation.request",
        id=f"r{ordinal}",
        payload=payload or {"agent": "helper"},
    )
    return delegated_run(parent, request, ordinal, START)


def weighed(run: TaskRecord, *others: TaskRecord, fleet: Fleet | None = None) -> Grant | str:
    runs = {r.run: r for r in (run, *others)}
    return weigh(run, runs, fleet or {a.name: a for a in (lead(), helper())}, HubSpec().sensitivity.exposures)


def given(grant: Grant | str) -> tuple[str, ...]:
    assert isinstance(grant, Grant), grant
    return grant.agent.capabilities


def test_a_delegate_has_what_was_asked_for_and_both_sides_have() -> None:
    parent = parent_of()
    assert given(weighed(asked(parent), parent)) == ("git.read",)
    assert given(weighed(asked(parent, agent="helper", capabilities=[]), parent)) == ()
    assert given(weighed(asked(parent, requires=["git.read"]), parent)) == ("git.read",)


@pytest.mark.parametrize(
    ("payload", "fleet", "reason"),
    [
        ({"agent": "nobody"}, {}, "agent nobody is not in the fleet"),
        ({"requires": ["mail.send"]}, {}, "no agent has mail.send"),
        ({"agent": "lead"}, {}, "lead may not delegate to lead (delegation.to)"),
        ({"agent": "helper", "capabilities": ["web.read"]}, {}, "changelog on lead lacks web.read"),
        ({"agent": "helper", "capabilities": ["docs.write"]}, {}, "helper lacks docs.write"),
        ({"agent": "helper", "sensitivity": "restricted"}, {"helper": helper(sandboxed=False)}, "enforced sandbox"),
        (
            {"agent": "helper"},
            {"lead": lead(delegation=MayDelegate(to=("helper",), max_depth=0))},
            "depth 1 is more than 0 (delegation.maxDepth)",
        ),
        (
            {"agent": "helper"},
            {"lead": lead(delegation=MayDelegate(to=("helper",), tasks=0))},
            "no task is left of the budget (delegation.budget.tasks)",
        ),
        (
            {"agent": "helper"},
            {"lead": lead(delegation=MayDelegate(to=("helper",), cpus=0.4))},
            "helper takes 0.5 cpus, 0.4 are left (delegation.budget.cpus)",
        ),
    ],
)
def test_what_the_manifests_do_not_allow_is_refused_with_the_reason(
    payload: Mapping[str, Any], fleet: Mapping[str, Any], reason: str
) -> None:
    parent = parent_of()
    found = weighed(asked(parent, **payload), parent, fleet={"lead": lead(), "helper": helper(), **fleet})
    assert isinstance(found, str)
    assert reason in found


def test_a_delegate_passes_on_no_more_than_it_was_given_itself() -> None:
    middle = helper(
        "middle", capabilities=("git.read", "web.read"), delegation=MayDelegate(to=("helper",), max_depth=2)
    )
    fleet = {"lead": lead(delegation=MayDelegate(to=("middle",), max_depth=2)), "middle": middle, "helper": helper()}
    parent = parent_of()
    grant = weighed(asked(parent, agent="middle"), parent, fleet=fleet)
    assert given(grant) == ("git.read",)
    assert isinstance(grant, Grant)
    child = running(grant.run)
    assert given(weighed(asked(child, 1001), child, parent, fleet=fleet)) == ("git.read",)
    found = weighed(asked(child, 1001, agent="helper", capabilities=["web.read"]), child, parent, fleet=fleet)
    assert found == f"{child.name} on middle lacks web.read"


def running(run: TaskRecord, agent: str = "middle") -> TaskRecord:
    return replace(run, state=TaskState.RUNNING, agent=agent, instance=f"{agent}-{run.step}", generation=1)


def test_depth_and_budget_are_bounded_by_every_run_above() -> None:
    middle = helper("middle", delegation=MayDelegate(to=("helper",), max_depth=9, tasks=9, cpus=9.0))
    parent = parent_of()

    def third(**limits: Any) -> Grant | str:
        fleet = {"lead": lead(delegation=MayDelegate(to=("middle",), **limits)), "middle": middle, "helper": helper()}
        first = weighed(
            asked(parent, agent="middle"),
            parent,
            fleet={**fleet, "lead": lead(delegation=MayDelegate(to=("middle",), max_depth=2))},
        )
        assert isinstance(first, Grant)
        child = running(first.run)
        return weighed(asked(child, 1001), child, parent, fleet=fleet)

    assert isinstance(third(max_depth=2, tasks=2, cpus=1.0), Grant)
    assert third(max_depth=1) == "depth 2 is more than 1 (delegation.maxDepth)"
    assert third(max_depth=2, tasks=1) == "no task is left of the budget (delegation.budget.tasks)"
    assert third(max_depth=2, cpus=0.75) == "helper takes 0.5 cpus, 0.25 are left (delegation.budget.cpus)"


def test_what_policy_is_asked_is_what_the_engines_read() -> None:
    """The built-in rules, and the example's policies in the real embedded engine."""
    team = {"lead": lead(), "helper": helper()}
    parent = parent_of()
    grant = weighed(asked(parent), parent, fleet=team)
    assert isinstance(grant, Grant)
    question = {**grant.question, "time": "2026-11-20T09:00:00Z"}
    wider = {**question, "capabilities": ["web.read"]}
    assert [decide(DELEGATION, q, Facts(), "r").allow for q in (question, wider)] == [True, False]
    engine = EmbeddedEngine()
    try:
        engine.activate(example_bundle())
        assert engine.decide(DELEGATION, question).reasons == ()
        assert engine.decide(DELEGATION, wider).reasons == ("lead cannot pass on web.read, which it lacks",)
    finally:
        engine.close()


def test_a_new_attempt_has_its_whole_budget_and_refused_requests_cost_nothing() -> None:
    fleet = {"lead": lead(delegation=MayDelegate(to=("helper",), tasks=1)), "helper": helper()}
    parent, again = parent_of(), parent_of(generation=2)
    before = asked(parent, 1000)
    assert weighed(asked(parent, 1001), parent, before, fleet=fleet) == (
        "no task is left of the budget (delegation.budget.tasks)"
    )
    assert isinstance(weighed(asked(again, 1001), again, before, fleet=fleet), Grant)
    refused = replace(before, state=TaskState.REJECTED)
    assert isinstance(weighed(asked(parent, 1001), parent, refused, fleet=fleet), Grant)


def test_a_delegated_task_is_never_less_sensitive_than_what_it_is_part_of() -> None:
    parent = run_of(task_of(agent="lead", sensitivity="confidential"), TaskState.RUNNING, agent="lead")
    for said, meant in (("public", "confidential"), ("restricted", "restricted"), ("confidential", "confidential")):
        spec = json.loads(asked(parent, agent="helper", sensitivity=said).manifest)["spec"]
        assert spec["sensitivity"] == meant


def test_a_delegated_run_sees_its_own_instance_and_no_other() -> None:
    agent = helper(
        instances=(instance_of("helper-0"),), delegates=(instance_of("helper-1000"), instance_of("helper-1001"))
    )
    run = asked(parent_of(), 1001)
    seen = as_delegate(agent, run)
    assert [i.name for i in seen.instances] == ["helper-1001"]
    assert (seen.capabilities, seen.max_parallel) == ((), 1)


# --- on a whole fleet in memory ---------------------------------------------------------------------------------------


def commit(
    fleet: FakeFleet, *, hub: str | None = None, more: Mapping[str, str] | None = None, **delegation: Any
) -> None:
    """`lead` may delegate to `helper`, and that to `leaf`; each has another selection of capabilities."""
    fleet.commit(
        {
            "agents.d/lead.yaml": agent_text("lead", capabilities=ALL, delegation={**DEEP, **delegation}),
            "agents.d/helper.yaml": agent_text("helper", capabilities=ALL[:2], delegation=DEEP),
            "agents.d/leaf.yaml": agent_text("leaf", capabilities=ALL, mode="per-task"),
            "tasks.d/t.yaml": task_text("report", agent="lead", retries={"maxAttempts": 2, "baseDelay": "0s"}),
            **(more or {}),
        },
        hub=hub,
    )


def begin(fleet: FakeFleet, **delegation: Any) -> None:
    """The task `report` runs on lead-0, and goes on."""
    commit(fleet, **delegation)
    fleet.agents.holding.add("report")
    until(fleet, lambda: bool(fleet.agents.doing()))
    fleet.run()


def until(fleet: FakeFleet, condition: Callable[[], bool], passes: int = 40) -> None:
    for _ in range(passes):
        if condition():
            return
        fleet.run()
        fleet.agents.step()
    raise AssertionError("not in so many passes")


def request(fleet: FakeFleet, by: str = "lead-0", id_: str = "", **payload: Any) -> TaskRecord:
    """An agent asks; returns the run that was made for it."""
    known = {t.run for t in fleet.tasks()}
    fleet.router.post(by, "delegation.request", payload, id_)
    fleet.run()
    return next(t for t in fleet.tasks() if t.run not in known)


def delegates(fleet: FakeFleet) -> list[str]:
    return sorted(name for name, record in fleet.instances().items() if record.ordinal >= 1000)


def test_a_tree_of_depth_two_completes_with_narrowed_capabilities_and_is_recycled(fleet: FakeFleet) -> None:
    begin(fleet)
    child = request(fleet, agent="helper", capabilities=["git.read", "docs.write"], prompt="Read.")
    fleet.agents.holding.add(child.name)
    until(fleet, lambda: fleet.task(child.name).state == "running")
    grandchild = request(fleet, "helper-1000", agent="leaf", capabilities=["git.read"], input={"n": 1})
    fleet.agents.holding.add(grandchild.name)
    until(fleet, lambda: fleet.task(grandchild.name).state == "running")

    assert delegates(fleet) == ["helper-1000", "leaf-1001"]
    assert fleet.router.instances["helper-1000"].capabilities == ["git.read", "docs.write"]
    assert fleet.router.instances["leaf-1001"].capabilities == ["git.read"]
    assert fleet.router.instances["helper-0"].capabilities is None
    own = {r.token_sha256 for r in fleet.instances().values()}
    assert len(own) == len(fleet.instances()) == 4
    asked_of = [
        (kind, q["parent"]["name"], q["child"]["name"], q["capabilities"], q["depth"])
        for kind, q in fleet.policy.asked
        if kind == "delegation"
    ]
    assert asked_of == [
        ("delegation", "lead", "helper", ["git.read", "docs.write"], 1),
        ("delegation", "helper", "leaf", ["git.read"], 2),
    ]
    seen = {q["task"]["name"]: q["agent"]["capabilities"] for kind, q in fleet.policy.asked if kind == "task"}
    assert seen[grandchild.name] == ["git.read"]

    (told,) = [p for p in fleet.agents.told if p["run"] == grandchild.run]
    assert (told["input"], told["task"]) == ({"n": 1}, grandchild.name)

    fleet.agents.saying["leaf"] = [{"found": 1}]
    fleet.agents.holding.discard(grandchild.name)
    until(fleet, lambda: bool(fleet.agents.answers))
    ((who, _, answer),) = fleet.agents.answers
    assert (who, answer["ok"], answer["result"]) == ("helper-1000", True, {"found": 1})
    until(fleet, lambda: delegates(fleet) == ["helper-1000"])
    assert "leaf-1001" not in fleet.containers()
    fleet.agents.holding.discard(child.name)
    until(fleet, lambda: len(fleet.agents.answers) == 2)
    fleet.agents.holding.clear()
    fleet.settle()
    assert set(fleet.states().values()) == {"succeeded"}
    assert delegates(fleet) == []
    assert sorted(fleet.containers()) == ["helper-0", "lead-0"]
    assert [who for who, _, _ in fleet.agents.answers] == ["helper-1000", "lead-0"]
    caused = {(e.name, e.action) for e in fleet.audit() if e.cause == "delegation"}
    assert {(child.name, "delegation.request"), (child.name, "authorise"), (child.name, "task.completed")} <= caused
    assert {("helper-1000", "phase"), ("leaf-1001", "phase")} <= caused


def test_a_delegate_takes_no_other_task_and_its_own_goes_to_nobody_else(fleet: FakeFleet) -> None:
    begin(fleet)
    child = request(fleet, agent="helper")
    fleet.agents.holding |= {child.name, "one", "two"}
    until(fleet, lambda: fleet.task(child.name).state == "running")
    commit(fleet, more={f"tasks.d/{n}.yaml": task_text(n, agent="helper") for n in ("one", "two")})
    until(fleet, lambda: "running" in (fleet.states().get("one"), fleet.states().get("two")))
    assert fleet.task(child.name).instance == "helper-1000"
    assert sorted([fleet.task("one").instance, fleet.task("two").instance]) == ["", "helper-0"]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"agent": "nobody"}, "agent nobody is not in the fleet"),
        ({"agent": "lead"}, "lead may not delegate to lead (delegation.to)"),
        ({"agent": "helper", "capabilities": ["web.read"]}, "helper lacks web.read"),
        ({"agent": "helper", "timeout_s": -1}, "timeout: Input should be greater than 0"),
        ({"agent": "helper", "task": "another"}, "task another is not running on lead-0"),
    ],
)
def test_a_refusal_is_answered_with_its_reason(fleet: FakeFleet, payload: Mapping[str, Any], reason: str) -> None:
    begin(fleet)
    fleet.router.post("lead-0", "delegation.request", payload, "r-1")
    until(fleet, lambda: bool(fleet.agents.answers))
    ((who, to, answer),) = fleet.agents.answers
    assert (who, to, answer["ok"], answer["state"]) == ("lead-0", "r-1", False, "rejected")
    assert reason in answer["reason"]
    assert delegates(fleet) == []
    assert any(e.cause == "delegation" and reason in e.reason for e in fleet.audit())


def test_policy_can_refuse_what_the_manifests_allow(fleet: FakeFleet) -> None:
    begin(fleet)
    fleet.policy.deny("delegation", "not on Sundays")
    request(fleet, agent="helper")
    until(fleet, lambda: bool(fleet.agents.answers))
    assert fleet.agents.answers[0][2]["reason"] == "policy (fake) said no: not on Sundays"


def test_no_instance_is_added_beyond_what_the_operator_allows(tmp_path: Path) -> None:
    operator = OperatorSpec.model_validate({"maxima": {"agents": 3}})
    fleet = FakeFleet(tmp_path, operator)
    begin(fleet)
    for _ in range(2):
        fleet.router.post("lead-0", "delegation.request", {"agent": "helper"})
    until(fleet, lambda: len(fleet.agents.answers) == 2)
    assert [a["reason"] for _, _, a in fleet.agents.answers] == [
        "the fleet has 3 instances; the operator allows 3",
        "",
    ]
    fleet.end_hub()


def test_without_a_task_there_is_nothing_to_delegate(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    fleet.router.post("lead-0", "delegation.request", {"agent": "helper"})
    until(fleet, lambda: bool(fleet.agents.answers))
    assert fleet.agents.answers[0][2]["reason"] == "lead-0 runs no task"
    assert [t.name for t in fleet.tasks()] == ["report"]


def test_where_an_instance_has_several_tasks_it_must_say_which_one_asks(fleet: FakeFleet) -> None:
    fleet.commit(
        {
            "agents.d/a.yaml": agent_text("lead", tasks={"maxParallel": 2}, delegation={"to": ["lead"]}),
            "tasks.d/a.yaml": task_text("one", agent="lead"),
            "tasks.d/b.yaml": task_text("two", agent="lead"),
        }
    )
    fleet.agents.holding |= {"one", "two"}
    until(fleet, lambda: len(fleet.agents.doing()) == 2)
    fleet.run()
    fleet.router.post("lead-0", "delegation.request", {"agent": "lead"})
    until(fleet, lambda: bool(fleet.agents.answers))
    assert fleet.agents.answers[0][2]["reason"].startswith("lead-0 runs several tasks; say which one asks")
    child = request(fleet, agent="lead", task="two")
    assert child.parent == fleet.task("two").run


def test_the_budget_bounds_how_many_tasks_one_task_makes(fleet: FakeFleet) -> None:
    begin(fleet, budget={"tasks": 2})
    for _ in range(3):
        fleet.router.post("lead-0", "delegation.request", {"agent": "helper"})
    until(fleet, lambda: len(fleet.agents.answers) == 3)
    assert sorted(a["state"] for _, _, a in fleet.agents.answers) == ["rejected", "succeeded", "succeeded"]


def test_a_delegated_task_does_not_wait_for_the_place_that_its_parent_takes(fleet: FakeFleet) -> None:
    begin(fleet, hub=hub_text(orchestrator={"maxParallelTasks": 1}))
    child = request(fleet, agent="helper")
    until(fleet, lambda: fleet.task(child.name).state == "succeeded")


def test_a_request_that_comes_twice_is_one_task_and_is_answered_again(fleet: FakeFleet) -> None:
    begin(fleet)
    child = request(fleet, id_="r-1", agent="helper")
    fleet.router.post("lead-0", "delegation.request", {"agent": "helper"}, "r-1")
    until(fleet, lambda: bool(fleet.agents.answers))
    fleet.router.post("lead-0", "delegation.request", {"agent": "helper"}, "r-1")
    until(fleet, lambda: len(fleet.agents.answers) == 2)
    assert [t.name for t in fleet.tasks() if t.purpose == DELEGATION] == [child.name]
    assert {to for _, to, _ in fleet.agents.answers} == {"r-1"}


def test_a_new_router_tells_the_answer_again(fleet: FakeFleet) -> None:
    begin(fleet)
    request(fleet, agent="helper")
    until(fleet, lambda: len(fleet.agents.answers) == 1)
    fleet.router.die()
    until(fleet, lambda: len(fleet.agents.answers) == 2)
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    assert len(fleet.agents.answers) == 2


# --- who asked is gone ------------------------------------------------------------------------------------------------


def in_flight(fleet: FakeFleet) -> tuple[TaskRecord, TaskRecord]:
    """A child and a grandchild that go on and on."""
    begin(fleet)
    child = request(fleet, agent="helper")
    fleet.agents.holding.add(child.name)
    until(fleet, lambda: fleet.task(child.name).state == "running")
    grandchild = request(fleet, "helper-1000", agent="leaf")
    fleet.agents.holding.add(grandchild.name)
    until(fleet, lambda: fleet.task(grandchild.name).state == "running")
    return child, grandchild


def end_by_removal(fleet: FakeFleet) -> None:
    fleet.commit(
        {
            "agents.d/lead.yaml": agent_text("lead", capabilities=ALL, delegation=DEEP),
            "agents.d/helper.yaml": agent_text("helper", capabilities=ALL[:2], delegation=DEEP),
            "agents.d/leaf.yaml": agent_text("leaf", capabilities=ALL, mode="per-task"),
        }
    )


def end_by_success(fleet: FakeFleet) -> None:
    fleet.agents.holding.discard("report")


def end_by_crash(fleet: FakeFleet) -> None:
    fleet.runtime.crash("lead-0")


@pytest.mark.parametrize("end", [end_by_removal, end_by_success, end_by_crash])
def test_when_who_asked_is_gone_all_that_is_below_is_cancelled_and_recycled(fleet: FakeFleet, end: Any) -> None:
    child, grandchild = in_flight(fleet)
    end(fleet)
    until(fleet, lambda: not delegates(fleet))
    assert [fleet.task(t.name).state for t in (child, grandchild)] == ["cancelled", "cancelled"]
    assert not {"helper-1000", "leaf-1001"} & fleet.containers().keys()
    assert fleet.agents.answers == []
    assert fleet.agents.violations == []


def test_an_agent_that_leaves_git_fails_what_was_delegated_to_it(fleet: FakeFleet) -> None:
    begin(fleet)
    child = request(fleet, agent="helper")
    fleet.agents.holding.add(child.name)
    until(fleet, lambda: fleet.task(child.name).state == "running")
    text = agent_text("lead", capabilities=ALL, delegation={"to": [], "maxDepth": 2})
    task = task_text("report", agent="lead", retries={"maxAttempts": 2, "baseDelay": "0s"})
    fleet.commit({"agents.d/lead.yaml": text, "tasks.d/t.yaml": task})
    fleet.runtime.crash("helper-1000")
    until(fleet, lambda: fleet.task(child.name).state == "failed" and not delegates(fleet))
    assert fleet.task(child.name).reason == "agent helper is not in the fleet"


# --- kills ------------------------------------------------------------------------------------------------------------


def test_a_kill_between_any_two_effects_loses_and_doubles_nothing(tmp_path: Path) -> None:
    (tmp_path / "start").mkdir()
    start = FakeFleet(tmp_path / "start")
    begin(start)
    start.end_hub()
    whole = start.copy(tmp_path / "whole")
    ask_and_wait(whole)
    whole.end_hub()
    places = len(whole.fuse.visited)
    assert places > EACH * 5
    for at in range(1, places, EACH):
        fleet = start.copy(tmp_path / f"kill-{at}", Fuse(at))
        with pytest.raises(KilledError):
            ask_and_wait(fleet)
        fleet.restart()
        until(fleet, lambda: bool(fleet.agents.answers) and not delegates(fleet))  # noqa: B023 - called here
        (made,) = [t for t in fleet.tasks() if t.purpose == DELEGATION]
        assert made.state == "succeeded", f"effect {at}"
        assert {a["run"] for _, _, a in fleet.agents.answers} == {made.run}
        assert fleet.agents.violations == []
        assert sum(w.run == made.run for w in fleet.agents.executed) == made.attempts
        fleet.end_hub()


def ask_and_wait(fleet: FakeFleet) -> None:
    fleet.router.post("lead-0", "delegation.request", {"agent": "helper"}, "r-1")
    until(fleet, lambda: bool(fleet.agents.answers) and not delegates(fleet))
