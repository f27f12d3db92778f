"""Commands of two agents that speak with each other, while each instance's daemon goes on taking tasks."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.flows.fleet import Fleet, agent_text, eventually, task_text
from tests.flows.test_hub import running

CLIENT = """
import json, os, urllib.request

def call(method, path, body=None):
    token = open(os.environ["HUB_TOKEN_FILE"]).read().strip()
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["HUB_URL"] + path, content, method=method)
    request.add_header("Authorization", "Bearer " + token)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")
"""
ASKS = (
    CLIENT
    + """
question = {"id": "q-1", "type": "sum.request", "pattern": "request", "to": "b", "payload": [2, 3]}
print(json.dumps(call("POST", "/api/hub/messages?wait=50", question)["payload"]))
"""
)
ANSWERS = (
    CLIENT
    + """
taken = []
while not taken:
    polled = call("GET", "/api/hub/messages?wait=25")
    taken = polled["messages"]
for message in taken:
    reply = {"id": "r-1", "type": "sum.reply", "pattern": "reply", "correlation_id": message["id"],
             "payload": sum(message["payload"])}
    call("POST", "/api/hub/messages", reply)
call("POST", "/api/hub/messages/ack", {"cursor": polled["cursor"]})
print(json.dumps([message["from"] for message in taken]))
"""
)
SENDS = "  messaging: {sends: [{to: b, types: [sum.request]}]}\n"


def agent(name: str, code: str, more: str = "") -> str:
    return agent_text(name, argv=json.dumps(["python3", "-c", code]), more=more)


def states(fleet: Fleet) -> Sequence[str]:
    """Of all tasks."""
    if not (fleet.data / "state.db").exists():
        return ()
    return [task["state"] for task in fleet.state()["tasks"]]


def results(fleet: Fleet) -> Mapping[str, Any]:
    """Results of the tasks that have succeeded."""
    done = [t["name"] for t in fleet.state()["tasks"] if t["state"] == "succeeded"]
    shown = {name: fleet.call("task", "show", name, *fleet.places, "-o", "json") for name in done}
    return {name: json.loads(answer.out)["result"] for name, answer in shown.items()}


def test_a_command_asks_and_the_command_of_another_agent_answers(processes: Fleet) -> None:
    fleet = processes
    agents = {"agents.d/a.yaml": agent("a", ASKS, SENDS), "agents.d/b.yaml": agent("b", ANSWERS)}
    asked = {**agents, "tasks.d/ask.yaml": task_text("ask", "a")}
    fleet.commit(asked)
    with running(fleet):
        eventually(lambda: "running" in states(fleet))
        fleet.commit({**asked, "tasks.d/answer.yaml": task_text("answer", "b")})
        eventually(lambda: len(results(fleet)) == 2)
    assert results(fleet) == {"ask": 5, "answer": ["a/a-0"]}
    log = [json.loads(line) for line in fleet.call("message", "export", *fleet.places).out.splitlines()]
    spoken = [(row["type"], row["instance"], row["delivered"]) for row in log if row["type"].startswith("sum.")]
    assert spoken == [("sum.request", "a-0", "b-0"), ("sum.reply", "b-0", "a-0")]
    assert [row for row in log if row["verdict"] != "allow"] == []
