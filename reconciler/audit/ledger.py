"""Where the commits of a fleet are on this host, and where their notes are.

A local repository holds its notes itself. Of a remote one there is a mirror, which may be made anew at any time; its
notes are in a repository of ours in the data directory, from where they can be pushed.
"""

from dataclasses import dataclass
from pathlib import Path

from reconciler.home import MIRROR, followed
from reconciler.settings_source import OperatorSource
from reconciler.source.mirror import FOLLOWED
from reconciler.source.notes import Notes, is_repository, notes_ref

NOTES = "notes.git"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """`branch` is empty where it is not known from here; `is_remote` says that `repository` is a mirror.

    `followed` is what the operator calls that branch.
    """

    repository: str
    branch: str
    notes_path: str
    is_remote: bool
    followed: str = ""

    def notes(self, fleet: str) -> Notes | None:
        """None where the source is no repository."""
        if not self.is_remote and not is_repository(self.repository):
            return None
        return Notes(self.notes_path, notes_ref(fleet), is_ours=self.is_remote)


def find_ledger(source: str, operator: OperatorSource, state: Path) -> Ledger:
    """By what `--source` names, or else the operator. Raises UsageError."""
    tracked = followed(source, operator)
    if tracked.origin is not None:
        mirror, notes = str(state / MIRROR), str(state / NOTES)
        name = str(tracked.followed)
        return Ledger(repository=mirror, branch=FOLLOWED, notes_path=notes, is_remote=True, followed=name)
    path = str(Path(tracked.url).absolute())
    return Ledger(repository=path, branch=operator.ref or "", notes_path=path, is_remote=False)
