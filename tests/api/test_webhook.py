"""What makes the hub ask its repository, and what does not."""

import hashlib
import hmac
import http.client
import select
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reconciler.api import webhook
from reconciler.api.tries import TRIES, Tries
from reconciler.api.webhook import MAX_BODY, MAX_CONNECTIONS, Seen, WebhookServer
from reconciler.errors import UsageError
from reconciler.settings_source import Forge, SourceWebhook
from tests.router.fleet import free_port
from tests.source.remotes import await_that

SECRET = b"correct horse"
BODY = b'{"ref": "refs/heads/main", "after": "nobody believes this"}'


@dataclass
class Door:
    """A listener for one forge, and how often the hub was told to ask."""

    settings: SourceWebhook
    asked: list[int] = field(default_factory=list)

    def post(self, body: bytes, headers: Mapping[str, str], path: str = "") -> int:
        at = self.settings.listens_at
        connection = http.client.HTTPConnection(at.host, at.port, timeout=120)
        try:
            connection.request("POST", path or f"/webhooks/{self.settings.forge}", body, dict(headers))
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(params=["github", "gitea", "gitlab"])
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    yield from opened(request.param, tmp_path)


@pytest.fixture
def github(tmp_path: Path) -> Iterator[Door]:
    yield from opened("github", tmp_path)


def opened(forge: Forge, folder: Path) -> Iterator[Door]:
    (folder / "secret").write_bytes(SECRET + b"\n")
    listen = f"tcp://127.0.0.1:{free_port()}"
    made = Door(SourceWebhook.model_validate({"forge": forge, "listen": listen, "secretFile": f"{folder}/secret"}))
    server = WebhookServer(made.settings, lambda: made.asked.append(1))
    server.start()
    yield made
    server.stop()


def signed(forge: str, body: bytes, delivery: str, secret: bytes = SECRET) -> dict[str, str]:
    """The headers that the forge would send."""
    digest = hmac.new(secret, body, hashlib.sha256).hexdigest()
    match forge:
        case "github":
            return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": delivery}
        case "gitea":
            return {"X-Gitea-Signature": digest, "X-Gitea-Delivery": delivery}
        case _:
            return {"X-Gitlab-Token": secret.decode(), "X-Gitlab-Event-UUID": delivery}


def test_a_signed_push_makes_the_hub_ask(door: Door) -> None:
    forge = door.settings.forge
    assert door.post(BODY, signed(forge, BODY, "1")) == 202
    assert len(door.asked) == 1


def test_what_is_not_signed_as_the_forge_does_is_refused(door: Door) -> None:
    forge = door.settings.forge
    wrong: list[Mapping[str, str]] = [{}, signed(forge, BODY, "1", b"wrong"), {"Authorization": "Basic eDp5"}]
    wrong += [dict.fromkeys(signed(forge, BODY, "1"), "")]
    if forge != "gitlab":
        wrong.append(signed(forge, BODY + b" ", "1"))
        wrong.append({"X-Hub-Signature-256": "sha1=0", "X-Gitea-Signature": "0"})
    assert [door.post(BODY, headers) for headers in wrong] == [401] * len(wrong)
    assert door.asked == []


def test_a_delivery_counts_once_by_its_id_and_by_its_content(door: Door) -> None:
    forge = door.settings.forge
    for body, delivery in ((BODY, "1"), (BODY, "1"), (BODY, "2"), (BODY + b" ", "1")):
        assert door.post(body, signed(forge, body, delivery)) == 202
    assert len(door.asked) == 1
    assert door.post(BODY + b"  ", signed(forge, BODY + b"  ", "3")) == 202
    assert len(door.asked) == 2


def test_there_is_one_path_for_one_forge(github: Door) -> None:
    headers = signed("github", BODY, "1")
    assert github.post(BODY, headers, "/webhooks/gitlab") == 404
    assert github.post(BODY, headers, "/api/v1/down") == 404
    assert github.asked == []


def test_a_flood_of_forgeries_is_turned_away_before_it_is_read(github: Door) -> None:
    forged = signed("github", BODY, "1", b"wrong")
    answers = [github.post(BODY, forged) for _ in range(int(TRIES) + 100)]
    assert answers.count(401) >= TRIES
    assert 429 in answers
    assert set(answers) == {401, 429}
    assert github.asked == []


def test_good_requests_use_up_nothing(github: Door) -> None:
    bodies = [BODY + b" " * n for n in range(int(TRIES) * 3)]
    answers = [github.post(body, signed("github", body, str(n))) for n, body in enumerate(bodies)]
    assert set(answers) == {202}


def test_a_body_that_is_too_long_is_refused_without_being_kept(github: Door) -> None:
    at = github.settings.listens_at
    with socket.create_connection((at.host, at.port), timeout=120) as raw:
        raw.sendall(b"POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY * 2))
        with pytest.raises((ConnectionError, BrokenPipeError)):
            for _ in range(2 * MAX_BODY // 2**20 + 64):
                raw.sendall(b"x" * 2**20)
    assert github.asked == []


def test_an_endless_head_ends_the_connection(github: Door) -> None:
    at = github.settings.listens_at
    with socket.create_connection((at.host, at.port), timeout=120) as raw:
        raw.sendall(b"POST /webhooks/github HTTP/1.1\r\n")
        with pytest.raises((ConnectionError, BrokenPipeError)):
            for n in range(100_000):
                raw.sendall(b"X-%d: %s\r\n" % (n, b"x" * 1000))


def test_connections_that_say_nothing_do_not_add_up(github: Door) -> None:
    at = github.settings.listens_at
    idle = [socket.create_connection((at.host, at.port), timeout=120) for _ in range(MAX_CONNECTIONS + 5)]
    try:
        await_that(lambda: len(_ended(idle)) >= 5)
        assert _ended(idle) == idle[MAX_CONNECTIONS:]
    finally:
        for connection in idle:
            connection.close()


def _ended(connections: list[socket.socket]) -> list[socket.socket]:
    """Those that were closed at the other side: nothing else could be read of them."""
    return select.select(connections, [], [], 0)[0]


def test_a_secret_is_read_at_use_and_none_lets_nobody_in(github: Door) -> None:
    secret = Path(github.settings.secret_file)
    secret.write_bytes(b"\n")
    assert github.post(BODY, signed("github", BODY, "1", b"")) == 503
    secret.unlink()
    assert github.post(BODY, signed("github", BODY, "1", b"")) == 503
    secret.write_bytes(b"another")
    assert github.post(BODY, signed("github", BODY, "1", b"another")) == 202
    assert len(github.asked) == 1


def test_an_address_in_use_is_said_so(github: Door) -> None:
    with pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.1:"):
        WebhookServer(github.settings, lambda: None).start()


def test_tries_come_back_with_time_and_callers_are_forgotten() -> None:
    now = [0.0]
    tries = Tries(lambda: now[0])
    assert [tries.take("a") for _ in range(int(TRIES) + 1)] == [True] * int(TRIES) + [False]
    assert tries.take("b")
    now[0] = 1.0
    assert [tries.take("a"), tries.take("a")] == [True, False]
    for n in range(2 * webhook._KEPT):
        tries.take(str(n))
    assert len(tries._left) == webhook._KEPT


def test_only_the_latest_deliveries_are_remembered() -> None:
    seen = Seen()
    assert seen.is_new("a", "b")
    assert not seen.is_new("b", "c")
    for n in range(3 * webhook._KEPT):
        seen.is_new(str(n))
    assert len(seen._keys) == 2 * webhook._KEPT
