"""What goes from the run-time directory after a complete `down`, and what stays."""

from pathlib import Path

import pytest

from reconciler.home import Home, clear_run


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A run-time directory as a fleet leaves it whose router was killed."""
    run = tmp_path / "run" / "0a1b2c3d"
    for folder in ("hub/a-0", "hub/b-0", "secrets/a-0", "process/.lib/0123/reconciler", "process/.uids"):
        (run / folder).mkdir(parents=True)
    for file in ("api.sock", "control.sock", "router.pid", "home", "process/.events", "process/.uids/2010000001"):
        (run / file).touch()
    return Home(state=tmp_path, run=run, fleet="0a1b2c3d", seal_key=b"")


def test_nothing_of_ours_is_left(home: Home) -> None:
    clear_run(home)
    assert not home.run.exists()
    assert home.run.parent.exists()
    clear_run(home)


@pytest.mark.parametrize("stranger", ["notes", "hub/a-0/notes", "secrets/notes", "process/a-0/spec.json", "hub/x/y/z"])
def test_what_is_not_ours_stays_with_what_it_is_in(home: Home, stranger: str) -> None:
    (home.run / stranger).parent.mkdir(parents=True, exist_ok=True)
    (home.run / stranger).write_text("mine")
    clear_run(home)
    left = [p for p in home.run.rglob("*") if not p.is_dir() and "process/." not in str(p)]
    assert left == [home.run / stranger]


def test_containers_of_the_process_runtime_keep_what_they_run_from(home: Home) -> None:
    (home.run / "process" / "a-0").mkdir()
    clear_run(home)
    assert (home.run / "process" / ".lib" / "0123" / "reconciler").is_dir()
    assert not (home.run / "hub").exists()


def test_a_link_is_not_followed(home: Home, tmp_path: Path) -> None:
    (tmp_path / "other" / "empty").mkdir(parents=True)
    (home.run / "hub" / "link").symlink_to(tmp_path / "other")
    clear_run(home)
    assert (tmp_path / "other" / "empty").is_dir()
    assert (home.run / "hub" / "link").is_symlink()
