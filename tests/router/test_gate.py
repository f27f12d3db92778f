"""Instances that come in by TLS: whom the router lets in there, whom not, and what others notice of it."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.identity.authority import open_authority
from reconciler.router.channel import RefusedByRouterError
from reconciler.router.tls import HANDSHAKE_S
from tests.router.fleet import Agent, Fleet, Reply, TlsPlace, free_port, instance_entry, read_reply, tls_entry, until

pytestmark = pytest.mark.parametrize("fleet", ["tls"], indirect=True)
PER_SOURCE = 32


def get_self(agent: Agent, **call: object) -> Reply:
    return agent.call("GET", "/api/hub/self", **call)  # type: ignore[arg-type]


def place(fleet: Fleet) -> TlsPlace:
    assert fleet.tls is not None
    return fleet.tls


def strangers(fleet: Fleet) -> int:
    """Calls by TLS without a token of ours, as the log counts them."""
    return sum(row["count"] for row in fleet.rows("instance='(tls)' AND code='unauthenticated'"))


# --- who is let in ----------------------------------------------------------------------------------------------------


def test_the_token_alone_says_which_instance_it_is(fleet: Fleet) -> None:
    first, second = fleet.register("writer-0"), fleet.register("writer-1")
    assert [get_self(agent).body["instance"] for agent in (first, second)] == ["writer-0", "writer-1"]
    assert not first.socket_path.exists()


def test_the_token_of_an_instance_with_a_socket_is_like_no_token(fleet: Fleet) -> None:
    near = fleet.register("writer-0", socket=True)
    far = fleet.register("writer-1")
    stolen, unknown = get_self(far, token=near.token), get_self(far, token="wrong")
    assert (stolen.status, stolen.code, stolen.body["step"]) == (401, "unauthenticated", "identity")
    assert stolen.body == unknown.body
    assert get_self(near).status == 200
    until(lambda: strangers(fleet) == 2)


def test_a_token_for_tls_is_not_taken_on_anybodys_socket(fleet: Fleet) -> None:
    near, far = fleet.register("writer-0", socket=True), fleet.register("writer-1")
    assert get_self(near, token=far.token).status == 401
    assert get_self(far).status == 200


def test_a_connection_that_showed_a_token_is_that_instances_only(fleet: Fleet) -> None:
    first, second = fleet.register("writer-0"), fleet.register("writer-1")
    with first.connect() as connection:
        statuses = []
        for token in (first.token, second.token, first.token):
            connection.request("GET", "/api/hub/self", headers={"Authorization": f"Bearer {token}"})
            statuses.append(read_reply(connection.getresponse()).status)
        assert fleet.state()["instances"]["writer-0"]["lines"] == 1
        assert fleet.state()["instances"]["writer-1"]["lines"] == 0
    assert statuses == [200, 401, 200]


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("header", ["", "Authorization: Basic x\r\n", "Authorization: Bearer \r\n", "{own}{own}"])
def test_whoever_shows_no_token_is_answered_once(fleet: Fleet, header: str, pieces: int) -> None:
    writer = fleet.register("writer-0")
    header = header.format(own=f"Authorization: Bearer {writer.token}\r\n")
    request = f"GET /api/hub/self HTTP/1.1\r\nHost: hub\r\n{header}\r\n".encode()
    with writer.dial() as link:
        for part in (request,) if pieces == 1 else (request[:20], request[20:]):
            link.sendall(part)
        answer = b"".join(iter(lambda: link.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in answer.lower()


def test_a_message_in_chunks_finds_its_sender(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    with writer.connect() as connection:
        headers = {"Authorization": f"Bearer {writer.token}"}
        connection.request("POST", "/api/hub/messages", body=iter([b"{", b"}"]), headers=headers)
        assert connection.getresponse().status == 411


def test_the_same_tokens_on_another_path_end_the_old_one(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    entry = instance_entry("writer", [(writer.token, time.time() + 60)])
    with writer.connect() as open_one:
        headers = {"Authorization": f"Bearer {writer.token}"}
        open_one.request("GET", "/api/hub/self", headers=headers)
        assert read_reply(open_one.getresponse()).status == 200
        fleet.link.put_instance("writer-0", entry)
        assert open_one.sock.recv(1) == b""
    assert get_self(writer).status == 401
    writer.tls = None
    assert get_self(writer).status == 200
    fleet.link.put_instance("writer-0", {**entry, "transport": "tls"})
    assert not writer.socket_path.exists()
    writer.tls = fleet.tls
    assert get_self(writer).status == 200


def test_old_and_new_token_are_valid_while_they_overlap_and_then_the_new_one_only(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    later = time.time() + 100
    both = instance_entry("writer", [(writer.token, later), ("new", later)])
    fleet.link.put_instance("writer-0", {**both, "transport": "tls"})
    assert [get_self(writer, token=token).status for token in (writer.token, "new")] == [200, 200]
    fleet.link.put_instance("writer-0", {**instance_entry("writer", [("new", later)]), "transport": "tls"})
    assert [get_self(writer, token=token).status for token in (writer.token, "new")] == [401, 200]


def test_an_expired_token_and_one_of_a_removed_instance_are_no_tokens(fleet: Fleet) -> None:
    brief, removed = fleet.register("writer-0", hello=False, expires_in_s=0.3), fleet.register("writer-1")
    fleet.link.remove_instance("writer-1")
    assert get_self(removed).status == 401
    until(lambda: get_self(brief).status == 401)


def test_removing_an_instance_ends_its_connections_and_no_others(fleet: Fleet) -> None:
    writer, other = fleet.register("writer-0"), fleet.register("writer-1")
    polled: list[Reply | Exception] = []

    def poll() -> None:
        try:
            polled.append(writer.poll(wait_s=30))
        except OSError as error:
            polled.append(error)

    thread = threading.Thread(target=poll)
    with writer.connect() as idle, other.connect() as kept:
        for agent, connection in ((writer, idle), (other, kept)):
            connection.request("GET", "/api/hub/self", headers={"Authorization": f"Bearer {agent.token}"})
            assert read_reply(connection.getresponse()).status == 200
        thread.start()
        until(lambda: fleet.state()["instances"]["writer-0"]["polls"] == 1)
        fleet.link.remove_instance("writer-0")
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert idle.sock.recv(1) == b""
        kept.request("GET", "/api/hub/self", headers={"Authorization": f"Bearer {other.token}"})
        assert read_reply(kept.getresponse()).status == 200


def test_one_more_connection_than_an_instance_may_have_is_told_so(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    links = []
    try:
        for _ in range(256):
            links.append(writer.dial())
            links[-1].sendall(
                f"GET /api/hub/self HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {writer.token}\r\n\r\n".encode()
            )
            assert links[-1].recv(65536).startswith(b"HTTP/1.1 200 ")
        refused = get_self(writer)
        assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "rate_limited", "1")
    finally:
        for link in links:
            link.close()
    until(lambda: get_self(writer).status == 200)


# --- what comes on the wire -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /api/hub/self HTTP/1.1\r\nHost: hub\r\n\r\n",
        b"\x00" * 100,
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01\xff\xff" + b"x" * 99,
    ],
)
def test_what_is_not_tls_is_closed_and_nothing_is_answered(fleet: Fleet, sent: bytes) -> None:
    writer = fleet.register("writer-0")
    with socket.create_connection(("127.0.0.1", place(fleet).port), 60) as link:
        link.sendall(sent)
        try:
            answer = b"".join(iter(lambda: link.recv(4096), b""))
        except ConnectionResetError:
            answer = b""
    assert b"HTTP" not in answer
    assert get_self(writer).status == 200


def test_tls_older_than_1_2_is_refused(fleet: Fleet) -> None:
    context = ssl.create_default_context(cafile=str(place(fleet).ca_file))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", place(fleet).port), 60) as raw,
        pytest.raises(OSError, match=r"(?i)alert|reset|version|eof"),
    ):
        context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_tls_1_2_and_1_3_are_spoken(fleet: Fleet) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=str(place(fleet).ca_file))
        context.minimum_version = context.maximum_version = version
        raw = socket.create_connection(("127.0.0.1", place(fleet).port), 60)
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as link:
            assert link.version() == version.name.replace("_", ".")


def test_slow_handshakes_hold_nobody_up_and_are_bounded_by_where_they_come_from(fleet: Fleet) -> None:
    writer, near = fleet.register("writer-0"), fleet.register("reviewer-0", socket=True)
    with writer.connect() as established:
        established.request("GET", "/api/hub/self", headers={"Authorization": f"Bearer {writer.token}"})
        assert read_reply(established.getresponse()).status == 200
        slow = [socket.create_connection(("127.0.0.1", place(fleet).port), 60) for _ in range(PER_SOURCE)]
        try:
            for link in slow[::2]:
                link.sendall(b"\x16\x03\x01")
            one_more = socket.create_connection(("127.0.0.1", place(fleet).port), HANDSHAKE_S / 2)
            assert one_more.recv(1) == b"", "it was not closed before its handshake was due"
            one_more.close()
            other = socket.create_connection(("127.0.0.1", place(fleet).port), 60, source_address=("127.0.0.2", 0))
            context = ssl.create_default_context(cafile=str(place(fleet).ca_file))
            with context.wrap_socket(other, server_hostname="127.0.0.1") as link:
                link.sendall(f"GET /api/hub/self HTTP/1.1\r\nAuthorization: Bearer {writer.token}\r\n\r\n".encode())
                assert link.recv(4096).startswith(b"HTTP/1.1 200 ")
            established.request("GET", "/api/hub/self", headers={"Authorization": f"Bearer {writer.token}"})
            assert read_reply(established.getresponse()).status == 200
            assert get_self(near).status == 200
        finally:
            for link in slow:
                link.close()

    def is_let_in() -> bool:
        try:
            return get_self(writer).status == 200
        except OSError:
            return False

    until(is_let_in)


# --- the port and its certificate -------------------------------------------------------------------------------------


def test_the_certificate_is_for_the_names_of_the_configuration_only(fleet: Fleet) -> None:
    for name in ("127.0.0.1", "hub.test"):
        place(fleet).dial(60, name=name).close()
    for name in ("127.0.0.2", "other.test"):
        with pytest.raises(ssl.SSLCertVerificationError):
            place(fleet).dial(60, name=name)
    fleet.configure(tls={**tls_entry(place(fleet).port), "names": ["other.test"]})
    place(fleet).dial(60, name="other.test").close()
    with pytest.raises(ssl.SSLCertVerificationError):
        place(fleet).dial(60, name="hub.test")


def test_another_fleets_authority_does_not_vouch_for_this_router(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    open_authority(tmp_path / "other", "other", datetime.now(UTC))
    with pytest.raises(ssl.SSLCertVerificationError):
        TlsPlace(port=place(fleet).port, ca_file=tmp_path / "other" / "tls" / "ca.crt").dial(60)


def test_a_swap_of_anything_else_leaves_port_and_connections_alone(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    with writer.connect() as connection, place(fleet).dial(60) as stranger:
        for revision in ("rev1", "rev2"):
            fleet.configure(revision=revision)
            connection.request("GET", "/api/hub/self", headers={"Authorization": f"Bearer {writer.token}"})
            assert read_reply(connection.getresponse()).body["revision"] == revision
        stranger.sendall(f"GET /api/hub/self HTTP/1.1\r\nAuthorization: Bearer {writer.token}\r\n\r\n".encode())
        assert stranger.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_another_port_keeps_the_connections_of_instances_and_drops_strangers(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    before = place(fleet).port
    with writer.connect() as connection, place(fleet).dial(60) as stranger:
        headers = {"Authorization": f"Bearer {writer.token}"}
        connection.request("GET", "/api/hub/self", headers=headers)
        assert read_reply(connection.getresponse()).status == 200
        fleet.tls_port = free_port()
        fleet.configure(tls=tls_entry(fleet.tls_port))
        connection.request("GET", "/api/hub/self", headers=headers)
        assert read_reply(connection.getresponse()).status == 200
        assert stranger.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        get_self(writer)
    writer.tls = fleet.tls
    assert get_self(writer).status == 200
    assert before != fleet.tls_port


def test_without_the_section_nobody_listens(fleet: Fleet) -> None:
    fleet.configure(tls=None)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", place(fleet).port), 60)


def test_a_port_that_is_taken_is_refused_all_else_is_in_force_and_it_is_taken_when_it_is_free(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        fleet.tls_port = taken.getsockname()[1]
        with pytest.raises(RefusedByRouterError, match=r"config: tls: 127\.0\.0\.1 port .*in use"):
            fleet.configure(tls=tls_entry(fleet.tls_port), revision="rev9")
        assert fleet.report().config_digest == ""
        near = fleet.register("reviewer-0", socket=True)
        assert get_self(near).body["revision"] == "rev9"
    until(lambda: fleet.report().config_digest == fleet.config["digest"])
    writer.tls = fleet.tls
    assert get_self(writer).status == 200


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"host": "127.0.0.1", "port": 0, "names": ["a"]}, r"\$\.tls\.port"),
        ({"host": "127.0.0.1", "port": 70000, "names": ["a"]}, r"\$\.tls\.port"),
        ({"host": "127.0.0.1", "port": 8421, "names": []}, r"\$\.tls\.names"),
        ({"host": "127.0.0.1", "port": 8421}, "names"),
        ({"host": "192.0.2.1", "port": 8421, "names": ["a"]}, "config: tls: 192.0.2.1 port 8421: .*assign"),
        ({"host": "no address", "port": 8421, "names": ["a"]}, "config: tls: no address"),
        (
            {"host": "127.0.0.1", "port": 8421, "names": ["h\N{LATIN SMALL LETTER U WITH DIAERESIS}b"]},
            "config: tls: 127",
        ),
    ],
)
def test_a_section_that_cannot_be_is_refused(fleet: Fleet, entry: dict[str, object], named: str) -> None:
    with pytest.raises(RefusedByRouterError, match=named):
        fleet.configure(tls=entry)


# --- the life of the process ------------------------------------------------------------------------------------------


@pytest.fixture
def own(fleet: Fleet, start_fleet: Callable[[], Fleet]) -> Callable[[], Fleet]:
    """Starts a router of the test's own on a port of its own."""
    del fleet
    port = free_port()

    def start() -> Fleet:
        made = start_fleet()
        made.tls_port = port
        made.configure(tls=tls_entry(port))
        return made

    return start


def test_after_a_restart_the_same_authority_vouches_for_a_new_key_on_the_same_port(own: Callable[[], Fleet]) -> None:
    fleet = own()
    writer, before = fleet.register("writer-0"), (fleet.data / "tls" / "ca.pem").read_bytes()
    with place(fleet).dial(60) as link:
        assert isinstance(link, ssl.SSLSocket)
        first = link.getpeercert(binary_form=True)
        fleet.link.stop()
        assert link.recv(1) == b""
    again = own()
    again.link.put_instance(
        "writer-0", {**instance_entry("writer", [(writer.token, time.time() + 60)]), "transport": "tls"}
    )
    assert get_self(writer).status == 200
    assert (again.data / "tls" / "ca.pem").read_bytes() == before
    with place(again).dial(60) as link:
        assert isinstance(link, ssl.SSLSocket)
        assert link.getpeercert(binary_form=True) != first
    assert "Traceback" not in (again.data / "log" / "router.log").read_text()


def test_an_authority_that_is_damaged_is_refused_with_what_to_do(own: Callable[[], Fleet]) -> None:
    fleet = own()
    (fleet.data / "tls" / "ca.pem").write_text("nonsense")
    with pytest.raises(RefusedByRouterError, match="remove it to have another one made"):
        fleet.configure(tls={**tls_entry(place(fleet).port), "names": ["hub.test"]})
    (fleet.data / "tls" / "ca.pem").unlink()
    until(lambda: fleet.report().config_digest == fleet.config["digest"])
    place(fleet).dial(60, name="hub.test").close()


def test_no_key_of_the_server_is_ever_in_a_file(own: Callable[[], Fleet]) -> None:
    fleet = own()
    fleet.register("writer-0")
    keys = [p for folder in (fleet.run, fleet.data) for p in folder.rglob("*") if p.is_file()]
    assert [p.name for p in keys if b"PRIVATE KEY" in p.read_bytes()] == ["ca.pem"]
    assert (fleet.data / "tls").stat().st_mode & 0o077 == 0
