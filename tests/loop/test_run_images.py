"""What image references mean: settled once for each revision, and for every hub that works on it."""

import pytest

from reconciler.kinds import KINDS
from reconciler.loop.serve import nothing_desired, take_down
from tests.fakes.fleet import FakeFleet, actions
from tests.fakes.texts import IMAGE, agent_text

GOOD = {"agents.d/a.yaml": agent_text()}
LATE = {**GOOD, "agents.d/b.yaml": agent_text("reader", image="agents/late:1")}


@pytest.fixture
def fleet(fleet: FakeFleet) -> FakeFleet:
    add_image(fleet, "sha256:base1")
    return fleet


def add_image(fleet: FakeFleet, image_id: str, reference: str = IMAGE) -> None:
    """An image with a tag, which an engine also knows by its id."""
    fleet.runtime.add_image(reference, image_id)
    fleet.runtime.add_image(image_id, image_id)


def image_ids(fleet: FakeFleet) -> dict[str, str]:
    return {name: record.image_id for name, record in fleet.instances().items()}


def test_a_tag_that_moved_changes_nothing_before_a_new_revision_also_after_a_restart(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    add_image(fleet, "sha256:base2")
    assert actions(fleet.run()) == {"writer-0": "keep"}
    for _ in range(2):
        fleet.restart()
        assert actions(fleet.run()) == {"writer-0": "keep"}
    fleet.runtime.remove_by_hand("writer-0")
    fleet.settle()
    assert image_ids(fleet) == {"writer-0": "sha256:base1"}
    fleet.commit({**GOOD, "README.md": "x"})
    assert actions(fleet.run()) == {"writer-0": "replace"}
    fleet.restart()
    fleet.settle()
    assert image_ids(fleet) == {"writer-0": "sha256:base2"}


def test_an_image_that_was_missing_is_asked_for_again_by_the_next_hub(fleet: FakeFleet) -> None:
    fleet.commit(LATE)
    fleet.run()
    fleet.restart()
    add_image(fleet, "sha256:base2")
    add_image(fleet, "sha256:late", "agents/late:1")
    fleet.settle()
    assert image_ids(fleet) == {"writer-0": "sha256:base1", "reader-0": "sha256:late"}


def test_an_image_that_is_gone_from_the_engine_is_looked_up_anew(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.runtime.remove_by_hand("writer-0")
    fleet.runtime.forget_image("sha256:base1")
    add_image(fleet, "sha256:base2")
    fleet.restart()
    fleet.settle()
    assert image_ids(fleet) == {"writer-0": "sha256:base2"}


def test_an_engine_that_is_away_at_the_start_moves_no_image(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    add_image(fleet, "sha256:base2")
    fleet.restart()
    fleet.runtime.go_down()
    fleet.run()
    fleet.runtime.come_back()
    assert actions(fleet.run()) == {"writer-0": "keep"}


def test_a_fleet_that_was_taken_down_is_made_anew_of_what_its_tags_mean_then(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    assert take_down(fleet.world, KINDS, nothing_desired(), drain=True, patience_s=10) == ""
    add_image(fleet, "sha256:base2")
    fleet.restart()
    fleet.settle()
    assert image_ids(fleet) == {"writer-0": "sha256:base2"}


def test_while_a_plan_is_refused_neither_revision_is_looked_up_again(fleet: FakeFleet) -> None:
    five = {f"agents.d/a{n}.yaml": agent_text(f"a{n}") for n in range(5)}
    fleet.commit(five)
    fleet.settle()
    fleet.commit({"agents.d/a0.yaml": agent_text("a0")})
    assert fleet.run().plan.refused
    before = fleet.runtime.calls.count(("resolve_image", IMAGE))
    add_image(fleet, "sha256:base2")
    for _ in range(3):
        assert fleet.run().plan.refused
    assert fleet.runtime.calls.count(("resolve_image", IMAGE)) == before
    assert set(image_ids(fleet).values()) == {"sha256:base1"}
