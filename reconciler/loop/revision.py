"""Step 1: which revision is in force. The head of the source when it is valid, else the last good one.

What was rolled back is as an older revision says. What a person must know about it leaves as conditions:
`SourceUnavailable`, `SourceUnsettled`, `SourceUnverified`, `HistoryRewritten`, `ConfigInvalid`.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from reconciler import __version__
from reconciler.core.problem import Problem, sort_problems
from reconciler.core.reading import Ok, Unavailable
from reconciler.core.rollback import FLEET, Rollback
from reconciler.errors import CheckStoppedError, PolicyEngineError, SourceError
from reconciler.kinds.kind import Desired, Kind
from reconciler.kinds.tree import ParseCache
from reconciler.kinds.verdicts import Verdicts
from reconciler.loop.admit import admit
from reconciler.loop.desired import Candidate, check_whole, load_desired, routed
from reconciler.loop.kept import APPLIED, Kept, find_tip
from reconciler.loop.rollback import digest_of, find_holding, find_resource, lay_over, of_fleet, read_rollbacks
from reconciler.ports import Clock, PolicyEngine, Revision, Snapshot, Source
from reconciler.settings import OperatorSpec
from reconciler.store.store import Store

UNSETTLED = "SourceUnsettled"
VERDICTS = "policy_verdicts"


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """`desired` is None only when nothing good was ever seen. `faults` are (condition, reason, message).

    `is_newest`: it is what the source has now, and nothing older that stays in force, or was gone back to.
    """

    desired: Desired | None
    candidate: str = ""
    is_newest: bool = False
    problems: tuple[Problem, ...] = ()
    faults: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a subject can go back to: the full id, the revision that is skipped, and the subject's digest there."""

    to: str
    since: str
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfit:
    """Why a subject cannot go back there; `is_unknown` where there is no such revision or subject."""

    reason: str
    is_unknown: bool = False


class Revisions:
    """Finds the revision in force, loading each revision once."""

    def __init__(
        self,
        source: Source,
        store: Store,
        kinds: Sequence[Kind],
        operator: OperatorSpec,
        clock: Clock,
        engine: PolicyEngine,
        fresh_engine: Callable[[], PolicyEngine] | None = None,
    ) -> None:
        self._source, self._store, self._kinds = source, store, kinds
        self._operator, self._clock, self._engine = operator, clock, engine
        self._fresh_engine = fresh_engine
        self._cache = ParseCache()
        self._verdicts = Verdicts(
            f"{__version__}, {operator.policy.check_timeout:g}s",
            lambda: store.get_meta(VERDICTS) or "",
            lambda text: store.set_meta(VERDICTS, text),
        )
        self._kept = Kept(store, clock, kinds, operator, lambda: engine)
        self._read: Candidate | None = None
        self._last: tuple[Candidate, tuple[Rollback, ...]] | None = None
        self._snapshot: Snapshot | None = None
        self._good: Desired | None = None
        self._resources: dict[tuple[str, str], Any] = {}
        self._is_newer = ("", "", False)

    @property
    def applied(self) -> str:
        """The id of the revision that was last accepted; empty when there was none."""
        return self._store.get_meta(APPLIED) or ""

    def in_force(self) -> InForce:
        """The desired state to work towards now. Raises StoreError."""
        head = self._source.head()
        if not isinstance(head, Ok):
            reason = head.reason if isinstance(head, Unavailable) else "there is no commit yet"
            kind = UNSETTLED if reason.startswith(UNSETTLED) else "SourceUnavailable"
            return InForce(desired=self.last_good(), faults=((kind, kind, reason.removeprefix(f"{kind}: ")),))
        rollbacks = read_rollbacks(self._store)
        back = self._fleet_back(rollbacks, head.value.id)
        wanted = head.value if back is None else Revision(id=back.to)
        if fault := self._unverified(wanted):
            return InForce(desired=self.last_good(), candidate=head.value.id, faults=(fault,))
        try:
            candidate = self._load(wanted, (back,) if back is not None else rollbacks)
        except SourceError as exc:
            return InForce(desired=self.last_good(), faults=(("SourceUnavailable", "Unreadable", str(exc)),))
        except CheckStoppedError:
            return InForce(desired=self.last_good())
        except PolicyEngineError as exc:
            message = f"revision {wanted.id[:12]} cannot be judged: {exc}"
            return InForce(desired=self.last_good(), faults=(("PolicyFallback", "CannotJudge", message),))
        if candidate.desired is None:
            first = str(candidate.problems[0])
            count = len(candidate.problems)
            message = f"revision {candidate.revision[:12]} has {count} problem{'s' * (count > 1)}; first: {first}"
            return InForce(
                desired=self.last_good(),
                candidate=candidate.revision,
                problems=candidate.problems,
                faults=(("ConfigInvalid", "Invalid", message),),
            )
        if back is not None:
            return InForce(desired=candidate.desired, candidate=head.value.id)
        faults = self._rewritings(candidate.desired.revision)
        return InForce(desired=candidate.desired, candidate=candidate.revision, is_newest=True, faults=faults)

    def last_good(self) -> Desired | None:
        """The last accepted revision, from memory or from the record. Raises StoreError.

        Its policies were judged when it was accepted, and are not judged again.
        """
        if self._good is not None:
            return self._good
        desired = self._kept.load(self.applied)
        if desired is None:
            return None
        rollbacks = read_rollbacks(self._store)
        back = of_fleet(rollbacks)
        is_back = back is not None and back.to == self.applied
        candidate = Candidate(revision=desired.revision.id, desired=desired)
        with suppress(SourceError):
            self._good = self._laid_over(candidate, (back,) if back is not None and is_back else rollbacks).desired
        return self._good

    def is_descendant(self, desired: Desired) -> bool:
        """Whether a revision may follow the applied one without anybody's word. Raises SourceError."""
        applied = self.applied
        if not applied or applied == desired.revision.id or not desired.revision.audited:
            return True
        if of_fleet(desired.rollbacks) is not None:
            return True
        if ":" in applied or self._may_go_back:
            return True
        return self._source.is_ancestor(self._tip, desired.revision.id)

    def accept(self, desired: Desired) -> None:
        """Make a revision the last good one, durably, with the contents of its manifests.

        Raises StoreError, and SourceError when the contents cannot be read: the one before stays the last good then.
        """
        snapshot = self._snapshot
        if snapshot is None or snapshot.revision.id != desired.revision.id:
            self._good = desired
            return
        if self.applied != desired.revision.id:
            self._kept.apply(snapshot, desired)
        self._good = desired
        snapshot.close()
        self._snapshot = None

    def judge(self, subject: str, name: str) -> Target | Unfit:
        """Whether the fleet, or one resource, can go back to the revision that somebody named.

        What it takes of a resource's older revision is kept, so that it needs no git later. Raises StoreError.
        """
        self._last = None
        head = self._source.head()
        if not isinstance(head, Ok):
            reason = head.reason if isinstance(head, Unavailable) else "there is no commit yet"
            return Unfit(reason=f"the source cannot be read now: {reason.removeprefix('SourceUnavailable: ')}")
        try:
            older = self._older_named(name, head.value)
            if isinstance(older, Unfit):
                return older
            if subject == FLEET:
                problems = self._admission(older, self.last_good()) if older.revision.id != self.applied else ()
                return _unfit(older.revision.id, problems) or Target(to=older.revision.id, since=head.value.id)
            return self._judge_resource(subject, older)
        except SourceError as exc:
            return Unfit(reason=f"revision {name!a} cannot be read: {exc}")
        except (CheckStoppedError, PolicyEngineError) as exc:
            return Unfit(reason=f"revision {name!a} cannot be judged: {exc}")

    def forget(self) -> None:
        """What is rolled back has changed: the next look goes by the record."""
        self._good = self._last = None
        self._resources = {}

    def close(self) -> None:
        """Let go of a snapshot that was not accepted."""
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    @property
    def _tip(self) -> str:
        return find_tip(self._store)

    @property
    def _may_go_back(self) -> bool:
        """Whether the operator has said that history counts as it comes, or names the very commit."""
        source = self._operator.source
        return source.force_push == "accept" or (source.ref or "").startswith("commit:")

    def _unverified(self, revision: Revision) -> tuple[str, str, str] | None:
        """What its signatures say against it. What is in force already is not asked about again."""
        applied = self.applied
        if revision.id == applied:
            return None
        try:
            refused = self._source.unverified("" if ":" in applied else applied, revision.id)
        except SourceError as exc:
            return ("SourceUnverified", "CannotCheck", f"the signatures of {revision.id[:12]} cannot be checked: {exc}")
        return ("SourceUnverified", "Refused", refused) if refused else None

    def _rewritings(self, revision: Revision) -> tuple[tuple[str, str, str], ...]:
        """That the head does not descend from what is in force: somebody pushed by force, or moved the tag."""
        tip = self._tip
        if not tip or self.applied == revision.id or not revision.audited or ":" in tip:
            return ()
        try:
            if self._source.is_ancestor(tip, revision.id):
                return ()
        except SourceError as exc:
            return (("HistoryRewritten", "Unknown", f"{revision.id[:12]} may not follow {tip[:12]}: {exc}"),)
        held = "taken as it comes" if self._may_go_back else "held until somebody confirms it"
        message = f"{revision.id[:12]}, by {revision.author}, does not descend from {tip[:12]}; {held}"
        return (("HistoryRewritten", "ForcedPush", message),)

    def _load(self, revision: Revision, rollbacks: tuple[Rollback, ...]) -> Candidate:
        """A revision with what was rolled back as it was, after admission; once for as long as both are the same."""
        if self._last is not None and (self._last[0].revision, self._last[1]) == (revision.id, rollbacks):
            return self._last[0]
        candidate = self._admitted(self._laid_over(self._parse(revision.id), rollbacks))
        self._last = candidate, rollbacks
        return candidate

    def _parse(self, revision: str) -> Candidate:
        """A revision as the source has it. Raises SourceError, PolicyEngineError."""
        if self._read is not None and self._read.revision == revision:
            return self._read
        snapshot = self._source.snapshot(revision)
        if not isinstance(snapshot, Ok):
            reason = snapshot.reason if isinstance(snapshot, Unavailable) else "its tree is gone"
            raise SourceError(f"revision {revision[:12]} cannot be read: {reason}")
        self.close()
        self._snapshot = snapshot.value
        self._read = load_desired(
            snapshot.value, self._kinds, self._operator, self._cache, lambda: self._engine, self._verdicts
        )
        return self._read

    def _admitted(self, candidate: Candidate) -> Candidate:
        """The candidate after admission. A revision that is in force already is not asked about again."""
        desired = candidate.desired
        if desired is None or self._fresh_engine is None or desired.revision.id == self.applied:
            return candidate
        admission = admit(desired, self.last_good(), self._engine, self._fresh_engine)
        if admission.problems:
            return replace(candidate, desired=None, problems=admission.problems)
        return replace(candidate, desired=replace(desired, disputed=admission.disputed))

    def _admission(self, desired: Desired, base: Desired | None) -> tuple[Problem, ...]:
        return admit(desired, base, self._engine, self._fresh_engine).problems if self._fresh_engine is not None else ()

    # --- what was rolled back -----------------------------------------------------------------------------------------

    def _fleet_back(self, rollbacks: Sequence[Rollback], head: str) -> Rollback | None:
        """The rollback of the fleet, as long as the source has nothing newer than what it skips."""
        back = of_fleet(rollbacks)
        if back is None or head == back.since:
            return back
        if self._is_newer[:2] != (back.since, head):
            try:
                is_newer = not self._source.is_ancestor(head, back.since)
            except SourceError:
                # What was skipped is gone, or the history is cut off: the guard says whether the head may follow.
                is_newer = True
            self._is_newer = back.since, head, is_newer
        return None if self._is_newer[2] else back

    def _laid_over(self, candidate: Candidate, rollbacks: tuple[Rollback, ...]) -> Candidate:
        """A revision as what was rolled back leaves it, or the problems that this makes."""
        desired = candidate.desired
        if desired is None or not rollbacks:
            return candidate
        if (back := of_fleet(rollbacks)) is not None and back.to == desired.revision.id:
            return replace(candidate, desired=replace(desired, rollbacks=(back,)))
        holding = find_holding(desired, rollbacks)
        return self._checked(lay_over(desired, {r: self._resource(r) for r in holding})) if holding else candidate

    def _resource(self, rollback: Rollback) -> Any:
        """As the revision says that it went back to; None where that does not have it. Raises SourceError."""
        key = (rollback.to, rollback.subject)
        if key not in self._resources:
            older = self._kept.load(rollback.to)
            if older is None:
                raise SourceError(
                    f"what {rollback.subject} went back to, {rollback.to[:12]}, is not on record any more"
                )
            self._resources[key] = find_resource(older, rollback.subject)
        return self._resources[key]

    def _checked(self, laid: Desired) -> Candidate:
        problems = check_whole(laid, self._kinds, self._operator)
        if not problems:
            return Candidate(revision=laid.revision.id, desired=routed(laid, self._kinds))
        backs = ", ".join(f"{r.subject} as {r.to[:12]} says" for r in laid.rollbacks)
        why = f"with {backs}, which reconciler rollback --clear ends"
        said = [replace(p, message=f"{p.message} ({why})", at=None) for p in problems]
        return Candidate(revision=laid.revision.id, desired=None, problems=sort_problems(said))

    def _older_named(self, name: str, head: Revision) -> Desired | Unfit:
        """A valid revision of the tracked history that somebody named. Raises SourceError, PolicyEngineError."""
        found = self._source.snapshot(name)
        if isinstance(found, Unavailable):
            return Unfit(reason=found.reason.removeprefix("SourceUnavailable: "))
        if not isinstance(found, Ok):
            return Unfit(reason=f"there is no revision {name!a}; name a commit, a branch or a tag", is_unknown=True)
        revision = found.value.revision
        found.value.close()
        short = revision.id[:12]
        if not revision.audited or not head.audited:
            return Unfit(reason="a plain directory has no history to go back in; put it under git")
        if revision.id == head.id:
            return Unfit(reason=f"{short} is the newest revision; to have it again, reconciler rollback --clear")
        if not self._source.is_ancestor(revision.id, head.id):
            return Unfit(reason=f"{short} is not in the history that is followed, which is at {head.id[:12]} now")
        if fault := self._unverified(revision):
            return Unfit(reason=fault[2])
        candidate = self._parse(revision.id)
        return candidate.desired or _unfit(revision.id, candidate.problems) or Unfit(reason=f"{short} is not valid")

    def _judge_resource(self, subject: str, older: Desired) -> Target | Unfit:
        """What is in force is the measure: the rollback holds as long as git says of the resource what it says now."""
        if (back := of_fleet(read_rollbacks(self._store))) is not None:
            return Unfit(reason=f"the whole fleet is {back}; clear that first")
        now = self._kept.load(self.applied)
        if now is None:
            return Unfit(reason="no revision is in force yet; there is nothing to go back from")
        before, skipped, short = digest_of(older, subject), digest_of(now, subject), older.revision.id[:12]
        if not before and not skipped:
            return Unfit(reason=f"there is no {subject} in {short}, and none now", is_unknown=True)
        if before == skipped:
            return Unfit(reason=f"{subject} is the same in {short} as in {now.revision.id[:12]}, which is in force")
        trial = Rollback(subject=subject, to=older.revision.id, since=now.revision.id, skipped=skipped, actor="", at="")
        laid = self._checked(lay_over(now, {trial: find_resource(older, subject)}))
        problems = laid.problems or (self._admission(laid.desired, now) if laid.desired is not None else ())
        if unfit := _unfit(older.revision.id, problems):
            return unfit
        if self._snapshot is None or self._snapshot.revision.id != older.revision.id:
            return Unfit(reason=f"{short} cannot be read any more; try again")
        self._kept.keep(self._snapshot, older)
        return Target(to=trial.to, since=trial.since, skipped=skipped)


def _unfit(revision: str, problems: Sequence[Problem]) -> Unfit | None:
    """None where there is nothing wrong."""
    if not problems:
        return None
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
    return Unfit(reason=f"going back to {revision[:12]} has {count}; first: {problems[0]}")
