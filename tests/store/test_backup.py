"""A data directory into one file and back: whole, as of one moment, and never a file that was cut short or changed."""

import hashlib
import io
import json
import os
import sqlite3
import stat
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reconciler.errors import StoreError, UsageError
from reconciler.store.backup import Contents, put_in_place, unpack_backup, write_backup
from reconciler.store.migrations import SCHEMA_VERSION
from reconciler.store.store import Store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FLEET = "0badf00d"
EVIDENCE = "evidence/a-0/20260102T030405000000Z/reason.json"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A data directory with something of each sort."""
    folder = tmp_path / "data"
    work = folder / "instances" / "a-0" / "workspace"
    for place in (work / "empty", folder / "artefacts", folder / "workspaces" / "full", folder / "log"):
        place.mkdir(parents=True)
    for name in ("lock", "traffic.lock", "traffic.reserve", ".gitignore", "log/router.log", "workspaces/full/x"):
        (folder / name).write_text(name)
    (folder / "fleet.json").write_text(json.dumps({"fleet": FLEET, "key": "00"}))
    (folder / "fleet.json").chmod(0o600)
    (folder / "artefacts" / "ab").write_bytes(b"report" * 1000)
    (folder / EVIDENCE).parent.mkdir(mode=0o700, parents=True)
    (folder / EVIDENCE).write_text('{"reason": "it exited with 1, 4 times in a row"}')
    (folder / EVIDENCE).chmod(0o600)
    (work / "run.sh").write_text("#!/bin/sh\n")
    (work / "run.sh").chmod(0o750)
    (work / "link").symlink_to("run.sh")
    Store(folder / "state.db").close()
    with closing(sqlite3.connect(folder / "traffic.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE hub_inbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT)")
        connection.executemany("INSERT INTO hub_inbox (body) VALUES (?)", [("x",)] * 7)
        connection.commit()
    return folder


def tree(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Mode and content of what is below; databases only by their being there."""
    out: dict[str, tuple[str, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        found = path.lstat()
        content = os.readlink(path).encode() if path.is_symlink() else b""
        if stat.S_ISREG(found.st_mode) and path.suffix != ".db":
            content = path.read_bytes()
        out[path.relative_to(folder).as_posix()] = (stat.filemode(found.st_mode), content)
    return out


def restore(file: Path, folder: Path, *, replace: bool = False) -> Contents:
    folder.mkdir(exist_ok=True)
    contents = unpack_backup(file, folder, replace=replace)
    put_in_place(folder, NOW)
    return contents


def back_up(state: Path, tmp_path: Path) -> Path:
    write_backup(state, tmp_path / "backup", FLEET, NOW)
    return tmp_path / "backup"


def rewritten(file: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The backup with other members."""
    with tarfile.open(file, "r:gz") as archive:
        members = {m.name: (archive.extractfile(m) or io.BytesIO()).read() for m in archive}
    change(members)
    other = file.with_name("other")
    with tarfile.open(other, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return other


def test_what_lasts_comes_back_as_it_was_and_nothing_else(state: Path, tmp_path: Path) -> None:
    file = back_up(state, tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    contents = restore(file, tmp_path / "new")
    assert (contents.fleet, contents.schema, contents.made_at) == (FLEET, SCHEMA_VERSION, NOW.isoformat())
    before, after = tree(state), tree(tmp_path / "new")
    before = {k: v for k, v in before.items() if not k.endswith(("-wal", "-shm"))}
    gone = {k for k in before if k.split("/")[0] in ("lock", "traffic.lock", "traffic.reserve", "log", "workspaces")}
    assert after.keys() == before.keys() - gone
    databases = {"state.db", "traffic.db"}
    assert {k: v for k, v in after.items() if k not in databases} == {k: before[k] for k in after if k not in databases}
    assert {after[name][0] for name in databases} == {"-rw-------"}
    with closing(sqlite3.connect(tmp_path / "new" / "traffic.db")) as connection:
        assert connection.execute("SELECT count(*) FROM hub_inbox").fetchone() == (7,)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backup", "data", "new"]


def test_evidence_of_what_was_isolated_comes_back_and_is_proven_by_its_digest(state: Path, tmp_path: Path) -> None:
    file = back_up(state, tmp_path)
    contents = restore(file, tmp_path / "new")
    again = tmp_path / "new" / EVIDENCE
    assert again.read_bytes() == (state / EVIDENCE).read_bytes()
    assert contents.files[EVIDENCE] == hashlib.sha256(again.read_bytes()).hexdigest()
    assert [stat.S_IMODE(p.stat().st_mode) for p in (again, again.parent)] == [0o600, 0o700]
    forged = rewritten(file, lambda members: members.update({EVIDENCE: b"{}"}))
    with pytest.raises(StoreError, match=f"{EVIDENCE} is missing or was changed"):
        restore(forged, tmp_path / "refused")
    lost = rewritten(file, lambda members: members.__delitem__(EVIDENCE))
    with pytest.raises(StoreError, match=f"{EVIDENCE} is missing or was changed"):
        restore(lost, tmp_path / "refused")


def test_databases_are_copied_while_others_write_to_them(state: Path, tmp_path: Path) -> None:
    store, stop = Store(state / "state.db"), threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            with store.transaction():
                store.set_meta("a", str(n))
                store.set_meta("b", str(n))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            file = back_up(state, tmp_path)
            restore(file, tmp_path / f"new{number}")
            copy = Store(tmp_path / f"new{number}" / "state.db")
            assert copy.get_meta("a") == copy.get_meta("b")
            copy.close()
    finally:
        stop.set()
        writer.join()
        store.close()


@pytest.mark.parametrize(("cursor", "kept"), [("5", "5"), ("7", "7"), ("9", "7")])
def test_the_cursor_is_never_beyond_the_copied_message_log(state: Path, tmp_path: Path, cursor: str, kept: str) -> None:
    store = Store(state / "state.db")
    store.set_meta("hub_inbox_cursor", cursor)
    store.close()
    restore(back_up(state, tmp_path), tmp_path / "new")
    copy = Store(tmp_path / "new" / "state.db")
    assert copy.get_meta("hub_inbox_cursor") == kept
    copy.close()


def test_a_full_directory_is_left_alone_and_with_replace_moved_aside(state: Path, tmp_path: Path) -> None:
    file = back_up(state, tmp_path)
    (state / "artefacts" / "later").write_text("x")
    before = tree(state)
    with pytest.raises(UsageError, match="is not empty"):
        restore(file, state)
    assert tree(state) == before
    restore(file, state, replace=True)
    assert (state / "replaced-20260102T030405" / "artefacts" / "later").exists()
    assert not (state / "artefacts" / "later").exists()
    assert (state / "lock").exists()
    again = write_backup(state, tmp_path / "again", FLEET, NOW)
    assert not [name for name in again.files if "replaced" in name]


def _drop(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        del members[name]

    return change


def _put(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: content})


def _contents(**values: object) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        members["backup.json"] = json.dumps({**json.loads(members["backup.json"]), **values}).encode()

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop("artefacts/ab"), "artefacts/ab is missing or was changed"),
        (_put("artefacts/ab", b"other"), "artefacts/ab is missing or was changed"),
        (_put("extra", b"x"), "extra is missing or was changed"),
        (_drop("backup.json"), "it was cut short, or is no backup"),
        (_contents(format=99), "another format"),
        (_contents(schema=999), "of a newer release"),
        (_contents(links={"../out": "x"}), "outside of a data directory"),
        (_put("../out", b"x"), "outside of a data directory"),
        (_put("/tmp/out", b"x"), "outside of a data directory"),
        (_contents(surprise=1), "surprise"),
    ],
)
def test_a_backup_that_was_changed_is_refused_and_nothing_is_put_in_place(
    state: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    other = rewritten(back_up(state, tmp_path), change)
    with pytest.raises(StoreError, match="nothing was changed") as caught:
        restore(other, tmp_path / "new")
    assert said in str(caught.value)
    assert tree(tmp_path / "new") == {}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_backup_that_was_cut_short_is_refused(state: Path, tmp_path: Path, part: float) -> None:
    file = back_up(state, tmp_path)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * part)])
    with pytest.raises(StoreError, match="nothing was changed"):
        restore(file, tmp_path / "new")
    assert tree(tmp_path / "new") == {}


def test_a_file_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello" * 1000)
    with pytest.raises(StoreError, match="nothing was changed"):
        restore(tmp_path / "file", tmp_path / "new")


def test_an_earlier_backup_stays_until_the_new_one_is_whole(state: Path, tmp_path: Path) -> None:
    file = back_up(state, tmp_path)
    before = file.read_bytes()
    (state / "state.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match="writing the backup"):
        back_up(state, tmp_path)
    assert file.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backup", "data"]


def test_what_a_killed_restore_left_is_put_right_by_another(state: Path, tmp_path: Path) -> None:
    file = back_up(state, tmp_path)
    folder = tmp_path / "new"
    folder.mkdir()
    unpack_backup(file, folder, replace=False)
    (folder / ".restore.new" / "artefacts").rename(folder / "artefacts")
    restore(file, folder, replace=True)
    assert (folder / "fleet.json").exists()
    assert (folder / "replaced-20260102T030405" / "artefacts" / "ab").exists()
    assert not (folder / ".restore.new").exists()
