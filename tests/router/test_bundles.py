"""The bundle service of a real router: who gets the policies, when, and what OPA may post back."""

import gzip
import http.client
import io
import json
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from reconciler.policy.opa_process import start_opa, stop_opa
from tests.policy.opa_servers import need_opa
from tests.router.fleet import Fleet, Reply, read_reply, until

OPA: dict[str, Any] = {"rules": {"engines": ["opa", "builtin"]}, "opa": {}}
BUNDLE = "/bundles/hub.tar.gz"
TYPE = "application/vnd.openpolicyagent.bundles"


def policy(digest: str) -> dict[str, Any]:
    rego = 'package hub.message\nimport rego.v1\ndecision := {"allow": true}\n'
    return {"digest": digest, "modules": {"policies/m.rego": rego}, "data": {"hub": {"revision": digest}}}


def port_of(fleet: Fleet) -> int:
    return int((fleet.data / "opa" / "port").read_text())


def ask(
    fleet: Fleet,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[Reply, bytes]:
    """One call on the bundle service, with the token of the data directory or another."""
    token = (fleet.data / "opa" / "token").read_text() if token is None else token
    connection = http.client.HTTPConnection("127.0.0.1", port_of(fleet), timeout=120)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}", **(headers or {})})
        response = connection.getresponse()
        if response.status in (200, 304) and method == "GET":
            return Reply(status=response.status, body=None, headers=response.headers), response.read()
        return read_reply(response), b""
    finally:
        connection.close()


def revision_in(archive: bytes) -> str:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as files:
        return str(json.load(files.extractfile("/.manifest"))["revision"])  # type: ignore[arg-type]


@pytest.fixture
def served(start_fleet: Callable[[], Fleet]) -> Fleet:
    fleet = start_fleet()
    fleet.configure(**OPA, policy=policy("p1"))
    return fleet


def test_the_policies_in_force_are_served_with_a_tag(served: Fleet) -> None:
    reply, archive = ask(served, "GET", BUNDLE)
    assert (reply.status, reply.headers["Content-Type"], revision_in(archive)) == (200, TYPE, "p1")
    tag = reply.headers["ETag"]
    for known in (tag, f'"old", {tag}', f"{tag},"):
        again, body = ask(served, "GET", BUNDLE, headers={"If-None-Match": known})
        assert (again.status, again.headers["ETag"], body) == (304, tag, b"")
    other, _ = ask(served, "GET", BUNDLE, headers={"If-None-Match": '"old"', "Prefer": "modes=snapshot;wait=30"})
    assert other.status == 200


def test_a_long_poll_ends_with_the_next_policies(served: Fleet) -> None:
    tag = ask(served, "GET", BUNDLE)[0].headers["ETag"]
    found: list[tuple[Reply, bytes]] = []
    headers = {"If-None-Match": tag, "Prefer": "modes=snapshot,delta;wait=30"}
    waiting = threading.Thread(target=lambda: found.append(ask(served, "GET", BUNDLE, headers=headers)))
    waiting.start()
    served.configure(log={"retention_s": 5.0})
    assert waiting.is_alive(), "other changes do not concern OPA"
    served.configure(policy=policy("p2"))
    waiting.join(60)
    assert found[0][0].status == 200
    assert revision_in(found[0][1]) == "p2"


def test_a_long_poll_ends_when_its_time_is_over(served: Fleet) -> None:
    tag = ask(served, "GET", BUNDLE)[0].headers["ETag"]
    began = time.monotonic()
    reply, _ = ask(served, "GET", BUNDLE, headers={"If-None-Match": tag, "Prefer": "wait=1"})
    assert (reply.status, reply.headers["ETag"], reply.headers["Content-Type"]) == (304, tag, TYPE)
    assert time.monotonic() - began >= 0.99


@pytest.mark.parametrize("prefer", ["", "wait=", "wait=-1", "wait=x", "wait=1e9", "respond-async"])
def test_without_a_wait_nobody_waits(served: Fleet, prefer: str) -> None:
    tag = ask(served, "GET", BUNDLE)[0].headers["ETag"]
    assert ask(served, "GET", BUNDLE, headers={"If-None-Match": tag, "Prefer": prefer})[0].status == 304


def test_no_policies_any_more_is_a_bundle_too(served: Fleet) -> None:
    served.configure(policy=None)
    assert revision_in(ask(served, "GET", BUNDLE)[1]) == ""


def test_only_who_knows_the_token_gets_anything(served: Fleet) -> None:
    for token in ("", "x", "0" * 64, "é"):
        for method, path in (("GET", BUNDLE), ("POST", "/logs"), ("POST", "/status"), ("GET", "/nothing")):
            assert ask(served, method, path, b"[]" if method == "POST" else None, token=token)[0].status == 401
    assert ask(served, "GET", "/nothing")[0].status == 404
    assert ask(served, "PUT", BUNDLE, b"")[0].status == 404


def test_its_files_are_for_the_hub_alone(served: Fleet) -> None:
    folder = served.data / "opa"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()} == dict.fromkeys(
        ("config.yaml", "key", "port", "token"), 0o600
    )
    log = (served.data / "log" / "router.log").read_text()
    assert all((folder / name).read_text() not in log for name in ("key", "token"))


def test_it_listens_only_while_a_configuration_names_opa_and_on_this_host(served: Fleet) -> None:
    port = port_of(served)
    with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
        other.bind(("127.0.0.1", port))
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))
    served.configure(rules={"engines": ["builtin"]}, opa=None)
    with pytest.raises(ConnectionRefusedError):
        ask(served, "GET", BUNDLE)
    served.configure(**OPA)
    assert port_of(served) == port
    assert ask(served, "GET", BUNDLE)[0].status == 200


def test_the_next_router_has_the_same_port_and_secrets(served: Fleet, start_fleet: Callable[[], Fleet]) -> None:
    folder = served.data / "opa"
    before = {p.name: p.read_text() for p in folder.iterdir()}
    served.link.stop()
    again = start_fleet()
    again.configure(**OPA, policy=policy("p1"))
    assert {p.name: p.read_text() for p in folder.iterdir()} == before
    assert ask(again, "GET", BUNDLE)[0].status == 200


def test_a_port_that_another_took_is_left_to_it(served: Fleet, start_fleet: Callable[[], Fleet]) -> None:
    port = port_of(served)
    served.link.stop()
    with socket.create_server(("127.0.0.1", port)):
        again = start_fleet()
        again.configure(**OPA, policy=policy("p1"))
        assert port_of(again) != port
        assert f"http://127.0.0.1:{port_of(again)}" in (again.data / "opa" / "config.yaml").read_text()
        assert ask(again, "GET", BUNDLE)[0].status == 200


def test_a_router_that_cannot_serve_opa_routes_all_the_same(start_fleet: Callable[[], Fleet]) -> None:
    fleet = start_fleet()
    (fleet.data / "opa").write_text("in the way")
    fleet.configure(**OPA, policy=policy("p1"))
    assert "OPA gets no policies" in fleet.report().policy_fault
    writer, _ = fleet.register("writer-0"), fleet.register("reviewer-0")
    assert writer.send("review.note", to="reviewer").status == 202
    (fleet.data / "opa").unlink()
    fleet.configure(**OPA, policy=policy("p1"))
    assert ask(fleet, "GET", BUNDLE)[0].status == 200


def test_decisions_are_kept_and_what_is_none_is_refused(served: Fleet) -> None:
    packed = {"Content-Encoding": "gzip"}
    rows = [{"path": "hub/answer/message", "n": n} for n in range(3)]
    assert ask(served, "POST", "/logs", gzip.compress(json.dumps(rows).encode()), headers=packed)[0].status == 200
    assert ask(served, "POST", "/logs", json.dumps(rows[:1]).encode())[0].status == 200
    kept = (served.data / "log" / "opa-decisions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == [*rows, rows[0]]
    refused, _ = ask(served, "POST", "/logs", b'not "gzip"', headers=packed)
    assert (refused.status, refused.body["reason"][:24]) == (400, "the body is not gzip: Er")
    assert ask(served, "POST", "/logs", b"x" * (3 * 2**20), headers=packed)[0].status == 413
    assert ask(served, "POST", "/logs", headers={"Transfer-Encoding": "chunked"}, body=b"")[0].status == 413


def test_a_status_explains_why_opa_is_not_ready(served: Fleet) -> None:
    bundle = {"name": "hub", "code": "bundle_error", "message": "it is odd"}
    assert ask(served, "POST", "/status", json.dumps({"bundles": {"hub": bundle}}).encode())[0].status == 200
    assert served.report().policy_fault == "opa: OPA does not take the policies: it is odd"
    assert "policy" in served.link.wait_hint(60)
    assert ask(served, "POST", "/status", b"{}")[0].status == 200
    assert served.report().policy_fault == ""
    assert ask(served, "POST", "/status", b"no")[0].status == 400


def test_sigterm_answers_those_who_wait(served: Fleet) -> None:
    tag = ask(served, "GET", BUNDLE)[0].headers["ETag"]
    found: list[int] = []

    def wait() -> None:
        found.append(ask(served, "GET", BUNDLE, headers={"If-None-Match": tag, "Prefer": "wait=100"})[0].status)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: lines_of(served) > 0)
    began = time.monotonic()
    served.link.stop()
    waiting.join(60)
    assert found == [503]
    assert time.monotonic() - began < 60


def lines_of(fleet: Fleet) -> int:
    """Connections to the bundle service, by what the system says."""
    port = f":{port_of(fleet):04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:
        return sum(1 for line in table if line.split()[1].endswith(port) and line.split()[3] == "01")


# --- with a real OPA --------------------------------------------------------------------------------------------------


def test_a_real_opa_gets_them_again_after_each_restart_while_nobody_looks_after_the_router(served: Fleet) -> None:
    program = need_opa()
    try:
        for _ in range(2):
            start_opa(served.run, served.data, program)
            until(lambda: served.state()["policy"]["engine"] == "opa")
            stop_opa(served.run)
            until(lambda: served.state()["policy"]["engine"] != "opa")
    finally:
        stop_opa(served.run)


def test_a_real_opa_logs_its_decisions_and_takes_no_foreign_bundle(served: Fleet) -> None:
    program = need_opa()
    writer, _ = served.register("writer-0"), served.register("reviewer-0")
    config = served.data / "opa" / "config.yaml"
    right = config.read_text()
    try:
        config.write_text(right.replace((served.data / "opa" / "key").read_text(), "0" * 64))
        start_opa(served.run, served.data, program)
        until(lambda: "signature" in served.report().policy_fault)
        config.write_text(right)
        start_opa(served.run, served.data, program)
        until(lambda: served.state()["policy"]["engine"] == "opa")
        assert writer.send("review.note", to="reviewer").status == 202
        decisions = served.data / "log" / "opa-decisions.jsonl"
        until(lambda: decisions.exists() and '"review.note"' in decisions.read_text(), timeout_s=60)
    finally:
        stop_opa(served.run)
    (row,) = [r for line in decisions.read_text().splitlines() if "review.note" in str(r := json.loads(line))]
    assert row["bundles"] == {"hub": {"revision": "p1"}}
    assert row["result"] == {"decision": {"allow": True}, "revision": "p1"}
