"""What the hub and the shim both use: the process table, exact signals, files in one step."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from reconciler.runtime import shim

from .process_world import eventually, is_alive


def test_a_signal_reaches_the_process_that_started_then_and_no_other() -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as sleeper:
        found = shim.read_process(sleeper.pid)
        assert found is not None
        assert not shim.send_signal(sleeper.pid, found.start + 1, signal.SIGKILL)
        assert sleeper.poll() is None
        assert shim.send_signal(sleeper.pid, found.start, signal.SIGKILL)
        assert sleeper.wait() == -signal.SIGKILL
        assert not shim.send_signal(sleeper.pid, found.start, signal.SIGKILL)


def test_a_process_that_ended_and_was_not_reaped_has_ended() -> None:
    with subprocess.Popen(["/bin/true"]) as child:
        eventually(lambda: not is_alive(child.pid))
        zombie = shim.read_process(child.pid)
        assert zombie is not None
        assert zombie.ended
        assert not shim.send_signal(child.pid, zombie.start, signal.SIGKILL)


def test_a_process_whose_first_thread_ended_has_not_ended() -> None:
    code = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start();"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        eventually(lambda: b") Z" in Path(f"/proc/{child.pid}/stat").read_bytes())
        found = shim.read_process(child.pid)
        assert found is not None
        assert not found.ended
        assert shim.send_signal(child.pid, found.start, signal.SIGKILL)


def test_names_of_programs_cannot_forge_the_process_table() -> None:
    stat = b"7 (a) R 1 (b)) S 3 4 5 0 0 0 0 0 0 0 0 0 0 0 20 0 1 0 99 0"
    process = shim.Process(7, stat)
    assert (process.parent, process.group, process.session, process.start) == (3, 4, 5, 99)


def test_descendants_are_found_over_generations_and_the_roots_left_out() -> None:
    with subprocess.Popen(["/bin/sh", "-c", "sh -c 'sleep 600; :'; :"]) as top:
        eventually(lambda: len(shim.find_descendants({top.pid})) == 2)
        for process in shim.find_descendants({top.pid}):
            shim.send_signal(process.pid, process.start, signal.SIGKILL)


def test_readers_of_a_file_never_see_half_of_it(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    shim.write_atomically(path, b"x" * 100_000)
    seen: set[int] = set()
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(len(shim.read_bytes(path)))

    reader = threading.Thread(target=read)
    reader.start()
    for size in (100_000, 50_000) * 50:
        shim.write_atomically(path, b"x" * size, sync=True)
    done.set()
    reader.join()
    assert seen <= {100_000, 50_000}
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_journal_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    shim.append_event(str(tmp_path / "no" / "such" / "place"), "writer-0", "start")


def test_a_shim_with_another_token_starts_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "writer-0"
    directory.mkdir()
    launch = b"token=one\0cwd=/\0arg=/bin/touch\0arg=" + os.fsencode(tmp_path / "ran") + b"\0log_bytes=1000\0"
    (directory / "launch").write_bytes(launch)
    assert run_shim(directory, "two") == "stale"
    assert not (directory / "shim.pid").exists()
    assert not (tmp_path / "ran").exists()
    assert run_shim(directory, "one") == "ok"
    eventually(lambda: b'"exited"' in (directory / "state.json").read_bytes())
    assert (tmp_path / "ran").exists()


def test_a_launch_is_used_once(tmp_path: Path) -> None:
    directory = tmp_path / "writer-0"
    directory.mkdir()
    (directory / "launch").write_bytes(b"token=t\0cwd=/\0arg=/bin/true\0log_bytes=1000\0")
    assert run_shim(directory, "t") == "ok"
    eventually(lambda: run_shim(directory, "t") == "stale")


def test_limits_of_the_launch_are_those_of_the_program(tmp_path: Path) -> None:
    directory = tmp_path / "writer-0"
    directory.mkdir()
    program = b"arg=/bin/sh\0arg=-c\0arg=ulimit -n; ulimit -Hn\0"
    launch = b"token=t\0cwd=/\0limit=RLIMIT_NOFILE:64:128\0log_bytes=1000\0" + program
    (directory / "launch").write_bytes(launch)
    assert run_shim(directory, "t") == "ok"
    eventually(lambda: b'"exited"' in (directory / "state.json").read_bytes())
    assert (directory / "log").read_text().split() == ["64", "128"]


def run_shim(directory: Path, token: str) -> str:
    """Its answer, as the hub gets it."""
    return subprocess.run(
        [sys.executable, "-I", "-S", shim.__file__, str(directory), token],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        timeout=120,
        check=False,
    ).stdout
