"""The router process, brought where its change says and repaired where somebody meddled with it."""

from pathlib import Path

import pytest

from reconciler.kinds.router.observe import CONFIGURED
from tests.fakes.fleet import FakeFleet, actions, change_of
from tests.fakes.texts import agent_text, hub_text, task_text


@pytest.fixture
def fleet(fleet: FakeFleet) -> FakeFleet:
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    return fleet


def test_it_is_started_and_configured_before_any_agent(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.run()
    assert fleet.router.is_running
    assert fleet.router.config["digest"] == fleet.store.get_meta(CONFIGURED)
    visited = fleet.fuse.visited
    assert visited.index("router.configure.after") < visited.index("runtime.create.before")
    fleet.end_hub()


def test_another_configuration_is_swapped_in_without_a_restart(fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text()}, hub=hub_text(router={"lease": "7s"}, loop={"concurrency": 1}))
    fleet.settle()
    assert fleet.router.config["limits"]["lease_s"] == 7.0
    assert fleet.router.calls["start"] == 1


def test_a_registration_that_somebody_removed_comes_back(fleet: FakeFleet) -> None:
    fleet.router.remove_instance("writer-0")
    report = fleet.run()
    assert change_of(report, "router/router").reason == "1 instances are not registered as recorded"
    assert list(fleet.router.instances) == ["writer-0"]


def test_a_registration_without_a_record_is_revoked(fleet: FakeFleet) -> None:
    entry = {"agent": "writer", "uid": 0, "tokens": [{"sha256": "0" * 64, "expires_at": 0}], "digest": "1:x"}
    fleet.router.put_instance("stray-0", entry)
    assert actions(fleet.run(), "router") == {"router": "update"}
    assert list(fleet.router.instances) == ["writer-0"]


def test_after_its_crash_it_has_everything_again_and_agents_need_not_be_made_anew(fleet: FakeFleet) -> None:
    before = fleet.instances()["writer-0"]
    fleet.router.die()
    fleet.run()
    assert fleet.router.config
    assert fleet.router.instances["writer-0"].tokens == {before.token_sha256}
    fleet.agents.step()
    fleet.settle()
    assert fleet.instances()["writer-0"].container_id == before.container_id


def test_a_hub_of_other_code_restarts_it_and_nothing_that_was_on_its_way_is_lost(fleet: FakeFleet) -> None:
    before = fleet.instances()["writer-0"]
    fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text("t")})
    while not fleet.router.instances["writer-0"].mailbox:
        fleet.run()
    fleet.end_hub()
    fleet.router.post("writer-0", "security.alert", {"severity": "low", "summary": "odd"})
    fleet.router.code = "2"
    fleet.start_hub()

    report = fleet.run()
    change = change_of(report, "router/router")
    assert (str(change.action), change.reason) == ("restart", "its code is version 1, this is 2")
    assert fleet.router.config
    assert fleet.router.instances["writer-0"].tokens == {before.token_sha256}
    assert fleet.router.instances["writer-0"].mailbox == []
    assert actions(fleet.run(), "router") == {"router": "keep"}
    fleet.settle()
    assert (fleet.task("t").state, fleet.task("t").generation, len(fleet.agents.executed)) == ("succeeded", 1, 1)
    assert fleet.instances()["writer-0"].container_id == before.container_id
    assert [row.reason for row in fleet.audit() if row.action == "security.alert"] == ["security.alert: odd"]


def test_a_hub_of_the_same_code_adopts_it_as_it_is(fleet: FakeFleet) -> None:
    fleet.restart()
    assert actions(fleet.run(), "router") == {"router": "keep"}
    assert fleet.router.calls["start"] == 1
