"""The export of a fleet: written without secrets, read with suspicion, and planned by as the record is."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from reconciler.core.change import Action
from reconciler.core.plan import Plan
from reconciler.core.problem import Problem
from reconciler.loop.export import FORMAT, Export, plan_against_export, read_export, write_export
from reconciler.loop.recorded import Assent, Recorded, plan_against_record, read_record
from reconciler.store import records
from reconciler.store.records import TaskRecord
from tests.fakes.desired import desired_of
from tests.fakes.fleet import FLEET, FakeFleet
from tests.fakes.texts import agent_text, hub_text, task_text

FILES = {
    "agents.d/a.yaml": agent_text(),
    "agents.d/b.yaml": agent_text("reader"),
    "tasks.d/t.yaml": task_text(),
    "tasks.d/s.yaml": task_text("weekly", schedule={"cron": "0 6 * * 1", "zone": "Europe/Berlin"}),
    "schemas/messages/a.b.schema.json": "{}",
    "policies/task.rego": 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true}\n',
}


@pytest.fixture
def fleet(fleet: FakeFleet) -> FakeFleet:
    fleet.store.set_meta("fleet", FLEET)
    fleet.commit(FILES)
    fleet.settle()
    return fleet


def written(fleet: FakeFleet) -> dict[str, Any]:
    return write_export(read_record(fleet.store), fleet.clock.now(), "0.1.0")


def exported(fleet: FakeFleet) -> Export:
    found = read_export(json.dumps(written(fleet)).encode(), "live.json")
    assert isinstance(found, Export), found
    return found


def planned(fleet: FakeFleet, files: Mapping[str, str]) -> Plan:
    return plan_against_export(desired_of({"hub.yaml": hub_text(), **files}, revision="r2"), exported(fleet), Assent())


def changes(plan: Plan) -> dict[str, Action]:
    return {c.unit: c.action for c in plan.changes if c.action is not Action.KEEP}


def test_it_says_whose_it_is_and_of_when(fleet: FakeFleet) -> None:
    document = written(fleet)
    assert (document["apiVersion"], document["kind"]) == ("reconciler/v1", "Export")
    now = fleet.clock.now().isoformat()
    assert document["metadata"] == {"fleet": FLEET, "time": now, "release": "0.1.0", "format": FORMAT}
    assert exported(fleet).recorded.revision == fleet.store.get_meta("applied_revision")


def test_a_plan_by_it_is_the_plan_by_the_record(fleet: FakeFleet) -> None:
    assert changes(planned(fleet, FILES)) == {}
    after = {
        "agents.d/a.yaml": agent_text(version="2"),
        "agents.d/c.yaml": agent_text("new"),
        "tasks.d/t.yaml": task_text(prompt="again"),
    }
    head = desired_of({"hub.yaml": hub_text(), **after}, revision="r2")
    by_record = plan_against_record(head, fleet.store, fleet.clock, is_descendant=True)
    by_export = planned(fleet, after)
    assert by_export.compared_with == "export"
    assert (changes(by_export), by_export.digest) == (changes(by_record), by_record.digest)
    assert [r.guard for r in planned(fleet, {}).refused] == ["empty-set"]


def test_it_does_not_grow_old(fleet: FakeFleet) -> None:
    found = exported(fleet)
    fleet.clock.advance(40 * 86400)
    head = desired_of({"hub.yaml": hub_text(), **FILES}, revision="r2")
    assert changes(plan_against_export(head, found, Assent())) == {}


def test_what_was_under_way_is_no_news_and_is_cancelled_when_it_goes(fleet: FakeFleet) -> None:
    run = next(r for r in records.tasks(fleet.store) if r.name == "changelog")
    records.put_tasks(fleet.store, [replace(run, state="running", instance="writer-0", finished_at="")])
    same = next(c for c in planned(fleet, FILES).changes if c.unit == "task/changelog")
    assert (same.action, same.reason) == (Action.KEEP, "under way when exported")
    gone = planned(fleet, {k: v for k, v in FILES.items() if k != "tasks.d/t.yaml"})
    assert changes(gone)["task/changelog"] is Action.CANCEL


def test_nothing_secret_or_private_is_in_it(fleet: FakeFleet) -> None:
    secret = "hunter2-"
    instance = records.instances(fleet.store)["writer-0"]
    config = json.dumps({"executor": {"model": "m", "env": {"X": f"{secret}config"}}})
    hidden = replace(
        instance,
        fields=json.dumps({"env": {"A": f"{secret}env", "HUB_CONFIG": config}, "argv": [f"{secret}argv"]}),
        reason=f"{secret}crash",
        previous=json.dumps({"manifest": f"{secret}previous"}),
        rejected=json.dumps({"digest": "1:x", "image_id": "", "why": f"{secret}why"}),
        token_sha256=f"{secret}token",
        container_id=f"{secret}container",
    )
    records.put_instance(fleet.store, hidden)
    run = next(r for r in records.tasks(fleet.store) if r.name == "changelog")
    said: dict[str, Any] = {
        name: f"{secret}{name}" for name in ("reason", "progress", "remedy", "key", "policy_revision", "sent_epoch")
    }
    dropped = TaskRecord(
        run="dropped",
        name="mine",
        spec_digest="1:y",
        manifest=json.dumps({"spec": {"prompt": f"{secret}inbox"}}),
        source="inbox",
        state="pending",
    )
    records.put_tasks(
        fleet.store, [replace(run, **said, manifest=json.dumps({"spec": {"prompt": f"{secret}prompt"}})), dropped]
    )
    text = json.dumps(written(fleet))
    assert secret not in text
    assert "mine" not in text
    assert fleet.world.seal_key.hex() not in text
    assert instance.token_sha256
    assert instance.token_sha256 not in text
    assert isinstance(read_export(text.encode(), "live.json"), Export)


def test_of_a_task_that_ran_often_only_what_planning_needs_is_kept() -> None:
    runs = tuple(
        TaskRecord(run=f"r{n}", name="t", spec_digest="1:a", manifest="{}", source="git", state="failed")
        for n in range(9)
    )
    document = write_export(Recorded(fleet="f", runs=runs), _now(), "0.1.0")
    assert [r["run"] for r in document["state"]["runs"]] == ["r8"]


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime(2026, 11, 21, tzinfo=UTC)


def problem_with(document: object) -> str:
    found = read_export(document if isinstance(document, bytes) else json.dumps(document).encode(), "live.json")
    assert isinstance(found, Problem), found
    return str(found)


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"kind": "Export"}', b"[" * 100_000])
def test_what_is_no_export_is_a_problem(content: bytes) -> None:
    assert problem_with(content).startswith("live.json: is damaged, or no export")


def test_another_document_and_a_newer_format_are_named(fleet: FakeFleet) -> None:
    document = written(fleet)
    assert problem_with({**document, "kind": "Hub"}) == (
        "live.json: is no export; make one with `reconciler plan --export FILE`"
    )
    newer = {**document, "metadata": {**document["metadata"], "format": 2, "release": "9.0"}, "state": {"x": 1}}
    assert problem_with(newer) == (
        "live.json: is of format 2, written by release 9.0; this release reads format 1: use that one here, too"
    )
    mixed = {**document, "metadata": {**document["metadata"], "fleet": "ffffffff"}}
    assert "mixes two fleets" in problem_with(mixed)


def _of(place: str, number: int, **fields: object) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["state"][place][number].update(fields)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_of("instances", 0, manifest="{}"), "state.instances[0].manifest is no manifest"),
        (_of("instances", 0, manifest="nothing"), "state.instances[0].manifest is no manifest"),
        (_of("instances", 0, manifest="[" * 50_000), "recursion"),
        (_of("instances", 0, created_at="yesterday"), "state.instances[0].created_at is 'yesterday'"),
        (_of("instances", 1, updated_at="2026-11-21T00:00:00"), "state.instances[1].updated_at has no time zone"),
        (_of("instances", 0, phase="dancing"), "state.instances[0] is no instance"),
        (_of("instances", 0, name="other-7"), "state.instances[0] is no instance"),
        (_of("instances", 0, fields='{"HUB_ADDRESS": 1}'), "does not say what its container was told"),
        (_of("instances", 0, rejected="{}"), "does not say what was taken back"),
        (_of("instances", 0, ordinal="0"), "Expected `int`, got `str` - at `$.state.instances[0].ordinal`"),
        (_of("runs", 0, state="dreaming"), "state.runs[0].state is 'dreaming'"),
        (_of("runs", 0, state="pending", manifest="{}"), "state.runs[0].manifest is no manifest"),
        (_of("schedules", 0, since="never"), "state.schedules[0].since is 'never'"),
        (lambda document: document["metadata"].update(time="noon"), "metadata.time is 'noon'"),
        (lambda document: document.pop("state"), "missing required field `state`"),
    ],
)
def test_damage_is_a_problem_that_says_where(
    fleet: FakeFleet, damage: Callable[[dict[str, Any]], None], said: str
) -> None:
    document = written(fleet)
    damage(document)
    assert said in problem_with(document)
