"""Real daemons against the fake hub: a task from end to end, and the ways to stop."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import urllib.request
from pathlib import Path

import pytest

from .conftest import SECRET, StartAgentd, is_running, wait_until
from .fake_hub import FakeHub


def test_a_task_gets_its_input_and_delivers_result_and_artefacts(hub: FakeHub, start_agentd: StartAgentd) -> None:
    script = (
        'cat; cd "$HUB_TASK_DIR"; cat input.json prompt.txt parents/a.json;'
        'printf hello > "$HUB_OUTPUT/report.md"; printf no > "$HUB_OUTPUT/other.md";'
        'echo progress: half done >&2; echo "at $HUB_TASK" >&2'
    )
    agentd = start_agentd("sh", "-c", script)
    hub.assign(
        prompt="Summarise.",
        parents={"a": {"n": 1}},
        output={"maxSize": 1000, "artefacts": ["report.*"]},
    )
    completed = hub.wait_for("task.completed")
    assert completed.pop("duration_s") > 0
    assert completed == {
        "task": "demo",
        "run": "run-demo",
        "generation": 1,
        "exit_code": 0,
        "result": '{"tag": "v1"}{"tag": "v1"}Summarise.{"n": 1}',
        "stdout_truncated": False,
        "artefacts": [
            {
                "name": "report.md",
                "size": 5,
                "sha256": hashlib.sha256(b"hello").hexdigest(),
                "content_base64": base64.b64encode(b"hello").decode(),
            }
        ],
    }
    types = [m["type"] for m in hub.received() if m["type"].startswith("task.")]
    assert types == ["task.started", "task.progress", "task.completed"]
    assert hub.wait_for("task.progress")["text"] == "half done"
    assert {m["correlation_id"] for m in hub.received("task.completed")} == {"m-1"}
    wait_until(lambda: list(agentd.scratch.iterdir()) == [], "the scratch directory is removed")
    hub.wait_until(lambda: bool(hub.acks), "an acknowledgement")


def test_a_result_that_is_json_is_delivered_as_json(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("echo", '{"pages": [1, 2]}')
    hub.assign()
    assert hub.wait_for("task.completed")["result"] == {"pages": [1, 2]}


def test_the_task_may_bring_its_own_command_and_workspace(
    hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path
) -> None:
    workspace = tmp_path / "0123456789ab"
    (workspace / "bin").mkdir(parents=True)
    (workspace / "bin/x.sh").write_text('echo "$PWD $CONF $HUB_WORKSPACE $1"')
    start_agentd("false", env={"CONF": "/workspace/conf"})
    hub.assign(argv=["sh", "/workspace/bin/x.sh", "/workspaces/kept"], workspace=str(workspace))
    expected = f"{workspace} {workspace}/conf {workspace} /workspaces/kept\n"
    assert hub.wait_for("task.completed")["result"] == expected


def test_a_command_that_fails_is_reported_with_the_end_of_its_stderr(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("sh", "-c", "seq 20000 >&2; echo bad >&2; exit 3")
    hub.assign()
    failed = hub.wait_for("task.failed")
    assert (failed["exit_code"], failed["reason"]) == (3, "exit")
    assert failed["error"] == "exited with code 3"
    assert failed["stderr_tail"].endswith("20000\nbad\n")
    assert len(failed["stderr_tail"]) == 8 * 1024


def test_a_command_that_cannot_be_started_is_reported(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("/does/not/exist")
    hub.assign()
    failed = hub.wait_for("task.failed")
    assert (failed["exit_code"], failed["reason"]) == (None, "spawn")
    assert "/does/not/exist" in failed["error"]
    assert hub.received("task.started") == []


def test_the_time_out_of_a_task_ends_it(hub: FakeHub, start_agentd: StartAgentd) -> None:
    start_agentd("sh", "-c", "echo a; exec sleep 60")
    hub.assign(timeout_s=0.2)
    failed = hub.wait_for("task.failed")
    assert (failed["reason"], failed["exit_code"]) == ("timeout", 143)


def test_after_sigterm_running_tasks_may_finish_and_none_is_taken(
    hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    agentd = start_agentd("sh", "-c", f"while ! test -e {gate}; do sleep 0.02; done; echo finished", grace_s=60)
    hub.assign()
    hub.assign("waiting")
    hub.wait_for("task.started")
    agentd.stop()
    wait_until(lambda: "ending" in agentd.messages(), "the signal is seen")
    hub.assign("late")
    gate.touch()
    assert agentd.wait() == 0
    assert hub.wait_for("task.completed")["result"] == "finished\n"
    assert hub.payloads("task.failed", "waiting")[0]["reason"] == "shutdown"
    assert hub.payloads("task.started", "late") == []


def test_after_sigterm_what_does_not_finish_in_time_is_reported_in_part(
    hub: FakeHub, start_agentd: StartAgentd
) -> None:
    script = "trap '' TERM; echo part; echo progress: on >&2; while :; do sleep 0.1; done"
    agentd = start_agentd("sh", "-c", script, grace_s=7.5)  # too short for the usual time between SIGTERM and SIGKILL
    hub.assign()
    hub.wait_for("task.progress")
    agentd.stop()
    assert agentd.wait() == 0
    failed = hub.wait_for("task.failed")
    assert (failed["reason"], failed["exit_code"], failed["result"]) == ("shutdown", 137, "part\n")
    assert failed["stderr_tail"] == "progress: on\n"


def test_a_second_sigterm_ends_at_once(hub: FakeHub, start_agentd: StartAgentd, tmp_path: Path) -> None:
    agentd = start_agentd(
        "sh",
        "-c",
        f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done",
        grace_s=600,
    )
    hub.assign()
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", "the pid")
    agentd.stop()
    wait_until(lambda: "ending" in agentd.messages(), "the first signal is seen")
    agentd.stop()
    assert agentd.wait() == 0
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(pid), "the command is dead")


def test_with_the_hub_gone_it_ends_itself_at_the_deadline(hub: FakeHub, start_agentd: StartAgentd) -> None:
    agentd = start_agentd("true", ttl_s=0.5, heartbeat_s=1.5)
    hub.wait_for("agent.heartbeat", count=2)
    assert agentd.process.poll() is None, "with the hub there it goes on"
    hub.stop()
    assert agentd.wait() == 0
    assert "the time to live is over and the hub is gone" in agentd.messages()


def test_a_task_reaches_the_hub_through_the_forwarder_with_the_token(hub: FakeHub, start_agentd: StartAgentd) -> None:
    code = (
        "import os, urllib.request as u, json;"
        "t = open(os.environ['HUB_TOKEN_FILE']).read().strip();"
        "b = json.dumps({'id': 'mine', 'type': 'docs.published', 'payload': {}}).encode();"
        "url = os.environ['HUB_URL'] + '/api/hub/messages';"
        "print(u.urlopen(u.Request(url, b, {'Authorization': 'Bearer ' + t})).status)"
    )
    start_agentd(sys.executable, "-c", code)
    hub.assign()
    assert hub.wait_for("task.completed")["result"] == 202
    assert hub.received("docs.published")[0]["id"] == "mine"


def test_the_forwarder_itself_adds_no_token(hub: FakeHub, start_agentd: StartAgentd) -> None:
    agentd = start_agentd("true")
    url = agentd.log()[0]["url"]
    with pytest.raises(urllib.request.HTTPError, match="401") as refused:
        urllib.request.urlopen(f"{url}/api/hub/messages?wait=0&max=1", timeout=60)
    refused.value.close()


def test_the_executor_sees_only_what_it_is_meant_to(hub: FakeHub, start_agentd: StartAgentd) -> None:
    hub.write_token("token-of-great-price")
    hub.tokens = {"token-of-great-price"}
    agentd = start_agentd("env", "-0", env={"CONFIGURED": "yes"})
    hub.assign()
    text = hub.wait_for("task.completed")["result"]
    env = dict(entry.partition("=")[::2] for entry in text.split("\0") if entry)
    assert set(env) == {
        "PATH",
        "PYTHONPATH",
        "LANG",
        "CONFIGURED",
        "HUB_AGENT",
        "HUB_INSTANCE",
        "HUB_LLM_URL",
        "HUB_OUTPUT",
        "HUB_TASK",
        "HUB_TASK_DIR",
        "HUB_TOKEN_FILE",
        "HUB_URL",
        "HUB_WORKSPACE",
    }
    agentd.stop()
    assert agentd.wait() == 0
    log = agentd.log_path.read_text()
    assert "token-of-great-price" not in text + log
    assert SECRET not in text + log


def test_the_log_has_one_object_per_line_and_no_payloads(hub: FakeHub, start_agentd: StartAgentd) -> None:
    agentd = start_agentd("echo", "the-result")
    hub.deliver("task.unheard.of", {"text": "the-payload"})
    hub.assign(prompt="the-prompt", input="the-input")
    hub.wait_for("task.completed")
    agentd.stop()
    assert agentd.wait() == 0
    rows = agentd.log()
    assert all({"time", "level", "msg", "instance", "task"} <= set(row) for row in rows)
    assert {row["instance"] for row in rows} == {"demo-0"}
    assert {row["task"] for row in rows} == {"", "demo"}
    assert "a message that is no task was dropped" in [row["msg"] for row in rows]
    text = json.dumps(rows)
    assert not any(word in text for word in ("the-result", "the-payload", "the-prompt", "the-input"))
