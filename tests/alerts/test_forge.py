"""Commit statuses at each forge: what its API takes, what is told again, and that the token stays secret."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.alerts.forge import ForgeSink, shorten
from reconciler.alerts.sink import Sent
from tests.alerts.forges import TOKEN, Forge, Status, forge

SHA = "0123456789abcdef0123456789abcdef01234567"
KINDS = ["github", "gitlab", "gitea"]


@pytest.fixture(params=KINDS)
def at(request: pytest.FixtureRequest) -> Iterator[Forge]:
    with forge(request.param) as made:
        yield made


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def document(state: str = "success", description: str = "fine", link: str = "") -> bytes:
    said = {"id": "1", "sha": SHA, "state": state, "description": description, "context": "reconciler/x", "link": link}
    return json.dumps(said).encode()


def send(at: Forge, token: Path, **said: Any) -> Sent:
    return ForgeSink(at.settings(str(token), timeout="5s")).send(document(**said))


def test_each_state_is_set_in_the_forge_s_own_words(at: Forge, token: Path) -> None:
    for state in ("pending", "success", "failure", "pending", "superseded"):
        assert send(at, token, state=state) == Sent()
    words = {
        "github": ["pending", "success", "failure", "pending", "error"],
        "gitlab": ["pending", "success", "failed", "pending", "canceled"],
        "gitea": ["pending", "success", "failure", "pending", "error"],
    }
    assert at.states(SHA) == words[at.kind]


def test_a_status_has_context_description_and_link(at: Forge, token: Path) -> None:
    assert send(at, token, link="https://hub.example.org/x") == Sent()
    assert send(at, token) == Sent()
    assert at.statuses == [
        Status(SHA, "success", "fine", "reconciler/x", "https://hub.example.org/x"),
        Status(SHA, "success", "fine", "reconciler/x"),
    ]


def test_a_description_is_cut_to_what_the_forge_takes(at: Forge, token: Path) -> None:
    assert send(at, token, state="failure", description="a\nb " + "ü" * 500 + "\U0001f4a5") == Sent()
    (said,) = at.statuses
    assert len(said.description) == {"github": 140, "gitlab": 255, "gitea": 255}[at.kind]
    assert said.description.endswith("ü…")
    assert "\n" not in said.description


@pytest.mark.parametrize(
    ("text", "most", "line"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("a b c", 3, "a…"),
        (" a\n\tb ", 9, "a b"),
        ("", 9, ""),
        ("\U0001f4a5", 9, "\ufffd"),
    ],
)
def test_a_line_is_never_longer_than_allowed(text: str, most: int, line: str) -> None:
    assert shorten(text, most) == line


def test_a_state_that_is_sent_twice_counts_as_arrived(at: Forge, token: Path) -> None:
    """A hub that is killed when a status arrives sends it again."""
    assert [send(at, token, state="pending") for _ in range(2)] == [Sent(), Sent()]


@pytest.mark.parametrize("status", [401, 403, 408, 409, 429, 500, 502, 301])
def test_what_may_pass_or_be_mended_is_not_final(at: Forge, token: Path, status: int) -> None:
    at.trouble = lambda _n: status
    sent = send(at, token)
    assert sent.fault.startswith(f"it answered {status}")
    assert not sent.is_final


def test_a_commit_that_the_forge_does_not_know_is_final(at: Forge, token: Path) -> None:
    at.lacks.add(SHA)
    assert send(at, token).is_final


def test_another_400_of_gitlab_is_a_fault(token: Path) -> None:
    with forge("gitlab") as at:
        at.trouble = lambda _n: 400
        assert send(at, token) == Sent(fault="it answered 400", is_final=True)


def test_the_token_is_read_each_time_so_that_it_can_be_changed(at: Forge, token: Path) -> None:
    token.unlink()
    assert send(at, token).fault == "its tokenFile or caFile cannot be read: No such file or directory"
    token.write_text("wrong")
    assert send(at, token).fault == "it answered 401: the token is not accepted"
    token.write_text(TOKEN)
    assert send(at, token) == Sent()


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff\xfe", "für".encode()])
def test_a_file_that_holds_no_token_is_a_fault_that_does_not_show_it(content: bytes, token: Path) -> None:
    token.write_bytes(content)
    with forge("github") as at:
        sent = send(at, token)
        assert sent.fault
        assert "lines" not in sent.fault
        assert (sent.is_final, at.requests) == (False, 0)


def test_no_fault_and_no_text_of_the_settings_holds_the_token(at: Forge, token: Path) -> None:
    faults = [send(at, token).fault]
    for status in (400, 401, 403, 404, 422, 500):
        at.trouble = lambda _n, status=status: status  # type: ignore[misc]
        faults.append(send(at, token).fault)
    faults.append(repr(at.settings(str(token))))
    assert TOKEN not in "".join(faults)


def test_a_forge_that_is_gone_is_a_fault(token: Path) -> None:
    with forge("gitea") as at:
        settings = at.settings(str(token))
    sent = ForgeSink(settings).send(document())
    assert sent == Sent(fault="no answer within 10s (ConnectionRefusedError)")
