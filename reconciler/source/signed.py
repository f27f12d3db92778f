"""Which commits and tags must be signed before a revision is followed, and what is wrong with the first that is not.

Where a tag is followed, alone or as the newest of a version range, it must be signed itself: whoever may push can put a
tag on any commit. Its signature covers its commit, so that `head` asks for no other.
"""

from dataclasses import dataclass

from reconciler.errors import SourceError
from reconciler.settings_source import Verify, VerifyMode
from reconciler.source.commit import parse_commit
from reconciler.source.git import ObjectView
from reconciler.source.objects import ObjectReader
from reconciler.source.signature import Bad, Keys, check_signature, check_tag_signature

MAX_COMMITS = 5000
_KEPT = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowedTag:
    """`id` is that of the tag, or of the commit where nobody wrote anything about it."""

    name: str
    id: str


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

    def find_fault(self, view: ObjectView, since: str, revision: str, tag: FollowedTag | None = None) -> str | None:
        """A sentence about the tag, or the first commit in order of history, that is not signed as it must be.

        Raises SourceError.
        """
        if tag is not None and ((fault := self._fault_of_tag(view, tag, revision)) or self._mode == "head"):
            return fault
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

    def _fault_of_tag(self, view: ObjectView, tag: FollowedTag, revision: str) -> str | None:
        if tag.id == revision:
            return f"tag {tag.name!r} is refused: it is not signed; make it with git tag -s"
        reader = ObjectReader(view)
        try:
            text = reader.read([tag.id], kind="tag")[tag.id]
        finally:
            reader.close()
        says = [f"object {revision}", "type commit", f"tag {tag.name}"]
        if text.split(b"\n")[:3] != [line.encode() for line in says]:
            return f"tag {tag.name!r} is refused: it says that it is another one, or of another commit"
        verdict = check_tag_signature(text, self._keys)
        return f"tag {tag.name!r} is refused: {verdict.reason}" if isinstance(verdict, Bad) else None

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
