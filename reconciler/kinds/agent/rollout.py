"""Rolling a changed manifest out: which one is in force, and how many instances may be away at once. Pure.

A roll-out fails when an instance that worked before crashes, or does not shake hands, soon after it was made from the
new manifest. The agent then goes back to the manifest that it came from, until git names another one or an operator
releases it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from reconciler.core.change import Action, Cause, Change, Concern
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import InstanceState, Phase
from reconciler.kinds.agent.step import recorded_spec
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Manifest
from reconciler.store.records import InstanceRecord

RELEASE, DRAIN = "release", "drain"
WATCHED = 3
"""For how many times `health.handshake` after it was made a roll-out is taken back when an instance fails."""
_WORKED = (Phase.EXECUTING, Phase.UPGRADING)
_UNASKED = (Cause.CRASH, Cause.DRIFT)
"""What was not meant to happen is mended at once, however many instances are away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What the instances of an agent are made from: git's manifest, unless it was `rejected` for the reason `why`.

    `rejected` goes into the records of what is made meanwhile (JSON); `image_id` and `revision` are empty where they
    are those of the desired revision.
    """

    manifest: Manifest[AgentSpec]
    image_id: str = ""
    revision: str = ""
    rejected: str = ""
    why: str = ""


def in_force(manifest: Manifest[AgentSpec], image_id: str, states: Iterable[InstanceState]) -> InForce:
    """Git's manifest, or the one that its roll-out was taken back to. `image_id` is empty where it is not known."""
    for state in states:
        record, order = state.record, state.order
        if record is None or not record.rejected or (order is not None and order.verb == RELEASE):
            continue
        refused = json.loads(record.rejected)
        if refused["digest"] == manifest.digest and image_id in ("", refused["image_id"]):
            return InForce(
                manifest=_remade(manifest.name, record.manifest, record.spec_digest, manifest.file),
                image_id=record.image_id,
                revision=record.revision,
                rejected=record.rejected,
                why=refused["why"],
            )
    return InForce(manifest=manifest, revision=manifest.revision)


def take_back(manifest: Manifest[AgentSpec], failed: InstanceRecord, why: str) -> InForce:
    """What follows when an instance fails that was just made from this manifest of git's."""
    before = json.loads(failed.previous)
    said = {"digest": manifest.digest, "image_id": failed.image_id, "why": f"{failed.name}: {why}"}
    return InForce(
        manifest=_remade(manifest.name, before["manifest"], before["digest"], manifest.file),
        image_id=before["image_id"],
        revision=before["revision"],
        rejected=json.dumps(said, sort_keys=True),
        why=said["why"],
    )


def origin(record: InstanceRecord | None, manifest: Manifest[AgentSpec], image_id: str) -> str:
    """What the next record says of how its instance was made when it last worked; empty where that was the same way."""
    if record is None:
        return ""
    if record.phase not in _WORKED:
        return record.previous
    if record.spec_digest == manifest.digest and image_id in ("", record.image_id):
        return ""
    made = {
        "manifest": record.manifest,
        "digest": record.spec_digest,
        "image_id": record.image_id,
        "revision": record.revision,
    }
    return json.dumps(made, sort_keys=True)


def watch(desired: Desired) -> float:
    """For how many seconds a crash after a change is that of the roll-out, at most."""
    manifests: Iterable[Manifest[AgentSpec]] = desired.of("agent").values()
    return max((WATCHED * m.spec.health.handshake for m in manifests), default=0.0)


def concern_of(agent: str, why: str) -> Concern:
    """The condition of an agent whose roll-out was taken back."""
    message = f"the roll-out of {agent} was taken back ({why}); it stays as it was until a commit changes it"
    return Concern(subject=f"agent/{agent}", type="RolledBack", message=message)


def pace(changes: Sequence[Change], states: Sequence[InstanceState], most: int) -> Sequence[Change]:
    """The changes of one agent's instances, of which no more than `most` are taken away at once."""
    if not any(_takes_away(c) for c in changes):
        return changes
    serving = {s.name for s in states if s.is_serving}
    away = sum(_is_away(s) for s in states)
    out: list[Change] = []
    for change in changes:
        if change.instance not in serving or not _takes_away(change):
            out.append(change)
        elif away < most:
            away += 1
            out.append(change)
        else:
            reason = f"{change.reason}; waits, since {away} of {len(states)} are away (maxUnavailable {most})"
            out.append(replace(change, action=Action.HOLD, towards=None, reason=reason, disruptive=False))
    return out


def _is_away(state: InstanceState) -> bool:
    """Whether it should serve and does not; not one that sleeps, or that an operator took out."""
    if state.record is None or state.is_serving:
        return False
    is_out = state.order is not None and state.order.verb == DRAIN
    return not is_out and state.record.phase not in (Phase.REGISTERED, Phase.QUARANTINED)


def _takes_away(change: Change) -> bool:
    meant = change.action if change.towards is None else change.towards
    return meant in (Action.REPLACE, Action.RESTART) and change.cause not in _UNASKED


@lru_cache(maxsize=1024)
def _remade(name: str, recorded: str, digest: str, file: str) -> Manifest[AgentSpec]:
    labels = json.loads(recorded)["labels"]
    return Manifest(kind="Agent", name=name, labels=labels, spec=recorded_spec(recorded), digest=digest, file=file)
