"""Planning without anything to compare with: as if the fleet were new. Pure; needs no state and no engine."""

from datetime import UTC, datetime

from reconciler.core.plan import Plan
from reconciler.core.reading import Ok
from reconciler.kinds import KINDS
from reconciler.kinds.kind import Desired, Facts
from reconciler.loop.observe import Observed
from reconciler.loop.plan import make_plan


def plan_against_nothing(desired: Desired) -> Plan:
    """Everything in git as something to create."""
    facts = Facts(now=datetime.now(UTC), boottime=0.0, boot_id="")
    observed = Observed(readings={k.name: Ok(k.nothing()) for k in KINDS}, facts=facts)
    return make_plan(desired, observed, KINDS, compared_with="nothing")
