"""The OPA that the hub runs itself: started, found again, ended; with the real program and with one that is none."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import PolicyEngineError
from reconciler.policy.opa_config import CONFIG_FILE, FOLDER, OPA_SOCKET, render_config
from reconciler.policy.opa_process import (
    PID_FILE,
    PROGRAM_VARIABLE,
    OpaProcess,
    digest_start,
    find_opa,
    find_program,
    read_version,
    start_opa,
    stop_opa,
)
from reconciler.runtime.shim import read_process
from tests.policy.opa_servers import need_opa, socket_folder

PROGRAM = f"""#!{sys.executable}
import os, signal, socket, sys
if sys.argv[1] == "version":
    print("Version: %VERSION%")
    sys.exit()
print("environment:", sorted(os.environ), os.getcwd(), flush=True)
%BEFORE%
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[sys.argv.index("--addr") + 1].removeprefix("unix://"))
listening.listen()
signal.pause()
"""


class Place:
    """The directories of one fleet, with a configuration as the router writes it."""

    def __init__(self, folder: Path) -> None:
        self.run, self.data = folder / "r", folder / "d"
        for place in (self.run, self.data, self.data / FOLDER, self.data / "log"):
            place.mkdir()
        self.configure(1)

    def configure(self, port: int) -> None:
        text = render_config(port=port, token_path=str(self.data / FOLDER / "token"), key="k")
        (self.data / FOLDER / CONFIG_FILE).write_text(text)
        (self.data / FOLDER / "token").write_text("t")

    def program(self, *, version: str = "1.22.0", before: str = "") -> str:
        path = self.data / "program"
        path.write_text(PROGRAM.replace("%VERSION%", version).replace("%BEFORE%", before))
        path.chmod(0o700)
        return str(path)


@pytest.fixture
def place() -> Iterator[Place]:
    with socket_folder() as folder:
        made = Place(folder)
        yield made
        stop_opa(made.run)


def is_running(process: OpaProcess) -> bool:
    found = read_process(process.pid)
    return found is not None and found.start == process.start and not found.ended


def test_it_is_started_once_found_again_and_ended(place: Place) -> None:
    program = place.program()
    assert find_opa(place.run) is None
    started = start_opa(place.run, place.data, program)
    assert find_opa(place.run) == started
    assert started.digest == digest_start(place.data, program) != ""
    stop_opa(place.run)
    assert find_opa(place.run) is None
    assert not is_running(started)
    assert not list((place.run / FOLDER).iterdir())
    stop_opa(place.run)


def test_a_real_one_listens_for_the_hub_alone_and_in_a_session_of_its_own(place: Place) -> None:
    started = start_opa(place.run, place.data, need_opa())
    process = read_process(started.pid)
    assert process is not None
    assert (process.session, process.group) == (started.pid, started.pid)
    assert stat.S_IMODE((place.run / FOLDER).stat().st_mode) == 0o700
    assert stat.S_IMODE((place.run / OPA_SOCKET).stat().st_mode) == 0o600
    assert Path(f"/proc/{started.pid}/cwd").readlink() == Path("/")
    stop_opa(place.run)
    assert not is_running(started)


def test_it_gets_nothing_of_our_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    start_opa(place.run, place.data, place.program())
    said = (place.data / "log" / "opa.log").read_text()
    assert "SECRET" not in said
    assert "'PATH'" in said
    assert said.split()[-1] == "/"


def test_a_new_start_takes_the_place_of_the_old_one(place: Place) -> None:
    program = place.program()
    first = start_opa(place.run, place.data, program)
    place.configure(2)
    assert digest_start(place.data, program) != first.digest
    second = start_opa(place.run, place.data, program)
    assert not is_running(first)
    assert is_running(second)
    assert find_opa(place.run) == second


def test_one_that_nobody_noted_is_ended_before_another_takes_its_socket(place: Place) -> None:
    """As after a kill of the hub between the start and the note of it."""
    program = place.program()
    stray = start_opa(place.run, place.data, program)
    (place.run / PID_FILE).unlink()
    assert find_opa(place.run) is None
    second = start_opa(place.run, place.data, program)
    assert not is_running(stray)
    (place.run / PID_FILE).unlink()
    stop_opa(place.run)
    assert not is_running(second)


def test_another_fleets_is_left_alone(place: Place) -> None:
    with socket_folder() as folder:
        other = Place(folder)
        theirs = start_opa(other.run, other.data, other.program())
        start_opa(place.run, place.data, place.program())
        stop_opa(place.run)
        assert is_running(theirs)
        stop_opa(other.run)


def test_a_pid_that_is_another_process_by_now_is_not_ours(place: Place) -> None:
    sleeping = subprocess.Popen(["sleep", "60"])
    try:
        started = start_opa(place.run, place.data, place.program())
        stop_opa(place.run)
        (place.run / PID_FILE).write_text(f"{sleeping.pid} {started.start} x\n")
        assert find_opa(place.run) is None
        stop_opa(place.run)
        assert sleeping.poll() is None
    finally:
        sleeping.kill()
        sleeping.wait()


def test_one_that_was_killed_is_not_running(place: Place) -> None:
    started = start_opa(place.run, place.data, place.program())
    os.kill(started.pid, signal.SIGKILL)
    os.waitpid(started.pid, 0)
    assert find_opa(place.run) is None


def test_one_that_does_not_end_when_asked_is_killed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.policy.opa_process._STOP_S", 0.1)
    program = place.program(before="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    started = start_opa(place.run, place.data, program)
    stop_opa(place.run)
    assert not is_running(started)


@pytest.mark.parametrize("text", ["", "x", "1 2", "-1 2 x", "1 2 3 4", "é"])
def test_a_note_that_is_none_is_passed_over(place: Place, text: str) -> None:
    (place.run / FOLDER).mkdir()
    (place.run / PID_FILE).write_text(text)
    assert find_opa(place.run) is None


def test_before_the_router_has_said_where_it_listens_nothing_is_started(place: Place) -> None:
    (place.data / FOLDER / CONFIG_FILE).unlink()
    program = place.program()
    assert digest_start(place.data, program) == ""
    with pytest.raises(PolicyEngineError, match="the router has not said yet where it listens"):
        start_opa(place.run, place.data, program)


def test_a_program_that_ends_at_once_says_why(place: Place) -> None:
    with pytest.raises(PolicyEngineError, match=r"it ended at once or does not listen: .*odd configuration"):
        start_opa(place.run, place.data, place.program(before="sys.exit('odd configuration')"))
    assert find_opa(place.run) is None


def test_a_program_that_is_no_opa_or_too_old_is_refused(place: Place) -> None:
    with pytest.raises(PolicyEngineError, match=r"is version 0\.70; 1\.0 is needed"):
        start_opa(place.run, place.data, place.program(version="0.70.0"))
    with pytest.raises(PolicyEngineError, match="has no version"):
        start_opa(place.run, place.data, "/bin/true")


def test_the_program_is_the_one_named_then_that_of_the_environment_then_that_of_the_path(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = place.program()
    monkeypatch.setenv("PATH", str(place.data))
    monkeypatch.delenv(PROGRAM_VARIABLE, raising=False)
    assert find_program(None) is None
    (place.data / "bin").mkdir()
    (place.data / "bin" / "opa").symlink_to(program)
    monkeypatch.setenv("PATH", str(place.data / "bin"))
    assert find_program(None) == str(place.data / "bin" / "opa")
    monkeypatch.setenv(PROGRAM_VARIABLE, program)
    assert find_program(None) == program
    assert find_program("/bin/true") == "/bin/true"
    assert find_program("/nowhere/opa") is None


def test_the_version_is_read_from_what_the_program_says(place: Place) -> None:
    assert read_version(place.program(version="1.22.0-dev")) == (1, 22)
    assert read_version("/bin/true") is None
    assert read_version("/nowhere") is None
    found = read_version(need_opa())
    assert found is not None
    assert found >= (1, 0)
