from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from reconciler.agentd.groups import ProcessGroups
from reconciler.agentd.process import Ended, Halt, Order, SpawnError, TakeLine, start, watch

from .conftest import is_running, wait_until

Run = Callable[..., Ended]


@pytest.fixture
def halt() -> Iterator[Halt]:
    made = Halt()
    yield made
    made.close()


@pytest.fixture
def run(tmp_path: Path, halt: Halt) -> Run:
    """Run a shell script to its end; keywords are those of `Order`, `on_progress` and `take_line`."""
    (tmp_path / "input").write_text("the input")

    def run_script(
        script: str,
        on_progress: Callable[[str], None] = lambda _: None,
        take_line: TakeLine | None = None,
        **fields: object,
    ) -> Ended:
        groups = ProcessGroups(is_reaper=False)
        order = build_order(tmp_path, "sh", "-c", script, **fields)
        return watch(start(order, groups), order, groups, halt, on_progress, take_line)

    return run_script


def build_order(tmp_path: Path, *argv: str, **fields: Any) -> Order:
    valid: dict[str, Any] = {
        "argv": argv,
        "env": {"PATH": os.environ["PATH"], "MARK": str(tmp_path)},
        "cwd": str(tmp_path),
        "stdin_path": str(tmp_path / "input"),
        "marker": str(tmp_path),
        "max_stdout_bytes": 1000,
    }
    return Order(**{**valid, **fields})


def read_pid(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), "a pid in the file")
    return int(path.read_text())


@contextlib.contextmanager
def halted_when_ready(halt: Halt, tmp_path: Path, *, kill_after_s: float) -> Iterator[None]:
    """Halt from another thread, as soon as the file `pid` is there."""

    def stop() -> None:
        read_pid(tmp_path / "pid")
        halt.set("cancelled", kill_after_s=kill_after_s)

    thread = threading.Thread(target=stop)
    thread.start()
    yield
    thread.join()


def test_what_it_wrote_and_how_it_ended_is_told(run: Run) -> None:
    ended = run("cat; echo err >&2; exit 4")
    assert (ended.exit_code, ended.reason, ended.error) == (4, "exit", "exited with code 4")
    assert (ended.stdout, ended.stderr_tail) == (b"the input", "err\n")
    assert 0 < ended.duration_s < 60


def test_success_has_no_error(run: Run) -> None:
    ended = run("true")
    assert (ended.exit_code, ended.reason, ended.error) == (0, "exit", "")


def test_a_signal_is_told_by_name(run: Run) -> None:
    ended = run("kill -SEGV $$")
    assert (ended.exit_code, ended.reason, ended.error) == (139, "exit", "was ended by SIGSEGV")


def test_no_first_output_in_time_ends_it(run: Run) -> None:
    ended = run("sleep 600", first_output_s=0.1, progress_s=0.05)
    assert (ended.reason, ended.error) == ("first_output", "wrote nothing within 0.1 s")


def test_output_on_stderr_is_first_output_too(run: Run) -> None:
    assert run("echo >&2; sleep 600", first_output_s=10, progress_s=0.1).reason == "progress"


def test_no_progress_in_time_ends_it(run: Run) -> None:
    ended = run("echo a; sleep 600", progress_s=0.15)
    assert (ended.reason, ended.error) == ("progress", "wrote nothing for 0.15 s")
    assert ended.stdout == b"a\n"


def test_output_again_and_again_is_progress(run: Run) -> None:
    ended = run("for i in 1 2 3 4 5 6 7; do echo $i; sleep 0.8; done", progress_s=5)
    assert (ended.reason, ended.stdout) == ("exit", b"1\n2\n3\n4\n5\n6\n7\n")


def test_the_total_time_ends_it_in_spite_of_progress(run: Run) -> None:
    ended = run("while :; do echo x; sleep 0.02; done", timeout_s=0.2, progress_s=60)
    assert (ended.reason, ended.error) == ("timeout", "took longer than 0.2 s")
    assert ended.exit_code == 143


def test_more_output_than_allowed_ends_it(run: Run) -> None:
    ended = run("yes", max_stdout_bytes=5000)
    assert (ended.reason, len(ended.stdout)) == ("too_large", 5000)


def test_too_much_output_is_noticed_also_when_it_has_already_ended(run: Run) -> None:
    ended = run("printf 123456", max_stdout_bytes=5)
    assert (ended.reason, ended.stdout) == ("too_large", b"12345")


def test_as_much_output_as_allowed_is_fine(run: Run) -> None:
    assert run("printf 12345", max_stdout_bytes=5).reason == "exit"


def test_of_stderr_the_last_8_kib_are_kept(run: Run) -> None:
    tail = run("yes stderr | head -c 50000 >&2; echo end >&2").stderr_tail
    assert len(tail) == 8192
    assert tail.endswith("end\n")


def test_who_ignores_sigterm_is_killed_after_a_while(run: Run, halt: Halt, tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.02; done"
    with halted_when_ready(halt, tmp_path, kill_after_s=0.1):
        ended = run(script)
    assert (ended.exit_code, ended.reason) == (137, "cancelled")


def test_who_ends_well_at_sigterm_may_say_something(run: Run, halt: Halt, tmp_path: Path) -> None:
    script = f"trap 'echo bye; exit 0' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.02; done"
    with halted_when_ready(halt, tmp_path, kill_after_s=60):
        ended = run(script)
    assert (ended.exit_code, ended.reason, ended.stdout) == (0, "cancelled", b"bye\n")


def test_the_first_reason_to_halt_stays(halt: Halt) -> None:
    halt.set("cancelled")
    halt.set("shutdown")
    assert halt.reason == "cancelled"


def test_children_left_behind_are_killed_and_do_not_hold_it_up(run: Run, tmp_path: Path) -> None:
    ended = run(f"sleep 600 & echo $! > {tmp_path}/pid")
    assert ended.reason == "exit"
    assert ended.duration_s < 300
    assert not is_running(read_pid(tmp_path / "pid"))


def test_children_with_a_session_of_their_own_are_killed_too(run: Run, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {pid}; exec sleep 60' & while ! test -s {pid}; do :; done"
    assert run(script).reason == "exit"
    assert not is_running(read_pid(pid))


def test_progress_lines_are_told_at_most_once_a_second(run: Run, tmp_path: Path) -> None:
    told: list[tuple[float, str]] = []

    def note(text: str) -> None:
        told.append((time.monotonic(), text))
        (tmp_path / text).touch()

    script = (
        "echo progress: 1; until test -e 1; do sleep 0.01; done; echo progress: 2; echo note; printf 'progress: 3';"
    )
    run(f"({script} echo ' of 4'; until test -e '3 of 4'; do sleep 0.01; done) >&2", on_progress=note)
    assert (told[0][1], told[-1][1]) == ("1", "3 of 4")
    assert all(later - earlier >= 0.99 for (earlier, _), (later, _) in pairwise(told))


def test_progress_just_before_the_end_is_told(run: Run) -> None:
    told: list[str] = []
    run("echo progress: done >&2", on_progress=told.append)
    assert told == ["done"]


def test_stdout_can_be_taken_line_by_line_and_is_then_not_limited(run: Run) -> None:
    lines: list[bytes] = []

    def take(line: bytes) -> str:
        lines.append(line)
        return ""

    script = "printf 'a\\n\\nb'; sleep 0.05; printf 'c\\n'; seq 2000; printf end"
    ended = run(script, take_line=take)
    assert (ended.reason, ended.stdout) == ("exit", b"")
    assert lines[:3] == [b"a", b"bc", b"1"]
    assert (len(lines), lines[-1]) == (2003, b"end")


def test_what_a_line_says_can_be_told_as_progress(run: Run) -> None:
    told: list[str] = []
    run("echo a; echo b", on_progress=told.append, take_line=lambda line: line.decode() if line == b"a" else "")
    assert told == ["a"]


def test_a_line_without_end_is_left_out_and_does_not_fill_the_memory(run: Run) -> None:
    lines: list[bytes] = []

    def take(line: bytes) -> str:
        lines.append(line)
        return ""

    run("echo a; head -c 40000000 /dev/zero; echo; echo b", take_line=take)
    assert lines == [b"a", b"b"]


def test_a_closed_stdout_is_not_the_end(run: Run) -> None:
    ended = run("exec >&- 2>&-; sleep 0.2; exit 5")
    assert (ended.exit_code, ended.reason) == (5, "exit")


@pytest.mark.parametrize("argv", [(), ("/does/not/exist",), ("a\0b",)])
def test_what_cannot_be_started_is_a_spawn_error(tmp_path: Path, argv: tuple[str, ...]) -> None:
    (tmp_path / "input").touch()
    with pytest.raises(SpawnError):
        start(build_order(tmp_path, *argv), ProcessGroups(is_reaper=False))


def test_two_commands_side_by_side_do_not_kill_each_other(tmp_path: Path, halt: Halt) -> None:
    groups = ProcessGroups(is_reaper=False)
    (tmp_path / "input").touch()
    other_dir = tmp_path / "other"
    env = {"PATH": os.environ["PATH"], "MARK": str(other_dir)}
    long = build_order(tmp_path, "sh", "-c", "sleep 0.4; echo ok", env=env, marker=str(other_dir))
    short = build_order(tmp_path, "true")
    long_child, short_child = start(long, groups), start(short, groups)
    other_halt = Halt()
    watch(short_child, short, groups, other_halt, lambda _: None)
    other_halt.close()
    assert watch(long_child, long, groups, halt, lambda _: None).stdout == b"ok\n"
