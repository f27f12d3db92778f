"""One task from assignment to outcome: scratch files, the executor, its result and artefacts.

An `Assignment` comes in; a `Completed` or a `Failed` goes out, never an exception for anything the
task did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from reconciler.agentd import chat, claude_code, command, process
from reconciler.agentd.artefacts import ArtefactsTooLargeError, collect_artefacts
from reconciler.agentd.assignment import Assignment
from reconciler.agentd.config import Config
from reconciler.agentd.executor import Executor, Job
from reconciler.agentd.groups import ProcessGroups
from reconciler.agentd.log import Log
from reconciler.agentd.outcome import Completed, Failed, Outcome
from reconciler.agentd.scratch import Scratch, make_scratch

_EXECUTORS: Mapping[str, Executor] = {"command": command.run, "claude-code": claude_code.run, "http": chat.run}


@dataclass(frozen=True)
class Bench:
    """What every task of this daemon is run with."""

    config: Config
    groups: ProcessGroups
    hub_url: str
    llm_url: str
    log: Log


def perform(
    assignment: Assignment,
    bench: Bench,
    halt: process.Halt,
    on_started: Callable[[], None],
    on_progress: Callable[[str], None],
) -> Outcome:
    """Run it to its end.

    `on_started` is called when it runs; both callbacks must not block. A task with an `argv` of its
    own is a command, whatever the agent's executor is.
    """
    config = bench.config
    execute = command.run if assignment.argv else _EXECUTORS[config.executor.type]
    try:
        with make_scratch(config.scratch, config.instance, assignment) as scratch:
            job = Job(
                assignment=assignment,
                config=config,
                scratch=scratch,
                groups=bench.groups,
                hub_url=bench.hub_url,
                llm_url=bench.llm_url,
                halt=halt,
                on_started=on_started,
                on_progress=on_progress,
            )
            outcome = execute(job)
            return _add_artefacts(outcome, assignment, scratch, bench.log)
    except process.SpawnError as error:
        return Failed(reason="spawn", error=str(error))
    except (OSError, RecursionError) as error:
        return Failed(reason="spawn", error=f"preparing the scratch directory: {error}")


def _add_artefacts(outcome: Outcome, assignment: Assignment, scratch: Scratch, log: Log) -> Outcome:
    if isinstance(outcome, Failed):
        return outcome
    try:
        found = collect_artefacts(scratch.output_dir, assignment.artefacts, assignment.max_size_bytes)
    except ArtefactsTooLargeError as error:
        return _spoil(outcome, "too_large", str(error))
    except OSError as error:
        return _spoil(outcome, "exit", f"reading the artefacts: {error}")
    if found.left_out:
        log.warning(
            "artefacts that are not regular files were left out",
            task=assignment.ref.task,
            names=", ".join(found.left_out)[:1000],
        )
    return replace(outcome, artefacts=found)


def _spoil(outcome: Completed, reason: str, error: str) -> Failed:
    return Failed(
        reason=reason,
        error=error,
        exit_code=0,
        stderr_tail=outcome.stderr_tail,
        duration_s=outcome.duration_s,
        usage=outcome.usage,
    )
