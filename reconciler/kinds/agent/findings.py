"""What a person should know of the fleet as it is found. Pure."""

from collections.abc import Mapping, Sequence

from reconciler.core.condition import Finding
from reconciler.kinds.agent.state import AgentStates

RUNTIME = "runtime"
_SHOWN = 5


def find(observed: AgentStates) -> Mapping[str, Sequence[Finding]]:
    """Containers without a record, ours or not."""
    names = sorted(n for n, state in observed.instances.items() if state.record is None and state.container is not None)
    if not names:
        return {RUNTIME: ()}
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    message = f"containers without a record: {', '.join(names[:_SHOWN])}{more}; see `reconciler plan`"
    return {RUNTIME: (Finding(subject=RUNTIME, type="Orphans", reason="NoRecord", message=message),)}
