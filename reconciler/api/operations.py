"""What operators may ask of a running hub. Each write is audited with the caller, then the loop is woken."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from reconciler.api.app import RefusedRequest
from reconciler.api.messages import read_message
from reconciler.errors import RouterError
from reconciler.kinds.kind import World
from reconciler.kinds.task.state import CANCEL_REQUESTED, FINAL, TaskState
from reconciler.loop.inbox import RefusedManifest, parse_dropped, record_dropped
from reconciler.loop.run import CONFIRMED, Loop
from reconciler.loop.serve import Hub
from reconciler.router.channel import RefusedByRouterError
from reconciler.store import records
from reconciler.store.audit import append
from reconciler.store.records import TaskRecord


class HubOperations:
    """`Operations` on one hub."""

    def __init__(self, hub: Hub, loop: Loop, world: World, on_down: Callable[[bool], None]) -> None:
        self._hub, self._loop, self._world, self._on_down = hub, loop, world, on_down

    def is_ready(self) -> bool:
        return self._hub.last is not None and bool(self._hub.last.revision)

    def wake(self) -> None:
        self._hub.wake.ring()

    def status(self) -> Mapping[str, Any]:
        last = self._hub.last
        return {
            "fleet": self._world.fleet,
            "runtime": self._world.runtime.name,
            "mode": str(last.mode) if last else "starting",
            "revision": {
                "applied": self._loop.revisions.applied,
                "attempted": last.plan.revision if last else "",
                "problems": [str(p) for p in last.problems] if last else [],
            },
            "conditions": [c.to_json() for c in last.conditions] if last else [],
            "converged": last.is_converged if last else False,
            "refused": [r.to_json() for r in last.plan.refused] if last else [],
        }

    def plan(self, *, everything: bool) -> Mapping[str, Any]:
        return self._loop.run_pass(apply=False).plan.to_json(everything=everything)

    def submit(self, content: bytes, actor: str) -> Mapping[str, Any]:
        desired = self._loop.revisions.last_good()
        if desired is None:
            raise RefusedRequest("no revision is in force yet; the hub has no agents to give work to")
        try:
            manifest = parse_dropped("submitted", content, desired)
            uid = int(actor.removeprefix("uid:")) if actor.startswith("uid:") else 0
            digest = hashlib.sha256(content).hexdigest()
            run = record_dropped(manifest, digest, self._world, desired, source="api", uid=uid)
        except RefusedManifest as exc:
            raise RefusedRequest(str(exc), status=422) from exc
        self.wake()
        return {"task": run.name, "run": run.run, "state": run.state}

    def cancel(self, name: str, actor: str) -> Mapping[str, Any]:
        run = self._run(name)
        if run.state in FINAL:
            raise RefusedRequest(f"task {run.name} is {run.state} already; there is nothing to cancel")
        if run.state in (TaskState.ASSIGNED, TaskState.RUNNING):
            asked = replace(run, reason=f"{CANCEL_REQUESTED}: by {actor}", sent_epoch="")
            self._record(run, "cancel", actor, asked)
        else:
            now = self._world.clock.now().isoformat()
            done = replace(run, state=TaskState.CANCELLED, reason=f"cancelled by {actor}", finished_at=now)
            self._record(run, "cancel", actor, done)
        self.wake()
        return {"task": run.name, "run": run.run}

    def retry(self, name: str, actor: str) -> Mapping[str, Any]:
        run = self._run(name)
        if run.state not in FINAL:
            raise RefusedRequest(f"task {run.name} is {run.state}; only a finished one can be tried again")
        again = replace(
            run,
            state=TaskState.PENDING,
            reason="",
            attempts=0,
            instance="",
            sent_epoch="",
            not_before_boot=0.0,
            finished_at="",
            progress="",
        )
        self._record(run, "retry", actor, again)
        self.wake()
        return {"task": run.name, "run": run.run}

    def send(self, content: bytes, actor: str) -> Mapping[str, Any]:
        order = read_message(content, actor)
        try:
            self._world.router.send(order)
        except RefusedByRouterError as exc:
            raise RefusedRequest(str(exc), status=exc.status) from exc
        except RouterError as exc:
            raise RefusedRequest(f"{exc}; try again when `reconciler status` shows no RouterDown", status=502) from exc
        self._note("message", order["message"]["id"], "send", actor)
        return {"id": order["message"]["id"]}

    def confirm(self, digest: str, actor: str) -> Mapping[str, Any]:
        last = self._hub.last
        if last is None or not any(r.confirm == digest for r in last.plan.refused):
            raise RefusedRequest(f"no refused plan has the digest {digest}; look at `reconciler plan` again")
        with self._world.store.transaction():
            self._world.store.set_meta(CONFIRMED, digest)
            self._note("plan", digest, "confirm", actor)
        self.wake()
        return {"confirmed": digest}

    def take_down(self, *, drain: bool, actor: str) -> Mapping[str, Any]:
        self._note("hub", self._world.fleet, "down" if drain else "down now", actor)
        self._on_down(drain)
        return {"going_down": True}

    def _run(self, name: str) -> TaskRecord:
        runs = [r for r in records.tasks(self._world.store) if name in (r.name, r.run)]
        if not runs:
            raise RefusedRequest(f"there is no task {name!r}; see `reconciler task list`", status=404)
        return runs[-1]

    def _record(self, run: TaskRecord, action: str, actor: str, fresh: TaskRecord) -> None:
        with self._world.store.transaction():
            current = records.task(self._world.store, run.run)
            if current is None or (current.state, current.generation) != (run.state, run.generation):
                raise RefusedRequest(f"task {run.name} changed meanwhile; try again")
            records.put_tasks(self._world.store, [fresh])
            self._note("task", run.name, action, actor)

    def _note(self, kind: str, name: str, action: str, actor: str) -> None:
        append(
            self._world.store,
            [
                self._world.entry(
                    revision=self._loop.revisions.applied,
                    actor=actor,
                    cause="operator",
                    kind=kind,
                    name=name,
                    action=action,
                    outcome="applied",
                )
            ],
        )
