"""The operator's port: by TLS or on this host alone, for those with a token, and not to be held up by anybody else."""

import asyncio
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.api import server
from reconciler.api.app import build_app
from reconciler.api.operations import HubOperations
from reconciler.api.server import ApiServer, PortServer
from reconciler.api.tokens import ByToken, Tokens
from reconciler.cli import cli
from reconciler.errors import UsageError
from reconciler.kinds import KINDS
from reconciler.loop.serve import Hub
from reconciler.settings import OperatorHttp
from reconciler.store import audit
from tests.api.certificates import write_certificate
from tests.api.test_tokens import ADA, BOB, entry, text, write
from tests.fakes.fleet import FakeFleet
from tests.fakes.texts import agent_text
from tests.router.fleet import free_port


@dataclass
class Plane:
    """A fleet's port with TLS. `ada` is an operator there, `bob` a viewer."""

    fleet: FakeFleet
    folder: Path
    settings: OperatorHttp
    server: PortServer

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "hub.crt"))

    def ask(self, path: str, token: str = "", method: str = "GET", body: bytes = b"") -> tuple[int, str]:
        at = self.settings.listens_at
        connection = http.client.HTTPSConnection(at.host, at.port, timeout=30, context=self.trust())
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def command(self, *arguments: str, token: str = ADA, url: str = "") -> Result:
        (self.folder / "token").write_text(f"{token}\n")
        where = ("--hub", url or f"https://{self.settings.listens_at}", "--token-file", str(self.folder / "token"))
        trusted = {"SSL_CERT_FILE": str(self.folder / "hub.crt")}
        return CliRunner(env=trusted).invoke(cli, [*where, *arguments], standalone_mode=False)


def plane_settings(folder: Path, **more: str) -> OperatorHttp:
    given = {"listen": f"tcp://127.0.0.1:{free_port()}", "tokenFile": str(folder / "tokens.yaml"), **more}
    return OperatorHttp.model_validate(given)


def operations(fleet: FakeFleet) -> HubOperations:
    hub = Hub(fleet.loop, fleet.world, KINDS, fleet.inspections)
    return HubOperations(hub, fleet.loop, fleet.world, lambda _drain: None)


@pytest.fixture
def plane(fleet: FakeFleet, tmp_path: Path) -> Iterator[Plane]:
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    write(tmp_path / "tokens.yaml", text(entry(ADA, "ada", "operator"), entry(BOB, "bob")))
    certificate, key = write_certificate(tmp_path)
    settings = plane_settings(tmp_path, certificateFile=str(certificate), keyFile=str(key))
    by_token = ByToken(Tokens(settings.token_file))
    made = Plane(fleet, tmp_path, settings, PortServer(build_app(operations(fleet), by_token), settings))
    made.server.start()
    yield made
    made.server.stop()


@contextmanager
def dialled(plane: Plane) -> Iterator[ssl.SSLSocket]:
    """A connection on which nothing was said yet."""
    at = plane.settings.listens_at
    link = socket.create_connection((at.host, at.port), timeout=30)
    with plane.trust().wrap_socket(link, server_hostname=at.host) as line:
        yield line


def test_a_token_opens_the_port_and_its_role_says_how_far(plane: Plane) -> None:
    assert plane.ask("/status")[0] == 401
    assert plane.ask("/healthz") == (200, '{"status":"ok"}')
    assert json.loads(plane.ask("/status", BOB)[1])["fleet"] == plane.fleet.world.fleet
    status, problem = plane.ask("/api/v1/agents/writer/restart", BOB, "POST")
    assert (status, json.loads(problem)["status"]) == (403, 403)
    assert plane.ask("/api/v1/agents/writer/restart", ADA, "POST")[0] == 202
    assert audit.tail(plane.fleet.store, 1)[0].entry.actor == "token:ada"


def test_a_token_that_is_taken_back_is_over_while_the_hub_runs(plane: Plane) -> None:
    assert plane.ask("/status", BOB)[0] == 200
    write(plane.folder / "tokens.yaml", text(entry(ADA, "ada", "operator")))
    assert plane.ask("/status", BOB)[0] == 401
    assert plane.ask("/status", ADA)[0] == 200


def test_nothing_is_said_in_the_clear_on_a_port_with_tls(plane: Plane) -> None:
    at = plane.settings.listens_at
    connection = http.client.HTTPConnection(at.host, at.port, timeout=30)
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.request("GET", "/healthz")
        connection.getresponse()
    connection.close()


def test_headers_of_proxies_are_not_believed(fleet: FakeFleet, tmp_path: Path) -> None:
    write(tmp_path / "tokens.yaml", text())
    settings = plane_settings(tmp_path)
    opened = PortServer(build_app(operations(fleet), ByToken(Tokens(settings.token_file))), settings)
    opened.start()
    try:
        found = []
        for number in range(20):
            connection = http.client.HTTPConnection("127.0.0.1", settings.listens_at.port, timeout=30)
            connection.request("GET", "/status", headers={"X-Forwarded-For": f"192.0.2.{number}"})
            found.append(connection.getresponse().status)
            connection.close()
    finally:
        opened.stop()
    assert 429 in found, "each request counted as another caller's"


def test_a_certificate_that_is_replaced_counts_and_a_broken_one_does_not(plane: Plane) -> None:
    def subject() -> object:
        with dialled(plane) as line:
            return dict(pair for part in line.getpeercert()["subject"] for pair in part)["commonName"]

    def text_of(plane: Plane) -> str:
        return (plane.folder / "hub.crt").read_text()

    assert subject() == "hub"
    write_certificate(plane.folder, "hub-of-next-year")
    asyncio.run(plane.server._renew())
    assert subject() == "hub-of-next-year"
    good = text_of(plane)
    (plane.folder / "hub.key").write_text("no key")
    asyncio.run(plane.server._renew())
    (plane.folder / "hub.crt").write_text(good)
    assert subject() == "hub-of-next-year"


def test_a_certificate_that_cannot_be_used_is_said_so(tmp_path: Path, fleet: FakeFleet) -> None:
    certificate, key = write_certificate(tmp_path)
    key.write_text("no key")
    for file in (str(certificate), str(tmp_path / "none")):
        settings = plane_settings(tmp_path, certificateFile=file, keyFile=str(key))
        with pytest.raises(UsageError, match="write a certificate chain and its key"):
            PortServer(build_app(operations(fleet)), settings)


def test_an_address_in_use_is_said_so(plane: Plane) -> None:
    with pytest.raises(UsageError, match=r"api\.http cannot listen on 127\.0\.0\.1:"):
        PortServer(build_app(operations(plane.fleet)), plane.settings).start()


def test_a_head_without_end_is_cut_off(plane: Plane) -> None:
    with dialled(plane) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        try:
            for _ in range(4 * server.MAX_HEAD // 1000):
                line.sendall(b"X-Filler: " + b"x" * 990 + b"\r\n")
            line.sendall(b"\r\n")
            said = line.recv(1)
        except OSError:
            said = b""
    assert said == b""
    assert plane.ask("/healthz")[0] == 200


def test_the_socket_answers_its_owner_without_a_token(fleet: FakeFleet, tmp_path: Path) -> None:
    opened = ApiServer(build_app(operations(fleet)), tmp_path)
    opened.start()
    try:
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(opened.path))
        link.sendall(b"GET /metrics HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")
        assert link.recv(20).startswith(b"HTTP/1.1 200")
        link.close()
    finally:
        opened.stop()


def test_commands_ask_a_hub_elsewhere(plane: Plane) -> None:
    found = plane.command("status")
    assert json.loads(found.output)["fleet"] == plane.fleet.world.fleet
    assert "writer-0 runs" in plane.command("explain", "agent/writer").output
    assert plane.command("agent", "drain", "writer").return_value == 0
    assert plane.command("suspend", "agent/writer", "--reason", "a look").return_value == 0
    assert plane.command("resume", "agent/writer").return_value == 0
    actors = {r.entry.actor.split(" ")[0] for r in audit.tail(plane.fleet.store, 3)}
    assert actors == {"token:ada"}


def test_what_a_hub_elsewhere_refuses_is_said(plane: Plane) -> None:
    for arguments, token, said in (
        (("agent", "drain", "writer"), BOB, "token:bob is viewer, and this needs operator"),
        (("status",), "x" * 40, "the token is not known here"),
        (("task", "list"), ADA, "leave --hub out"),
        (("audit", "verify"), ADA, "audit reads files of its own host"),
    ):
        found = plane.command(*arguments, token=token)
        assert said in str(found.exception), arguments
        assert token not in str(found.exception)


def test_a_token_is_not_sent_in_the_clear(plane: Plane) -> None:
    found = plane.command("status", url="http://hub.example.org:8490")
    assert "not sent to hub.example.org in the clear" in str(found.exception)
