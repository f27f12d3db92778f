"""`events`: rows of the audit log as a stream, each once and in order, whoever writes and however reading ends."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner

from reconciler.cli.events import events_command
from reconciler.errors import UsageError
from reconciler.store.audit import AuditEntry, append
from reconciler.store.store import FILE_NAME, Store

DEADLINE_S = 120.0
NOW = "2026-11-21T08:00:00+00:00"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / FILE_NAME)) as made:
        yield made


def row(name: str, **more: str) -> AuditEntry:
    fields = {"kind": "agent", "action": "create", "outcome": "applied", "time": NOW, **more}
    return AuditEntry(boottime=1.0, fleet="0a1b2c3d", name=name, **fields)


ROWS = [
    row("writer-0"),
    row("writer-1", action="restart", outcome="intent", cause="operator", actor="uid:7", reason="asked for"),
    row(
        "hub", kind="condition", action="RouterDown", outcome="noted", reason="now true: the router does not answer me"
    ),
    row(
        "a-task-with-a-name-that-is-long",
        kind="task",
        action="task.completed-with-more",
        time="2026-11-22T00:00:00+00:00",
    ),
    row("[x]?", kind="task", action="cancel", reason="line\nline", cause="operator", actor="uid:0"),
]


def ask(tmp_path: Path, *arguments: str) -> str:
    answer = CliRunner().invoke(events_command, [*arguments, "--data", str(tmp_path)], standalone_mode=False)
    if answer.exception is not None:
        raise answer.exception
    assert answer.return_value == 0
    return answer.stdout


def names(tmp_path: Path, *arguments: str) -> list[str]:
    return [json.loads(line)["name"] for line in ask(tmp_path, *arguments, "-o", "json").splitlines()]


def test_the_table_fits_a_hundred_columns(store: Store, tmp_path: Path) -> None:
    append(store, ROWS)
    assert ask(tmp_path).splitlines() == [
        "   SEQ TIME           UNIT                       ACTION         OUTCOME  REASON",
        "     1 11-21 08:00:00 agent/writer-0             create         applied",
        "     2 11-21 08:00:00 agent/writer-1             restart        intent   uid:7: asked for",
        "     3 11-21 08:00:00 condition/hub              RouterDown     noted    now true: the router does …",
        "     4 11-22 00:00:00 task/a-task-with-a-name-t… task.complete… applied",
        "     5 11-21 08:00:00 task/[x]?                  cancel         applied  uid:0: line·line",
    ]


def test_programs_get_every_column_in_one_object_per_line(store: Store, tmp_path: Path) -> None:
    append(store, ROWS[:1])
    (line,) = ask(tmp_path, "-o", "json").splitlines()
    found = json.loads(line)
    assert (found["seq"], found["fleet"], found["prev"], len(found["hash"])) == (1, "0a1b2c3d", "0" * 64, 64)


@pytest.mark.parametrize(
    ("arguments", "seqs"),
    [
        ((), (1, 2, 3, 4, 5)),
        (("-n", "2"), (4, 5)),
        (("-n", "0"), ()),
        (("--kind", "agent"), (1, 2)),
        (("--kind", "agent", "-n", "1"), (2,)),
        (("--name", "writer-*"), (1, 2)),
        (("--name", "writer"), ()),
        (("--name", "[x]?"), (5,)),
        (("--name", "[a-z]*"), ()),
        (("--action", "re*"), (2,)),
        (("--action", "RouterDown", "--kind", "condition"), (3,)),
        (("--since", "2026-11-22"), (4,)),
        (("--since", "2026-11-21T08:00"), (1, 2, 3, 4, 5)),
    ],
)
def test_rows_are_chosen_by_kind_name_action_and_time(
    store: Store, tmp_path: Path, arguments: tuple[str, ...], seqs: tuple[int, ...]
) -> None:
    append(store, ROWS)
    assert names(tmp_path, *arguments) == [ROWS[seq - 1].name for seq in seqs]


def test_without_a_number_the_newest_are_shown_but_all_since_a_time(store: Store, tmp_path: Path) -> None:
    append(store, [row(str(n)) for n in range(40)])
    assert names(tmp_path) == [str(n) for n in range(10, 40)]
    assert names(tmp_path, "--since", "2026-11-21") == [str(n) for n in range(40)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--since", "yesterday"), "--since takes 2026-11-21"), ((), "there is no fleet in")],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    if arguments:
        Store(tmp_path / FILE_NAME).close()
    with pytest.raises(UsageError, match=message):
        ask(tmp_path, *arguments)


# --- following --------------------------------------------------------------------------------------------------------


@pytest.fixture
def follower(store: Store, tmp_path: Path) -> "Iterator[subprocess.Popen[str]]":
    """One that follows all rows but those of tasks, and has shown the first."""
    append(store, [row("first")])
    command = [sys.executable, "-P", "-m", "reconciler", "events", "-f", "-o", "json", "--kind", "agent"]
    with subprocess.Popen([*command, "--data", str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def next_name(out: IO[str] | None) -> str:
    assert out is not None
    return str(json.loads(out.readline())["name"])


def test_rows_of_one_moment_come_each_once_and_in_order(store: Store, follower: "subprocess.Popen[str]") -> None:
    assert next_name(follower.stdout) == "first"

    def write() -> None:
        for n in range(100):
            append(store, [row(f"{n}.{k}") for k in range(10)] + [row("none", kind="task")])

    writing = threading.Thread(target=write)
    writing.start()
    found = [next_name(follower.stdout) for _ in range(1000)]
    writing.join()
    append(store, [row("last")])
    assert found == [f"{n}.{k}" for n in range(100) for k in range(10)]
    assert next_name(follower.stdout) == "last"


def test_following_ends_by_an_interrupt(follower: "subprocess.Popen[str]") -> None:
    assert next_name(follower.stdout) == "first"
    follower.send_signal(signal.SIGINT)
    assert follower.wait(DEADLINE_S) == 130


def test_following_ends_when_nobody_reads_any_more_though_nothing_comes(follower: "subprocess.Popen[str]") -> None:
    assert next_name(follower.stdout) == "first"
    assert follower.stdout is not None
    follower.stdout.close()
    assert follower.wait(DEADLINE_S) == 0


def test_who_reads_only_the_beginning_gets_no_error(store: Store, tmp_path: Path) -> None:
    append(store, [row("n" * 60) for _ in range(5000)])
    command = [sys.executable, "-P", "-m", "reconciler", "events", "--since", "2026-11-21", "-o", "json"]
    with subprocess.Popen(
        [*command, "--data", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert next_name(process.stdout) == "n" * 60
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(DEADLINE_S)) == ("", 0)
