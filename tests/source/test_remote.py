"""A remote repository as a source: when it is asked, what is said when it is away, and how its mirror mends itself."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.reading import Ok, Unavailable
from reconciler.errors import SourceError
from reconciler.source.remote import JITTER, RemoteRepository
from tests.source.remotes import Shared, await_head, await_that, follow, head_of, mirror_of


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path)


@pytest.fixture
def source(shared: Shared, tmp_path: Path) -> Iterator[RemoteRepository]:
    made = follow(mirror_of(tmp_path, shared.url))
    yield made
    made.close()


def reason(source: RemoteRepository) -> str:
    reading = source.head()
    assert isinstance(reading, Unavailable), reading
    return reading.reason


def test_the_first_head_waits_for_the_first_fetch(shared: Shared, source: RemoteRepository) -> None:
    revision = head_of(source)
    assert revision.id == shared.work.git("rev-parse", "HEAD")
    assert revision.author == "Ada <ada@example.org>"


def test_it_is_asked_again_when_told_to_and_not_before(shared: Shared, source: RemoteRepository) -> None:
    first = head_of(source).id
    second = shared.push({"hub.yaml": "a: 2\n"})
    assert head_of(source).id == first
    await_head(source, second)


def test_it_is_asked_at_each_poll_without_being_told(shared: Shared, tmp_path: Path) -> None:
    source = RemoteRepository(mirror_of(tmp_path, shared.url), poll_s=0.2)
    head_of(source)
    second = shared.push({"hub.yaml": "a: 2\n"})
    await_that(lambda: isinstance(found := source.head(), Ok) and found.value.id == second)
    source.close()


def test_polls_of_many_hubs_drift_apart(shared: Shared, tmp_path: Path) -> None:
    source = RemoteRepository(mirror_of(tmp_path, shared.url), poll_s=100.0)
    pauses = {source._pause_s() for _ in range(50)}
    assert all(100 * (1 - JITTER) <= pause <= 100 * (1 + JITTER) for pause in pauses)
    assert len(pauses) > 1
    source.close()


def test_a_remote_that_is_away_is_unavailable_until_it_is_back(
    shared: Shared, source: RemoteRepository, tmp_path: Path
) -> None:
    first = head_of(source).id
    shared.bare.path.rename(tmp_path / "away")
    source.refresh()
    await_that(lambda: isinstance(source.head(), Unavailable))
    assert reason(source).startswith(f"SourceUnavailable: fetching {shared.url}: ")
    found = source.snapshot(first)
    assert isinstance(found, Ok)
    assert found.value.read(found.value.entries("hub.yaml")) == {"hub.yaml": b"a: 1\n"}
    (tmp_path / "away").rename(shared.bare.path)
    await_head(source, first)


def test_it_is_told_when_the_remote_goes_away_and_when_it_is_back_and_of_each_push(
    shared: Shared, source: RemoteRepository, tmp_path: Path
) -> None:
    told: list[str] = []

    def note() -> None:
        reading = source.head()
        said = reading.value.id if isinstance(reading, Ok) else "away"
        if told[-1:] != [said]:
            told.append(said)

    source.notify(note)
    first = head_of(source).id
    await_that(lambda: told == [first])
    second = shared.push({"hub.yaml": "a: 2\n"})
    source.refresh()
    await_that(lambda: told == [first, second])
    shared.bare.path.rename(tmp_path / "away")
    source.refresh()
    await_that(lambda: told == [first, second, "away"])
    (tmp_path / "away").rename(shared.bare.path)
    await_head(source, second)
    await_that(lambda: told == [first, second, "away", second])


def test_a_mirror_outlives_its_process(shared: Shared, source: RemoteRepository, tmp_path: Path) -> None:
    first = head_of(source).id
    source.close()
    shared.bare.path.rename(tmp_path / "away")
    again = follow(mirror_of(tmp_path, shared.url))
    assert "SourceUnavailable" in reason(again)
    assert isinstance(again.snapshot(first), Ok)
    again.close()


def test_a_snapshot_stays_what_it_is_while_the_branch_moves(shared: Shared, source: RemoteRepository) -> None:
    first = head_of(source).id
    taken = source.snapshot(first)
    assert isinstance(taken, Ok)
    shared.work.git("checkout", "--quiet", "--orphan", "other")
    await_head(source, shared.push({"hub.yaml": "a: 9\n"}))
    assert taken.value.read(taken.value.entries("hub.yaml")) == {"hub.yaml": b"a: 1\n"}
    assert not source.is_ancestor(first, head_of(source).id)


def test_a_damaged_object_is_fetched_anew(shared: Shared, source: RemoteRepository, tmp_path: Path) -> None:
    first = head_of(source).id
    blob = shared.work.git("rev-parse", "HEAD:hub.yaml")
    loose = tmp_path / "mirror/objects" / blob[:2] / blob[2:]
    loose.chmod(0o644)
    loose.write_bytes(b"rubbish")
    taken = source.snapshot(first)
    assert isinstance(taken, Ok)
    with pytest.raises(SourceError):
        taken.value.read(taken.value.entries("hub.yaml"))
    taken.value.close()

    def is_mended() -> bool:
        found = source.snapshot(first)
        assert isinstance(found, Ok)
        try:
            return found.value.read(found.value.entries("hub.yaml")) == {"hub.yaml": b"a: 1\n"}
        except SourceError:
            return False
        finally:
            found.value.close()

    await_that(is_mended)


def test_damage_that_is_noticed_while_the_remote_is_away_is_mended_when_it_is_back(
    shared: Shared, source: RemoteRepository, tmp_path: Path
) -> None:
    first = head_of(source).id
    away = shared.bare.path.rename(tmp_path / "away")
    source.refresh()
    await_that(lambda: isinstance(source.head(), Unavailable))
    taken = source.snapshot(first)
    assert isinstance(taken, Ok)
    for file in (tmp_path / "mirror/objects").rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(SourceError):
        taken.value.entries("")
    taken.value.close()
    away.rename(shared.bare.path)
    await_head(source, first)


@pytest.mark.parametrize("harm", ["gone", "objects", "locked", "file"])
def test_a_damaged_mirror_comes_back_by_itself(
    shared: Shared, source: RemoteRepository, tmp_path: Path, harm: str
) -> None:
    head_of(source)
    mirror = tmp_path / "mirror"
    match harm:
        case "gone":
            shutil.rmtree(mirror)
        case "objects":
            shutil.rmtree(mirror / "objects")
        case "locked":
            (mirror / "refs/remote/tip.lock").write_text("")
        case _:
            shutil.rmtree(mirror)
            mirror.write_text("a file")
    await_head(source, shared.push({"hub.yaml": "a: 2\n"}))
    await_that(lambda: [p.name for p in tmp_path.iterdir() if p.name.startswith("mirror")] == ["mirror"])


def test_what_a_remote_lacks_is_no_reason_to_make_the_mirror_anew(shared: Shared, tmp_path: Path) -> None:
    first = follow(mirror_of(tmp_path, shared.url))
    head_of(first)
    first.close()
    inode = os.stat(tmp_path / "mirror").st_ino
    other = follow(mirror_of(tmp_path, shared.url, "none"))
    assert "couldn't find remote ref refs/heads/none" in reason(other)
    other.close()
    assert os.stat(tmp_path / "mirror").st_ino == inode


def test_what_is_watched_is_where_the_followed_commit_stands(source: RemoteRepository, tmp_path: Path) -> None:
    assert source.watch_paths() == []
    head_of(source)
    assert source.watch_paths() == [str(tmp_path / "mirror/refs/heads")]


def test_hostile_names_are_set_aside_and_twins_by_case_are_two_files(shared: Shared, source: RemoteRepository) -> None:
    work = shared.work
    blob = work.blob(b"x\n")
    evil = work.hash_tree(f"100644 blob {blob}\tevil.yaml")
    records = [f"100644 blob {blob}\t{name}" for name in ("A.yaml", "a.yaml", "ä.yaml")]
    folder = work.git(
        "mktree",
        "-z",
        stdin=b"\0".join(
            [r.encode() for r in records]
            + [
                f"100644 blob {blob}\tb\nc.yaml".encode(),
                f"100644 blob {blob}\td\u202ed.yaml".encode(),
                f"040000 tree {evil}\t..".encode(),
                f"040000 tree {evil}\t.git".encode(),
                b"",
            ]
        ),
    )
    commit = work.commit_tree(work.hash_tree(f"040000 tree {folder}\tagents.d"))
    work.git("push", "--quiet", "--force", "origin", f"{commit}:main")
    taken = source.snapshot(head_of(source).id)
    assert isinstance(taken, Ok)
    assert [e.path for e in taken.value.entries("agents.d")] == [
        f"agents.d/{n}" for n in ("A.yaml", "a.yaml", "ä.yaml")
    ]
    aside = {a.path: a.reason for a in taken.value.set_aside("agents.d")}
    assert len(aside) == 4, aside
    assert "agents.d/b\\nc.yaml" in aside
    taken.value.close()


def test_a_close_ends_a_fetch_that_hangs(shared: Shared, tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, "ssh://forge.example.org/x")
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\nsleep 3600\n")
    program.chmod(0o755)
    mirror.remote.ssh = str(program)
    source = follow(mirror)
    reader = threading.Thread(target=source.head)
    reader.start()
    await_that(lambda: (tmp_path / "asked").exists())
    source.close()
    reader.join(120)
    assert not reader.is_alive()
