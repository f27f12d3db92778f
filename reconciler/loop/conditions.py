"""Conditions of the hub and of resources: what is found becomes transitions, which are recorded, audited and told."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from reconciler.core.change import Cause
from reconciler.core.condition import Condition, Finding, Mode, derive_mode
from reconciler.kinds.kind import Desired, World
from reconciler.loop.alerts import Alerts
from reconciler.loop.findings import Alarms
from reconciler.loop.kept import APPLIED
from reconciler.settings import Alerts as AlertSettings
from reconciler.store import records
from reconciler.store.audit import AuditEntry, append

UNSEEN = ("SourceUnavailable", "SourceUnsettled")
OF_NEWEST = ("PlanRefused", "ConfigInvalid", "HistoryRewritten", "SourceUnverified")

Fault: TypeAlias = tuple[str, str, str]
"""A condition of the hub that is true now: type, reason, message."""

Findings: TypeAlias = Mapping[str, Sequence[Finding]]
"""By kinds of subjects that were looked at: `hub`, `agent`, `provider`, …"""

_Key: TypeAlias = tuple[str, str]
"""Subject and type."""


class Conditions:
    """Those of one hub."""

    def __init__(self, world: World, alerts: Alerts, alarms: Alarms) -> None:
        """Raises StoreError."""
        self._world, self._alerts, self._alarms = world, alerts, alarms
        self._known = records.conditions(world.store)
        self._store_fault: Condition | None = None
        self._own_fault: Condition | None = None
        self._seen: Desired | None = None
        self._hub_digest = ""
        self._newest = ""

    @property
    def true(self) -> tuple[Condition, ...]:
        """Those that are true now."""
        unkept = [c for c in (self._store_fault, self._own_fault) if c is not None]
        keys = {_key(c) for c in unkept}
        return (*(c for key, c in self._known.items() if c.status and key not in keys), *unkept)

    @property
    def recorded_mode(self) -> Mode:
        """What follows from those on record."""
        return derive_mode(self._known.values())

    def look_at(self, desired: Desired | None, newest: str) -> None:
        """What is found from now on was found by this revision, or by the newest one that the source has."""
        if desired is None or self._seen is None or desired.hub is not self._seen.hub:
            self._hub_digest = desired.hub.digest() if desired is not None else ""
        self._seen, self._newest = desired, newest

    def settle(
        self, faults: Sequence[Fault], findings: Findings, settings: AlertSettings, *, record: bool
    ) -> tuple[Condition, ...]:
        """All that are true by what was found. With `record` False nothing is changed. Raises StoreError.

        What is said of resources of a kind that could not be looked at stays.
        """
        found = [Finding(type=type_, reason=reason, message=message) for type_, reason, message in faults]
        if self._world.runtime.name == "process":
            message = "the process runtime isolates neither network nor files; no confidential or restricted work"
            found.append(Finding(type="SandboxNotEnforced", reason="ProcessRuntime", message=message))
        found += [f for of_kind in findings.values() for f in of_kind]
        wanted = {**self._said_of_newest(faults), **{f.key: self._make(f) for f in found}}
        if self._own_fault is not None:
            wanted[_key(self._own_fault)] = self._own_fault
        changed = self._changed(wanted, {"hub", *findings})
        now_true = {**self._known, **{_key(c): c for c in changed}}
        if record:
            now_true = self._known = self._keep(changed, now_true, settings)
        return tuple(c for c in now_true.values() if c.status)

    def note_store_fault(self, reason: str, settings: AlertSettings) -> None:
        """state.db cannot be used, so that this stands in memory alone. Told at once, and over with the next pass."""
        if self._store_fault is None:
            fault = self._make(Finding(type="StoreUnwritable", reason="Failed", message=reason))
            self._store_fault = replace(fault, alerted=True)
            self._alerts.tell_unkept(fault, settings)

    def note_own_fault(self, reason: str, message: str, settings: AlertSettings) -> None:
        """A fault of the hub's own ended a pass. Told at once; on record with the next pass that comes so far."""
        fault = self._make(Finding(type="PassFailed", reason=reason, message=message))
        if self._own_fault is None:
            self._alerts.tell_unkept(fault, settings)
        else:
            fault = replace(fault, since=self._own_fault.since)
        self._own_fault = replace(fault, alerted=True)

    def end_own_fault(self, settings: AlertSettings) -> None:
        """A whole pass went well. Raises StoreError."""
        if self._own_fault is None:
            return
        over = replace(self._own_fault, status=False, reason="Resolved", message="", since=self._world.clock.now())
        self._known = self._keep([over], {**self._known, _key(over): over}, settings)
        self._own_fault = None

    def _said_of_newest(self, faults: Sequence[Fault]) -> Mapping[_Key, Condition]:
        """What was found wrong with the newest revision stands while nobody can see whether there is a newer one."""
        if not any(type_ in UNSEEN for type_, _, _ in faults):
            return {}
        return {key: c for key, c in self._known.items() if c.status and c.type in OF_NEWEST}

    def _make(self, finding: Finding) -> Condition:
        return Condition(
            subject=finding.subject,
            type=finding.type,
            status=True,
            reason=finding.reason,
            message=finding.message,
            since=self._world.clock.now(),
            observed_revision=self._newest if finding.type in OF_NEWEST else self._seen_revision,
            input_digest=self._digest_of(finding.subject),
        )

    @property
    def _seen_revision(self) -> str:
        return self._seen.revision.id if self._seen is not None else ""

    def _digest_of(self, subject: str) -> str:
        """Of what the revision says of the subject of a condition; empty where it says nothing."""
        kind, _, name = subject.partition("/")
        if self._seen is None:
            return ""
        if not name:
            return self._hub_digest
        found = self._seen.of(kind).get(name) or self._seen.of(kind).get(name.rpartition("-")[0])
        return str(found.digest) if found is not None else ""

    def _changed(self, wanted: Mapping[_Key, Condition], looked_at: Collection[str]) -> list[Condition]:
        """What is another way than it was, in order."""
        changed: list[Condition] = []
        for key in sorted(self._known.keys() | wanted.keys()):
            before, after = self._known.get(key), wanted.get(key)
            if after is None:
                if before is not None and before.status and key[0].partition("/")[0] in looked_at:
                    over_at = self._world.clock.now()
                    over = replace(before, status=False, reason="Resolved", message="", since=over_at)
                    changed.append(replace(over, observed_revision=self._seen_revision))
            elif before is None:
                changed.append(after)
            elif not before.status:
                changed.append(replace(after, alerted=before.alerted or after.alerted))
            elif _said(before) != _said(after):
                changed.append(replace(after, since=before.since, alerted=before.alerted))
        return changed

    def _keep(
        self, changed: Sequence[Condition], now_true: Mapping[_Key, Condition], settings: AlertSettings
    ) -> dict[_Key, Condition]:
        """Write transitions and notices in one transaction, then have them delivered. Raises StoreError."""
        news = [c for c in changed if self._is_news(c)]
        if self._store_fault is not None:
            over = replace(self._store_fault, status=False, message="", since=self._world.clock.now())
            news.append(over)
            changed, now_true = [*changed, over], {**now_true, _key(over): over}
        telling = self._alerts.settle(tuple(now_true.values()), settings)
        told = {_key(c): c for c in telling.changed}
        if changed or telling:
            with self._world.store.transaction():
                records.put_conditions(self._world.store, {**{_key(c): c for c in changed}, **told}.values())
                append(self._world.store, [self._entry(c) for c in news])
                self._alarms.keep()
                self._alerts.keep(telling)
        self._alerts.tell(telling)
        self._store_fault = None
        return {**now_true, **told}

    def _is_news(self, condition: Condition) -> bool:
        """Whether it was not so before; that another revision found it so again is none."""
        before = self._known.get(_key(condition))
        return before is None or (before.status, before.message) != (condition.status, condition.message)

    def _entry(self, condition: Condition) -> AuditEntry:
        return self._world.entry(
            revision=self._world.store.get_meta(APPLIED) or "",
            cause=str(Cause.START),
            kind="condition",
            name=condition.subject,
            action=condition.type,
            outcome="noted",
            reason=f"{'now true' if condition.status else 'over'}: {condition.message}"[:1000],
        )


def _key(condition: Condition) -> _Key:
    return condition.subject, condition.type


def _said(condition: Condition) -> tuple[str, str, str]:
    return condition.message, condition.observed_revision, condition.input_digest
