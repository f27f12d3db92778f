"""Making one instance what its change says: files, token, route, container and record, in this order and back."""

import hashlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.change import Action, Change
from reconciler.core.outcome import Failed
from reconciler.kinds.agent.apply import apply
from reconciler.kinds.agent.state import InstanceState
from reconciler.kinds.agent.step import InstanceWork
from reconciler.loop.apply import TRANSIENT_CAP_S
from reconciler.store import records
from tests.fakes.fleet import FakeFleet, change_of, show
from tests.fakes.texts import agent_text, hub_text, task_text


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    return FakeFleet(tmp_path)


def commit(fleet: FakeFleet, **spec: Any) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text(**spec)})


def container_id(fleet: FakeFleet) -> str:
    (container,) = fleet.runtime.list().value  # type: ignore[union-attr]
    return container.id


def test_a_new_instance_gets_private_folders_a_token_that_only_it_can_read_and_a_route(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    token_file = fleet.folder / "run" / "secrets" / "writer-0" / "agent-token"
    token = token_file.read_text()
    record = fleet.instances()["writer-0"]
    assert len(token) == 43
    assert hashlib.sha256(token.encode()).hexdigest() == record.token_sha256
    assert fleet.router.instances["writer-0"].tokens == {record.token_sha256}
    assert token not in (fleet.folder / "state.db").read_bytes().decode("latin-1")
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o400
    for folder in ("hub", "secrets"):
        assert stat.S_IMODE((fleet.folder / "run" / folder / "writer-0").stat().st_mode) == 0o700
        assert (fleet.folder / "run" / folder / "writer-0").stat().st_uid in (1000, token_file.stat().st_uid)
    assert (record.phase, record.container_id) == ("executing", container_id(fleet))


def test_limits_that_the_hub_changed_itself_are_not_taken_for_changed_by_hand(fleet: FakeFleet) -> None:
    commit(fleet, resources={"pids": 60})
    fleet.settle()
    commit(fleet, resources={"pids": 50})
    (done,) = fleet.loop.run_pass().done
    assert done.change.reason == "limits changed in git; changed in place"
    assert fleet.loop.run_pass().done == ()


def test_its_token_outlives_its_ttl_and_the_draining_after_it(fleet: FakeFleet) -> None:
    commit(fleet, lifecycle={"ttl": "1h", "drainDeadline": "30m"})
    before = fleet.clock.now()
    fleet.settle()
    assert fleet.instances()["writer-0"].token_expires_at == before.timestamp() + 3600 + 1800 + 3600


def test_everything_is_there_before_the_container_starts_and_the_record_is_first(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.run()
    places = [p for p in fleet.fuse.visited if p.endswith(".after") and not p.startswith("store")]
    assert places == [
        "router.start.after",
        "router.configure.after",
        "router.remove_instance.after",
        "router.put_instance.after",
        "runtime.create.after",
        "runtime.start.after",
    ]
    create = fleet.fuse.visited.index("runtime.create.before")
    assert "store.commit.after" in fleet.fuse.visited[: create - 1]


def test_an_image_that_is_not_on_the_engine_fails_with_what_to_do_and_leaves_nothing(fleet: FakeFleet) -> None:
    commit(fleet, image="agents/missing:1")
    report = fleet.run()
    assert show(report)[-1][:2] == ("agent/writer-0", "create")
    assert "image agents/missing:1 is not on this engine; build or load it" in show(report)[-1][2]
    assert fleet.instances() == {}
    fleet.runtime.add_image("agents/missing:1", "sha256:m")
    fleet.clock.advance(10)
    fleet.settle()
    assert fleet.instances()["writer-0"].image_id == "sha256:m"


def test_a_name_that_somebody_elses_container_has_is_waited_for(fleet: FakeFleet) -> None:
    fleet.runtime.take_name("writer-0")
    commit(fleet)
    for _ in range(10):
        fleet.run()
        fleet.clock.advance(TRANSIENT_CAP_S)
    assert "the name is in use" in records.units(fleet.store)["agent/writer-0"].reason
    assert fleet.containers() == {}
    fleet.runtime.free_name("writer-0")
    fleet.settle()
    assert fleet.containers() == {"writer-0": "running"}
    assert records.units(fleet.store) == {}


def test_a_replaced_instance_has_another_container_and_another_token(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    before, old = fleet.instances()["writer-0"], container_id(fleet)
    commit(fleet, version="2")
    fleet.settle()
    after = fleet.instances()["writer-0"]
    assert container_id(fleet) not in ("", old)
    assert after.container_id == container_id(fleet)
    assert after.token_sha256 != before.token_sha256
    assert fleet.router.instances["writer-0"].tokens == {after.token_sha256}


def test_limits_change_in_place_and_a_refusal_of_the_engine_replaces(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    old = container_id(fleet)
    commit(fleet, resources={"pids": 50})
    fleet.settle()
    assert container_id(fleet) == old
    fleet.runtime.refuse_updates()
    commit(fleet, resources={"pids": 60})
    fleet.settle()
    assert container_id(fleet) != old
    notes = [e.reason for e in fleet.audit() if (e.action, e.outcome) == ("update", "applied")]
    assert any(n.startswith("the engine refused to change limits in place") for n in notes)


def test_a_restart_keeps_the_container_and_changes_the_token(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    before, old = fleet.instances()["writer-0"], container_id(fleet)
    fleet.runtime.crash("writer-0")
    fleet.settle()
    after = fleet.instances()["writer-0"]
    assert container_id(fleet) == old
    assert (after.crashes, after.phase) == (1, "executing")
    assert after.token_sha256 != before.token_sha256
    assert after.created_at == before.created_at
    token = (fleet.folder / "run" / "secrets" / "writer-0" / "agent-token").read_text()
    assert hashlib.sha256(token.encode()).hexdigest() == after.token_sha256
    assert fleet.router.instances["writer-0"].tokens == {after.token_sha256}
    fleet.clock.advance(601)
    fleet.agents.step()
    fleet.settle()
    assert fleet.instances()["writer-0"].crashes == 0


def test_a_daemon_that_hangs_is_restarted_and_its_run_is_assigned_again(fleet: FakeFleet) -> None:
    hub = hub_text(router={"lease": "10m"})
    fleet.agents.holding.add("changelog")
    fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text(timeout="1d")}, hub=hub)
    fleet.watch(30, are_calling=True)
    assert fleet.states() == {"changelog": "running"}
    before, old = fleet.instances()["writer-0"], container_id(fleet)
    fleet.agents.silent.add("writer-0")
    fleet.watch(570)
    assert fleet.instances()["writer-0"] == before
    assert not any(call == ("stop", "writer-0") for call in fleet.runtime.calls)
    while fleet.instances()["writer-0"].crashes == 0:
        fleet.watch(1)
    after = fleet.instances()["writer-0"]
    assert (container_id(fleet), after.phase, after.crashes) == (old, "handshaking", 1)
    assert after.token_sha256 != before.token_sha256
    assert ("stop", "writer-0") in fleet.runtime.calls
    run = fleet.task("changelog")
    assert (run.state, run.generation) == ("authorised", 1)
    rows = [e for e in fleet.audit() if (e.name, e.action, e.outcome) == ("writer-0", "restart", "applied")]
    assert [(e.cause, e.reason.split(" for ")[0]) for e in rows] == [("crash", "no heartbeat")]
    fleet.agents.silent.clear()
    fleet.agents.holding.clear()
    fleet.settle()
    run = fleet.task("changelog")
    assert (run.state, run.generation) == ("succeeded", 2)
    assert fleet.agents.violations == []


def test_an_idle_daemon_that_hangs_is_restarted_until_it_has_crashed_too_often_and_a_commit_begins_anew(
    fleet: FakeFleet,
) -> None:
    def crashes() -> int:
        return fleet.instances()["writer-0"].crashes

    health, lifecycle = {"heartbeat": "1s", "handshake": "10s"}, {"maxCrashes": 2}
    commit(fleet, health=health, lifecycle=lifecycle)
    fleet.settle()
    fleet.agents.silent.add("writer-0")
    fleet.watch(300)
    assert crashes() == 2
    change = change_of(fleet.look(), "agent/writer-0")
    assert change.reason == "in quarantine: no handshake within 10s, 3 times in a row"
    commit(fleet, health=health, lifecycle=lifecycle, description="mended")
    fleet.watch(1)
    assert crashes() == 0
    fleet.watch(30)
    assert crashes() > 0
    fleet.agents.silent.clear()
    fleet.settle()
    assert fleet.instances()["writer-0"].phase == "executing"


def test_removal_ends_container_route_files_and_record(fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text(), "agents.d/b.yaml": agent_text("reader")})
    fleet.settle()
    fleet.commit({"agents.d/b.yaml": agent_text("reader")})
    fleet.settle()
    assert fleet.containers() == {"reader-0": "running"}
    assert list(fleet.instances()) == ["reader-0"]
    assert list(fleet.router.instances) == ["reader-0"]
    assert not (fleet.folder / "run" / "secrets" / "writer-0").exists()
    assert not (fleet.folder / "run" / "hub" / "writer-0").exists()


def test_removal_gives_the_time_to_end_that_its_manifest_gave(fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text(lifecycle={"grace": "77s"}), "agents.d/b.yaml": agent_text("reader")})
    fleet.settle()
    fleet.commit({"agents.d/b.yaml": agent_text("reader")})
    assert change_of(fleet.look(), "agent/writer-0").spec.grace_s == 77.0


def test_tasks_of_an_instance_that_ended_can_be_assigned_again_only_after_its_container_is_gone(
    fleet: FakeFleet,
) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text()})
    fleet.agents.holding.add("changelog")
    for _ in range(5):
        fleet.run()
        fleet.agents.step()
    assert fleet.states() == {"changelog": "running"}
    fleet.runtime.remove_by_hand("writer-0")
    fleet.run()
    assert fleet.task("changelog").state == "authorised"
    visited = fleet.fuse.visited
    assert visited[-1].startswith("store.commit")


def test_a_workspace_of_its_own_is_made_once_and_outlives_its_container(fleet: FakeFleet) -> None:
    commit(fleet, workspace={"source": "repository", "writable": True})
    fleet.settle()
    own = fleet.folder / "instances" / "writer-0" / "workspace"
    assert (own / "hub.yaml").exists()
    (own / "mine").write_text("x")
    commit(fleet, workspace={"source": "repository", "writable": True}, version="2")
    fleet.settle()
    assert (own / "mine").read_text() == "x"


def test_a_volume_starts_empty(fleet: FakeFleet) -> None:
    commit(fleet, workspace={"source": "volume", "writable": True})
    fleet.settle()
    assert list((fleet.folder / "instances" / "writer-0" / "workspace").iterdir()) == []


@pytest.mark.parametrize(
    "breaks",
    [
        lambda f: f.runtime.fail_next("create"),
        lambda f: f.runtime.lose_answer_of_next("create"),
        lambda f: f.runtime.fail_next("start"),
        lambda f: f.router.fail_next("put_instance"),
        lambda f: f.runtime.lose_answer_of_next("start"),
    ],
    ids=["create", "create unanswered", "start", "route", "start unanswered"],
)
def test_whatever_breaks_on_the_way_is_repaired_by_later_passes(
    fleet: FakeFleet, breaks: Callable[[FakeFleet], None]
) -> None:
    commit(fleet)
    breaks(fleet)
    report = fleet.run()
    assert len(report.failed) == 1
    fleet.clock.advance(5)
    fleet.settle()
    assert fleet.containers() == {"writer-0": "running"}
    assert fleet.instances()["writer-0"].container_id == container_id(fleet)


def test_what_an_agent_cannot_be_asked_is_refused_for_good(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    work = InstanceWork(manifest=None, ordinal=0, state=InstanceState(name="writer-0"))
    for action in (Action.CANCEL, Action.DISPATCH):
        change = Change(kind="agent", name="writer", action=action, reason="", spec=work)
        outcome = apply(change, fleet.world, desired)
        assert outcome == Failed(reason=f"an agent cannot be asked to {action}", retryable=False)


def test_a_change_whose_container_went_away_meanwhile_is_left_to_the_next_pass(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    desired = fleet.loop.revisions.last_good()
    assert desired is not None
    work = InstanceWork(manifest=desired.of("agent")["writer"], ordinal=0, state=InstanceState(name="writer-0"))
    for action in (Action.UPDATE, Action.RESTART):
        outcome = apply(Change(kind="agent", name="writer", action=action, reason="", spec=work), fleet.world, desired)
        assert isinstance(outcome, Failed)
        assert outcome.retryable


def test_an_agent_whose_new_image_is_not_there_works_on_with_the_old_one_until_it_is(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("changelog")
    files = {"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text()}
    fleet.commit(files)
    fleet.watch(5, are_calling=True)
    before = fleet.instances()["writer-0"]
    fleet.commit({**files, "agents.d/a.yaml": agent_text(image="agents/missing:1")})
    fleet.watch(60, are_calling=True)
    held = change_of(fleet.look(), "agent/writer-0")
    assert (held.action, held.reason.partition(";")[0]) == (Action.HOLD, "image agents/missing:1 is not on this engine")
    assert (fleet.instances()["writer-0"], fleet.states()) == (before, {"changelog": "running"})
    fleet.agents.holding.clear()
    fleet.runtime.add_image("agents/missing:1", "sha256:m")
    fleet.settle()
    assert fleet.instances()["writer-0"].image_id == "sha256:m"
    assert fleet.states() == {"changelog": "succeeded"}
