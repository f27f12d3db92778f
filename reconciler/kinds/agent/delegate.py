"""The manifest of an instance that is made for one delegated run: that of its agent, with less. Pure."""

from dataclasses import replace
from typing import Any

from reconciler.core.digest import digest
from reconciler.core.fleet import FIRST_DELEGATE, Delegate, MayDelegate
from reconciler.kinds.agent.spec import AgentSpec, AgentTasks
from reconciler.kinds.agent.state import InstanceState
from reconciler.kinds.manifest import Manifest


def narrow(manifest: Manifest[AgentSpec], delegate: Delegate) -> Manifest[AgentSpec]:
    """What the instance is made from: one instance for one task, without capabilities that it was not given."""
    spec = manifest.spec
    given = tuple(c for c in spec.capabilities if c in delegate.capabilities)
    less: dict[str, Any] = {"capabilities": given, "replicas": 1, "mode": "persistent"}
    if spec.idle is not None:
        less["idle"] = None
    if spec.tasks.max_parallel != 1:
        less["tasks"] = AgentTasks()
    narrowed = replace(manifest, spec=spec.model_copy(update=less))
    return replace(narrowed, digest=digest(narrowed.written))


def is_delegate(state: InstanceState) -> bool:
    return state.record is not None and state.record.ordinal >= FIRST_DELEGATE


def may_delegate(spec: AgentSpec) -> MayDelegate:
    """What other kinds may know of the section `delegation`."""
    section = spec.delegation
    budget = section.budget
    return MayDelegate(to=section.to, max_depth=section.max_depth, tasks=budget.tasks, cpus=budget.cpus)
