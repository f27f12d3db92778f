"""Real daemons: which attempt runs when, and that none runs twice."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from reconciler.agentd.assignment import Ref
from reconciler.agentd.config import Config, ExecutorSpec
from reconciler.agentd.dial import UnixDial
from reconciler.agentd.groups import ProcessGroups
from reconciler.agentd.hub import Hub
from reconciler.agentd.log import Log
from reconciler.agentd.outbox import Outbox, Parcel
from reconciler.agentd.runs import Runs
from reconciler.agentd.task import Bench

from .conftest import StartAgentd
from .fake_hub import FakeHub


def test_an_assignment_that_makes_no_sense_is_reported(hub: FakeHub, start_agentd: StartAgentd) -> None:
    agentd = start_agentd("true")
    hub.deliver("task.assigned", {"task": "no-run"})
    hub.assign(output={"maxSize": "1MiB"})
    failed = hub.wait_for("task.failed")
    assert failed["reason"] == "spawn"
    assert "output.maxSize" in failed["error"]
    assert "an assignment that names no run was dropped" in agentd.messages()


def test_a_repeated_assignment_does_not_run_again(hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    start_agentd("sh", "-c", f"echo x >> {tmp_path}/runs; while ! test -e {gate}; do sleep 0.02; done")
    hub.assign()
    hub.wait_for("task.started")
    hub.assign()
    hub.deliver("other.type", {})
    gate.touch()
    hub.wait_for("task.completed")
    beats = len(hub.payloads("agent.heartbeat"))
    hub.wait_until(lambda: {"tasks": []} in hub.payloads("agent.heartbeat")[beats:], "it is settled")
    hub.assign()
    hub.wait_until(
        lambda: [a.status for a in hub.attempts if a.message["type"] == "task.completed"] == [202, 409],
        "the result again, under the same id",
    )
    ids = {a.message["id"] for a in hub.attempts if a.message["type"] == "task.completed"}
    assert len(ids) == 1
    assert (tmp_path / "runs").read_text() == "x\n"
    assert len(hub.received("task.started")) == 1


def test_a_newer_generation_ends_the_older_and_an_older_is_dropped(
    hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path
) -> None:
    script = f'echo x >> {tmp_path}/runs; test "$(wc -l < {tmp_path}/runs)" -gt 1 || exec sleep 60'
    start_agentd("sh", "-c", script)
    hub.assign(generation=2)
    hub.wait_for("task.started")
    hub.assign(generation=1)
    hub.assign(generation=3)
    assert hub.wait_for("task.failed")["generation"] == 2
    assert hub.wait_for("task.completed")["generation"] == 3
    assert (tmp_path / "runs").read_text() == "x\nx\n"


def test_a_result_too_large_for_the_hub_becomes_a_failure(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("echo", "hi")
    hub.refuse("task.completed", 413, "too_large")
    hub.assign()
    failed = hub.wait_for("task.failed")
    assert (failed["reason"], failed["exit_code"]) == ("too_large", 0)


def test_a_started_event_of_a_stale_generation_cancels_the_run(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("sleep", "60")
    hub.refuse("task.started", 409, "stale_generation")
    hub.assign()
    assert hub.wait_for("task.failed")["reason"] == "cancelled"


def test_two_tasks_run_side_by_side_and_the_third_waits(
    hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path
) -> None:
    all_there = "test -e a -a -e b -a -e gate"
    meet = f"cd {tmp_path}; touch $HUB_TASK; while ! {all_there}; do sleep 0.02; done"
    start_agentd("sh", "-c", meet, max_parallel=2)
    for task in ("a", "b", "c"):
        hub.assign(task)
    hub.wait_for("task.started", task="a")
    hub.wait_for("task.started", task="b")
    beats = len(hub.payloads("agent.heartbeat"))
    held = [{"task": task, "generation": 1} for task in ("a", "b", "c")]
    hub.wait_until(lambda: {"tasks": held} in hub.payloads("agent.heartbeat")[beats:], "the third is held")
    assert hub.payloads("task.started", "c") == []
    (tmp_path / "gate").touch()
    hub.wait_for("task.completed", count=3)
    assert sorted(p["task"] for p in hub.payloads("task.completed")) == ["a", "b", "c"]


def test_a_partial_result_that_the_hub_does_not_want_is_left_out(hub: FakeHub, start_agentd: StartAgentd) -> None:
    agentd = start_agentd("sh", "-c", "echo part; exec sleep 60", grace_s=6)
    hub.refuse("task.failed", 422, "invalid_payload")
    hub.assign()
    hub.wait_for("task.started")
    agentd.stop()
    assert agentd.wait() == 0
    failed = hub.wait_for("task.failed")
    assert failed["reason"] == "shutdown"
    assert "result" not in failed


def test_a_cancelled_attempt_that_never_arrived_is_reported_once_and_never_run(
    hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path
) -> None:
    agentd = start_agentd("sh", "-c", f"echo x >> {tmp_path}/runs")
    order = {"task": "demo", "run": "run-demo", "generation": 1}
    hub.deliver("task.cancel", order)
    failed = hub.wait_for("task.failed")
    assert {k: failed[k] for k in (*order, "reason", "error")} == {
        **order,
        "reason": "cancelled",
        "error": "cancelled before it arrived",
    }
    hub.cancels = [order]
    beats = len(hub.payloads("agent.heartbeat"))
    hub.wait_until(
        lambda: hub.payloads("agent.heartbeat")[beats:].count({"tasks": []}) > 2, "answers that repeat the cancellation"
    )
    hub.assign(generation=1)
    hub.wait_until(
        lambda: [a.status for a in hub.attempts if a.message["type"] == "task.failed"] == [202, 409],
        "the same report again, under the same id",
    )
    assert "assigned again after it ended" in agentd.messages()
    hub.assign(generation=2)
    assert hub.wait_for("task.completed")["generation"] == 2
    assert (tmp_path / "runs").read_text() == "x\n"
    assert [p["generation"] for p in hub.payloads("task.started")] == [2]
    assert len(hub.payloads("task.failed")) == 1


def test_a_cancellation_that_only_heartbeats_bring_is_reported_once_for_each_run(
    hub: FakeHub, start_agentd: StartAgentd
) -> None:
    start_agentd("true")
    hub.cancels = [{"task": task, "run": f"run-{task}", "generation": 7} for task in ("a", "b")]
    for task in ("a", "b"):
        assert hub.wait_for("task.failed", task=task)["reason"] == "cancelled"
    beats = len(hub.payloads("agent.heartbeat"))
    hub.wait_until(lambda: {"tasks": []} in hub.payloads("agent.heartbeat")[beats:], "both reports are settled")
    hub.assign("a", run="run-a", generation=7)
    hub.assign("c")
    hub.wait_for("task.completed", task="c")
    assert hub.payloads("task.started", "a") == []
    assert [p["task"] for p in hub.payloads("task.failed")] == ["a", "b"]


def test_a_cancellation_without_a_run_id_says_nothing_of_what_never_arrived(
    hub: FakeHub, start_agentd: StartAgentd
) -> None:
    start_agentd("true")

    def answer_heartbeats(cancels: list[dict[str, object]]) -> None:
        hub.cancels = cancels
        beats = len(hub.payloads("agent.heartbeat"))
        hub.wait_until(lambda: len(hub.payloads("agent.heartbeat")) > beats + 2, "answers to heartbeats")

    answer_heartbeats([{"task": "demo", "generation": 1}])
    answer_heartbeats([])
    hub.assign()
    assert hub.wait_for("task.completed")["generation"] == 1
    assert hub.payloads("task.failed") == []


class Collecting(Outbox):
    """Keeps what is put in, and sends nothing."""

    def __init__(self, log: Log) -> None:
        super().__init__(Hub(UnixDial("/nowhere"), "/nowhere"), log)
        self.parcels: list[Parcel] = []

    def put(self, parcel: Parcel) -> None:
        self.parcels.append(parcel)


@pytest.fixture
def outbox() -> Collecting:
    return Collecting(Log(instance="demo-0", stream=io.StringIO()))


@pytest.fixture
def runs(outbox: Collecting) -> Runs:
    config = Config(
        agent="demo",
        instance="demo-0",
        socket_path="/nowhere",
        token_file="/nowhere",
        version="1",
        capabilities=(),
        executor=ExecutorSpec(),
        base_env={},
    )
    log = Log(instance="demo-0", stream=io.StringIO())
    bench = Bench(config=config, groups=ProcessGroups(is_reaper=False), hub_url="", llm_url="", log=log)
    return Runs(bench, outbox, spawn_thread=lambda _name, _target: None, on_change=lambda: None)


def report_and_settle(runs: Runs, outbox: Collecting, refs: list[Ref]) -> None:
    """All of them have ended, and the hub has all reports but the first."""
    for ref in refs:
        runs.cancel(ref)
    for parcel in outbox.parcels[1:]:
        parcel.on_settled("")
    outbox.parcels.clear()


def test_of_too_many_ended_runs_the_oldest_are_forgotten_but_for_what_is_not_settled(
    runs: Runs, outbox: Collecting
) -> None:
    refs = [Ref(task="demo", run=f"r{number}", generation=1) for number in range(10_002)]
    report_and_settle(runs, outbox, refs)
    for ref in refs[:4]:
        runs.cancel(ref)
    assert [ref.run for ref in runs.held()] == ["r0", "r1", "r2"]
    assert len(outbox.parcels) == 2


def test_of_too_large_reports_the_oldest_are_not_kept(runs: Runs, outbox: Collecting) -> None:
    refs = [Ref(task="x" * 2**20, run=f"r{number}", generation=1) for number in range(18)]
    report_and_settle(runs, outbox, refs)
    for ref in refs:
        runs.assign({"task": ref.task, "run": ref.run, "generation": ref.generation}, "")
    assert [ref.run for ref in runs.held()] == ["r0", *(ref.run for ref in refs[-14:])]
