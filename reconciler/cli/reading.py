"""What the reading commands know of a fleet: its state.db, opened read-only, and what a running hub says."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reconciler.cli.hub import find_remote
from reconciler.cli.options import NEWEST
from reconciler.core.condition import Condition, derive_mode
from reconciler.errors import UsageError
from reconciler.home import data_folder, is_locked, open_home
from reconciler.store import audit, queue, records
from reconciler.store.records import InstanceRecord, RevisionRecord, TaskRecord, UnitRecord
from reconciler.store.store import FILE_NAME, Store

HISTORY = 30
WAITING = ("pending", "authorised", "checking")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """What the record says, at one moment; of `tasks` the newest, of which `older` ones there are so many more."""

    id: str
    store: Store
    state: Path
    run: Path
    runtime: str
    revision: str
    instances: tuple[InstanceRecord, ...]
    tasks: tuple[TaskRecord, ...]
    older: int
    revisions: tuple[RevisionRecord, ...]
    conditions: tuple[Condition, ...]
    units: tuple[UnitRecord, ...]

    def waiting(self) -> dict[str, str]:
        """Why each task that waits does so, by name: asked of the running hub; empty without one."""
        from reconciler.api.client import HubAwayError, call
        from reconciler.errors import UsageError

        if not self.is_running or not any(t.state in WAITING for t in self.tasks):
            return {}
        try:
            plan = call(self.run / "api.sock", "GET", "/api/v1/plan")
        except (HubAwayError, UsageError):
            return {}
        return {c["name"]: c["reason"] for c in plan["changes"] if c["kind"] == "task" and c["action"] == "hold"}

    @property
    def is_running(self) -> bool:
        """Whether a hub runs. Not for asking often: it holds the hub's lock for an instant."""
        return is_locked(self.state)

    def ask_hub(self) -> Mapping[str, Any]:
        """What only a running hub knows, such as what instances use; empty where none answers."""
        from reconciler.api.client import HubAwayError, call
        from reconciler.errors import UsageError

        try:
            found: Mapping[str, Any] = call(self.run / "api.sock", "GET", "/status")
        except (HubAwayError, UsageError):
            return {}
        return found

    @property
    def policy_engine(self) -> str:
        """The engine that answers the router now; empty where no router runs."""
        from reconciler.core.reading import Ok
        from reconciler.router.client import RouterLink

        report = RouterLink(self.id, self.run, self.state).report()
        return report.value.policy_engine if isinstance(report, Ok) else ""

    @property
    def mode(self) -> str:
        return str(derive_mode(self.conditions))

    def left(self) -> str:
        """What is still to be removed, and what kept the hub from reading the runtime; empty where nothing is."""
        if not self.instances:
            return ""
        count = f"{len(self.instances)} instance{'s' if len(self.instances) != 1 else ''} on record"
        away = next((c.message for c in self.conditions if c.type == "RuntimeUnavailable"), "")
        return f"{count}; the {self.runtime} runtime cannot be read: {away}" if away else count

    def agents(self) -> dict[str, list[InstanceRecord]]:
        out: dict[str, list[InstanceRecord]] = {}
        for record in self.instances:
            out.setdefault(record.agent, []).append(record)
        return out

    def to_json(self) -> dict[str, Any]:
        """All of it; token digests and seals stay out."""
        from reconciler.loop.kept import HEALTHY
        from reconciler.loop.rollback import read_rollbacks

        return {
            "fleet": self.id,
            "running": self.is_running,
            "mode": self.mode if self.is_running else "offline",
            "runtime": self.runtime,
            "policy_engine": self.policy_engine,
            "revision": self.revision,
            "healthy": self.store.get_meta(HEALTHY) or "",
            "rollbacks": [asdict(r) for r in read_rollbacks(self.store)],
            "agents": {n: [i.name for i in rows] for n, rows in sorted(self.agents().items())},
            "instances": [_public(i) for i in self.instances],
            "tasks": [_without(asdict(t), "manifest", "schemas") for t in self.tasks],
            "schedules": self.schedules(),
            "revisions": [_without(asdict(r), "tree") for r in self.revisions],
            "conditions": [c.to_json() for c in self.conditions],
            "units": [asdict(u) for u in self.units],
        }

    def schedules(self) -> list[dict[str, str]]:
        """Every schedule of the record, with when it is due next."""
        from reconciler.kinds.task.schedule import show_schedules

        return show_schedules(records.schedules(self.store).values(), datetime.now(UTC))

    def task(self, name: str) -> TaskRecord | None:
        """The newest run of a task's name, or the run of that id."""
        return next(reversed(records.tasks_of(self.store, name)), None)

    def describe(self, kind: str, name: str) -> dict[str, Any] | None:
        """One resource with its audit history; None where there is none."""
        if kind == "task":
            return self._describe_task(name)
        rows = [i for i in self.instances if name in (i.name, i.agent if kind == "agent" else "")]
        if not rows:
            return None
        manifest = json.loads(rows[0].manifest)
        shown: dict[str, Any] = {"agent": rows[0].agent, "labels": manifest["labels"], "spec": manifest["spec"]}
        for row in rows:
            shown[row.name] = {k: v for k, v in _public(row).items() if v not in ("", 0, 0.0)}
        return {**shown, "history": self._history("agent", [r.name for r in rows])}

    def _describe_task(self, name: str) -> dict[str, Any] | None:
        schedule = next((s for s in self.schedules() if s["name"] == name), None)
        run = self.task(name)
        if run is None and schedule is not None:
            runs = [f"{t.name}: {t.state}" for t in records.tasks_of_schedule(self.store, name, HISTORY)]
            return {**schedule, "runs": runs, "history": self._history("task", [name])}
        if run is None:
            return None
        found = records.results(self.store, [run.run]).get(run.run)
        shown = {k: v for k, v in asdict(run).items() if v not in ("", 0, 0.0) and k != "manifest"}
        asked = json.loads(run.manifest)
        shown |= {name: asked[name] for name in ("spec", records.DELEGATION) if name in asked}
        shown.pop("schemas", None)
        shown["checks"] = json.loads(run.checks)
        shown["executions"] = [asdict(a) for a in records.attempts(self.store, run.run)]
        if found is not None:
            shown |= {
                "exit_code": found.exit_code,
                "result": json.loads(found.result),
                "error": found.error,
                "stderr": found.stderr_tail,
                "artefacts": json.loads(found.artefacts),
                "duration_s": found.duration_s,
                "usage": json.loads(found.usage),
            }
        return {**shown, "history": self._history("task", [run.name])}

    def _history(self, kind: str, names: list[str]) -> list[dict[str, Any]]:
        return [
            {
                "seq": r.seq,
                "time": r.entry.time,
                "action": r.entry.action,
                "outcome": r.entry.outcome,
                "actor": r.entry.actor,
                "cause": r.entry.cause,
                "revision": r.entry.revision,
                "reason": r.entry.reason,
            }
            for r in audit.history(self.store, kind, names, HISTORY)
        ]


def read_fleet(source: str, data: str | None, most: int = NEWEST) -> FleetView:
    """Open a fleet's record, with at most so many runs of tasks, or all of them where it is 0.

    Raises UsageError where there is none, StoreError where it cannot be read.
    """
    if find_remote() is not None:
        raise UsageError("this reads files of the hub's own host, and --hub names another one; leave --hub out there")
    state = data_folder(source, data)
    home = open_home(state, create=False)
    if home is None or not (state / FILE_NAME).exists():
        raise UsageError(f"there is no fleet in {state} yet; start one with `reconciler run`, or name it with --data")
    store = Store(state / FILE_NAME, read_only=True)
    tasks = tuple(records.newest_tasks(store, most) if most else records.tasks(store))
    conditions = tuple(c for c in records.conditions(store).values() if c.status)
    return FleetView(
        id=home.fleet,
        store=store,
        state=state,
        run=home.run,
        runtime=store.get_meta("runtime") or "",
        revision=store.get_meta("applied_revision") or "",
        instances=tuple(records.instances(store).values()),
        tasks=tasks,
        older=sum(queue.counts(store).values()) - len(tasks),
        revisions=tuple(sorted(records.revisions(store), key=lambda r: r.applied_at)),
        conditions=conditions,
        units=tuple(records.units(store).values()),
    )


def _public(record: InstanceRecord) -> dict[str, Any]:
    return _without(asdict(record), "manifest", "fields", "token_sha256")


def _without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k not in keys}
