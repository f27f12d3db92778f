"""The section `executor`: which keys belong to which type, what is refused, and what agentd is told."""

from typing import Any

import pytest

from reconciler.agentd.config import CHAT_APIS, EXECUTORS, ExecutorSpec, load_config
from reconciler.kinds.agent.container import build_container
from reconciler.kinds.agent.executor import Executor
from reconciler.kinds.agent.spec import parse_agent
from tests.fakes.texts import agent_text
from tests.kinds.agent.build import PLACES, manifest_of

ENOUGH = {"memory": "1GiB", "pids": 256}
LLM = {"provider": "gpu", "model": "qwen3"}
SERVERS = {"mcpServers": {"docs": {"command": "python3", "args": ["server.py"]}}}
WHOLE = {
    "type": "claude-code",
    "maxTurns": 30,
    "maxBudget": 2.5,
    "allowedTools": ["Bash(git log:*)", "mcp__docs__*"],
    "disallowedTools": ["WebFetch"],
    "mcpConfig": SERVERS,
    "appendSystemPrompt": "Be brief.",
    "env": {"B": "2"},
    "timeouts": {"firstOutput": "30s", "progress": "10m"},
}


def said_of(executor: object, **spec: Any) -> list[str]:
    text = agent_text(executor=executor, **{"resources": ENOUGH, "llm": LLM, **spec})
    return [f"{p.line}:{p.column}: {p.message}" for p in parse_agent("a.yaml", text.encode(), {}).problems]


def told(executor: object, model: str = "") -> ExecutorSpec:
    """What agentd makes of what it is told."""
    spec = manifest_of(executor=executor, llm=LLM, resources=ENOUGH, env={"A": "1"}).spec
    container = build_container("writer", 0, spec, PLACES, image_id="", uid=0, model=model)
    return load_config(container.env).executor


def test_of_a_command_agentd_is_told_all() -> None:
    executor = {"type": "command", "argv": ["x"], "env": {"B": "2"}, "timeouts": {"progress": "5s"}}
    assert told(executor) == ExecutorSpec(
        type="command", argv=("x",), env={"A": "1", "B": "2"}, first_output_s=60.0, progress_s=5.0
    )


def test_of_claude_code_agentd_is_told_all() -> None:
    assert told(WHOLE, "claude-x") == ExecutorSpec(
        type="claude-code",
        env={"A": "1", "B": "2"},
        first_output_s=30.0,
        progress_s=600.0,
        model="claude-x",
        max_turns=30,
        max_budget_usd=2.5,
        allowed_tools=("Bash(git log:*)", "mcp__docs__*"),
        disallowed_tools=("WebFetch",),
        mcp_config=SERVERS,
        append_system_prompt="Be brief.",
    )


def test_of_claude_code_only_the_type_has_to_be_said() -> None:
    assert told({"type": "claude-code"}) == ExecutorSpec(
        type="claude-code", env={"A": "1"}, first_output_s=60.0, progress_s=300.0, model="qwen3"
    )


def test_of_http_agentd_is_told_the_model() -> None:
    assert told({"type": "http", "provider": "gpu"}, "chosen") == ExecutorSpec(
        type="http", env={"A": "1"}, first_output_s=60.0, progress_s=300.0, model="chosen"
    )


def test_agentd_has_each_executor_that_a_manifest_may_name() -> None:
    union = Executor.__origin__  # type: ignore[attr-defined]
    types = [model.model_fields["type"].annotation.__args__[0] for model in union.__args__]
    assert types == list(EXECUTORS)
    assert ExecutorSpec().api in CHAT_APIS


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        ({"argv": ["x"]}, "8:3: spec.executor.type is missing"),
        ("claude", "8:3: spec.executor is 'claude'; expected a mapping"),
        ({"type": "command"}, "8:3: spec.executor.argv is missing"),
        (
            {"type": "command", "argv": ["x"], "maxTurns": 3},
            "8:48: unknown key 'maxTurns' in spec.executor; known: argv, env, timeouts, type",
        ),
        ({"type": "http", "argv": ["x"]}, "8:30: unknown key 'argv' in spec.executor; known: provider, timeouts, type"),
        (
            {"type": "claude-code", "maxTurn": 1},
            "8:37: unknown key 'maxTurn' in spec.executor; did you mean 'maxTurns'?",
        ),
        (
            {"type": "claude-code", "timeouts": {"progres": "5m"}},
            "8:50: unknown key 'progres' in spec.executor.timeouts; did you mean 'progress'?",
        ),
        ({"type": "claude-code", "maxTurns": 0}, "8:37: spec.executor.maxTurns: input should be greater than or"),
        ({"type": "claude-code", "maxBudget": "1"}, "8:37: spec.executor.maxBudget is '1'; expected a number"),
        ({"type": "claude-code", "maxBudget": 0}, "8:37: spec.executor.maxBudget: input should be greater than 0"),
        (
            {"type": "claude-code", "allowedTools": ["--print"]},
            "8:54: spec.executor.allowedTools.0 is '--print', which",
        ),
        ({"type": "claude-code", "allowedTools": ["Bash(x"]}, "8:54: spec.executor.allowedTools.0 is 'Bash(x', which"),
        (
            {"type": "claude-code", "allowedTools": "Bash"},
            "8:37: spec.executor.allowedTools is 'Bash'; expected a list",
        ),
        ({"type": "claude-code", "mcpConfig": "mcp.json"}, "8:37: spec.executor.mcpConfig: 'mcp.json' is no path"),
        ({"type": "claude-code", "mcpConfig": {"docs": {}}}, "8:37: spec.executor.mcpConfig: write a file's path, or"),
        (
            {"type": "claude-code", "mcpConfig": {"mcpServers": {"a": {"args": ["sk-1"]}}}},
            "8:37: spec.executor.mcpConfig: looks like it holds a secret",
        ),
        (
            {"type": "claude-code", "appendSystemPrompt": "a\0b"},
            "8:37: spec.executor.appendSystemPrompt: contains a NUL",
        ),
        (
            {"type": "claude-code", "env": {"ANTHROPIC_API_KEY": "x"}},
            "8:45: ANTHROPIC_API_KEY is set by the hub",
        ),
        (
            {"type": "claude-code", "env": {"CLAUDE_CODE_USE_BEDROCK": "1"}},
            "8:45: CLAUDE_CODE_USE_BEDROCK is set by the",
        ),
    ],
)
def test_a_fault_says_where_and_what(executor: object, said: str) -> None:
    (problem,) = said_of(executor)
    assert problem.startswith(said)


def test_claude_code_needs_memory_and_processes() -> None:
    assert said_of({"type": "claude-code"}, resources={"memory": "1023MiB", "pids": 255}) == [
        "9:15: executor claude-code needs 1GiB; set resources.memory to that or more",
        "9:36: executor claude-code needs 256 processes; set resources.pids to that or more",
    ]


def test_a_command_may_have_less_and_use_any_name() -> None:
    executor = {"type": "command", "argv": ["x"], "env": {"ANTHROPIC_MODEL": "x"}}
    assert said_of(executor, resources={"memory": "64MiB", "pids": 20}) == []


def test_the_agents_own_environment_is_looked_at_too() -> None:
    (problem,) = said_of({"type": "claude-code"}, env={"ANTHROPIC_BASE_URL": "http://x"})
    assert "ANTHROPIC_BASE_URL is set by the hub" in problem


@pytest.mark.parametrize("type_", ["claude-code", "http"])
def test_one_that_asks_a_model_needs_to_know_which(type_: str) -> None:
    (problem,) = said_of({"type": type_}, llm=None)
    assert problem == f"8:3: executor {type_} asks a model; say which: llm: {{provider: NAME, model: NAME}}"


def test_two_providers_cannot_both_be_meant() -> None:
    (problem,) = said_of({"type": "http", "provider": "other"})
    assert problem == "8:30: executor.provider is 'other', but llm.provider is 'gpu'; keep the latter"


def test_what_a_model_must_have_is_enough() -> None:
    assert said_of({"type": "http", "provider": "gpu"}, llm={"require": {"context": 1000}}) == []
