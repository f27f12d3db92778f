"""Taking in what agents reported of tasks: rows of hub_inbox become states, results and artefacts.

The effect of the rows and the cursor over them are one transaction, so that a kill repeats none and loses none. Only
artefacts of reports that are accepted are kept, as files that are durable before that transaction is.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reconciler.core.quantity import NORMALISED, show_size
from reconciler.core.reading import Ok, Reading
from reconciler.crashpoint import point
from reconciler.kinds.kind import World
from reconciler.kinds.task.artefacts import keep_artefact
from reconciler.kinds.task.child import CHECK
from reconciler.kinds.task.delegation import REQUEST
from reconciler.kinds.task.plan import retry_wait_s
from reconciler.kinds.task.request import take_request
from reconciler.kinds.task.state import CANCEL_REQUESTED, FINAL, FOR_GOOD, TaskState, how_far
from reconciler.kinds.task.step import recorded_spec
from reconciler.ports import InboxMessage, RouterReport
from reconciler.settings import Retry
from reconciler.store import attempts, records
from reconciler.store.audit import append
from reconciler.store.records import DELEGATION, ResultRecord, TaskRecord

CURSOR = "hub_inbox_cursor"
BATCH = 500
MAX_ARTEFACTS = 100
_TIMED_OUT = ("timeout", "first_output", "progress")
_HOPELESS = ("model_refused", "limit", "too_large")
"""Another attempt of the same agent would end the same way (docs/executors.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Artefact:
    """One artefact of a report; size and digest are as computed here, never as claimed."""

    name: str
    content: bytes
    sha256: str

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "size": len(self.content), "sha256": self.sha256}


def receive(world: World, report: Reading[RouterReport]) -> int:
    """Take in all new rows; returns how many. Raises StoreError, RouterError."""
    if not isinstance(report, Ok):
        return 0
    cursor = int(world.store.get_meta(CURSOR) or "0")
    if report.value.inbox_seq < cursor:
        cursor = 0
    taken = 0
    while cursor < report.value.inbox_seq:
        rows = world.router.read_inbox(cursor, BATCH)
        if not rows:
            break
        rows = [r if isinstance(r.payload, Mapping) else replace(r, payload={}) for r in rows]
        point("task.receive.before")
        with world.store.transaction():
            for row in rows:
                _take(row, world)
            cursor = rows[-1].seq
            world.store.set_meta(CURSOR, str(cursor))
        point("task.receive.after")
        world.router.set_inbox_cursor(cursor)
        taken += len(rows)
    return taken


def _take(row: InboxMessage, world: World) -> None:
    if row.type == REQUEST:
        take_request(row, world)
        return
    if not row.type.startswith("task."):
        _note(world, row, "noted", _what_happened(row))
        return
    run = records.task(world.store, _text(row.payload.get("run")))
    if run is None:
        _note(world, row, "refused", f"{row.type} for a run that does not exist")
        return
    run = _put_back(run, world)
    is_current = run.generation == row.payload.get("generation") and run.instance == row.instance
    if not is_current or run.state in FINAL:
        generation = _int(row.payload.get("generation"))
        _note(world, row, "refused", f"late {row.type} of generation {generation}", run)
        return
    match row.type:
        case "task.started" if run.state == TaskState.RUNNING:
            _note(world, row, "refused", "it had begun already; its time counts from then", run)
        case "task.started":
            _started(run, world)
        case "task.progress":
            records.put_tasks(world.store, [replace(run, progress=_text(row.payload.get("text"))[:200])])
        case "task.completed":
            _completed(run, row, world)
        case "task.failed":
            _failed(run, row, world)
        case _:
            _note(world, row, "refused", f"unknown report {row.type}", run)


def _put_back(run: TaskRecord, world: World) -> TaskRecord:
    """As far as it is by its attempts, where somebody wrote its end by hand: what is reported of it is not late."""
    state = how_far(run, records.attempts(world.store, run.run)) if run.state in FINAL else None
    if state is None:
        return run
    told = f"recorded as {run.state}, but nothing ended it; by its attempts it is {state}"
    again = replace(run, state=state, finished_at="")
    records.put_tasks(world.store, [again])
    change = {"kind": "task", "name": run.name, "action": "update", "before": run.state, "after": str(state)}
    append(world.store, [world.entry(revision=run.revision, cause="drift", outcome="applied", reason=told, **change)])
    return again


def _what_happened(row: InboxMessage) -> str:
    """An alert in one line: what the router says of an instance, or what an agent found."""
    text = _text(row.payload.get("reason" if row.type.startswith("hub.") else "summary"))
    return f"{row.type}: {text}" if text else row.type


def _started(run: TaskRecord, world: World) -> None:
    now = world.clock.now().isoformat()
    fresh = replace(
        run, state=TaskState.RUNNING, started_at=run.started_at or now, assigned_boot=world.clock.boottime()
    )
    records.put_tasks(world.store, [fresh])
    for attempt in records.attempts(world.store, run.run):
        if attempt.generation == run.generation:
            records.put_attempt(world.store, replace(attempt, started_at=now))


def _completed(run: TaskRecord, row: InboxMessage, world: World) -> None:
    now = world.clock.now()
    payload = row.payload
    result, artefacts = payload.get("result"), _artefacts(payload)
    if excess := _excess(result, artefacts, recorded_spec(run.manifest).output.max_size):
        _end_badly(run, row, "too_large", f"too_large: {excess}", world)
        return
    for artefact in artefacts:
        keep_artefact(world.state, artefact.sha256, artefact.content)
    records.put_result(
        world.store,
        ResultRecord(
            run=run.run,
            exit_code=_int(payload.get("exit_code")),
            result=json.dumps(result),
            artefacts=json.dumps([a.to_json() for a in artefacts]),
            duration_s=_float(payload.get("duration_s")),
            usage=json.dumps(payload.get("usage")),
        ),
    )
    if recorded_spec(run.manifest).checks:
        ended = replace(run, state=TaskState.CHECKING, reason="", progress="", checks="[]")
        outcome, said = "checking", f"ended on {row.instance}, and its result is checked"
    else:
        ended = replace(run, state=TaskState.SUCCEEDED, reason="", progress="", finished_at=now.isoformat())
        outcome, said = "succeeded", f"succeeded on {row.instance}"
    records.put_tasks(world.store, [ended])
    attempts.end_attempt(world.store, run, outcome, "", now)
    _note(world, row, "applied", said, run)


def _failed(run: TaskRecord, row: InboxMessage, world: World) -> None:
    payload = row.payload
    kind, error = _text(payload.get("reason")) or "exit", _text(payload.get("error"))[:2000]
    _end_badly(run, row, kind, error, world)


def _end_badly(run: TaskRecord, row: InboxMessage, kind: str, error: str, world: World) -> None:
    """The attempt failed; what is kept of it says why."""
    now = world.clock.now()
    payload = row.payload
    records.put_result(
        world.store,
        ResultRecord(
            run=run.run,
            exit_code=_int(payload.get("exit_code")),
            error=error,
            stderr_tail=_text(payload.get("stderr_tail"))[-8192:],
            duration_s=_float(payload.get("duration_s")),
            usage=json.dumps(payload.get("usage")),
        ),
    )
    if kind == "cancelled" or run.reason.startswith(CANCEL_REQUESTED):
        cancelled = replace(run, state=TaskState.CANCELLED, finished_at=now.isoformat(), progress="")
        records.put_tasks(world.store, [cancelled])
        attempts.end_attempt(world.store, run, "cancelled", run.reason, now)
        _note(world, row, "applied", f"cancelled on {row.instance}", run)
        return
    reason = f"{_ended_how(kind)} on {row.instance}: {error or kind}"
    if run.purpose == CHECK and kind == "exit" and "argv" in json.loads(run.manifest):
        refused = replace(run, state=TaskState.FAILED, reason=reason, finished_at=now.isoformat(), progress="")
        records.put_tasks(world.store, [refused])
        attempts.end_attempt(world.store, run, "failed", reason, now)
        _note(world, row, "failed", reason, run)
        return
    retry = recorded_spec(run.manifest).retries or _default_retry(world)
    wait = 0.0 if kind in _HOPELESS else retry_wait_s(retry, run.run, run.attempts - run.spent)
    attempts.hand_back(
        world.store, replace(run, progress=""), reason, now, not_before_boot=world.clock.boottime() + wait
    )
    _note(world, row, "failed", reason, run)


def _ended_how(kind: str) -> str:
    if kind in _HOPELESS:
        return FOR_GOOD
    return "timed out" if kind in _TIMED_OUT else "failed"


def _default_retry(world: World) -> Retry:
    written = world.store.get_meta("default_retry")
    return Retry.model_validate_json(written, context=NORMALISED) if written else Retry()


def _artefacts(payload: Mapping[str, Any]) -> list[_Artefact]:
    """Those that can be read; the others are passed over."""
    out: list[_Artefact] = []
    for item in _list(payload.get("artefacts")):
        try:
            content = base64.b64decode(item["content_base64"], validate=True)
            name = _text(item["name"])[:200]
            out.append(_Artefact(name=name, content=content, sha256=hashlib.sha256(content).hexdigest()))
        except (KeyError, TypeError, ValueError, binascii.Error):
            continue
    return out


def _excess(result: object, artefacts: Sequence[_Artefact], max_size: int) -> str:
    """What is more than the manifest allows; empty where nothing is. `agentd` sees to it too, but is not trusted.

    A result is counted in characters: never more than the bytes that the program wrote for it.
    """
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    size_bytes = sum(len(a.content) for a in artefacts)
    if len(text) > max_size:
        return f"the result has {len(text)} characters, output.maxSize is {show_size(max_size)}"
    if size_bytes > max_size:
        return f"the artefacts have {size_bytes} bytes together, output.maxSize is {show_size(max_size)}"
    if len(artefacts) > MAX_ARTEFACTS:
        return f"there are {len(artefacts)} artefacts, more than {MAX_ARTEFACTS}"
    return ""


def _note(world: World, row: InboxMessage, outcome: str, reason: str, run: TaskRecord | None = None) -> None:
    append(
        world.store,
        [
            world.entry(
                revision=run.revision if run else "",
                actor=f"agent:{row.instance}",
                cause=_cause(run) if run else "",
                kind="task" if run else "message",
                name=run.name if run else row.type,
                action=row.type,
                outcome=outcome,
                reason=reason[:500],
                after=run.run if run else "",
            )
        ],
    )


def _cause(run: TaskRecord) -> str:
    if run.purpose == DELEGATION:
        return DELEGATION
    return "commit" if run.source == "git" else run.source


def _int(value: object) -> int | None:
    """A number that a process can exit with: an agent may claim any, and the record must be able to keep it."""
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else None


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 2**53 else 0.0


def _text(value: object) -> str:
    """Text that can be written as UTF-8: JSON may hold half a character."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
