"""Which runs a schedule makes: on time, after the hub was away, and whatever the clock does."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.core.change import Action, Cause, Change
from reconciler.kinds.manifest import Manifest
from reconciler.kinds.task.schedule import MOST, show_schedules
from reconciler.kinds.task.spec import TaskSpec
from reconciler.kinds.task.state import FINAL, TaskState
from reconciler.store.records import ScheduleRecord, TaskRecord
from tests.kinds.task.build import plan_tasks, task_of

MONDAY = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)


def weekly(missed: str = "once", cron: str = "0 6 * * 1", **spec: Any) -> Manifest[TaskSpec]:
    return task_of("report", schedule={"cron": cron, "zone": "Europe/Berlin", "missed": missed}, **spec)


def seen(until: datetime = MONDAY, manifest: Manifest[TaskSpec] | None = None) -> dict[str, ScheduleRecord]:
    schedule = (manifest or weekly()).spec.schedule
    assert schedule is not None
    record = ScheduleRecord(name="report", cron=schedule.cron, zone=schedule.zone, since=until.isoformat())
    return {"report": record}


def plan_at(
    now: datetime, manifest: Manifest[TaskSpec] | None, schedules: dict[str, ScheduleRecord], *runs: TaskRecord
) -> Change:
    """The one change of the schedule itself."""
    manifests = [manifest] if manifest is not None else []
    changes = plan_tasks(manifests, *runs, schedules=schedules, now=now)
    (change,) = [c for c in changes if c.name == "report"]
    return change


def names(change: Change) -> list[str]:
    return [r.name for r in change.spec.new]


def due_at_six(**spec: Any) -> TaskRecord:
    """The run of this Monday, six o'clock in Berlin."""
    (run,) = plan_at(MONDAY + timedelta(hours=1), weekly(**spec), seen()).spec.new
    assert isinstance(run, TaskRecord)
    return run


def test_a_new_schedule_begins_now_and_makes_no_run() -> None:
    change = plan_at(MONDAY, weekly(), {})
    assert (change.action, change.cause) == (Action.CREATE, Cause.COMMIT)
    assert change.reason == "new in git; due next at 2026-11-23 06:00 Europe/Berlin"
    assert change.spec.new == ()
    assert change.spec.schedule == seen()["report"]


def test_until_it_is_due_it_is_kept_and_says_when() -> None:
    change = plan_at(MONDAY, weekly(), seen())
    assert (change.action, change.wait_s) == (Action.KEEP, 3600.0)
    assert change.reason == "due next at 2026-11-23 06:00 Europe/Berlin"


def test_when_it_is_due_it_makes_a_run_of_its_own() -> None:
    change = plan_at(MONDAY + timedelta(hours=1, seconds=2), weekly(prompt="Write."), seen())
    assert (change.action, change.cause) == (Action.CREATE, Cause.SCHEDULE)
    (run,) = change.spec.new
    assert (run.name, run.schedule, run.due) == ("report-20261123-0500", "report", "2026-11-23T05:00:00+00:00")
    assert (run.state, run.source, run.revision) == (TaskState.PENDING, "git", "r1")
    assert change.spec.schedule.since == "2026-11-23T05:00:00+00:00"
    after = plan_at(MONDAY + timedelta(hours=1, seconds=3), weekly(), {"report": change.spec.schedule}, run)
    assert after.action is Action.KEEP


@pytest.mark.parametrize(
    ("missed", "made", "reason"),
    [
        ("once", ["report-20261207-0500"], "due: 2026-12-07 06:00 Europe/Berlin, 2 others were missed"),
        ("skip", [], "due: nothing, 3 others were missed"),
        (
            "all",
            ["report-20261123-0500", "report-20261130-0500", "report-20261207-0500"],
            "due: 2026-11-23 06:00 Europe/Berlin, 2026-11-30 06:00 Europe/Berlin, 2026-12-07 06:00 Europe/Berlin",
        ),
    ],
)
def test_what_was_missed_is_made_up_for_as_the_manifest_says(missed: str, made: list[str], reason: str) -> None:
    manifest = weekly(missed)
    change = plan_at(MONDAY + timedelta(days=15), manifest, seen())
    assert (names(change), change.reason) == (made, reason)
    assert change.action is (Action.CREATE if made else Action.UPDATE)
    assert change.spec.schedule.since == "2026-12-07T05:00:00+00:00"


def test_what_is_noticed_within_a_minute_was_not_missed() -> None:
    for late_s, made in ((59, ["report-20261123-0500"]), (61, [])):
        assert names(plan_at(MONDAY + timedelta(hours=1, seconds=late_s), weekly("skip"), seen())) == made


def test_after_very_long_there_is_a_bound_to_what_is_made_up_for() -> None:
    manifest = weekly("all", cron="* * * * *")
    change = plan_at(MONDAY + timedelta(days=400), manifest, seen(manifest=manifest))
    assert len(change.spec.new) == MOST
    assert names(change)[-1] == "report-20271228-0400"


def test_a_schedule_whose_runs_are_not_finished_makes_no_more_than_that() -> None:
    manifest = weekly("all", cron="* * * * *")
    runs = plan_at(MONDAY + timedelta(days=400), manifest, seen(manifest=manifest)).spec.new
    later = MONDAY + timedelta(days=400, minutes=5)
    change = plan_at(later, manifest, seen(later - timedelta(minutes=5), manifest), *runs)
    assert (change.action, change.reason) == (Action.KEEP, f"{MOST} runs of it are not finished; no more are made")


# --- the clock --------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_an_hour_makes_no_instant_come_twice() -> None:
    run = due_at_six()
    schedules = seen(MONDAY + timedelta(hours=1))
    for minutes in (-59, 0, 1, 59, 60, 61):
        now = MONDAY + timedelta(hours=1, minutes=minutes)
        assert plan_at(now, weekly(), schedules, run).action is Action.KEEP


def test_a_clock_that_goes_an_hour_ahead_makes_what_it_passes_once() -> None:
    change = plan_at(MONDAY + timedelta(hours=2), weekly(), seen())
    assert names(change) == ["report-20261123-0500"]
    back = plan_at(MONDAY + timedelta(minutes=1), weekly(), {"report": change.spec.schedule}, *change.spec.new)
    assert back.action is Action.KEEP
    assert back.wait_s is not None


def test_a_clock_that_was_years_ahead_does_not_end_the_schedule_and_still_nothing_runs_twice() -> None:
    run = due_at_six()
    change = plan_at(MONDAY, weekly(), seen(MONDAY + timedelta(days=3650)), run)
    assert (change.action, change.spec.schedule.since) == (Action.UPDATE, MONDAY.isoformat())
    again = plan_at(MONDAY + timedelta(hours=1), weekly(), {"report": change.spec.schedule}, run)
    assert names(again) == []


def test_in_the_gap_and_in_the_hour_that_comes_twice_there_is_one_run() -> None:
    nightly = weekly("all", cron="30 2 * * *")
    for day, made in (
        (datetime(2026, 3, 28, 12, tzinfo=UTC), ["report-20260329-0100"]),
        (datetime(2026, 10, 24, 12, tzinfo=UTC), ["report-20261025-0030"]),
    ):
        assert names(plan_at(day + timedelta(days=1), nightly, seen(day, nightly))) == made


# --- edits ------------------------------------------------------------------------------------------------------------


def test_an_edit_of_the_work_leaves_the_schedule_and_runs_that_have_begun() -> None:
    edited, run = weekly(prompt="another"), due_at_six()
    assert plan_at(MONDAY, edited, seen()).action is Action.KEEP
    changes = plan_tasks([edited], run, schedules=seen(MONDAY + timedelta(hours=2)), now=MONDAY + timedelta(hours=2))
    assert {c.name: c.action for c in changes} == {"report": Action.KEEP, run.name: Action.AUTHORISE}


def test_an_edit_of_the_times_begins_anew() -> None:
    edited = weekly(cron="0 7 * * 1")
    change = plan_at(MONDAY + timedelta(days=30), edited, seen())
    assert (change.action, change.cause, names(change)) == (Action.UPDATE, Cause.COMMIT, [])
    assert change.spec.schedule.since == (MONDAY + timedelta(days=30)).isoformat()


@pytest.mark.parametrize("left", [[], [task_of("report")]], ids=["without the manifest", "without its schedule"])
def test_what_goes_from_git_ends_the_schedule_and_its_runs(left: list[Manifest[TaskSpec]]) -> None:
    run = due_at_six()
    changes = plan_tasks(left, run, schedules=seen(), now=MONDAY)
    assert {c.reason for c in changes if c.spec.ended} == {"its schedule was removed from git"}
    (cancelled,) = [c for c in changes if c.name == run.name]
    assert cancelled.action is Action.CANCEL
    assert cancelled.reason.endswith("was removed from git")


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_run_that_is_over_is_not_spoken_of_any_more(state: TaskState) -> None:
    run = replace(due_at_six(), state=state)
    changes = plan_tasks([weekly()], run, schedules=seen(MONDAY + timedelta(hours=1)), now=MONDAY + timedelta(hours=2))
    assert [c.name for c in changes] == ["report"]


def test_the_next_time_is_shown_in_the_schedule_s_own_zone() -> None:
    assert show_schedules(seen().values(), MONDAY) == [
        {"name": "report", "cron": "0 6 * * 1", "zone": "Europe/Berlin", "next": "2026-11-23 06:00 Europe/Berlin"}
    ]
