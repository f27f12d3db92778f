"""Who waits for a connection gets the first that is free, a fault at once where there is none, or its own time-out."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.address import UnixAddress
from reconciler.policy.opa_answer import Fault, no_answer_within
from reconciler.router.eager import Eager
from reconciler.router.opa_link import OpaLink, Reply, Said

MOST = 32


@dataclass
class Server:
    """Answers each request with its body, once `gate` is open. `asked` is in order of arrival."""

    address: UnixAddress
    asked: list[bytes] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    lines: list[asyncio.StreamWriter] = field(default_factory=list)
    listener: asyncio.Server | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.lines.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2]))
                self.asked.append(body)
                await self.gate.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def die(self) -> None:
        """No connection is left, and none is taken any more."""
        assert self.listener is not None
        self.listener.close()
        Path(self.address.path).unlink()
        for line in self.lines:
            line.transport.abort()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    with tempfile.TemporaryDirectory(prefix="ol", dir="/tmp") as folder:
        server = Server(UnixAddress(path=f"{folder}/s"))
        server.listener = await asyncio.start_unix_server(server.serve, server.address.path)
        try:
            yield server
        finally:
            server.listener.close()
            for line in server.lines:
                line.transport.abort()


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.002)


def play(scenario: Callable[[Server, OpaLink], Awaitable[None]]) -> None:
    async def run() -> None:
        async with serving() as server:
            link = OpaLink(server.address)
            await scenario(server, link)
            await link.close(0)

    asyncio.run(run())


async def ask(link: OpaLink, number: int, timeout_s: float = 60.0) -> Said:
    return await link.ask(link.head("/"), b"%d" % number, timeout_s)


def test_all_are_answered_and_those_that_wait_go_in_order() -> None:
    async def scenario(server: Server, link: OpaLink) -> None:
        asked = [asyncio.ensure_future(ask(link, number)) for number in range(100)]
        await eventually(lambda: len(server.asked) == MOST)
        server.gate.set()
        assert await asyncio.gather(*asked) == [Reply(200, b"%d" % number) for number in range(100)]
        assert len(server.lines) == MOST
        assert {int(body) for body in server.asked[:MOST]} == set(range(MOST))

    play(scenario)


def test_whoever_waits_too_long_is_told_so_and_the_others_go_on() -> None:
    async def scenario(server: Server, link: OpaLink) -> None:
        asked = [asyncio.ensure_future(ask(link, number)) for number in range(MOST)]
        await eventually(lambda: len(server.asked) == MOST)
        late, patient = asyncio.ensure_future(ask(link, 100, 0.05)), asyncio.ensure_future(ask(link, 101))
        assert await late == no_answer_within(0.05)
        server.gate.set()
        assert await patient == Reply(200, b"101")
        assert len(await asyncio.gather(*asked)) == MOST
        assert b"100" not in server.asked

    play(scenario)


def test_when_the_server_dies_all_are_told_at_once() -> None:
    async def scenario(server: Server, link: OpaLink) -> None:
        found: list[Said | None] = []
        for number in range(100):
            Eager(ask(link, number, 3600.0), found.append)
        await eventually(lambda: len(server.asked) == MOST)
        server.die()
        await eventually(lambda: len(found) == 100)
        assert all(isinstance(said, Fault) for said in found), found

    play(scenario)


def test_a_connection_that_ends_is_replaced_for_those_that_wait() -> None:
    async def scenario(server: Server, link: OpaLink) -> None:
        asked = [asyncio.ensure_future(ask(link, number)) for number in range(MOST + 5)]
        await eventually(lambda: len(server.asked) == MOST)
        for line in server.lines[:3]:
            line.transport.abort()
        server.gate.set()
        said = await asyncio.gather(*asked)
        assert sum(isinstance(one, Fault) for one in said) == 3
        assert all(isinstance(one, Reply) for one in said[MOST:])

    play(scenario)


def test_one_who_goes_away_while_it_waits_leaves_its_turn_to_the_next() -> None:
    """Also in the moment in which a connection was given to it, which is then not lost."""

    async def scenario(server: Server, link: OpaLink) -> None:
        first = [asyncio.ensure_future(ask(link, number)) for number in range(MOST)]
        await eventually(lambda: len(server.asked) == MOST)
        waiting = [asyncio.ensure_future(ask(link, 100 + number)) for number in range(MOST)]
        await asyncio.sleep(0)
        server.gate.set()
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*first, *waiting, return_exceptions=True)
        for number in range(3 * MOST):
            assert await ask(link, 200 + number) == Reply(200, b"%d" % (200 + number))
        async with asyncio.timeout(60):
            await link.close(20)

    play(scenario)
