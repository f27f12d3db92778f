"""The obvious version of the route, to compare with: FastAPI, a pooled OPA client, and one SQLModel row per message.

`python -m bench.peer SOCKET DATABASE OPA_PORT TOKENS`, where TOKENS is JSON: agent by token. OPA has `peer.rego`.

What it owes is what the route owes: a bearer token, a valid envelope and payload, OPA's decision, the row on disk (WAL,
synchronous=FULL) before the answer, delivery by polls, and acknowledgement by cursor. It does so in the way that the
documentation of each of these libraries shows, with all that they offer to be fast: uvloop, httptools, a pool of
connections, asynchronous calls.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from opa_client.opa_async import AsyncOpaClient
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Engine, event
from sqlmodel import Field as Column
from sqlmodel import Session, SQLModel, create_engine

_OPA_TIMEOUT_S = 1.5


class Payload(BaseModel):
    """What the message type asks of its payload."""

    text: str = Field(max_length=10_000)
    files: list[str] = []
    round: int


class Envelope(BaseModel):
    """What a sender writes."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=r"^[!-~]{1,128}$")
    type: str = Field(max_length=100, pattern=r"^[a-z0-9_-]+(\.[a-z0-9_-]+)*$")
    pattern: Literal["request", "reply", "event"]
    to: str = Field(max_length=100, pattern=r"^[a-z0-9-]+(/[a-z0-9-]+)?$")
    payload: Payload


class MessageRow(SQLModel, table=True):
    """One message that was allowed."""

    seq: int | None = Column(default=None, primary_key=True)
    time: float
    agent: str
    msg_id: str
    type: str
    pattern: str
    recipient: str
    verdict: str
    payload: str


class Mailbox:
    """What waits for one agent, in order; what was handed out stays until it is acknowledged."""

    def __init__(self) -> None:
        self.waiting: deque[dict[str, Any]] = deque()
        self.leased: dict[int, dict[str, Any]] = {}
        self.changed = asyncio.Event()
        self.handed_out = 0

    def put(self, message: dict[str, Any]) -> None:
        self.waiting.append(message)
        self.changed.set()

    async def take(self, wait_s: float, count: int) -> list[dict[str, Any]]:
        """At most `count`, as soon as there are any; none after `wait_s`."""
        if not self.waiting:
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), wait_s)
            except TimeoutError:
                return []
        taken = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        for message in taken:
            self.handed_out += 1
            self.leased[self.handed_out] = message
        return taken

    def acknowledge(self, upto: int) -> None:
        for position in [p for p in self.leased if p <= upto]:
            del self.leased[position]


def build_app(engine: Engine, opa: AsyncOpaClient, agents_by_token: dict[str, str]) -> FastAPI:
    """The application; `opa` is connected while it runs."""
    mailboxes: dict[str, Mailbox] = defaultdict(Mailbox)

    @asynccontextmanager
    async def connected(_app: FastAPI) -> AsyncIterator[None]:
        async with opa:
            yield

    def known_agent(authorization: Annotated[str, Header()]) -> str:
        agent = agents_by_token.get(authorization.removeprefix("Bearer "))
        if agent is None:
            raise HTTPException(401)
        return agent

    def session() -> Iterator[Session]:
        with Session(engine) as opened:
            yield opened

    app = FastAPI(lifespan=connected)

    @app.post("/api/hub/messages", status_code=202)
    async def send(
        envelope: Envelope,
        agent: Annotated[str, Depends(known_agent)],
        rows: Annotated[Session, Depends(session)],
    ) -> dict[str, str]:
        question = {
            "sender": {"agent": agent},
            "recipient": {"kind": "agent", "name": envelope.to},
            "message": {"type": envelope.type, "pattern": envelope.pattern},
            "grants": {"sends": [{"to": envelope.to, "types": [envelope.type]}]},
        }
        answer = await opa.query_rule(question, package_path="hub.message", rule_name="decision")
        if not answer["result"]["allow"]:
            raise HTTPException(403)
        row = MessageRow(
            time=time.time(),
            agent=agent,
            msg_id=envelope.id,
            type=envelope.type,
            pattern=envelope.pattern,
            recipient=envelope.to,
            verdict="allow",
            payload=envelope.payload.model_dump_json(),
        )
        rows.add(row)
        rows.commit()
        mailboxes[envelope.to].put({**envelope.model_dump(), "from": agent})
        return {"id": envelope.id, "status": "accepted"}

    @app.get("/api/hub/messages")
    async def poll(
        agent: Annotated[str, Depends(known_agent)], ack: str, wait: float = 0, max: int = 100
    ) -> dict[str, Any]:
        mailbox = mailboxes[agent]
        mailbox.acknowledge(int(ack.rpartition(".")[2]))
        messages = await mailbox.take(wait, max)
        return {"messages": messages, "cursor": f"p.{mailbox.handed_out}"}

    return app


def main() -> None:
    path, database, opa_port, tokens = sys.argv[1:]
    engine = create_engine(f"sqlite:///{database}")
    event.listen(engine, "connect", _make_durable)
    SQLModel.metadata.create_all(engine)
    opa = AsyncOpaClient(host="127.0.0.1", port=int(opa_port), retries=0, timeout=_OPA_TIMEOUT_S)
    uvicorn.run(
        build_app(engine, opa, json.loads(tokens)),
        uds=path,
        http="httptools",
        loop="uvloop",
        access_log=False,
        server_header=False,
        date_header=False,
        log_level="warning",
        timeout_keep_alive=75,
    )


def _make_durable(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


if __name__ == "__main__":
    main()
