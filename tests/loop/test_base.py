"""Planning against another revision: what a fleet that is as the base says would have to change."""

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from reconciler.core.change import Action, Change
from reconciler.core.plan import Plan
from reconciler.loop.base import UNTOUCHED, assume_applied, plan_against_base
from reconciler.loop.recorded import Assent, plan_against_record
from tests.fakes.desired import desired_of
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text, hub_text, task_text

NOW = datetime(2026, 11, 21, 18, tzinfo=UTC)
REGO = 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true}\n'
FILES = {
    "agents.d/a.yaml": agent_text(replicas=2),
    "agents.d/b.yaml": agent_text("reader"),
    "tasks.d/t.yaml": task_text(),
    "schemas/messages/a.b.schema.json": "{}",
    "policies/task.rego": REGO,
}


def planned(after: Mapping[str, str], before: Mapping[str, str] = FILES, assent: Assent | None = None) -> Plan:
    base, head = desired_of(before, revision="r1"), desired_of(after, revision="r2")
    return plan_against_base(head, base, assent or Assent(), NOW)


def without(*names: str) -> dict[str, str]:
    return {path: text for path, text in FILES.items() if path not in names}


def changes(plan: Plan) -> dict[str, Action]:
    return {c.unit: c.action for c in plan.changes if c.action is not Action.KEEP}


def only(plan: Plan, unit: str) -> Change:
    (found,) = (c for c in plan.changes if c.unit == unit)
    return found


def test_the_base_itself_has_nothing_to_do() -> None:
    plan = planned(FILES)
    assert (plan.compared_with, plan.revision, plan.refused) == ("base", "r2", ())
    assert changes(plan) == {}
    assert {c.reason for c in plan.changes} == {"as in git"}


@pytest.mark.parametrize(
    "after",
    [
        {**FILES, "agents.d/a.yaml": agent_text(replicas=2, version="2")},
        {**FILES, "agents.d/a.yaml": agent_text(replicas=3), "agents.d/c.yaml": agent_text("new")},
        {**FILES, "agents.d/a.yaml": agent_text(replicas=1)},
        {**FILES, "agents.d/a.yaml": agent_text(replicas=2, resources={"memory": "64MiB"})},
        without("agents.d/b.yaml", "schemas/messages/a.b.schema.json", "policies/task.rego"),
        {**FILES, "policies/task.rego": REGO + "\n# more\n", "schemas/messages/a.b.schema.json": '{"type": "object"}'},
        {**FILES, "tasks.d/t.yaml": task_text(prompt="again"), "tasks.d/u.yaml": task_text("second")},
        {**FILES, "hub.yaml": hub_text(router={"lease": "31s"})},
    ],
)
def test_it_says_what_a_hub_that_has_carried_out_the_base_would_do(fleet: FakeFleet, after: dict[str, str]) -> None:
    fleet.commit(FILES)
    fleet.settle()
    head = desired_of({"hub.yaml": hub_text(), **after}, revision="r2")
    by_record = plan_against_record(head, fleet.store, fleet.clock, is_descendant=True)
    by_base = planned(after)
    assert changes(by_base) == changes(by_record)
    assert by_base.digest == by_record.digest
    assert [r.guard for r in by_base.refused] == [r.guard for r in by_record.refused]


def test_each_change_shows_the_fields_of_the_two_revisions() -> None:
    plan = planned(
        {
            **FILES,
            "agents.d/a.yaml": agent_text(replicas=2, version="2"),
            "tasks.d/t.yaml": task_text(prompt="again"),
            "schemas/messages/a.b.schema.json": '{"type": "object"}',
            "policies/more.rego": "package hub.lib.more\n\nimport rego.v1\n",
        }
    )
    fields = {c.unit: [(f.path, f.after) for f in c.fields] for c in plan.changes if c.action is not Action.KEEP}
    assert fields["agent/writer-0"] == [("spec.version", "2")]
    assert fields["task/changelog"] == [("spec.prompt", "again")]
    assert fields["schema/a.b"] == [("type", "object")]
    assert [path for path, _ in fields["policy/policies"]] == ["policies/more.rego"]


def test_a_task_that_changes_runs_again_and_one_that_goes_is_cancelled_if_it_runs() -> None:
    edited = only(planned({**FILES, "tasks.d/t.yaml": task_text(prompt="again")}), "task/changelog")
    assert (edited.action, edited.reason.partition(":")[0]) == (Action.CREATE, "changed in git")
    gone = only(planned(without("tasks.d/t.yaml")), "task/changelog")
    assert (gone.action, gone.reason) == (Action.CANCEL, "removed from git; it is cancelled if it has not ended")


def test_a_schedule_that_stays_and_a_prompt_that_changes_touch_nothing_that_runs() -> None:
    cron = {"cron": "0 6 * * 1", "zone": "Europe/Berlin"}
    before = {**FILES, "tasks.d/s.yaml": task_text("weekly", schedule=cron)}
    assert changes(planned(before, before)) == {}
    change = only(
        planned({**FILES, "tasks.d/s.yaml": task_text("weekly", schedule=cron, prompt="x")}, before), "task/weekly"
    )
    assert (change.action, change.reason) == (Action.UPDATE, UNTOUCHED)
    moved = {**FILES, "tasks.d/s.yaml": task_text("weekly", schedule={**cron, "cron": "0 7 * * 1"})}
    assert only(planned(moved, before), "task/weekly").reason.startswith("schedule changed")


def test_agents_without_instances_are_not_passed_over() -> None:
    before = {
        **FILES,
        "agents.d/p.yaml": agent_text("temp", mode="per-task"),
        "agents.d/z.yaml": agent_text("none", replicas=0),
    }
    assert changes(planned(before, before)) == {}
    after = {
        **FILES,
        "agents.d/p.yaml": agent_text("temp", mode="per-task", version="2"),
        "agents.d/z.yaml": agent_text("none", replicas=0, version="2"),
    }
    found = {c.name: (c.action, c.fields[0].path) for c in planned(after, before).changes if c.name in ("temp", "none")}
    assert found == dict.fromkeys(("temp", "none"), (Action.UPDATE, "spec.version"))
    gone = {c.name: c.reason for c in planned(FILES, before).changes if c.name in ("temp", "none")}
    assert gone == dict.fromkeys(("temp", "none"), "removed from git; it has no instances")


def test_the_model_that_an_agent_was_made_with_follows_from_the_base() -> None:
    def hub(cost: int) -> str:
        models = [{"name": "big", "context": "200k", "cost": 9}, {"name": "small", "context": "100k", "cost": cost}]
        gpu = {
            "name": "gpu",
            "type": "ollama",
            "exposure": "private",
            "models": models,
        }
        return hub_text(providers=[gpu])

    chat = agent_text(executor={"type": "http", "provider": "gpu"}, llm={"require": {"context": "50k"}})
    before = {"hub.yaml": hub(1), "agents.d/a.yaml": chat}
    assert changes(planned(before, before)) == {}
    after = changes(planned({**before, "hub.yaml": hub(20)}, before))
    assert after["agent/writer-0"] is Action.REPLACE


def test_the_guard_looks_at_it_too_and_a_digest_confirms() -> None:
    emptied = planned({})
    assert [r.guard for r in emptied.refused] == ["empty-set"]
    assert planned({}, assent=Assent(confirmed=emptied.digest)).refused == ()
    assert [r.guard for r in planned({}, assent=Assent(confirmed="1:other")).refused] == ["empty-set"]
    assert [r.guard for r in planned(FILES, assent=Assent(is_descendant=False)).refused] == ["not-a-descendant"]
    assert [r.guard for r in planned(FILES, assent=Assent(disputed=("agent/x: no",))).refused] == ["admission"]
    protected = {**FILES, "agents.d/b.yaml": agent_text("reader", lifecycle={"protect": True})}
    assert [r.guard for r in planned(without("agents.d/b.yaml"), protected).refused] == ["protect"]


def test_no_token_is_made_up() -> None:
    assert {r.token_sha256 for r in assume_applied(desired_of(FILES), NOW).instances} == {""}
