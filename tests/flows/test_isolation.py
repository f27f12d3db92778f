"""What a program in an agent's container can reach: its own socket, and nothing else of the host or of the network.

A task tries all of it and reports; each address that it tries on the host answers on the host, which is tested first.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.flows.fleet import Fleet, agent_text, make_fleet, need_engine, task_text

PROGRAM = '''
import json, os, socket, stat, sys, urllib.error, urllib.request

def call(family, kind, address, data=b""):
    """What came of it: `connected`, or the name of the error."""
    with socket.socket(family, kind) as link:
        link.settimeout(2)
        try:
            link.connect(address)
            if data:
                link.send(data)
                link.recv(512)
            return "connected"
        except OSError as error:
            return type(error).__name__

def resolve(name):
    try:
        return socket.getaddrinfo(name, 80)[0][4][0]
    except OSError as error:
        return type(error).__name__

def find_sockets():
    found = []
    for folder, folders, files in os.walk("/"):
        if folder == "/":
            folders[:] = [f for f in folders if f not in ("proc", "sys")]
        for name in files:
            path = os.path.join(folder, name)
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                found.append(path)
    return found

def post(message):
    token = open(os.environ["HUB_TOKEN_FILE"]).read()
    headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
    url = os.environ["HUB_URL"] + "/api/hub/messages"
    try:
        request = urllib.request.Request(url, json.dumps(message).encode(), headers)
        return urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code

given = json.load(sys.stdin)
query = bytes.fromhex("abcd01000001000000000000076578616d706c65036f72670000010001")
json.dump({
    "unix": {path: call(socket.AF_UNIX, socket.SOCK_STREAM, path) for path in given["unix"]},
    "abstract": call(socket.AF_UNIX, socket.SOCK_STREAM, "\\\\0" + given["abstract"]),
    "tcp": {f"{h}:{p}": call(socket.AF_INET, socket.SOCK_STREAM, (h, p)) for h, p in given["tcp"]},
    "dns": {host: call(socket.AF_INET, socket.SOCK_DGRAM, (host, 53), query) for host in given["dns"]},
    "names": {name: resolve(name) for name in given["names"]},
    "interfaces": [name for _, name in socket.if_nameindex()],
    "sockets": find_sockets(),
    "messages": [post(message) for message in given["messages"]],
}, sys.stdout)
'''.replace("\\\\0", "\\0")

ALERT = {"severity": "low", "summary": "somebody looks around"}
MESSAGES = [
    {"id": "m-1", "type": "security.alert", "pattern": "event", "to": "hub", "payload": ALERT},
    {"id": "m-2", "type": "a.b", "pattern": "event", "to": "b", "from": "b/b-0"},
    {"id": "m-3", "type": "a.b", "pattern": "event", "to": "b", "from": "b/b-0"},
]


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    need_engine("docker")
    made = make_fleet("docker")
    yield made
    made.destroy()


def host_addresses() -> list[str]:
    """Loopback, and the IPv4 addresses of this machine's interfaces, by the kernel's table of local routes."""
    found = set()
    for line in Path("/proc/net/fib_trie").read_text().splitlines():
        if "|--" in line:
            last = line.split()[-1]
        elif "/32 host LOCAL" in line:
            found.add(last)
    return sorted(found | {"127.0.0.1"})


def connect(family: int, address: Any) -> None:
    """Raises OSError when nobody listens there."""
    with socket.socket(family, socket.SOCK_STREAM) as link:
        link.settimeout(60)
        link.connect(address)


@contextmanager
def listening() -> Iterator[tuple[int, str]]:
    """A TCP port on all addresses of the host, and the name of an abstract Unix socket."""
    name = f"reconciler-test-{os.getpid()}"
    with socket.create_server(("0.0.0.0", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        yield server.getsockname()[1], name


def probe(fleet: Fleet, given: dict[str, Any]) -> dict[str, Any]:
    """What the task reports."""
    task = task_text("look", "a").replace("input: {value: 0}", f"input: {json.dumps(given)}")
    fleet.commit({**fleet.files, "tasks.d/look.yaml": task})
    answer = fleet.apply("--tasks")
    shown = json.loads(fleet.call("task", "show", "look", *fleet.places, "-o", "json").out)
    assert answer.code == 0, (answer, shown)
    return dict(shown["result"])


def heard(fleet: Fleet) -> list[tuple[str, str, str]]:
    """Actor, action and reason of the audit rows about messages."""
    answer = fleet.call("audit", "show", *fleet.places, "-n", "400", "-o", "json")
    rows = [row for row in json.loads(answer.out) if row["kind"] == "message"]
    return sorted((row["actor"], row["action"], row["reason"]) for row in rows)


@pytest.mark.engine
def test_a_container_reaches_its_own_socket_and_nothing_else(fleet: Fleet) -> None:
    argv = json.dumps(["python3", "-c", PROGRAM])
    fleet.commit({"agents.d/a.yaml": agent_text("a", argv=argv), "agents.d/b.yaml": agent_text("b")})
    assert fleet.apply().code == 0
    own, other, control = (str(fleet.run / path) for path in ("hub/a-0/hub.sock", "hub/b-0/hub.sock", "control.sock"))
    with listening() as (port, abstract):
        addresses = host_addresses()
        for address in addresses:
            connect(socket.AF_INET, (address, port))
        connect(socket.AF_UNIX, "\0" + abstract)
        for path in (own, other, control):
            connect(socket.AF_UNIX, path)
        found = probe(
            fleet,
            {
                "unix": [own, other, control, "/var/run/docker.sock", "/run/docker.sock", "/run/hub/hub.sock"],
                "abstract": abstract,
                "tcp": [*([address, port] for address in addresses), ["169.254.169.254", 80], ["1.1.1.1", 443]],
                "dns": ["127.0.0.11", "8.8.8.8"],
                "names": ["example.org", "host.docker.internal", "metadata.google.internal"],
                "messages": MESSAGES,
            },
        )
    assert [path for path, outcome in found["unix"].items() if outcome == "connected"] == ["/run/hub/hub.sock"]
    assert found["sockets"] == ["/run/hub/hub.sock"]
    assert found["abstract"] == "ConnectionRefusedError"
    assert "connected" not in {*found["tcp"].values(), *found["dns"].values()}
    assert set(found["names"].values()) == {"gaierror"}
    assert found["interfaces"] == ["lo"]
    assert found["messages"] == [202, 403, 403]
    assert heard(fleet) == [
        ("agent:a-0", "hub.forged", "hub.forged: from says b/b-0, but this token belongs to a/a-0; leave from out"),
        ("agent:a-0", "security.alert", "security.alert: somebody looks around"),
    ]
