"""The executor `command`: a program gets the input on stdin, and what it prints is the result."""

from __future__ import annotations

from reconciler.agentd.executor import Job, build_order, fail, parse_result, run_program
from reconciler.agentd.outcome import Completed, Outcome


def run(job: Job) -> Outcome:
    """The task's own `argv` where it has one, else the executor's. Raises SpawnError."""
    argv = job.assignment.argv or job.config.executor.argv
    ended = run_program(job, build_order(job, argv, job.scratch.input_path))
    said = ended.stdout.decode("utf-8", "replace")
    if ended.reason != "exit" or ended.exit_code != 0:
        return fail(ended, said=said)
    return Completed(result=parse_result(said), duration_s=ended.duration_s, stderr_tail=ended.stderr_tail)
