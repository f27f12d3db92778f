"""The daemon's configuration: the environment comes in, a frozen `Config` goes out.

HUB_SOCKET, or HUB_ADDRESS and HUB_CA_FILE; HUB_TOKEN_FILE, HUB_AGENT, HUB_INSTANCE, and HUB_CONFIG,
a JSON object. Keys of HUB_CONFIG that this version does not know are ignored, so that a newer hub
can start an older image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from reconciler.agentd.dial import Dial, TlsDial, UnixDial, explain

PORT = 8421
CA_FILE = "/run/secrets/hub-ca.pem"
LLM_PORT = 8422
EXECUTORS = ("command", "claude-code", "http")
CHAT_APIS = ("openai", "ollama")
_INHERITED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "PYTHONPATH", "RECONCILER_CONTAINER")
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_T = TypeVar("_T")


class ConfigError(Exception):
    """The environment does not describe an agent. The message names every problem."""


@dataclass(frozen=True)
class ExecutorSpec:
    """What runs a task. `cwd` is empty for the workspace; a time-out of None is switched off.

    `model` and what follows are for executors that ask one. `mcp_config` is a path or the content.
    """

    type: str = "command"
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    first_output_s: float | None = None
    progress_s: float | None = None
    model: str = ""
    api: str = "openai"
    max_turns: int | None = None
    max_budget_usd: float | None = None
    allowed_tools: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    mcp_config: str | Mapping[str, object] = ""
    append_system_prompt: str = ""


@dataclass(frozen=True)
class Config:
    """`base_env` is what an executor inherits from the daemon.

    Where there is an `address`, the hub is called there, by TLS, and not on the socket. `ttl_s` None
    means: no deadline of its own.
    """

    agent: str
    instance: str
    socket_path: str
    token_file: str
    version: str
    capabilities: tuple[str, ...]
    executor: ExecutorSpec
    base_env: Mapping[str, str]
    heartbeat_s: float = 10.0
    grace_s: float = 30.0
    max_parallel: int = 1
    ttl_s: float | None = None
    scratch: str = "/tmp"  # noqa: S108 - a tmpfs of the container's own
    port: int = PORT
    address: str = ""
    ca_file: str = CA_FILE
    llm_port: int = LLM_PORT

    @property
    def llm_socket_path(self) -> str:
        """The models' socket, beside the hub's."""
        return os.path.join(os.path.dirname(self.socket_path), "llm.sock")


def load_config(environ: Mapping[str, str]) -> Config:
    """Read the configuration from environment variables.

    Raises ConfigError that names every problem.
    """
    raw = _Fields("HUB_CONFIG", _parse_object(environ.get("HUB_CONFIG", "{}")), [])
    for name in ("HUB_AGENT", "HUB_INSTANCE"):
        if not environ.get(name):
            raw.problems.append(f"{name} is not set")
    if environ.get("HUB_ADDRESS") and environ.get("HUB_SOCKET"):
        raw.problems.append("HUB_ADDRESS and HUB_SOCKET are both set; one of them says where the hub is")
    config = Config(
        agent=environ.get("HUB_AGENT", ""),
        instance=environ.get("HUB_INSTANCE", ""),
        socket_path=environ.get("HUB_SOCKET", "/run/hub/hub.sock"),
        token_file=environ.get("HUB_TOKEN_FILE", "/run/secrets/agent-token"),
        version=raw.text("version", ""),
        capabilities=raw.texts("capabilities"),
        executor=_read_executor(raw.fields("executor")),
        base_env={"PATH": _DEFAULT_PATH, **{k: environ[k] for k in _INHERITED if k in environ}},
        heartbeat_s=raw.seconds("heartbeat_s") or 10.0,
        grace_s=raw.seconds("grace_s") or 30.0,
        max_parallel=raw.whole("max_parallel", default=1, lowest=1),
        ttl_s=raw.seconds("ttl_s"),
        scratch=raw.text("scratch", "/tmp"),  # noqa: S108 - a tmpfs of the container's own
        port=raw.whole("port", default=PORT, lowest=0),
        address=environ.get("HUB_ADDRESS", ""),
        ca_file=environ.get("HUB_CA_FILE", CA_FILE),
        llm_port=raw.whole("llm_port", default=LLM_PORT, lowest=0),
    )
    if not os.path.isdir(config.scratch):
        raw.problems.append(f"HUB_CONFIG.scratch: {config.scratch} is not a directory")
    if raw.problems:
        raise ConfigError("; ".join(raw.problems))
    return config


def make_dial(config: Config) -> Dial:
    """Raises ConfigError for an address or a certificate that cannot be used."""
    if not config.address:
        return UnixDial(config.socket_path)
    try:
        return TlsDial(config.address, config.ca_file)
    except ValueError as error:
        raise ConfigError(f"HUB_ADDRESS: {error}") from error
    except OSError as error:
        raise ConfigError(f"HUB_CA_FILE: no certificate in {config.ca_file}: {explain(error)}") from error


def _parse_object(text: str) -> Mapping[str, object]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"HUB_CONFIG is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError("HUB_CONFIG is not a JSON object")
    return value


def _read_executor(raw: _Fields) -> ExecutorSpec:
    timeouts = raw.fields("timeouts")
    kind = raw.text("type", "command")
    if kind not in EXECUTORS:
        raw.problems.append(f"HUB_CONFIG.executor.type: this agentd has no executor {kind!r}, only {EXECUTORS}")
    api = raw.text("api", "openai")
    if api not in CHAT_APIS:
        raw.problems.append(f"HUB_CONFIG.executor.api: this agentd does not speak {api!r}, only {CHAT_APIS}")
    return ExecutorSpec(
        type=kind,
        argv=raw.texts("argv"),
        env=raw.text_by_name("env"),
        cwd=raw.text("cwd", ""),
        first_output_s=timeouts.seconds("firstOutput"),
        progress_s=timeouts.seconds("progress"),
        model=raw.text("model", ""),
        api=api,
        max_turns=raw.whole("maxTurns", default=0, lowest=1) or None,
        max_budget_usd=raw.positive("maxBudget"),
        allowed_tools=raw.texts("allowedTools"),
        disallowed_tools=raw.texts("disallowedTools"),
        mcp_config=raw.text_or_object("mcpConfig"),
        append_system_prompt=raw.text("appendSystemPrompt", ""),
    )


class _Fields:
    """Typed reading of one JSON object.

    What has the wrong type is noted in `problems` and read as its default.
    """

    def __init__(self, path: str, raw: Mapping[str, object], problems: list[str]) -> None:
        self._path = path
        self._raw = raw
        self.problems = problems

    def text(self, key: str, default: str) -> str:
        value = self._raw.get(key)
        if value is None:
            return default
        return value if isinstance(value, str) else self._wrong(key, "text", default)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._raw.get(key)
        if value is None:
            return ()
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return tuple(value)
        return self._wrong(key, "a list of text", ())

    def text_by_name(self, key: str) -> Mapping[str, str]:
        value = self._raw.get(key)
        if value is None:
            return {}
        if isinstance(value, dict) and all(isinstance(v, str) for v in value.values()):
            return value
        return self._wrong(key, "an object of text", {})

    def text_or_object(self, key: str) -> str | Mapping[str, object]:
        value = self._raw.get(key)
        return value if isinstance(value, dict) else self.text(key, "")

    def seconds(self, key: str) -> float | None:
        return self.positive(key, "a number of seconds above 0")

    def positive(self, key: str, expected: str = "a number above 0") -> float | None:
        value = self._raw.get(key)
        if value is None:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            return float(value)
        return self._wrong(key, expected, None)

    def whole(self, key: str, *, default: int, lowest: int) -> int:
        value = self._raw.get(key)
        if value is None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and value >= lowest:
            return value
        return self._wrong(key, f"a whole number of at least {lowest}", default)

    def fields(self, key: str) -> _Fields:
        value = self._raw.get(key)
        path = f"{self._path}.{key}"
        if value is None:
            return _Fields(path, {}, self.problems)
        return _Fields(
            path,
            value if isinstance(value, dict) else self._wrong(key, "an object", {}),
            self.problems,
        )

    def _wrong(self, key: str, expected: str, default: _T) -> _T:
        self.problems.append(f"{self._path}.{key} is not {expected}")
        return default
