"""Tasks: what agents are asked to do, from git, the inbox or the API."""

from reconciler.kinds.kind import Kind, later
from reconciler.kinds.task.check import check
from reconciler.kinds.task.plan import plan
from reconciler.kinds.task.spec import load
from reconciler.kinds.task.state import TaskStates

TASK = Kind(
    name="task",
    load=load,
    check=check,
    contribute=lambda _desired: {},
    observe=later("reconciler.kinds.task.observe", "observe"),
    plan=plan,
    apply=later("reconciler.kinds.task.apply", "apply"),
    nothing=TaskStates,
    receive=later("reconciler.kinds.task.receive", "receive"),
    join=later("reconciler.kinds.task.apply", "join"),
    apply_joint=later("reconciler.kinds.task.apply", "apply_joint"),
)
