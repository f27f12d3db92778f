"""Agents under another name: who gets which workspace, who waits for whom, and when nothing is handed over."""

from pathlib import Path

import pytest

from tests.fakes.fleet import FakeFleet, actions, change_of
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.texts import agent_text, hub_text, task_text

VOLUME = {"source": "volume", "writable": True}


def files(*names: str, **spec: object) -> dict[str, str]:
    return {f"agents.d/{name}.yaml": agent_text(name, **{"workspace": VOLUME, **spec}) for name in names}


def workspace(fleet: FakeFleet, instance: str) -> Path:
    return fleet.folder / "instances" / instance / "workspace"


def begin(fleet: FakeFleet, manifests: dict[str, str], *, hub: str | None = None) -> None:
    """A fleet at work, in which each instance has written its name into its workspace."""
    fleet.commit(manifests, hub=hub)
    fleet.settle()
    for name in fleet.instances():
        (workspace(fleet, name) / "work.txt").write_text(name)


def kept(fleet: FakeFleet) -> dict[str, str]:
    """Who wrote what lies in the workspace of each instance."""
    found = sorted((fleet.folder / "instances").glob("*/workspace"))
    return {f.parent.name: "".join(p.read_text() for p in f.glob("work.txt")) for f in found}


def test_a_renamed_agent_goes_on_with_its_workspaces(fleet: FakeFleet) -> None:
    begin(fleet, files("old", replicas=2))
    fleet.commit(files("new", replicas=2))
    look = fleet.look()
    assert actions(look) == {"old-0": "remove", "old-1": "remove", "new-0": "hold", "new-1": "hold"}
    assert change_of(look, "agent/new-1").reason == "waits until old-1 is gone, whose workspace it goes on with"
    fleet.settle()
    assert fleet.containers() == {"new-0": "running", "new-1": "running"}
    assert kept(fleet) == {"new-0": "old-0", "new-1": "old-1"}


def test_the_new_name_waits_while_the_old_one_drains(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("changelog")
    manifests = {**files("old"), "tasks.d/t.yaml": task_text(agent="old")}
    fleet.commit(manifests)
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    (workspace(fleet, "old-0") / "work.txt").write_text("old-0")
    fleet.commit(files("new"))
    for _ in range(3):
        report = fleet.run()
        fleet.agents.step()
    fleet.agents.holding.clear()
    assert "new-0" not in fleet.containers() or kept(fleet) == {"new-0": "old-0"}
    assert not report.plan.refused
    fleet.settle()
    assert (fleet.containers(), kept(fleet)) == ({"new-0": "running"}, {"new-0": "old-0"})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (files("a", "b"), files("x", "y")),
        (files("a", "b"), files("b", "x", "y")),
        (files("a", "b"), files("x")),
    ],
)
def test_where_it_is_not_clear_who_becomes_whom_nobody_inherits(
    fleet: FakeFleet, before: dict[str, str], after: dict[str, str]
) -> None:
    begin(fleet, before)
    fleet.commit(after)
    assert "hold" not in actions(fleet.look()).values()
    fleet.settle()
    assert {name: text for name, text in kept(fleet).items() if text} == (
        {"b-0": "b-0"} if "agents.d/b.yaml" in after else {}
    )


def test_another_spec_is_another_agent(fleet: FakeFleet) -> None:
    begin(fleet, files("old"))
    fleet.commit(files("new", version="2"))
    assert actions(fleet.look()) == {"old-0": "remove", "new-0": "create"}
    fleet.settle()
    assert kept(fleet) == {"new-0": ""}


def test_without_a_workspace_of_its_own_nobody_waits(fleet: FakeFleet) -> None:
    fleet.commit(files("old", workspace=None))
    fleet.settle()
    fleet.commit(files("new", workspace=None))
    assert actions(fleet.look()) == {"old-0": "remove", "new-0": "create"}
    fleet.settle()


def test_what_the_new_name_has_already_is_not_touched_and_nothing_is_lost(fleet: FakeFleet) -> None:
    begin(fleet, files("old"))
    workspace(fleet, "new-0").mkdir(parents=True)
    (workspace(fleet, "new-0") / "work.txt").write_text("somebody")
    fleet.commit(files("new"))
    fleet.settle()
    assert kept(fleet) == {"new-0": "somebody", "old-0": "old-0"}


def test_where_nothing_is_pruned_the_new_name_begins_with_nothing(fleet: FakeFleet) -> None:
    hub = hub_text(loop={"concurrency": 1, "prune": {"agents": "off"}})
    begin(fleet, files("old"), hub=hub)
    fleet.commit(files("new"), hub=hub)
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    assert kept(fleet) == {"new-0": "", "old-0": "old-0"}
    assert fleet.containers() == {"new-0": "running", "old-0": "running"}


def test_a_protected_agent_does_not_move_without_a_word(fleet: FakeFleet) -> None:
    begin(fleet, files("old", lifecycle={"protect": True}))
    fleet.commit(files("new", lifecycle={"protect": True}))
    report = fleet.run()
    assert [r.guard for r in report.plan.refused] == ["protect"]
    assert (fleet.containers(), kept(fleet)) == ({"old-0": "running"}, {"old-0": "old-0"})


def test_a_rename_of_a_rename_that_was_not_done_yet_loses_nothing(fleet: FakeFleet) -> None:
    begin(fleet, files("old"))
    fleet.commit(files("new"))
    fleet.run()
    fleet.commit(files("newest"))
    fleet.settle()
    assert (fleet.containers(), kept(fleet)) == ({"newest-0": "running"}, {"new-0": "old-0", "newest-0": ""})


def test_a_kill_anywhere_in_between_loses_no_workspace(
    fleet: FakeFleet, tmp_path_factory: pytest.TempPathFactory
) -> None:
    beside = tmp_path_factory.mktemp("copies")
    begin(fleet, files("old"))
    fleet.commit(files("new"))
    fleet.end_hub()
    undisturbed = fleet.copy(beside / "undisturbed", Fuse())
    undisturbed.settle()
    visited = list(undisturbed.fuse.visited)
    undisturbed.end_hub()
    for number, place in enumerate(visited, 1):
        if not place.endswith(".after"):
            continue
        killed = fleet.copy(beside / str(number), Fuse(number))
        with pytest.raises(KilledError):
            killed.settle()
        killed.restart()
        killed.clock.advance(1)
        killed.settle()
        assert (killed.containers(), kept(killed)) == ({"new-0": "running"}, {"new-0": "old-0"}), place
        killed.end_hub()
    fleet.start_hub()
