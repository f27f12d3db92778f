"""The process: how it starts, is adopted and ends, what it must not load, and what a kill leaves behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.egress.client import EgressLink
from reconciler.errors import EgressRefusedError, ForeignFleetError
from reconciler.runtime.pid import read_process
from reconciler.runtime.server import read_pid_file, write_pid_file
from tests.egress.places import FLEET, MODEL, Place, Reply, entry_of, until
from tests.egress.raw import SSE_HEAD, Line, RawProvider, read_all, receive_until
from tests.fakes.messages_api import MessagesApi

FORBIDDEN = ("sqlmodel", "sqlalchemy", "docker", "pydantic", "git", "starlette", "requests", "aiohttp")
OURS = ("reconciler.store", "reconciler.kinds", "reconciler.loop", "reconciler.source", "reconciler.settings")


def test_the_process_loads_nothing_heavy() -> None:
    code = "import sys, reconciler.egress.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not [m for m in loaded if m.partition(".")[0] in FORBIDDEN or m.startswith(OURS)]


def test_one_that_runs_is_adopted_by_the_next_hub(own_place: Place, tmp_path: Path) -> None:
    pid = own_place.state()["pid"]
    own_place.register()
    other = EgressLink(FLEET, own_place.run, own_place.data)
    other.start()
    assert other.state()["pid"] == pid
    assert list(other.state()["instances"]) == ["writer-0"]


def test_it_has_a_session_of_its_own_and_no_secrets_of_ours(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    link = EgressLink(FLEET, run_folder, tmp_path)
    link.start()
    try:
        pid = link.state()["pid"]
        assert os.getsid(pid) == pid != os.getsid(0)
        assert b"sk-secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        link.stop()


def test_another_fleets_process_is_neither_adopted_nor_ended(own_place: Place) -> None:
    other = EgressLink("deadbeef", own_place.run, own_place.data)
    with pytest.raises(ForeignFleetError, match=f"belongs to fleet {FLEET}"):
        other.start()
    assert isinstance(other.report(), Unavailable)
    with pytest.raises(ForeignFleetError):
        other.stop()
    assert isinstance(own_place.link.report(), Ok)


def test_after_a_kill_another_one_serves_the_same_sockets(own_place: Place, api: MessagesApi) -> None:
    writer = own_place.register()
    before = own_place.state()
    folder = writer.socket_path.parent.stat().st_ino
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: read_process(before["pid"]) is None)
    assert own_place.link.report() == Absent()
    with pytest.raises(ConnectionError):
        writer.ask()
    own_place.link.start()
    after = own_place.state()
    assert (after["instances"], after["config_digest"]) == ({}, "")
    assert after["epoch"] != before["epoch"]
    own_place.configure()
    assert own_place.register().ask().status == 200
    assert writer.socket_path.parent.stat().st_ino == folder


def test_one_that_stands_still_is_unavailable_and_can_be_ended(own_place: Place) -> None:
    pid = own_place.state()["pid"]
    os.kill(pid, signal.SIGSTOP)
    reading = own_place.link.report()
    assert isinstance(reading, Unavailable)
    own_place.link.stop()
    assert read_process(pid) is None
    own_place.link.start()
    assert own_place.state()["pid"] != pid


def test_sigterm_lets_an_answer_come_to_its_end_and_leaves_nothing(own_place: Place) -> None:
    goes_on = threading.Event()

    def serve(line: Line) -> None:
        line.receive()
        line.send(SSE_HEAD)
        line.chunk(b"data: 1\n\n")
        goes_on.wait(60)
        line.chunk(b"data: 2\n\n")
        line.send(b"0\r\n\r\n")

    with RawProvider(serve) as raw:
        entry = {"type": "anthropic", "url": raw.url, "exposure": "public", "models": {MODEL: {}}}
        own_place.configure(providers={"anthropic": entry})
        link = own_place.register().begin(stream=True)
        found = receive_until(link, b"data: 1\n\n")
        pid = own_place.state()["pid"]
        os.kill(pid, signal.SIGTERM)
        until(lambda: not (own_place.run / "hub" / "writer-0" / "llm.sock").exists())
        goes_on.set()
        assert (found + read_all(link)).endswith(b"data: 2\n\n\r\n0\r\n\r\n")
    until(lambda: read_process(pid) is None)
    assert not list(own_place.run.rglob("*.sock"))
    assert not (own_place.run / "egress.pid").exists()
    assert len(own_place.written()) == 1
    assert "Traceback" not in own_place.log


def test_sigterm_does_not_wait_for_an_answer_that_does_not_come(own_place: Place, api: MessagesApi) -> None:
    api.keep_silent()
    link = own_place.register().begin()
    api.wait_for()
    pid = own_place.state()["pid"]
    os.kill(pid, signal.SIGTERM)
    assert read_all(link) == b""
    until(lambda: read_process(pid) is None)
    assert "Traceback" not in own_place.log


def test_removing_an_instance_ends_its_requests(place: Place, api: MessagesApi) -> None:
    api.keep_silent()
    link = place.register().begin()
    api.wait_for()
    place.link.remove_instance("writer-0")
    assert read_all(link) == b""
    assert "writer-0" not in place.state()["instances"]


def test_a_swap_of_the_configuration_disturbs_no_answer_under_way(place: Place, api: MessagesApi) -> None:
    goes_on, replies = threading.Event(), list[Reply]()

    def serve(line: Line) -> None:
        line.receive()
        goes_on.wait(60)
        line.answer(b'{"usage":{"input_tokens":1}}')

    with RawProvider(serve) as raw:
        entry = {"type": "anthropic", "url": raw.url, "exposure": "public", "models": {MODEL: {}}}
        place.configure(providers={"anthropic": entry})
        writer = place.register()
        asking = threading.Thread(target=lambda: replies.append(writer.ask()))
        asking.start()
        until(lambda: len(raw.lines) == 1)
        place.configure(providers={"anthropic": {**entry, "url": api.url}})
        assert writer.ask().status == 200
        assert len(api.asked) == 1
        goes_on.set()
        asking.join(60)
        assert replies[0].content == b'{"usage":{"input_tokens":1}}'


def test_what_is_wrong_is_refused_whole_and_says_where(place: Place) -> None:
    before = place.state()["config_digest"]
    with pytest.raises(EgressRefusedError, match=r"config: .*surprise"):
        place.link.configure({"digest": "x", "surprise": 1})
    with pytest.raises(EgressRefusedError, match="providers: p: url is 'nowhere'"):
        entry = {"type": "ollama", "url": "nowhere", "exposure": "public", "models": {}}
        place.link.configure({"digest": "x", "providers": {"p": entry}})
    with pytest.raises(EgressRefusedError, match="is not a name"):
        place.link.put_instance("../x", entry_of("x-0"))
    with pytest.raises(EgressRefusedError, match="instances: writer-0"):
        place.link.put_instance("writer-0", {"agent": "writer", "tokens": [{"sha256": "short", "expires_at": 1}]})
    place.register("writer-0")
    with pytest.raises(EgressRefusedError, match="belongs to writer; remove it first"):
        place.link.put_instance("writer-0", {**entry_of("writer-0"), "agent": "reader"})
    assert place.state()["config_digest"] == before


def test_a_socket_that_somebody_removed_comes_back_with_the_next_registration(place: Place) -> None:
    writer = place.register()
    writer.socket_path.unlink()
    assert place.state()["instances"]["writer-0"]["digest"] == ""
    assert place.register(digest="e2").ask().status == 200
    assert writer.socket_path.stat().st_mode & 0o777 == 0o600


def test_both_processes_sockets_stand_side_by_side(place: Place) -> None:
    writer = place.register()
    other = writer.socket_path.parent / "hub.sock"
    with socket.socket(socket.AF_UNIX) as router:
        router.bind(str(other))
        assert place.register(digest="e2").ask().status == 200
        place.link.remove_instance("writer-0")
        assert other.exists()
    other.unlink()


def test_a_second_process_is_not_started_where_one_runs(own_place: Place) -> None:
    found = read_pid_file(own_place.run, "egress")
    assert found is not None
    own_place.link.start()
    assert read_pid_file(own_place.run, "egress") == found
    write_pid_file(own_place.run, "egress", os.getpid())
    (own_place.run / "egress.pid").write_text(f"{os.getpid()} 1\n")
    assert read_pid_file(own_place.run, "egress") is None
    write_pid_file(own_place.run, "egress", found.pid)


def test_where_it_cannot_start_it_says_where_to_look(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "usage.db").write_bytes(b"not a database" * 100)
    link = EgressLink(FLEET, run_folder, tmp_path)
    with pytest.raises(Exception, match=r"it ended at once; see .*egress.log"):
        link.start()
    assert "the egress process cannot start: opening" in (tmp_path / "log" / "egress.log").read_text()
    link.stop()
