"""Our router under load: its log on a real disk, the example policies of this repository, and OPA where there is one.

One process answers for all modes; a mode is a configuration, and what it logged shows who decided.
"""

import hashlib
import http.client
import json
import os
import re
import secrets
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import ID, Load, Receiver, Sender
from bench.servers import CONNECTIONS, RECEIVERS, TYPE, Server, poll, request
from reconciler.core.reading import Ok
from reconciler.core.yaml import load_documents
from reconciler.policy.bundle import build_bundle
from reconciler.policy.opa_answer import ANSWER_PATH
from reconciler.policy.opa_config import OPA_SOCKET
from reconciler.policy.opa_process import start_opa, stop_opa
from reconciler.ports import RouterReport
from reconciler.router.client import RouterLink

SENDERS, SUBSCRIBERS, IDLE_POLLS = 32, 100, 1000
OPA_CONNECTIONS = 32
"""As many as the router keeps to OPA."""
OPA_TIMEOUT_S = 1.0
"""Longer than the default, so that a slow machine shows as a low rate and not as another engine's answers."""
TOPIC = "bench.news"
SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 10_000},
        "files": {"type": "array"},
        "round": {"type": "integer"},
    },
    "required": ["text", "round"],
}
POLICIES = Path(__file__).resolve().parents[1] / "policies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """Which engine decides, and whether decisions are remembered."""

    engine: str
    is_cached: bool = True

    @property
    def rules(self) -> Mapping[str, Any]:
        """The section `rules` of the router's configuration."""
        order = ("opa", "embedded", "builtin")
        engines = order[order.index(self.engine) :]
        return {"engines": engines} if self.is_cached else {"engines": engines, "cache_entries": 0}

    def __str__(self) -> str:
        return self.engine if self.is_cached else f"{self.engine} uncached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """The process. `server` is what the senders and receivers of messages to agents speak to; `opa` is bare OPA."""

    run: Path
    data: Path
    link: RouterLink
    server: Server
    tokens: Mapping[str, str]
    opa: Server | None = None

    def use(self, mode: Mode, **limits: int) -> None:
        """Configure it, and wait until the engine answers."""
        config = _config(mode, has_opa=self.opa is not None)
        self.link.configure({**config, "limits": limits, "digest": f"{mode} {limits}"})
        deadline = time.monotonic() + 20
        while (report := self.report()).policy_engine != mode.engine:
            assert time.monotonic() < deadline, f"the engine {mode.engine} does not answer: {report.policy_fault}"
            time.sleep(0.02)

    def load(self, mode: Mode, *, seconds: float, at: float | None = None) -> Load:
        """Load in that mode. Raises AssertionError where others decided, or messages were lost."""
        self.use(mode)
        since = self.last_row()
        load = self.server.load(seconds=seconds, at=at)
        assert not load.unfinished, f"{mode}: {load.unfinished} accepted messages were not delivered"
        self._check_decisions(mode, since)
        return load

    def report(self) -> RouterReport:
        report = self.link.report()
        assert isinstance(report, Ok), report
        return report.value

    def last_row(self) -> int:
        return int(self.query("SELECT coalesce(max(seq), 0) FROM message_log")[0][0])

    def query(self, statement: str, *values: object) -> Sequence[tuple[Any, ...]]:
        """Rows of the message log."""
        with closing(sqlite3.connect(f"file:{self.data / 'traffic.db'}?mode=ro", uri=True)) as connection:
            return connection.execute(statement, values).fetchall()

    def _check_decisions(self, mode: Mode, since: int) -> None:
        counted = self.query(
            "SELECT engine, cached, count(*) FROM message_log WHERE seq > ? AND verdict = 'allow' GROUP BY 1, 2", since
        )
        others = sum(n for engine, cached, n in counted if (engine, bool(cached)) != (mode.engine, mode.is_cached))
        # Before anything is remembered, each connection may ask once.
        permitted = CONNECTIONS + sum(n for _, _, n in counted) // 50
        assert others <= permitted, f"{mode}: decided by (engine, cached, count) {counted}"


@contextmanager
def router_process(folder: Path, opa: str | None) -> Iterator[Router]:
    """Our router, and an OPA of that program where there is one."""
    run = folder / "run"
    run.mkdir()
    link = RouterLink("bench000", run, folder)
    link.start()
    try:
        link.configure(_config(Mode(engine="builtin"), has_opa=opa is not None))
        bare = None
        if opa is not None:
            bare = _serve_bare(run, start_opa(run, folder, opa).pid)
        yield _build_router(run, folder, link, bare)
    finally:
        link.stop()
        stop_opa(run)


def register(link: RouterLink, instance: str) -> str:
    """A new instance of the agent of that name; returns its token."""
    token = secrets.token_urlsafe(32)
    shown = [{"sha256": hashlib.sha256(token.encode()).hexdigest(), "expires_at": time.time() + 3600}]
    link.put_instance(f"{instance}-0", {"agent": instance, "uid": os.geteuid(), "tokens": shown, "digest": instance})
    return token


def socket_path(run: Path, instance: str) -> str:
    return str(run / "hub" / f"{instance}-0" / "hub.sock")


def pss_mb(pid: int) -> float:
    """Proportional set size."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def _build_router(run: Path, data: Path, link: RouterLink, opa: Server | None) -> Router:
    report = link.report()
    assert isinstance(report, Ok)
    names = [f"s{n % SENDERS}" for n in range(CONNECTIONS)]
    receivers = [f"r{n}" for n in range(RECEIVERS)]
    tokens = {name: register(link, name) for name in (*names[:SENDERS], *receivers)}
    server = Server(
        pid=report.value.pid,
        senders=[
            Sender(socket_path(run, name), request(tokens[name], receivers[n % RECEIVERS]))
            for n, name in enumerate(names)
        ],
        receivers=[Receiver(socket_path(run, name), *poll(tokens[name])) for name in receivers],
    )
    return Router(run=run, data=data, link=link, server=server, tokens=tokens, opa=opa)


def _serve_bare(run: Path, pid: int) -> Server:
    """The same OPA without us: questions as the router asks them, with a number where nobody reads it."""
    path = str(run / OPA_SOCKET)
    target, body = f"/v1/data/{ANSWER_PATH}/message?strict-builtin-errors=true", json.dumps({"input": _question()})
    _await_allow(path, target, body)
    text = (
        f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Number: {ID.decode()}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    return Server(pid=pid, senders=[Sender(path, text)] * OPA_CONNECTIONS)


def _await_allow(path: str, target: str, body: str, timeout_s: float = 20.0) -> None:
    """Returns when OPA has fetched the policies and allows this."""
    deadline = time.monotonic() + timeout_s
    answer: Any = None
    while not _is_allowed(answer):
        assert time.monotonic() < deadline, f"OPA does not allow the question of the bench: {answer}"
        with closing(http.client.HTTPConnection("localhost")) as connection:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.connect(path)
            connection.request("POST", target, body, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        time.sleep(0.05)


def _is_allowed(answer: Any) -> bool:
    result = answer.get("result") if isinstance(answer, dict) else None
    return isinstance(result, dict) and result["decision"]["allow"]


def _question() -> Mapping[str, Any]:
    """What the router asks about a message from s0 to r0."""
    face: dict[str, Any] = {"role": "", "labels": {}, "capabilities": []}
    return {
        "sender": {"agent": "s0", "instance": "s0-0", **face, "role": _role("opa"), "trust": 1.0},
        "recipient": {"kind": "agent", "name": "r0", **face},
        "message": {"type": TYPE, "pattern": "event", "size_bytes": 270, "sensitivity": "internal"},
        "grants": {"sends": _sends()},
        "time": time.strftime("%Y-%m-%dT%H:%M:00Z", time.gmtime()),
    }


def _role(engine: str) -> str:
    """Of the senders: one for each engine, because engines of the same policies share what is remembered."""
    return f"writer-{engine}"


def _sends() -> list[dict[str, Any]]:
    agents = [{"to": f"r{n}", "types": [TYPE]} for n in range(RECEIVERS)]
    return [*agents, {"topic": TOPIC, "types": [TYPE]}]


def _config(mode: Mode, *, has_opa: bool) -> dict[str, Any]:
    agents: dict[str, Any] = {f"r{n}": {} for n in range(RECEIVERS)}
    agents |= {f"i{n}": {} for n in range(IDLE_POLLS)}
    agents |= {f"q{n}": {"subscribes": [{"topic": TOPIC, "delivery": "all"}]} for n in range(SUBSCRIBERS)}
    agents |= {f"s{n}": {"role": _role(mode.engine), "sends": _sends()} for n in range(SENDERS)}
    return {
        "digest": str(mode),
        "revision": "bench",
        "agents": agents,
        "schemas": {TYPE: SCHEMA},
        "rules": mode.rules,
        "policy": _policy(),
        "opa": {"timeout_s": OPA_TIMEOUT_S} if has_opa else None,
    }


def _policy() -> Mapping[str, Any]:
    """The example policies as the section `policy` of the configuration."""
    files = {f"policies/{path.name}": path.read_bytes() for path in sorted(POLICIES.glob("*.rego"))}
    (data,) = load_documents((POLICIES / "data.yaml").read_bytes(), "policies/data.yaml").values
    built = build_bundle(files, data)
    assert built.bundle is not None, built.problems
    return {"digest": built.bundle.digest, "modules": dict(built.bundle.modules), "data": dict(built.bundle.data)}
