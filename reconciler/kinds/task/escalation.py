"""Tasks that wait for a person: what the operator is told of them, as a condition of the hub."""

from reconciler.kinds.task.plan import OPERATOR
from reconciler.store import queue
from reconciler.store.store import Store

ACKNOWLEDGED = "acknowledged"
_SHOWN = 5


def escalations(store: Store) -> list[tuple[str, str, str]]:
    """The condition `TaskEscalated` as type, reason and message, while any task waits. Raises StoreError."""
    waiting = queue.escalated(store, OPERATOR)
    if not waiting:
        return []
    shown = "; ".join(f"{r.name} ({r.state.replace('_', ' ')}: {r.reason[:200]})" for r in waiting[:_SHOWN])
    more = f"; and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else ""
    advice = "`reconciler task retry` or `reconciler task acknowledge` ends this"
    return [("TaskEscalated", "NeedsPerson", f"came to no good end: {shown}{more}; {advice}")]
