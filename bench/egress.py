"""The LLM relay: what it adds to a request, beside the same request to the same stand-in without it, turn by turn.

Both ways are a kept connection of one caller that asks for a stream of forty events, and reads it to its end: directly
over TCP, and through the relay's unix socket, with its checks, its policy, its count and its row in the ledger. In the
second figures eight callers ask at once. The policy reads the estimate of each request's tokens, so that what differs
in it is asked of the engine; in the last figures each does.
"""

import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median, quantiles

from bench.figure import Figure
from reconciler.core.digest import digest
from reconciler.egress.client import EgressLink

MODEL = "claude-opus"
TURNS, ASKED = 6, 150
CALLERS = 8
PROMPT = "The second paragraph contradicts the first; please look again. " * 160
"""Ten kilobytes, as a small question of an agent's has with its tools."""
_POLICY = """package hub.llm

import rego.v1

decision := {"allow": count(deny) == 0, "reasons": deny}

deny contains "too large" if input.request.tokens > 1000000

deny contains "not with such work" if {
	input.sensitivity in {"confidential", "restricted"}
	input.provider.exposure != "private"
}
"""


def measure() -> list[Figure]:
    """Medians, and the ninety-ninth of a hundred."""
    with tempfile.TemporaryDirectory(prefix="be", dir="/tmp") as name:
        folder = Path(name)
        with _provider() as port, _relay(folder, port) as (path, token, pid), ExitStack() as links:
            direct = _request("/v1/messages", "x-api-key: none")
            relayed = _request("/llm/anthropic/v1/messages", f"Authorization: Bearer {token}")
            ways: dict[str, Callable[[], float]] = {
                "direct": _caller(links.enter_context(_connect(port)), direct),
                "relayed": _caller(links.enter_context(_connect(path)), relayed),
            }
            one = _take_turns(ways)
            anew = {
                "direct": _caller(links.enter_context(_connect(port)), direct),
                "relayed": _caller_of_others(links.enter_context(_connect(path)), token),
            }
            uncached = _take_turns(anew)
            many = {"direct": _ask_at_once(port, direct), "relayed": _ask_at_once(path, relayed)}
            before_s = _processor_s(pid)
            for _ in range(ASKED):
                ways["relayed"]()
            busy_s = (_processor_s(pid) - before_s) / ASKED
    return [
        *_show("egress: one caller", one, budget=2.0),
        *_show("egress: one caller, policy asked each time", uncached),
        *_show(f"egress: {CALLERS} callers at once", many),
        Figure(name="egress: processor time of a request", value=1e6 * busy_s, unit="µs"),
    ]


def _show(name: str, found: dict[str, list[float]], budget: float | None = None) -> Sequence[Figure]:
    direct, relayed = found["direct"], found["relayed"]
    return [
        Figure(name=f"{name}, added at the median", value=median(relayed) - median(direct), unit="ms", budget=budget),
        Figure(
            name=f"{name}, median",
            value=median(relayed),
            unit="ms",
            reference="direct",
            reference_value=median(direct),
        ),
        Figure(
            name=f"{name}, p99",
            value=quantiles(relayed, n=100)[98],
            unit="ms",
            reference="direct",
            reference_value=quantiles(direct, n=100)[98],
        ),
    ]


def _take_turns(ways: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Milliseconds of each request; the first of each turn does not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS):
        for name, ask in ways.items():
            ask()
            found[name].extend(ask() for _ in range(ASKED))
    return found


def _ask_at_once(place: int | str, request: bytes) -> list[float]:
    found: list[float] = []

    def work() -> None:
        with _connect(place) as link:
            ask = _caller(link, request)
            ask()
            found.extend([ask() for _ in range(ASKED)])

    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _caller(link: socket.socket, request: bytes) -> Callable[[], float]:
    """Asks on that connection; returns milliseconds until the end of the answer."""

    def ask() -> float:
        began = time.perf_counter()
        link.sendall(request)
        answer = b""
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            answer += link.recv(262144)
        took_s = time.perf_counter() - began
        assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
        return took_s * 1000

    return ask


def _caller_of_others(link: socket.socket, token: str) -> Callable[[], float]:
    """No two requests are for as many tokens."""
    counts = count(1)

    def ask() -> float:
        request = _request("/llm/anthropic/v1/messages", f"Authorization: Bearer {token}", 1024 + next(counts))
        return _caller(link, request)()

    return ask


def _request(path: str, credentials: str, most_tokens: int = 1024) -> bytes:
    question = {"role": "user", "content": PROMPT}
    body = json.dumps({"model": MODEL, "max_tokens": most_tokens, "stream": True, "messages": [question]})
    return (
        f"POST {path} HTTP/1.1\r\nHost: hub\r\n{credentials}\r\nContent-Type: application/json\r\n"
        f"anthropic-version: 2023-06-01\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _connect(place: int | str) -> socket.socket:
    """To a port of this host, or to a unix socket."""
    if isinstance(place, int):
        link = socket.create_connection(("127.0.0.1", place))
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return link
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.connect(place)
    return link


@contextmanager
def _provider() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-m", "bench.messages_server", str(port)])
    try:
        deadline = time.monotonic() + 20
        while not _is_listening(port):
            assert time.monotonic() < deadline, "the stand-in does not listen"
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def _relay(folder: Path, port: int) -> Iterator[tuple[str, str, int]]:
    """The socket and token of one instance, and the process."""
    key = folder / "key"
    key.write_text("sk-none")
    run = folder / "run"
    link = EgressLink("bench000", run, folder)
    link.start()
    try:
        provider = {
            "type": "anthropic",
            "url": f"http://127.0.0.1:{port}",
            "exposure": "public",
            "key_file": str(key),
            "models": {MODEL: {"input": 15, "output": 75}},
        }
        name = digest(_POLICY)
        policy = {"digest": name, "modules": {"llm.rego": _POLICY}, "data": {"hub": {"revision": name}}}
        rules = {"engines": ["embedded"], "last_resort": "deny"}
        providers = {"anthropic": provider}
        link.configure({"digest": "bench", "providers": providers, "policy": policy, "rules": rules})
        token = secrets.token_urlsafe(32)
        shown = [{"sha256": hashlib.sha256(token.encode()).hexdigest(), "expires_at": time.time() + 3600}]
        route = {"provider": "anthropic", "model": MODEL}
        work = [{"run": "r1", "task": "bench"}]
        entry = {"agent": "a", "uid": os.geteuid(), "tokens": shown, "route": route, "work": work, "digest": "e"}
        link.put_instance("a-0", {**entry, "per_day": {"tokens": 10**12}})
        yield str(run / "hub" / "a-0" / "llm.sock"), token, int(link.state()["pid"])
    finally:
        link.stop()


def _processor_s(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
