"""The egress process through whole passes: started, configured, told who works on what, adopted, ended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.kinds.agent.container import recorded_model
from reconciler.kinds.egress.apply import take_down
from reconciler.loop.recorded import plan_against_record
from tests.fakes.fleet import FakeFleet, actions, change_of
from tests.fakes.texts import agent_text, task_text
from tests.kinds.egress.test_spec import CLOUD, GPU, hub

HUB = hub(GPU, CLOUD)
OPENAI = {"name": "mini", "type": "openai", "exposure": "public"}
PRIVATE = {"provider": "gpu", "model": "qwen3"}
PUBLIC = {"provider": "anthropic", "model": "opus"}


@pytest.fixture
def fleet(fleet: FakeFleet) -> FakeFleet:
    commit(fleet, {"llm": PRIVATE})
    fleet.settle()
    return fleet


def commit(fleet: FakeFleet, agent: dict[str, Any], **tasks: dict[str, Any]) -> None:
    texts = {f"tasks.d/{name}.yaml": task_text(name, **task) for name, task in tasks.items()}
    fleet.commit({"agents.d/a.yaml": agent_text(**agent), **texts}, hub=HUB)


def test_it_is_started_before_any_agent_and_knows_only_those_with_a_model(fleet: FakeFleet) -> None:
    assert fleet.egress.is_running
    assert list(fleet.egress.instances) == ["writer-0"]
    entry = fleet.egress.instances["writer-0"]
    assert entry["route"] == PRIVATE
    assert entry["tokens"][0]["sha256"] == fleet.instances()["writer-0"].token_sha256
    assert actions(fleet.run(), "egress") == {"egress": "keep"}


def test_a_fleet_without_providers_has_none(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    assert not fleet.egress.is_running
    assert actions(fleet.run(), "egress") == {}
    fleet.end_hub()


def test_an_agent_without_a_model_is_not_registered(fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text()}, hub=HUB)
    fleet.settle()
    assert fleet.egress.instances == {}


def test_after_its_crash_it_has_everything_again(fleet: FakeFleet) -> None:
    before = dict(fleet.egress.instances)
    fleet.egress.die()
    report = fleet.run()
    assert change_of(report, "egress/egress").reason == "it is not running"
    assert fleet.egress.instances == before


def test_another_hub_adopts_it(fleet: FakeFleet) -> None:
    fleet.restart()
    assert actions(fleet.run(), "egress") == {"egress": "keep"}
    assert fleet.egress.calls["start"] == 1


def test_one_that_hangs_is_ended_and_started_again(fleet: FakeFleet) -> None:
    fleet.egress.unreadable = "no answer in time"
    fleet.run()
    assert (fleet.egress.calls["stop"], fleet.egress.calls["start"]) == (1, 2)
    assert list(fleet.egress.instances) == ["writer-0"]


def test_a_new_token_is_told_and_a_removed_instance_revoked(fleet: FakeFleet) -> None:
    before = fleet.egress.instances["writer-0"]["tokens"]
    fleet.runtime.crash("writer-0")
    fleet.clock.advance(60)
    fleet.settle()
    assert fleet.egress.instances["writer-0"]["tokens"] != before
    commit(fleet, {"llm": PRIVATE, "replicas": 0})
    fleet.settle()
    assert fleet.egress.instances == {}


def test_when_the_providers_go_it_is_ended(fleet: FakeFleet) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    assert not fleet.egress.is_running
    assert actions(fleet.run(), "egress") == {}


def test_it_goes_when_the_hub_is_taken_down(fleet: FakeFleet) -> None:
    take_down(fleet.world)
    assert not fleet.egress.is_running


def test_it_knows_what_runs_where_and_how_sensitive_that_is(fleet: FakeFleet) -> None:
    commit(fleet, {"llm": PRIVATE}, audit={"sensitivity": "restricted"})
    while fleet.task("audit").state not in ("assigned", "running") if fleet.tasks() else True:
        fleet.run()
        fleet.agents.step()
    fleet.run()
    entry = fleet.egress.instances["writer-0"]
    assert entry["sensitivity"] == "restricted"
    assert [w["task"] for w in entry["work"]] == ["audit"]
    fleet.settle()
    entry = fleet.egress.instances["writer-0"]
    assert (entry["work"], entry["sensitivity"]) == ([], "restricted"), "what it has heard it has heard"


def test_what_an_instance_has_heard_stays_when_its_manifest_changes(fleet: FakeFleet) -> None:
    commit(fleet, {"llm": PRIVATE}, audit={"sensitivity": "confidential"})
    fleet.settle()
    commit(fleet, {"llm": PUBLIC}, audit={"sensitivity": "confidential"})
    before = fleet.instances()["writer-0"].created_at
    fleet.settle()
    after = fleet.instances()["writer-0"]
    entry = fleet.egress.instances["writer-0"]
    assert entry["route"] == PUBLIC
    assert (entry["sensitivity"] == "confidential") == (after.created_at == before)


def test_the_plan_against_the_record_says_what_a_commit_would_change(fleet: FakeFleet) -> None:
    def planned(hub_text: str) -> str:
        fleet.commit({"agents.d/a.yaml": agent_text(llm=PRIVATE)}, hub=hub_text)
        desired = fleet.loop.revisions.in_force().desired
        assert desired is not None
        found = plan_against_record(desired, fleet.store, fleet.clock, is_descendant=True)
        (change,) = [c for c in found.changes if c.kind == "egress"]
        return str(change.action)

    assert planned(HUB) == "keep"
    assert planned(hub(GPU)) == "update"


def test_it_knows_how_sensitive_work_is_before_the_agent_has_it(fleet: FakeFleet) -> None:
    commit(fleet, {"llm": PRIVATE}, secretive={"sensitivity": "restricted"})
    seen: list[str] = []
    send = fleet.router.send

    def look(message: Mapping[str, Any]) -> None:
        if message["message"]["type"] == "task.assigned":
            seen.append(fleet.egress.instances["writer-0"]["sensitivity"])
        send(message)

    fleet.router.send = look  # type: ignore[method-assign]
    fleet.settle()
    assert seen == ["restricted"]


def claude(**llm: Any) -> dict[str, Any]:
    return {"executor": {"type": "claude-code"}, "resources": {"memory": "1GiB", "pids": 256}, "llm": llm}


def told_model(fleet: FakeFleet) -> str:
    return recorded_model(fleet.instances()["writer-0"].fields)


def test_the_executor_and_the_way_out_mean_the_same_model(fleet: FakeFleet) -> None:
    small = {**OPENAI, "models": [{"name": "mini", "context": "200k"}]}
    fleet.commit({"agents.d/a.yaml": agent_text(**claude(require={"context": "100k"}))}, hub=hub(small, CLOUD))
    fleet.settle()
    assert told_model(fleet) == "opus"  # the cheaper one speaks another language
    assert fleet.egress.instances["writer-0"]["route"] == PUBLIC


def test_another_provider_that_fits_better_replaces_the_instance_once(fleet: FakeFleet) -> None:
    files = {"agents.d/a.yaml": agent_text(**claude(require={"context": "100k"}))}
    fleet.commit(files, hub=hub(CLOUD))
    fleet.settle()
    cheap = {**CLOUD, "name": "other", "models": [{"name": "haiku", "context": "100k"}]}
    fleet.commit(files, hub=hub(CLOUD, cheap))
    assert change_of(fleet.run(), "agent/writer-0").reason == "another model has what llm.require asks for now"
    fleet.settle()
    assert told_model(fleet) == "haiku"
    assert actions(fleet.run()) == {"writer-0": "keep"}
