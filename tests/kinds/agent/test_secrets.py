"""Secrets of instances: none starts without, each has only its own, and another value needs no new container."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.secret import SecretFault
from reconciler.kinds.agent.secrets import lacking, outdated, secret_names
from reconciler.kinds.task.explain import explain_task
from reconciler.loop.admit import admit
from tests.fakes.desired import desired_of
from tests.fakes.fleet import FakeFleet, change_of, show
from tests.fakes.policy import FakePolicy
from tests.fakes.texts import agent_text, task_text

RESYNC_S = 30.0
VALUE = b"hunter2\n"


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    return FakeFleet(tmp_path)


def commit(fleet: FakeFleet, *secrets: str, **spec: Any) -> None:
    if secrets:
        spec["secrets"] = list(secrets)
    fleet.commit({"agents.d/a.yaml": agent_text(**spec)})


def files(fleet: FakeFleet, instance: str = "writer-0") -> dict[str, bytes]:
    folder = fleet.folder / "run" / "secrets" / instance
    return {p.name: p.read_bytes() for p in folder.glob("*") if p.name != "agent-token"}


def container_id(fleet: FakeFleet) -> str:
    (container,) = fleet.runtime.list().value  # type: ignore[union-attr]
    return container.id


def failures(fleet: FakeFleet) -> list[str]:
    return [entry.reason for entry in fleet.audit() if entry.outcome == "failed"]


def test_an_instance_has_the_secrets_that_its_manifest_names(fleet: FakeFleet) -> None:
    fleet.provider.values = {"deploy-key": VALUE, "other": b"x"}
    commit(fleet, "deploy-key")
    fleet.settle()
    assert files(fleet) == {"deploy-key": VALUE}
    assert fleet.provider.asked == ["deploy-key"]


def test_two_agents_see_only_their_own(fleet: FakeFleet) -> None:
    fleet.provider.values = {"one": b"1", "two": b"2"}
    fleet.commit(
        {
            "agents.d/a.yaml": agent_text("a", secrets=["one"], replicas=2),
            "agents.d/b.yaml": agent_text("b", secrets=["two"]),
        }
    )
    fleet.settle()
    assert [files(fleet, i) for i in ("a-0", "a-1", "b-0")] == [{"one": b"1"}, {"one": b"1"}, {"two": b"2"}]


@pytest.mark.parametrize(
    ("fault", "said"),
    [("", "its provider does not have it"), ("the vault is sealed", "the vault is sealed")],
    ids=["absent", "unreadable"],
)
def test_without_its_secret_an_instance_is_not_started_and_as_soon_as_it_is_there_it_is(
    fleet: FakeFleet, fault: str, said: str
) -> None:
    fleet.provider.fault = fault
    commit(fleet, "deploy-key")
    report = fleet.run()
    assert f"secret deploy-key of agent writer: {said}" in show(report)[-1][2]
    assert fleet.containers() == {}
    assert fleet.instances() == {}
    for _ in range(10):
        fleet.clock.advance(RESYNC_S)
        change = change_of(fleet.run(), "agent/writer-0")
        assert change.action == "hold"
        assert change.reason.startswith(f"new; secret deploy-key of agent writer: {said}")
    assert len(failures(fleet)) == 1
    fleet.provider.fault, fleet.provider.values = "", {"deploy-key": VALUE}
    fleet.clock.advance(RESYNC_S)
    fleet.settle()
    assert files(fleet) == {"deploy-key": VALUE}


def test_a_secret_that_nobody_wants_any_more_is_not_asked_for(fleet: FakeFleet) -> None:
    commit(fleet, "deploy-key")
    fleet.run()
    commit(fleet)
    fleet.world.secrets.keep(())
    fleet.settle()
    fleet.provider.asked.clear()
    fleet.clock.advance(RESYNC_S)
    fleet.run()
    assert fleet.provider.asked == []


def test_another_value_is_written_at_the_next_resync_without_a_new_container(fleet: FakeFleet) -> None:
    fleet.provider.values = {"deploy-key": VALUE}
    commit(fleet, "deploy-key")
    fleet.settle()
    before = container_id(fleet)
    fleet.provider.values["deploy-key"] = b"another"
    fleet.settle()
    assert files(fleet) == {"deploy-key": VALUE}
    fleet.clock.advance(RESYNC_S)
    change = change_of(fleet.run(), "agent/writer-0")
    assert (change.action, change.cause, change.reason) == (
        "update",
        "operator",
        "secret deploy-key has another value now",
    )
    assert files(fleet) == {"deploy-key": b"another"}
    assert container_id(fleet) == before
    assert fleet.settle().is_converged


def test_a_withdrawn_secret_is_taken_away_and_its_lack_is_said(fleet: FakeFleet) -> None:
    fleet.provider.values = {"deploy-key": VALUE}
    commit(fleet, "deploy-key")
    fleet.settle()
    fleet.provider.values.clear()
    fleet.clock.advance(RESYNC_S)
    assert change_of(fleet.run(), "agent/writer-0").reason == "secret deploy-key was withdrawn"
    assert files(fleet) == {}
    fleet.agents.step()
    change = change_of(fleet.run(), "agent/writer-0")
    assert (change.action, change.reason) == (
        "hold",
        "it runs without secret deploy-key, which its provider does not have",
    )
    assert fleet.containers() == {"writer-0": "running"}


def test_an_instance_without_its_secret_gets_no_task_and_explain_says_why(fleet: FakeFleet) -> None:
    fleet.provider.values = {"deploy-key": VALUE}
    commit(fleet, "deploy-key")
    fleet.settle()
    fleet.provider.values.clear()
    fleet.clock.advance(RESYNC_S)
    agent = agent_text(secrets=["deploy-key"])
    fleet.commit({"agents.d/a.yaml": agent, "tasks.d/t.yaml": task_text("one")})
    fleet.watch(8, are_calling=True)
    assert fleet.states() == {"one": "authorised"}
    said = explain_task(fleet.task("one"), change_of(fleet.look(), "task/one"))
    assert said.endswith("writer-0 is not ready: it runs without secret deploy-key, which its provider does not have.")
    fleet.provider.values = {"deploy-key": VALUE}
    fleet.clock.advance(RESYNC_S)
    fleet.watch(8, are_calling=True)
    assert fleet.states() == {"one": "succeeded"}


def test_a_provider_that_cannot_be_read_changes_nothing(fleet: FakeFleet) -> None:
    fleet.provider.values = {"deploy-key": VALUE}
    commit(fleet, "deploy-key")
    fleet.settle()
    fleet.provider.fault = "the vault is sealed"
    fleet.clock.advance(RESYNC_S)
    assert fleet.settle().is_converged
    fleet.restart()
    fleet.inspections.forget_all()
    assert fleet.settle().is_converged
    assert files(fleet) == {"deploy-key": VALUE}


def test_a_restarted_hub_finds_what_changed_meanwhile(fleet: FakeFleet) -> None:
    fleet.provider.values = {"deploy-key": VALUE}
    commit(fleet, "deploy-key")
    fleet.settle()
    before = container_id(fleet)
    fleet.end_hub()
    fleet.provider.values["deploy-key"] = b"another"
    fleet.start_hub()
    fleet.settle()
    assert files(fleet) == {"deploy-key": b"another"}
    assert container_id(fleet) == before


def test_git_adds_and_drops_secrets_in_place(fleet: FakeFleet) -> None:
    fleet.provider.values = {"one": b"1", "two": b"2"}
    commit(fleet)
    fleet.settle()
    before = container_id(fleet)
    for secrets, expected in (
        (["one", "two"], {"one": b"1", "two": b"2"}),
        (["two"], {"two": b"2"}),
        ([], {}),
    ):
        commit(fleet, *secrets)
        fleet.settle()
        assert files(fleet) == expected
    assert container_id(fleet) == before


def test_an_agent_whose_new_secret_is_missing_runs_on_and_says_so(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    commit(fleet, "deploy-key")
    for _ in range(3):
        fleet.run()
    assert change_of(fleet.run(), "agent/writer-0").reason.startswith("it runs without secret deploy-key")
    assert fleet.containers() == {"writer-0": "running"}


def test_a_replacement_waits_for_its_secret_and_the_old_one_runs_on(fleet: FakeFleet) -> None:
    commit(fleet)
    fleet.settle()
    before = container_id(fleet)
    commit(fleet, "deploy-key", env={"A": "1"})
    assert "secret deploy-key of agent writer" in show(fleet.run())[-1][2]
    assert fleet.containers() == {"writer-0": "running"}
    assert container_id(fleet) == before


def test_a_crashed_instance_is_started_with_the_secrets_of_now(fleet: FakeFleet) -> None:
    fleet.provider.values = {"deploy-key": VALUE}
    commit(fleet, "deploy-key")
    fleet.settle()
    fleet.provider.values["deploy-key"] = b"another"
    fleet.clock.advance(RESYNC_S)
    fleet.runtime.stop(container_id(fleet), 0)
    fleet.settle()
    assert fleet.containers() == {"writer-0": "running"}
    assert files(fleet) == {"deploy-key": b"another"}


def test_secrets_go_with_their_instance(fleet: FakeFleet) -> None:
    fleet.provider.values = {"deploy-key": VALUE}
    commit(fleet, "deploy-key", replicas=2)
    fleet.settle()
    commit(fleet, "deploy-key", replicas=1)
    fleet.settle()
    assert not (fleet.folder / "run" / "secrets" / "writer-1").exists()
    assert files(fleet) == {"deploy-key": VALUE}


@pytest.mark.parametrize("drifts", [True, False])
def test_secrets_are_renewed_whatever_else_is_wrong(fleet: FakeFleet, drifts: bool) -> None:
    fleet.provider.values = {"deploy-key": VALUE}
    commit(fleet, "deploy-key", drift="report")
    fleet.settle()
    if drifts:
        fleet.runtime.change_field("writer-0", "limits.pids", 7)
    fleet.provider.values["deploy-key"] = b"another"
    fleet.clock.advance(RESYNC_S)
    for _ in range(3):
        fleet.run()
    assert files(fleet) == {"deploy-key": b"another"}


def test_nothing_that_is_recorded_or_said_holds_a_value(fleet: FakeFleet) -> None:
    fleet.provider.values = {"deploy-key": b"hunter2hunter2"}
    commit(fleet, "deploy-key")
    said = [show(fleet.settle())]
    fleet.provider.values["deploy-key"] = b"swordfish"
    fleet.clock.advance(RESYNC_S)
    said.append(show(fleet.settle()))
    fleet.end_hub()
    recorded = b"".join(p.read_bytes() for p in fleet.folder.glob("state.db*")) + repr(said).encode()
    assert b"deploy-key" in recorded
    assert b"hunter2" not in recorded
    assert b"swordfish" not in recorded


def test_admission_sees_the_names() -> None:
    engine = FakePolicy()
    engine.revision = "1:in force"
    engine.deny("admission", "not this one", lambda question: "prod-key" in question["spec"]["secrets"])
    for name, count in (("docs-key", 0), ("prod-key", 1)):
        desired = desired_of({"agents.d/a.yaml": agent_text(secrets=[name])})
        assert len(admit(desired, None, engine, lambda: engine).problems) == count


def test_names_are_read_from_a_manifest_as_recorded() -> None:
    assert secret_names('{"spec": {"secrets": ["b", "a"]}}') == ("b", "a")
    assert secret_names('{"spec": {"description": "the \\"secrets\\" of writing"}}') == ()
    assert secret_names('{"spec": {}}') == ()


def test_each_fault_is_either_renewed_or_said() -> None:
    ways: list[Callable[[dict[str, SecretFault]], object]] = [lambda f: outdated(f)[1], lacking]
    for fault in SecretFault:
        assert sum(bool(way({"a": fault})) for way in ways) == 1
    both = {"b": SecretFault.CHANGED, "a": SecretFault.WITHDRAWN, "c": SecretFault.MISSING}
    assert outdated(both) == (("a", "b"), "secret a was withdrawn; secret b has another value now")
    assert outdated({}) == ((), "")
    assert lacking({}) == ""
