"""What users of other systems had to ask for, where no other test shows it. The whole list is in docs/gitops.md."""

from concurrent.futures import ThreadPoolExecutor

from reconciler.core.change import Action
from reconciler.core.outcome import Applied, Failed, Skipped
from reconciler.store import records
from tests.fakes.fleet import FakeFleet, actions, change_of, told
from tests.fakes.texts import agent_text, hub_text, task_text

GOOD = {"agents.d/a.yaml": agent_text()}


def test_a_new_commit_does_not_wait_for_the_handshake_of_the_one_before(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.commit({"agents.d/a.yaml": agent_text(version="2")})
    fleet.run()
    assert change_of(fleet.run(), "agent/writer-0").reason == "waiting for its handshake"
    fleet.commit({"agents.d/a.yaml": agent_text(version="3")})
    before = fleet.clock.boottime()
    assert [d.change.action for d in fleet.run().applied if d.change.kind == "agent"] == [Action.REPLACE]
    assert fleet.clock.boottime() - before < 1
    fleet.settle()


def test_a_new_commit_does_not_wait_for_the_back_off_of_the_one_before(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.runtime.fail_next("create", times=8)

    def outcome() -> object:
        return {d.change.unit: d.outcome for d in fleet.run().done}["agent/writer-0"]

    while not isinstance(outcome(), Skipped):
        pass
    fleet.commit({"agents.d/a.yaml": agent_text(version="2")})
    assert isinstance(outcome(), Applied | Failed)
    for _ in range(8):
        fleet.clock.advance(60)
        fleet.run()
    fleet.settle()


def test_a_commit_that_changes_nothing_of_a_resource_leaves_it_and_says_nothing_of_it(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    before = [row for row in fleet.audit() if row.kind in ("agent", "task", "policy", "schema")]
    fleet.commit({**GOOD, "README.md": "# another file\n"})
    report = fleet.settle()
    assert set(actions(report).values()) == {"keep"}
    assert [row for row in fleet.audit() if row.kind in ("agent", "task", "policy", "schema")] == before


def test_what_hub_yaml_says_for_all_reaches_agents_whose_own_files_did_not_change(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.commit(GOOD, hub=hub_text(loop={"concurrency": 1}, defaults={"resources": {"memory": "256MiB"}}))
    change = change_of(fleet.look(), "agent/writer-0")
    assert [f.path for f in change.fields] == ["spec.resources"]
    fleet.settle()


def test_a_task_begins_in_the_pass_that_hears_of_the_end_of_what_it_depends_on(fleet: FakeFleet) -> None:
    tasks = {"tasks.d/a.yaml": task_text("first"), "tasks.d/b.yaml": task_text("second", dependsOn=["first"])}
    fleet.commit({**GOOD, **tasks})
    for _ in range(40):
        fleet.run()
        if fleet.states().get("first") == "succeeded":
            break
        assert fleet.states().get("second") in (None, "pending", "authorised")
        fleet.agents.step()
    assert fleet.states() == {"first": "succeeded", "second": "assigned"}


def test_what_shall_not_run_is_as_it_shall_be(fleet: FakeFleet) -> None:
    fleet.commit(
        {
            "agents.d/a.yaml": agent_text("none", replicas=0),
            "agents.d/b.yaml": agent_text("each", mode="per-task"),
            "agents.d/c.yaml": agent_text("sleeper", idle={"after": "1s"}),
        }
    )
    assert fleet.settle().is_converged
    fleet.clock.advance(10)
    assert fleet.settle().conditions == ()
    assert fleet.containers() == {}


def test_a_crash_while_its_handshake_is_waited_for_is_seen_at_once(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.run()
    assert change_of(fleet.run(), "agent/writer-0").reason == "waiting for its handshake"
    fleet.runtime.crash("writer-0")
    assert "exit" in change_of(fleet.look(), "agent/writer-0").reason
    fleet.settle()


def test_what_the_engine_will_not_remove_is_told_and_left_until_the_next_commit(fleet: FakeFleet) -> None:
    fleet.commit({**GOOD, "agents.d/b.yaml": agent_text("other")})
    fleet.settle()
    fleet.commit({"agents.d/b.yaml": agent_text("other")})
    fleet.runtime.refuse_next("remove", "it is in use")
    tries = 0
    for _ in range(10):
        tries += sum(isinstance(d.outcome, Failed) for d in fleet.run().done)
        fleet.clock.advance(400)
        fleet.agents.step()
    assert tries == 1
    (unit,) = (u for u in records.units(fleet.store).values() if u.stalled)
    assert (unit.unit, "it is in use" in unit.reason) == ("agent/writer-0", True)
    assert "writer-0" in fleet.containers()
    fleet.commit({"agents.d/b.yaml": agent_text("other"), "README.md": "again"})
    fleet.settle()
    assert list(fleet.containers()) == ["other-0"]


def test_passes_that_are_asked_for_at_once_make_nothing_twice(fleet: FakeFleet) -> None:
    fleet.commit({f"agents.d/a{n}.yaml": agent_text(f"a{n}") for n in range(5)})
    with ThreadPoolExecutor(max_workers=4) as askers:
        reports = list(askers.map(lambda _n: fleet.loop.run_pass(), range(4)))
    made = [d.change.unit for r in reports for d in r.applied if d.change.action is Action.CREATE]
    assert len(made) == len(set(made))
    fleet.settle()
    assert told(fleet.look()) == {}
    assert len(fleet.containers()) == 5
