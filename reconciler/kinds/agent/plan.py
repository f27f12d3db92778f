"""What has to happen so that the fleet is as git says. Pure: specs, states and time come in, changes go out.

Per instance the questions are asked in this order: should it exist, does its container exist, does it run, is it what
the manifest says, is it what we made, does it call, has it shaken hands. The first "no" decides.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from reconciler.core.backoff import backoff_s
from reconciler.core.change import Action, Cause, Change, FieldChange, diff_fields
from reconciler.core.names import instance_name
from reconciler.core.quantity import NORMALISED, show_duration
from reconciler.core.reading import Absent, Ok
from reconciler.kinds.agent.container import Places, build_container, hello_of
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import AgentStates, InstanceState, Phase
from reconciler.kinds.agent.view import silence_limit_s, silent_s, why_silent
from reconciler.kinds.kind import LOOK_S, Desired, Facts
from reconciler.kinds.manifest import Manifest
from reconciler.store.records import InstanceRecord

STABLE_S = 600.0
CRASH_BASE_S = 1.0
HANGING_GRACE_S = 2.0
"""The time to end of an instance that does not call: it would only report to a hub that it cannot reach."""
REPLICAS = "spec.replicas"
"""The field that the removal of an instance differs in when its agent stays."""
_PATHLESS = Places(fleet="", seal_key=b"", run=Path("/"), state=Path("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceWork:
    """What applying needs: whose instance, by which manifest, and what was there when planning.

    `phase` and `crashes` are what the record shall say from now on, None where it stays; `grace_s` is the time to end.
    """

    manifest: Manifest[AgentSpec] | None
    ordinal: int
    state: InstanceState
    image_id: str = ""
    phase: Phase | None = None
    crashes: int | None = None
    grace_s: float = 10.0


def plan(desired: Desired, observed: AgentStates, facts: Facts) -> Sequence[Change]:
    """One change per instance, KEEP and HOLD included; removals first, then by name."""
    out: list[Change] = []
    wanted: dict[str, tuple[Manifest[AgentSpec], int]] = {}
    for name, manifest in sorted(desired.of("agent").items()):
        for ordinal in range(manifest.spec.replicas):
            wanted[instance_name(name, ordinal)] = (manifest, ordinal)
    for name, state in sorted(observed.instances.items()):
        if name not in wanted:
            agent = state.record.agent if state.record else name.rpartition("-")[0]
            out.append(_leave(state, agent, desired.of("agent").get(agent), facts))
    for name, (manifest, ordinal) in wanted.items():
        state = observed.instances.get(name) or InstanceState(name=name)
        out.append(_Instance(desired, facts, manifest, ordinal, state, observed.listening.seconds(name)).decide())
    return out


def _leave(state: InstanceState, agent: str, manifest: Manifest[AgentSpec] | None, facts: Facts) -> Change:
    """The instance is not wanted: drain and remove it; without a record it is an orphan.

    A `manifest` means that its agent stays, with fewer replicas; the change then says from how many to how many.
    """
    work = InstanceWork(manifest=None, ordinal=state.record.ordinal if state.record else 0, state=state)
    if state.record is None or (state.container is not None and not state.sealed):
        return _orphan(state, agent, work)
    busy = facts.busy.get(state.name, 0)
    recorded = _recorded_spec(state.record.manifest)
    work = replace(work, grace_s=recorded.lifecycle.grace)
    fields: tuple[FieldChange, ...] = ()
    why, reason = "removed from git", "no longer in git"
    if manifest is not None:
        fields = (FieldChange(path=REPLICAS, before=recorded.replicas, after=manifest.spec.replicas),)
        why = reason = f"git wants {manifest.spec.replicas} of {agent}"
    if draining := _drain(state, busy, recorded.lifecycle.drain_deadline, facts, agent, work, why):
        return replace(draining, towards=Action.REMOVE, fields=(*draining.fields, *fields))
    return Change(
        kind="agent",
        name=agent,
        instance=state.name,
        action=Action.REMOVE,
        reason=reason if not busy else f"{reason}; its {busy} tasks did not end in time",
        fields=fields,
        disruptive=busy > 0,
        spec_digest=state.record.spec_digest,
        spec=work,
    )


def _orphan(state: InstanceState, agent: str, work: InstanceWork) -> Change:
    if not state.sealed:
        return Change(
            kind="agent",
            name=agent,
            instance=state.name,
            action=Action.HOLD,
            cause=Cause.DRIFT,
            reason="a container carries this fleet's label but not its seal; it is not ours and is left alone",
            spec=work,
        )
    return Change(
        kind="agent",
        name=agent,
        instance=state.name,
        action=Action.RECYCLE,
        cause=Cause.DRIFT,
        reason="its container has no record: an orphan",
        disruptive=True,
        spec=work,
    )


def _drain(
    state: InstanceState, busy: int, deadline_s: float, facts: Facts, agent: str, work: InstanceWork, why: str
) -> Change | None:
    """While tasks run: first mark the instance as draining, then wait for them until the deadline."""
    record = state.record
    if not busy or record is None or state.container is None or state.container.state != "running":
        return None
    common: dict[str, Any] = {"kind": "agent", "name": agent, "instance": state.name}
    if record.phase != Phase.UPGRADING:
        return Change(
            **common,
            action=Action.UPDATE,
            reason=f"{why}: no new tasks, waiting for {busy} running",
            fields=(FieldChange(path="phase", before=record.phase, after=str(Phase.UPGRADING)),),
            spec_digest=record.spec_digest,
            spec=replace(work, phase=Phase.UPGRADING),
        )
    left = deadline_s - (facts.now - datetime.fromisoformat(record.updated_at)).total_seconds()
    if left <= 0:
        return None
    return Change(
        **common,
        action=Action.HOLD,
        reason=f"draining: {busy} running, at most {show_duration(round(left))} more",
        wait_s=left,
        spec=work,
    )


@lru_cache(maxsize=4096)
def _recorded_spec(manifest: str) -> AgentSpec:
    return AgentSpec.model_validate(json.loads(manifest)["spec"], context=NORMALISED)


@lru_cache(maxsize=4096)
def _recorded_fields(fields: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(fields)
    return found


LIMITS = "limits."


@dataclass(slots=True)
class _Instance:
    """One instance that git wants."""

    desired: Desired
    facts: Facts
    manifest: Manifest[AgentSpec]
    ordinal: int
    state: InstanceState
    listening_s: float

    def decide(self) -> Change:
        record = self.state.record
        if record is None:
            if self.state.container is not None:
                return _orphan(self.state, self.manifest.name, self._work())
            return self._change(Action.CREATE, Cause.COMMIT, "new")
        if change := self._existence(record) or self._spec(record):
            return change
        drift = self._drift(record)
        if drift is not None and drift.action is not Action.HOLD:
            return drift
        return self._silence(record) or drift or self._handshake(record)

    def _existence(self, record: InstanceRecord) -> Change | None:
        container = self.state.container
        if container is None:
            if record.phase == Phase.ACTIVATING:
                return self._change(Action.CREATE, Cause.START, "an earlier attempt did not finish")
            return self._change(Action.CREATE, Cause.DRIFT, "its container is gone", disruptive=True)
        if not self.state.sealed:
            return self._change(
                Action.HOLD, Cause.DRIFT, f"container {container.name} does not carry our seal; remove or rename it"
            )
        match container.state:
            case "running":
                return None
            case "created" | "exited" | "dead" if record.phase == Phase.ACTIVATING:
                return self._change(Action.REPLACE, Cause.START, "an earlier attempt did not finish")
            case "exited" | "dead" if record.spec_digest != self.manifest.digest:
                return self._change(Action.REPLACE, Cause.COMMIT, "changed in git", self._manifest_fields(record))
            case "exited" | "dead":
                return self._crashed(record, self._how_it_ended())
            case "paused":
                return self._change(Action.REPLACE, Cause.DRIFT, "its container was paused by hand", disruptive=True)
            case _:
                return self._change(Action.REPLACE, Cause.DRIFT, f"its container is {container.state}")

    def _how_it_ended(self) -> str:
        inspected = self.state.inspected
        how = f"it exited with {inspected.exit_code}" if inspected and inspected.exit_code is not None else "it exited"
        return f"{how} (killed for want of memory)" if inspected and inspected.oom_killed else how

    def _crashed(self, record: InstanceRecord, how: str) -> Change:
        lifecycle = self.manifest.spec.lifecycle
        crashes = record.crashes
        if not lifecycle.auto_restart:
            return self._change(Action.HOLD, Cause.CRASH, f"{how}; autoRestart is off, so a commit must change it")
        if crashes >= lifecycle.max_crashes:
            return self._change(
                Action.HOLD,
                Cause.CRASH,
                f"{how}, {crashes + 1} times in a row; stopped trying until a commit changes it",
            )
        wait = backoff_s(crashes, base_s=CRASH_BASE_S) - self._age_s(record) if crashes else 0.0
        if wait > 0:
            return self._change(Action.HOLD, Cause.CRASH, f"{how}; next start in {show_duration(wait)}", wait_s=wait)
        return self._change(Action.RESTART, Cause.CRASH, how, disruptive=True)

    def _hangs(self, record: InstanceRecord, how: str, left_s: float) -> Change:
        """Its container runs, but it does not call: a crash, once it has had `left_s` more to do so."""
        change = self._crashed(record, how)
        if change.action is Action.RESTART and left_s > 0:
            reason = f"{how}; started again in {show_duration(math.ceil(left_s))} unless it calls"
            return self._change(Action.HOLD, Cause.CRASH, reason, wait_s=min(left_s, LOOK_S))
        return replace(change, spec=replace(change.spec, grace_s=min(change.spec.grace_s, HANGING_GRACE_S)))

    def _spec(self, record: InstanceRecord) -> Change | None:
        manifest, spec = self.manifest, self.manifest.spec
        image_id = self._image_id()
        image_moved = bool(record.image_id) and image_id not in ("", record.image_id)
        age = self.facts.now - datetime.fromisoformat(record.created_at)
        if record.spec_digest == manifest.digest and not image_moved:
            if age > timedelta(seconds=spec.lifecycle.ttl):
                return self._replace(Cause.TTL, f"its ttl of {show_duration(spec.lifecycle.ttl)} is over", ())
            return None
        fields = self._manifest_fields(record)
        if image_moved:
            fields = (*fields, FieldChange(path="image id", before=record.image_id[:19], after=image_id[:19]))
            return self._replace(Cause.COMMIT, f"image {spec.image} is another one now", fields)
        before, after = (
            build_container(manifest.name, self.ordinal, s, _PATHLESS, image_id="", uid=0)
            for s in (_recorded_spec(record.manifest), spec)
        )
        changed = [f.path for f in diff_fields(asdict(before), asdict(after))]
        if not changed:
            return self._change(Action.UPDATE, Cause.COMMIT, "changed in git; its container stays as it is", fields)
        if all(path.startswith(LIMITS) for path in changed):
            return self._change(Action.UPDATE, Cause.COMMIT, "limits changed in git; changed in place", fields)
        return self._replace(Cause.COMMIT, "changed in git", fields)

    def _replace(self, cause: Cause, reason: str, fields: tuple[FieldChange, ...]) -> Change:
        busy = self.facts.busy.get(self.state.name, 0)
        deadline = self.manifest.spec.lifecycle.drain_deadline
        if draining := _drain(self.state, busy, deadline, self.facts, self.manifest.name, self._work(), reason):
            return replace(draining, cause=cause, spec_digest=self.manifest.digest, towards=Action.REPLACE)
        return self._change(Action.REPLACE, cause, reason, fields, disruptive=busy > 0)

    def _drift(self, record: InstanceRecord) -> Change | None:
        mode = self.manifest.spec.drift or self.desired.hub.loop.drift.agents
        if self.state.inspected is None or self.state.as_recorded:
            return None
        if mode == "ignore" or record.phase == Phase.ACTIVATING:
            return None
        recorded = _recorded_fields(record.fields)
        if recorded == self.state.inspected.fields or (mode == "report" and record.phase != Phase.EXECUTING):
            return None
        fields = diff_fields(recorded, self.state.inspected.fields)
        names = ", ".join(f.path for f in fields)
        if mode == "report":
            return self._change(Action.HOLD, Cause.DRIFT, f"changed by hand: {names} (drift is only reported)", fields)
        back = tuple(FieldChange(path=f.path, before=f.after, after=f.before) for f in fields)
        if all(f.path.startswith(LIMITS) for f in fields):
            return self._change(Action.UPDATE, Cause.DRIFT, f"changed by hand: {names}", back)
        return self._change(Action.REPLACE, Cause.DRIFT, f"changed by hand: {names}", back, disruptive=True)

    def _silence(self, record: InstanceRecord) -> Change | None:
        """It executed and does not call: a crash, where the router listened and the container ran for all that time."""
        report, facts, spec = self.state.report, self.facts, self.manifest.spec
        if record.phase != Phase.EXECUTING or report is None or facts.router is None:
            return None
        why = why_silent(report, spec, facts)
        if not why:
            return None
        proven_s = min(silent_s(report, facts), self.listening_s, self._running_s(record))
        return self._hangs(record, why, silence_limit_s(spec, self.desired.hub.router.lease) - proven_s)

    def _handshake(self, record: InstanceRecord) -> Change:
        spec, report = self.manifest.spec, self.state.report
        if record.phase == Phase.UPGRADING:
            return self._phase(record, Phase.EXECUTING, "nothing to drain for any more")
        if record.phase == Phase.EXECUTING:
            if record.crashes and self._age_s(record) > STABLE_S:
                change = self._phase(
                    record, Phase.EXECUTING, f"no crash for {show_duration(STABLE_S)}; back-off is over"
                )
                return replace(change, fields=(), spec=replace(change.spec, crashes=0))
            return _kept(self.manifest.name, self.state.name, self.manifest.digest)
        if report is not None and report.hello is not None:
            wrong = [k for k, v in hello_of(spec).items() if _as_said(report.hello.get(k)) != v]
            if wrong:
                return self._change(
                    Action.HOLD, Cause.START, f"its handshake does not match the manifest in {', '.join(wrong)}"
                )
            return self._phase(record, Phase.EXECUTING, "handshake completed")
        left = spec.health.handshake - self._age_s(record)
        if left < 0 and self.facts.router is not None:
            how = f"no handshake within {show_duration(spec.health.handshake)}"
            return self._hangs(record, how, spec.health.handshake - self.listening_s)
        wait = min(left, LOOK_S) if left > 0 else LOOK_S
        return self._change(Action.HOLD, Cause.START, "waiting for its handshake", wait_s=wait)

    def _age_s(self, record: InstanceRecord) -> float:
        """Seconds since its last transition."""
        return (self.facts.now - datetime.fromisoformat(record.updated_at)).total_seconds()

    def _running_s(self, record: InstanceRecord) -> float:
        """Seconds since its last transition, or since its container was started by whomever."""
        inspected = self.state.inspected
        if inspected is None or not inspected.started_at:
            return self._age_s(record)
        running = (self.facts.now - datetime.fromisoformat(inspected.started_at)).total_seconds()
        was_clock_set_back = running < 0
        return self._age_s(record) if was_clock_set_back else min(self._age_s(record), running)

    def _phase(self, record: InstanceRecord, phase: Phase, reason: str) -> Change:
        field = FieldChange(path="phase", before=record.phase, after=str(phase))
        change = self._change(Action.UPDATE, Cause.START, reason, (field,))
        return replace(change, spec=replace(self._work(), phase=phase))

    def _manifest_fields(self, record: InstanceRecord) -> tuple[FieldChange, ...]:
        return diff_fields(json.loads(record.manifest), self.manifest.written)

    def _image_id(self) -> str:
        found = self.desired.images.get(self.manifest.spec.image, Absent())
        return found.value if isinstance(found, Ok) else ""

    def _work(self) -> InstanceWork:
        return InstanceWork(
            manifest=self.manifest,
            ordinal=self.ordinal,
            state=self.state,
            image_id=self._image_id(),
            grace_s=self.manifest.spec.lifecycle.grace,
        )

    def _change(
        self,
        action: Action,
        cause: Cause,
        reason: str,
        fields: tuple[FieldChange, ...] = (),
        *,
        disruptive: bool = False,
        wait_s: float | None = None,
    ) -> Change:
        return Change(
            kind="agent",
            name=self.manifest.name,
            instance=self.state.name,
            action=action,
            cause=cause,
            reason=reason,
            fields=fields,
            disruptive=disruptive,
            spec_digest=self.manifest.digest,
            spec=self._work(),
            wait_s=wait_s,
        )


@lru_cache(maxsize=16384)
def _kept(agent: str, instance: str, digest: str) -> Change:
    """The change that most of most plans consist of."""
    return Change(
        kind="agent", name=agent, instance=instance, action=Action.KEEP, reason="as in git", spec_digest=digest
    )


def _as_said(value: object) -> object:
    return sorted(value) if isinstance(value, list) else value
