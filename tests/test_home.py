"""The places of a fleet: its lock, its identity, its run-time directory, and the operator's settings."""

import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from reconciler.errors import LockedError, StoreError, UsageError
from reconciler.home import data_folder, is_locked, lock, open_home, open_source, prepare_run, read_operator, run_folder
from reconciler.settings import OperatorSpec

HEAD = "apiVersion: reconciler/v1\nkind: Operator\n"


def test_data_is_beside_the_source_unless_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_folder("repo", None) == tmp_path / "repo" / ".reconciler"
    assert data_folder("repo", "data") == tmp_path / "data"


def test_one_hub_at_a_time_holds_a_data_directory(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "data")
    with lock(tmp_path / "data"):
        assert is_locked(tmp_path / "data")
        with pytest.raises(LockedError, match=rf"another hub \(pid {os.getpid()}\) runs on"), lock(tmp_path / "data"):
            pass
        assert is_locked(tmp_path / "data")
    assert not is_locked(tmp_path / "data")
    with lock(tmp_path / "data"):
        pass


def test_a_data_directory_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with (
        pytest.raises(StoreError, match="cannot be used: File exists; name another with --data"),
        lock(tmp_path / "data"),
    ):
        pass


def test_a_fleet_is_made_once_with_a_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    assert open_home(tmp_path, create=False) is None
    made = open_home(tmp_path, create=True)
    again = open_home(tmp_path, create=False)
    assert made is not None
    assert again is not None
    assert (again.fleet, again.seal_key, again.run) == (made.fleet, made.seal_key, made.run)
    assert (len(made.fleet), len(made.seal_key)) == (8, 32)
    assert stat.S_IMODE((tmp_path / "fleet.json").stat().st_mode) == 0o600
    assert "*" in (tmp_path / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", '{"fleet": "0"}', '{"fleet": "0", "key": "xyz"}', '{"key": "00"}']
)
def test_an_identity_that_cannot_be_read_is_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "fleet.json").write_text(text)
    with pytest.raises(StoreError, match="the fleet's identity in"):
        open_home(tmp_path, create=True)
    assert (tmp_path / "fleet.json").read_text() == text


def test_socket_paths_must_be_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_RUN", "/tmp/x")
    assert run_folder("0a1b2c3d") == Path("/tmp/x/0a1b2c3d")
    monkeypatch.setenv("RECONCILER_RUN", "/tmp/" + "x" * 60)
    with pytest.raises(UsageError, match="the system allows 107; set RECONCILER_RUN to a shorter directory"):
        run_folder("0a1b2c3d")


def test_the_run_time_directory_may_be_passed_through_and_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp") as short:
        monkeypatch.setenv("RECONCILER_RUN", f"{short}/run")
        home = open_home(tmp_path / "data", create=True)
        assert home is not None
        prepare_run(home)
        prepare_run(home)
        assert stat.S_IMODE(home.run.stat().st_mode) == 0o711
        assert [(p.name, p.read_text()) for p in home.run.iterdir()] == [("home", f"{tmp_path / 'data'}\n")]


def test_a_source_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a directory; name a repository with --source"):
        open_source(str(tmp_path / "missing"), branch=None)


# --- operator.yaml ----------------------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> tuple[OperatorSpec, list[str]]:
    file = tmp_path / "operator.yaml"
    file.write_text(text)
    spec, problems = read_operator(str(file))
    return spec, [str(p).removeprefix(f"{tmp_path}/") for p in problems]


def test_the_operator_decides_how_much_there_may_be(tmp_path: Path) -> None:
    spec, problems = read(
        tmp_path, HEAD + "spec: {maxima: {agents: 5, memory: 1GiB}, runtime: {processRuntime: true}}\n"
    )
    assert problems == []
    assert (spec.maxima.agents, spec.maxima.memory, spec.runtime.process_runtime) == (5, 2**30, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            HEAD + "spec: {maxima: {agnets: 5}}\n",
            "operator.yaml:3:17: unknown key 'agnets' in spec.maxima; did you mean 'agen",
        ),
        (
            HEAD + "spec: {maxima: {agents: five}}\n",
            "operator.yaml:3:17: spec.maxima.agents is 'five'; expected a whole num",
        ),
        (HEAD + "---\n" + HEAD, "operator.yaml: holds 2 documents; it must hold one"),
        ("a: [\n", "operator.yaml:2:1: is not valid YAML"),
        ("", "operator.yaml:1:1: the document is empty; expected a mapping"),
        ("kind: Hub\napiVersion: reconciler/v1\n", "operator.yaml:1:1: kind is 'Hub'; expected 'Operator'"),
    ],
)
def test_a_fault_in_it_gives_safe_defaults_and_says_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    spec, problems = read(tmp_path, text)
    assert spec == OperatorSpec()
    assert len(problems) == 1
    assert problems[0].startswith(said)


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    spec, (problem,) = read_operator(str(tmp_path / "missing.yaml"))
    assert spec == OperatorSpec()
    assert "is not there; name another file with --operator" in problem.message


def test_without_one_there_are_safe_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    if not Path("/etc/reconciler/operator.yaml").exists():
        assert read_operator(None) == (OperatorSpec(), ())
    (tmp_path / "reconciler").mkdir()
    (tmp_path / "reconciler" / "operator.yaml").write_text(HEAD + "spec: {maxima: {agents: 5}}\n")
    assert read_operator(None)[0].maxima.agents == 5


def test_identity_is_json_that_a_person_can_back_up(tmp_path: Path) -> None:
    open_home(tmp_path, create=True)
    assert sorted(json.loads((tmp_path / "fleet.json").read_text())) == ["fleet", "key"]
