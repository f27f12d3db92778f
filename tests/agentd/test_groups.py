"""Processes that tasks leave behind."""

from __future__ import annotations

from pathlib import Path

from .conftest import StartAgentd, is_running, wait_until
from .fake_hub import FakeHub


def test_strays_that_left_session_and_environment_are_killed(
    hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    stray = f"env -i setsid sh -c 'echo $$ > {pid}; exec sleep 60'"
    script = f"cd /; {stray} & while ! test -s {pid}; do :; done"
    start_agentd("sh", "-c", script)
    hub.assign()
    hub.wait_for("task.completed")
    assert not is_running(int(pid.read_text()))


def test_a_stray_that_a_thread_left_behind_is_killed_while_another_task_runs(
    hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    script = f"test $HUB_TASK = other && exec sleep 60; setsid sleep 60 & echo $! > {pid}"
    start_agentd("sh", "-c", script, max_parallel=2)
    hub.assign("other")
    hub.wait_for("task.started")
    hub.assign("demo")
    hub.wait_for("task.completed")
    assert not is_running(int(pid.read_text()))
    assert [m["payload"]["task"] for m in hub.received("task.completed")] == ["demo"]


def test_orphans_that_end_during_a_task_are_reaped(hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    agentd = start_agentd("sh", "-c", f"sh -c 'sleep 0.1 & echo $! > {pid}'; exec sleep 60")
    hub.assign()
    wait_until(lambda: pid.exists() and pid.read_text() != "", "the orphan's pid")
    orphan = pid.read_text().strip()
    wait_until(lambda: not Path(f"/proc/{orphan}").exists(), "the orphan is gone")
    assert len(list_children(agentd.process.pid)) == 1
    assert hub.received("task.completed") == []


def list_children(pid: int) -> list[str]:
    """Zombies too."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [child for task in tasks for child in (task / "children").read_text().split()]
