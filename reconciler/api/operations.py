"""What operators may ask of a running hub. Each write is audited with the caller, then the loop is woken."""

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from reconciler import __version__
from reconciler.api.access import RefusedRequest
from reconciler.api.agents import order_agent
from reconciler.api.app import PAGE
from reconciler.api.events import Page
from reconciler.api.messages import read_message
from reconciler.api.metrics import Measured, render
from reconciler.api.rollbacks import clear_subject, list_rollbacks, roll_back_subject
from reconciler.api.suspensions import list_suspensions, resume_subject, suspend_subject
from reconciler.core.caller import Caller
from reconciler.core.condition import Mode
from reconciler.core.plan import Plan
from reconciler.core.reading import Ok
from reconciler.errors import RouterError
from reconciler.kinds.agent.explain import explain_agent, find_ready
from reconciler.kinds.kind import World
from reconciler.kinds.task.artefacts import read_artefact
from reconciler.kinds.task.escalation import ACKNOWLEDGED
from reconciler.kinds.task.explain import explain_in_line, explain_schedule, explain_task
from reconciler.kinds.task.plan import OPERATOR
from reconciler.kinds.task.schedule import show_schedules
from reconciler.kinds.task.state import CANCEL_REQUESTED, FINAL, TaskState
from reconciler.loop.export import write_export
from reconciler.loop.inbox import RefusedManifest, parse_dropped, record_dropped, result_document
from reconciler.loop.kept import HEALTHY
from reconciler.loop.recorded import read_record
from reconciler.loop.run import CONFIRMED, Loop
from reconciler.loop.serve import Hub
from reconciler.loop.suspend import read_suspensions
from reconciler.loop.trust import read_scores, restore_trust
from reconciler.router.channel import RefusedByRouterError
from reconciler.store import queue, records
from reconciler.store.audit import Choice, append, choose, newest
from reconciler.store.records import TaskRecord

EVENTS = 2000
"""So many rows of the log are read for a stream at once."""


class HubOperations:
    """`Operations` on one hub."""

    def __init__(
        self,
        hub: Hub,
        loop: Loop,
        world: World,
        on_down: Callable[[bool], None],
        *,
        refused: Mapping[str, int] | None = None,
    ) -> None:
        self._hub, self._loop, self._world, self._on_down = hub, loop, world, on_down
        self._refused = refused if refused is not None else {}

    @property
    def is_reason_required(self) -> bool:
        return self._world.operator.audit.reason_required

    def is_ready(self) -> bool:
        return self._hub.last is not None and bool(self._hub.last.revision)

    def is_alive(self) -> bool:
        return self._hub.is_alive

    def wake(self) -> None:
        self._world.source.refresh()
        self._hub.wake.ring()

    def status(self) -> Mapping[str, Any]:
        last = self._hub.last
        return {
            "fleet": self._world.fleet,
            "runtime": self._world.runtime.name,
            "mode": str(self._loop.mode) if last else "starting",
            "revision": {
                "applied": self._loop.revisions.applied,
                "healthy": self._world.store.get_meta(HEALTHY) or "",
                "attempted": last.plan.revision if last else "",
                "candidate": last.candidate if last else "",
                "problems": [str(p) for p in last.problems] if last else [],
                "skipped": next((r.since for r in last.rollbacks if r.is_of_fleet), "") if last else "",
            },
            "rollbacks": [asdict(r) for r in last.rollbacks] if last else [],
            "conditions": [c.to_json() for c in self._loop.conditions],
            "converged": last.is_converged if last else False,
            "behind": last.is_behind if last else True,
            "ready": self._ready(),
            "refused": [r.to_json() for r in last.plan.refused] if last else [],
            "usage": self.usage(),
        }

    def _ready(self) -> Mapping[str, Mapping[str, bool]]:
        """By agent and instance; empty until a pass has looked at the revision in force."""
        last, desired = self._hub.last, self._loop.revisions.last_good()
        if last is None or desired is None or last.plan.revision != desired.revision.id:
            return {}
        return {**{name: {} for name in desired.of("agent")}, **find_ready(last.plan.changes)}

    def usage(self) -> Mapping[str, Any]:
        """What each instance uses, and how far each agent is trusted that is not at neutral."""
        known = records.instances(self._world.store)
        used = {name: sample for name, sample in self._hub.samples().items() if name in known}
        return {
            "trust": {name: round(score, 3) for name, score in self._trust().items()},
            "instances": {name: {**asdict(s.usage), "cpus": round(s.cpus, 3)} for name, s in used.items()},
        }

    def metrics(self) -> str:
        report = self._world.router.report()
        desired = self._loop.revisions.last_good()
        neutral = desired.hub.orchestrator.trust.neutral if desired is not None else 1.0
        agents = desired.of("agent") if desired is not None else ()
        return render(
            Measured(
                revision=self._loop.revisions.applied,
                mode=self._loop.mode,
                conditions=self._loop.conditions,
                instances=tuple(records.instances(self._world.store).values()),
                tasks=queue.counts(self._world.store),
                tallies=report.value.tallies if isinstance(report, Ok) else {},
                trust={**dict.fromkeys(sorted(agents), neutral), **self._trust()},
                samples=self._hub.samples(),
                source_age_s=self._loop.source_age_s,
                pass_age_s=self._hub.pass_age_s,
                refused=dict(self._refused),
            )
        )

    def newest_event(self) -> int:
        return newest(self._world.store)[0]

    def events(self, choice: Choice) -> Page:
        """The next rows, at most `EVENTS` at once."""
        upto = self.newest_event()
        if upto <= choice.after_seq:
            return Page(rows=(), seq=choice.after_seq, has_more=False)
        rows = tuple(islice(choose(self._world.store, choice), EVENTS))
        last = rows[-1].seq if rows else 0
        return Page(rows=rows, seq=last if len(rows) == EVENTS else max(upto, last), has_more=len(rows) == EVENTS)

    def _trust(self) -> Mapping[str, float]:
        desired = self._loop.revisions.last_good()
        return read_scores(self._world.store, desired, self._world.clock.now()) if desired is not None else {}

    def plan(self, *, everything: bool) -> Mapping[str, Any]:
        return self._loop.run_pass(apply=False).plan.to_json(everything=everything)

    def export(self) -> Mapping[str, Any]:
        return write_export(read_record(self._world.store), self._world.clock.now(), __version__)

    def submit(self, content: bytes, caller: Caller, key: str = "") -> Mapping[str, Any]:
        desired = self._loop.revisions.last_good()
        if desired is None:
            raise RefusedRequest("no revision is in force yet; the hub has no agents to give work to")
        try:
            manifest = parse_dropped("submitted", content, desired)
            digest = hashlib.sha256(content).hexdigest()
            run = record_dropped(
                manifest,
                digest,
                self._world,
                desired,
                source="api",
                uid=_uid_of(caller),
                key=key,
                actor=str(caller),
            )
        except RefusedManifest as exc:
            raise RefusedRequest(str(exc), status=422) from exc
        self.wake()
        return {"task": run.name, "run": run.run, "state": run.state}

    def tasks(self, *, limit: int = PAGE, before: str = "") -> Mapping[str, Any]:
        store = self._world.store
        last = self._run(before) if before else None
        runs = records.newest_tasks(store, limit + 1, last)
        shown = runs[-limit:]
        return {
            "tasks": [_in_short(run) for run in shown],
            "before": shown[0].run if len(runs) > limit else "",
            "schedules": show_schedules(records.schedules(store).values(), self._world.clock.now()),
        }

    def task(self, name: str) -> Mapping[str, Any]:
        run = self._run(name)
        return {**_in_short(run), **result_document(self._world.store, run), "checks": json.loads(run.checks)}

    def artefact(self, name: str, file: str) -> bytes:
        run = self._run(name)
        found = records.results(self._world.store, [run.run]).get(run.run)
        listed = json.loads(found.artefacts) if found is not None else []
        digest = next((a["sha256"] for a in listed if a["name"] == file), None)
        content = read_artefact(self._world.state, digest) if digest is not None else None
        if content is None:
            names = ", ".join(a["name"] for a in listed) or "none"
            raise RefusedRequest(f"task {run.name} left no artefact {file!r}; it left: {names}", status=404)
        return content

    def explain(self, name: str) -> Mapping[str, Any]:
        plan = self._loop.run_pass(apply=False).plan
        store = self._world.store
        if name in records.schedules(store):
            change = next(c for c in plan.changes if (c.kind, c.name) == ("task", name))
            last = next(iter(records.tasks_of_schedule(store, name, 1)), None)
            return {"task": name, "why": explain_schedule(name, change, last)}
        run = self._run(name)
        found = (c for c in plan.changes if c.kind == "task" and c.spec.run is not None and c.spec.run.run == run.run)
        mode = self._hub.last.mode if self._hub.last is not None else Mode.NORMAL
        planned = next(found, None)
        if planned is None and run.state in (TaskState.PENDING, TaskState.AUTHORISED):
            return {"task": run.name, "run": run.run, "state": run.state, "why": self._explain_in_line(run, plan)}
        why = explain_task(run, planned, records.units(store).get(f"task/{run.name}"), mode)
        return {"task": run.name, "run": run.run, "state": run.state, "why": why}

    def _explain_in_line(self, run: TaskRecord, plan: Plan) -> str:
        """Why a run does not run that the plan only counts: it stands behind others."""
        store, clock = self._world.store, self._world.clock
        line, needs = records.line_of(run.manifest)
        parents = {r.name: r.state for r in queue.newest_by_name(store, queue.names_of(needs))}
        planned = (c for c in plan.changes if c.kind == "task" and c.spec.run is not None)
        same = (c for c in planned if (c.spec.run.state, c.spec.run.agent) == (run.state, run.agent))
        return explain_in_line(
            run,
            next((c for c in same if records.line_of(c.spec.run.manifest)[0] == line), None),
            ahead=queue.ahead_of(store, run),
            waits_for=[n for n in queue.names_of(needs) if parents.get(n) != TaskState.SUCCEEDED],
            wait_s=run.not_before_boot - clock.boottime() if run.boot_id == clock.boot_id() else 0.0,
        )

    def acknowledge(self, name: str, caller: Caller) -> Mapping[str, Any]:
        run = self._run(name)
        if run.escalated != OPERATOR:
            raise RefusedRequest(f"task {run.name} waits for no person")
        self._record(run, "acknowledge", caller, replace(run, escalated=ACKNOWLEDGED))
        self.wake()
        return {"task": run.name, "run": run.run}

    def cancel(self, name: str, caller: Caller) -> Mapping[str, Any]:
        run = self._run(name)
        if run.state in FINAL:
            raise RefusedRequest(f"task {run.name} is {run.state} already; there is nothing to cancel")
        if run.state in (TaskState.ASSIGNED, TaskState.RUNNING):
            asked = replace(run, reason=f"{CANCEL_REQUESTED}: by {_why(caller)}", sent_epoch="")
            self._record(run, "cancel", caller, asked)
        else:
            now = self._world.clock.now().isoformat()
            done = replace(run, state=TaskState.CANCELLED, reason=f"cancelled by {_why(caller)}", finished_at=now)
            self._record(run, "cancel", caller, done)
        self.wake()
        return {"task": run.name, "run": run.run}

    def retry(self, name: str, caller: Caller) -> Mapping[str, Any]:
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
            checks="[]",
            remedy="",
            tried="",
            spent=0,
            escalated="",
        )
        self._record(run, "retry", caller, again)
        self.wake()
        return {"task": run.name, "run": run.run}

    def order(self, name: str, verb: str, caller: Caller) -> Mapping[str, Any]:
        with self._world.store.transaction():
            answer = order_agent(self._world, name, verb, caller, self._loop.revisions.applied)
            desired = self._loop.revisions.last_good()
            if verb == "release" and desired is not None:
                restore_trust(self._world, desired, answer["agent"], caller)
        self.wake()
        return answer

    def suspensions(self) -> Mapping[str, Any]:
        return list_suspensions(self._world)

    def suspend(self, content: bytes, caller: Caller) -> Mapping[str, Any]:
        changes = self._hub.last.plan.changes if self._hub.last is not None else ()
        known = frozenset(unit for c in changes for unit in (f"{c.kind}/{c.name}", c.unit))
        answer = suspend_subject(self._world, content, caller, known, self._loop.revisions.applied)
        self.wake()
        return answer

    def resume(self, subject: str, caller: Caller) -> Mapping[str, Any]:
        answer = resume_subject(self._world, subject, caller, self._loop.revisions.applied)
        self.wake()
        return answer

    def rollbacks(self) -> Mapping[str, Any]:
        return list_rollbacks(self._world.store)

    def roll_back(self, content: bytes, caller: Caller) -> Mapping[str, Any]:
        answer = roll_back_subject(self._loop, content, caller)
        self.wake()
        return answer

    def clear_rollback(self, subject: str, caller: Caller) -> Mapping[str, Any]:
        answer = clear_subject(self._loop, self._world.store, subject, caller)
        self.wake()
        return answer

    def explain_agent(self, name: str) -> Mapping[str, Any]:
        plan = self._loop.run_pass(apply=False).plan
        mode = self._hub.last.mode if self._hub.last is not None else Mode.NORMAL
        units = records.units(self._world.store)
        changes = [c for c in plan.changes if c.kind == "agent"]
        subjects = {f"agent/{name}", *(f"agent/{c.name}" for c in changes if c.instance == name)}
        suspended = next((str(s) for s in read_suspensions(self._world.store) if s.names(*subjects)), "")
        why = explain_agent(name, changes, units, mode, suspended)
        if not why:
            raise RefusedRequest(f"there is no agent or instance {name!r} in git or on record", status=404)
        return {"agent": name, "why": why}

    def send(self, content: bytes, caller: Caller) -> Mapping[str, Any]:
        order = read_message(content, caller)
        try:
            self._world.router.send(order)
        except RefusedByRouterError as exc:
            raise RefusedRequest(str(exc), status=exc.status) from exc
        except RouterError as exc:
            raise RefusedRequest(f"{exc}; try again when `reconciler status` shows no RouterDown", status=502) from exc
        self._note("message", order["message"]["id"], "send", caller)
        return {"id": order["message"]["id"]}

    def confirm(self, digest: str, caller: Caller) -> Mapping[str, Any]:
        last = self._hub.last
        if last is None or not any(r.confirm == digest for r in last.plan.refused):
            raise RefusedRequest(f"no refused plan has the digest {digest}; look at `reconciler plan` again")
        with self._world.store.transaction():
            self._world.store.set_meta(CONFIRMED, digest)
            self._note("plan", digest, "confirm", caller)
        self.wake()
        return {"confirmed": digest}

    def take_down(self, *, drain: bool, caller: Caller) -> Mapping[str, Any]:
        self._note("hub", self._world.fleet, "down" if drain else "down now", caller)
        self._on_down(drain)
        return {"going_down": True}

    def _run(self, name: str) -> TaskRecord:
        runs = records.tasks_of(self._world.store, name)
        if not runs:
            raise RefusedRequest(f"there is no task {name!r}; see `reconciler task list`", status=404)
        return runs[-1]

    def _record(self, run: TaskRecord, action: str, caller: Caller, fresh: TaskRecord) -> None:
        with self._world.store.transaction():
            current = records.task(self._world.store, run.run)
            if current is None or (current.state, current.generation) != (run.state, run.generation):
                raise RefusedRequest(f"task {run.name} changed meanwhile; try again")
            records.put_tasks(self._world.store, [fresh])
            self._note("task", run.name, action, caller)

    def _note(self, kind: str, name: str, action: str, caller: Caller) -> None:
        revision = self._loop.revisions.applied
        append(self._world.store, [self._world.asked(caller, revision=revision, kind=kind, name=name, action=action)])


def _why(caller: Caller) -> str:
    return f"{caller}: {caller.reason}" if caller.reason else str(caller)


def _uid_of(caller: Caller) -> int:
    """The user id of a peer. Who came by a token has none: a number below zero of the token's own."""
    return caller.uid if caller.uid is not None else -1 - zlib.crc32(caller.proven.encode())


def _in_short(run: TaskRecord) -> dict[str, Any]:
    """A run without its manifest and what only applying needs."""
    kept = ("name", "run", "state", "reason", "source", "revision", "priority", "agent", "instance", "attempts")
    more = ("created_at", "started_at", "finished_at", "progress", "schedule", "due", "purpose", "parent", "escalated")
    return {name: getattr(run, name) for name in (*kept, *more)}
