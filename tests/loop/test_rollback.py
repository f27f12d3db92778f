"""Rolled back: the fleet, or one resource, stays as an older revision says until git has something newer to say of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from reconciler.api.access import RefusedRequest
from reconciler.api.rollbacks import clear_subject, list_rollbacks, roll_back_subject
from reconciler.core.caller import Caller
from reconciler.kinds import KINDS
from reconciler.loop.rollback import ROLLBACKS
from reconciler.loop.run import CONFIRMED, Loop
from tests.fakes.fleet import FakeFleet, change_of, told
from tests.fakes.texts import agent_text, hub_text, task_text

REGO = 'package hub.admission\n\nimport rego.v1\n\ndecision := {"allow": true, "reasons": []}\n'
ALICE = Caller(proven="uid:7", name="alice", reason="it answers nobody")


def files(writer: str = "1", reader: str = "1", **more: str) -> dict[str, str]:
    return {
        "agents.d/writer.yaml": agent_text(version=writer),
        "agents.d/reader.yaml": agent_text("reader", version=reader),
        **{f"agents.d/{name}.yaml": text for name, text in more.items()},
    }


@pytest.fixture
def fleet(tmp_path: Path) -> FakeFleet:
    return FakeFleet(tmp_path)


def make(fleet: FakeFleet, *versions: dict[str, str]) -> list[str]:
    """A commit of each, carried out before the next."""
    made = []
    for version in versions:
        made.append(fleet.commit(version))
        fleet.settle()
    return made


def roll_back(fleet: FakeFleet, to: str, subject: str = "fleet") -> Any:
    return roll_back_subject(fleet.loop, json.dumps({"subject": subject, "to": to}).encode(), ALICE)


def clear(fleet: FakeFleet, subject: str = "fleet") -> Any:
    return clear_subject(fleet.loop, fleet.store, subject, ALICE)


def versions(fleet: FakeFleet) -> dict[str, str]:
    """Version of the manifest by agent, as instances were made from it."""
    return {r.agent: json.loads(r.manifest)["spec"].get("version") for r in fleet.instances().values()}


def rows(fleet: FakeFleet) -> list[tuple[str, str, str]]:
    return [(e.kind, e.action, e.actor) for e in fleet.audit() if e.action in ("rollback", "rollback-end")]


# --- the fleet --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", ["fleet", "agent/writer"])
def test_what_is_done_for_a_rollback_is_done_for_whoever_asked_for_it(fleet: FakeFleet, subject: str) -> None:
    good, _bad = make(fleet, files(), files(writer="2"))
    before = len(fleet.audit())
    roll_back(fleet, good, subject)
    fleet.settle()
    done = [e for e in fleet.audit()[before:] if e.kind == "agent" and e.cause == "commit"]
    assert {e.actor for e in done} == {"uid:7 (alice)"}
    assert {e.action for e in done} >= {"replace", "phase"}


def test_the_fleet_goes_back_and_no_later_pass_undoes_it(fleet: FakeFleet) -> None:
    good, bad = make(fleet, files(), files(writer="2"))
    assert roll_back(fleet, good)["since"] == bad
    report = fleet.settle()
    assert versions(fleet) == {"writer": "1", "reader": "1"}
    for _ in range(3):
        report = fleet.run()
        assert report.plan.pending == ()
    assert (report.revision, report.candidate, fleet.loop.revisions.applied) == (good, bad, good)
    assert told(report)["RolledBack"] == (
        f"rolled back to {good[:12]} by uid:7 (alice): it answers nobody; "
        f"{bad[:12]} is skipped until there is a newer commit"
    )


def test_it_survives_the_end_of_the_hub_with_and_without_its_source(fleet: FakeFleet) -> None:
    good, _ = make(fleet, files(), files(writer="2"))
    roll_back(fleet, good)
    fleet.restart()
    fleet.settle()
    fleet.restart()
    fleet.source.fail("the disk is away")
    report = fleet.run()
    assert (report.revision, report.plan.pending) == (good, ())
    assert "RolledBack" in told(report)
    fleet.source.fail(None)
    assert fleet.settle().revision == good
    assert versions(fleet)["writer"] == "1"


def test_a_newer_commit_ends_it_and_is_carried_out(fleet: FakeFleet) -> None:
    good, bad = make(fleet, files(), files(writer="2"))
    roll_back(fleet, good)
    fleet.settle()
    newer = fleet.commit(files(writer="3"))
    report = fleet.settle()
    assert report.revision == newer
    assert versions(fleet)["writer"] == "3"
    assert "RolledBack" not in told(report)
    assert list_rollbacks(fleet.store) == {"rollbacks": []}
    assert rows(fleet) == [
        ("fleet", "rollback", "uid:7 (alice)"),
        ("fleet", "rollback-end", "Ada <ada@example.org>"),
    ]
    (end,) = [e for e in fleet.audit() if e.action == "rollback-end"]
    assert (end.cause, end.revision) == ("commit", newer)
    assert bad != newer


def test_a_newer_commit_that_is_not_valid_does_not_end_it(fleet: FakeFleet) -> None:
    good, bad = make(fleet, files(), files(writer="2"))
    roll_back(fleet, good)
    fleet.settle()
    fleet.commit({"agents.d/a.yaml": "nonsense: true"})
    for _ in range(2):
        report = fleet.run()
        assert report.problems
        assert (report.revision, versions(fleet)["writer"]) == (good, "1")
        assert {"RolledBack", "ConfigInvalid"} <= told(report).keys()
        fleet.restart()
    fleet.source.go_to(bad)
    assert fleet.settle().revision == good


def test_a_branch_that_goes_back_by_less_is_nothing_newer(fleet: FakeFleet) -> None:
    first, middle, _ = make(fleet, files(), files(writer="2"), files(writer="3"))
    roll_back(fleet, first)
    fleet.settle()
    fleet.source.go_to(middle)
    assert fleet.settle().revision == first
    assert versions(fleet)["writer"] == "1"


def test_a_forced_push_that_drops_what_is_skipped_is_held_like_any_other(fleet: FakeFleet) -> None:
    good, bad = make(fleet, files(), files(writer="2"))
    roll_back(fleet, good)
    fleet.settle()
    fleet.source.go_to(good)
    forced = fleet.commit(files(writer="3"))
    report = fleet.run()
    assert [r.guard for r in report.plan.refused] == ["not-a-descendant"]
    assert f"does not descend from {bad[:12]}" in told(report)["HistoryRewritten"]
    assert (fleet.loop.revisions.applied, versions(fleet)["writer"]) == (good, "1")
    fleet.store.set_meta(CONFIRMED, report.plan.refused[0].confirm)
    assert fleet.settle().revision == forced
    assert list_rollbacks(fleet.store) == {"rollbacks": []}


def test_cleared_it_is_as_the_source_says_again(fleet: FakeFleet) -> None:
    good, bad = make(fleet, files(), files(writer="2"))
    roll_back(fleet, good)
    fleet.settle()
    assert clear(fleet)["to"] == good
    assert fleet.settle().revision == bad
    assert versions(fleet)["writer"] == "2"
    with pytest.raises(RefusedRequest, match=r"fleet is not rolled back \(nothing is\)"):
        clear(fleet)


def test_before_the_first_pass_carries_it_out_a_look_shows_it_and_changes_nothing(fleet: FakeFleet) -> None:
    good, bad = make(fleet, files(), files(writer="2"))
    roll_back(fleet, good)
    before = fleet.store.get_meta(ROLLBACKS)
    plan = fleet.look().plan
    assert plan.revision == good
    change = next(c for c in plan.changes if c.unit == "agent/writer-0")
    assert change.action == "replace"
    assert change.reason.endswith(f"; rolled back to {good[:12]} by uid:7 (alice): it answers nobody")
    assert (fleet.loop.revisions.applied, fleet.store.get_meta(ROLLBACKS)) == (bad, before)


def test_a_revision_that_was_never_carried_out_can_be_gone_back_to(fleet: FakeFleet) -> None:
    make(fleet, files())
    between = fleet.commit(files(writer="2"))
    fleet.commit(files(writer="3"))
    fleet.settle()
    roll_back(fleet, between)
    assert fleet.settle().revision == between
    assert versions(fleet)["writer"] == "2"


def test_a_dangerous_way_back_waits_for_a_person_like_any_other_plan(fleet: FakeFleet) -> None:
    many = {f"a{n}": agent_text(f"a{n}") for n in range(8)}
    good, bad = make(fleet, files(), files(**many))
    roll_back(fleet, good)
    for _ in range(3):
        report = fleet.run()
    assert [r.guard for r in report.plan.refused] == ["prune-budget"]
    assert (fleet.loop.revisions.applied, len(fleet.instances())) == (bad, 10)


# --- one resource -----------------------------------------------------------------------------------------------------


def test_one_agent_goes_back_and_the_rest_follows_git(fleet: FakeFleet) -> None:
    good, bad = make(fleet, files(), files(writer="2", reader="2"))
    roll_back(fleet, good, "agent/writer")
    report = fleet.settle()
    assert versions(fleet) == {"writer": "1", "reader": "2"}
    assert report.revision == bad
    assert {r.agent: r.revision for r in fleet.instances().values()} == {"writer": good, "reader": bad}
    assert [(c.subject, c.message) for c in report.conditions if c.type == "RolledBack"] == [
        (
            "agent/writer",
            f"rolled back to {good[:12]} by uid:7 (alice): it answers nobody; until a commit changes agent/writer",
        )
    ]
    assert "rolled back" in change_of(report, "agent/writer-0").reason
    assert "rolled back" not in change_of(report, "agent/reader-0").reason


def test_a_commit_that_changes_another_agent_leaves_it_back_and_one_that_changes_it_ends_it(fleet: FakeFleet) -> None:
    good, _ = make(fleet, files(), files(writer="2"))
    roll_back(fleet, good, "agent/writer")
    fleet.settle()
    make(fleet, files(writer="2", reader="2"))
    assert versions(fleet) == {"writer": "1", "reader": "2"}
    fleet.restart()
    fleet.settle()
    assert versions(fleet) == {"writer": "1", "reader": "2"}
    make(fleet, files(writer="3", reader="2"))
    assert versions(fleet) == {"writer": "3", "reader": "2"}
    assert list_rollbacks(fleet.store) == {"rollbacks": []}


def test_it_needs_no_git_after_the_hub_has_ended(fleet: FakeFleet) -> None:
    good, _ = make(fleet, files(), files(writer="2"))
    roll_back(fleet, good, "agent/writer")
    make(fleet, files(writer="2", reader="2"), files(writer="2", reader="3"))
    fleet.restart()
    fleet.source.fail("the disk is away")
    report = fleet.run()
    assert report.plan.pending == ()
    assert versions(fleet) == {"writer": "1", "reader": "3"}


def test_an_agent_that_was_not_there_then_goes_and_one_that_was_comes_back(fleet: FakeFleet) -> None:
    good, _ = make(
        fleet, files(), {"agents.d/reader.yaml": agent_text("reader"), "agents.d/new.yaml": agent_text("new")}
    )
    roll_back(fleet, good, "agent/writer")
    roll_back(fleet, good, "agent/new")
    fleet.settle()
    assert sorted(versions(fleet)) == ["reader", "writer"]
    fleet.restart()
    fleet.settle()
    assert sorted(versions(fleet)) == ["reader", "writer"]
    clear(fleet, "agent/new")
    fleet.settle()
    assert sorted(versions(fleet)) == ["new", "reader", "writer"]


def test_one_that_no_longer_fits_the_rest_is_refused_and_a_commit_that_breaks_it_is_not_taken(fleet: FakeFleet) -> None:
    sends = "  messaging: {sends: [{to: reader, types: [note.left]}]}\n"
    talks = agent_text(version="1") + sends
    old = {"agents.d/writer.yaml": talks, "agents.d/reader.yaml": agent_text("reader")}
    good, bad = make(fleet, old, files(writer="2"))
    roll_back(fleet, good, "agent/writer")
    fleet.settle()
    fleet.commit({"agents.d/writer.yaml": agent_text(version="2")})
    report = fleet.run()
    assert report.revision == bad
    assert "reconciler rollback --clear ends" in str(report.problems[0])
    clear(fleet, "agent/writer")
    fleet.settle()
    with pytest.raises(RefusedRequest, match=r"going back to .* has 1 problem; first: .*reader"):
        roll_back(fleet, good, "agent/writer")


def test_a_task_can_go_back_and_does_not_run_again(fleet: FakeFleet) -> None:
    old, new = ({**files(), "tasks.d/t.yaml": task_text("job", prompt=text)} for text in ("one", "two"))
    good, _ = make(fleet, old, new)
    roll_back(fleet, good, "task/job")
    fleet.settle()
    assert [t.state for t in fleet.tasks()] == ["succeeded", "succeeded"]


def test_what_was_back_by_itself_is_so_again_when_the_fleet_no_longer_is(fleet: FakeFleet) -> None:
    good, _ = make(fleet, files(), files(writer="2", reader="2"))
    roll_back(fleet, good, "agent/writer")
    fleet.settle()
    roll_back(fleet, good)
    fleet.settle()
    assert versions(fleet) == {"writer": "1", "reader": "1"}
    with pytest.raises(RefusedRequest, match=r"the whole fleet is rolled back to .*; clear that first"):
        roll_back(fleet, good, "agent/reader")
    clear(fleet)
    fleet.settle()
    assert versions(fleet) == {"writer": "1", "reader": "2"}


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"subject": "fleet", "to": "nowhere"}, 404, "there is no revision 'nowhere'"),
        ({"subject": "fleet", "to": ""}, 400, "name a commit, a branch or a tag"),
        ({"subject": "fleet", "to": "a\nb"}, 400, "name a commit, a branch or a tag"),
        ({"subject": "fleet", "to": 5}, 400, "must be an object"),
        ({"subject": "fleet"}, 400, "must be an object"),
        ({"subject": "policy/policies", "to": "x"}, 400, "all else goes back with the whole fleet"),
        ({"subject": "agent/", "to": "x"}, 400, "is not `fleet`"),
        ({"subject": f"agent/{'a' * 300}", "to": "x"}, 400, "is not `fleet`"),
        ({"subject": "fleet", "to": "x", "now": True}, 400, "unknown keys: now"),
    ],
)
def test_what_is_no_rollback_is_refused_and_nothing_is_noted(
    fleet: FakeFleet, asked: dict[str, Any], status: int, said: str
) -> None:
    make(fleet, files(), files(writer="2"))
    with pytest.raises(RefusedRequest) as refused:
        roll_back_subject(fleet.loop, json.dumps(asked).encode(), ALICE)
    assert (refused.value.status, said in str(refused.value)) == (status, True)
    assert fleet.store.get_meta(ROLLBACKS) is None


def test_a_revision_outside_of_the_tracked_history_is_refused(fleet: FakeFleet) -> None:
    (good,) = make(fleet, files())
    other = fleet.source.rewrite({"hub.yaml": hub_text(), **files(writer="9")})
    fleet.source.go_to(good)
    with pytest.raises(RefusedRequest, match=r"is not in the history that is followed"):
        roll_back(fleet, other)
    assert fleet.settle().revision == good


def test_a_revision_that_is_not_valid_is_refused_and_the_fleet_stays(fleet: FakeFleet) -> None:
    broken = fleet.commit({"agents.d/a.yaml": "nonsense: true"})
    (good,) = make(fleet, files())
    for subject in ("fleet", "agent/writer"):
        with pytest.raises(RefusedRequest, match=r"has .* problems?; first: agents\.d/a\.yaml:1"):
            roll_back(fleet, broken, subject)
    assert fleet.settle().revision == good


def test_a_revision_whose_signatures_are_refused_is_not_gone_back_to(fleet: FakeFleet) -> None:
    first, middle, newest = make(fleet, files(), files(writer="2"), files(writer="3"))
    fleet.source.faults[first] = "commit is signed by nobody"
    with pytest.raises(RefusedRequest, match=r"signed by nobody"):
        roll_back(fleet, first)
    fleet.source.cannot_verify = "the keys are away"
    with pytest.raises(RefusedRequest, match=r"the keys are away"):
        roll_back(fleet, middle, "agent/writer")
    assert fleet.settle().revision == newest


def test_a_revision_that_policy_denies_is_not_gone_back_to(fleet: FakeFleet) -> None:
    rego = {"policies/p.rego": REGO}
    first, newest = make(fleet, {**files(), **rego}, {**files(writer="2"), **rego})
    fleet.loop = Loop(fleet.world, KINDS, fresh_engine=lambda: fleet.policy)
    fleet.policy.deny("admission", "version 1 is banned", lambda q: "'version': '1'" in str(q))
    for subject in ("fleet", "agent/writer"):
        with pytest.raises(RefusedRequest, match=r"version 1 is banned"):
            roll_back(fleet, first, subject)
    assert fleet.settle().revision == newest


def test_the_newest_revision_and_what_is_the_same_there_are_refused(fleet: FakeFleet) -> None:
    good, bad = make(fleet, files(), files(writer="2"))
    with pytest.raises(RefusedRequest, match=r"is the newest revision; .*rollback --clear"):
        roll_back(fleet, bad)
    with pytest.raises(RefusedRequest, match=r"agent/reader is the same in"):
        roll_back(fleet, good, "agent/reader")
    with pytest.raises(RefusedRequest, match=r"there is no agent/nobody in") as refused:
        roll_back(fleet, good, "agent/nobody")
    assert refused.value.status == 404


def test_without_a_source_nobody_can_say_where_back_is(fleet: FakeFleet) -> None:
    good, _ = make(fleet, files(), files(writer="2"))
    fleet.source.fail("the disk is away")
    with pytest.raises(RefusedRequest, match=r"the source cannot be read now: the disk is away"):
        roll_back(fleet, good)


def test_what_was_refused_leaves_the_newest_commit_to_be_carried_out(fleet: FakeFleet) -> None:
    (good,) = make(fleet, files())
    newest = fleet.commit(files(writer="2"))
    fleet.look()
    with pytest.raises(RefusedRequest):
        roll_back(fleet, good, "agent/nobody")
    fleet.settle()
    assert fleet.loop.revisions.applied == newest
    fleet.restart()
    assert fleet.settle().revision == newest
