"""`commitStatus` and the sinks of `operator.yaml`: what is taken, and what is said of what is not."""

from typing import Any

import pytest
from pydantic import ValidationError

from reconciler.settings import OperatorSpec
from reconciler.settings_notify import CommitStatus, Smtp


def section(**more: Any) -> dict[str, Any]:
    return {"forge": "github", "project": "octo/fleet", "tokenFile": "/etc/token", **more}


@pytest.mark.parametrize(
    ("more", "address"),
    [
        ({}, "https://api.github.com"),
        ({"url": "https://ghe.example.org/api/v3/"}, "https://ghe.example.org/api/v3"),
        ({"forge": "gitlab"}, "https://gitlab.com"),
        ({"forge": "gitlab", "project": "a/b/c", "url": "https://example.org/gitlab"}, "https://example.org/gitlab"),
        ({"forge": "gitlab", "project": "4711"}, "https://gitlab.com"),
        ({"forge": "gitea", "url": "http://127.0.0.1:3000"}, "http://127.0.0.1:3000"),
        ({"link": "https://hub.example.org/{fleet}?rev={revision}"}, "https://api.github.com"),
    ],
)
def test_what_it_takes(more: dict[str, Any], address: str) -> None:
    assert CommitStatus.model_validate(section(**more)).address == address


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"forge": "gitea"}, "does not say where gitea is"),
        ({"forge": "bitbucket"}, "github"),
        ({"project": "fleet"}, "write owner/repository"),
        ({"project": "a/b/c"}, "write owner/repository"),
        ({"project": "4711"}, "write owner/repository"),
        ({"project": "../admin"}, "write owner/repository"),
        ({"project": "octo/fleet?x=1"}, "write owner/repository"),
        ({"forge": "gitlab", "project": "fleet"}, "write group/project or its number"),
        ({"url": "http://git.example.org"}, "would carry the token in clear text"),
        ({"url": "https://user:pass@git.example.org"}, "is no address of a forge"),
        ({"tokenFile": "token"}, "tokenFile"),
        ({"token": "secret"}, "token"),
        ({"link": "javascript:alert(1)"}, "is no URL"),
        ({"link": "https://hub.example.org/{commit}"}, "is no URL"),
        ({"context": ""}, "context"),
        ({"settle": "-1s"}, "settle"),
    ],
)
def test_what_it_refuses(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as found:
        CommitStatus.model_validate(section(**more))
    assert message in str(found.value)


def test_no_sink_for_alerts_can_have_its_name() -> None:
    with pytest.raises(ValidationError, match="'forge' is there without being defined"):
        OperatorSpec.model_validate({"sinks": {"forge": {"command": {"argv": ["/bin/true"]}}}})


def mail(**more: Any) -> dict[str, Any]:
    return {"server": "mail.example.org", "from": "hub@example.org", "to": ["ops@example.org"], **more}


@pytest.mark.parametrize(
    ("more", "address"),
    [
        ({}, ("mail.example.org", 587)),
        ({"security": "tls"}, ("mail.example.org", 465)),
        ({"server": "mail.example.org:2525"}, ("mail.example.org", 2525)),
        ({"server": "[2001:db8::1]"}, ("2001:db8::1", 587)),
        ({"server": "[::1]:25", "security": "none"}, ("::1", 25)),
        ({"server": "localhost", "security": "none"}, ("localhost", 25)),
        ({"user": "hub", "passwordFile": "/etc/password"}, ("mail.example.org", 587)),
    ],
)
def test_which_mail_servers_it_takes(more: dict[str, Any], address: tuple[str, int]) -> None:
    smtp = Smtp.model_validate(mail(**more))
    assert (smtp.address.host, smtp.address.port) == address


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"server": "mail.example.org/x"}, "is no mail server"),
        ({"server": "mail.example.org:0"}, "is no mail server"),
        ({"server": "mail.example.org:99999"}, "is no mail server"),
        ({"server": "user:secret@mail.example.org"}, "is no mail server"),
        ({"security": "none"}, "is not this host"),
        ({"user": "hub"}, "needs user and passwordFile"),
        ({"passwordFile": "/etc/password"}, "needs user and passwordFile"),
        ({"password": "secret"}, "password"),
        ({"to": []}, "to"),
        ({"to": ["a@example.org\nBcc: b@example.org"]}, "control character"),
        ({"from": "Hub <hub@example.org>"}, "from"),
    ],
)
def test_which_mail_servers_it_refuses(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as found:
        Smtp.model_validate(mail(**more))
    assert message in str(found.value)


def test_what_is_refused_does_not_repeat_what_may_be_secret() -> None:
    wrong = [
        section(url="https://user:planted@git.example.org"),
        section(url="http://git.example.org/planted"),
        section(link="https://hub.example.org/{planted}"),
        mail(server="user:planted@mail.example.org"),
    ]
    for asked in wrong:
        with pytest.raises(ValidationError) as found:
            (Smtp if "server" in asked else CommitStatus).model_validate(asked)
        assert not [e["msg"] for e in found.value.errors() if "planted" in e["msg"]]


def test_urls_of_apprise_are_in_a_file_and_nowhere_else() -> None:
    for wrong in ({"urlsFile": "urls"}, {"urls": ["slack://secret"]}):
        with pytest.raises(ValidationError):
            OperatorSpec.model_validate({"sinks": {"x": {"apprise": wrong}}})
