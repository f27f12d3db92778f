"""What is particular to each provider of secrets: odd files, hanging programs, the hub's environment."""

import os
import time
from pathlib import Path

import pytest

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.core.secret import SecretValue
from reconciler.identity.secrets import CommandSecrets, FileSecrets, NoSecrets, open_provider
from reconciler.settings import OperatorSecrets

HUNTER = b"hunter2"


def program(folder: Path, text: str) -> str:
    path = folder / "provider"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def run(folder: Path, text: str, timeout_s: float = 20) -> Reading[SecretValue]:
    return CommandSecrets(program(folder, text), timeout_s).read("deploy-key")


def reason(reading: Reading[SecretValue]) -> str:
    assert isinstance(reading, Unavailable), reading
    return reading.reason


def is_gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def test_a_program_gets_the_name_alone_and_nothing_of_the_hubs_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUB_SECRET", "hunter2")
    reading = run(tmp_path, 'echo "$# $1 $(pwd) $(env | cut -d= -f1 | sort | tr "\\n" " ") $(cat | wc -c)"')
    assert isinstance(reading, Ok)
    count, name, place, *variables, read = reading.value.content.decode().split()
    assert (count, name, place, read) == ("1", "deploy-key", "/", "0")
    assert set(variables) <= {"LANG", "PATH", "PWD", "OLDPWD", "SHLVL", "_"}


def test_a_program_that_fails_is_not_quoted(tmp_path: Path) -> None:
    said = reason(run(tmp_path, "echo hunter2; echo hunter2 >&2; exit 7"))
    assert said == f"{tmp_path}/provider ended with status 7"


def test_a_program_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    started = time.monotonic()
    said = reason(run(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/pid; wait", timeout_s=1))
    assert said.endswith("gave no answer within 1s")
    while not is_gone(int((tmp_path / "pid").read_text())):
        assert time.monotonic() - started < 20


def test_a_program_that_closes_its_output_and_hangs_is_ended(tmp_path: Path) -> None:
    said = reason(run(tmp_path, "echo hunter2; exec sleep 1000 >&-", timeout_s=1))
    assert said.endswith("did not end within 1s")


def test_a_program_that_prints_without_end_is_ended(tmp_path: Path) -> None:
    assert reason(run(tmp_path, "yes hunter2")) == "it is larger than 64 KiB"


@pytest.mark.parametrize(("mode", "said"), [(None, "No such file"), (0o600, "Permission denied")])
def test_a_program_that_cannot_be_run_is_said(tmp_path: Path, mode: int | None, said: str) -> None:
    path = tmp_path / "provider"
    if mode is not None:
        path.write_text("#!/bin/sh\n")
        path.chmod(mode)
    assert said in reason(CommandSecrets(str(path), 5).read("deploy-key"))


def test_a_pipe_a_directory_and_a_lost_folder_are_no_secrets(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    provider = FileSecrets(tmp_path)
    assert provider.read("pipe") == Absent()
    assert "Is a directory" in reason(provider.read("folder"))
    assert "is not there" in reason(FileSecrets(tmp_path / "missing").read("deploy-key"))


def test_a_link_to_a_file_elsewhere_is_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(HUNTER)
    (tmp_path / "deploy-key").symlink_to("target")
    assert FileSecrets(tmp_path).read("deploy-key") == Ok(SecretValue(HUNTER))


def test_variables_are_taken_out_of_the_environment_that_children_get() -> None:
    environ = {"RECONCILER_SECRET_A": "hunter2", "OTHER": "x", "HOME": "/"}
    provider = open_provider(OperatorSecrets(provider="env"), environ)
    assert provider.read("a") == Ok(SecretValue(HUNTER))
    assert environ == {"OTHER": "x", "HOME": "/"}
    assert open_provider(OperatorSecrets(provider="env", path="OTH"), environ).read("er") == Ok(SecretValue(b"x"))


def test_the_operator_chooses_where_secrets_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(HUNTER)
    environ = {"RECONCILER_SECRET_A": "x"}
    file = open_provider(OperatorSecrets(path=str(tmp_path)), environ)
    command = open_provider(OperatorSecrets(provider="command", path=program(tmp_path, "echo")), environ)
    assert file.read("a") == Ok(SecretValue(HUNTER))
    assert command.read("a") == Ok(SecretValue(b"\n"))
    assert "names no place for a (operator.yaml: secrets.path)" in reason(
        open_provider(OperatorSecrets(), environ).read("a")
    )
    assert isinstance(open_provider(OperatorSecrets(), environ), NoSecrets)
    assert environ == {"RECONCILER_SECRET_A": "x"}
