"""What is said of a revision before it is merged is what a hub does once it is."""

import json
from datetime import timedelta

from hypothesis import given

from reconciler.core.change import Action
from reconciler.core.plan import Plan
from reconciler.loop.base import plan_against_base
from reconciler.loop.export import Export, plan_against_export, read_export, write_export
from reconciler.loop.recorded import Assent, plan_against_record, read_record
from tests.fakes.clock import START
from tests.laws.fleets import FEW, RandomFleet, fleets
from tests.laws.test_plan import hub_over


def _done(plan: Plan) -> dict[str, Action]:
    """What is done to what runs. A task that is gone has ended here, which a base cannot know."""
    return {
        c.unit: c.action
        for c in plan.pending
        if c.action is not Action.CANCEL and not (c.kind == "agent" and c.instance is None)
    }


@FEW
@given(fleets(), fleets())
def test_plans_by_base_export_and_record_are_one(first: RandomFleet, second: RandomFleet) -> None:
    with hub_over(first) as fleet:
        base, head = first.desired("r1"), second.desired("r2")
        now = fleet.clock.now()
        by_record = plan_against_record(head, fleet.store, fleet.clock, is_descendant=True)
        by_base = plan_against_base(head, base, Assent(), now)
        document = json.dumps(write_export(read_record(fleet.store), now, "0.1.0")).encode()
        export = read_export(document, "live.json")
        assert isinstance(export, Export), export
        by_export = plan_against_export(head, export, Assent())
        assert _done(by_base) == _done(by_record)
        assert _done(by_export) == _done(by_record)
        assert by_base.digest == by_export.digest == by_record.digest


@FEW
@given(fleets())
def test_a_revision_against_itself_keeps_everything(revision: RandomFleet) -> None:
    desired = revision.desired()
    for later in (timedelta(), timedelta(days=400)):
        plan = plan_against_base(desired, desired, Assent(), START + later)
        assert {c.action for c in plan.changes} <= {Action.KEEP}
