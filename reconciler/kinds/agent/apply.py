"""Making one instance what its change says. Decides nothing; each effect stands between two crash points.

The order of a start is: record, files, route, container. The order of an end is the reverse. A kill anywhere leaves a
record that says what was meant, and the next pass goes on from there.
"""

import json
import os
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from reconciler.core.change import Action, Change
from reconciler.core.outcome import Applied, Failed, Outcome
from reconciler.core.reading import Ok, Unavailable
from reconciler.crashpoint import effect
from reconciler.errors import RuntimeRefusedError
from reconciler.identity.token import make_private_folder, new_token, write_token
from reconciler.kinds.agent.container import Places, build_container, limits
from reconciler.kinds.agent.plan import InstanceWork
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import Phase
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.route_entry import instance_entry
from reconciler.ports import ContainerSpec
from reconciler.store import attempts, records
from reconciler.store.records import InstanceRecord

TOKEN_SLACK_S = 3600.0


def apply(change: Change, world: World, desired: Desired) -> Outcome:
    """Carry out one change. Raises ReconcilerError where the surroundings broke."""
    work: InstanceWork = change.spec
    match change.action:
        case Action.CREATE:
            return _create(change, work, world, desired)
        case Action.REPLACE:
            return _replace(change, work, world, desired)
        case Action.RESTART:
            return _restart(change, work, world)
        case Action.UPDATE:
            return _update(change, work, world, desired)
        case Action.REMOVE | Action.RECYCLE:
            _end(change, work, world, keep_record=False)
            return Applied()
        case _:
            return Failed(reason=f"an agent cannot be asked to {change.action}", retryable=False)


def places(world: World) -> Places:
    return Places(fleet=world.fleet, seal_key=world.seal_key, run=world.run, state=world.state)


def _replace(change: Change, work: InstanceWork, world: World, desired: Desired) -> Outcome:
    """The image first: without one what runs goes on."""
    image_id = _find_image(work, world)
    if isinstance(image_id, Failed):
        return image_id
    _end(change, work, world, keep_record=True)
    return _create(change, replace(work, image_id=image_id), world, desired)


def _find_image(work: InstanceWork, world: World) -> str | Failed:
    image = _manifest(work).spec.image
    found = Ok(work.image_id) if work.image_id else world.runtime.resolve_image(image)
    if isinstance(found, Unavailable):
        return Failed(reason=found.reason, transient=True)
    if not isinstance(found, Ok):
        return Failed(reason=f"image {image} is not on this engine; build or load it (make image)")
    return found.value


def _create(change: Change, work: InstanceWork, world: World, desired: Desired) -> Outcome:
    manifest = _manifest(work)
    image_id = _find_image(work, world)
    if isinstance(image_id, Failed):
        return image_id
    name = work.state.name
    now = world.clock.now()
    uid = world.runtime.uid_for(name)
    token, sha256 = new_token()
    spec = build_container(manifest.name, work.ordinal, manifest.spec, places(world), image_id=image_id, uid=uid)
    before = work.state.record
    record = InstanceRecord(
        name=name,
        agent=manifest.name,
        ordinal=work.ordinal,
        phase=Phase.ACTIVATING,
        spec_digest=manifest.digest,
        manifest=json.dumps(manifest.written, sort_keys=True),
        revision=desired.revision.id,
        image_id=image_id,
        fields=json.dumps(dict(world.runtime.normalise(spec)), sort_keys=True),
        uid=uid,
        token_sha256=sha256,
        token_expires_at=_expiry(now, manifest.spec),
        created_at=now.isoformat(),
        updated_at=now.isoformat(),
        crashes=before.crashes if before and change.action is Action.CREATE else 0,
    )
    effect("agent.create.record", _put_and_lose, world, record, change.reason)
    _prepare(record, manifest.spec, token, world, desired)
    container_id = effect("agent.create.container", world.runtime.create, spec)
    effect("agent.create.start", world.runtime.start, container_id)
    _shaking_hands(replace(record, container_id=container_id), world)
    return Applied(note=f"container {container_id[:12]}")


def _prepare(record: InstanceRecord, spec: AgentSpec, token: str, world: World, desired: Desired | None) -> None:
    """Directories, token and route: what a container needs before it starts."""
    where = places(world)
    effect("agent.create.folders", make_private_folder, where.hub(record.name), record.uid)
    make_private_folder(where.secrets(record.name), record.uid)
    if desired is not None:
        effect("agent.create.workspace", _provide_workspace, record, spec, world, desired)
    effect("agent.create.token", write_token, where.secrets(record.name), token, record.uid)
    effect("agent.create.unroute", world.router.remove_instance, record.name)
    effect("agent.create.route", world.router.put_instance, record.name, instance_entry(record))


def _provide_workspace(record: InstanceRecord, spec: AgentSpec, world: World, desired: Desired) -> None:
    where = places(world)
    if spec.workspace.source == "none":
        return
    if spec.workspace.source == "repository" and not spec.workspace.writable:
        where.workspaces(history=spec.workspace.history).mkdir(parents=True, exist_ok=True)
        return
    own = where.own_workspace(record.name)
    if own.exists():
        return
    own.parent.mkdir(parents=True, exist_ok=True)
    if spec.workspace.source == "repository":
        world.source.checkout(desired.revision.id, str(own), history=spec.workspace.history)
    else:
        own.mkdir()
    _give_tree(own, record.uid)


def _give_tree(folder: Path, uid: int) -> None:
    if os.geteuid() != 0:
        return
    for root, _folders, files in os.walk(folder):
        os.chown(root, uid, uid)
        os.chmod(root, 0o700)
        for file in files:
            os.lchown(os.path.join(root, file), uid, uid)


def _restart(change: Change, work: InstanceWork, world: World) -> Outcome:
    record, container = work.state.record, work.state.container
    if record is None or container is None:
        return Failed(reason="its record or container went away meanwhile; the next pass looks again", transient=True)
    now = world.clock.now()
    token, sha256 = new_token()
    fresh = replace(
        record,
        token_sha256=sha256,
        token_expires_at=_expiry(datetime.fromisoformat(record.created_at), _manifest(work).spec),
        crashes=record.crashes + 1,
        reason=change.reason,
        updated_at=now.isoformat(),
    )
    effect("agent.restart.stop", world.runtime.stop, container.id, work.grace_s)
    effect("agent.restart.record", _put_and_lose, world, fresh, change.reason)
    _prepare(fresh, _manifest(work).spec, token, world, None)
    effect("agent.restart.start", world.runtime.start, container.id)
    _shaking_hands(fresh, world)
    return Applied()


def _update(change: Change, work: InstanceWork, world: World, desired: Desired) -> Outcome:
    record, container = work.state.record, work.state.container
    if record is None or container is None:
        return Failed(reason="its record or container went away meanwhile; the next pass looks again", transient=True)
    now = world.clock.now().isoformat()
    if work.phase is not None:
        crashes = record.crashes if work.crashes is None else work.crashes
        fresh = replace(
            record,
            phase=work.phase,
            updated_at=now,
            reason=change.reason,
            container_id=container.id,
            crashes=crashes,
        )
        effect("agent.update.record", records.put_instance, world.store, fresh)
        return Applied()
    manifest = _manifest(work)
    where = places(world)
    spec = build_container(manifest.name, work.ordinal, manifest.spec, where, image_id=record.image_id, uid=record.uid)
    if _limits_differ(work, world, spec):
        try:
            effect("agent.update.limits", world.runtime.update, container.id, limits(manifest.spec))
        except RuntimeRefusedError as exc:
            outcome = _replace(change, work, world, desired)
            note = f"the engine refused to change limits in place ({exc}); replaced"
            return Applied(note=note) if isinstance(outcome, Applied) else outcome
    fresh = replace(
        record,
        spec_digest=manifest.digest,
        manifest=json.dumps(manifest.written, sort_keys=True),
        revision=desired.revision.id,
        fields=json.dumps(dict(world.runtime.normalise(spec)), sort_keys=True),
        crashes=record.crashes if record.spec_digest == manifest.digest else 0,
    )
    effect("agent.update.record", records.put_instance, world.store, fresh)
    return Applied()


def _limits_differ(work: InstanceWork, world: World, spec: ContainerSpec) -> bool:
    record = work.state.record
    recorded = json.loads(record.fields) if record else {}
    inspected = work.state.inspected
    wanted = dict(world.runtime.normalise(spec))
    return recorded != wanted or (inspected is not None and dict(inspected.fields) != wanted)


def _end(change: Change, work: InstanceWork, world: World, *, keep_record: bool) -> None:
    """Stop and remove: container confirmed dead first, then its tasks lost, then route, files and record."""
    record, container = work.state.record, work.state.container
    name = work.state.name
    if record is not None:
        phase = replace(record, phase=Phase.ACTIVATING if keep_record else Phase.TERMINATING)
        effect("agent.end.record", records.put_instance, world.store, phase)
    if container is not None:
        effect("agent.end.stop", world.runtime.stop, container.id, work.grace_s)
        effect("agent.end.container", world.runtime.remove, container.id)
    effect("agent.end.tasks", attempts.lose, world.store, name, change.reason, world.clock.now())
    effect("agent.end.route", world.router.remove_instance, name)
    where = places(world)
    effect("agent.end.files", _remove_folders, where, name)
    if not keep_record:
        effect("agent.end.forget", records.delete_instance, world.store, name)


def _remove_folders(where: Places, name: str) -> None:
    shutil.rmtree(where.hub(name), ignore_errors=True)
    shutil.rmtree(where.secrets(name), ignore_errors=True)


def _put_and_lose(world: World, record: InstanceRecord, reason: str) -> None:
    with world.store.transaction():
        records.put_instance(world.store, record)
        attempts.lose(world.store, record.name, reason, world.clock.now())


def _shaking_hands(record: InstanceRecord, world: World) -> None:
    fresh = replace(record, phase=Phase.HANDSHAKING, updated_at=world.clock.now().isoformat(), reason="")
    effect("agent.start.record", records.put_instance, world.store, fresh)


def _expiry(created: datetime, spec: AgentSpec) -> float:
    life = timedelta(seconds=spec.lifecycle.ttl + spec.lifecycle.drain_deadline + TOKEN_SLACK_S)
    return (created + life).timestamp()


def _manifest(work: InstanceWork) -> Manifest[AgentSpec]:
    if work.manifest is None:
        raise RuntimeRefusedError("a change without a manifest cannot start an instance")
    return work.manifest
