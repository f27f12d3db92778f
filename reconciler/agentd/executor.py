"""The seam between a task and what carries it out: a `Job` comes in, an `Outcome` goes out.

Here is what all executors share: the environment of a program, `/workspace` in it, and how a
program's end becomes a failure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reconciler.agentd import process
from reconciler.agentd.assignment import Assignment
from reconciler.agentd.config import Config
from reconciler.agentd.groups import ProcessGroups
from reconciler.agentd.outcome import Failed, Outcome, Usage
from reconciler.agentd.scratch import Scratch

WORKSPACE = "/workspace"
_MAX_NESTING = 60


@dataclass(frozen=True)
class Job:
    """One attempt, ready to be carried out.

    `on_started` is called once it runs; neither callback may block. `llm_url` is where models are
    asked, without the path of an API.
    """

    assignment: Assignment
    config: Config
    scratch: Scratch
    groups: ProcessGroups
    hub_url: str
    llm_url: str
    halt: process.Halt
    on_started: Callable[[], None]
    on_progress: Callable[[str], None]


Executor = Callable[[Job], Outcome]


def run_program(job: Job, order: process.Order, take_line: process.TakeLine | None = None) -> process.Ended:
    """Run it to its end. Raises SpawnError."""
    child = process.start(order, job.groups)
    job.on_started()
    return process.watch(child, order, job.groups, job.halt, job.on_progress, take_line)


def build_order(
    job: Job, argv: tuple[str, ...], stdin_path: str, env: Mapping[str, str] | None = None
) -> process.Order:
    """The program with its environment; `env` comes on top.

    `/workspace` in `argv`, and in the executor's environment and working directory, is this task's
    workspace.
    """
    config, executor, workspace = job.config, job.config.executor, job.assignment.workspace
    return process.Order(
        argv=tuple(place(a, workspace) for a in argv),
        env={
            **config.base_env,
            **{name: place(value, workspace) for name, value in executor.env.items()},
            "HUB_AGENT": config.agent,
            "HUB_INSTANCE": config.instance,
            "HUB_TOKEN_FILE": config.token_file,
            "HUB_URL": job.hub_url,
            "HUB_LLM_URL": job.llm_url,
            "HUB_TASK": job.assignment.ref.task,
            "HUB_TASK_DIR": job.scratch.task_dir,
            "HUB_OUTPUT": job.scratch.output_dir,
            "HUB_WORKSPACE": workspace,
            **(env or {}),
        },
        cwd=place(executor.cwd, workspace) or workspace or job.scratch.task_dir,
        stdin_path=stdin_path,
        marker=job.scratch.task_dir,
        max_stdout_bytes=job.assignment.max_size_bytes,
        timeout_s=job.assignment.timeout_s,
        first_output_s=executor.first_output_s,
        progress_s=executor.progress_s,
    )


def place(text: str, workspace: str) -> str:
    """`/workspace/bin/x` -> `<workspace>/bin/x`.

    Anything else, or without a workspace, as it is.
    """
    if workspace and (text == WORKSPACE or text.startswith(WORKSPACE + "/")):
        return workspace + text[len(WORKSPACE) :]
    return text


def fail(
    ended: process.Ended, *, reason: str = "", error: str = "", said: str = "", usage: Usage | None = None
) -> Failed:
    """The failure that a program's end means.

    `said` is what there is of a result, and told where the daemon had to end.
    """
    return Failed(
        reason=reason or ended.reason,
        error=error or ended.error,
        exit_code=ended.exit_code,
        stderr_tail=ended.stderr_tail,
        duration_s=ended.duration_s,
        partial=parse_result(said) if said and ended.reason == "shutdown" else None,
        usage=usage,
    )


def parse_result(text: str) -> object:
    """JSON where it is JSON that others can read too (no NaN, no endless nesting), else text."""
    try:
        value: object = json.loads(text)
        if _is_nested(value, _MAX_NESTING):
            return text
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


def _is_nested(value: object, levels: int) -> bool:
    """Whether lists and objects nest deeper than `levels`."""
    if isinstance(value, dict):
        return levels == 0 or any(_is_nested(v, levels - 1) for v in value.values())
    if isinstance(value, list):
        return levels == 0 or any(_is_nested(v, levels - 1) for v in value)
    return False
