"""Agents that reach the router over TLS instead of a socket: from the operator's settings to a task's result, and back.

The fleet is one of processes, since only these have a network.
"""

import json
import os
import socket
import ssl
import stat
from pathlib import Path

import pytest

from tests.flows.fleet import Fleet, agent_text, eventually, task_text
from tests.router.fleet import free_port

PROGRAM = """
import json, os, sys, urllib.request
value = json.load(sys.stdin)["value"]
request = urllib.request.Request(os.environ["HUB_URL"] + "/api/hub/self")
request.add_header("Authorization", "Bearer " + open(os.environ["HUB_TOKEN_FILE"]).read())
with urllib.request.urlopen(request, timeout=60) as answer:
    json.dump({"value": value, "instance": json.load(answer)["instance"]}, sys.stdout)
"""
ARGV = json.dumps(["python3", "-c", PROGRAM])


@pytest.fixture
def port() -> int:
    return free_port()


def operate(fleet: Fleet, plane: str) -> Path:
    """An `operator.yaml` with this section `agentPlane`."""
    file = fleet.folder / "operator.yaml"
    spec = f"spec: {{agentPlane: {plane}}}" if plane else "spec: {}"
    file.write_text(f"apiVersion: reconciler/v1\nkind: Operator\n{spec}\n")
    return file


def bring_up(fleet: Fleet, plane: str, *more: str) -> str:
    """Converge; what was printed."""
    answer = fleet.apply("--operator", str(operate(fleet, plane)), *more)
    assert answer.code == 0, (answer, fleet.evidence())
    return answer.out


def result(fleet: Fleet, task: str) -> object:
    return json.loads(fleet.call("task", "show", task, *fleet.places, "-o", "json").out)["result"]


def status_of(link: socket.socket, token: str) -> int:
    with link:
        link.sendall(f"GET /api/hub/self HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        return int(link.recv(4096).split()[1])


def by_tls(fleet: Fleet, port: int) -> socket.socket:
    context = ssl.create_default_context(cafile=str(fleet.data / "tls" / "ca.crt"))
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 60), server_hostname="127.0.0.1")


def by_socket(fleet: Fleet, instance: str) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(60)
    link.connect(str(fleet.run / "hub" / instance / "hub.sock"))
    return link


def token_of(fleet: Fleet, instance: str) -> str:
    return (fleet.run / "secrets" / instance / "agent-token").read_text()


def test_an_agent_that_the_operator_lists_works_over_tls_and_the_others_as_ever(processes: Fleet, port: int) -> None:
    fleet = processes
    fleet.commit(
        {
            "agents.d/far.yaml": agent_text("far", argv=ARGV),
            "agents.d/near.yaml": agent_text("near", argv=ARGV),
            "tasks.d/one.yaml": task_text("one", "far", value=1),
            "tasks.d/two.yaml": task_text("two", "near", value=2),
        }
    )
    bring_up(fleet, f'{{listen: "tcp://127.0.0.1:{port}", agents: ["f*"]}}', "--tasks")
    assert result(fleet, "one") == {"value": 1, "instance": "far-0"}
    assert result(fleet, "two") == {"value": 2, "instance": "near-0"}
    assert fleet.check() == []
    assert not (fleet.run / "hub" / "far-0" / "hub.sock").exists()
    ca = fleet.run / "secrets" / "far-0" / "hub-ca.pem"
    assert ca.read_bytes() == (fleet.data / "tls" / "ca.crt").read_bytes()
    assert stat.S_IMODE(ca.stat().st_mode) == 0o400
    assert stat.S_IMODE((fleet.data / "tls" / "ca.pem").stat().st_mode) == 0o600
    assert not (fleet.run / "secrets" / "near-0" / "hub-ca.pem").exists()

    far, near = token_of(fleet, "far-0"), token_of(fleet, "near-0")
    assert status_of(by_tls(fleet, port), far) == 200
    assert status_of(by_tls(fleet, port), near) == 401
    assert status_of(by_socket(fleet, "near-0"), near) == 200
    assert status_of(by_socket(fleet, "near-0"), far) == 401


def test_another_way_to_the_router_is_a_planned_replacement_and_back(processes: Fleet, port: int) -> None:
    fleet, plane = processes, f'{{listen: "tcp://127.0.0.1:{port}", agents: [far]}}'
    fleet.commit({"agents.d/far.yaml": agent_text("far"), "agents.d/near.yaml": agent_text("near")})
    bring_up(fleet, "")
    near = token_of(fleet, "near-0")
    for wanted, has_socket in ((plane, False), ("", True)):
        operator = str(operate(fleet, wanted))
        shown = fleet.call("plan", str(fleet.repository), "--data", str(fleet.data), "--operator", operator)
        assert shown.code == 2
        assert "the operator has it reach the router another way" in shown.out
        bring_up(fleet, wanted)
        assert (fleet.run / "hub" / "far-0" / "hub.sock").exists() is has_socket
        assert fleet.check() == []
    with pytest.raises(ConnectionRefusedError):
        by_tls(fleet, port)
    assert token_of(fleet, "near-0") == near, "an agent that was not listed was replaced"


def test_after_a_crash_of_the_router_the_agent_finds_the_new_one(processes: Fleet, port: int) -> None:
    fleet, plane = processes, f'{{listen: "tcp://127.0.0.1:{port}", agents: [far]}}'
    fleet.commit({"agents.d/far.yaml": agent_text("far", argv=ARGV)})
    bring_up(fleet, plane)
    token = token_of(fleet, "far-0")
    os.kill(int((fleet.run / "router.pid").read_text().split()[0]), 9)
    fleet.commit({**fleet.files, "tasks.d/one.yaml": task_text("one", "far", value=1)})
    bring_up(fleet, plane, "--tasks")
    assert result(fleet, "one") == {"value": 1, "instance": "far-0"}
    assert token_of(fleet, "far-0") == token, "the instance was made anew"


def test_a_port_that_is_taken_is_said_to_be_so_and_the_rest_goes_on(processes: Fleet) -> None:
    fleet = processes
    fleet.commit({"agents.d/near.yaml": agent_text("near")})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        plane = f'{{listen: "tcp://127.0.0.1:{taken.getsockname()[1]}"}}'
        operator = str(operate(fleet, plane))

        def is_said_and_the_rest_is_up() -> bool:
            answer = fleet.apply("--operator", operator, "--timeout", "5")
            assert answer.code == 2, answer
            is_said = "Address already in use" in answer.out + answer.err
            return is_said and (fleet.run / "hub" / "near-0" / "hub.sock").exists()

        eventually(is_said_and_the_rest_is_up)
        assert status_of(by_socket(fleet, "near-0"), token_of(fleet, "near-0")) == 200
    bring_up(fleet, plane)
