"""The daemon's configuration: the environment comes in, a frozen `Config` goes out.

HUB_SOCKET, HUB_TOKEN_FILE, HUB_AGENT, HUB_INSTANCE, and HUB_CONFIG, a JSON object. Keys of
HUB_CONFIG that this version does not know are ignored, so that a newer hub can start an older
image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

PORT = 8421
_INHERITED = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "PYTHONPATH", "RECONCILER_CONTAINER")
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_T = TypeVar("_T")


class ConfigError(Exception):
    """The environment does not describe an agent. The message names every problem."""


@dataclass(frozen=True)
class ExecutorSpec:
    """What runs a task. `cwd` is empty for the workspace; a time-out of None is switched off."""

    type: str = "command"
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    first_output_s: float | None = None
    progress_s: float | None = None


@dataclass(frozen=True)
class Config:
    """`base_env` is what an executor inherits from the daemon.

    `ttl_s` None means: no deadline of its own.
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


def load_config(environ: Mapping[str, str]) -> Config:
    """Read the configuration from environment variables.

    Raises ConfigError that names every problem.
    """
    raw = _Fields("HUB_CONFIG", _parse_object(environ.get("HUB_CONFIG", "{}")), [])
    for name in ("HUB_AGENT", "HUB_INSTANCE"):
        if not environ.get(name):
            raw.problems.append(f"{name} is not set")
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
    )
    if not os.path.isdir(config.scratch):
        raw.problems.append(f"HUB_CONFIG.scratch: {config.scratch} is not a directory")
    if raw.problems:
        raise ConfigError("; ".join(raw.problems))
    return config


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
    if kind != "command":
        raw.problems.append(f"HUB_CONFIG.executor.type: this agentd has no executor {kind!r}, only 'command'")
    return ExecutorSpec(
        type=kind,
        argv=raw.texts("argv"),
        env=raw.text_by_name("env"),
        cwd=raw.text("cwd", ""),
        first_output_s=timeouts.seconds("firstOutput"),
        progress_s=timeouts.seconds("progress"),
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

    def seconds(self, key: str) -> float | None:
        value = self._raw.get(key)
        if value is None:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            return float(value)
        return self._wrong(key, "a number of seconds above 0", None)

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
