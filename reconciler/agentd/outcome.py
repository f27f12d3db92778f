"""What came of a task, whatever carried it out: `Completed` or `Failed`, and what the model cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Union

from reconciler.agentd.artefacts import Collection

_MAX_NAME = 200
_PASSING = frozenset({401, 408, 409, 425, 429})


@dataclass(frozen=True)
class Usage:
    """Tokens and money that an attempt used, as its executor counts them.

    `cost_usd` None: nobody said. `model` is empty where there were several, or none is known.
    """

    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    turns: int = 1
    cost_usd: float | None = None

    def to_json(self) -> dict[str, object]:
        used = {**asdict(self), "model": self.model[:_MAX_NAME]}
        return {name: value for name, value in used.items() if value not in (None, "")}


@dataclass(frozen=True)
class Completed:
    """It ended well. `result` is JSON or text."""

    result: object
    duration_s: float
    stderr_tail: str = ""
    artefacts: Collection = field(default_factory=Collection)
    usage: Usage | None = None


@dataclass(frozen=True)
class Failed:
    """It did not end well, or never ran.

    `reason`: exit, timeout, first_output, progress, cancelled, too_large, spawn, shutdown; of a
    model: model_refused (asking again is of no use), model_unavailable (it may pass by itself),
    limit (turns or money are used up).

    `partial` is what there was when the daemon had to end; None otherwise.
    """

    reason: str
    error: str
    exit_code: int | None = None
    stderr_tail: str = ""
    duration_s: float = 0.0
    partial: object = None
    usage: Usage | None = None


Outcome = Union[Completed, Failed]


def reason_of_status(status: int) -> str:
    """What an HTTP error of a model's provider, or of what stands before it, means for the task."""
    return "model_unavailable" if status in _PASSING or status >= 500 else "model_refused"
