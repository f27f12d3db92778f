"""Seeing at a glance which agents are as they shall be: nearly all of them, in nearly every pass. Pure.

A glance may overlook rest, but never see it where there is none: where it says yes, `Instance.decide` says KEEP.
"""

from collections.abc import Sequence
from datetime import datetime

from reconciler.core.reading import Ok
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.agent.state import InstanceState, Phase
from reconciler.kinds.agent.view import why_silent
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.route_entry import recorded_address


def is_at_rest(manifest: Manifest[AgentSpec], states: Sequence[InstanceState], desired: Desired, facts: Facts) -> bool:
    """Whether all instances execute what git says, untouched, and nothing else decides what becomes of them."""
    spec = manifest.spec
    image = desired.images.get(spec.image)
    if (
        spec.mode != "persistent"
        or spec.idle is not None
        or (spec.llm is not None and spec.executor.type != "command")
        or not isinstance(image, Ok)
        or manifest.name in facts.distrusted
        or desired.plane.address_of(manifest.name)
    ):
        return False
    return all(_rests(state, manifest, image.value, facts) for state in states)


def _rests(state: InstanceState, manifest: Manifest[AgentSpec], image_id: str, facts: Facts) -> bool:
    record, container, report, spec = state.record, state.container, state.report, manifest.spec
    return (
        record is not None
        and container is not None
        and report is not None
        and container.state == "running"
        and state.sealed
        and (state.as_recorded or state.inspected is None)
        and state.order is None
        and not state.secrets
        and record.phase == Phase.EXECUTING
        and record.spec_digest == manifest.digest
        and record.image_id == image_id
        and not record.crashes
        and not record.rejected
        and not recorded_address(record.fields)
        and not why_silent(report, spec, facts)
        and (facts.now - datetime.fromisoformat(record.created_at)).total_seconds() <= spec.lifecycle.ttl
    )
