"""Trust in each agent: what the router and the record tell of it moves its score, and each move is a row of the record.

Looked at once per `orchestrator.trust.window`, before anything is planned; planning and policies get the score.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime

from reconciler.core.caller import Caller
from reconciler.core.reading import Ok, Reading
from reconciler.core.trust import Move, Standing, TrustCause, TrustRules, is_fresh_start, move, new_events, score_at
from reconciler.kinds.kind import Desired, World
from reconciler.ports import RouterReport, Tally
from reconciler.store import records
from reconciler.store.audit import AuditEntry, append
from reconciler.store.records import TrustRecord
from reconciler.store.store import Store
from reconciler.store.trust import events_since, newest_row

CURSOR = "trust_cursor"
_FAR = 1000


def read_scores(store: Store, desired: Desired, now: datetime) -> Mapping[str, float]:
    """The score of each agent that has a record, as of now; the others are at neutral. Raises StoreError."""
    return scores_of(records.trust(store), desired, now)


def scores_of(known: Mapping[str, TrustRecord], desired: Desired, now: datetime) -> Mapping[str, float]:
    """The same of records at hand. Pure."""
    rules = desired.hub.orchestrator.trust
    return {n: score_at(_standing(r), rules, now) for n, r in known.items() if n in desired.of("agent")}


def find_distrusted(store: Store, desired: Desired, scores: Mapping[str, float]) -> Mapping[str, str]:
    """Why each agent below `orchestrator.trustThreshold` is there. Raises StoreError.

    Not those with another manifest than they had: these are about to be trusted anew.
    """
    threshold, manifests = desired.hub.orchestrator.trust_threshold, desired.of("agent")
    known = records.trust(store)
    return {
        name: f"its trust is {score:.2f}, below {threshold:g}; lastly: {known[name].reason}"
        for name, score in scores.items()
        if score < threshold and known[name].spec_digest == manifests[name].digest
    }


def restore_trust(world: World, desired: Desired, agent: str, caller: Caller) -> None:
    """An operator trusts the agent again: its score is neutral, and what it did until now is done with."""
    rules, now = desired.hub.orchestrator.trust, world.clock.now()
    known = records.trust(world.store).get(agent)
    score = score_at(_standing(known), rules, now) if known is not None else rules.neutral
    if known is None or score >= rules.neutral:
        return
    with world.store.transaction():
        fresh = _forgiven(_standing(known), rules, now)
        records.put_trust(world.store, [_record(agent, fresh)])
        append(world.store, [_restored(world, agent, score, fresh, "operator", str(caller), desired.revision.id)])


class TrustStep:
    """Moves scores by what happened since it last looked. One for each life of the hub."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._looked_at: float | None = None
        self._cursor: int | None = None

    def look(self, desired: Desired, report: Reading[RouterReport]) -> None:
        """Take in what happened, in one transaction. Raises StoreError.

        Nothing is written for what moves nothing; after a restart that may be looked at once more, and count then.
        """
        rules, now_s = desired.hub.orchestrator.trust, self._world.clock.boottime()
        if self._looked_at is not None and 0.0 <= now_s - self._looked_at < rules.window:
            return
        self._looked_at = now_s
        store, newest = self._world.store, newest_row(self._world.store)
        kept = int(store.get_meta(CURSOR) or -1)
        after = kept if self._cursor is None else self._cursor
        did = self._did(after) if 0 <= after < newest else {}
        router = report.value if isinstance(report, Ok) else None
        changed, entries = self._settle(desired, did, router, rules)
        gone = records.trust(store).keys() - desired.of("agent").keys()
        is_far = kept < 0 or newest - kept > _FAR
        if changed or gone or is_far:
            with store.transaction():
                records.put_trust(store, changed)
                records.delete_trust(store, gone)
                append(store, entries)
                store.set_meta(CURSOR, str(newest))
        self._cursor = newest

    def _did(self, after: int) -> Mapping[str, Mapping[TrustCause, int]]:
        """What the record says that agents did, by agent."""
        instances = records.instances(self._world.store)
        out: dict[str, Counter[TrustCause]] = {}
        for name, events in events_since(self._world.store, after).items():
            agent = instances[name].agent if name in instances else name.rpartition("-")[0]
            out.setdefault(agent, Counter()).update({TrustCause(c): n for c, n in events.items()})
        return out

    def _settle(
        self,
        desired: Desired,
        did: Mapping[str, Mapping[TrustCause, int]],
        router: RouterReport | None,
        rules: TrustRules,
    ) -> tuple[list[TrustRecord], list[AuditEntry]]:
        now = self._world.clock.now()
        known = records.trust(self._world.store)
        threshold = desired.hub.orchestrator.trust_threshold
        changed: list[TrustRecord] = []
        entries: list[AuditEntry] = []
        tallies = router.tallies if router is not None else {}
        for name in sorted(desired.of("agent").keys() & (known.keys() | did.keys() | tallies.keys())):
            digest = desired.of("agent")[name].digest
            before = _standing(known[name]) if name in known else Standing(score=rules.neutral, at=now)
            after, score = before, score_at(before, rules, now)
            if is_fresh_start(before, digest, score, threshold):
                after = _forgiven(before, rules, now)
                entries.append(_restored(self._world, name, score, after, "commit", "hub", desired.revision.id))
            told = _told(tallies[name]) if router is not None and name in tallies else {}
            epoch = router.epoch if router is not None and told else before.epoch
            events = Counter(new_events(after, epoch, told)) + Counter(did.get(name, {}))
            after, moves = move(after, events, rules, now)
            is_same = after is before and not new_events(before, epoch, told)
            if is_same and (name not in known or before.spec_digest == digest):
                continue
            counted = told if told else before.counted
            changed.append(_record(name, replace(after, spec_digest=digest, epoch=epoch, counted=counted)))
            entries.extend(self._entries(name, moves, desired.revision.id))
        return changed, entries

    def _entries(self, agent: str, moves: tuple[Move, ...], revision: str) -> Iterator[AuditEntry]:
        for moved in moves:
            yield self._world.entry(
                revision=revision,
                cause="crash" if moved.cause is TrustCause.CRASH else "policy",
                kind="trust",
                name=agent,
                action=str(moved.cause),
                before=f"{moved.before:.3f}",
                after=f"{moved.after:.3f}",
                outcome="noted",
                reason=moved.reason,
            )


def _told(tally: Tally) -> Mapping[str, int]:
    """What a router counted, by the causes that it knows of."""
    counts = {
        TrustCause.DENIED: tally.denied,
        TrustCause.INVALID: tally.invalid,
        TrustCause.FORGED: tally.forged,
        TrustCause.FLOOD: tally.floods,
    }
    return {str(cause): count for cause, count in counts.items() if count}


def _forgiven(standing: Standing, rules: TrustRules, now: datetime) -> Standing:
    return replace(standing, score=rules.neutral, at=now, reason="")


def _restored(
    world: World, agent: str, before: float, after: Standing, cause: str, actor: str, revision: str
) -> AuditEntry:
    return world.entry(
        revision=revision,
        actor=actor,
        cause=cause,
        kind="trust",
        name=agent,
        action="restored",
        before=f"{before:.3f}",
        after=f"{after.score:.3f}",
        outcome="noted",
        reason="trusted anew, by its changed manifest" if cause == "commit" else "trusted anew",
    )


def _standing(record: TrustRecord) -> Standing:
    return Standing(
        score=record.score,
        at=datetime.fromisoformat(record.at),
        spec_digest=record.spec_digest,
        epoch=record.epoch,
        counted=json.loads(record.counted),
        reason=record.reason,
    )


def _record(agent: str, standing: Standing) -> TrustRecord:
    return TrustRecord(
        agent=agent,
        score=standing.score,
        at=standing.at.isoformat(),
        spec_digest=standing.spec_digest,
        epoch=standing.epoch,
        counted=json.dumps(standing.counted, sort_keys=True),
        reason=standing.reason,
    )
