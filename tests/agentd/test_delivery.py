"""Real daemons: a result reaches the hub once, whatever is in between."""

from __future__ import annotations

from pathlib import Path

from .conftest import StartAgentd, wait_until
from .fake_hub import FakeHub


def test_the_result_is_sent_until_it_is_accepted_always_with_the_same_id(
    hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    agentd = start_agentd("sh", "-c", f"while ! test -e {gate}; do sleep 0.02; done; echo done")
    hub.assign()
    hub.wait_for("task.started")
    hub.refuse("task.completed", 503, "log_unavailable")
    hub.refuse("task.completed", 429, "rate_limited", retry_after="0.3")
    hub.stop()
    gate.touch()
    wait_until(lambda: any("is not delivered yet" in m for m in agentd.messages()), "a refusal")
    hub.start()
    hub.wait_for("task.completed")
    sent = [a for a in hub.attempts if a.message["type"] == "task.completed"]
    assert [a.status for a in sent] == [503, 429, 202]
    assert len({a.message["id"] for a in sent}) == 1
    hub.wait_for("agent.hello", count=2)


def test_a_result_whose_answer_was_lost_counts_once(hub: FakeHub, start_agentd: StartAgentd) -> None:
    agentd = start_agentd("echo", "hi")
    hub.drop_answer("task.completed")
    hub.assign()
    hub.wait_until(
        lambda: [a.status for a in hub.attempts if a.message["type"] == "task.completed"] == [0, 409],
        "a duplicate",
    )
    hub.assign("next")
    hub.wait_for("task.completed", task="next")
    assert "the hub refused task.completed" not in agentd.messages()


def test_a_refused_result_is_not_sent_again(hub: FakeHub, start_agentd: StartAgentd) -> None:
    agentd = start_agentd("echo", "hi")
    hub.refuse("task.completed", 409, "stale_generation")
    hub.assign()
    wait_until(lambda: "the hub refused task.completed" in agentd.messages(), "the refusal is logged")
    hub.assign("next")
    hub.wait_for("task.completed", task="next")
    assert len([a for a in hub.attempts if a.message["payload"].get("task") == "demo"]) == 2
