"""A glance sees rest only where every question about every instance is answered by "keep"."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.change import Action
from reconciler.core.reading import Absent, Ok
from reconciler.core.secret import SecretFault
from reconciler.kinds.agent.instance import Instance
from reconciler.kinds.agent.rest import is_at_rest
from reconciler.kinds.agent.rollout import InForce
from reconciler.kinds.agent.state import InstanceState, Phase
from reconciler.settings import AgentPlane
from reconciler.store.records import OrderRecord
from tests.fakes.clock import START
from tests.kinds.agent.build import BOOT_S, IMAGE_ID, ROUTER, desired_of, facts_of, manifest_of, record_of, state_of

WRITER = manifest_of()
OTHER = manifest_of(description="Writes otherwise")
ORDER = OrderRecord(name="writer-0", verb="drain", actor="uid:0", at="2026-01-01T00:00:00+00:00")
OWN_PORT = '{"env": {"HUB_ADDRESS": "10.0.0.1:8421"}}'
REJECTED = f'{{"digest": "{WRITER.digest}", "image_id": "{IMAGE_ID}", "why": "it crashed"}}'


def untouched() -> InstanceState:
    return state_of(record_of(WRITER), as_recorded=True)


def test_an_instance_that_is_as_git_says_rests() -> None:
    assert is_at_rest(WRITER, [untouched()], desired_of(WRITER), facts_of())


def test_an_agent_rests_only_with_all_its_instances() -> None:
    away = state_of(record_of(WRITER, 1), as_recorded=True, container="")
    assert not is_at_rest(WRITER, [untouched(), away], desired_of(WRITER), facts_of())


RECORDS: list[dict[str, Any]] = [
    {},
    *({"phase": phase} for phase in Phase),
    {"spec_digest": OTHER.digest},
    {"image_id": ""},
    {"image_id": "sha256:moved"},
    {"crashes": 2},
    {"rejected": REJECTED},
    {"fields": OWN_PORT},
    {"created_at": "2025-01-01T00:00:00+00:00"},
]
STATES: list[dict[str, Any]] = [
    {},
    {"record": None},
    {"container": None, "inspected": None, "sealed": False},
    {"sealed": False},
    {"as_recorded": False},
    {"inspected": None},
    {"order": ORDER},
    {"secrets": {"key": SecretFault.MISSING}},
    {"secrets": {"key": SecretFault.CHANGED}},
    {"report": None},
]
FACTS: list[dict[str, Any]] = [
    {},
    {"router": None},
    {"router": replace(ROUTER, uptime_s=5000.0), "boottime": BOOT_S + 4000},
    {"now": START + timedelta(days=400)},
    {"distrusted": {"writer": "it lies"}},
]


@given(
    st.sampled_from(RECORDS),
    st.sampled_from(["running", "exited", "paused", "created"]),
    st.sampled_from(STATES),
    st.sampled_from(FACTS),
    st.sampled_from([Ok(IMAGE_ID), Ok("sha256:moved"), Absent()]),
    st.sampled_from([AgentPlane(), AgentPlane(listen="tcp://10.0.0.1:8421", agents=("writer",))]),
)
def test_what_a_glance_takes_for_rest_is_kept_for_every_reason(
    record: dict[str, Any], container: str, state: dict[str, Any], facts: dict[str, Any], image: Any, plane: AgentPlane
) -> None:
    one = replace(state_of(record_of(WRITER), container=container, as_recorded=True), **state)
    if one.record is not None:
        one = replace(one, record=replace(one.record, **record))
    desired, known = replace(desired_of(WRITER, image=image), plane=plane), facts_of(**facts)
    if is_at_rest(WRITER, [one], desired, known):
        decided = Instance(desired, known, InForce(manifest=WRITER), WRITER, 0, one, 500.0).decide()
        assert (decided.action, decided.reason) == (Action.KEEP, "as in git")
        assert one.record is not None and not one.record.rejected


@pytest.mark.parametrize(
    "spec",
    [{"mode": "per-task"}, {"idle": {"after": "10s"}}],
    ids=["its instances come with tasks", "it may sleep"],
)
def test_what_comes_and_goes_with_work_is_looked_at_closely(spec: dict[str, Any]) -> None:
    manifest = manifest_of(**spec)
    assert not is_at_rest(manifest, [state_of(record_of(manifest), as_recorded=True)], desired_of(manifest), facts_of())


@pytest.mark.parametrize(
    "change",
    [
        *({"record": {key: value}} for each in RECORDS[10:] for key, value in each.items()),
        *({"state": each} for each in STATES[1:] if each != {"inspected": None}),
        *({"facts": each} for each in FACTS[2:]),
    ],
    ids=str,
)
def test_whatever_is_otherwise_is_looked_at_closely(change: dict[str, dict[str, Any]]) -> None:
    one = untouched()
    assert one.record is not None
    one = replace(replace(one, record=replace(one.record, **change.get("record", {}))), **change.get("state", {}))
    assert not is_at_rest(WRITER, [one], desired_of(WRITER), facts_of(**change.get("facts", {})))
