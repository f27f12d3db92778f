"""Addresses of repositories: which are taken, and what is said of the others."""

import pytest

from reconciler.core.origin import is_remote, parse_origin


@pytest.mark.parametrize(
    ("text", "scheme", "server"),
    [
        ("https://forge.example.org/team/fleet.git", "https", "https://forge.example.org"),
        ("https://forge.example.org:8443/team/fleet", "https", "https://forge.example.org:8443"),
        ("http://127.0.0.1:3000/fleet.git", "http", "http://127.0.0.1:3000"),
        ("http://[::1]:3000/fleet.git", "http", "http://[::1]:3000"),
        ("ssh://git@forge.example.org:2222/team/fleet.git", "ssh", "ssh://forge.example.org:2222"),
        ("git@forge.example.org:team/fleet.git", "ssh", "ssh://forge.example.org"),
        ("file:///srv/fleet.git", "file", ""),
    ],
)
def test_what_is_taken(text: str, scheme: str, server: str) -> None:
    assert is_remote(text)
    origin = parse_origin(text)
    assert (origin.url, origin.scheme, origin.server) == (text, scheme, server)


@pytest.mark.parametrize(
    "text",
    [
        "ext::sh -c touch% /tmp/x",
        "fd::3",
        "git://forge.example.org/fleet.git",
        "http://forge.example.org/fleet.git",
        "ftp://forge.example.org/fleet.git",
        "ssh://-oProxyCommand=x/fleet",
        "ssh://git@-x/fleet",
        "https:///fleet.git",
        "https://forge.example.org",
        "https://forge.example.org/fleet\n.git",
        "https://forge.example.org/fleet.git?x=1",
        "https://forge.example.org/fleet.git#x",
        "https://token@forge.example.org/fleet.git",
        "file://host/srv/fleet.git",
        "git@forge.example.org:-x",
        "HTTPS://forge.example.org/fleet.git",
    ],
)
def test_what_is_refused(text: str) -> None:
    assert is_remote(text)
    with pytest.raises(ValueError, match=r"write|put|dash"):
        parse_origin(text)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="has a password in it") as caught:
        parse_origin("https://ada:hunter2@forge.example.org/fleet.git")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", [".", "/srv/fleet.git", "fleet", "../fleet", "C:fleet"])
def test_a_directory_is_no_remote(text: str) -> None:
    assert not is_remote(text)
