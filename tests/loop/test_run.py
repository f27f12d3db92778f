"""The pass: what stays in force when something is broken, what people are told of it, and what is on record."""

import pytest

from reconciler.core.change import Action
from reconciler.core.condition import Mode
from reconciler.store import audit
from tests.fakes.fleet import FakeFleet, actions, change_of, show, told, transitions
from tests.fakes.source import Odd
from tests.fakes.texts import agent_text, hub_text, task_text

REGO = 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true}\n'
BROKEN = {"agents.d/a.yaml": agent_text(rol="x")}
GOOD = {"agents.d/a.yaml": agent_text()}


# --- which revision ---------------------------------------------------------------------------------------------------


def test_without_any_commit_nothing_happens_and_it_is_said(fleet: FakeFleet) -> None:
    report = fleet.run()
    assert told(report) == {"SourceUnavailable": "there is no commit yet"}
    assert (report.revision, report.plan.changes, report.is_converged) == ("", (), False)


def test_a_first_commit_that_is_broken_changes_nothing_and_names_every_problem(fleet: FakeFleet) -> None:
    fleet.commit({**BROKEN, "tasks.d/t.yaml": task_text(agnt="x")})
    report = fleet.run()
    assert [str(p).split(": ")[0] for p in report.problems] == ["agents.d/a.yaml:9:3", "tasks.d/t.yaml:6:3"]
    assert "has 2 problems; first: agents.d/a.yaml:9:3" in told(report)["ConfigInvalid"]
    assert fleet.containers() == {}
    assert fleet.loop.revisions.applied == ""


def test_a_broken_commit_leaves_the_last_good_one_in_force(fleet: FakeFleet) -> None:
    good = fleet.commit(GOOD)
    fleet.settle()
    fleet.commit(BROKEN)
    report = fleet.run()
    assert "ConfigInvalid" in told(report)
    assert (report.revision, fleet.loop.revisions.applied) == (good, good)
    assert actions(report) == {"writer-0": "keep"}
    fleet.runtime.remove_by_hand("writer-0")
    assert actions(fleet.run()) == {"writer-0": "create"}


@pytest.mark.parametrize("break_it", ["commit", "source"])
def test_the_last_good_revision_is_in_force_for_a_hub_that_starts_anew(fleet: FakeFleet, break_it: str) -> None:
    good = fleet.commit({**GOOD, "policies/a.rego": REGO, "schemas/messages/a.b.schema.json": "{}"})
    fleet.settle()
    if break_it == "commit":
        fleet.commit(BROKEN)
    else:
        fleet.source.fail("the disk is gone")
    fleet.restart()
    report = fleet.run()
    assert report.revision == good
    assert actions(report) == {"writer-0": "keep"}
    assert actions(report, "schema") == {"a.b": "keep"}
    assert [c.spec_digest for c in report.plan.changes if c.kind == "policy"] != [""]
    fleet.runtime.crash("writer-0")
    fleet.run()
    assert fleet.containers() == {"writer-0": "running"}


def test_a_fix_is_applied_in_the_next_pass(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.commit(BROKEN)
    for _ in range(5):
        fleet.run()
    fixed = fleet.commit({"agents.d/a.yaml": agent_text(description="fixed")})
    report = fleet.run()
    assert (report.revision, fleet.loop.revisions.applied) == (fixed, fixed)
    assert actions(report) == {"writer-0": "update"}
    assert told(report) == {}


def test_a_source_that_cannot_be_read_leaves_the_last_good_revision_in_force(fleet: FakeFleet) -> None:
    good = fleet.commit(GOOD)
    fleet.settle()
    fleet.source.fail("SourceUnsettled: a rebase is under way")
    report = fleet.run()
    assert told(report) == {"SourceUnsettled": "a rebase is under way"}
    assert (report.revision, actions(report), report.mode) == (good, {"writer-0": "keep"}, Mode.NORMAL)
    fleet.source.fail("git: not found")
    assert told(fleet.run()) == {"SourceUnavailable": "git: not found"}
    fleet.source.fail(None)
    assert told(fleet.run()) == {}


def test_large_files_beside_the_manifests_do_not_stop_a_revision(fleet: FakeFleet) -> None:
    big = Odd(b"{}", size_bytes=5 * 2**20)
    files = {"schemas/big.json": big, "agents.d/data/big.yaml": big, "policies/link.yaml": Odd(b"x", mode="120000")}
    revision = fleet.commit({**GOOD, **files})
    fleet.settle()
    assert fleet.loop.revisions.applied == revision


def test_a_policy_engine_that_is_away_keeps_the_last_good_revision_and_tasks_going(fleet: FakeFleet) -> None:
    good = fleet.commit({**GOOD, "policies/a.rego": REGO})
    fleet.settle()
    fleet.policy.is_away = True
    fleet.commit({**GOOD, "policies/a.rego": REGO.replace("true", "false")})
    report = fleet.run()
    assert report.revision == good
    assert "cannot be judged" in told(report)["PolicyFallback"]
    fleet.restart()
    fleet.policy.is_away = True
    assert fleet.run().revision == good
    fleet.policy.is_away = False
    assert told(fleet.run()) == {}
    assert fleet.loop.revisions.applied != good


def test_a_revision_whose_manifests_cannot_be_kept_is_not_applied(fleet: FakeFleet) -> None:
    good = fleet.commit(GOOD)
    fleet.settle()
    revision = fleet.commit({"agents.d/a.yaml": agent_text(version="2"), "schemas/beside.json": "{}"})
    fleet.source.snapshots[revision].lost.add("schemas/beside.json")
    report = fleet.run()
    assert told(report) == {"SourceUnavailable": "reading schemas/beside.json: its object is gone"}
    assert report.done == ()
    assert fleet.loop.revisions.applied == good
    last = fleet.loop.revisions.last_good()
    assert last is not None
    assert last.revision.id == good
    fleet.source.snapshots[revision].lost.clear()
    fleet.settle()
    assert fleet.loop.revisions.applied == revision


def test_looking_changes_nothing_at_all(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    report = fleet.look()
    assert actions(report) == {"writer-0": "create"}
    assert (fleet.containers(), fleet.instances(), fleet.audit()) == ({}, {}, [])
    assert fleet.loop.revisions.applied == ""


def test_looking_does_not_hide_a_transition_from_the_record(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.runtime.go_down()
    assert "RuntimeUnavailable" in told(fleet.look())
    assert transitions(fleet) == []
    fleet.run()
    assert transitions(fleet) == [("RuntimeUnavailable", "now true")]


# --- the record -------------------------------------------------------------------------------------------------------


def test_every_effect_has_its_intent_before_it_and_its_outcome_after_it_and_the_chain_holds(fleet: FakeFleet) -> None:
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text(), "policies/a.rego": REGO})
    fleet.settle()
    fleet.commit({"agents.d/a.yaml": agent_text(version="2")})
    fleet.runtime.fail_next("create")
    fleet.run()
    fleet.clock.advance(5)
    fleet.settle()
    open_intents: set[tuple[str, str, str]] = set()
    rows = [
        e for e in fleet.audit() if e.outcome in ("intent", "applied", "failed") and not e.actor.startswith("agent:")
    ]
    for entry in rows:
        key = (entry.kind, entry.name, entry.action)
        if entry.outcome == "intent":
            assert key not in open_intents
            open_intents.add(key)
        else:
            assert key in open_intents, entry
            open_intents.remove(key)
    assert open_intents == set()
    assert any(e.outcome == "failed" for e in rows)
    assert audit.verify_chain(fleet.store) == (len(fleet.audit()), "")


def test_a_row_says_who_asked_for_it_and_why(fleet: FakeFleet) -> None:
    revision = fleet.source.commit({"hub.yaml": hub_text(), **GOOD}, author="Grace <grace@example.org>")
    fleet.settle()
    row = next(e for e in fleet.audit() if (e.kind, e.action) == ("agent", "create"))
    assert (row.actor, row.cause, row.revision, row.name) == (
        "Grace <grace@example.org>",
        "commit",
        revision,
        "writer-0",
    )
    assert row.plan_digest.startswith("1:")
    fleet.runtime.crash("writer-0", 3)
    fleet.run()
    row = next(e for e in fleet.audit() if e.action == "restart")
    assert (row.actor, row.cause, row.reason) == ("hub", "crash", "it exited with 3")


def test_a_pass_with_nothing_to_do_writes_nothing(fleet: FakeFleet) -> None:
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text(), "policies/a.rego": REGO})
    fleet.settle()
    visited = len(fleet.fuse.visited)
    for _ in range(3):
        assert fleet.run().is_converged
    assert len(fleet.fuse.visited) == visited


# --- how it went ------------------------------------------------------------------------------------------------------


def test_converged_settled_and_stuck_are_told_apart(fleet: FakeFleet) -> None:
    fleet.agents.holding.add("changelog")
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text()})
    report = fleet.run()
    assert not (report.is_converged or report.is_settled or report.is_stuck)
    for _ in range(6):
        fleet.agents.step()
        report = fleet.run()
    assert show(report) == [("task/changelog", "hold", "running on writer-0")]
    assert (report.is_converged, report.is_settled, report.is_stuck) == (False, True, False)
    fleet.agents.holding.clear()
    report = fleet.settle()
    assert (report.is_converged, report.is_settled, report.is_stuck) == (True, True, False)
    fleet.commit({"agents.d/a.yaml": agent_text(lifecycle={"autoRestart": False})})
    fleet.settle()
    fleet.runtime.crash("writer-0")
    report = fleet.run()
    assert (report.is_converged, report.is_stuck) == (False, True)
    assert change_of(report, "agent/writer-0").action is Action.HOLD


def test_images_are_looked_up_once_for_each_revision_and_until_they_are_there(fleet: FakeFleet) -> None:
    fleet.commit(GOOD)
    fleet.settle()
    fleet.run()
    assert fleet.runtime.calls.count(("resolve_image", "agents/base:1")) == 1
    fleet.runtime.add_image("agents/base:1", "sha256:base2")
    assert actions(fleet.run()) == {"writer-0": "keep"}
    fleet.commit({**GOOD, "README.md": "x"})
    assert actions(fleet.run()) == {"writer-0": "replace"}
