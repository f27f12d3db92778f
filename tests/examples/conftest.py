"""Fixtures of the stage on which the scripts of the example fleet are tested."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .stage import ROOT, ListeningHub, Repository, Work, git, listen


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository without a commit."""
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    return Repository(path=path)


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this repository, with what is not committed yet as one more commit."""
    path = tmp_path_factory.mktemp("snapshot") / "clone"
    git(ROOT, "clone", "-q", "--no-hardlinks", str(ROOT), str(path))
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, path / name)
    git(path, "add", "-A")
    git(path, "commit", "-q", "--allow-empty", "-m", "the working tree")
    return path


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ListeningHub]:
    with listen(tmp_path) as listening:
        yield listening


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(folder=tmp_path)
