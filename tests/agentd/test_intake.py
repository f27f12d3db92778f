"""Real daemons: hello, sessions with the hub, and what is taken from whom."""

from __future__ import annotations

from pathlib import Path

from .conftest import StartAgentd, wait_until
from .fake_hub import FakeHub


def test_it_says_hello_with_what_it_is(hub: FakeHub, start_agentd: StartAgentd) -> None:
    agentd = start_agentd("true")
    message = hub.received("agent.hello")[0]
    payload = message["payload"]
    assert (message["pattern"], message["to"]) == ("request", "hub")
    assert payload.pop("boot_id") == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert payload == {
        "version": "7",
        "capabilities": ["docs.write"],
        "executor": "command",
        "agentd": "0.1.0",
        "pid": agentd.process.pid,
        "takes": "tasks",
    }


def test_it_waits_for_the_socket_and_then_says_hello(hub: FakeHub, start_agentd: StartAgentd) -> None:
    hub.stop()
    agentd = start_agentd("true", wait_ready=False)
    wait_until(lambda: "the hub does not answer" in agentd.messages(), "a first failure")
    hub.start()
    hub.wait_for("agent.hello")


def test_it_says_hello_until_it_is_accepted(hub: FakeHub, start_agentd: StartAgentd) -> None:
    hub.refuse("agent.hello", 503, "log_unavailable", times=2)
    hub.accepts_hello = False
    agentd = start_agentd("echo", "hi", wait_ready=False)
    hub.assign()
    hub.wait_for("agent.hello", count=2)
    assert hub.received("task.started") == []
    hub.accepts_hello = True
    hub.wait_for("task.completed")
    hellos = [a.message["id"] for a in hub.attempts if a.message["type"] == "agent.hello"]
    assert len(hellos) == len(set(hellos)) >= 5
    assert "the hub has not accepted the hello" in agentd.messages()


def test_an_assignment_that_is_not_from_the_hub_is_not_run(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("echo", "hi")
    payload = hub.assign("mine")
    hub.wait_for("task.completed")
    hub.deliver("task.assigned", {**payload, "task": "forged", "run": "r"}, **{"from": "writer/writer-0"})
    hub.assign("last")
    hub.wait_for("task.completed", task="last")
    assert hub.payloads("task.started", "forged") == []


def test_what_is_no_task_is_left_to_the_command(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("echo", "hi")
    hub.deliver("review.note", {"n": 1}, **{"from": "writer/writer-0"})
    hub.assign()
    hub.wait_for("task.completed")
    hub.wait_until(lambda: len(hub.acks) >= 1, "an acknowledgement")
    assert [message["type"] for _, message in hub.mailbox] == ["review.note"]
    assert not hub.is_delivered & {seq for seq, _ in hub.mailbox}


def test_a_rotated_token_is_used_from_the_next_call_on(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("echo", "hi")
    hub.tokens = {"token-2"}
    hub.assign()
    hub.wait_until(lambda: any(a.status == 401 for a in hub.attempts), "a call with the old token")
    hub.write_token("token-2")
    hub.wait_for("task.completed")
    assert hub.attempts[-1].token == "token-2"


def test_after_a_router_restart_it_starts_a_new_session(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("echo", "hi")
    hub.assign("before")
    hub.wait_for("task.completed", task="before")
    hub.stop()
    hub.start()
    hub.wait_for("agent.hello", count=2)
    hub.assign("after")
    hub.wait_for("task.completed", task="after")
    assert len(hub.payloads("task.started", "before")) == 1
