"""The executor `claude-code`: Claude Code without a terminal, its answer read line by line.

The program is `claude` on the PATH. It prints one JSON object per line: what happens, which the
watchdog takes for progress, and last the result. The manifest alone says what it may do: settings,
hooks and tool servers of the workspace are not loaded, because they could send the model's traffic
elsewhere. It keeps its files in a directory of this attempt's own. Its key is the instance's token,
read anew from its file by a helper, so that it may be rotated while a task runs.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping

from reconciler.agentd.config import ExecutorSpec
from reconciler.agentd.executor import Job, build_order, fail, parse_result, run_program
from reconciler.agentd.outcome import Completed, Failed, Outcome, Usage, reason_of_status
from reconciler.agentd.process import Ended

PROGRAM = "claude"
_MODEL_NAMES = (
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_FABLE_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)
_LIMITS = {"error_max_turns": "turns", "error_max_budget_usd": "money"}
_PASSING_ERRORS = frozenset({"server_error", "overloaded", "rate_limit", "authentication_failed", "unknown"})
_KILLED = 128


def run(job: Job) -> Outcome:
    """Raises SpawnError."""
    if os.path.getsize(job.scratch.question_path) == 0:
        return Failed(reason="spawn", error="the task has neither a prompt nor an input to ask about")
    spec = job.config.executor
    order = build_order(job, build_argv(job), job.scratch.question_path, build_env(job, spec.model))
    talk = Talk()
    return conclude(run_program(job, order, talk.take), talk, job.assignment.max_size_bytes)


def build_argv(job: Job) -> tuple[str, ...]:
    """The command line. What may hold several values goes first, what ends it stands after."""
    spec, scratch = job.config.executor, job.scratch
    settings = {"apiKeyHelper": f"cat {shlex.quote(job.config.token_file)}"}
    return (
        PROGRAM,
        *_list("--allowedTools", spec.allowed_tools),
        *_list("--disallowedTools", spec.disallowed_tools),
        *_list("--add-dir", (scratch.task_dir, scratch.output_dir)),
        *_list("--mcp-config", _mcp_config(spec)),
        "--strict-mcp-config",
        "--setting-sources=",
        f"--settings={json.dumps(settings)}",
        "--permission-mode=dontAsk",
        "--no-session-persistence",
        *_one("--model", spec.model),
        *_one("--max-turns", spec.max_turns),
        *_one("--max-budget-usd", spec.max_budget_usd),
        *_one("--append-system-prompt", _system_prompt(spec, job)),
        "--output-format=stream-json",
        "--include-partial-messages",
        "--verbose",
        "--print",
    )


def build_env(job: Job, model: str) -> Mapping[str, str]:
    """On top of what every program has. No request names another model than the manifest's."""
    return {
        "ANTHROPIC_BASE_URL": f"{job.llm_url}/anthropic",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CONFIG_DIR": job.scratch.home_dir,
        **(dict.fromkeys(_MODEL_NAMES, model) if model else {}),
    }


class Talk:
    """What the program said so far: its result, and what may be told meanwhile."""

    def __init__(self) -> None:
        self.result: Mapping[str, object] | None = None
        self.text = ""
        self.api_error = ""
        self._turns = 0

    def take(self, line: bytes) -> str:
        """One line of stdout; returns progress to tell. What is not a message is passed over."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return ""
        if not isinstance(message, dict):
            return ""
        if message.get("type") == "result":
            self.result = message
        elif message.get("type") == "assistant" and message.get("parent_tool_use_id") is None:
            return self._take_turn(message)
        return ""

    def _take_turn(self, message: Mapping[str, object]) -> str:
        self.api_error = _text(message.get("error"))
        inner = message.get("message")
        content = inner.get("content") if isinstance(inner, dict) else None
        blocks = [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []
        self.text = "\n".join(_text(b.get("text")) for b in blocks if b.get("type") == "text") or self.text
        self._turns += 1
        tools = [_text(b.get("name")) for b in blocks if b.get("type") == "tool_use"]
        return f"turn {self._turns}: {', '.join(tools)}" if tools else ""


def conclude(ended: Ended, talk: Talk, max_size_bytes: int) -> Outcome:
    """What its end and its result mean. Whether it failed is in `is_error`, not in `subtype`."""
    usage = read_usage(talk.result) if talk.result is not None else None
    said = _text(talk.result.get("result")) if talk.result is not None else talk.text
    if ended.reason != "exit" or talk.result is None or ended.exit_code > _KILLED:
        error = "" if ended.error or talk.result is not None else "ended without a result"
        return fail(ended, error=error, said=said, usage=usage)
    if talk.result.get("is_error") is not False:
        reason, error = _explain(talk.result, talk.api_error)
        return fail(ended, reason=reason, error=error, usage=usage)
    if ended.exit_code != 0:
        return fail(ended, usage=usage)
    if len(said.encode("utf-8", "replace")) > max_size_bytes:
        return fail(ended, reason="too_large", error=f"the result has more than {max_size_bytes} bytes", usage=usage)
    return Completed(result=parse_result(said), duration_s=ended.duration_s, stderr_tail=ended.stderr_tail, usage=usage)


def read_usage(result: Mapping[str, object]) -> Usage:
    """Over all models, sub-agents included; `usage` alone leaves some out where a limit ended it."""
    by_model = result.get("modelUsage")
    models = {k: v for k, v in by_model.items() if isinstance(v, dict)} if isinstance(by_model, dict) else {}

    def total(key: str) -> int:
        return sum(_count(model.get(key)) for model in models.values())

    cost_usd = result.get("total_cost_usd")
    return Usage(
        model=next(iter(models)) if len(models) == 1 else "",
        input_tokens=total("inputTokens"),
        output_tokens=total("outputTokens"),
        cache_read_tokens=total("cacheReadInputTokens"),
        cache_write_tokens=total("cacheCreationInputTokens"),
        turns=_count(result.get("num_turns")),
        cost_usd=float(cost_usd) if isinstance(cost_usd, (int, float)) and cost_usd >= 0 else None,
    )


def _explain(result: Mapping[str, object], api_error: str) -> tuple[str, str]:
    """Reason and sentence of a result that is an error."""
    subtype, status = _text(result.get("subtype")), result.get("api_error_status")
    if subtype in _LIMITS:
        return "limit", f"its {_LIMITS[subtype]} were used up ({subtype})"
    errors = result.get("errors")
    said = _text(result.get("result")) or "; ".join(map(str, errors if isinstance(errors, list) else [])) or subtype
    if isinstance(status, int):
        return reason_of_status(status), said
    if api_error:
        return "model_unavailable" if api_error in _PASSING_ERRORS else "model_refused", said
    return "exit", said


def _system_prompt(spec: ExecutorSpec, job: Job) -> str:
    delivers = ""
    if job.assignment.artefacts:
        names = ", ".join(job.assignment.artefacts)
        delivers = f"Files to be delivered ({names}) go into the directory {job.scratch.output_dir}."
    return "\n\n".join(filter(None, (spec.append_system_prompt, delivers)))


def _mcp_config(spec: ExecutorSpec) -> tuple[str, ...]:
    """A file's path, or the servers themselves."""
    config = spec.mcp_config
    if not config:
        return ()
    return (config if isinstance(config, str) else json.dumps(config),)


def _list(option: str, values: tuple[str, ...]) -> tuple[str, ...]:
    return (option, *values) if values else ()


def _one(option: str, value: object) -> tuple[str, ...]:
    return () if value in (None, "") else (f"{option}={value}",)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
