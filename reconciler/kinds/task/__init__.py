"""Tasks: what agents are asked to do, from git, the inbox or the API."""

from reconciler.kinds.kind import Kind
from reconciler.kinds.task.apply import apply
from reconciler.kinds.task.check import check
from reconciler.kinds.task.observe import observe
from reconciler.kinds.task.plan import plan
from reconciler.kinds.task.receive import receive
from reconciler.kinds.task.spec import load
from reconciler.kinds.task.state import TaskStates

TASK = Kind(
    name="task",
    load=load,
    check=check,
    contribute=lambda _desired: {},
    observe=observe,
    plan=plan,
    apply=apply,
    nothing=TaskStates,
    receive=receive,
)
