"""The engine goes away in the middle of the work and comes back: nothing is concluded from silence, nothing is lost."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.flows.fleet import Fleet, agent_text, eventually, make_fleet, need_engine
from tests.flows.test_hub import containers, running, settled
from tests.outside.checker import engine_socket

pytestmark = pytest.mark.engine


class Link:
    """A unix socket that passes everything on to the engine's, until it is cut."""

    def __init__(self, path: Path) -> None:
        self.path, self._engine = path, engine_socket()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self.mend()

    def cut(self) -> None:
        """Nobody listens any more, and what was under way ends."""
        with self._lock:
            if self._listener is not None:
                with suppress(OSError):
                    self._listener.shutdown(socket.SHUT_RDWR)
                self._listener.close()
                self._listener = None
            self.path.unlink(missing_ok=True)
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Listen (again)."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(64)
        self._listener = listener
        self._start(self._accept, listener)

    def join(self) -> None:
        """Wait until every thread has ended and closed what it had."""
        for thread in self._threads:
            thread.join(60)

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                if self._listener is not listener:
                    near.close()
                    return
                far = socket.socket(socket.AF_UNIX)
                if far.connect_ex(self._engine):
                    near.close()
                    far.close()
                    continue
                self._open |= {near, far}
            for source, target in ((near, far), (far, near)):
                self._start(self._pass_on, source, target)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                target.sendall(content)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open.discard(source)
        source.close()


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    need_engine("docker")
    made = make_fleet("docker")
    yield made
    made.destroy()


@pytest.fixture
def link(fleet: Fleet) -> Iterator[Link]:
    made = Link(fleet.folder / "engine.sock")
    yield made
    made.cut()
    made.join()


def conditions(fleet: Fleet) -> set[str]:
    return {c["type"] for c in fleet.state()["conditions"]}


def has_begun(fleet: Fleet) -> bool:
    """Whether a first revision is in force; until then there is nothing to ask for."""
    answer = fleet.call("status", *fleet.places, "-o", "json")
    return answer.code == 0 and json.loads(answer.out)["revision"] != ""


def test_an_engine_that_goes_away_and_comes_back_costs_nothing(fleet: Fleet, link: Link) -> None:
    files = {"agents.d/a.yaml": agent_text("a"), "agents.d/b.yaml": agent_text("b")}
    fleet.commit(files)
    with running(fleet, DOCKER_HOST=f"unix://{link.path}") as hub:
        eventually(lambda: settled(fleet))
        before = containers(fleet)
        link.cut()
        eventually(lambda: "RuntimeUnavailable" in conditions(fleet))
        fleet.commit({**files, "agents.d/c.yaml": agent_text("c")})
        eventually(lambda: fleet.state()["mode"] == "degraded")
        assert hub.poll() is None
        assert containers(fleet) == before
        link.mend()
        eventually(lambda: settled(fleet) and "c-0" in containers(fleet))
        assert {n: c for n, c in containers(fleet).items() if n != "c-0"} == before
        eventually(lambda: "RuntimeUnavailable" not in conditions(fleet))


def test_an_engine_that_goes_away_during_a_pass_leaves_what_the_next_one_finishes(fleet: Fleet, link: Link) -> None:
    fleet.commit({})
    with running(fleet, DOCKER_HOST=f"unix://{link.path}"):
        eventually(lambda: has_begun(fleet))
        fleet.commit({f"agents.d/a{n}.yaml": agent_text(f"a{n}") for n in range(8)})
        eventually(lambda: len(fleet.state()["instances"]) > 2, step_s=0.01)
        link.cut()
        eventually(lambda: "RuntimeUnavailable" in conditions(fleet))
        link.mend()
        try:
            eventually(lambda: settled(fleet), within_s=240)
        except pytest.fail.Exception:
            pytest.fail(f"{fleet.check()}\n{fleet.evidence()}")


def test_down_says_that_it_waits_for_the_engine_and_goes_on_when_it_is_back(fleet: Fleet, link: Link) -> None:
    fleet.commit({"agents.d/a.yaml": agent_text("a")})
    with running(fleet, DOCKER_HOST=f"unix://{link.path}") as hub:
        eventually(lambda: settled(fleet))
        link.cut()
        eventually(lambda: "RuntimeUnavailable" in conditions(fleet))
        down = fleet.start("down", *fleet.places)
        assert down.stdout is not None
        said = [down.stdout.readline() for _ in range(2)]
        link.mend()
        out, _ = down.communicate(timeout=180)
        assert hub.wait(180) == 0
    assert said[0] == "the running hub drains and stops everything …\n"
    assert said[1].startswith("waiting: 1 instance on record; the docker runtime cannot be read: ")
    assert f"the engine at unix://{link.path} does not answer" in said[1]
    assert (down.returncode, out) == (0, "down: nothing of the fleet is running\n")
