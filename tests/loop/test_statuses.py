"""How a forge is told of revisions: pending, success only once it stays well, failure with the reason, each once."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.alerts.courier import Courier, Patience
from reconciler.alerts.forge import ForgeSink
from reconciler.core.caller import Caller
from reconciler.core.plan import Plan
from reconciler.core.problem import Problem
from reconciler.kinds import KINDS
from reconciler.loop.alerts import Alerts
from reconciler.loop.outbox import Outbox
from reconciler.loop.run import Loop, PassReport
from reconciler.loop.serve import nothing_desired
from reconciler.loop.statuses import Statuses
from reconciler.ports import Revision
from reconciler.settings import FORGE_SINK
from reconciler.store import records
from tests.alerts.forges import TOKEN, Forge, forge
from tests.fakes.fleet import FLEET, FakeFleet, told
from tests.fakes.texts import agent_text, hub_text, task_text

ALICE = Caller(proven="uid:7", name="alice", reason="slow")
BROKEN = {"agents.d/a.yaml": agent_text(rol="x")}
GOOD = {"agents.d/a.yaml": agent_text()}
CHANGED = {"agents.d/a.yaml": agent_text(description="changed", resources={"memory": "1GiB"}, env={"A": "1"})}


class Site:
    """A fake fleet, a real stand-in of a forge, and one life of the hub after the other between them."""

    def __init__(self, folder: Path, at: Forge) -> None:
        self.fleet = FakeFleet(folder)
        self.fleet.router.start()
        self.at = at
        token = folder / "token"
        token.write_text(TOKEN)
        self.settings = at.settings(str(token), settle="10s", deadline="10m", timeout="30s")
        self.begin()

    def begin(self) -> None:
        fleet = self.fleet
        self.outbox = Outbox(fleet.store)
        self.statuses = Statuses(fleet.store, self.outbox, FLEET, fleet.clock, self.settings)
        fleet.loop.close()
        alerts = Alerts(fleet.store, FLEET, fleet.clock, outbox=self.outbox)
        fleet.loop = Loop(fleet.world, KINDS, on_desired=self.statuses.attempt, alerts=alerts)
        patience = Patience(base_s=0.001, half_open_s=0.01)
        courier = Courier(FORGE_SINK, ForgeSink(self.settings), on_done=self.outbox.arrived, patience=patience)
        self.outbox.start({FORGE_SINK: courier})

    def restart(self) -> None:
        self.outbox.close()
        self.fleet.restart()
        self.begin()

    def run(self) -> PassReport:
        report = self.fleet.run()
        self.statuses.look(report)
        return report

    def settle(self, seconds: float = 11.0) -> PassReport:
        """Passes, with agents at work between them, until nothing is left to do, and for so long after that."""
        for _ in range(40):
            report = self.run()
            if report.is_converged:
                break
            self.fleet.agents.step()
        assert report.is_converged
        self.fleet.clock.advance(seconds)
        self.fleet.agents.step()
        return self.run()

    def states(self, sha: str) -> list[str]:
        """What the forge has of a commit, once nothing is on its way any more."""
        until(lambda: records.notices(self.fleet.store) == [])
        return self.at.states(sha)

    def said(self, sha: str) -> list[str]:
        until(lambda: records.notices(self.fleet.store) == [])
        return [s.description for s in self.at.statuses if s.sha == sha]

    def end(self) -> None:
        self.outbox.close()
        self.fleet.end_hub()


@pytest.fixture
def at() -> Iterator[Forge]:
    with forge("github") as made:
        yield made


@pytest.fixture
def site(tmp_path: Path, at: Forge) -> Iterator[Site]:
    made = Site(tmp_path, at)
    yield made
    made.end()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_revision_is_pending_and_then_a_success_once_it_has_stayed_well(site: Site) -> None:
    commit = site.fleet.commit(GOOD)
    site.settle(seconds=1)
    assert site.states(commit) == ["pending"]
    site.fleet.clock.advance(10)
    site.run()
    assert site.states(commit) == ["pending", "success"]
    assert {s.context for s in site.at.statuses} == {f"reconciler/{FLEET}"}


def test_passes_that_change_nothing_and_restarts_tell_nothing(site: Site) -> None:
    commit = site.fleet.commit(GOOD)
    site.settle()
    for _ in range(3):
        site.run()
    site.restart()
    site.settle()
    assert site.states(commit) == ["pending", "success"]


def test_a_broken_commit_is_a_failure_with_the_first_problem_and_its_fix_a_success(site: Site) -> None:
    good = site.fleet.commit(GOOD)
    site.settle()
    broken = site.fleet.commit(BROKEN)
    site.run()
    site.run()
    fixed = site.fleet.commit(CHANGED)
    site.settle()
    assert site.said(broken) == [
        "1 problem; first: agents.d/a.yaml:9:3: unknown key 'rol' in spec; did you mean 'role'?"
    ]
    assert [site.states(c) for c in (good, broken, fixed)] == [
        ["pending", "success"],
        ["failure"],
        ["pending", "success"],
    ]


def test_a_broken_commit_does_not_hide_how_the_one_before_comes_out(site: Site) -> None:
    good = site.fleet.commit(GOOD)
    site.run()
    broken = site.fleet.commit(BROKEN)
    for _ in range(40):
        site.run()
        site.fleet.agents.step()
    assert (site.states(good), site.states(broken)) == (["pending", "success"], ["failure"])


def test_a_revision_that_another_one_overtakes_does_not_stay_pending(site: Site) -> None:
    first = site.fleet.commit(GOOD)
    site.run()
    second = site.fleet.commit(CHANGED)
    site.settle()
    assert site.states(first) == ["pending", "error"]
    assert site.said(first)[1] == f"superseded by {second[:12]} before it had settled"
    assert site.states(second) == ["pending", "success"]


def test_a_refused_plan_is_a_failure_and_a_success_after_somebody_confirmed_it(site: Site) -> None:
    site.fleet.commit({f"agents.d/{n}.yaml": agent_text(n) for n in "abcde"})
    site.settle()
    pruned = site.fleet.commit({"agents.d/a.yaml": agent_text("a")})
    report = site.run()
    assert "refused by the guard prune-budget: it would remove 4 of 5 agents" in site.said(pruned)[0]
    site.fleet.store.set_meta("confirmed_plan", report.plan.refused[0].confirm)
    site.settle()
    assert site.states(pruned) == ["failure", "pending", "success"]


def test_a_commit_whose_signature_is_not_accepted_is_a_failure(site: Site) -> None:
    good = site.fleet.commit(GOOD)
    site.settle()
    unsigned = site.fleet.commit(CHANGED)
    site.fleet.source.faults[unsigned] = "commit x by Eve is not signed"
    site.run()
    site.run()
    assert site.said(unsigned) == ["commit x by Eve is not signed"]
    assert site.states(good) == ["pending", "success"]


def test_a_signature_that_cannot_be_checked_now_says_nothing_of_the_commit(site: Site) -> None:
    site.fleet.commit(GOOD)
    site.settle()
    signed = site.fleet.commit(CHANGED)
    site.fleet.source.cannot_verify = "the file of keys is gone"
    site.run()
    assert site.states(signed) == []
    site.fleet.source.cannot_verify = ""
    site.settle()
    assert site.states(signed) == ["pending", "success"]


def test_a_first_commit_that_is_broken_is_a_failure_once_also_over_a_restart(site: Site) -> None:
    broken = site.fleet.commit(BROKEN)
    site.run()
    site.restart()
    site.run()
    assert site.states(broken) == ["failure"]


def test_going_back_to_an_older_commit_is_another_attempt(site: Site) -> None:
    first = site.fleet.commit(GOOD)
    site.settle()
    second = site.fleet.commit(CHANGED)
    site.settle()
    site.fleet.source.go_to(first)
    report = site.run()
    assert site.states(first) == ["pending", "success", "failure"]
    site.fleet.store.set_meta("confirmed_plan", report.plan.refused[0].confirm)
    site.settle()
    assert site.states(first) == ["pending", "success", "failure", "pending", "success"]
    assert site.states(second) == ["pending", "success"]


def test_a_roll_out_that_is_taken_back_is_no_success_however_well_the_fleet_is(site: Site) -> None:
    site.fleet.commit(GOOD)
    site.settle()
    bad = site.fleet.commit(CHANGED)
    site.settle()
    assert site.states(bad) == ["pending", "success"]
    site.fleet.runtime.crash("writer-0")
    for _ in range(10):
        site.run()
        site.fleet.agents.step()
    assert site.states(bad) == ["pending", "success", "failure"]
    assert "the roll-out of writer was taken back" in site.said(bad)[2]


def test_a_commit_that_was_rolled_back_is_a_failure_that_says_so_once(site: Site) -> None:
    good = site.fleet.commit(GOOD)
    site.settle()
    bad = site.fleet.commit(CHANGED)
    site.settle()
    site.fleet.loop.roll_back("fleet", good, ALICE)
    site.settle()
    site.restart()
    site.settle()
    assert site.states(bad) == ["pending", "success", "failure"]
    assert site.said(bad)[-1] == f"rolled back to {good[:12]} by uid:7 (alice): slow"
    assert site.states(good) == ["pending", "success", "pending", "success"]


def test_a_commit_of_which_one_agent_was_rolled_back_is_no_success(site: Site) -> None:
    good = site.fleet.commit(GOOD)
    site.settle()
    bad = site.fleet.commit(CHANGED)
    site.settle(seconds=1)
    site.fleet.loop.roll_back("agent/writer", good, ALICE)
    site.settle()
    assert site.states(bad) == ["pending", "failure"]
    assert site.said(bad)[-1] == f"agent/writer is rolled back to {good[:12]} by uid:7 (alice): slow"


def test_a_success_of_which_an_agent_is_rolled_back_much_later_is_one_no_more(site: Site) -> None:
    good = site.fleet.commit(GOOD)
    site.settle()
    bad = site.fleet.commit(CHANGED)
    site.settle(seconds=700)
    site.fleet.loop.roll_back("agent/writer", good, ALICE)
    site.settle()
    assert site.states(bad) == ["pending", "success", "failure"]


def test_what_happens_to_agents_long_after_is_no_matter_of_the_commit(site: Site) -> None:
    commit = site.fleet.commit(GOOD)
    site.settle()
    site.fleet.clock.advance(601)
    for _ in range(30):
        site.fleet.runtime.crash("writer-0")
        site.run()
        site.fleet.clock.advance(60)
        site.fleet.agents.step()
    assert "Quarantined" in told(site.run())
    assert site.states(commit) == ["pending", "success"]


def test_what_does_not_settle_in_time_is_a_failure_that_says_what_is_in_the_way(site: Site) -> None:
    commit = site.fleet.commit(GOOD)
    site.fleet.runtime.forget_image("agents/base:1")
    site.run()
    assert site.statuses.again_in_s == pytest.approx(600, abs=1)
    site.fleet.clock.advance(601)
    site.run()
    assert site.states(commit) == ["pending", "failure"]
    assert site.said(commit)[1].startswith("not settled within 10m: agent/writer-0: ")
    site.fleet.runtime.add_image("agents/base:1", "sha256:base1")
    site.fleet.clock.advance(600)
    site.settle()
    assert site.states(commit) == ["pending", "failure", "success"]


def test_an_engine_that_cannot_be_read_is_no_success(site: Site) -> None:
    commit = site.fleet.commit(GOOD)
    site.run()
    site.fleet.runtime.go_down()
    for _ in range(4):
        site.fleet.clock.advance(20)
        site.run()
    assert site.states(commit) == ["pending"]
    site.fleet.runtime.come_back()
    site.settle()
    assert site.states(commit) == ["pending", "success"]


def test_tasks_say_nothing_of_a_revision(site: Site) -> None:
    commit = site.fleet.commit(
        {**GOOD, "tasks.d/t.yaml": task_text("t"), "tasks.d/u.yaml": task_text("u", agent="writer")}
    )
    for _ in range(4):
        site.run()
        site.fleet.agents.step()
    site.fleet.clock.advance(11)
    site.run()
    assert site.states(commit)[-1] == "success"


def test_a_source_that_is_gone_for_long_does_not_hurry_the_passes(site: Site) -> None:
    commit = site.fleet.commit(GOOD)
    site.settle()
    site.fleet.source.fail("the disk is gone")
    site.fleet.clock.advance(10_000)
    site.run()
    assert site.statuses.again_in_s is None
    assert site.states(commit) == ["pending", "success"]


def test_a_plain_directory_has_no_status(site: Site) -> None:
    plain = "worktree:0123456789abcdef"
    site.statuses.attempt(replace(nothing_desired(), revision=Revision(id=plain)))
    problems = (Problem(file="hub.yaml", message="broken"),)
    plan = Plan(revision=plain, compared_with="nothing")
    site.statuses.look(PassReport(revision=plain, candidate=plain, plan=plan))
    site.statuses.look(PassReport(revision="", candidate=plain, plan=plan, problems=problems))
    site.outbox.close(drain_s=10)
    assert site.at.requests == 0


def test_a_forge_that_hangs_holds_no_pass_up(site: Site) -> None:
    over = threading.Event()
    site.at.trouble = lambda _n: 0 if over.wait(600) else 500
    commit = site.fleet.commit(GOOD)
    passes = threading.Thread(target=site.settle)
    passes.start()
    passes.join(60)
    assert not passes.is_alive()
    assert len(records.notices(site.fleet.store)) == 2
    over.set()
    assert site.states(commit) == ["pending", "success"]


def test_a_forge_that_answers_500_gets_the_statuses_in_order_when_it_is_back(site: Site) -> None:
    site.at.trouble = lambda _n: 500
    commit = site.fleet.commit(GOOD)
    site.settle()
    until(lambda: site.at.requests > 6)
    assert told(site.run())["SinkAway"] == "it answered 500"
    site.at.trouble = lambda _n: 0
    assert site.states(commit) == ["pending", "success"]
    assert "SinkAway" not in told(site.run())


def test_what_a_killed_hub_could_not_tell_is_told_by_the_next_one(site: Site) -> None:
    site.at.trouble = lambda _n: 500
    commit = site.fleet.commit(GOOD)
    site.settle()
    until(lambda: site.at.requests > 1)
    site.outbox.close()
    site.at.trouble = lambda _n: 0
    site.restart()
    assert site.states(commit) == ["pending", "success"]


def test_a_link_leads_to_the_record_of_the_revision(tmp_path: Path, at: Forge) -> None:
    site = Site(tmp_path, at)
    more: dict[str, Any] = {"link": "https://hub.example.org/{fleet}/{revision}", "context": "reconciler/production"}
    site.settings = at.settings(str(tmp_path / "token"), **more)
    site.restart()
    commit = site.fleet.commit(GOOD, hub=hub_text())
    site.settle()
    assert site.states(commit)
    assert {(s.context, s.link) for s in at.statuses} == {
        ("reconciler/production", f"https://hub.example.org/{FLEET}/{commit}")
    }
    site.end()
