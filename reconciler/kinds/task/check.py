"""Cross references of tasks: agents, schemas and dependencies must exist, and nothing waits for itself."""

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.core.problem import Problem
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.spec import MAX_SCHEDULED_NAME, LoadedTasks, TaskSpec
from reconciler.settings import OperatorSpec


def check(desired: Desired, _operator: OperatorSpec) -> Sequence[Problem]:
    """Problems of all tasks of a revision."""
    tasks: Mapping[str, Manifest[TaskSpec]] = desired.of("task")
    agents = desired.of("agent")
    out: list[Problem] = []
    for manifest in tasks.values():
        if "agent" not in desired.broken:
            out.extend(_strangers(manifest, agents))
            out.extend(_unmet(manifest, agents))
        out.extend(_unusable_schemas(manifest, desired))
        out.extend(
            manifest.problem(f"dependsOn names task {name!r}, which is not defined", "dependsOn", index)
            for index, name in enumerate(manifest.spec.depends_on)
            if name not in tasks and "task" not in desired.broken
        )
        out.extend(_scheduled(manifest, tasks))
    out.extend(_cycles(tasks))
    return out


def _strangers(manifest: Manifest[TaskSpec], agents: Mapping[str, Manifest[Any]]) -> Sequence[Problem]:
    """Agents that are named and not there."""
    spec = manifest.spec
    named: list[tuple[str | None, tuple[str | int, ...]]] = [
        (spec.agent, ("agent",)),
        (spec.escalate.agent if spec.escalate is not None else None, ("escalate", "agent")),
        *((check.agent, ("acceptance", index, "agent")) for index, check in enumerate(spec.acceptance)),
    ]
    known = ", ".join(sorted(agents)) or "none"
    return [
        manifest.problem(f"agent {name!r} is not defined; agents are: {known}", *path)
        for name, path in named
        if name is not None and name not in agents
    ]


def _unusable_schemas(manifest: Manifest[TaskSpec], desired: Desired) -> Sequence[Problem]:
    """Schemas that results shall fit, and that are not there or are none."""
    loaded = desired.loaded.get("task")
    schemas = loaded.schemas if isinstance(loaded, LoadedTasks) else {}
    folder = desired.hub.paths.schemas
    out: list[Problem] = []
    spec = manifest.spec
    named: list[tuple[str | None, tuple[str | int, ...]]] = [
        (spec.output.schema_, ("output", "schema")),
        *((check.schema_, ("acceptance", index, "schema")) for index, check in enumerate(spec.acceptance)),
    ]
    for path, where in named:
        if path is None:
            continue
        found = schemas.get(path)
        if found is None:
            known = ", ".join(sorted(schemas)) or "none"
            out.append(manifest.problem(f"schema {path!r} is not directly in {folder}/; schemas are: {known}", *where))
        elif not isinstance(found, Mapping):
            out.extend(found)
    return out


def _scheduled(manifest: Manifest[TaskSpec], tasks: Mapping[str, Manifest[TaskSpec]]) -> Sequence[Problem]:
    out: list[Problem] = []
    if manifest.spec.schedule is not None and len(manifest.name) > MAX_SCHEDULED_NAME:
        message = f"the name of a task with a schedule has at most {MAX_SCHEDULED_NAME} characters, because the time is"
        out.append(manifest.problem(f"{message} added to it for each run; {manifest.name!r} has {len(manifest.name)}"))
    for index, name in enumerate(manifest.spec.depends_on):
        if (parent := tasks.get(name)) is not None and parent.spec.schedule is not None:
            message = f"dependsOn names task {name!r}, which has a schedule: it runs many times, and which one is meant"
            out.append(manifest.problem(f"{message} cannot be said; name tasks without one", "dependsOn", index))
    return out


def _unmet(manifest: Manifest[TaskSpec], agents: Mapping[str, Manifest[Any]]) -> Sequence[Problem]:
    spec = manifest.spec
    if not spec.requires:
        return ()
    able = [a for a in agents.values() if set(spec.requires) <= set(getattr(a.spec, "capabilities", ()))]
    if not able:
        return (manifest.problem(f"no agent has all of the capabilities {', '.join(spec.requires)}", "requires"),)
    if spec.select is None:
        return ()
    select = spec.select
    for agent in able:
        role_fits = select.role is None or getattr(agent.spec, "role", None) == select.role
        if role_fits and all(agent.labels.get(k) == v for k, v in select.labels.items()):
            return ()
    return (manifest.problem("no agent with the required capabilities matches 'select'", "select"),)


def _cycles(tasks: Mapping[str, Manifest[TaskSpec]]) -> Sequence[Problem]:
    """One problem per cycle, at the first task of it by name."""
    out: list[Problem] = []
    done: set[str] = set()
    for start in sorted(tasks):
        path: list[str] = []
        stack = [(start, iter(tasks[start].spec.depends_on))]
        while stack:
            name, rest = stack[-1]
            if name not in path:
                path.append(name)
            following = next(rest, None)
            if following is None:
                done.add(name)
                path.remove(name)
                stack.pop()
            elif following in path:
                cycle = [*path[path.index(following) :], following]
                first = min(cycle)
                problem = tasks[first].problem(f"dependsOn goes in a circle: {' -> '.join(cycle)}", "dependsOn")
                if not any(set(cycle) == set(str(p.message).split(": ")[1].split(" -> ")) for p in out):
                    out.append(problem)
            elif following in tasks and following not in done:
                stack.append((following, iter(tasks[following].spec.depends_on)))
    return out


def check_dropped(manifest: Manifest[TaskSpec], desired: Desired) -> Sequence[Problem]:
    """Problems of one task that came as a file or by the API, against the fleet in force."""
    agents = desired.of("agent")
    out = [
        *_unmet(manifest, agents),
        *_strangers(manifest, agents),
        *_unusable_schemas(manifest, desired),
        *_scheduled(manifest, desired.of("task")),
    ]
    if manifest.name in manifest.spec.depends_on:
        out.append(manifest.problem("dependsOn names the task itself", "dependsOn"))
    if manifest.spec.schedule is not None:
        out.append(
            manifest.problem("a schedule needs a manifest in git; commit it, or leave 'schedule' out", "schedule")
        )
    return out
