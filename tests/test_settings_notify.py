"""The section `commitStatus` of `operator.yaml`: what it takes, and what it says of what it does not take."""

from typing import Any

import pytest
from pydantic import ValidationError

from reconciler.settings import OperatorSpec
from reconciler.settings_notify import CommitStatus


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
        ({"url": "https://user:pass@git.example.org"}, "no address"),
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
