"""What every script does with its input: good input runs, bad input ends with one clear line."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from .stage import ROOT, Repository, Work, git, read_argv

AGENTS = sorted(path.stem for path in (ROOT / "agents.d").glob("*.yaml"))


@pytest.mark.parametrize("agent", AGENTS)
def test_an_unknown_operation_is_refused_with_the_known_ones(work: Work, repository: Repository, agent: str) -> None:
    done = work(agent, {"do": "dance"}, repository.path)
    assert (done.exit_code, done.result) == (1, None)
    assert done.errors.startswith("the input's 'do' is \"dance\"; it must be one of ")
    assert done.errors.count("\n") == 1


@pytest.mark.parametrize("given", [None, "size", ["size"], {}, {"do": 1}, {"do": None}])
def test_input_without_an_operation_is_refused(work: Work, repository: Repository, given: object) -> None:
    done = work("analyst", given, repository.path)
    assert done.exit_code == 1
    assert "input" in done.errors


@pytest.mark.parametrize(
    ("agent", "given", "said"),
    [
        ("analyst", {"do": "size", "tpo": 3}, "takes top"),
        ("analyst", {"do": "size", "task": "x"}, "takes top"),
        ("analyst", {"do": "size", "top": "3"}, 'is "3"; it must be like 10'),
        ("analyst", {"do": "size", "top": True}, "is true; it must be like 10"),
        ("analyst", {"do": "size", "top": -1}, "is -1; it must be like 10"),
        ("analyst", {"do": "churn", "since": 5}, 'is 5; it must be like ""'),
        ("performer", {"do": "secrets", "allow": "tests"}, "it must be like []"),
        ("performer", {"do": "secrets", "allow": [1]}, "it must be like []"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(
    work: Work, repository: Repository, agent: str, given: dict[str, object], said: str
) -> None:
    repository.commit({"a": ""})
    done = work(agent, given, repository.path)
    assert done.exit_code == 1
    assert said in done.errors


def test_without_the_daemon_the_script_says_what_it_needs(tmp_path: Path) -> None:
    done = subprocess.run(
        read_argv("analyst"),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == ("HUB_TASK_DIR and HUB_WORKSPACE not set; agentd sets them for every executor\n")


def test_settings_of_the_account_change_nothing(work: Work, repository: Repository, tmp_path: Path) -> None:
    repository.commit({"ü.py": "x = 1\n"})
    (tmp_path / ".gitconfig").write_text("[core]\n\tquotePath = true\n[log]\n\tshowSignature = true\n")
    env = {"HOME": str(tmp_path), "GIT_DIR": "/nonexistent", "LC_ALL": "C"}
    result = work("analyst", {"do": "churn"}, repository.path, env=env).result
    assert [row["path"] for row in result["files"]] == ["ü.py"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a repository away")
def test_a_repository_of_somebody_else_can_be_read(work: Work, repository: Repository) -> None:
    repository.commit({"a": "1\n"})
    for folder, folders, files in os.walk(repository.path):
        for name in (".", *folders, *files):
            os.lchown(os.path.join(folder, name), 12345, 12345)
    assert work("analyst", {"do": "churn"}, repository.path).result["figures"]["commits"] == 1


def test_without_git_the_script_says_so(work: Work, repository: Repository, tmp_path: Path) -> None:
    repository.commit({"a": "1\n"})
    done = work("analyst", {"do": "churn"}, repository.path, env={"PATH": str(tmp_path)})
    assert done.exit_code == 1
    assert "git" in done.errors


def test_the_revision_is_part_of_every_result(work: Work, repository: Repository) -> None:
    repository.commit({"a": "1\n"})
    result = work("librarian", {"do": "links"}, repository.path, task="doc-links").result
    assert result["revision"] == git(repository.path, "rev-parse", "HEAD").strip()
    assert (result["do"], result["task"]) == ("links", "doc-links")
    assert json.dumps(result).isascii()
