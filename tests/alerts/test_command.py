"""The command: gets the notice as its input, nothing of the hub's environment, and not more than its time."""

import json
import os
import stat
import time
from pathlib import Path

import pytest

from reconciler.alerts.command import CommandSink
from reconciler.alerts.sink import Sent
from reconciler.settings import SinkCommand

DOCUMENT = json.dumps({"id": "n-1", "type": "RouterDown"}).encode()


def script(folder: Path, text: str) -> str:
    path = folder / "notify"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def sink_of(*argv: str, timeout_s: float = 60.0) -> CommandSink:
    return CommandSink(SinkCommand(argv=argv), timeout_s)


def test_it_gets_the_notice_its_arguments_and_no_environment_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECONCILER_SECRET_X", "planted")
    program = script(tmp_path, f'{{ cat; echo; echo "$1"; pwd; env; }} > {tmp_path}/out')
    assert sink_of(program, "two words").send(DOCUMENT) == Sent()
    got = (tmp_path / "out").read_text().splitlines()
    assert got[:3] == [DOCUMENT.decode(), "two words", "/"]
    assert {line.partition("=")[0] for line in got[3:]} <= {"PATH", "LANG", "PWD", "SHLVL", "_", "OLDPWD"}


@pytest.mark.parametrize("text", ["exit 3", "exec 0<&-; exit 3"])
def test_any_status_but_0_is_a_fault(tmp_path: Path, text: str) -> None:
    program = script(tmp_path, text)
    assert sink_of(program).send(DOCUMENT * 10_000) == Sent(fault=f"{program} ended with status 3")


def test_what_it_prints_goes_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert sink_of(script(tmp_path, "echo secret; echo secret >&2")).send(DOCUMENT) == Sent()
    assert capfd.readouterr() == ("", "")


def test_one_that_is_not_there_is_a_fault() -> None:
    assert sink_of("/no/such").send(DOCUMENT) == Sent(fault="/no/such cannot be run: No such file or directory")


def test_one_that_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    program = script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid; wait")
    assert sink_of(program, timeout_s=5).send(DOCUMENT).fault == f"{program} did not end within 5s"
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_it_leaves_behind_is_killed_too(tmp_path: Path) -> None:
    program = script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid")
    assert sink_of(program).send(DOCUMENT) == Sent()
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
