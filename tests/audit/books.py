"""A fleet over a real repository and fakes, with its trail, and what a person with the database could do to it."""

import copy
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from reconciler.audit.gather import Places, gather
from reconciler.audit.ledger import Ledger
from reconciler.audit.signing import published_key
from reconciler.audit.trail import Trail, open_trail
from reconciler.audit.verify import Verdict, judge
from reconciler.core.checkpoint import Checkpoint
from reconciler.home import open_source
from reconciler.kinds import KINDS
from reconciler.loop.run import Loop, PassReport
from reconciler.settings import OperatorSpec
from reconciler.source.notes import Notes, notes_ref
from reconciler.store.audit import COLUMNS, GENESIS, AuditEntry, append, chain_hash
from tests.fakes.fleet import FLEET, SEAL_KEY, FakeFleet
from tests.fakes.texts import agent_text, hub_text
from tests.source.repo import Repo, make_repo


class Books:
    """One hub that works on a repository; `commit` and `settle` make history."""

    def __init__(self, folder: Path, operator: OperatorSpec | None = None) -> None:
        state = folder / "data"
        state.mkdir()
        self.repo: Repo = make_repo(folder / "repo")
        self.fleet = FakeFleet(state, operator)
        self.trail: Trail
        self.begin()

    def copy(self, folder: Path) -> "Books":
        """Another one in the same state. This one's hub must have ended."""
        other = copy.copy(self)
        shutil.copytree(self.repo.path, folder / "repo", symlinks=True)
        other.repo = Repo(folder / "repo")
        other.fleet = self.fleet.copy(folder / "data")
        other.kill()
        other.begin()
        return other

    def begin(self) -> None:
        """A life of the hub."""
        fleet = self.fleet
        fleet.source = open_source(str(self.repo.path), branch="main")  # type: ignore[assignment]
        fleet.start_hub()
        self.trail = open_trail(fleet.world, str(self.repo.path))
        fleet.loop = Loop(fleet.world, KINDS, on_desired=self.trail.accept, faults=self.trail.faults)

    def end(self) -> None:
        """An orderly end."""
        self.fleet.loop.close()
        self.trail.close()
        self.fleet.store.close()

    def kill(self) -> None:
        """The hub is gone without a word."""
        self.fleet.end_hub()

    def commit(self, *agents: str, message: str = "Change") -> str:
        """A commit with exactly these agents."""
        for path in (self.repo.path / "agents.d").glob("*"):
            path.unlink()
        files = {"hub.yaml": hub_text(), **{f"agents.d/{name}.yaml": agent_text(name) for name in agents}}
        return self.repo.commit(files, message)

    def settle(self) -> PassReport:
        """Until nothing is left to do; the trail looks after each pass, as in a hub."""
        for _ in range(40):
            report = self.fleet.run()
            self.trail.look(report)
            self.fleet.agents.step()
            if report.is_converged:
                return report
        raise AssertionError("not converged")

    # --- what an auditor does -----------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        path = str(self.repo.path)
        return Ledger(repository=path, branch="main", notes_path=path, is_remote=False)

    @property
    def path(self) -> Path:
        return self.fleet.store.path

    @property
    def notes(self) -> Notes:
        return Notes(str(self.repo.path), notes_ref(FLEET))

    def verify(self, *, public_key: str | None = None, elsewhere: Sequence[Checkpoint] = ()) -> Verdict:
        places = Places(
            store=self.fleet.store,
            fleet=FLEET,
            seal_key=SEAL_KEY,
            trusted_key=published_key(self.fleet.folder) if public_key is None else public_key,
            ledger=self.ledger,
            runtime=lambda: self.fleet.runtime,
            elsewhere=elsewhere,
        )
        return judge(gather(places))

    def faults(self) -> list[str]:
        return [fault.message for fault in self.verify().faults]

    # --- what somebody with the database does -------------------------------------------------------------------------

    def sql(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    def rehash(self) -> None:
        """Give every row the number and the hashes that fit: the chain is whole again."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            names = ", ".join(COLUMNS)
            rows = connection.execute(f"SELECT {names} FROM audit ORDER BY seq").fetchall()
            connection.execute("DELETE FROM audit")
            prev = GENESIS
            for seq, values in enumerate(rows, 1):
                row_hash = chain_hash(prev, seq, AuditEntry(**dict(zip(COLUMNS, values, strict=True))))
                marks = ", ".join("?" * (len(values) + 3))
                connection.execute(
                    f"INSERT INTO audit (seq, {names}, prev, hash) VALUES ({marks})", (seq, *values, prev, row_hash)
                )
                prev = row_hash

    def append(self, *names: str) -> None:
        """Rows that nothing anchors yet."""
        append(self.fleet.store, [self.fleet.world.entry(kind="task", name=name, outcome="noted") for name in names])
