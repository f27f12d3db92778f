"""What a person should know of the way out: providers that do not answer, and what cannot be written down. Pure."""

from collections.abc import Mapping, Sequence

from reconciler.core.condition import Finding
from reconciler.core.reading import Absent, Ok
from reconciler.kinds.egress.spec import NAME
from reconciler.kinds.egress.state import EgressState

PROVIDER = "provider"
_LEDGER = "ledger"


def find(observed: EgressState) -> Mapping[str, Sequence[Finding]]:
    """Nothing of who could not be asked."""
    match observed.report:
        case Ok(value=report):
            faults, policy_fault = sorted(report.faults.items()), report.policy_fault
        case Absent() if not observed.was_running:
            faults, policy_fault = [], ""
        case _:
            return {}
    return {
        PROVIDER: tuple(
            Finding(subject=f"{PROVIDER}/{name}", type="ProviderAway", reason="BreakerOpen", message=fault)
            for name, fault in faults
            if name != _LEDGER
        ),
        NAME: (
            *(
                Finding(subject=NAME, type="UsageUnwritable", reason="NoSpace", message=fault)
                for name, fault in faults
                if name == _LEDGER
            ),
            *(
                Finding(subject=NAME, type="PolicyFallback", reason="EngineAway", message=fault)
                for fault in [policy_fault]
                if fault
            ),
        ),
    }
