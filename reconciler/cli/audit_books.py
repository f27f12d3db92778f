"""What the commands of `audit` read: the record of a fleet, its repository, and the key that signs."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.audit.account import Archive
    from reconciler.audit.ledger import Ledger
    from reconciler.audit.period import Period
    from reconciler.audit.report import Report
    from reconciler.audit.verify import Evidence, Verdict
    from reconciler.core.checkpoint import Checkpoint
    from reconciler.home import Home
    from reconciler.settings import OperatorSpec
    from reconciler.source.log import CommitFacts
    from reconciler.store.store import Store

LOOKS, BETWEEN_LOOKS_S = 3, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Elsewhere:
    """What an auditor has from elsewhere: the public key, a clone whose notes count, a file of a sink's documents."""

    public_key: str | None = None
    notes: str | None = None
    checkpoints: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """One fleet's."""

    home: "Home"
    store: "Store"
    operator: "OperatorSpec"
    ledger: "Ledger"

    def gather(self, known: Elsewhere, *, with_containers: bool) -> "Evidence":
        """All that `audit verify` compares. Raises StoreError, UsageError; SourceError where a clone has no notes."""
        from reconciler.audit.gather import Places, gather
        from reconciler.audit.signing import published_key
        from reconciler.bootstrap import choose_runtime
        from reconciler.source.notes import Notes, notes_ref

        folder = Path(self.operator.audit.key_directory or self.home.state)
        used = self.store.get_meta("runtime")
        places = Places(
            store=self.store,
            fleet=self.home.fleet,
            seal_key=self.home.seal_key,
            trusted_key=known.public_key or published_key(folder),
            ledger=self.ledger,
            runtime=(lambda: choose_runtime(self.home, self.operator, "docker", used)[0]) if with_containers else None,
            copied=Notes(known.notes, notes_ref(self.home.fleet)).read_all() if known.notes else {},
            elsewhere=_read_checkpoints(known.checkpoints) if known.checkpoints else (),
        )
        return gather(places)

    def verify(self, known: Elsewhere, *, with_containers: bool) -> "Verdict":
        """Read and judge; what a hub at work seems to have left half done is looked at again. Raises as `gather`."""
        from reconciler.audit.verify import judge
        from reconciler.home import is_locked

        verdict = judge(self.gather(known, with_containers=with_containers))
        for _ in range(LOOKS):
            if not verdict.faults or not is_locked(self.home.state):
                break
            time.sleep(BETWEEN_LOOKS_S)
            verdict = judge(self.gather(known, with_containers=with_containers))
        return verdict

    @property
    def archive(self) -> "Archive":
        """Where it is all written."""
        from reconciler.audit.account import Archive

        return Archive(
            store=self.store,
            traffic=self.home.state / "traffic.db",
            ledger=self.ledger,
            fleet=self.home.fleet,
        )

    def report(self, period: "Period", public_key: str | None) -> "Report":
        """Raises StoreError."""
        from reconciler.audit.note import read_note
        from reconciler.audit.report import Collector, build_report
        from reconciler.store.audit import Choice, choose

        since, until = period.texts
        collected = Collector(since=since, until=until)
        collected.take(choose(self.store, Choice(until=until)))
        return build_report(
            collected,
            fleet=self.home.fleet,
            period=str(period),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            verdict=self.verify(Elsewhere(public_key=public_key), with_containers=True),
            commits=self._commits([row.entry.name for row in collected.accepted]),
            notes={commit: note for commit, text in self._notes().items() if (note := read_note(text)) is not None},
        )

    def _notes(self) -> "Mapping[str, str]":
        """Nothing where they cannot be read, which the verdict says."""
        from reconciler.errors import SourceError

        notes = self.ledger.notes(self.home.fleet)
        with suppress(SourceError):
            return notes.read_all() if notes is not None else {}
        return {}

    def _commits(self, ids: "Sequence[str]") -> "Mapping[str, CommitFacts]":
        """What git says of them; the same."""
        from reconciler.errors import SourceError
        from reconciler.source.log import GitLog

        with suppress(SourceError), closing(GitLog(self.ledger.repository)) as log:
            return log.commits(ids)
        return {}


def _read_checkpoints(file: str) -> "Sequence[Checkpoint]":
    from reconciler.core.checkpoint import read_documents
    from reconciler.errors import UsageError

    try:
        found = list(read_documents(Path(file).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"{file} cannot be read: {exc}") from exc
    except ValueError as exc:
        raise UsageError(f"{file}: {exc}; it is to hold the documents that audit.sink got, one in a line") from exc
    if not found:
        raise UsageError(f"{file} holds no checkpoint; it is to hold the documents that audit.sink got, one in a line")
    return found


@contextmanager
def open_books(source: str, data: str | None, operator: str | None) -> Iterator[Books]:
    """Open a fleet's record to read it. Raises UsageError where there is none, StoreError where it cannot be read."""
    from reconciler.audit.ledger import find_ledger
    from reconciler.errors import UsageError
    from reconciler.home import data_folder, open_home, read_operator
    from reconciler.store.store import FILE_NAME, Store

    spec, problems = read_operator(operator)
    if problems:
        raise UsageError("; ".join(str(p) for p in problems))
    state = data_folder(source, data)
    home = open_home(state, create=False)
    if home is None or not (state / FILE_NAME).exists():
        raise UsageError(f"there is no fleet in {state} yet; start one with `reconciler run`, or name it with --data")
    store = Store(state / FILE_NAME, read_only=True)
    try:
        ledger = find_ledger(source, spec.source, state)
        ledger = replace(ledger, branch=ledger.branch or store.get_meta("branch") or "")
        yield Books(home=home, store=store, operator=spec, ledger=ledger)
    finally:
        store.close()
