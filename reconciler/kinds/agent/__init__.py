"""Agents: their instances, each with a container, a token and a route."""

from reconciler.kinds.agent.check import check, contribute
from reconciler.kinds.agent.findings import find
from reconciler.kinds.agent.plan import plan
from reconciler.kinds.agent.rollout import watch
from reconciler.kinds.agent.spec import load
from reconciler.kinds.agent.state import AgentStates
from reconciler.kinds.agent.view import view
from reconciler.kinds.kind import Kind, later

AGENT = Kind(
    name="agent",
    load=load,
    check=check,
    contribute=contribute,
    observe=later("reconciler.kinds.agent.observe", "observe"),
    plan=plan,
    apply=later("reconciler.kinds.agent.apply", "apply"),
    nothing=AgentStates,
    view=view,
    find=find,
    watch=watch,
    images=lambda desired: {m.spec.image for m in desired.of("agent").values()},
)
