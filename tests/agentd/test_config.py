from __future__ import annotations

import json
from pathlib import Path

import pytest

from reconciler.agentd.config import Config, ConfigError, ExecutorSpec, load_config, make_dial
from reconciler.agentd.dial import TlsDial, UnixDial

from .tls import TlsListener


def build_environ(config: object, **extra: str) -> dict[str, str]:
    return {
        "HUB_AGENT": "writer",
        "HUB_INSTANCE": "writer-0",
        "HUB_CONFIG": json.dumps(config),
        "PATH": "/bin",
        "HOME": "/home/agent",
        "OTHER": "x",
        **extra,
    }


def test_the_whole_configuration_is_read(tmp_path: Path) -> None:
    raw = {
        "version": "2",
        "capabilities": ["docs.write"],
        "executor": {
            "type": "command",
            "argv": ["python3", "/workspace/x.py"],
            "env": {"A": "b"},
            "cwd": "/workspace/sub",
            "timeouts": {"firstOutput": 60, "progress": 300.5},
        },
        "heartbeat_s": 5,
        "grace_s": 20,
        "max_parallel": 3,
        "ttl_s": 3600,
        "scratch": str(tmp_path),
        "port": 0,
        "from_a_newer_hub": True,
    }
    environ = build_environ(raw, HUB_SOCKET="/s", HUB_TOKEN_FILE="/t")
    assert load_config(environ) == Config(
        agent="writer",
        instance="writer-0",
        socket_path="/s",
        token_file="/t",
        version="2",
        capabilities=("docs.write",),
        executor=ExecutorSpec(
            type="command",
            argv=("python3", "/workspace/x.py"),
            env={"A": "b"},
            cwd="/workspace/sub",
            first_output_s=60.0,
            progress_s=300.5,
        ),
        base_env={"PATH": "/bin", "HOME": "/home/agent"},
        heartbeat_s=5.0,
        grace_s=20.0,
        max_parallel=3,
        ttl_s=3600.0,
        scratch=str(tmp_path),
        port=0,
    )


def test_what_an_executor_that_asks_a_model_is_told_is_read() -> None:
    raw = {
        "type": "claude-code",
        "model": "claude-x",
        "api": "ollama",
        "maxTurns": 3,
        "maxBudget": 0.5,
        "allowedTools": ["Read"],
        "disallowedTools": ["Bash(rm *)"],
        "mcpConfig": {"mcpServers": {}},
        "appendSystemPrompt": "Be brief.",
    }
    assert load_config(build_environ({"executor": raw})).executor == ExecutorSpec(
        type="claude-code",
        model="claude-x",
        api="ollama",
        max_turns=3,
        max_budget_usd=0.5,
        allowed_tools=("Read",),
        disallowed_tools=("Bash(rm *)",),
        mcp_config={"mcpServers": {}},
        append_system_prompt="Be brief.",
    )


def test_the_models_socket_is_beside_the_hubs() -> None:
    assert load_config(build_environ({})).llm_socket_path == "/run/hub/llm.sock"
    assert load_config(build_environ({}, HUB_SOCKET="/x/y.sock")).llm_socket_path == "/x/llm.sock"


@pytest.mark.parametrize(
    "wrong",
    [{"type": "codex"}, {"api": "x"}, {"maxTurns": 0}, {"maxBudget": 0}, {"allowedTools": "Bash"}, {"mcpConfig": 1}],
)
def test_what_is_wrong_with_an_executor_is_named(wrong: dict[str, object]) -> None:
    (key,) = wrong
    with pytest.raises(ConfigError, match=rf"HUB_CONFIG\.executor\.{key}"):
        load_config(build_environ({"executor": wrong}))


def test_what_is_not_said_has_a_default() -> None:
    config = load_config({"HUB_AGENT": "writer", "HUB_INSTANCE": "writer-0"})
    assert (config.socket_path, config.token_file) == (
        "/run/hub/hub.sock",
        "/run/secrets/agent-token",
    )
    assert (config.heartbeat_s, config.grace_s, config.max_parallel) == (10.0, 30.0, 1)
    assert (config.ttl_s, config.scratch, config.port) == (None, "/tmp", 8421)
    assert config.base_env == {"PATH": "/usr/local/bin:/usr/bin:/bin"}


def test_all_problems_are_named_at_once() -> None:
    raw = {
        "version": 2,
        "capabilities": "docs.write",
        "executor": {"type": "codex", "argv": [1], "env": {"A": 1}, "timeouts": 5},
        "heartbeat_s": 0,
        "max_parallel": True,
        "ttl_s": -1,
        "scratch": "/does/not/exist",
    }
    with pytest.raises(ConfigError) as wrong:
        load_config({"HUB_CONFIG": json.dumps(raw)})
    named = str(wrong.value)
    for what in (
        "HUB_AGENT",
        "HUB_INSTANCE",
        "HUB_CONFIG.version",
        "HUB_CONFIG.capabilities",
        "'codex'",
        "HUB_CONFIG.executor.argv",
        "HUB_CONFIG.executor.env",
        "HUB_CONFIG.executor.timeouts",
        "heartbeat_s",
        "max_parallel",
        "ttl_s",
        "/does/not/exist",
    ):
        assert what in named


def test_the_hub_is_called_at_its_address_where_there_is_one(tmp_path: Path) -> None:
    listener = TlsListener(tmp_path)
    listener.close()
    config = load_config(build_environ({}, HUB_ADDRESS=listener.address, HUB_CA_FILE=listener.ca_file))
    assert (config.address, config.ca_file) == (listener.address, listener.ca_file)
    assert isinstance(make_dial(config), TlsDial)
    near = load_config(build_environ({}, HUB_SOCKET="/s", HUB_CA_FILE=listener.ca_file))
    assert isinstance(make_dial(near), UnixDial)
    assert load_config(build_environ({}, HUB_ADDRESS="hub:1")).ca_file == "/run/secrets/hub-ca.pem"


def test_two_ways_to_the_hub_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match="HUB_ADDRESS and HUB_SOCKET are both set"):
        load_config(build_environ({}, HUB_ADDRESS="hub:1", HUB_SOCKET="/s"))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_configuration_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HUB_CONFIG is not"):
        load_config({"HUB_CONFIG": text})
