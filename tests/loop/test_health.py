"""Which revision did well last, and the way back to it when the roll-out of a newer one fails."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.api.agents import order_agent
from reconciler.core.caller import Caller
from reconciler.core.change import Action, Change
from reconciler.core.outcome import Skipped
from reconciler.core.plan import Plan
from reconciler.kinds import KINDS
from reconciler.kinds.kind import LOOK_S
from reconciler.loop.apply import Done
from reconciler.loop.health import Health, find_failed_roll_out, watched_s
from reconciler.loop.kept import HEALTHY
from reconciler.loop.run import Loop, PassReport
from tests.fakes.fleet import FakeFleet, told
from tests.fakes.texts import agent_text, hub_text

AUTO = hub_text(loop={"autoRollback": True, "concurrency": 1})


class Site:
    """A fake fleet whose health is looked at after each pass, as in a hub; it returns by itself, unless told not to."""

    def __init__(self, folder: Path) -> None:
        self.fleet = FakeFleet(folder)
        self.fleet.router.start()
        self.begin()

    def begin(self) -> None:
        fleet = self.fleet
        fleet.loop = Loop(fleet.world, KINDS, faults=lambda: self.health.faults())
        self.returns = 0
        self.health = Health(fleet.world, fleet.loop, KINDS, self._count)

    def _count(self) -> None:
        self.returns += 1

    def restart(self) -> None:
        self.fleet.restart()
        self.begin()

    def commit(self, *, hub: str = AUTO, **spec: Any) -> str:
        files = {"agents.d/w.yaml": agent_text(**spec), "agents.d/r.yaml": agent_text("reader")}
        return self.fleet.commit(files, hub=hub)

    def run(self, passes: int = 1) -> PassReport:
        for _ in range(passes):
            report = self.fleet.run()
            self.health.look(report)
            self.fleet.agents.step()
        return report

    def prove(self) -> None:
        """Passes for as long as it takes to know that the revision in force does well."""
        self.run(6)
        desired = self.fleet.loop.revisions.last_good()
        assert desired is not None
        until = self.fleet.clock.boottime() + watched_s(desired, KINDS)
        while self.fleet.clock.boottime() < until:
            self.fleet.clock.advance(LOOK_S)
            self.run()

    def crash(self) -> PassReport:
        """What was just made from the newest commit crashes."""
        self.run(2)
        self.fleet.runtime.crash("writer-0")
        return self.run(6)

    @property
    def healthy(self) -> str | None:
        return self.fleet.store.get_meta(HEALTHY)

    @property
    def version(self) -> str:
        return str(json.loads(self.fleet.instances()["writer-0"].manifest)["spec"]["version"])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.fleet.end_hub()


def test_a_revision_is_healthy_only_once_its_roll_out_is_no_longer_watched(site: Site) -> None:
    good = site.commit(version="1")
    site.run(6)
    assert site.fleet.loop.revisions.applied == good
    assert site.healthy is None
    site.prove()
    assert site.healthy == good


def test_a_failed_roll_out_takes_the_whole_fleet_back_and_the_commit_is_skipped(site: Site) -> None:
    good = site.commit(version="1")
    site.prove()
    bad = site.commit(version="2")
    report = site.crash()
    assert (report.revision, report.candidate, site.healthy, site.version) == (good, bad, good, "1")
    assert site.returns == 1
    assert told(report)["RolledBack"].startswith(f"rolled back to {good[:12]} by hub: the roll-out of writer was taken")
    assert {c.reason for c in report.conditions if (c.subject, c.type) == ("hub", "RolledBack")} == {"Unhealthy"}
    (row,) = [e for e in site.fleet.audit() if e.action == "rollback"]
    assert (row.actor, row.cause, row.revision) == ("hub", "crash", bad)
    site.restart()
    site.prove()
    assert (site.fleet.loop.revisions.applied, site.healthy, site.returns) == (good, good, 0)


def test_a_newer_commit_is_tried_and_can_become_healthy(site: Site) -> None:
    site.commit(version="1")
    site.prove()
    site.commit(version="2")
    site.crash()
    newer = site.commit(version="3")
    site.prove()
    assert (site.healthy, site.version) == (newer, "3")
    assert "RolledBack" not in told(site.run())


def test_a_newer_commit_that_fails_the_same_way_is_gone_back_from_too(site: Site) -> None:
    good = site.commit(version="1")
    site.prove()
    site.commit(version="2")
    site.crash()
    again = site.commit(version="2", hub=hub_text(loop={"autoRollback": True}))
    report = site.run(4)
    assert (report.revision, report.candidate, site.returns) == (good, again, 2)
    assert site.run(3).plan.pending == ()


def test_a_new_agent_that_only_crashes_takes_the_fleet_back(site: Site) -> None:
    good = site.commit(version="1")
    site.prove()
    files = {"agents.d/w.yaml": agent_text(version="1"), "agents.d/r.yaml": agent_text("reader")}
    new = agent_text("new", lifecycle={"maxCrashes": 1})
    site.fleet.commit({**files, "agents.d/n.yaml": new}, hub=AUTO)
    for _ in range(2):
        site.run(3)
        site.fleet.runtime.crash("new-0")
    report = site.run(8)
    assert (report.revision, sorted(site.fleet.instances())) == (good, ["reader-0", "writer-0"])


def test_a_unit_that_cannot_be_made_is_a_failed_roll_out_and_one_that_somebody_changes_is_not() -> None:
    change = Change(kind="agent", name="writer", instance="writer-0", action=Action.CREATE, reason="new")
    plan = Plan(revision="r", compared_with="engine", changes=(change,))
    stalled, repaired = (
        PassReport(revision="r", plan=plan, done=(Done(change=change, outcome=Skipped(reason=reason)),))
        for reason in ("stalled after 5 identical failures: no space", "stalled after 5 identical repairs: memory")
    )
    assert find_failed_roll_out(stalled) == "writer-0 is stalled after 5 identical failures: no space"
    assert find_failed_roll_out(repaired) == ""


def test_without_the_key_only_the_agent_goes_back(site: Site) -> None:
    site.commit(version="1", hub=hub_text())
    site.prove()
    bad = site.commit(version="2", hub=hub_text())
    report = site.crash()
    assert (report.revision, site.version, site.returns) == (bad, "1", 0)


def test_what_crashes_long_after_its_roll_out_is_no_matter_of_the_commit(site: Site) -> None:
    site.commit(version="1")
    site.prove()
    second = site.commit(version="2")
    site.prove()
    assert site.healthy == second
    site.fleet.runtime.crash("writer-0")
    assert site.run(4).revision == second
    assert site.returns == 0


def test_an_agent_that_somebody_isolates_is_no_failed_roll_out(site: Site) -> None:
    site.commit(version="1")
    site.prove()
    second = site.commit(version="2")
    site.run(3)
    order_agent(site.fleet.world, "writer", "quarantine", Caller(proven="uid:7"), "")
    assert site.run(4).revision == second
    assert site.returns == 0


def test_the_first_revision_of_a_fleet_has_nothing_to_go_back_to(site: Site) -> None:
    first = site.commit(version="1")
    site.run(3)
    second = site.commit(version="2")
    report = site.crash()
    assert first != second == report.revision
    assert site.returns == 0


def test_a_kill_right_after_the_failure_is_made_up_for_by_the_next_hub(site: Site) -> None:
    good = site.commit(version="1")
    site.prove()
    site.commit(version="2")
    site.run(2)
    site.fleet.runtime.crash("writer-0")
    for _ in range(4):
        site.fleet.run()
        site.fleet.agents.step()
    site.restart()
    assert site.run(6).revision == good


def test_where_the_healthy_revision_cannot_be_had_any_more_it_is_said_once(site: Site) -> None:
    good = site.commit(version="1")
    site.prove()
    bad = site.commit(version="2")
    site.fleet.source.snapshots.pop(good)
    report = site.crash()
    assert report.revision == bad
    assert "the fleet cannot go back: there is no revision" in told(report)["CannotGoBack"]
    assert [e.action for e in site.fleet.audit() if e.action in ("rollback", "CannotGoBack")] == ["CannotGoBack"]
