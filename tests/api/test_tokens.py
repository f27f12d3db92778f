"""Who gets in by a token: whoever shows one that the file has, as long as the file has it."""

import hashlib
import os
from pathlib import Path

import pytest
from starlette.requests import Request

from reconciler.api.access import RIGHTS, Access, RefusedRequest, Right, Role, by_peer, require
from reconciler.api.tokens import ByToken, Tokens, parse_tokens
from reconciler.api.tries import TRIES, Tries

ADA, BOB, EVE = ("ada-" + "a" * 40, "bob-" + "b" * 40, "eve-" + "e" * 40)
NOW_S = 1_800_000_000.0


def entry(token: str, name: str, role: str = "viewer", **more: str) -> str:
    fields = {"name": name, "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest(), **more}
    return "  - {" + ", ".join(f'{key}: "{value}"' for key, value in fields.items()) + "}\n"


def text(*entries: str) -> str:
    return "tokens:\n" + "".join(entries) if entries else "tokens: []\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "tokens.yaml"
    write(found, text(entry(ADA, "ada", "operator"), entry(BOB, "bob")))
    return found


def write(file: Path, content: str) -> None:
    file.with_suffix(".new").write_text(content)
    file.with_suffix(".new").chmod(0o600)
    file.with_suffix(".new").rename(file)


def request(header: str | None, host: str = "192.0.2.1") -> Request:
    headers = [(b"authorization", header.encode())] if header is not None else []
    return Request({"type": "http", "headers": headers, "client": (host, 1)})


def opened(file: Path) -> ByToken:
    return ByToken(Tokens(str(file)), Tries(lambda: 0.0), lambda: NOW_S)


def refusal(by_token: ByToken, header: str | None, host: str = "192.0.2.1") -> RefusedRequest:
    with pytest.raises(RefusedRequest) as refused:
        by_token(request(header, host))
    return refused.value


def test_a_token_is_its_name_and_its_role(file: Path) -> None:
    by_token = opened(file)
    assert by_token(request(f"Bearer {ADA}")) == Access("token:ada", Role.OPERATOR)
    assert by_token(request(f"bearer {BOB}")) == Access("token:bob", Role.VIEWER)
    assert not by_token.refused


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", f"Basic {ADA}", ADA, f"Bearer {EVE}", f"Bearer {ADA}x", "Bearer ü"]
)
def test_whoever_shows_no_token_or_another_is_refused_with_a_challenge(file: Path, header: str | None) -> None:
    found = refusal(opened(file), header)
    assert (found.status, found.headers) == (401, {"www-authenticate": 'Bearer realm="reconciler"'})


def test_its_hash_is_no_token(file: Path) -> None:
    assert refusal(opened(file), f"Bearer {hashlib.sha256(ADA.encode()).hexdigest()}").status == 401


def test_a_token_ends_when_it_expires(file: Path) -> None:
    write(
        file, text(entry(ADA, "ada", expires="2027-01-15T08:00:00Z"), entry(BOB, "bob", expires="2027-01-15T08:00:01Z"))
    )
    by_token = opened(file)
    assert refusal(by_token, f"Bearer {ADA}").status == 401
    assert by_token(request(f"Bearer {BOB}")).subject == "token:bob"
    assert by_token.refused == {"expired": 1}


def test_what_is_taken_out_of_the_file_is_over_at_once_and_what_is_new_counts(file: Path) -> None:
    by_token = opened(file)
    by_token(request(f"Bearer {ADA}"))
    write(file, text(entry(BOB, "bob", "auditor"), entry(EVE, "eve")))
    assert refusal(by_token, f"Bearer {ADA}").status == 401
    assert by_token(request(f"Bearer {BOB}")).role == Role.AUDITOR
    assert by_token(request(f"Bearer {EVE}")).subject == "token:eve"


def test_a_file_that_is_broken_gone_or_open_to_others_lets_nobody_in(file: Path) -> None:
    tokens = Tokens(str(file))
    by_token = ByToken(tokens, Tries(lambda: 0.0), lambda: NOW_S)
    good = file.read_text()
    assert tokens.faults() == []
    for spoil, said in (
        (lambda: write(file, good + "  - {name: x\n"), "tokens.yaml:"),
        (lambda: (write(file, good), file.chmod(0o666)), "may be written by others"),
        (file.unlink, "cannot be read: No such file"),
    ):
        spoil()
        assert refusal(by_token, f"Bearer {ADA}").status in (401, 429)
        ((type_, _, message),) = tokens.faults()
        assert type_ == "TokensUnusable"
        assert said in message
    write(file, good)
    assert by_token(request(f"Bearer {ADA}")).subject == "token:ada"
    assert tokens.faults() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (text(entry(ADA, "ada"), entry(BOB, "ada")), "has the name ada twice"),
        (text(entry(ADA, "ada"), entry(ADA, "bob")), "has the sha256 twice"),
        (text(entry(ADA, "ada", "root")), "viewer"),
        (text(entry(ADA, "ada", expires="tomorrow")), "write a time with a zone"),
        (text(entry(ADA, "ada", expires="2027-01-15T08:00:00")), "write a time with a zone"),
        (text(entry(ADA, "Ada Lovelace")), "name"),
        ("tokens:\n  - {name: ada, role: viewer}\n", "sha256"),
        (f'tokens:\n  - {{name: ada, role: viewer, sha256: "{ADA}"}}\n', "is no SHA-256 in hex"),
        ("tokens: []\nmore: 1\n", "more"),
        ("", "must hold one"),
        ("a: 1\n---\nb: 2\n", "must hold one"),
        ("- 1\n", ""),
    ],
)
def test_what_is_wrong_with_the_file_is_said_with_its_place_and_without_a_token(content: str, said: str) -> None:
    tokens, problems = parse_tokens(content.encode(), "/etc/tokens.yaml")
    shown = "\n".join(str(p) for p in problems)
    assert (tokens, bool(problems)) == ((), True)
    assert said in shown
    assert shown.startswith("/etc/tokens.yaml")
    assert ADA not in shown
    assert hashlib.sha256(ADA.encode()).hexdigest() not in shown


def test_what_is_short_enough_to_be_guessed_is_no_token(file: Path) -> None:
    write(file, text(entry("secret", "weak"), entry("x" * 31, "short"), entry("x" * 32, "enough")))
    by_token = opened(file)
    assert refusal(by_token, "Bearer secret").status == 401
    assert refusal(by_token, f"Bearer {'x' * 31}").status == 401
    assert by_token(request(f"Bearer {'x' * 32}")).subject == "token:enough"


def test_guesses_from_an_address_are_few_and_do_not_lock_others_out(file: Path) -> None:
    by_token = opened(file)
    found = [refusal(by_token, f"Bearer {EVE}{n}") for n in range(int(TRIES) + 5)]
    assert [r.status for r in found] == [401] * int(TRIES) + [429] * 5
    assert found[-1].headers == {"retry-after": "1"}
    assert by_token(request(f"Bearer {ADA}")).subject == "token:ada"
    assert refusal(by_token, None, "192.0.2.2").status == 401
    assert by_token.refused == {"unknown": TRIES, "limited": 5, "missing": 1}


def test_a_role_has_its_rights_and_no_other() -> None:
    assert RIGHTS[Role.VIEWER] == {Right.READ}
    assert RIGHTS[Role.OPERATOR] == {Right.READ, Right.ACT}
    assert RIGHTS[Role.AUDITOR] == {Right.READ, Right.AUDIT}
    for role, rights in RIGHTS.items():
        for right in Right:
            if right in rights:
                require(Access("token:x", role), right)
                continue
            with pytest.raises(RefusedRequest, match=f"token:x is {role}, and this needs") as refused:
                require(Access("token:x", role), right)
            assert refused.value.status == 403


def test_the_socket_is_for_root_and_the_hub_s_own_user() -> None:
    me = os.geteuid()
    for host in ("uid:0", f"uid:{me}"):
        assert by_peer(request(None, host)) == Access(host, Role.OWNER)
    for host in (f"uid:{me + 1}", "uid:", "127.0.0.1", ""):
        with pytest.raises(RefusedRequest) as refused:
            by_peer(request(None, host))
        assert refused.value.status == 403
