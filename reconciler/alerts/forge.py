"""The sink of commit statuses: GitHub, GitLab, and Gitea or Forgejo, each by its own API.

A document is JSON with `sha`, `state` (of `core/standing.py`), `description`, `context` and `link`. GitLab refuses a
state that the commit has already; that counts as arrived, since a hub that was killed sends again what it cannot know
to have arrived. The token is read for each request, and is no part of any fault.
"""

import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reconciler.alerts.post import Answer, post
from reconciler.alerts.sink import Sent
from reconciler.core.standing import Standing
from reconciler.settings_notify import CommitStatus

_STATES: Mapping[str, Mapping[str, str]] = {
    "github": {"superseded": "error"},
    "gitea": {"superseded": "error"},
    "gitlab": {"failure": "failed", "superseded": "canceled"},
}
"""What a forge calls a state, where it is not our word."""
_MOST_CHARACTERS: Mapping[str, int] = {"github": 140, "gitlab": 255, "gitea": 255}
"""Of a description: what GitHub and GitLab take; of Gitea, which takes any, what can be shown."""
_FINAL = (400, 404, 410, 413, 422)
"""Whatever becomes of token and forge, the same status will never be taken."""
_HINTS: Mapping[int, str] = {
    401: "the token is not accepted",
    403: "the token may not set statuses, or its rate is used up",
    404: "there is no such project or commit, or the token may not see it",
    422: "it does not know the commit, or has too many statuses of it",
}


class ForgeSink:
    """Sets the status of one commit."""

    def __init__(self, settings: CommitStatus) -> None:
        self._settings = settings

    def send(self, document: bytes) -> Sent:
        settings = self._settings
        said: Mapping[str, Any] = json.loads(document)
        try:
            token = Path(settings.token_file).read_text().strip()
            tls = ssl.create_default_context(cafile=settings.ca_file) if settings.ca_file else None
        except (OSError, UnicodeDecodeError) as exc:
            return Sent(fault=f"its tokenFile or caFile cannot be read: {getattr(exc, 'strerror', None) or 'no text'}")
        if not token.isascii() or not token.isprintable() or not token:
            return Sent(fault=f"its tokenFile {settings.token_file} holds no token")
        headers = {"content-type": "application/json", "user-agent": "reconciler", **_identify(settings, token)}
        body = json.dumps(_body(settings, said)).encode()
        return _judge(settings, post(_url(settings, said["sha"]), body, headers, settings.timeout, tls))


def _url(settings: CommitStatus, sha: str) -> str:
    match settings.forge:
        case "github":
            return f"{settings.address}/repos/{settings.project}/statuses/{sha}"
        case "gitlab":
            return f"{settings.address}/api/v4/projects/{quote(settings.project, safe='')}/statuses/{sha}"
        case "gitea":
            return f"{settings.address}/api/v1/repos/{settings.project}/statuses/{sha}"


def _identify(settings: CommitStatus, token: str) -> Mapping[str, str]:
    match settings.forge:
        case "github":
            return {
                "authorization": f"Bearer {token}",
                "accept": "application/vnd.github+json",
                "x-github-api-version": "2022-11-28",
            }
        case "gitlab":
            return {"private-token": token, "accept": "application/json"}
        case "gitea":
            return {"authorization": f"token {token}", "accept": "application/json"}


def _body(settings: CommitStatus, said: Mapping[str, Any]) -> Mapping[str, str]:
    state = str(Standing(said["state"]))
    body = {
        "state": _STATES[settings.forge].get(state, state),
        "context": said["context"],
        "description": shorten(said["description"], _MOST_CHARACTERS[settings.forge]),
    }
    return {**body, "target_url": said["link"]} if said["link"] else body


def shorten(text: str, most: int) -> str:
    """One line of at most so many characters, none of them beyond U+FFFF, which GitHub refuses."""
    line = " ".join("".join(c if c <= "\uffff" else "\ufffd" for c in text).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def _judge(settings: CommitStatus, answer: Answer) -> Sent:
    if answer.fault:
        return Sent(fault=answer.fault)
    if 200 <= answer.status < 300:
        return Sent()
    if settings.forge == "gitlab" and answer.status == 400 and b"Cannot transition status via" in answer.body:
        return Sent()
    hint = _HINTS.get(answer.status, "")
    return Sent(fault=f"it answered {answer.status}{f': {hint}' if hint else ''}", is_final=answer.status in _FINAL)
