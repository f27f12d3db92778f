"""The fleet as tasks see it: which instances are ready, and why the others are not."""

from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.secret import SecretFault
from reconciler.kinds.agent.state import AgentStates, InstanceState, Phase
from reconciler.kinds.agent.view import view
from reconciler.ports import InstanceReport
from reconciler.settings import HubSpec
from tests.kinds.agent.build import BOOT_S, ROUTER, desired_of, facts_of, manifest_of, record_of, state_of

WRITER = manifest_of()


def readiness(state: InstanceState | None, **more: Any) -> str:
    """Why the first instance is not ready; empty when it is."""
    states = {state.name: state} if state is not None else {}
    agents = view(desired_of(WRITER), AgentStates(instances=states), facts_of(**more))
    (instance,) = agents["writer"].instances
    assert instance.ready == (not instance.reason)
    return instance.reason


def test_an_instance_is_ready_when_it_executes_and_calls() -> None:
    assert readiness(state_of(record_of(WRITER))) == ""


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (None, "not created yet"),
        (InstanceState(name="writer-0"), "not created yet"),
        (state_of(record_of(WRITER), container=""), "its container is missing"),
        (state_of(record_of(WRITER), container="exited"), "its container is exited"),
        (state_of(record_of(WRITER, phase=Phase.HANDSHAKING)), "it is handshaking"),
        (state_of(record_of(WRITER, phase=Phase.UPGRADING, reason="changed in git")), "changed in git"),
        (state_of(record_of(WRITER), report=None), "the router does not know it yet"),
        (state_of(record_of(WRITER), secrets={"key": SecretFault.WITHDRAWN}), "secret key was withdrawn"),
        (
            state_of(record_of(WRITER), secrets={"key": SecretFault.MISSING, "other": SecretFault.CHANGED}),
            "it runs without secret key, which its provider does not have",
        ),
        (
            state_of(record_of(WRITER), report=InstanceReport(instance="writer-0", last_seen=BOOT_S - 31)),
            "no heartbeat for 31s",
        ),
        (
            state_of(record_of(WRITER), report=InstanceReport(instance="writer-0")),
            "it has not called since the router started",
        ),
    ],
)
def test_an_instance_that_is_not_ready_says_why(state: InstanceState | None, why: str) -> None:
    assert readiness(state) == why


def test_another_value_of_a_secret_keeps_no_instance_from_work() -> None:
    assert readiness(state_of(record_of(WRITER), secrets={"key": SecretFault.CHANGED})) == ""


def test_a_per_task_agent_says_how_many_instances_it_may_have() -> None:
    manifest = manifest_of(mode="per-task", replicas=3)
    agent = view(desired_of(manifest), AgentStates(), facts_of())["writer"]
    assert (agent.instances, agent.replicas) == ((), 3)


def test_after_a_restart_of_the_router_an_instance_gets_time_to_call() -> None:
    silent = state_of(record_of(WRITER), report=InstanceReport(instance="writer-0"))
    assert readiness(silent, router=replace(ROUTER, uptime_s=29.0)) == ""


@pytest.mark.parametrize(
    ("workspace", "shown"),
    [
        (None, "none"),
        ({"source": "repository"}, "full"),
        ({"source": "repository", "history": False}, "tree"),
        ({"source": "repository", "writable": True}, "own"),
        ({"source": "volume", "writable": True}, "own"),
    ],
)
def test_tasks_see_which_workspace_an_agent_has(workspace: dict[str, Any] | None, shown: str) -> None:
    manifest = manifest_of(workspace=workspace)
    agents = view(desired_of(manifest), AgentStates(), facts_of(sandboxed=False))
    assert (agents["writer"].workspace, agents["writer"].sandboxed) == (shown, False)


def test_agents_are_those_of_git_and_nothing_else() -> None:
    gone = state_of(record_of(manifest_of("gone")))
    agents = view(
        desired_of(manifest_of("b", replicas=2), manifest_of("a")), AgentStates(instances={"gone-0": gone}), facts_of()
    )
    assert sorted(agents) == ["a", "b"]
    assert len(agents) == 2
    assert [i.name for i in agents["b"].instances] == ["b-0", "b-1"]
    assert "gone" not in agents
    assert agents.get("gone") is None


def test_its_exposure_is_that_of_the_model_which_its_executor_can_speak_to() -> None:
    models = [{"name": "m"}]
    providers = [
        {"name": "near", "type": "openai", "exposure": "private", "models": models},
        {"name": "far", "type": "anthropic", "exposure": "public", "models": models},
    ]
    hub = HubSpec.model_validate({"providers": providers})
    more: dict[str, Any] = {"llm": {"require": {}}, "resources": {"memory": "1GiB", "pids": 256}}
    claude, plain = (manifest_of(executor=e, **more) for e in ({"type": "claude-code"}, {"type": "http"}))
    for manifest, exposure in ((claude, "public"), (plain, "private")):
        assert view(desired_of(manifest, hub=hub), AgentStates(), facts_of())["writer"].exposure == exposure


@pytest.mark.parametrize(
    ("llm", "exposure"),
    [
        (None, "none"),
        ({"provider": "gpu", "model": "qwen3"}, "private"),
        ({"require": {"exposure": "public"}}, "public"),
        ({"provider": "gone", "model": "x"}, "public"),
    ],
)
def test_its_exposure_is_that_of_its_model_and_public_where_that_is_not_known(llm: Any, exposure: str) -> None:
    models = [{"name": "qwen3"}]
    providers = [
        {"name": "gpu", "type": "ollama", "exposure": "private", "models": models},
        {"name": "far", "type": "openai", "models": models},
    ]
    hub = HubSpec.model_validate({"providers": providers})
    manifest = manifest_of(llm=llm)
    agents = view(desired_of(manifest, hub=hub), AgentStates(instances={}), facts_of())
    assert agents["writer"].exposure == exposure
