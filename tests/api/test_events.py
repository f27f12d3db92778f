"""Events over HTTP: every row once and in order, whoever stops in between, and nobody's slowness is another's."""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from reconciler.api.access import Access, RefusedRequest, Role
from reconciler.api.app import build_app
from reconciler.api.events import Pace
from reconciler.api.operations import HubOperations
from reconciler.api.server import ApiServer
from reconciler.kinds import KINDS
from reconciler.loop.serve import Hub
from reconciler.store import audit
from tests.fakes.fleet import FakeFleet

PACE = Pace(poll_s=0.02, heartbeat_s=0.05, slow_s=30.0)
DEADLINE_S = 60.0


@dataclass
class Event:
    """As a reader of the standard takes it: `id` is the last one that was said, also by an event without data."""

    name: str = "message"
    id: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Reader:
    """A client of server-sent events on a unix socket."""

    def __init__(self, path: Path, query: str = "", last_id: str = "") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(str(path))
        resume = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        self.socket.sendall(f"GET /events{query} HTTP/1.1\r\nHost: hub\r\n{resume}\r\n".encode())
        self._file = self.socket.makefile("rb")
        self.last_id = last_id
        self.comments = 0
        self.status = int(self._file.readline().split()[1])
        self.headers = dict(line.split(": ", 1) for line in self._head())

    def _head(self) -> Iterator[str]:
        while line := self._file.readline().strip():
            yield line.decode().lower()

    def _lines(self) -> Iterator[str]:
        """Of the body, out of its chunks."""
        rest = b""
        while size := int(self._file.readline() or b"0", 16):
            *whole, rest = (rest + self._file.read(size)).split(b"\n")
            self._file.readline()
            yield from (line.decode() for line in whole)

    def events(self) -> Iterator[Event]:
        event, parts = Event(), list[str]()
        for line in self._lines():
            name, _, value = line.partition(": ")
            match name:
                case "id":
                    self.last_id = value
                case "event":
                    event.name = value
                case "data":
                    parts.append(value)
                case "" if line.startswith(":"):
                    self.comments += 1
                case "" if parts:
                    yield Event(event.name, self.last_id, json.loads("\n".join(parts)))
                    event, parts = Event(), []

    def take(self, count: int) -> list[int]:
        """The seqs of so many rows."""
        found: list[int] = []
        for event in self.events():
            found.append(event.data["seq"])
            if len(found) == count:
                break
        return found

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class Plane:
    """A fleet's socket, which can go away and come back."""

    def __init__(self, fleet: FakeFleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.role: Role | None = Role.VIEWER
        self.start()

    def start(self, pace: Pace = PACE) -> None:
        fleet = self.fleet
        hub = Hub(fleet.loop, fleet.world, KINDS, fleet.inspections)
        operations = HubOperations(hub, fleet.loop, fleet.world, lambda _drain: None)
        self.server = ApiServer(build_app(operations, self._authenticate, pace=pace), self.folder)
        self.server.start()

    def _authenticate(self, _request: object) -> Access:
        if self.role is None:
            raise RefusedRequest("the token is not known here; it may have been taken back", 401)
        return Access("token:bob", self.role)

    def restart(self) -> None:
        """Another hub on the same record."""
        self.server.stop()
        self.fleet.restart()
        self.start()

    def write(self, count: int, **more: str) -> None:
        entries = [self.fleet.world.entry(kind="agent", name=f"w-{n}", **more) for n in range(count)]
        audit.append(self.fleet.store, entries)

    def read(self, query: str = "", last_id: str = "") -> Reader:
        return Reader(self.server.path, query, last_id)


@pytest.fixture
def plane(fleet: FakeFleet, tmp_path: Path) -> Iterator[Plane]:
    made = Plane(fleet, tmp_path)
    yield made
    made.server.stop()


def test_what_comes_is_told_with_all_its_columns(plane: Plane) -> None:
    plane.write(3)
    reader = plane.read()
    assert (reader.status, reader.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    plane.write(1, reason="two\nlines", action="create")
    event = next(reader.events())
    (row,) = audit.tail(plane.fleet.store, 1)
    assert (event.name, event.id) == ("message", "4")
    assert event.data == {
        "seq": 4,
        "prev": row.prev,
        "hash": row.hash,
        **{c: getattr(row.entry, c) for c in audit.COLUMNS},
    }
    reader.close()


def test_a_reader_goes_on_where_it_was_across_restarts_of_the_hub(plane: Plane) -> None:
    reader = plane.read("?after=0")
    found: list[int] = []
    for _ in range(3):
        plane.write(5)
        found += reader.take(5)
        plane.server.stop()
        (end,) = reader.events()
        assert (end.name, end.data["reason"]) == ("end", "the hub ends; come back with the last id")
        reader.close()
        plane.write(2)
        plane.restart()
        reader = plane.read(last_id=reader.last_id)
        found += reader.take(2)
    reader.close()
    assert found == list(range(1, 22))


def test_a_filter_leaves_out_rows_and_keeps_the_place(plane: Plane) -> None:
    reader = plane.read("?after=0&kind=agent&name=w-1*&action=create")
    plane.write(12, action="create")
    plane.write(12, action="remove")
    assert [e.data["name"] for e in islice(reader.events(), 3)] == ["w-1", "w-10", "w-11"]
    await_that(lambda: next_comment(reader) and reader.last_id == "24")
    reader.close()


def next_comment(reader: Reader) -> bool:
    before = reader.comments
    for line in reader._lines():
        reader.comments += line.startswith(":")
        reader.last_id = line.removeprefix("id: ") if line.startswith("id: ") else reader.last_id
        if reader.comments > before and line == "":
            return True
    return False


def await_that(is_so: Any) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline


def test_an_idle_stream_says_that_it_lives(plane: Plane) -> None:
    plane.write(1)
    reader = plane.read()
    assert next_comment(reader)
    assert next_comment(reader)
    assert reader.last_id == "1"
    reader.close()


@pytest.mark.parametrize("last_id", ["x", "-1", "1.5", "٣", "9" * 19])
def test_an_id_that_is_none_is_refused(plane: Plane, last_id: str) -> None:
    reader = Reader(plane.server.path, f"?after={last_id.encode().hex() if not last_id.isascii() else last_id}")
    assert reader.status == 400
    reader.close()


def test_a_reader_who_knows_of_rows_that_are_gone_is_told(plane: Plane) -> None:
    plane.write(3)
    reader = plane.read(last_id="500")
    event = next(reader.events())
    assert (event.name, event.id, event.data) == ("reset", "3", {"newest": 3})
    plane.write(1)
    assert reader.take(1) == [4]
    reader.close()


def test_a_token_that_is_taken_back_ends_its_streams(plane: Plane) -> None:
    reader = plane.read()
    plane.write(1)
    assert reader.take(1) == [1]
    plane.role = None
    (end,) = reader.events()
    assert end.data["reason"] == "the token is not known here; it may have been taken back"
    reader.close()


def test_who_does_not_read_is_dropped_with_a_last_word_and_can_go_on(plane: Plane) -> None:
    plane.server.stop()
    plane.start(Pace(poll_s=0.02, slow_s=0.3))
    slow = plane.read("?after=0")
    plane.write(4000, reason="x" * 500)
    await_that(lambda: open_streams(plane) == 0)
    *rows, end = list(slow.events())
    assert (end.name, end.data["reason"]) == ("end", "nothing was read for 0.3 seconds; come back with the last id")
    seqs = [e.data["seq"] for e in rows]
    assert seqs == list(range(1, len(seqs) + 1))
    assert 0 < len(seqs) < 4000
    again = plane.read(last_id=slow.last_id)
    assert again.take(1) == [len(seqs) + 1]
    slow.close()
    again.close()


def open_streams(plane: Plane) -> int:
    """Connections of the server whose answers are under way."""
    connections = list(plane.server._served._server.server_state.connections)
    return sum(not c.transport.is_closing() for c in connections if c.transport is not None)


def test_a_reader_who_leaves_leaves_nothing_behind(plane: Plane) -> None:
    readers = [plane.read() for _ in range(20)]
    assert open_streams(plane) == 20
    for reader in readers:
        reader.close()
    await_that(lambda: open_streams(plane) == 0)
    await_that(lambda: not plane.server._served._server.server_state.tasks)


def test_there_are_only_so_many_streams(plane: Plane) -> None:
    readers = [plane.read() for _ in range(64)]
    assert {r.status for r in readers} == {200}
    one_more = plane.read()
    assert (one_more.status, one_more.headers["retry-after"]) == (503, "30")
    for reader in (*readers, one_more):
        reader.close()
