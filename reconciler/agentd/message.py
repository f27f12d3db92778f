"""Messages to the hub: facts come in, an encoded `Message` with an id of its own goes out. No I/O.

A message is encoded once, so that each retry sends the same bytes under the same id and the hub can
drop duplicates.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler import __version__
from reconciler.agentd.artefacts import Artefact
from reconciler.agentd.assignment import Ref
from reconciler.agentd.config import Config

Json = Mapping[str, object]

TAKES = "tasks"
"""What the daemon takes of all that is sent to its instance; the rest is for the command that it runs."""


@dataclass(frozen=True)
class Message:
    """`body` is the whole envelope as JSON."""

    id: str
    type: str
    body: bytes


def build_hello(config: Config, boot_id: str) -> Message:
    payload = {
        "version": config.version,
        "capabilities": list(config.capabilities),
        "executor": config.executor.type,
        "agentd": __version__,
        "pid": os.getpid(),
        "boot_id": boot_id,
        "takes": TAKES,
    }
    return _encode("agent.hello", payload, pattern="request")


def build_heartbeat(held: Sequence[Ref]) -> Message:
    tasks = [{"task": ref.task, "generation": ref.generation} for ref in held]
    return _encode("agent.heartbeat", {"tasks": tasks})


def build_started(ref: Ref, correlation_id: str) -> Message:
    return _encode("task.started", _identify(ref), correlation_id=correlation_id)


def build_progress(ref: Ref, text: str, correlation_id: str) -> Message:
    return _encode("task.progress", {**_identify(ref), "text": text}, correlation_id=correlation_id)


def build_completed(
    ref: Ref,
    result: object,
    artefacts: Sequence[Artefact],
    duration_s: float,
    correlation_id: str,
    usage: Json | None = None,
) -> Message:
    payload = {
        **_identify(ref),
        "exit_code": 0,
        "result": result,
        "stdout_truncated": False,
        "artefacts": [a.to_json() for a in artefacts],
        "duration_s": duration_s,
        **({} if usage is None else {"usage": usage}),
    }
    return _encode("task.completed", payload, correlation_id=correlation_id)


def build_failed(
    ref: Ref,
    *,
    exit_code: int | None,
    reason: str,
    error: str,
    stderr_tail: str,
    duration_s: float,
    correlation_id: str,
    partial: object = None,
    usage: Json | None = None,
) -> Message:
    """`partial` is what stdout held when the work was cut short.

    None where there is nothing to show; so is `usage` where no model was asked.
    """
    payload = {
        **_identify(ref),
        "exit_code": exit_code,
        "reason": reason,
        "error": error,
        "stderr_tail": stderr_tail,
        "duration_s": duration_s,
        **({} if partial is None else {"result": partial}),
        **({} if usage is None else {"usage": usage}),
    }
    return _encode("task.failed", payload, correlation_id=correlation_id)


def _identify(ref: Ref) -> dict[str, object]:
    return {"task": ref.task, "run": ref.run, "generation": ref.generation}


def _encode(type_: str, payload: Json, *, pattern: str = "event", correlation_id: str = "") -> Message:
    """Half a surrogate pair, which JSON can carry and UTF-8 cannot, becomes a question mark."""
    envelope = {
        "id": uuid.uuid4().hex,
        "type": type_,
        "pattern": pattern,
        "to": "hub",
        **({"correlation_id": correlation_id} if correlation_id else {}),
        "payload": payload,
    }
    text = json.dumps(envelope, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Message(id=str(envelope["id"]), type=type_, body=text.encode("utf-8", "replace"))
