"""One task from assignment to outcome: scratch files, the command, its result and artefacts.

An `Assignment` comes in; a `Completed` or a `Failed` goes out, never an exception for anything the
task did.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from reconciler.agentd import command
from reconciler.agentd.artefacts import ArtefactsTooLargeError, Collection, collect_artefacts
from reconciler.agentd.assignment import Assignment
from reconciler.agentd.config import Config
from reconciler.agentd.groups import ProcessGroups
from reconciler.agentd.log import Log
from reconciler.agentd.scratch import Scratch, make_scratch

WORKSPACE = "/workspace"
_MAX_NESTING = 60


@dataclass(frozen=True)
class Completed:
    """The command exited with 0. `result` is stdout as JSON where it parses, else as text."""

    result: object
    artefacts: Collection
    duration_s: float


@dataclass(frozen=True)
class Failed:
    """The command did not end well, or never ran.

    `reason`: exit, timeout, first_output, progress, cancelled, too_large, spawn, shutdown.

    `partial` is what stdout held, as in `Completed.result`, when the daemon had to end; None
    otherwise.
    """

    reason: str
    error: str
    exit_code: int | None = None
    stderr_tail: str = ""
    duration_s: float = 0.0
    partial: object = None


Outcome = Union[Completed, Failed]


@dataclass(frozen=True)
class Bench:
    """What every task of this daemon is run with."""

    config: Config
    groups: ProcessGroups
    hub_url: str
    log: Log


def perform(
    assignment: Assignment,
    bench: Bench,
    halt: command.Halt,
    on_started: Callable[[], None],
    on_progress: Callable[[str], None],
) -> Outcome:
    """Run it to its end.

    `on_started` is called when the command runs; both callbacks must not block.
    """
    config = bench.config
    try:
        with make_scratch(config.scratch, config.instance, assignment) as scratch:
            order = build_order(assignment, config, scratch, bench.hub_url)
            child = command.start(order, bench.groups)
            on_started()
            ended = command.watch(child, order, bench.groups, halt, on_progress)
            return _conclude(ended, assignment, scratch, bench.log)
    except command.SpawnError as error:
        return Failed(reason="spawn", error=str(error))
    except (OSError, RecursionError) as error:
        return Failed(reason="spawn", error=f"preparing the scratch directory: {error}")


def build_order(assignment: Assignment, config: Config, scratch: Scratch, hub_url: str) -> command.Order:
    """The command with its environment.

    `/workspace` in argv, env and cwd is this task's workspace.
    """
    executor, workspace = config.executor, assignment.workspace
    env = {
        **config.base_env,
        **{name: place(value, workspace) for name, value in executor.env.items()},
        "HUB_AGENT": config.agent,
        "HUB_INSTANCE": config.instance,
        "HUB_TOKEN_FILE": config.token_file,
        "HUB_URL": hub_url,
        "HUB_TASK": assignment.ref.task,
        "HUB_TASK_DIR": scratch.task_dir,
        "HUB_OUTPUT": scratch.output_dir,
        "HUB_WORKSPACE": workspace,
    }
    return command.Order(
        argv=tuple(place(a, workspace) for a in assignment.argv or executor.argv),
        env=env,
        cwd=place(executor.cwd, workspace) or workspace or scratch.task_dir,
        stdin_path=scratch.input_path,
        marker=scratch.task_dir,
        max_stdout_bytes=assignment.max_size_bytes,
        timeout_s=assignment.timeout_s,
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


def parse_result(stdout: bytes) -> object:
    """JSON where it is JSON that others can read too (no NaN, no endless nesting), else text."""
    text = stdout.decode("utf-8", "replace")
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


def _conclude(ended: command.Ended, assignment: Assignment, scratch: Scratch, log: Log) -> Outcome:
    if ended.reason != "exit" or ended.exit_code != 0:
        return _fail(ended)
    try:
        found = collect_artefacts(scratch.output_dir, assignment.artefacts, assignment.max_size_bytes)
    except ArtefactsTooLargeError as error:
        return _fail(ended, reason="too_large", error=str(error))
    except OSError as error:
        return _fail(ended, reason="exit", error=f"reading the artefacts: {error}")
    if found.left_out:
        log.warning(
            "artefacts that are not regular files were left out",
            task=assignment.ref.task,
            names=", ".join(found.left_out)[:1000],
        )
    return Completed(result=parse_result(ended.stdout), artefacts=found, duration_s=ended.duration_s)


def _fail(ended: command.Ended, *, reason: str = "", error: str = "") -> Failed:
    cut_short = ended.reason == "shutdown" and ended.stdout
    return Failed(
        reason=reason or ended.reason,
        error=error or ended.error,
        exit_code=ended.exit_code,
        stderr_tail=ended.stderr_tail,
        duration_s=ended.duration_s,
        partial=parse_result(ended.stdout) if cut_short else None,
    )
