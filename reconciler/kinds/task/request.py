"""Taking in requests to delegate: each becomes one pending run, whoever sends it how often; or is refused at once.

What the manifests and policies say of it is decided when it is planned. Here is only whether a run asks at all.
"""

from contextlib import suppress
from dataclasses import replace

from pydantic import ValidationError

from reconciler.core.fleet import FIRST_DELEGATE
from reconciler.crashpoint import effect
from reconciler.errors import RouterError
from reconciler.kinds.kind import World
from reconciler.kinds.task.delegation import REQUEST, delegated_run, delegation_id, may_ask, write_refusal
from reconciler.kinds.task.state import FINAL
from reconciler.ports import InboxMessage
from reconciler.store import attempts, queue, records
from reconciler.store.audit import append
from reconciler.store.records import DELEGATION, TaskRecord

ORDINAL = "next_delegate"
MOST_REQUESTS = 1000
"""Of one attempt, whatever became of them."""


def take_request(row: InboxMessage, world: World) -> None:
    """Inside the transaction that moves the cursor over the row. Raises StoreError.

    A refusal is sent before that is committed: a kill may send it twice, and forgets none.
    """
    asker = _find_asker(row, world)
    why = _record(row, asker, world) if isinstance(asker, TaskRecord) else asker
    if why:
        _note(row, world, "refused", why)
        with suppress(RouterError):
            effect("task.request.refuse", world.router.send, write_refusal(row, why))


def _find_asker(row: InboxMessage, world: World) -> TaskRecord | str:
    """The run that asks, or why there is none."""
    running = [r for r in attempts.in_flight(world.store, row.instance) if may_ask(r, row.instance)]
    wanted = row.payload.get("task")
    found = [r for r in running if wanted in (None, r.name)]
    if len(found) == 1:
        return found[0]
    if found:
        return f"{row.instance} runs several tasks; say which one asks ('task', as in HUB_TASK)"
    return f"task {wanted} is not running on {row.instance}" if wanted else f"{row.instance} runs no task"


def _record(row: InboxMessage, asker: TaskRecord, world: World) -> str:
    """A run for the request, unless there is one; why it cannot be, or nothing."""
    known = records.task(world.store, delegation_id(asker, row.id))
    if known is not None:
        if known.state in FINAL:
            records.put_tasks(world.store, [replace(known, sent_epoch="")])
        _note(row, world, "noted", f"asked for once more; it is {known.state}", known)
        return ""
    ordinal = int(world.store.get_meta(ORDINAL) or FIRST_DELEGATE)
    try:
        run = delegated_run(asker, row, ordinal, world.clock.now())
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    if queue.count_made_for(world.store, asker.run) >= MOST_REQUESTS:
        return f"{asker.name} has asked {MOST_REQUESTS} times"
    records.put_tasks(world.store, [run])
    world.store.set_meta(ORDINAL, str(ordinal + 1))
    _note(row, world, "applied", f"asked for by {asker.name} on {row.instance}", run)
    return ""


def _note(row: InboxMessage, world: World, outcome: str, reason: str, run: TaskRecord | None = None) -> None:
    entry = world.entry(
        revision=run.revision if run else "",
        actor=f"agent:{row.instance}",
        cause=DELEGATION,
        kind="task" if run else "message",
        name=run.name if run else REQUEST,
        action=REQUEST,
        outcome=outcome,
        reason=reason[:500],
        after=run.run if run else "",
    )
    append(world.store, [entry])
