"""Reading what `audit verify` compares: state.db, the repository with its notes, and what runs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from reconciler.audit.ledger import Ledger
from reconciler.audit.trail import ACCEPT
from reconciler.audit.verify import REWRITTEN, Containers, Evidence, Repository, wanted_rows
from reconciler.core.change import Action
from reconciler.core.checkpoint import Checkpoint
from reconciler.core.reading import Ok, Unavailable
from reconciler.errors import SourceError
from reconciler.ports import Runtime
from reconciler.source.log import GitLog
from reconciler.store import audit, checkpoints, records
from reconciler.store.audit import ChainedEntry
from reconciler.store.store import Store

MAKING = (Action.CREATE, Action.REPLACE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where to look. `runtime` opens what containers run on; None where nobody asks for them.

    `copied` are notes of another clone, by commit; `elsewhere` the checkpoints that a sink got.
    """

    store: Store
    fleet: str
    seal_key: bytes
    trusted_key: str
    ledger: Ledger
    runtime: Callable[[], Runtime] | None
    copied: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Sequence[Checkpoint] = ()


def gather(places: Places) -> Evidence:
    """Read everything; what a running hub writes meanwhile is newer than what it is compared with.

    Raises StoreError. What else cannot be read is said in the evidence.
    """
    store = places.store
    unread: list[str] = []
    kept = checkpoints.checkpoints(store)
    containers = _containers(places, unread)
    repository = _repository(places)
    notes = (*repository.notes.values(), *repository.copied.values()) if isinstance(repository, Repository) else ()
    signed = (*(each.checkpoint for each in kept), *places.elsewhere)
    chain = audit.read_chain(store, wanted_rows(signed, notes))
    revisions = {r.id: 0 for r in records.revisions(store) if r.applied_at}
    return Evidence(
        fleet=places.fleet,
        trusted_key=places.trusted_key,
        chain=chain,
        checkpoints=kept,
        revisions=revisions | audit.first_rows(store, "revision"),
        rewrites=_rewrites(store),
        restores={r.seq: r.entry.time for r in audit.choose(store, audit.Choice(kind="fleet")) if _is_restore(r)},
        elsewhere=places.elsewhere,
        repository=repository,
        containers=containers,
        unread=tuple(unread),
    )


def _rewrites(store: Store) -> tuple[int, ...]:
    rows = audit.choose(store, audit.Choice(kind="revision"))
    return tuple(r.seq for r in rows if r.entry.action == ACCEPT and r.entry.reason.startswith(REWRITTEN))


def _is_restore(row: ChainedEntry) -> bool:
    return row.entry.action == "restore" and row.entry.outcome == "applied"


def _repository(places: Places) -> Repository | str:
    """What git says, or why it says nothing."""
    ledger = places.ledger
    try:
        with closing(GitLog(ledger.repository)) as log:
            notes = ledger.notes(places.fleet)
            return Repository(
                branch=ledger.followed or ledger.branch or "HEAD",
                history=log.history(ledger.branch),
                notes=notes.read_all() if notes is not None else {},
                copied=places.copied,
                is_shallow=log.is_shallow,
            )
    except SourceError as exc:
        return f"{exc}: {exc.__cause__}" if exc.__cause__ else str(exc)


def _containers(places: Places, unread: list[str]) -> Containers | None:
    if places.runtime is None:
        unread.append("containers were not looked at")
        return None
    listed = places.runtime().list()
    if not isinstance(listed, Ok):
        reason = listed.reason if isinstance(listed, Unavailable) else "it gave no list"
        unread.append(f"containers cannot be listed: {reason}")
        return None
    made: dict[str, int] = {}
    for action in MAKING:
        made |= audit.first_rows(places.store, "name", kind="agent", action=str(action), outcome="intent")
    return Containers(
        listed=listed.value,
        recorded=records.instances(places.store),
        made=made,
        seal_key=places.seal_key,
    )
