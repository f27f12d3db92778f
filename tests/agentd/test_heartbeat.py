"""Real daemons: what the heartbeat carries, and cancellation."""

from __future__ import annotations

import pytest

from .conftest import StartAgentd
from .fake_hub import FakeHub


@pytest.mark.parametrize("way", ["heartbeat", "message"])
def test_a_task_is_cancelled(hub: FakeHub, start_agentd: StartAgentd, way: str) -> None:
    start_agentd("sleep", "60")
    hub.assign()
    hub.wait_for("task.started")
    if way == "heartbeat":
        hub.cancels = [{"task": "demo", "generation": 1}]
    else:
        hub.deliver("task.cancel", {"task": "demo", "run": "run-demo", "generation": 1})
    failed = hub.wait_for("task.failed")
    assert (failed["reason"], failed["exit_code"]) == ("cancelled", 143)


def test_heartbeats_carry_what_is_held(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("sleep", "60")
    hub.wait_for("agent.heartbeat")
    assert hub.payloads("agent.heartbeat")[0] == {"tasks": []}
    hub.assign()
    held = {"tasks": [{"task": "demo", "generation": 1}]}
    hub.wait_until(lambda: held in hub.payloads("agent.heartbeat"), "a beat with the task")
