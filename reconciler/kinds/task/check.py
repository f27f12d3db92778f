"""Cross references of tasks: agents, capabilities and dependencies must exist, and nothing waits for itself."""

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.core.problem import Problem
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.spec import TaskSpec
from reconciler.settings import OperatorSpec


def check(desired: Desired, _operator: OperatorSpec) -> Sequence[Problem]:
    """Problems of all tasks of a revision."""
    tasks: Mapping[str, Manifest[TaskSpec]] = desired.of("task")
    agents = desired.of("agent")
    out: list[Problem] = []
    for manifest in tasks.values():
        spec = manifest.spec
        if spec.agent is not None and spec.agent not in agents and "agent" not in desired.broken:
            known = ", ".join(sorted(agents)) or "none"
            out.append(manifest.problem(f"agent {spec.agent!r} is not defined; agents are: {known}"))
        if "agent" not in desired.broken:
            out.extend(_unmet(manifest, agents))
        out.extend(
            manifest.problem(f"dependsOn names task {name!r}, which is not defined")
            for name in spec.depends_on
            if name not in tasks and "task" not in desired.broken
        )
    out.extend(_cycles(tasks))
    return out


def _unmet(manifest: Manifest[TaskSpec], agents: Mapping[str, Manifest[Any]]) -> Sequence[Problem]:
    spec = manifest.spec
    if not spec.requires:
        return ()
    able = [a for a in agents.values() if set(spec.requires) <= set(getattr(a.spec, "capabilities", ()))]
    if not able:
        return (manifest.problem(f"no agent has all of the capabilities {', '.join(spec.requires)}"),)
    if spec.select is None:
        return ()
    select = spec.select
    for agent in able:
        role_fits = select.role is None or getattr(agent.spec, "role", None) == select.role
        if role_fits and all(agent.labels.get(k) == v for k, v in select.labels.items()):
            return ()
    return (manifest.problem("no agent with the required capabilities matches 'select'"),)


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
                problem = tasks[first].problem(f"dependsOn goes in a circle: {' -> '.join(cycle)}")
                if not any(set(cycle) == set(str(p.message).split(": ")[1].split(" -> ")) for p in out):
                    out.append(problem)
            elif following in tasks and following not in done:
                stack.append((following, iter(tasks[following].spec.depends_on)))
    return out


def check_dropped(manifest: Manifest[TaskSpec], desired: Desired) -> Sequence[Problem]:
    """Problems of one task that came as a file or by the API, against the fleet in force."""
    spec, agents = manifest.spec, desired.of("agent")
    out: list[Problem] = list(_unmet(manifest, agents))
    if spec.agent is not None and spec.agent not in agents:
        known = ", ".join(sorted(agents)) or "none"
        out.append(manifest.problem(f"agent {spec.agent!r} is not defined; agents are: {known}"))
    if manifest.name in spec.depends_on:
        out.append(manifest.problem("dependsOn names the task itself"))
    return out
