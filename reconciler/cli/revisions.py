"""Revisions of one place, loaded and judged for the commands that look at them."""

import os
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

import click

from reconciler.core.problem import Problem
from reconciler.core.reading import Ok, Unavailable
from reconciler.errors import PolicyEngineError, SourceError, UsageError
from reconciler.home import MIRROR, data_folder, open_source
from reconciler.kinds import KINDS
from reconciler.kinds.kind import Desired
from reconciler.kinds.policy.spec import NAME as POLICIES
from reconciler.kinds.tree import ParseCache
from reconciler.loop.admit import Admission, admit
from reconciler.loop.desired import HUB_FILE, Candidate, load_desired
from reconciler.settings import HubSpec, OperatorSpec
from reconciler.source.layout import locate

if TYPE_CHECKING:
    from reconciler.policy.chain import Chain
    from reconciler.ports import Snapshot

QUARANTINE = "GIT_QUARANTINE_PATH"
"""Where git tells its hooks that the objects of a push are."""


class Revisions:
    """A context manager that ends what loading started. What two revisions have in common is parsed once."""

    def __init__(
        self, place: str, operator: OperatorSpec, *, worktree: bool = False, ask_policies: bool = True
    ) -> None:
        _check_place(place, operator)
        self._place, self._operator, self._ask_policies = place, operator, ask_policies
        quarantine = os.environ.get(QUARANTINE)
        self._worktree = open_source(place, branch=None, worktree=True) if worktree else None
        self._source = open_source(place, branch=None, quarantine=quarantine)
        self._cache = ParseCache()
        self._engines: list[Chain] = []

    def __enter__(self) -> "Revisions":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for engine in self._engines:
            engine.close()
        if self._worktree is not None:
            self._worktree.close()
        self._source.close()

    def newest(self) -> "Snapshot | Problem":
        """Of the branch that is checked out; or the files as they are. Close it."""
        source = self._worktree or self._source
        head = source.head()
        if not isinstance(head, Ok):
            reason = head.reason if isinstance(head, Unavailable) else "it has no commit yet; commit something first"
            return Problem(file=self._place, message=reason)
        found = source.snapshot(head.value.id)
        if isinstance(found, Ok):
            return found.value
        reason = found.reason if isinstance(found, Unavailable) else "its newest revision is gone"
        return Problem(file=self._place, message=reason)

    def known(self, commit: str) -> "Snapshot | None":
        """A commit by its id; None where this place does not have it. Close it. Raises SourceError."""
        found = self._source.snapshot(commit)
        if isinstance(found, Unavailable):
            raise SourceError(f"reading revision {commit[:12]!a} of {self._place}: {found.reason}")
        return found.value if isinstance(found, Ok) else None

    def named(self, name: str) -> "Snapshot":
        """A commit, branch or tag. Close it. Raises UsageError where there is none, SourceError if it is unreadable."""
        found = self.known(name)
        if found is None and locate(self._place) is None:
            raise UsageError(f"{self._place} is no git repository, so it has no revision {name!a}")
        if found is None:
            raise UsageError(
                f"there is no revision {name!a} in {self._place}; name a commit, a branch or a tag, or fetch it first"
            )
        return found

    def load(self, snapshot: "Snapshot", *, is_judged: bool = True) -> Candidate:
        """The desired state of a snapshot, which is closed. Without `is_judged` its Rego is taken for good."""
        is_judged = is_judged and self._ask_policies
        kinds = KINDS if is_judged else [replace(kind, verify=None) for kind in KINDS]
        try:
            return load_desired(snapshot, kinds, self._operator, self._cache, self._engine)
        finally:
            snapshot.close()

    def admit(self, desired: Desired, base: Desired | None, notes: list[str]) -> Admission:
        """What its own policies, and those of the base, say of what a revision changes. Raises PolicyEngineError.

        Policies of the base that cannot be asked are noted: they are no reason to keep their repair out.
        """
        if not self._ask_policies:
            return Admission()
        return admit(desired, base, self._in_force(base, notes), lambda: self._engine(desired.hub))

    def _in_force(self, base: Desired | None, notes: list[str]) -> "Chain | None":
        policies = base.of("policy").get(POLICIES) if base is not None else None
        if base is None or policies is None:
            return None
        engine = self._engine(base.hub)
        try:
            engine.activate(policies.bundle)
        except PolicyEngineError:
            notes.append("the policies of the base cannot be asked for admission: they do not load; validate them")
            return None
        return engine

    def descends(self, older: str, newer: str) -> bool:
        """Whether a revision may follow another; plain directories have no history to ask. Raises SourceError."""
        if not older or ":" in older or ":" in newer:
            return True
        return self._source.is_ancestor(older, newer)

    def _engine(self, hub: HubSpec | None = None) -> "Chain":
        from reconciler.bootstrap import CheckWatch, build_policy

        checks = CheckWatch(lambda text: click.echo(text, err=True))
        self._engines.append(build_policy(hub or HubSpec(), self._operator, checks=checks))
        return self._engines[-1]


def _check_place(place: str, operator: OperatorSpec) -> None:
    """Raises UsageError where a hub has its data but no files: it follows a repository elsewhere."""
    followed = operator.source
    if followed.origin is None or locate(place) is not None or os.path.exists(os.path.join(place, HUB_FILE)):
        return
    mirror = data_folder(place, None) / MIRROR
    ways = [f"name a clone of it (CLONE --data {mirror.parent})"]
    if mirror.is_dir() and followed.path is None:
        ways.append(f"what the hub fetched last ({mirror} --data {mirror.parent})")
    raise UsageError(
        f"{place} has no {HUB_FILE}; the hub follows {followed.origin.url}, as the operator says: {', or '.join(ways)}"
    )


def load_revision(
    path: str, operator: OperatorSpec, *, worktree: bool, ask_policies: bool = True
) -> tuple[Desired | None, Sequence[Problem]]:
    """The newest revision of a repository or directory, or its problems. Raises ReconcilerError.

    Without `ask_policies` its Rego is neither compiled nor tested, and not asked for admission.
    """
    with Revisions(path, operator, worktree=worktree, ask_policies=ask_policies) as revisions:
        snapshot = revisions.newest()
        if isinstance(snapshot, Problem):
            return None, (snapshot,)
        candidate = revisions.load(snapshot)
        if candidate.desired is None:
            return None, candidate.problems
        problems = revisions.admit(candidate.desired, None, []).problems
        return (None, problems) if problems else (candidate.desired, ())
