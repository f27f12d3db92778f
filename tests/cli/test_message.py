"""`message`: what the log holds, as people and as programs read it."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.api.app import build_app
from reconciler.api.operations import HubOperations
from reconciler.api.server import ApiServer
from reconciler.cli import main
from reconciler.home import open_home, prepare_run
from reconciler.kinds import KINDS
from reconciler.loop.serve import Hub
from reconciler.router.client import RouterLink
from reconciler.router.traffic import Row, TrafficDatabase
from tests.fakes.fleet import FakeFleet
from tests.router.fleet import basic_config, instance_entry

NOW = 1_760_000_000.0
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Calls the command line on the fleet of `tmp_path`: exit code, standard output, standard error."""
    monkeypatch.setenv("RECONCILER_RUN", "/tmp/rc-none")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    open_home(tmp_path, create=True)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reconciler", "message", *arguments, "--data", str(tmp_path)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def write(folder: Path, *rows: Row) -> None:
    database = TrafficDatabase(folder / "traffic.db")
    database.commit(list(rows), [])
    database.close()


def row(n: int, **more: object) -> Row:
    fields: dict[str, object] = {
        "instance": "writer-0",
        "agent": "writer",
        "verdict": "allow",
        "msg_id": f"m{n}",
        "type": "review.note",
        "recipient": "reviewer",
        "payload": '{"n":1.50}',
    }
    return Row(time=NOW + n, **{**fields, **more})  # type: ignore[arg-type]


ROWS = [
    row(0),
    row(1, verdict="deny", code="forbidden", reason="the policy does not allow it, for reasons that are long"),
    row(2, instance="checker-with-a-long-name-0", agent="checker", recipient="topic:finding.raised.in.a.far.place"),
    row(3, verdict="deny", code="rate_limited", msg_id=None, type=None, recipient=None, payload=None, count=37),
    row(4, type="task.completed", recipient="hub", payload=None, payload_sha256="0" * 64),
]


def test_tail_shows_the_newest_within_a_hundred_columns(run: Run, tmp_path: Path) -> None:
    write(tmp_path, *ROWS)
    code, out, _ = run("tail", "-n", "4")
    assert code == 0
    assert out.splitlines() == [
        "TIME     FROM              TO                    TYPE                 VERDICT",
        "08:53:21 writer-0          reviewer              review.note          forbidden: the policy does no…",
        "08:53:22 checker-with-a-l… topic:finding.raised… review.note          allow",
        "08:53:23 writer-0          -                     -                    37 times rate_limited",
        "08:53:24 writer-0          hub                   task.completed       allow",
    ]
    assert max(map(len, out.splitlines())) <= 100


def test_what_does_not_print_cannot_play_with_the_terminal(run: Run, tmp_path: Path) -> None:
    write(tmp_path, row(0, verdict="deny", code="internal", reason="\x1b[2J\x9b31m\ttext\u202e"))
    _, out, _ = run("tail")
    assert out.splitlines()[1].endswith("internal: ·[2J·31m·text·")


def test_tail_filters(run: Run, tmp_path: Path) -> None:
    write(tmp_path, *ROWS)

    def ids(*arguments: str) -> list[str]:
        return [json.loads(line)["msg_id"] for line in run("tail", "-o", "json", *arguments)[1].splitlines()]

    assert ids("--verdict", "deny") == ["m1", None]
    assert ids("--code", "forbidden") == ["m1"]
    assert ids("--agent", "checker") == ["m2"]
    assert ids("--type", "task.*") == ["m4"]
    assert ids("--since", "2025-10-09T08:53:22Z") == ["m2", None, "m4"]
    assert ids("--since", "10m") == []


def test_json_has_one_object_per_line_with_the_payload_as_it_was_kept(run: Run, tmp_path: Path) -> None:
    write(tmp_path, *ROWS)
    lines = [json.loads(line) for line in run("tail", "-o", "json")[1].splitlines()]
    assert (lines[0]["time"], lines[0]["payload"]) == ("2025-10-09T08:53:20.000Z", {"n": 1.5})
    assert (lines[4]["payload"], lines[4]["payload_sha256"]) == (None, "0" * 64)
    exported = [json.loads(line) for line in run("export")[1].splitlines()]
    assert exported == lines


def test_json_says_when_it_was_decided_where_that_is_known(run: Run, tmp_path: Path) -> None:
    write(tmp_path, row(0), row(7, decided_at=NOW + 1.5))
    lines = [json.loads(line) for line in run("tail", "-o", "json")[1].splitlines()]
    assert [line["decided_at"] for line in lines] == [None, "2025-10-09T08:53:21.500Z"]
    assert [json.loads(line)["decided_at"] for line in run("export")[1].splitlines()] == [
        None,
        "2025-10-09T08:53:21.500Z",
    ]
    rows = csv.DictReader(io.StringIO(run("export", "--format", "csv")[1]))
    assert [r["decided_at"] for r in rows] == ["", "2025-10-09T08:53:21.500Z"]


def test_export_of_a_time_range_as_csv(run: Run, tmp_path: Path) -> None:
    write(tmp_path, *ROWS)
    times = ("--since", "2025-10-09T08:53:21Z", "--until", "2025-10-09T10:53:23+02:00")
    _, out, _ = run("export", "--format", "csv", *times)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["msg_id"], r["verdict"], r["payload"]) for r in rows] == [
        ("m1", "deny", '{"n":1.50}'),
        ("m2", "allow", '{"n":1.50}'),
    ]
    assert run("export", "--format", "csv", "--until", "2001-01-01T00:00:00Z")[1] == ""


def test_follow_goes_on_with_what_comes_until_it_is_stopped(run: Run, tmp_path: Path) -> None:
    write(tmp_path, row(0), row(1, verdict="deny", code="forbidden"))
    command = [sys.executable, "-m", "reconciler", "message", "tail", "-f", "-o", "json", "--verdict", "deny"]
    process = subprocess.Popen(
        [*command, "--data", str(tmp_path)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["msg_id"] == "m1"
        write(tmp_path, row(2), row(3, verdict="deny", code="forbidden"))
        assert json.loads(process.stdout.readline())["msg_id"] == "m3"
        write(tmp_path, row(4, verdict="deny", code="forbidden"))
        assert json.loads(process.stdout.readline())["msg_id"] == "m4"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tail", "--since", "yesterday"), "'yesterday' is no time; write how long ago, such as 10m"),
        (("tail",), "there is no message log"),
        (("export",), "there is no message log"),
        (("tail", "--verdict", "maybe"), "'maybe' is not one of"),
        (("send", "review.note", "{", "--to", "reviewer"), "the payload is not JSON"),
        (("send", "review.note", "@/none", "--to", "reviewer"), "the payload /none cannot be read: No such file"),
        (("send", "review.note", "--label", "team"), "--label 'team' is not of the form NAME=VALUE"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_do(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = run(*arguments)
    assert code == 64
    assert said in err


def test_without_a_fleet_there_is_nothing_to_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "fleet.json").unlink()
    code, _, err = run("tail")
    assert code == 64
    assert "there is no fleet in" in err


def test_without_a_hub_nothing_can_be_sent(run: Run) -> None:
    code, _, err = run("send", "review.note", "--to", "reviewer")
    assert code == 1
    assert "no hub answers on" in err


# --- send -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The command line on a fleet with a router that runs, two instances, and the operator plane in front."""
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp") as short:
        monkeypatch.setenv("RECONCILER_RUN", short)
        home = open_home(tmp_path, create=False)
        assert home is not None
        prepare_run(home)
        router = RouterLink(home.fleet, home.run, tmp_path)
        router.start()
        router.configure(basic_config())
        for name in ("writer-0", "reviewer-0"):
            router.put_instance(name, instance_entry(name.partition("-")[0], [("t" * 43, 4e9)]))
        (tmp_path / "record").mkdir()
        fleet = FakeFleet(tmp_path / "record")
        world = replace(fleet.world, router=router)
        operations = HubOperations(
            Hub(fleet.loop, world, KINDS, fleet.inspections), fleet.loop, world, lambda _drain: None
        )
        server = ApiServer(build_app(operations), home.run)
        server.start()
        yield run
        server.stop()
        fleet.end_hub()
        router.stop()


def test_an_event_is_sent_and_shown_in_the_log(hub: Run) -> None:
    code, out, _ = hub("send", "notice.planned", '{"at": "noon"}', "--to", "reviewer", "--as", "alice")
    assert code == 0
    assert out.startswith("message operator-")
    assert out.endswith(" is in 1 mailboxes: reviewer-0\n")
    (row,) = [json.loads(line) for line in hub("tail", "-o", "json")[1].splitlines()]
    assert (row["type"], row["recipient"], row["payload"]) == ("notice.planned", "reviewer", {"at": "noon"})
    assert row["instance"] == f"uid:{os.geteuid()} (alice)"


def test_a_broadcast_says_whom_it_reached(hub: Run, tmp_path: Path) -> None:
    (tmp_path / "notice.json").write_text('"from a file"')
    code, out, _ = hub("send", "notice.planned", f"@{tmp_path}/notice.json", "--all", "-o", "json")
    assert code == 0
    assert json.loads(out)["delivered"] == ["reviewer-0", "writer-0"]
    assert json.loads(hub("send", "notice.planned", "--role", "writer", "-o", "json")[1])["delivered"] == ["writer-0"]
    _, out, _ = hub("send", "notice.planned", "--label", "team=none")
    assert out.endswith("is in 0 mailboxes: nobody is there\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("notice.planned",), "exactly one of to, topic and audience"),
        (("notice.planned", "--to", "nobody"), "there is no instance of nobody"),
        (("task.assigned", "--to", "writer"), "task.assigned is a type of the hub's own"),
        (("Not A Type", "--to", "writer"), "$.type"),
    ],
)
def test_what_the_hub_does_not_send_is_said(hub: Run, arguments: tuple[str, ...], said: str) -> None:
    code, _, err = hub("send", *arguments)
    assert code == 64
    assert said in err
