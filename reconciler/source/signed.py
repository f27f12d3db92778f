"""Which commits must be signed before a revision is followed, and what is wrong with the first that is not."""

from reconciler.errors import SourceError
from reconciler.settings_source import Verify, VerifyMode
from reconciler.source.commit import parse_commit
from reconciler.source.git import ObjectView
from reconciler.source.objects import ObjectReader
from reconciler.source.signature import Bad, Keys, check_signature

MAX_COMMITS = 5000
_KEPT = 10_000


def open_signatures(verify: Verify, ref: str) -> "Signatures | None":
    """What is checked of a ref, written as in `source.ref`; None where nothing is."""
    mode = verify.mode_of(ref)
    if mode == "off":
        return None
    return Signatures(mode, Keys(allowed_signers=verify.allowed_signers, gpg_keys=verify.gpg_keys))


class Signatures:
    """Checks with one mode and the keys of the operator. What was good stays good as long as the keys are the same."""

    def __init__(self, mode: VerifyMode, keys: Keys) -> None:
        self._mode, self._keys = mode, keys
        self._good: set[str] = set()
        self._good_by = ""

    def find_fault(self, view: ObjectView, since: str, revision: str) -> str | None:
        """A sentence about the first commit, in order of history, that is not signed as it must be.

        Raises SourceError.
        """
        if (digest := self._keys.digest()) != self._good_by or len(self._good) > _KEPT:
            self._good, self._good_by = set(), digest
        commits = self._asked(view, since, revision)
        if len(commits) > MAX_COMMITS:
            return (
                f"{revision[:12]} has more than {MAX_COMMITS} new commits; follow an older one first, or verify: head"
            )
        reader = ObjectReader(view)
        try:
            for commit in commits:
                if commit not in self._good:
                    if fault := self._fault_of(reader, commit):
                        return fault
                    self._good.add(commit)
        finally:
            reader.close()
        return None

    def _asked(self, view: ObjectView, since: str, revision: str) -> list[str]:
        """Oldest first; the head always, whatever the mode."""
        if self._mode == "head" or not since:
            return [revision]
        first = ["--first-parent"] if self._mode == "merge" else []
        args = ["rev-list", "--reverse", *first, "--end-of-options", revision, f"^{since}"]
        answer = view.run(*args)
        if answer.code != 0:
            raise SourceError(f"listing the commits after {since[:12]}: {answer.complaint or 'git rev-list failed'}")
        return [*(c for c in answer.stdout.decode().split() if c != revision), revision]

    def _fault_of(self, reader: ObjectReader, commit: str) -> str | None:
        text = reader.read([commit], kind="commit")[commit]
        verdict = check_signature(text, self._keys)
        if not isinstance(verdict, Bad):
            return None
        told = parse_commit(commit, text)
        return f"commit {commit[:12]} ({told.subject!r}, by {told.author or 'nobody'}) is refused: {verdict.reason}"
