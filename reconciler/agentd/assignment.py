"""What the hub assigns: a payload of `task.assigned` in, a checked `Assignment` out. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_MAX_SIZE_BYTES = 2**20
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class AssignmentError(Exception):
    """The payload is not an assignment that can be run. The message says which field is wrong."""


@dataclass(frozen=True)
class Ref:
    """One attempt of one run of a task.

    (run, generation) is what a repeated assignment is known by.
    """

    task: str
    run: str
    generation: int

    @property
    def key(self) -> tuple[str, int]:
        return (self.run, self.generation)


@dataclass(frozen=True)
class Assignment:
    """`workspace` is an absolute path or empty.

    `argv` empty means the executor's own; `timeout_s` None means none.

    `max_size_bytes` limits stdout, and once more all artefacts together. `artefacts` are fnmatch
    patterns.
    """

    ref: Ref
    correlation_id: str = ""
    timeout_s: float | None = None
    prompt: str = ""
    input: object = None
    parents: Mapping[str, object] = field(default_factory=dict)
    workspace: str = ""
    max_size_bytes: int = DEFAULT_MAX_SIZE_BYTES
    artefacts: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()


def parse_ref(payload: object) -> Ref:
    """Which attempt a payload speaks of. Raises AssignmentError."""
    if not isinstance(payload, Mapping):
        raise AssignmentError("the payload is not an object")
    task, run, generation = (payload.get(k) for k in ("task", "run", "generation"))
    if not isinstance(task, str) or not task:
        raise AssignmentError("task is not a name")
    if not isinstance(run, str) or not run:
        raise AssignmentError("run is not an id")
    if not isinstance(generation, int) or isinstance(generation, bool):
        raise AssignmentError("generation is not a whole number")
    return Ref(task=task, run=run, generation=generation)


def parse_assignment(payload: object, correlation_id: str) -> Assignment:
    """Raises AssignmentError."""
    if not isinstance(payload, Mapping):
        raise AssignmentError("the payload is not an object")
    output = payload.get("output") or {}
    if not isinstance(output, Mapping):
        raise AssignmentError("output is not an object")
    workspace = _read_text(payload, "workspace")
    if workspace and not workspace.startswith("/"):
        raise AssignmentError("workspace is not an absolute path")
    return Assignment(
        ref=parse_ref(payload),
        correlation_id=correlation_id,
        timeout_s=_read_seconds(payload, "timeout_s"),
        prompt=_read_text(payload, "prompt"),
        input=payload.get("input"),
        parents=_read_parents(payload),
        workspace=workspace.rstrip("/") if workspace != "/" else workspace,
        max_size_bytes=_read_size_bytes(output),
        artefacts=_read_texts(output, "artefacts"),
        argv=_read_texts(payload, "argv"),
    )


def _read_text(raw: Mapping[str, object], key: str) -> str:
    value = raw.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise AssignmentError(f"{key} is not text")
    return value


def _read_texts(raw: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = raw.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise AssignmentError(f"{key} is not a list of text")
    return tuple(value)


def _read_seconds(raw: Mapping[str, object], key: str) -> float | None:
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise AssignmentError(f"{key} is not a number of seconds above 0")
    return float(value)


def _read_size_bytes(output: Mapping[str, object]) -> int:
    value = output.get("maxSize")
    if value is None:
        return DEFAULT_MAX_SIZE_BYTES
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise AssignmentError("output.maxSize is not a number of bytes")
    return value


def _read_parents(payload: Mapping[str, object]) -> Mapping[str, object]:
    """Names become file names, so they must be plain ones."""
    parents = payload.get("parents") or {}
    if not isinstance(parents, Mapping):
        raise AssignmentError("parents is not an object")
    for name in parents:
        if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
            raise AssignmentError("parents has a name that cannot be a file name")
    return parents
