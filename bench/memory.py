"""The hub's memory with 1,000 agents that have shaken hands and sit in idle polls: PSS of all processes of the hub.

The containers of the fake engine lie in the hub's process and are not the hub's, so that they are taken off.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figure import Figure
from bench.repository import Repository

COUNT = 1000
CONVERGE_S = 300.0
SETTLE_S = 20.0


def measure() -> list[Figure]:
    """All of the hub, what is taken off for the fake engine, and what the idle polls add to the router."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Repository(Path(folder) / "repository", COUNT)
        run = Path(folder) / "run"
        environment = {**os.environ, "RECONCILER_RUN": str(run)}
        hub = subprocess.Popen([sys.executable, "-m", "bench.hub_process", folder], env=environment)
        try:
            return asyncio.run(_watch(Path(folder), run, hub.pid))
        finally:
            hub.send_signal(signal.SIGTERM)
            hub.wait(60)


async def _watch(folder: Path, run: Path, hub: int) -> list[Figure]:
    fleet = await _fleet(folder)
    secrets, sockets = run / fleet / "secrets", run / fleet / "hub"
    may_poll = asyncio.Event()
    agents = [asyncio.create_task(_agent(f"a{n:04}-0", n, secrets, sockets, may_poll)) for n in range(COUNT)]
    await _converged(run / fleet / "api.sock")
    router = int((run / fleet / "router.pid").read_text().split()[0])
    without_polls = _pss_mb(router)
    may_poll.set()
    await asyncio.sleep(SETTLE_S)
    with_polls = _pss_mb(router)
    whole = sum(_pss_mb(pid) for pid in {hub, router, *_children(hub), *_children(router)})
    engine = await _engine_mb(folder, hub)
    for agent in agents:
        agent.cancel()
    await asyncio.gather(*agents, return_exceptions=True)
    return [
        Figure(name=f"hub memory at {COUNT} agents, all processes", value=whole - engine, unit="MB", budget=160.0),
        Figure(name="taken off it, the fake engine's containers", value=engine, unit="MB"),
        Figure(
            name=f"of it for {COUNT} idle polls",
            value=with_polls - without_polls,
            unit="MB",
            reference="router",
            reference_value=with_polls,
            budget=20.0,
        ),
    ]


async def _fleet(folder: Path) -> str:
    file = folder / "data" / "fleet.json"
    deadline = time.monotonic() + CONVERGE_S
    while not file.exists():
        assert time.monotonic() < deadline, "the hub did not start"
        await asyncio.sleep(0.05)
    return str(json.loads(file.read_text())["fleet"])


async def _agent(instance: str, number: int, secrets: Path, sockets: Path, may_poll: asyncio.Event) -> None:
    """One agent: hello, then one idle poll after the other, once it may."""
    socket, token_file = sockets / instance / "hub.sock", secrets / instance / "agent-token"
    while not (socket.exists() and token_file.exists()):
        await asyncio.sleep(0.5)
    hello = {
        "id": f"hello-{instance}",
        "type": "agent.hello",
        "pattern": "request",
        "to": "hub",
        "payload": {
            "version": "1",
            "capabilities": ["work.do", f"work.c{number}"],
            "executor": "command",
            "agentd": "bench",
            "pid": 1,
            "boot_id": "",
        },
    }
    while True:
        try:
            await _call(socket, token_file, "POST", "/api/hub/messages?wait=5", hello)
            await may_poll.wait()
            while True:
                await _call(socket, token_file, "GET", "/api/hub/messages?wait=25&max=100")
        except (OSError, asyncio.IncompleteReadError, ValueError):
            await asyncio.sleep(0.5)


async def _call(socket: Path, token_file: Path, method: str, target: str, body: object = None) -> None:
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        content = json.dumps(body).encode() if body is not None else b""
        token = token_file.read_text()
        writer.write(
            f"{method} {target} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        if not head.startswith("HTTP/1.1 2"):
            raise ValueError(head.splitlines()[0])
    finally:
        writer.close()


async def _converged(api: Path) -> None:
    deadline = time.monotonic() + CONVERGE_S
    while True:
        assert time.monotonic() < deadline, "the hub did not converge"
        await asyncio.sleep(1.0)
        try:
            reader, writer = await asyncio.open_unix_connection(str(api))
        except OSError:
            continue
        writer.write(b"GET /status HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")
        answer = (await reader.read()).partition(b"\r\n\r\n")[2]
        writer.close()
        if answer and json.loads(answer)["converged"]:
            return


def _pss_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


async def _engine_mb(folder: Path, hub: int) -> float:
    os.kill(hub, signal.SIGUSR1)
    answer = folder / "engine-bytes"
    while not (answer.exists() and answer.read_text()):
        await asyncio.sleep(0.1)
    return int(answer.read_text()) / 1e6


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
