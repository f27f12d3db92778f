"""What one check says of a result: the end of the run that made it comes in, a verdict goes out. Pure."""

import json
from dataclasses import asdict, dataclass

from reconciler.kinds.task.spec import Check
from reconciler.kinds.task.state import TaskState
from reconciler.store.records import ResultRecord, TaskRecord

MAX_REASON = 2000
_SHOWN = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`reason` is empty only where the result is accepted without a word."""

    check: str
    accept: bool
    reason: str = ""

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def read_verdict(check: Check, child: TaskRecord, result: ResultRecord | None) -> Verdict:
    """The verdict of a run that was made for a check and has ended. What cannot be read accepts nothing."""
    if child.state != TaskState.SUCCEEDED:
        return _refused(check, _why_not(check, child, result))
    if check.agent is None:
        return Verdict(check=check.shown, accept=True)
    said = _spoken(json.loads(result.result)) if result is not None else None
    accept, reason = (said.get("accept"), said.get("reason", "")) if isinstance(said, dict) else (None, "")
    if not isinstance(accept, bool) or not isinstance(reason, str):
        shown = json.dumps(said, ensure_ascii=False)[:_SHOWN]
        return _refused(check, f"{check.agent} gave no verdict of the form {{accept, reason}}, but {shown}")
    return Verdict(
        check=check.shown, accept=accept, reason=reason[:MAX_REASON] or ("" if accept else "no reason was given")
    )


def _why_not(check: Check, child: TaskRecord, result: ResultRecord | None) -> str:
    if check.command is None or result is None or not result.exit_code:
        return f"it could not be made: {child.name} {child.state.replace('_', ' ')}: {child.reason}"
    said = result.stderr_tail.strip()
    return f"{result.error}: {said[-MAX_REASON:]}" if said else result.error


def _spoken(value: object) -> object:
    """JSON, also where a model has put it between fences."""
    if not isinstance(value, str):
        return value
    text = value.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return value


def _refused(check: Check, reason: str) -> Verdict:
    return Verdict(check=check.shown, accept=False, reason=reason[:MAX_REASON])
