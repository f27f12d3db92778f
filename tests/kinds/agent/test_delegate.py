"""Instances that are made for one delegated run: what they are made from, and what is planned for them."""

import json
from dataclasses import replace
from typing import Any

from reconciler.core.change import Action, Cause, Change
from reconciler.core.fleet import Delegate, MayDelegate
from reconciler.kinds.agent.container import hello_of
from reconciler.kinds.agent.delegate import narrow
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import AgentStates, InstanceState, Phase
from reconciler.kinds.agent.view import view
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.route_entry import instance_entry
from tests.kinds.agent.build import desired_of, facts_of, manifest_of, plan_all, record_of, state_of

WRITER = manifest_of(capabilities=["docs.write", "git.read"], replicas=1)
ASKED = Delegate(run="r1", task="delegation-r1", agent="writer", ordinal=1000, capabilities=("git.read", "web.read"))
DELEGATED = {"writer-1000": ASKED}


def made(manifest: Manifest[AgentSpec] = WRITER, **more: Any) -> InstanceState:
    """The delegate as it is made from this manifest, at work."""
    record = record_of(narrow(manifest, ASKED), 1000, **more)
    state = state_of(record)
    assert state.report is not None
    return replace(state, report=replace(state.report, hello=hello_of(narrow(manifest, ASKED).spec)))


def plan_delegate(*states: InstanceState, manifest: Manifest[AgentSpec] = WRITER, **more: Any) -> Change:
    changes = plan_all([manifest], state_of(record_of(WRITER)), *states, **{"delegated": DELEGATED, **more})
    (change,) = [c for c in changes if c.instance == "writer-1000"]
    return change


def test_it_is_made_from_its_agents_manifest_with_less() -> None:
    often = manifest_of(
        capabilities=["docs.write", "git.read"], replicas=7, mode="persistent", tasks={"maxParallel": 4}
    )
    narrowed = narrow(often, ASKED)
    assert narrowed.spec.capabilities == ("git.read",)
    assert (narrowed.spec.replicas, narrowed.spec.tasks.max_parallel, narrowed.spec.idle) == (1, 1, None)
    assert narrowed.digest != often.digest
    assert narrowed.spec.executor == often.spec.executor
    assert narrow(narrowed, ASKED).digest == narrowed.digest


def test_it_is_made_for_its_run_and_kept_while_that_goes_on() -> None:
    change = plan_delegate()
    assert (change.action, change.cause, change.reason) == (Action.CREATE, Cause.DELEGATION, "for delegation-r1")
    assert change.spec.manifest.spec.capabilities == ("git.read",)
    assert plan_delegate(made()).action is Action.KEEP
    assert plan_delegate(made(), busy={"writer-1000": 1}).action is Action.KEEP


def test_it_is_recycled_when_its_run_is_over() -> None:
    change = plan_delegate(made(), delegated={})
    assert (change.action, change.cause, change.reason) == (
        Action.DEACTIVATE,
        Cause.DELEGATION,
        "its delegation is over",
    )


def test_it_gives_way_to_a_new_one_where_another_agent_would_be_replaced() -> None:
    changed = manifest_of(capabilities=["docs.write", "git.read"], env={"A": "b"})
    assert plan_delegate(made(), manifest=changed).action is Action.DEACTIVATE
    busy = plan_delegate(made(), manifest=changed, busy={"writer-1000": 1})
    assert (busy.action, busy.fields[0].after) == (Action.UPDATE, Phase.UPGRADING)


def test_it_is_no_replica_and_more_of_it_need_no_replicas() -> None:
    changes = plan_all([WRITER], state_of(record_of(WRITER)), made(), delegated=DELEGATED)
    assert {c.instance: c.action for c in changes} == {"writer-0": Action.KEEP, "writer-1000": Action.KEEP}
    none = manifest_of(capabilities=["git.read"], replicas=0)
    (change,) = plan_all([none], delegated=DELEGATED)
    assert (change.instance, change.action) == ("writer-1000", Action.CREATE)


def test_it_goes_with_its_agent() -> None:
    (change,) = plan_all([], made(), delegated=DELEGATED)
    assert (change.instance, change.action) == ("writer-1000", Action.DEACTIVATE)


def test_tasks_see_it_apart_from_the_agents_own_instances() -> None:
    manifest = manifest_of(
        capabilities=["git.read"], delegation={"to": ["writer"], "maxDepth": 2, "budget": {"tasks": 3, "cpus": 1}}
    )
    observed = AgentStates(instances={"writer-1000": made(manifest)})
    seen = view(desired_of(manifest), observed, facts_of(delegated=DELEGATED))["writer"]
    assert [i.name for i in seen.instances] == ["writer-0"]
    assert [(i.name, i.ready, i.reason) for i in seen.delegates] == [("writer-1000", True, "")]
    assert seen.delegation == MayDelegate(to=("writer",), max_depth=2, tasks=3, cpus=1.0)
    (waiting,) = view(desired_of(manifest), AgentStates(), facts_of(delegated=DELEGATED))["writer"].delegates
    assert (waiting.ready, waiting.reason) == (False, "not created yet")


def test_the_router_is_told_what_it_may_do() -> None:
    state = made()
    assert state.record is not None
    assert instance_entry(state.record)["capabilities"] == ["git.read"]
    less = json.loads(state.record.manifest)
    del less["spec"]["capabilities"]
    assert instance_entry(replace(state.record, manifest=json.dumps(less)))["capabilities"] == []
    assert "capabilities" not in instance_entry(record_of(WRITER))


def test_one_that_was_interrupted_while_it_was_made_is_made_anew() -> None:
    state = made(phase=Phase.ACTIVATING, container_id="")
    gone = replace(state, container=None, inspected=None)
    assert plan_delegate(gone).action is Action.CREATE
    assert state.container is not None
    half = replace(state, container=replace(state.container, state="created"))
    assert plan_delegate(half).action is Action.DEACTIVATE
