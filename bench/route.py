"""The route: messages accepted, logged durably, delivered and acknowledged, against a bare ASGI echo in the same run.

Echo and router are measured in turns, by the same generator with the same bytes over as many connections; of each the
best turn counts, since whatever else the machine does only takes away.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.figure import Figure
from bench.load import ID, Job, Load, Receiver, Sender
from reconciler.core.reading import Ok
from reconciler.router.channel import call
from reconciler.router.client import RouterLink

SENDERS, CONNECTIONS, RECEIVERS = 32, 128, 4
ROUNDS, ROUND_S = 4, 2.0
IDLE_POLLS = 1000
TYPE = "review.note"
SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 10_000},
        "files": {"type": "array"},
        "round": {"type": "integer"},
    },
    "required": ["text", "round"],
}
PAYLOAD = {
    "text": "The second paragraph contradicts the first; please look again. " * 2,
    "files": ["README.md"],
    "round": 3,
}


def measure() -> list[Figure]:
    """The ratio and whether the echo was busy, latencies at half of the rate, overload, memory of idle polls."""
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as name:
        folder = Path(name)
        with echo_process(folder) as echo, router_process(folder) as router:
            echoed, sent = _compare(echo, router)
            best = rate(sent)
            with peer_process(folder) as peer:
                peered = max((peer.load(seconds=ROUND_S) for _ in range(2)), key=rate) if peer else None
            half = router.load(seconds=2 * ROUND_S, at=best / 2)
            over = max((router.load(seconds=ROUND_S, at=1.5 * best) for _ in range(2)), key=rate)
            idle_mb = _idle_polls(router)
    lost = sum(load.unfinished for load in (sent, half, over))
    assert not lost, f"{lost} accepted messages were not delivered"
    figures = [
        Figure(
            name="route: messages, builtin rules",
            value=best,
            unit="1/s",
            reference="bare ASGI echo",
            reference_value=rate(echoed),
            budget=0.45,
            at_most=False,
            by_ratio=True,
        ),
        Figure(
            name="route: echo busy under the generator",
            value=echoed.server_busy,
            unit="core",
            budget=0.95,
            at_most=False,
        ),
        Figure(
            name="route: processor time of a message",
            value=1e6 * (sent.server_busy + sent.children_busy) / best,
            unit="µs",
            reference="bare ASGI echo",
            reference_value=1e6 * echoed.server_busy / rate(echoed),
        ),
        Figure(name="route: of it in the log's writer", value=1e6 * sent.children_busy / best, unit="µs"),
        _latency("answer", half.answer_ms, 0.5),
        _latency("answer", half.answer_ms, 0.99),
        _latency("delivery", half.delivery_ms, 0.5),
        _latency("delivery", half.delivery_ms, 0.99),
        Figure(
            name="route: goodput at 1.5 x the maximum",
            value=rate(over),
            unit="1/s",
            reference="maximum",
            reference_value=best,
            budget=0.8,
            at_most=False,
            by_ratio=True,
        ),
        Figure(name=f"route: {IDLE_POLLS} idle polls", value=idle_mb, unit="MB", budget=20.0),
    ]
    if peered is not None:
        figures.append(
            Figure(
                name="route: against the obvious version",
                value=best,
                unit="1/s",
                reference="FastAPI + OPA + SQLModel",
                reference_value=rate(peered),
                budget=15.0,
                at_most=False,
                by_ratio=True,
            )
        )
    return figures


def rate(load: Load) -> float:
    """Messages per second that went all the way."""
    return (load.acknowledged or load.answered) / load.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A process that can be put under load."""

    pid: int
    senders: Sequence[Sender]
    receivers: Sequence[Receiver] = ()
    link: RouterLink | None = None
    run: Path | None = None

    def load(self, *, seconds: float, at: float | None = None) -> Load:
        """Run the generator against it. Messages are numbered by the clock, so that no run repeats another's ids."""
        job = Job(
            server=self.pid,
            senders=list(self.senders),
            receivers=list(self.receivers),
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
def peer_process(folder: Path) -> Iterator[Server | None]:
    """The obvious version with an OPA beside it; None where there is no `opa` on the path."""
    opa = shutil.which("opa")
    if opa is None:
        print("no opa on the path: the obvious version is left out", file=sys.stderr)
        yield None
        return
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


@contextmanager
def router_process(folder: Path, **sections: Any) -> Iterator[Server]:
    """Our router with its log on a real disk; `sections` of the configuration go in place of the ones here."""
    run = folder / "run"
    run.mkdir()
    link = RouterLink("bench000", run, folder)
    link.start()
    try:
        link.configure({**_config(), **sections})
        report = link.report()
        assert isinstance(report, Ok)
        names = [f"s{n % SENDERS}" for n in range(CONNECTIONS)]
        tokens = {f"s{n}": register(link, f"s{n}") for n in range(SENDERS)}
        tokens |= {f"r{n}": register(link, f"r{n}") for n in range(RECEIVERS)}
        yield Server(
            pid=report.value.pid,
            senders=[
                Sender(socket_path(run, name), request(tokens[name], f"r{n % RECEIVERS}"))
                for n, name in enumerate(names)
            ],
            receivers=[Receiver(socket_path(run, f"r{n}"), *poll(tokens[f"r{n}"])) for n in range(RECEIVERS)],
            link=link,
            run=run,
        )
    finally:
        link.stop()


def request(token: str, to: str) -> str:
    """A message as bytes, with `ID` for its number."""
    body = json.dumps(
        {"id": ID.decode(), "type": TYPE, "pattern": "event", "to": to, "payload": PAYLOAD}, separators=(",", ":")
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


def register(link: RouterLink, instance: str) -> str:
    """A new instance of the agent of that name; returns its token."""
    token = secrets.token_urlsafe(32)
    shown = [{"sha256": hashlib.sha256(token.encode()).hexdigest(), "expires_at": time.time() + 3600}]
    link.put_instance(f"{instance}-0", {"agent": instance, "uid": os.geteuid(), "tokens": shown, "digest": instance})
    return token


def socket_path(run: Path, instance: str) -> str:
    return str(run / "hub" / f"{instance}-0" / "hub.sock")


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


def _config() -> dict[str, Any]:
    agents: dict[str, Any] = {f"r{n}": {} for n in range(RECEIVERS)}
    agents |= {f"i{n}": {} for n in range(IDLE_POLLS)}
    sends = [{"to": f"r{n}", "types": [TYPE]} for n in range(RECEIVERS)]
    agents |= {f"s{n}": {"role": "writer", "sends": sends} for n in range(SENDERS)}
    return {"digest": "bench", "revision": "bench", "agents": agents, "schemas": {TYPE: SCHEMA}}


def _compare(echo: Server, router: Server) -> tuple[Load, Load]:
    """The best turn of each."""
    turns = [(echo.load(seconds=ROUND_S), router.load(seconds=ROUND_S)) for _ in range(ROUNDS)]
    return max((e for e, _ in turns), key=rate), max((r for _, r in turns), key=rate)


def _idle_polls(router: Server) -> float:
    """What polls of as many instances add to the router's memory, in MB."""
    assert router.link is not None
    assert router.run is not None
    tokens = {f"i{n}": register(router.link, f"i{n}") for n in range(IDLE_POLLS)}
    before = pss_mb(router.pid)
    links: list[socket.socket] = []
    try:
        for name, token in tokens.items():
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            links.append(link)
            link.connect(socket_path(router.run, name))
            link.sendall("-.0".join(poll(token, 50)).encode())
        deadline = time.monotonic() + 30
        while sum(_polls(router).values()) < IDLE_POLLS:
            assert time.monotonic() < deadline, "not all polls wait"
            time.sleep(0.1)
        return pss_mb(router.pid) - before
    finally:
        for link in links:
            link.close()


def _polls(router: Server) -> dict[str, int]:
    assert router.run is not None
    return {name: i["polls"] for name, i in call(router.run, "GET", "/report")["instances"].items()}


def _latency(what: str, sorted_ms: Sequence[float], part: float) -> Figure:
    value = sorted_ms[int(len(sorted_ms) * part)]
    budget = 5.0 if part == 0.99 else None
    return Figure(name=f"route: {what} at half of it, p{part * 100:.0f}", value=value, unit="ms", budget=budget)


def pss_mb(pid: int) -> float:
    """Proportional set size."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
