"""What every kind keeps to when it plans, whatever the fleet."""

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.change import Action, Change
from reconciler.core.condition import Mode
from reconciler.core.outcome import Applied
from reconciler.core.reading import Ok, Unavailable
from reconciler.identity.seal import INSTANCE_LABEL, SEAL_LABEL
from reconciler.kinds import KINDS
from reconciler.kinds.agent.state import AgentStates
from reconciler.kinds.kind import Desired, Facts
from reconciler.kinds.manifest import Loaded
from reconciler.loop.nothing import plan_against_nothing
from reconciler.loop.observe import Observed, observe
from reconciler.loop.plan import make_plan
from tests.fakes.clock import START
from tests.fakes.fleet import FakeFleet, put_beside, show
from tests.laws.fleets import FEW, HUB, RandomFleet, fleets

DESTROYING = {Action.REMOVE, Action.RECYCLE, Action.CREATE, Action.REPLACE, Action.RESTART, Action.CANCEL}


@contextmanager
def hub_over(*revisions: RandomFleet) -> Iterator[FakeFleet]:
    """A hub in a folder of its own that has converged at each of these revisions in turn."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = FakeFleet(Path(folder))
        for revision in revisions:
            fleet.commit(revision.files, hub=HUB)
            fleet.settle(80)
        yield fleet
        fleet.end_hub()


def look_at(fleet: FakeFleet, desired: Desired) -> Observed:
    fleet.inspections.forget_all()
    return observe(desired, KINDS, fleet.world, Mode.NORMAL, fleet.router.report())


@FEW
@given(fleets(), fleets())
def test_where_everything_is_as_git_says_only_keep_is_planned_and_nothing_is_done(
    first: RandomFleet, second: RandomFleet
) -> None:
    with hub_over(first, second) as fleet:
        report = fleet.look()
        assert {c.action for c in report.plan.changes} <= {Action.KEEP}, show(report)
        before = len(fleet.fuse.visited)
        assert fleet.run().done == ()
        assert len(fleet.fuse.visited) == before


@FEW
@given(fleets(), fleets(), st.randoms(use_true_random=False))
def test_the_order_of_what_goes_in_does_not_change_the_plan(
    first: RandomFleet, second: RandomFleet, chance: random.Random
) -> None:
    with hub_over(first) as fleet:
        desired = replace(second.desired("r2"), images={"agents/base:1": Ok("sha256:base1")})
        observed = look_at(fleet, desired)
        there = make_plan(desired, observed, KINDS, compared_with="engine")
        back = make_plan(_shuffled(desired, chance), _turned(observed, chance), KINDS, compared_with="engine")
        assert [c.to_json() for c in there.changes] == [c.to_json() for c in back.changes]
        assert there.digest == back.digest


def _shuffle(mapping: Any, chance: random.Random) -> dict[Any, Any]:
    items = list(mapping.items())
    chance.shuffle(items)
    return dict(items)


def _shuffled(desired: Desired, chance: random.Random) -> Desired:
    loaded = {k: Loaded(by_name=_shuffle(v.by_name, chance)) for k, v in desired.loaded.items()}
    return replace(desired, loaded=_shuffle(loaded, chance))


def _turned(observed: Observed, chance: random.Random) -> Observed:
    readings = dict(observed.readings)
    for kind, reading in readings.items():
        if isinstance(reading, Ok) and isinstance(reading.value, AgentStates):
            readings[kind] = Ok(replace(reading.value, instances=_shuffle(reading.value.instances, chance)))
        elif isinstance(reading, Ok) and isinstance(reading.value, dict):
            readings[kind] = Ok(_shuffle(reading.value, chance))
    facts = replace(observed.facts, fleet=_shuffle(observed.facts.fleet, chance))
    return replace(observed, readings=readings, facts=facts)


@FEW
@given(fleets(), fleets())
def test_planning_twice_gives_the_same_and_changes_nothing(first: RandomFleet, second: RandomFleet) -> None:
    with hub_over(first) as fleet:
        desired = second.desired("r2")
        observed = look_at(fleet, desired)
        calls = len(fleet.runtime.calls)
        there = make_plan(desired, observed, KINDS, compared_with="engine")
        again = make_plan(desired, observed, KINDS, compared_with="engine")
        assert there == again
        assert len(fleet.runtime.calls) == calls


@FEW
@given(fleets())
def test_against_nothing_everything_in_git_is_created_once(fleet: RandomFleet) -> None:
    desired = fleet.desired()
    plan = plan_against_nothing(desired)
    assert {c.action for c in plan.changes} <= {Action.CREATE}
    units = [c.unit for c in plan.changes]
    assert len(units) == len(set(units))
    instances = [f"agent/{n}-{i}" for n, m in desired.of("agent").items() for i in range(m.spec.replicas)]
    others = [f"{k}/{n}" for k in ("schema", "policy", "task") for n in desired.of(k)]
    assert sorted(units) == sorted([*instances, *others, "router/router", "egress/egress"])


@FEW
@given(fleets())
def test_for_every_kind_nothing_desired_and_nothing_there_gives_nothing_to_do(fleet: RandomFleet) -> None:
    desired = replace(fleet.desired(), loaded={})
    facts = Facts(now=START, boottime=0.0, boot_id="b")
    for kind in KINDS:
        changes = kind.plan(desired, kind.nothing(), facts)
        assert [c.unit for c in changes] in ([], ["router/router"], ["egress/egress"])


@FEW
@given(fleets(), fleets())
def test_what_could_not_be_read_is_never_made_anew_or_removed(first: RandomFleet, second: RandomFleet) -> None:
    with hub_over(first) as fleet:
        desired = second.desired("r2")
        observed = look_at(fleet, desired)
        for kind in KINDS:
            readings = {**observed.readings, kind.name: Unavailable(reason="no answer")}
            plan = make_plan(desired, replace(observed, readings=readings), KINDS, compared_with="engine")
            assert [c for c in plan.changes if c.kind == kind.name] == []
        fleet.runtime.go_down()
        fleet.commit(second.files, hub=HUB)
        containers = set(fleet.instances())
        for _ in range(3):
            report = fleet.run()
            assert [c for c in report.plan.changes if c.kind == "agent"] == []
            assert _destroying(report.done) == []
        fleet.runtime.come_back()
        assert set(fleet.instances()) == containers
        fleet.settle(80)


def _destroying(done: Any) -> list[Change]:
    return [
        d.change
        for d in done
        if d.change.kind == "agent" and d.change.action in DESTROYING and isinstance(d.outcome, Applied)
    ]


@FEW
@given(fleets(), fleets(), st.lists(st.sampled_from(["label", "seal", "name", "copy"]), min_size=1, max_size=3))
def test_what_is_not_ours_is_never_touched(first: RandomFleet, second: RandomFleet, foreign: list[str]) -> None:
    """Containers of others beside the fleet: with our label only, with a wrong seal, in place of one of ours, copies."""
    with hub_over(first) as fleet:
        mine = {c.id for c in fleet.runtime.list().value}  # type: ignore[union-attr]
        theirs = {_put_foreign(fleet, kind, number) for number, kind in enumerate(foreign)}
        fleet.commit(second.files, hub=HUB)
        for _ in range(12):
            fleet.run()
            fleet.agents.step()
        left = {c.id: c for c in fleet.runtime.list().value}  # type: ignore[union-attr]
        assert theirs <= left.keys()
        assert {left[i].state for i in theirs} == {"running"}
        assert mine.isdisjoint(theirs)


def _put_foreign(fleet: FakeFleet, kind: str, number: int) -> str:
    """A running container that somebody else made; its id."""
    name, labels = f"stranger-{number}", {}
    if kind == "seal":
        labels = {INSTANCE_LABEL: "alpha-0", SEAL_LABEL: "0" * 32}
    elif kind == "name":
        name, labels = f"zeta-{number}", {INSTANCE_LABEL: f"zeta-{number}", SEAL_LABEL: "x"}
        taken = [n for n in ("alpha-0", "beta-0", "gamma-0", "delta-0") if n not in fleet.containers()]
        name = taken[0] if taken else name
    elif kind == "copy":
        listed = fleet.runtime.list().value  # type: ignore[union-attr]
        labels = dict(listed[0].labels) if listed else {}
    return put_beside(fleet, name, labels)
