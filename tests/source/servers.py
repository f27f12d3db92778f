"""Servers of git repositories on this host: https with a password, and something that stands in for ssh."""

import base64
import os
import ssl
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from reconciler.identity.authority import open_authority

USER, PASSWORD = "ada", "hunter2-secret"


class GitServer:
    """Serves bare repositories below `root` by https with `git http-backend`, to those who know the password.

    `answer` is a status to give to everybody instead; `seen` are the credentials that came.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        folder.mkdir()
        now = datetime.now(UTC)
        authority = open_authority(folder, "f", now)
        (folder / "server.pem").write_bytes(authority.issue(("127.0.0.1",), now))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        self.ca_file = str(folder / "tls" / "ca.crt")
        self.root, self.answer, self.seen = root, 0, list[str]()
        self.before_answer: Callable[[], None] = lambda: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def url(self, name: str) -> str:
        return f"https://127.0.0.1:{self._server.server_port}/{name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler_of(server: GitServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve(b"")

        def do_POST(self) -> None:
            self._serve(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _serve(self, body: bytes) -> None:
            scheme, _, given = self.headers.get("Authorization", "").partition(" ")
            known = base64.b64decode(given).decode() if scheme == "Basic" else ""
            server.seen.append(known)
            server.before_answer()
            if server.answer:
                self.send_response(server.answer)
                self.send_header("Location", "https://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if known != f"{USER}:{PASSWORD}":
                said = f"you said {known}".encode()
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)
                return
            self._run_backend(body)

        def _run_backend(self, body: bytes) -> None:
            path, _, query = self.path.partition("?")
            env = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_GLOBAL": "/dev/null",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "REMOTE_USER": USER,
            }
            done = subprocess.run(["git", "http-backend"], env=env, input=body, capture_output=True, check=True)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    return Handler


def make_ssh(folder: Path) -> Path:
    """A program in the place of ssh: it writes its arguments down and runs the command here, as a server would."""
    program = folder / "ssh"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/arguments\nfor last; do :; done\nexec sh -c "$last"\n'
    )
    program.chmod(0o755)
    return program
