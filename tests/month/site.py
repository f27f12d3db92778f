"""Where a month happens: a bare repository that the team pushes to, a hub that follows it, and what befalls them."""

import http.client
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.processes import from_file
from tests.flows.fleet import Fleet, eventually
from tests.flows.forks import ROOT
from tests.flows.test_engine_away import Link
from tests.month.story import Node
from tests.month.team import LINK
from tests.outside.births import Birth, Births
from tests.outside.checker import engine

PATIENCE_S = 240.0
LOOK_S = 0.1
WAKE_S = 2.0
FIRST_DAY = 1_790_000_000
BETWEEN_S = 4 * 3600
TEAM = ("Ada", "Ben", "Cleo", "Dan", "Eve")
OPERATOR = {"apiVersion": "reconciler/v1", "kind": "Operator"}
BY_HAND_MIB = 200


class StuckError(Exception):
    """Something that must come did not come in time."""


@dataclass(frozen=True)
class Row:
    """One row of the hub's audit log."""

    seq: int
    kind: str
    name: str
    action: str
    reason: str


class MonthFleet(Fleet):
    """`shared` is the bare repository; `repository` is the bare one in which the team's commits are made."""

    @property
    def shared(self) -> Path:
        return self.folder / "shared.git"

    @property
    def away(self) -> Path:
        """Where the bare repository is while nobody can reach it."""
        return self.folder / "away.git"

    @property
    def cwd(self) -> Path:
        """No repository, so that the operator's file alone says what is followed."""
        return self.folder

    @property
    def places(self) -> tuple[str, ...]:
        return ("--data", str(self.data))

    def environment(self) -> dict[str, str]:
        link = f"unix://{self.folder}/engine.sock"
        return {**super().environment(), "XDG_CONFIG_HOME": str(self.folder / "config"), "DOCKER_HOST": link}


class Site:
    """One fleet with its team, hub and engine link. `ids` are the commits by their number in the story.

    `code` is where the hub's code is, which a negative control has changed.
    """

    def __init__(self, code: Path = ROOT) -> None:
        self._code = code
        folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
        folder.chmod(0o711)
        self.fleet = MonthFleet(folder=folder, runtime="docker")
        for repository in (self.fleet.shared, self.fleet.repository):
            subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(repository)], check=True)
        config = folder / "config/reconciler/operator.yaml"
        config.parent.mkdir(parents=True)
        source = {"url": f"file://{self.fleet.shared}", "poll": "5s"}
        config.write_text(json.dumps({**OPERATOR, "spec": {"source": source}}))
        self.ids: dict[int, str] = {}
        self.link = Link(folder / "engine.sock")
        self._hub: subprocess.Popen[bytes] | None = None
        self._births: Births | None = None

    def close(self) -> None:
        """End everything and remove it."""
        self.read_births()
        if self._hub is not None:
            self._hub.kill()
            self._hub.wait()
        self.fleet.destroy()
        self.link.cut()
        self.link.join()

    def follow_births(self) -> None:
        """From now on note each container that the engine makes for the fleet, which has an id by now."""
        self._births = Births(self.fleet.id)
        self._births.start()

    def read_births(self) -> list[Birth]:
        """All up to now; none is noted any more."""
        if self._births is None:
            return []
        self._births.close()
        return self._births.seen

    # --- the team -------------------------------------------------------------------------------------------------------

    def commit(self, nodes: Iterable[Node]) -> None:
        """Make these commits, nowhere but in the team's own repository."""
        for node in nodes:
            self.ids[node.number] = self._git("fast-import", "--quiet", stdin=self._stream(node)).strip()

    def push(self, number: int, target: Path | None = None) -> None:
        """Make a commit the head of `main` in the bare repository, by force where it takes that."""
        where = str(target or self.fleet.shared)
        self._git("push", "--quiet", "--force", where, f"{self.ids[number]}:refs/heads/main")

    def _stream(self, node: Node) -> str:
        """The commit as git's fast-import reads it, and the question for its id."""
        who = TEAM[node.number % len(TEAM)]
        when = FIRST_DAY + node.number * BETWEEN_S
        title = f"{node.title}\n"
        lines = [f"commit refs/story/{node.number}", "mark :1"]
        lines += [f"{role} {who} <{who.lower()}@example.org> {when} +0000" for role in ("author", "committer")]
        lines += [f"data {len(title.encode())}", title]
        lines += [f"{'merge' if n else 'from'} {self.ids[p]}" for n, p in enumerate(node.parents)]
        lines.append("deleteall")
        for path, text in sorted(node.tree.files().items()):
            is_link = text.startswith(LINK)
            content = text.removeprefix(LINK)
            lines += [f"M {120000 if is_link else 100644} inline {path}", f"data {len(content.encode())}", content]
        return "\n".join([*lines, "get-mark :1"]) + "\n"

    def _git(self, *arguments: str, stdin: str = "") -> str:
        command = ["git", "-C", str(self.fleet.repository), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    # --- the hub --------------------------------------------------------------------------------------------------------

    def start_hub(self) -> None:
        """As a service manager would; what it says goes into a file."""
        with (self.fleet.folder / "hub.log").open("ab") as log:
            self._hub = subprocess.Popen(
                [sys.executable, "-P", "-m", "reconciler", "run", *self.fleet.places],
                cwd=self.fleet.cwd,
                env={**self.fleet.environment(), "PYTHONPATH": str(self._code)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill_hub(self) -> None:
        assert self._hub is not None
        self._hub.kill()
        self._hub.wait()

    def stop_hub(self) -> None:
        """By Ctrl-C: router and agents go on."""
        assert self._hub is not None
        self._hub.send_signal(signal.SIGINT)
        try:
            self._hub.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise StuckError(f"the hub does not stop: {error}") from error

    def wake(self) -> bool:
        """Tell the hub to look at the repository now; whether it was there to be told."""
        connection = http.client.HTTPConnection("hub", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with closing(connection), suppress(OSError, http.client.HTTPException):
            connection.sock.settimeout(5)
            connection.sock.connect(str(self.fleet.run / "api.sock"))
            connection.request("POST", "/api/v1/wake")
            response = connection.getresponse()
            response.read()
            return response.status < 300
        return False

    def rows(self, after: int) -> list[Row]:
        """The audit log from there on; empty where it cannot be read at the moment."""
        question = "SELECT seq, kind, name, action, reason FROM audit WHERE seq > ? ORDER BY seq"
        with suppress(sqlite3.Error), closing(self._open()) as connection:
            return [Row(*row) for row in connection.execute(question, (after,))]
        return []

    def last_seq(self) -> int:
        """Of the newest row, as soon as it can be read; 0 where there is no log yet."""
        found: list[int] = []

        def is_read() -> bool:
            with suppress(sqlite3.Error), closing(self._open()) as connection:
                found.append(int(connection.execute("SELECT coalesce(max(seq), 0) FROM audit").fetchone()[0]))
            return bool(found)

        if (self.fleet.data / "state.db").exists():
            eventually(is_read)
        return found[0] if found else 0

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.fleet.data}/state.db?mode=ro", uri=True, timeout=5)

    def tamper(self, seq: int) -> None:
        """What somebody with the file could do: another reason in one row."""
        with closing(sqlite3.connect(self.fleet.data / "state.db")) as connection, connection:
            changed = connection.execute("UPDATE audit SET reason = 'nothing to see' WHERE seq = ?", (seq,)).rowcount
        assert changed == 1

    def confirm(self, digest: str) -> bool:
        """What a person does who means it; whether the hub took it."""
        return self.fleet.call("apply", "--confirm", digest, "--timeout", "60", *self.fleet.places).code == 0

    def wait(self, is_so: Callable[[], bool], what: str, within_s: float = PATIENCE_S) -> None:
        """Look until it is so; the hub is told again from time to time. Raises StuckError."""
        until, tell_at = time.monotonic() + within_s, time.monotonic() + WAKE_S
        while not is_so():
            now = time.monotonic()
            if self._hub is not None and self._hub.poll() is not None:
                raise StuckError(f"{what}: the hub ended by itself with {self._hub.returncode}")
            if now > until:
                raise StuckError(f"{what}: not within {within_s:.0f} s")
            if now > tell_at:
                self.wake()
                tell_at = now + WAKE_S
            time.sleep(LOOK_S)

    def has_row(self, after: int, action: str, pattern: str) -> bool:
        """Whether the log has such a row since then; the pattern is one of its reason."""
        return any(row.action == action and re.search(pattern, row.reason) for row in self.rows(after))

    # --- what befalls them ----------------------------------------------------------------------------------------------

    def kill_router(self) -> None:
        router = from_file(self.fleet.run / "router.pid")
        if router is not None:
            router.send(signal.SIGKILL)

    def remove_container(self, instance: str) -> None:
        with suppress(AssertionError):
            engine("DELETE", f"/containers/{self._container(instance)}?force=1")

    def set_limits(self, instance: str) -> None:
        """More memory than git says."""
        limits = {"Memory": BY_HAND_MIB << 20, "MemorySwap": BY_HAND_MIB << 20}
        with suppress(AssertionError):
            engine("POST", f"/containers/{self._container(instance)}/update", body=limits)

    def _container(self, instance: str) -> str:
        return f"reconciler-{self.fleet.id}-{instance}"

    def evidence(self) -> str:
        """What a failed run needs to be understood."""
        log = self.fleet.folder / "hub.log"
        said = log.read_text(errors="replace").splitlines()[-30:] if log.exists() else []
        with suppress(sqlite3.Error):
            return "\n".join([self.fleet.evidence(), "--- hub.log", *said])
        return "\n".join(said)
