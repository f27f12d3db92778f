"""The executor `http`: asks a model once, and its answer is the result.

The asking is a program of its own (`chat_client.py`), so that what holds for programs holds for it:
the watchdog, cancelling, an end that leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from reconciler.agentd.executor import Job, build_order, fail, parse_result, run_program
from reconciler.agentd.outcome import Completed, Failed, Outcome, Usage, reason_of_status
from reconciler.agentd.process import Ended

PATHS = {"openai": "/openai/v1/chat/completions", "ollama": "/ollama/api/chat"}
_CLIENT = "reconciler.agentd.chat_client"
_IMPORTED_FROM = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run(job: Job) -> Outcome:
    """Raises SpawnError."""
    if os.path.getsize(job.scratch.question_path) == 0:
        return Failed(reason="spawn", error="the task has neither a prompt nor an input to ask about")
    spec = job.config.executor
    argv = (sys.executable, "-m", _CLIENT, job.llm_url + PATHS[spec.api], spec.model)
    order = build_order(job, argv, job.scratch.question_path, {"PYTHONPATH": _IMPORTED_FROM})
    talk = Talk(job.assignment.max_size_bytes)
    return conclude(run_program(job, order, talk.take), talk)


class Talk:
    """What the client printed so far. Of a text that is too long, the beginning."""

    def __init__(self, max_size_bytes: int) -> None:
        self.text = ""
        self.end: Mapping[str, object] = {}
        self.max_size_bytes = max_size_bytes
        self.is_too_large = False

    def take(self, line: bytes) -> str:
        """One line of stdout; there is no progress to tell."""
        message = json.loads(line)
        if "text" not in message:
            self.end = message
        elif len(self.text) + len(message["text"]) <= self.max_size_bytes:
            self.text += message["text"]
        else:
            self.is_too_large = True
        return ""


def conclude(ended: Ended, talk: Talk) -> Outcome:
    """What the client's end and its last line mean."""
    usage = _read_usage(talk.end.get("usage"))
    status, error = talk.end.get("status"), talk.end.get("error")
    if ended.reason != "exit" or not talk.end:
        return fail(ended, said=talk.text, usage=usage)
    if isinstance(status, int):
        return fail(ended, reason=reason_of_status(status), error=str(error), usage=usage)
    if error:
        return fail(ended, reason="model_unavailable", error=str(error), usage=usage)
    if talk.is_too_large or len(talk.text.encode("utf-8", "replace")) > talk.max_size_bytes:
        return fail(
            ended, reason="too_large", error=f"the answer has more than {talk.max_size_bytes} bytes", usage=usage
        )
    return Completed(
        result=parse_result(talk.text), duration_s=ended.duration_s, stderr_tail=ended.stderr_tail, usage=usage
    )


def _read_usage(usage: object) -> Usage | None:
    return Usage(**usage) if isinstance(usage, dict) else None
