"""Where `--live` reads from: files, sockets and addresses, and none that it should not."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from reconciler.api.app import build_app
from reconciler.api.client import HubAwayError
from reconciler.api.server import ApiServer
from reconciler.cli.live import read_live
from reconciler.core.problem import Problem
from reconciler.errors import UsageError
from reconciler.loop.export import Export, write_export
from reconciler.loop.recorded import Recorded
from tests.fakes.fleet import FakeFleet


def document(fleet: str = "0a1b2c3d") -> bytes:
    from datetime import UTC, datetime

    return json.dumps(write_export(Recorded(fleet=fleet), datetime(2026, 11, 21, tzinfo=UTC), "0.1.0")).encode()


class _Hub(BaseHTTPRequestHandler):
    """Answers as its server says, and notes what it was asked."""

    asked: ClassVar[list[tuple[str, str]]] = []
    answer: ClassVar[tuple[int, bytes]] = (200, b"")

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        status, content = self.answer
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a hub that answers with an export."""
    _Hub.asked.clear()
    _Hub.answer = (200, document())
    server = HTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_address_is_asked_with_the_token_of_a_file(hub: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc\n")
    found = read_live(f"{hub}/", str(tmp_path / "token"))
    assert isinstance(found, Export)
    assert found.recorded.fleet == "0a1b2c3d"
    assert _Hub.asked == [("/api/v1/export", "Bearer abc")]
    assert isinstance(read_live(hub, None), Export)
    assert _Hub.asked[1] == ("/api/v1/export", "")


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "it wants a --token-file"), (403, "may not"), (404, "it is no hub"), (302, "ask whoever")],
)
def test_another_answer_is_an_error_and_no_redirect_is_followed(hub: str, status: int, said: str) -> None:
    _Hub.answer = (status, b"")
    with pytest.raises(HubAwayError, match=said):
        read_live(hub, None)
    assert len(_Hub.asked) == 1


def test_an_answer_that_is_no_export_is_a_problem(hub: str) -> None:
    _Hub.answer = (200, b"<html>")
    assert str(read_live(hub, None)).startswith(f"{hub}: is damaged, or no export")


def test_where_nobody_listens_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(HubAwayError, match="no hub answers at http"):
            read_live(f"http://127.0.0.1:{taken.getsockname()[1]}", None)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("ssh://host/x", "is no address of a hub"),
        ("http://", "write the hub's address"),
        ("https://user:secret@host", "write the hub's address"),
        ("https://host?x=1", "write the hub's address"),
        ("https://host:port", "is no address"),
        ("http://hub.example.org", "is not sent to hub.example.org in the clear"),
    ],
)
def test_what_is_no_address_is_refused(where: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc")
    with pytest.raises(UsageError, match=said) as caught:
        read_live(where, str(tmp_path / "token"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"two words", b"two\nlines", b"\xff"])
def test_a_token_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match="token"):
        read_live("https://127.0.0.1:1", str(tmp_path / "token"))


def test_files_are_read_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "live.json").write_bytes(document())
    assert isinstance(read_live(str(tmp_path / "live.json"), None), Export)
    assert isinstance(read_live(str(tmp_path / "none"), None), Problem)
    assert "is neither a file nor a socket" in str(read_live(str(tmp_path), None))
    with pytest.raises(UsageError, match="goes with http"):
        read_live(str(tmp_path / "live.json"), str(tmp_path / "token"))


def test_a_hub_s_socket_is_asked(fleet: FakeFleet, tmp_path: Path) -> None:
    from reconciler.api.operations import HubOperations
    from reconciler.kinds import KINDS
    from reconciler.loop.serve import Hub

    fleet.store.set_meta("fleet", "0a1b2c3d")
    hub = Hub(fleet.loop, fleet.world, KINDS, fleet.inspections)
    server = ApiServer(build_app(HubOperations(hub, fleet.loop, fleet.world, lambda _drain: None)), tmp_path)
    server.start()
    try:
        found = read_live(str(server.path), None)
    finally:
        server.stop()
    assert isinstance(found, Export)
    assert found.recorded.fleet == "0a1b2c3d"


def test_a_socket_of_something_else_is_an_error(tmp_path: Path) -> None:
    from starlette.applications import Starlette

    server = ApiServer(Starlette(), tmp_path)
    server.start()
    try:
        with pytest.raises(HubAwayError, match="is no hub, or an older one"):
            read_live(str(server.path), None)
    finally:
        server.stop()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        with pytest.raises(HubAwayError, match="no hub answers on"):
            read_live(str(tmp_path / "silent"), None)
