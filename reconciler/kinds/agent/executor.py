"""What carries out an agent's tasks: the section `executor` of its manifest, and what agentd is told of it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, StrictFloat, StrictInt, WithJsonSchema, field_validator

from reconciler.core.model import JsonValue, Line, Model, Text
from reconciler.core.names import Name
from reconciler.core.quantity import Duration
from reconciler.core.routing import Llm

SECRET_SHAPES = ("-----BEGIN", "sk-", "ghp_", "github_pat_", "glpat-", "xoxb-", "AKIA", "AIza")
RESERVED_ENV = ("HUB_", "PYTHONPATH", "LD_")
CLAUDE_ENV = ("ANTHROPIC_", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_")
CLAUDE_MEMORY_BYTES = 2**30
CLAUDE_PIDS = 256

EnvName = Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
Tool = Annotated[Line, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_*-]*(\(.*\))?$", max_length=1000)]


def looks_secret(value: str) -> bool:
    """Whether a text looks like a key or a token."""
    is_random = len(value) > 31 and value.isalnum() and any(c.isdigit() for c in value)
    return value.startswith(SECRET_SHAPES) or is_random


def check_env(env: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in env.items():
        if key.startswith(RESERVED_ENV):
            raise ValueError(f"{key} is set by the hub; choose another name")
        if looks_secret(value):
            raise ValueError(f"the value of {key} looks like a secret; env is not for secrets, list it under 'secrets'")
        if "\0" in value:
            raise ValueError(f"the value of {key} contains a NUL character")
    return env


def _check_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("contains a NUL character")
    return value


def _check_mcp(value: object) -> object:
    if isinstance(value, str):
        if not value.startswith("/") or "\0" in value:
            raise ValueError(f"{value!r} is no path; write one such as /workspace/mcp.json, or the servers themselves")
    elif not isinstance(value, Mapping) or set(value) != {"mcpServers"} or not isinstance(value["mcpServers"], Mapping):
        raise ValueError("write a file's path, or a mapping with the key mcpServers")
    elif any(looks_secret(text) for text in _texts(value)):
        raise ValueError("looks like it holds a secret; list that under 'secrets', and have the server read its file")
    return value


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for inner in value.values():
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)


McpConfig: TypeAlias = Annotated[
    JsonValue,
    AfterValidator(_check_mcp),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^/"},
                {
                    "type": "object",
                    "properties": {"mcpServers": {"type": "object"}},
                    "required": ["mcpServers"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class Timeouts(Model):
    first_output: Duration = 60.0
    progress: Duration = 300.0


class CommandExecutor(Model):
    """A program: input on stdin, result on stdout."""

    type: Literal["command"]
    argv: tuple[Text, ...] = Field(min_length=1, max_length=100)
    env: dict[EnvName, Text] = Field(default_factory=dict)
    timeouts: Timeouts = Timeouts()

    check_env = field_validator("env")(check_env)


class ClaudeCodeExecutor(Model):
    """Claude Code, one session per task. `max_budget` is in dollars, as Claude Code counts them."""

    type: Literal["claude-code"]
    max_turns: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = None
    max_budget: Annotated[StrictFloat, Field(gt=0, allow_inf_nan=False)] | None = None
    allowed_tools: tuple[Tool, ...] = Field(default=(), max_length=200)
    disallowed_tools: tuple[Tool, ...] = Field(default=(), max_length=200)
    mcp_config: McpConfig | None = None
    append_system_prompt: Annotated[Text, AfterValidator(_check_text), Field(max_length=32_768)] = ""
    env: dict[EnvName, Text] = Field(default_factory=dict)
    timeouts: Timeouts = Timeouts()

    check_env = field_validator("env")(check_env)


class HttpExecutor(Model):
    """One question to the agent's model, one answer. `provider`, where it is said, is that of the section `llm`."""

    type: Literal["http"]
    provider: Name | None = None
    timeouts: Timeouts = Timeouts()


Executor: TypeAlias = Annotated[CommandExecutor | ClaudeCodeExecutor | HttpExecutor, Field(discriminator="type")]


def check_llm(executor: Executor, llm: Llm | None) -> Iterator[tuple[Sequence[str | int], str]]:
    """Whether an executor that asks a model has one: path below `spec`, sentence."""
    if isinstance(executor, CommandExecutor):
        return
    if llm is None:
        yield ("executor",), f"executor {executor.type} asks a model; say which: llm: {{provider: NAME, model: NAME}}"
    elif isinstance(executor, HttpExecutor):
        named = {executor.provider, llm.provider} - {None}
        if len(named) > 1:
            said = f"executor.provider is {executor.provider!r}, but llm.provider is {llm.provider!r}; keep the latter"
            yield ("executor", "provider"), said


def check_claude(
    executor: ClaudeCodeExecutor, env: Mapping[str, str], memory_bytes: int, pids: int
) -> Iterator[tuple[Sequence[str | int], str]]:
    """What an agent with Claude Code lacks, and what its environment must not hold: path below `spec`, sentence."""
    if memory_bytes < CLAUDE_MEMORY_BYTES:
        yield ("resources", "memory"), "executor claude-code needs 1GiB; set resources.memory to that or more"
    if pids < CLAUDE_PIDS:
        yield (
            ("resources", "pids"),
            f"executor claude-code needs {CLAUDE_PIDS} processes; set resources.pids to that or more",
        )
    for path, names in ((("env",), env), (("executor", "env"), executor.env)):
        for name in names:
            if name.startswith(CLAUDE_ENV):
                yield (*path, name), f"{name} is set by the hub, which decides what model Claude Code asks, and where"


def describe_executor(executor: Executor, env: Mapping[str, str], model: str) -> dict[str, Any]:
    """The key `executor` of HUB_CONFIG. `env` is the agent's; `model` is empty where no model is asked."""
    timeouts = {"firstOutput": executor.timeouts.first_output, "progress": executor.timeouts.progress}
    known: dict[str, Any] = {"type": executor.type, "timeouts": timeouts}
    match executor:
        case CommandExecutor():
            return {**known, "argv": list(executor.argv), "env": {**env, **executor.env}}
        case ClaudeCodeExecutor():
            said = executor.model_dump(mode="json", by_alias=True, exclude={"timeouts", "env"}, exclude_defaults=True)
            return {**known, **said, "model": model, "env": {**env, **executor.env}}
        case HttpExecutor():
            return {**known, "model": model, "env": dict(env)}
