"""What is to be done about one instance that its agent wants. Pure.

The questions are asked in this order: does an operator or the quarantine stand against it, does its container exist,
does it run, is there work for it, is it what the manifest says, is it what we made, does it call, has it shaken hands.
The first "no" decides.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from reconciler.core.backoff import backoff_s
from reconciler.core.change import Action, Cause, Change, Concern, FieldChange, diff_fields
from reconciler.core.quantity import show_duration
from reconciler.core.reading import Absent, Ok
from reconciler.core.routing import Route, choose
from reconciler.kinds.agent.container import Places, build_container, hello_of, recorded_model
from reconciler.kinds.agent.demand import quiet_s
from reconciler.kinds.agent.rollout import DRAIN, RELEASE, WATCHED, InForce, concern_of, origin
from reconciler.kinds.agent.secrets import lacking, outdated
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import InstanceState, Phase
from reconciler.kinds.agent.step import InstanceWork, drain, orphan, recorded_fields, recorded_spec
from reconciler.kinds.agent.view import silence_limit_s, silent_s, why_silent
from reconciler.kinds.kind import LOOK_S, Desired, Facts
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.route_entry import recorded_address
from reconciler.store.records import InstanceRecord, OrderRecord

STABLE_S = 600.0
CRASH_BASE_S = 1.0
HANGING_GRACE_S = 2.0
"""The time to end of an instance that does not call: it would only report to a hub that it cannot reach."""
NO_NETWORK = "the operator's agentPlane.agents names it, but containers of this engine have no network; take it out"
KILLED = 128 + 9
LIMITS = "limits."
_SETTLING = (Action.CREATE, Action.REPLACE, Action.RESTART, Action.QUARANTINE)
"""After these there is nothing left to restart or to release."""
_PATHLESS = Places(fleet="", seal_key=b"", run=Path("/"), state=Path("/"))


@dataclass(slots=True)
class Instance:
    """One instance that its agent wants. `is_needed`: there is work for it, or it is up without any, too."""

    desired: Desired
    facts: Facts
    source: InForce
    manifest: Manifest[AgentSpec]
    ordinal: int
    state: InstanceState
    listening_s: float
    is_needed: bool = True

    def decide(self) -> Change:
        """Its one change."""
        record = self.state.record
        if self._address and self.facts.runtime == "docker":
            return self._change(Action.HOLD, Cause.OPERATOR, NO_NETWORK)
        if record is None:
            if self.state.container is not None:
                return orphan(self.state, self.manifest.name, self._work())
            return self._change(Action.CREATE, Cause.COMMIT, "new")
        if change := self._isolation(record) or self._existence(record) or self._sleep(record):
            return change
        if self.state.secrets and (change := self._outdated_secrets()):
            return change
        change = self._spec(record) or self._drift(record) or self._ordered(record)
        if change is None and self.state.secrets:
            change = self._lacking_secrets()
        if change is not None and not _lets_it_run(change):
            return change
        return self._silence(record) or self._handshake(record) or change or self._kept(record)

    def _isolation(self, record: InstanceRecord) -> Change | None:
        """It is in quarantine, or an operator wants it there."""
        container, order = self.state.container, self.state.order
        if container is not None and not self.state.sealed:
            return None
        if record.phase != Phase.QUARANTINED:
            if order is not None and order.verb == "quarantine":
                return self._quarantine(Cause.OPERATOR, f"quarantined by {order.actor}")
            distrust = self.facts.distrusted.get(self.manifest.name)
            return self._quarantine(Cause.POLICY, distrust) if distrust else None
        if order is not None and order.verb == RELEASE:
            return self._change(Action.REPLACE, Cause.OPERATOR, f"released by {order.actor}")
        if record.spec_digest != self.manifest.digest or self._image_id() not in ("", record.image_id):
            fields = self._manifest_fields(record)
            return self._change(Action.REPLACE, Cause.COMMIT, "changed in git, which ends its quarantine", fields)
        if container is not None and container.state == "running":
            return self._quarantine(Cause.DRIFT, "it runs, though it is in quarantine")
        change = self._change(Action.HOLD, Cause.CRASH, f"in quarantine: {record.reason}")
        said = f"{record.name} is in quarantine: {record.reason}"
        return replace(change, concern=Concern(subject=f"agent/{record.name}", type="Quarantined", message=said))

    def _quarantine(self, cause: Cause, reason: str) -> Change:
        change = self._change(Action.QUARANTINE, cause, reason, disruptive=True)
        return replace(change, spec=replace(change.spec, phase=Phase.QUARANTINED))

    def _existence(self, record: InstanceRecord) -> Change | None:
        container = self.state.container
        if record.phase == Phase.REGISTERED and (container is None or self.state.sealed):
            return self._asleep(record)
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
                fields = self._manifest_fields(record)
                return self._change(Action.REPLACE, *_why_changed(fields), fields)
            case "exited" | "dead":
                return self._crashed(record, self._how_it_ended())
            case "paused":
                return self._change(Action.REPLACE, Cause.DRIFT, "its container was paused by hand", disruptive=True)
            case _:
                return self._change(Action.REPLACE, Cause.DRIFT, f"its container is {container.state}")

    def _asleep(self, record: InstanceRecord) -> Change:
        """It has no container, until there is work for it."""
        if self.state.container is not None:
            return self._change(Action.DEACTIVATE, Cause.TTL, record.reason or "it sleeps, and has a container")
        if self.is_needed or self.manifest.spec.idle is None:
            why = "there is work for it" if self.manifest.spec.idle is not None else "it is not to sleep any more"
            return self._change(Action.CREATE, Cause.START, why)
        return self._change(Action.KEEP, Cause.TTL, "it sleeps until there is work for it")

    def _sleep(self, record: InstanceRecord) -> Change | None:
        """It has had nothing to do for as long as its manifest allows."""
        idle = self.manifest.spec.idle
        if idle is None or self.is_needed or record.phase != Phase.EXECUTING or self.state.order is not None:
            return None
        if quiet_s(self.state, self.facts) < idle.after:
            return None
        return self._change(Action.DEACTIVATE, Cause.TTL, f"nothing to do for {show_duration(idle.after)}")

    def _how_it_ended(self) -> str:
        inspected = self.state.inspected
        if inspected is None or inspected.exit_code is None:
            return "it exited"
        how = f"it exited with {inspected.exit_code}"
        if inspected.oom_killed:
            return f"{how} (killed for want of memory)"
        return f"{how} (killed, by somebody or by the kernel)" if inspected.exit_code == KILLED else how

    def _crashed(self, record: InstanceRecord, how: str) -> Change:
        lifecycle = self.manifest.spec.lifecycle
        crashes = record.crashes
        if self._is_watched(record):
            return self._failed(how)
        if not lifecycle.auto_restart:
            return self._change(Action.HOLD, Cause.CRASH, f"{how}; autoRestart is off, so a commit must change it")
        if crashes >= lifecycle.max_crashes:
            return self._quarantine(Cause.CRASH, f"{how}, {crashes + 1} times in a row")
        if record.all_crashes >= lifecycle.quarantine_threshold:
            times = f"crash number {record.all_crashes + 1} since it was made"
            return self._quarantine(
                Cause.CRASH, f"{how}, {times} (quarantineThreshold {lifecycle.quarantine_threshold})"
            )
        jitter = _jitter(record.name, crashes)
        wait = backoff_s(crashes, base_s=CRASH_BASE_S, jitter=jitter) - self._age_s(record) if crashes else 0.0
        if wait > 0:
            return self._change(Action.HOLD, Cause.CRASH, f"{how}; next start in {show_duration(wait)}", wait_s=wait)
        return self._change(Action.RESTART, Cause.CRASH, how, disruptive=True)

    def _is_watched(self, record: InstanceRecord) -> bool:
        """Whether it has just been made from a changed manifest, and comes from one that worked."""
        if not record.previous or record.crashes or record.spec_digest != self.manifest.digest:
            return False
        age_s = (self.facts.now - datetime.fromisoformat(record.created_at)).total_seconds()
        return age_s <= WATCHED * self.manifest.spec.health.handshake

    def _failed(self, how: str) -> Change:
        """Stands in the plan for no longer than it takes to see that the roll-out has to be taken back."""
        change = self._change(Action.HOLD, Cause.CRASH, how)
        return replace(change, spec=replace(change.spec, failed=how))

    def _hangs(self, record: InstanceRecord, how: str, left_s: float) -> Change:
        """Its container runs, but it does not call: a crash, once it has had `left_s` more to do so."""
        change = self._crashed(record, how)
        if left_s > 0 and (change.action in (Action.RESTART, Action.QUARANTINE) or change.spec.failed):
            then = "started again" if change.action is Action.RESTART else "isolated"
            then = "its roll-out is taken back" if change.spec.failed else then
            reason = f"{how}; {then} in {show_duration(math.ceil(left_s))} unless it calls"
            return self._change(Action.HOLD, Cause.CRASH, reason, wait_s=min(left_s, LOOK_S))
        return replace(change, spec=replace(change.spec, grace_s=min(change.spec.grace_s, HANGING_GRACE_S)))

    def _spec(self, record: InstanceRecord) -> Change | None:
        manifest, spec = self.manifest, self.manifest.spec
        if self._address != (address := recorded_address(record.fields)):
            ways = FieldChange(path="agent plane", before=address or "its socket", after=self._address or "its socket")
            return self._replace(Cause.OPERATOR, "the operator has it reach the router another way", (ways,))
        is_same = record.spec_digest == manifest.digest
        if is_same and (model := self._model()) and model != (told := recorded_model(record.fields)):
            models = FieldChange(path="model", before=told, after=model)
            return self._replace(Cause.COMMIT, "another model has what llm.require asks for now", (models,))
        image_id = self._image_id()
        image_moved = bool(record.image_id) and image_id not in ("", record.image_id)
        age = self.facts.now - datetime.fromisoformat(record.created_at)
        if is_same and not image_moved:
            if age > timedelta(seconds=spec.lifecycle.ttl):
                return self._replace(Cause.TTL, f"its ttl of {show_duration(spec.lifecycle.ttl)} is over", ())
            return self._rolled_back()
        fields = self._manifest_fields(record)
        if image_moved:
            fields = (*fields, FieldChange(path="image id", before=record.image_id[:19], after=image_id[:19]))
            return self._replace(Cause.COMMIT, f"image {spec.image} is another one now", fields)
        before, after = (
            build_container(manifest.name, self.ordinal, s, _PATHLESS, image_id="", uid=0)
            for s in (recorded_spec(record.manifest), spec)
        )
        changed = [f.path for f in diff_fields(asdict(before), asdict(after))]
        cause, reason = _why_changed(fields)
        if not changed:
            return self._change(Action.UPDATE, cause, f"{reason}; its container stays as it is", fields)
        if all(path.startswith(LIMITS) for path in changed):
            return self._change(Action.UPDATE, cause, "limits changed in git; changed in place", fields)
        return self._replace(cause, reason, fields)

    def _rolled_back(self) -> Change | None:
        """It is as it was before a roll-out that failed: that is not what git says."""
        if not self.source.why:
            return None
        agent = self.manifest.name
        change = self._change(Action.HOLD, Cause.CRASH, f"its roll-out was taken back ({self.source.why})")
        return replace(change, concern=concern_of(agent, self.source.why))

    def _ordered(self, record: InstanceRecord) -> Change | None:
        """What an operator wants of an instance that runs."""
        order = self.state.order
        if order is None or record.phase not in (Phase.EXECUTING, Phase.UPGRADING):
            return None
        match order.verb:
            case "restart":
                return self._restart_ordered(order)
            case "drain" if record.phase == Phase.EXECUTING:
                return self._phase(record, Phase.UPGRADING, f"drained by {order.actor}", Cause.OPERATOR)
            case "drain":
                busy = self.facts.busy.get(self.state.name, 0)
                left = f", {busy} still running" if busy else ""
                return self._change(
                    Action.HOLD, Cause.OPERATOR, f"drained by {order.actor}{left}; until it is released"
                )
            case _:
                change = self._phase(record, Phase.EXECUTING, f"released by {order.actor}", Cause.OPERATOR)
                return replace(change, spec=replace(change.spec, order=order))

    def _restart_ordered(self, order: OrderRecord) -> Change:
        reason = f"restarted by {order.actor}"
        busy = self.facts.busy.get(self.state.name, 0)
        deadline = self.manifest.spec.lifecycle.drain_deadline
        if draining := drain(self.state, busy, deadline, self.facts, self.manifest.name, self._work(), reason):
            return replace(draining, cause=Cause.OPERATOR, towards=Action.RESTART)
        change = self._change(Action.RESTART, Cause.OPERATOR, reason, disruptive=busy > 0)
        return replace(change, spec=replace(change.spec, crashes=0))

    def _replace(self, cause: Cause, reason: str, fields: tuple[FieldChange, ...]) -> Change:
        image = self.manifest.spec.image
        if isinstance(self.desired.images.get(image), Absent):
            missing = f"image {image} is not on this engine; build or load it (make image); until then it runs as it is"
            return self._change(Action.HOLD, cause, missing, fields)
        busy = self.facts.busy.get(self.state.name, 0)
        deadline = self.manifest.spec.lifecycle.drain_deadline
        if draining := drain(self.state, busy, deadline, self.facts, self.manifest.name, self._work(), reason):
            return replace(draining, cause=cause, spec_digest=self.manifest.digest, towards=Action.REPLACE)
        return self._change(Action.REPLACE, cause, reason, fields, disruptive=busy > 0)

    def _drift(self, record: InstanceRecord) -> Change | None:
        mode = self.manifest.spec.drift or self.desired.hub.loop.drift.agents
        if self.state.inspected is None or self.state.as_recorded:
            return None
        if mode == "ignore" or record.phase == Phase.ACTIVATING:
            return None
        recorded = recorded_fields(record.fields)
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

    def _outdated_secrets(self) -> Change | None:
        names, why = outdated(self.state.secrets)
        if not names:
            return None
        change = self._change(Action.UPDATE, Cause.OPERATOR, why)
        return replace(change, spec=replace(change.spec, outdated=names))

    def _lacking_secrets(self) -> Change | None:
        why = lacking(self.state.secrets)
        return self._change(Action.HOLD, Cause.OPERATOR, why) if why else None

    def _silence(self, record: InstanceRecord) -> Change | None:
        """It executed and does not call: a crash, where the router listened and the container ran for all that time."""
        report, facts, spec = self.state.report, self.facts, self._spec_in_use(record)
        if record.phase != Phase.EXECUTING or report is None or facts.router is None:
            return None
        why = why_silent(report, spec, facts)
        if not why:
            return None
        proven_s = min(silent_s(report, facts), self.listening_s, self._running_s(record))
        return self._hangs(record, why, silence_limit_s(spec, self.desired.hub.router.lease) - proven_s)

    def _handshake(self, record: InstanceRecord) -> Change | None:
        spec, report = self._spec_in_use(record), self.state.report
        is_out = self.state.order is not None and self.state.order.verb == DRAIN
        if record.phase == Phase.UPGRADING:
            return None if is_out else self._phase(record, Phase.EXECUTING, "nothing to drain for any more")
        if record.phase == Phase.EXECUTING:
            if record.crashes and self._age_s(record) > STABLE_S:
                change = self._phase(
                    record, Phase.EXECUTING, f"no crash for {show_duration(STABLE_S)}; back-off is over"
                )
                return replace(change, spec=replace(change.spec, crashes=0))
            return None
        if report is not None and report.hello is not None:
            if wrong := _differences(report.hello, hello_of(spec)):
                return self._degraded(record, wrong)
            return self._phase(record, Phase.UPGRADING if is_out else Phase.EXECUTING, "handshake completed")
        left = spec.health.handshake - self._age_s(record)
        told = f" (the router told it: {report.last_denial})" if report is not None and report.last_denial else ""
        if left < 0 and self.facts.router is not None:
            how = f"no handshake within {show_duration(spec.health.handshake)}{told}"
            return self._hangs(record, how, spec.health.handshake - self.listening_s)
        wait = min(left, LOOK_S) if left > 0 else LOOK_S
        return self._change(Action.HOLD, Cause.START, f"waiting for its handshake{told}", wait_s=wait)

    def _degraded(self, record: InstanceRecord, wrong: str) -> Change:
        """It runs and is not what its manifest says: it gets no work."""
        how = f"its handshake does not match the manifest: {wrong}"
        if self._is_watched(record):
            return self._failed(how)
        said = Concern(
            subject=f"agent/{record.name}", type="Degraded", message=f"{record.name}: {how}; it gets no work"
        )
        return replace(self._change(Action.HOLD, Cause.START, how), concern=said)

    def _kept(self, record: InstanceRecord) -> Change:
        """As it shall be; where it may go to sleep, the plan says when."""
        idle = self.manifest.spec.idle
        if idle is None or self.is_needed:
            return kept(self.manifest.name, self.state.name, record.spec_digest)
        left = max(0.0, idle.after - quiet_s(self.state, self.facts))
        return self._change(Action.KEEP, Cause.COMMIT, "as in git; nothing to do", wait_s=left)

    @property
    def _address(self) -> str:
        """Where it shall call; empty for its socket."""
        return self.desired.plane.address_of(self.manifest.name)

    def _spec_in_use(self, record: InstanceRecord) -> AgentSpec:
        """What its container was made from; the one in git may have to wait."""
        is_as_in_git = record.spec_digest == self.manifest.digest
        return self.manifest.spec if is_as_in_git else recorded_spec(record.manifest)

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

    def _phase(self, record: InstanceRecord, phase: Phase, reason: str, cause: Cause = Cause.START) -> Change:
        fields = (FieldChange(path="phase", before=record.phase, after=str(phase)),) if phase != record.phase else ()
        change = self._change(Action.UPDATE, cause, reason, fields)
        return replace(change, spec=replace(self._work(), phase=phase))

    def _manifest_fields(self, record: InstanceRecord) -> tuple[FieldChange, ...]:
        return diff_fields(json.loads(record.manifest), self.manifest.written)

    def _image_id(self) -> str:
        if self.source.image_id:
            return self.source.image_id
        found = self.desired.images.get(self.manifest.spec.image, Absent())
        return found.value if isinstance(found, Ok) else ""

    def _model(self) -> str:
        """The model for its executor; empty where that asks none."""
        spec, hub = self.manifest.spec, self.desired.hub
        if spec.llm is None or spec.executor.type == "command":
            return ""
        found = choose(spec.llm, hub.providers, hub.sensitivity.exposures, executor=spec.executor.type)
        return found.model if isinstance(found, Route) else ""

    def _work(self) -> InstanceWork:
        return InstanceWork(
            manifest=self.manifest,
            ordinal=self.ordinal,
            state=self.state,
            image_id=self._image_id(),
            model=self._model(),
            grace_s=self.manifest.spec.lifecycle.grace,
            revision=self.source.revision,
            previous="" if self.source.rejected else origin(self.state.record, self.manifest, self._image_id()),
            rejected=self.source.rejected,
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
        work = self._work()
        if action in _SETTLING and self.state.order is not None and self.state.order.verb != DRAIN:
            work = replace(work, order=self.state.order)
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
            spec=work,
            wait_s=wait_s,
        )


def _lets_it_run(change: Change) -> bool:
    """Whether the change waits for somebody and prepares nothing, so that the instance goes on meanwhile."""
    return change.action is Action.HOLD and change.towards is None


def _why_changed(fields: tuple[FieldChange, ...]) -> tuple[Cause, str]:
    """Why the digest in the record is not the manifest's, by what differs from the manifest in the record."""
    if fields:
        return Cause.COMMIT, "changed in git"
    return Cause.DRIFT, "the digest in its record does not fit the manifest in it"


@lru_cache(maxsize=16384)
def kept(agent: str, instance: str, digest: str) -> Change:
    """The change that most of most plans consist of."""
    return Change(
        kind="agent", name=agent, instance=instance, action=Action.KEEP, reason="as in git", spec_digest=digest
    )


def _differences(said: Mapping[str, Any], wanted: Mapping[str, object]) -> str:
    """What a hello says otherwise than the manifest, in words."""
    wrong = [(k, said.get(k), v) for k, v in wanted.items() if _as_said(said.get(k)) != v]
    return "; ".join(f"{key} is {json.dumps(is_, default=str)[:200]}, not {json.dumps(v)}" for key, is_, v in wrong)


def _as_said(value: object) -> object:
    return sorted(map(str, value)) if isinstance(value, list) else value


def _jitter(name: str, crashes: int) -> float:
    """From 0 to 1, the same for the same crash: plans of one moment are equal."""
    return hashlib.sha256(f"{name} {crashes}".encode()).digest()[0] / 256
