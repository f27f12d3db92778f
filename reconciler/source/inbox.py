"""The inbox: a folder into which people put task manifests, one file each.

The caller scans when something stirs and from time to time; a scan needs no event, only the folder
as it is. In: a folder and the time. Out: what can be taken, what has to be refused, and when to
look again. The steps, in order:

    scan            read what has rested
    (the caller)    record name, digest, signature, uid, content in the store, and the target
                    that `choose_target` names
    claim           move the file to the target in `accepted/`
    write_result    put `<name>.result.json` beside it, when there is one

    reject          put `<name>.error.txt` into `rejected/`, then move the file there

A process killed after the record finds the same file again, with the same name, digest and
signature, and claims it to the recorded target without a second task. One killed after the claim
has the target in its record, and writes the result there as often as it likes. `rejected/` gets the
reason first, so that no file lies there without one.

The owner of a file is taken for the one who dropped it.
"""

import itertools
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.crashpoint import point
from reconciler.errors import SourceError
from reconciler.source.dropped import (
    SUFFIX,
    Candidate,
    NotNow,
    Refused,
    Signature,
    is_meant,
    read_dropped,
    show_name,
    sign,
)
from reconciler.source.folder import (
    open_below,
    open_own,
    remove_partial,
    status_of,
    write_whole,
)


class Verdict(StrEnum):
    """The folder that a dropped file is moved to."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


class Outcome(StrEnum):
    """What is written beside a dropped file."""

    RESULT = "result"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one look found.

    `again_in_s` says when something that is waiting may be ready; None if nothing is.
    """

    candidates: tuple[Candidate, ...] = ()
    refused: tuple[Refused, ...] = ()
    waiting: tuple[str, ...] = ()
    again_in_s: float | None = None


@dataclass(slots=True)
class _Seen:
    """A file under observation: how it looked, and since when."""

    signature: Signature
    since_s: float


class Inbox:
    """The folder `folder` below the trusted directory `root`. For one thread.

    Links are not followed, neither at the folder nor on the way to it from `root`. `rest_s` is how
    long a file must have looked the same; one that is still open for writing is left alone for
    `writer_patience_s` after its last change. One scan returns at most `batch` files.
    """

    def __init__(
        self,
        root: str,
        folder: str = "inbox",
        *,
        rest_s: float = 0.2,
        max_bytes: int = 2**20,
        writer_patience_s: float = 30.0,
        batch: int = 64,
    ) -> None:
        self._root = os.path.abspath(root)
        self._parts = folder.strip("/").split("/")
        if any(part in ("", ".", "..") for part in self._parts):
            raise SourceError(f"opening the inbox {folder!r}: not a folder inside {self._root}")
        self._rest_s = rest_s
        self._max_bytes = max_bytes
        self._writer_patience_s = writer_patience_s
        self._batch = batch
        self._seen_by_name: dict[str, _Seen] = {}

    @property
    def path(self) -> str:
        return os.path.join(self._root, *self._parts)

    def is_there(self) -> bool:
        """Whether there is the folder. Raises SourceError where something else is in its place."""
        try:
            with open_below(self._root, self._parts):
                return True
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise SourceError(_unusable(self.path, exc)) from exc

    def prepare(self) -> None:
        """Make the folders, as far as they are missing, and remove half-written results.

        Raises SourceError.
        """
        with self._open("preparing", make=True) as inbox_fd:
            for verdict in Verdict:
                with open_own(inbox_fd, verdict) as fd:
                    remove_partial(fd)

    # --- looking ----------------------------------------------------------------------------------

    def scan(self, now_s: float) -> Reading[Scan]:
        """Look at each `*.yaml` and read what has rested. `now_s` never goes back (CLOCK_BOOTTIME).

        A file is returned by each scan until it is claimed or rejected. `*.yml` and `*.YAML` are
        refused; other names, and those that begin with a dot, are ignored. `Absent` where there is
        no folder; `Unavailable` where it can't be read, or is a link.
        """
        try:
            with open_below(self._root, self._parts) as inbox_fd:
                return Ok(self._scan_open(inbox_fd, now_s))
        except FileNotFoundError:
            return Absent()
        except OSError as exc:
            return Unavailable(reason=_unusable(self.path, exc))

    def _scan_open(self, inbox_fd: int, now_s: float) -> Scan:
        rested = self._observe(inbox_fd, now_s)
        candidates: list[Candidate] = []
        refused: list[Refused] = []
        for name in rested[: self._batch]:
            patient = now_s - self._seen_by_name[name].since_s < self._writer_patience_s
            point("inbox.read.before")
            found = read_dropped(inbox_fd, name, max_bytes=self._max_bytes, mind_writers=patient)
            point("inbox.read.after")
            match found:
                case Candidate():
                    candidates.append(found)
                case Refused():
                    refused.append(found)
                case NotNow():
                    pass
        taken = {c.name for c in candidates} | {r.file_name for r in refused}
        waiting = [name for name in self._seen_by_name if name not in taken]
        return Scan(
            candidates=tuple(candidates),
            refused=tuple(refused),
            waiting=tuple(show_name(name) for name in waiting),
            again_in_s=0.0 if rested[self._batch :] else self._next_look_s(waiting, now_s),
        )

    def _observe(self, inbox_fd: int, now_s: float) -> list[str]:
        """Bring `_seen_by_name` up to date; the names that have rested, the longest rest first."""
        previously, self._seen_by_name = self._seen_by_name, {}
        for name in sorted(os.listdir(inbox_fd)):
            if not is_meant(name):
                continue
            try:
                signature = sign(os.stat(name, dir_fd=inbox_fd, follow_symlinks=False))
            except FileNotFoundError:
                continue
            seen = previously.get(name)
            same = seen is not None and seen.signature == signature
            self._seen_by_name[name] = seen if seen and same else _Seen(signature=signature, since_s=now_s)
        rested = [n for n, seen in self._seen_by_name.items() if now_s - seen.since_s >= self._rest_s]
        return sorted(rested, key=lambda name: self._seen_by_name[name].since_s)

    def _next_look_s(self, waiting: list[str], now_s: float) -> float | None:
        rests = (self._seen_by_name[name].since_s + self._rest_s - now_s for name in waiting)
        return min((rest if rest > 0 else self._rest_s for rest in rests), default=None)

    # --- taking -----------------------------------------------------------------------------------

    def choose_target(self, found: Candidate | Refused, verdict: Verdict) -> str:
        """A free name such as `accepted/x.yaml`; record it before `claim`. Raises SourceError."""
        with self._open(f"choosing a name for {found.name} in") as inbox_fd:
            return _free_target(inbox_fd, found, verdict)

    def claim(self, candidate: Candidate, target: str) -> None:
        """Move the file to `target`. Afterwards `target` holds what was read. Raises SourceError.

        If the file was removed, or replaced by another one since it was read, a copy of what was
        read is put there instead; the new file stays, to be read by the next scan.
        """
        with (
            self._open(f"claiming {candidate.name} of") as inbox_fd,
            _open_target(inbox_fd, target) as (fd, name),
        ):
            _move(inbox_fd, candidate, fd, name)

    def reject(self, found: Candidate | Refused, reason: str) -> str:
        """Write the reason and move the file to `rejected/`; returns where. Raises SourceError."""
        with self._open(f"rejecting {found.name} of") as inbox_fd:
            target = _free_target(inbox_fd, found, Verdict.REJECTED)
            with _open_target(inbox_fd, target) as (fd, name):
                _write_beside(fd, name, Outcome.ERROR, reason, like=status_of(inbox_fd, found.file_name))
                if isinstance(found, Candidate):
                    _move(inbox_fd, found, fd, name)
                else:
                    _rename(inbox_fd, found.file_name, fd, name)
        return target

    def write_result(self, target: str, result: Mapping[str, object]) -> str:
        """Put `<name>.result.json` beside a claimed file, in place of an earlier one.

        Returns where. Owner and readers are those of the manifest. Raises SourceError.
        """
        text = json.dumps(result, indent=2, ensure_ascii=False, sort_keys=True)
        return self._write(target, Outcome.RESULT, text)

    def write_error(self, target: str, text: str) -> str:
        """Put `<name>.error.txt` beside a claimed file, as `write_result` does."""
        return self._write(target, Outcome.ERROR, text)

    def _write(self, target: str, outcome: Outcome, text: str) -> str:
        with (
            self._open(f"writing the outcome of {target} in") as inbox_fd,
            _open_target(inbox_fd, target) as (fd, name),
        ):
            _write_beside(fd, name, outcome, text, like=status_of(fd, name))
        return f"{target.partition('/')[0]}/{_beside(name, outcome)}"

    @contextmanager
    def _open(self, doing: str, *, make: bool = False) -> Iterator[int]:
        try:
            with open_below(self._root, self._parts, make=make) as inbox_fd:
                yield inbox_fd
        except OSError as exc:
            raise SourceError(f"{doing} the inbox {self.path}") from exc


def _unusable(path: str, exc: OSError) -> str:
    if isinstance(exc, NotADirectoryError):
        return f"the inbox {path} is not a directory, or reached through a link; remove it, and the hub makes one"
    return f"the inbox {path} cannot be read: {exc.strerror}"


# --- effects --------------------------------------------------------------------------------------


def _move(inbox_fd: int, candidate: Candidate, target_fd: int, target: str) -> None:
    """See `Inbox.claim`."""
    status = status_of(inbox_fd, candidate.name)
    if status is not None and sign(status) == candidate.signature:
        _rename(inbox_fd, candidate.name, target_fd, target)
        moved = status_of(target_fd, target)
        if moved is None or sign(moved) == candidate.signature:
            return
        # Replaced between the look and the move: what was moved is a new file, and goes back under
        # a new name.
        back = f"{candidate.stem}.{uuid.uuid4().hex[:8]}{SUFFIX}"
        os.rename(target, back, src_dir_fd=target_fd, dst_dir_fd=inbox_fd)
    if status_of(target_fd, target) is None:
        point("inbox.claim.before")
        write_whole(target_fd, target, candidate.content, like=status)
        point("inbox.claim.after")


def _rename(inbox_fd: int, source: str, target_fd: int, target: str) -> None:
    # The folders of verdicts are ours alone, so that a name found free stays free.
    if status_of(target_fd, target) is not None:
        raise FileExistsError(f"{target} is there already")
    point("inbox.claim.before")
    os.rename(source, target, src_dir_fd=inbox_fd, dst_dir_fd=target_fd)
    point("inbox.claim.after")


def _write_beside(folder_fd: int, name: str, outcome: Outcome, text: str, *, like: os.stat_result | None) -> None:
    point(f"inbox.{outcome}.before")
    content = f"{text}\n".encode("utf-8", "backslashreplace")
    write_whole(folder_fd, _beside(name, outcome), content, like=like)
    point(f"inbox.{outcome}.after")


# --- names ----------------------------------------------------------------------------------------


def _free_target(inbox_fd: int, found: Candidate | Refused, verdict: Verdict) -> str:
    with open_own(inbox_fd, verdict) as fd:
        for name in _names(found.stem, found.digest[:8]):
            if status_of(fd, name) is None and status_of(fd, _beside(name, Outcome.RESULT)) is None:
                return f"{verdict}/{name}"
    raise AssertionError("names never end")


def _names(stem: str, digest8: str) -> Iterator[str]:
    yield f"{stem}{SUFFIX}"
    yield f"{stem}.{digest8}{SUFFIX}"
    for number in itertools.count(2):
        yield f"{stem}.{digest8}.{number}{SUFFIX}"


def _beside(name: str, outcome: Outcome) -> str:
    return name.removesuffix(SUFFIX) + (".result.json" if outcome is Outcome.RESULT else ".error.txt")


@contextmanager
def _open_target(inbox_fd: int, target: str) -> Iterator[tuple[int, str]]:
    verdict, _, name = target.partition("/")
    if verdict not in set(Verdict) or "/" in name or not name.endswith(SUFFIX) or name.startswith("."):
        raise SourceError(f"using an inbox: {target!a} is no name from choose_target")
    with open_own(inbox_fd, verdict) as fd:
        yield fd, name
