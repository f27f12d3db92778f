from __future__ import annotations

import json
from pathlib import Path

import pytest

from reconciler.agentd.config import Config, ConfigError, ExecutorSpec, load_config


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
        "executor": {"type": "claude-code", "argv": [1], "env": {"A": 1}, "timeouts": 5},
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
        "'claude-code'",
        "HUB_CONFIG.executor.argv",
        "HUB_CONFIG.executor.env",
        "HUB_CONFIG.executor.timeouts",
        "heartbeat_s",
        "max_parallel",
        "ttl_s",
        "/does/not/exist",
    ):
        assert what in named


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_configuration_that_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="HUB_CONFIG is not"):
        load_config({"HUB_CONFIG": text})
