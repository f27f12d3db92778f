"""Stand-ins of the three forges' APIs for commit statuses, on a port of 127.0.0.1: each as strict as the real one."""

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from reconciler.settings_notify import CommitStatus

TOKEN = "fo-0123456789abcdef"
PROJECTS = {"github": "octo/fleet", "gitlab": "team/sub/fleet", "gitea": "octo/fleet"}
_PATHS = {
    "github": re.compile(r"/repos/octo/fleet/statuses/([0-9a-f]{40})"),
    "gitlab": re.compile(r"/api/v4/projects/team%2Fsub%2Ffleet/statuses/([0-9a-f]{40})"),
    "gitea": re.compile(r"/api/v1/repos/octo/fleet/statuses/([0-9a-f]{40})"),
}
_STATES = {
    "github": {"error", "failure", "pending", "success"},
    "gitlab": {"pending", "running", "success", "failed", "canceled", "skipped"},
    "gitea": {"pending", "success", "error", "failure", "warning"},
}
_LIMITS = {"github": 140, "gitlab": 255}
_HEADERS = {
    "github": {
        "authorization": f"Bearer {TOKEN}",
        "accept": "application/vnd.github+json",
        "x-github-api-version": "2022-11-28",
    },
    "gitlab": {"private-token": TOKEN},
    "gitea": {"authorization": f"token {TOKEN}"},
}


@dataclass(frozen=True, slots=True)
class Status:
    """One that was set."""

    sha: str
    state: str
    description: str
    context: str
    link: str = ""


@dataclass(slots=True)
class Forge:
    """`trouble` is asked with the number of each request, from 1 on, for a status to answer instead; 0 is none.

    `lacks` are commits that it does not know.
    """

    kind: str
    url: str = ""
    statuses: list[Status] = field(default_factory=list)
    requests: int = 0
    lacks: set[str] = field(default_factory=set)
    trouble: Callable[[int], int] = lambda _n: 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def states(self, sha: str) -> list[str]:
        return [s.state for s in self.statuses if s.sha == sha]

    def settings(self, token_file: str, **more: Any) -> CommitStatus:
        return CommitStatus.model_validate(self.section(token_file, **more))

    def section(self, token_file: str, **more: Any) -> Mapping[str, Any]:
        """As in `operator.yaml`."""
        return {"forge": self.kind, "url": self.url, "project": PROJECTS[self.kind], "tokenFile": token_file, **more}

    def take(self, path: str, headers: Mapping[str, str], content: bytes) -> tuple[int, Mapping[str, Any]]:
        """What it answers: status and body."""
        found = _PATHS[self.kind].fullmatch(path)
        if found is None:
            return 404, {"message": "Not Found"}
        if any(headers.get(name) != value for name, value in _HEADERS[self.kind].items()):
            return 401, {"message": "401 Unauthorized"}
        if headers.get("content-type") != "application/json" or not headers.get("user-agent"):
            return 415, {"message": "what is this?"}
        sha, body = found[1], json.loads(content)
        if sha in self.lacks:
            return (
                (404, {"message": "404 Commit Not Found"}) if self.kind == "gitlab" else (422, {"message": "No commit"})
            )
        if wrong := self._find_wrong(sha, body):
            return (400 if self.kind == "gitlab" else 422), {"message": wrong}
        status = Status(sha, body["state"], body["description"], body["context"], body.get("target_url", ""))
        self.statuses.append(status)
        return 201, {"id": len(self.statuses), **body}

    def _find_wrong(self, sha: str, body: Mapping[str, str]) -> str:
        if body.keys() - {"state", "context", "description", "target_url"} or body["state"] not in _STATES[self.kind]:
            return f"unknown: {body}"
        if len(body["description"]) > _LIMITS.get(self.kind, 10**6):
            return "description is too long"
        if self.kind == "github" and max(body["description"], default="") > "\uffff":
            return "description contains unicode characters above 0xffff"
        if self.kind == "gitlab":
            own = [s.state for s in self.statuses if (s.sha, s.context) == (sha, body["context"])]
            if own and own[-1] == body["state"] == "pending":
                return 'Cannot transition status via :enqueue from :pending (Reason(s): Status cannot transition via "enqueue")'
        return ""


@contextmanager
def forge(kind: str) -> Iterator[Forge]:
    """A forge that answers until the end of the block."""
    made = Forge(kind)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            with made.lock:
                made.requests += 1
                number = made.requests
            if status := made.trouble(number):
                answer: Mapping[str, Any] = {"message": f"trouble, {TOKEN}"}
            else:
                headers = {name.lower(): value for name, value in self.headers.items()}
                with made.lock:
                    status, answer = made.take(self.path, headers, content)
            said = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
