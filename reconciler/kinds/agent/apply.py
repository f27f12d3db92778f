"""Making one instance what its change says. Decides nothing; each effect stands between two crash points.

The order of a start is: record, files, route, container. The order of an end is the reverse. A kill anywhere leaves a
record that says what was meant, and the next pass goes on from there.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

from reconciler.core.change import Action, Cause, Change
from reconciler.core.outcome import Applied, Failed, Outcome
from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.crashpoint import effect
from reconciler.errors import RuntimeRefusedError
from reconciler.identity.secret_files import ABSENT
from reconciler.identity.secret_files import remove as remove_secrets
from reconciler.identity.token import make_private_folder, new_token, write_private, write_token
from reconciler.kinds.agent.container import CA_FILE, Places, build_container, limits
from reconciler.kinds.agent.evidence import keep_evidence
from reconciler.kinds.agent.secrets import secret_names
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import InstanceState, Phase
from reconciler.kinds.agent.step import InstanceWork
from reconciler.kinds.agent.transition import forget, put
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.route_entry import instance_entry, recorded_address
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
            return _restart(change, work, world, desired)
        case Action.UPDATE:
            return _update(change, work, world, desired)
        case Action.REMOVE | Action.RECYCLE:
            _end(change, work, world, desired, Phase.TERMINATING)
            return Applied()
        case Action.DEACTIVATE:
            return _deactivate(change, work, world, desired)
        case Action.QUARANTINE:
            return _quarantine(change, work, world, desired)
        case _:
            return Failed(reason=f"an agent cannot be asked to {change.action}", retryable=False)


def places(world: World) -> Places:
    plane = world.operator.agent_plane
    return Places(fleet=world.fleet, seal_key=world.seal_key, run=world.run, state=world.state, plane=plane)


def _replace(change: Change, work: InstanceWork, world: World, desired: Desired) -> Outcome:
    """Image and secrets first: without them what runs goes on."""
    image_id = _find_image(work, world)
    if isinstance(image_id, Failed):
        return image_id
    if missing := _miss_secret(_manifest(work), world, desired):
        return missing
    _end(change, work, world, desired, Phase.ACTIVATING, keeps_mailbox=_is_unread(work.state))
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
    if missing := _miss_secret(manifest, world, desired):
        return missing
    name = work.state.name
    now = world.clock.now()
    uid = world.runtime.uid_for(name)
    token, sha256 = new_token()
    spec = build_container(
        manifest.name, work.ordinal, manifest.spec, places(world), image_id=image_id, uid=uid, model=work.model
    )
    before = work.state.record
    record = InstanceRecord(
        name=name,
        agent=manifest.name,
        ordinal=work.ordinal,
        phase=Phase.ACTIVATING,
        spec_digest=manifest.digest,
        manifest=json.dumps(manifest.written, sort_keys=True),
        revision=work.revision or desired.revision.id,
        image_id=image_id,
        fields=json.dumps(dict(world.runtime.normalise(spec)), sort_keys=True),
        uid=uid,
        token_sha256=sha256,
        token_expires_at=_expiry(now, manifest.spec),
        created_at=now.isoformat(),
        updated_at=now.isoformat(),
        crashes=before.crashes if before and change.action is Action.CREATE else 0,
        all_crashes=before.all_crashes if before and change.action is Action.CREATE else 0,
        previous=work.previous,
        rejected=work.rejected,
    )
    effect("agent.create.record", put, world, desired, change, record, work.order, change.reason)
    effect("agent.create.workspace", _provide_workspace, record, manifest.spec, world, desired)
    _prepare(record, manifest.spec, token, world, desired, keeps_mailbox=_is_unread(work.state))
    container_id = effect("agent.create.container", world.runtime.create, spec)
    effect("agent.create.start", world.runtime.start, container_id)
    _shaking_hands(replace(record, container_id=container_id), change, world, desired)
    return Applied(note=f"container {container_id[:12]}")


def _is_unread(state: InstanceState) -> bool:
    """Whether nothing has run that could have read its mailbox: it sleeps, or an earlier attempt did not come so far.

    Whoever said hello may have been told of tasks, and those must not reach another process.
    """
    record, container, report = state.record, state.container, state.report
    if record is None or (container is not None and container.state != "created"):
        return False
    if record.phase == Phase.REGISTERED:
        return True
    never_started = record.phase == Phase.ACTIVATING and not record.container_id
    return never_started and report is not None and report.hello is None


def _miss_secret(manifest: Manifest[AgentSpec], world: World, desired: Desired) -> Failed | None:
    """Why an instance cannot be started with all secrets that it asks for."""
    for name in manifest.spec.secrets:
        match world.secrets.get(name, desired.hub.loop.resync):
            case Absent():
                why = ABSENT
            case Unavailable(reason=reason):
                why = reason
            case _:
                continue
        return Failed(reason=f"secret {name} of agent {manifest.name}: {why}", transient=True)
    return None


def _prepare(
    record: InstanceRecord,
    spec: AgentSpec,
    token: str,
    world: World,
    desired: Desired,
    *,
    keeps_mailbox: bool = False,
) -> None:
    """Directories, token, secrets and route: what a container needs before it starts."""
    where = places(world)
    effect("agent.create.folders", make_private_folder, where.hub(record.name), record.uid)
    make_private_folder(where.secrets(record.name), record.uid)
    effect("agent.create.token", write_token, where.secrets(record.name), token, record.uid)
    effect("agent.create.secrets", _write_secrets, record, spec.secrets, world, desired)
    if recorded_address(record.fields):
        effect("agent.create.ca", _write_ca, record, world)
    if not keeps_mailbox:
        effect("agent.create.unroute", world.router.remove_instance, record.name)
    effect("agent.create.route", world.router.put_instance, record.name, instance_entry(record))


def _write_ca(record: InstanceRecord, world: World) -> None:
    """What the instance knows the router by, which it reaches over the network."""
    from reconciler.identity.authority import open_authority

    authority = open_authority(world.state, world.fleet, world.clock.now())
    write_private(places(world).secrets(record.name) / CA_FILE, authority.pem, record.uid)


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


def _restart(change: Change, work: InstanceWork, world: World, desired: Desired) -> Outcome:
    record, container = work.state.record, work.state.container
    if record is None or container is None:
        return Failed(reason="its record or container went away meanwhile; the next pass looks again", transient=True)
    if missing := _miss_secret(_manifest(work), world, desired):
        return missing
    now = world.clock.now()
    token, sha256 = new_token()
    fresh = replace(
        record,
        token_sha256=sha256,
        token_expires_at=_expiry(datetime.fromisoformat(record.created_at), _manifest(work).spec),
        crashes=record.crashes + 1 if work.crashes is None else work.crashes,
        all_crashes=record.all_crashes + 1 if work.crashes is None else 0,
        reason=change.reason,
        updated_at=now.isoformat(),
    )
    effect("agent.restart.stop", world.runtime.stop, container.id, work.grace_s)
    effect("agent.restart.record", put, world, desired, change, fresh, work.order, change.reason)
    _prepare(fresh, _manifest(work).spec, token, world, desired)
    effect("agent.restart.start", world.runtime.start, container.id)
    _shaking_hands(fresh, change, world, desired)
    return Applied()


def _update(change: Change, work: InstanceWork, world: World, desired: Desired) -> Outcome:
    record, container = work.state.record, work.state.container
    if record is None or container is None:
        return Failed(reason="its record or container went away meanwhile; the next pass looks again", transient=True)
    if work.outdated:
        effect("agent.update.secrets", _write_secrets, record, work.outdated, world, desired)
        return Applied()
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
        effect("agent.update.record", put, world, desired, change, fresh, work.order)
        return Applied()
    manifest = _manifest(work)
    spec = build_container(
        manifest.name,
        work.ordinal,
        manifest.spec,
        places(world),
        image_id=record.image_id,
        uid=record.uid,
        model=work.model,
    )
    if _limits_differ(work, world, spec):
        try:
            effect("agent.update.limits", world.runtime.update, container.id, limits(manifest.spec))
        except RuntimeRefusedError as exc:
            outcome = _replace(change, work, world, desired)
            note = f"the engine refused to change limits in place ({exc}); replaced"
            return Applied(note=note) if isinstance(outcome, Applied) else outcome
        # The next pass may come before the engine tells of this, and take our own change for somebody's.
        world.inspections.forget(container.name)
    dropped = sorted(set(secret_names(record.manifest)) - set(manifest.spec.secrets))
    effect("agent.update.secrets", _write_secrets, record, manifest.spec.secrets, world, desired, dropped)
    fresh = replace(
        record,
        spec_digest=manifest.digest,
        manifest=json.dumps(manifest.written, sort_keys=True),
        revision=desired.revision.id,
        fields=json.dumps(dict(world.runtime.normalise(spec)), sort_keys=True),
        crashes=record.crashes if record.spec_digest == manifest.digest else 0,
        all_crashes=record.all_crashes if record.spec_digest == manifest.digest else 0,
    )
    effect("agent.update.record", records.put_instance, world.store, fresh)
    return Applied()


def _write_secrets(
    record: InstanceRecord, names: Sequence[str], world: World, desired: Desired, dropped: Sequence[str] = ()
) -> None:
    folder = places(world).secrets(record.name)
    world.secrets.write(folder, names, record.uid, desired.hub.loop.resync)
    remove_secrets(folder, dropped)


def _limits_differ(work: InstanceWork, world: World, spec: ContainerSpec) -> bool:
    record = work.state.record
    recorded = json.loads(record.fields) if record else {}
    inspected = work.state.inspected
    wanted = dict(world.runtime.normalise(spec))
    return recorded != wanted or (inspected is not None and dict(inspected.fields) != wanted)


def _end(
    change: Change, work: InstanceWork, world: World, desired: Desired, phase: Phase, *, keeps_mailbox: bool = False
) -> None:
    """Stop and remove: container confirmed dead first, then its tasks lost, then route, files and record."""
    record, container = work.state.record, work.state.container
    name = work.state.name
    if record is not None:
        going = replace(record, phase=phase, previous=work.previous or record.previous)
        effect("agent.end.record", put, world, desired, change, going)
    if container is not None:
        effect("agent.end.stop", world.runtime.stop, container.id, work.grace_s)
        effect("agent.end.container", world.runtime.remove, container.id)
    effect("agent.end.tasks", attempts.lose, world.store, name, change.reason, world.clock.now())
    where = places(world)
    if not keeps_mailbox:
        effect("agent.end.route", world.router.remove_instance, name)
        effect("agent.end.files", _remove_folders, where, name)
    if phase != Phase.TERMINATING:
        return
    if work.heir or (work.drops_workspace and change.cause is not Cause.OPERATOR):
        effect("agent.end.workspace", _leave_workspace, where, name, work.heir, world)
    effect("agent.end.forget", forget, world, desired, change, name)


def _deactivate(change: Change, work: InstanceWork, world: World, desired: Desired) -> Outcome:
    """Its container goes. Unless the record goes, too, its mailbox stays, and what comes in there wakes it."""
    record, container = work.state.record, work.state.container
    if record is None or work.manifest is None:
        _end(change, work, world, desired, Phase.TERMINATING)
        return Applied()
    asleep = replace(
        record,
        phase=Phase.REGISTERED,
        reason=change.reason,
        container_id="",
        token_sha256="",
        crashes=0,
        all_crashes=0,
        updated_at=world.clock.now().isoformat(),
    )
    effect("agent.sleep.record", put, world, desired, change, asleep)
    effect("agent.sleep.route", world.router.put_instance, asleep.name, instance_entry(asleep))
    if container is not None:
        effect("agent.sleep.stop", world.runtime.stop, container.id, work.grace_s)
        effect("agent.sleep.container", world.runtime.remove, container.id)
    effect("agent.sleep.tasks", attempts.lose, world.store, asleep.name, change.reason, world.clock.now())
    effect("agent.sleep.files", shutil.rmtree, places(world).secrets(asleep.name), True)
    return Applied()


def _quarantine(change: Change, work: InstanceWork, world: World, desired: Desired) -> Outcome:
    """Evidence first; then no token, no mailbox, and its container stopped and kept."""
    record, container = work.state.record, work.state.container
    if record is None:
        return Failed(reason="its record went away meanwhile; the next pass looks again", transient=True)
    reason = record.reason if record.phase == Phase.QUARANTINED else change.reason
    effect("agent.quarantine.evidence", keep_evidence, world, record, container, reason)
    isolated = replace(
        record,
        phase=Phase.QUARANTINED,
        reason=reason,
        token_sha256="",
        updated_at=world.clock.now().isoformat(),
    )
    effect("agent.quarantine.record", put, world, desired, change, isolated, work.order)
    effect("agent.quarantine.route", world.router.remove_instance, record.name)
    if container is not None:
        effect("agent.quarantine.stop", world.runtime.stop, container.id, work.grace_s)
    effect("agent.quarantine.tasks", attempts.lose, world.store, record.name, change.reason, world.clock.now())
    effect("agent.quarantine.files", _remove_folders, places(world), record.name)
    return Applied()


def _remove_folders(where: Places, name: str) -> None:
    shutil.rmtree(where.hub(name), ignore_errors=True)
    shutil.rmtree(where.secrets(name), ignore_errors=True)


def _leave_workspace(where: Places, name: str, heir: str, world: World) -> None:
    """It goes, or to the heir. What the heir has already is not touched; then what this one had stays where it is."""
    given, taken = where.own_workspace(name).parent, where.own_workspace(heir).parent
    if not heir:
        shutil.rmtree(given, ignore_errors=True)
    elif given.exists() and not taken.exists():
        _give_tree(where.own_workspace(name), world.runtime.uid_for(heir))
        given.rename(taken)


def _shaking_hands(record: InstanceRecord, change: Change, world: World, desired: Desired) -> None:
    fresh = replace(record, phase=Phase.HANDSHAKING, updated_at=world.clock.now().isoformat(), reason="")
    effect("agent.start.record", put, world, desired, change, fresh)


def _expiry(created: datetime, spec: AgentSpec) -> float:
    life = timedelta(seconds=spec.lifecycle.ttl + spec.lifecycle.drain_deadline + TOKEN_SLACK_S)
    return (created + life).timestamp()


def _manifest(work: InstanceWork) -> Manifest[AgentSpec]:
    if work.manifest is None:
        raise RuntimeRefusedError("a change without a manifest cannot start an instance")
    return work.manifest
