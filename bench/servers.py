"""Processes to put under load, with what is sent to them: the bare echo and the obvious version of the route."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.load import ID, Job, Load, Receiver, Sender

CONNECTIONS, RECEIVERS = 128, 4
TYPE = "review.note"
PAYLOAD = {
    "text": "The second paragraph contradicts the first; please look again. " * 2,
    "files": ["README.md"],
    "round": 3,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A process, the connections that send to it, and those that receive; `copies` of them get each message."""

    pid: int
    senders: Sequence[Sender]
    receivers: Sequence[Receiver] = ()
    copies: int = 1

    def load(self, *, seconds: float, at: float | None = None) -> Load:
        """Run the generator against it. Messages are numbered by the clock, so that no run repeats another's ids."""
        job = Job(
            server=self.pid,
            senders=list(self.senders),
            receivers=list(self.receivers),
            copies=self.copies,
            seconds=seconds,
            rate=at,
            first=time.monotonic_ns() // 1000 % 10**11,
        )
        done = subprocess.run(
            [sys.executable, "-m", "bench.load"],
            input=msgspec.json.encode(job),
            stdout=subprocess.PIPE,
            check=True,
            timeout=seconds + 60,
        )
        return msgspec.json.decode(done.stdout, type=Load)


def rate(load: Load) -> float:
    """Messages per second that went all the way."""
    return (load.acknowledged or load.answered) / load.seconds


@contextmanager
def echo_process(folder: Path) -> Iterator[Server]:
    """The bare echo on one socket."""
    path = folder / "echo.sock"
    process = subprocess.Popen([sys.executable, "-m", "bench.echo", str(path)])
    try:
        await_socket(path)
        yield Server(pid=process.pid, senders=[Sender(str(path), request("t" * 43, "r0"))] * CONNECTIONS)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


@contextmanager
def peer_process(folder: Path, opa: str) -> Iterator[Server]:
    """The obvious version, with an OPA of that program beside it."""
    path, port = folder / "peer.sock", _free_port()
    policy = Path(__file__).with_name("peer.rego")
    tokens = {f"{n}" * 43: f"r{n}" for n in range(RECEIVERS)} | {"t" * 43: "s0"}
    address = ["--addr", f"127.0.0.1:{port}", "--log-level", "error"]
    processes = [
        subprocess.Popen([opa, "run", "--server", *address, str(policy)]),
        subprocess.Popen(
            [sys.executable, "-m", "bench.peer", str(path), str(folder / "peer.db"), str(port), json.dumps(tokens)]
        ),
    ]
    try:
        await_socket(path)
        yield Server(
            pid=processes[1].pid,
            senders=[Sender(str(path), request("t" * 43, f"r{n % RECEIVERS}")) for n in range(CONNECTIONS)],
            receivers=[Receiver(str(path), *poll(f"{n}" * 43)) for n in range(RECEIVERS)],
        )
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(10)


def request(token: str, to: str | None = None, topic: str | None = None) -> str:
    """A message as bytes to an agent or a topic, with `ID` for its number."""
    address = {"to": to} if to else {"topic": topic}
    body = json.dumps(
        {"id": ID.decode(), "type": TYPE, "pattern": "event", **address, "payload": PAYLOAD}, separators=(",", ":")
    )
    return (
        "POST /api/hub/messages HTTP/1.1\r\nHost: hub\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )


def poll(token: str, wait_s: int = 1) -> tuple[str, str]:
    """What stands before and after the cursor."""
    return (
        f"GET /api/hub/messages?wait={wait_s}&max=100&ack=",
        f" HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\n\r\n",
    )


def await_socket(path: Path, timeout_s: float = 20.0) -> None:
    """Returns when somebody listens there."""
    deadline = time.monotonic() + timeout_s
    while True:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        assert time.monotonic() < deadline, f"nobody listens on {path}"
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
