"""The inbox: what is taken, when, and what becomes of it."""

import hashlib
import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.errors import SourceError
from reconciler.source.dropped import Candidate, Refused
from reconciler.source.inbox import Inbox, Scan, Verdict
from tests.source.user import ORDINARY_UID, let_through, ordinary_user

TASK = "kind: Task\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "inbox").mkdir(parents=True)
    return root


@pytest.fixture
def inbox(root: Path) -> Inbox:
    inbox = Inbox(str(root))
    inbox.prepare()
    return inbox


def drop(root: Path, name: str = "x.yaml", content: str = TASK) -> Path:
    path = root / "inbox" / name
    path.write_text(content)
    return path


def scan(inbox: Inbox, now_s: float) -> Scan:
    reading = inbox.scan(now_s)
    assert isinstance(reading, Ok), reading
    return reading.value


def rested(inbox: Inbox) -> Scan:
    """Look twice, with enough time in between."""
    scan(inbox, 1000.0)
    return scan(inbox, 1000.25)


def taken(inbox: Inbox) -> Candidate:
    [candidate] = rested(inbox).candidates
    return candidate


def refused(inbox: Inbox) -> Refused:
    [one] = rested(inbox).refused
    return one


def files(root: Path) -> list[str]:
    inbox = root / "inbox"
    return sorted(str(p.relative_to(inbox)) for p in inbox.rglob("*") if not p.is_dir())


# --- what is taken, and when ----------------------------------------------------------------------


def test_a_file_is_taken_when_it_has_rested_for_200_milliseconds(root: Path, inbox: Inbox) -> None:
    assert scan(inbox, 9.0) == Scan()
    path = drop(root)
    first = scan(inbox, 10.0)
    assert (first.candidates, first.waiting) == ((), ("x.yaml",))
    assert first.again_in_s == pytest.approx(0.2)
    again = scan(inbox, 10.15)
    assert again.candidates == ()
    assert again.again_in_s == pytest.approx(0.05)
    [candidate] = scan(inbox, 10.201).candidates
    assert candidate.name == "x.yaml"
    assert candidate.content == TASK.encode()
    assert candidate.digest == hashlib.sha256(TASK.encode()).hexdigest()
    assert candidate.uid == path.stat().st_uid


def test_a_file_that_nobody_claims_is_found_by_every_scan(root: Path, inbox: Inbox) -> None:
    drop(root)
    candidate = taken(inbox)
    later = scan(inbox, 2000.0)
    assert later.candidates == (candidate,)
    assert later.again_in_s is None


def test_a_growing_file_waits_until_it_stops(root: Path, inbox: Inbox) -> None:
    path = drop(root)
    for step in range(10):
        with path.open("a") as out:
            out.write("more: 1\n")
        assert scan(inbox, step * 0.15).candidates == ()
    assert scan(inbox, 1.5).candidates == ()
    assert len(scan(inbox, 1.56).candidates[0].content) == len(TASK) + 80


def test_half_a_file_is_not_taken_while_its_writer_has_it_open(root: Path, inbox: Inbox) -> None:
    with (root / "inbox/x.yaml").open("w") as out:
        out.write("kind: ")
        out.flush()
        scan(inbox, 10.0)
        halfway = scan(inbox, 11.0)
        assert (halfway.candidates, halfway.waiting) == ((), ("x.yaml",))
        assert halfway.again_in_s == pytest.approx(0.2)
        out.write("Task\n")
    scan(inbox, 11.5)
    assert scan(inbox, 12.0).candidates[0].content == b"kind: Task\n"


def test_a_writer_that_never_closes_is_not_waited_for_for_ever(root: Path, inbox: Inbox) -> None:
    with (root / "inbox/x.yaml").open("w") as out:
        out.write(TASK)
        out.flush()
        scan(inbox, 10.0)
        assert scan(inbox, 39.9).candidates == ()
        assert scan(inbox, 40.1).candidates[0].content == TASK.encode()


def test_a_file_that_is_moved_in_counts_whatever_its_times_say(root: Path, inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "x").write_text(TASK)
    os.utime(tmp_path / "x", (2**31, 2**31))
    (tmp_path / "x").rename(root / "inbox/x.yaml")
    assert taken(inbox).content == TASK.encode()


def test_a_file_that_is_replaced_while_it_rests_rests_anew(root: Path, inbox: Inbox, tmp_path: Path) -> None:
    path = drop(root)
    scan(inbox, 10.0)
    (tmp_path / "new").write_text("KIND: Task\n")
    os.utime(tmp_path / "new", ns=(path.stat().st_mtime_ns, path.stat().st_mtime_ns))
    os.replace(tmp_path / "new", path)
    assert scan(inbox, 10.25).candidates == ()
    assert scan(inbox, 10.5).candidates[0].content == b"KIND: Task\n"


def test_other_names_are_left_alone(root: Path, inbox: Inbox) -> None:
    for name in ("x.json", "x.yaml~", "x.yml.tmp", ".x.yaml", ".yaml", "x.yaml.tmp", "yaml"):
        drop(root, name)
    assert rested(inbox) == Scan()


def test_the_longest_rest_comes_first_and_one_scan_takes_a_limited_number(root: Path) -> None:
    inbox = Inbox(str(root), batch=2)
    drop(root, "b.yaml")
    scan(inbox, 10.0)
    for name in ("c.yaml", "a.yaml"):
        drop(root, name)
    scan(inbox, 10.1)
    full = scan(inbox, 11.0)
    assert [c.name for c in full.candidates] == ["b.yaml", "a.yaml"]
    assert (full.waiting, full.again_in_s) == (("c.yaml",), 0.0)


def test_files_that_come_and_go_during_scans_do_no_harm(root: Path, inbox: Inbox) -> None:
    over = threading.Event()

    def disturb() -> None:
        while not over.is_set():
            path = drop(root, "flicker.yaml")
            path.rename(path.with_name("other.yaml"))
            path.with_name("other.yaml").unlink()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for step in range(500):
            scan(inbox, step * 1.0)
    finally:
        over.set()
        thread.join()


# --- what is refused ------------------------------------------------------------------------------


def test_a_refused_thing_is_moved_away_with_the_reason_beside_it(root: Path, inbox: Inbox) -> None:
    os.mkfifo(root / "inbox/pipe.yaml")
    one = refused(inbox)
    assert (one.name, one.reason) == ("pipe.yaml", "it is a FIFO; drop a regular file")
    assert inbox.reject(one, one.reason) == "rejected/pipe.yaml"
    assert files(root) == ["rejected/pipe.error.txt", "rejected/pipe.yaml"]
    assert (root / "inbox/rejected/pipe.error.txt").read_text() == f"{one.reason}\n"
    assert scan(inbox, 2000.0) == Scan()


@pytest.mark.parametrize("name", ["two\nlines.yaml", "\x1b[2J.yaml", "tab\t.yaml", "\u202eevil.yaml"])
def test_a_name_that_does_not_print_is_refused_and_made_harmless(root: Path, inbox: Inbox, name: str) -> None:
    drop(root, name)
    one = refused(inbox)
    assert one.name.isprintable()
    assert one.reason == "its name has characters that don't print; rename it"
    inbox.reject(one, one.reason)
    assert all(f.isascii() and f.isprintable() for f in files(root))
    assert len(files(root)) == 2


def test_a_name_that_is_not_utf_8_is_refused(root: Path, inbox: Inbox) -> None:
    drop(root, os.fsdecode(b"caf\xe9.yaml"))
    one = refused(inbox)
    assert (one.name, one.reason) == ("caf\\xe9.yaml", "its name is not UTF-8; rename it")
    assert inbox.reject(one, "no") == "rejected/caf_.yaml"


@pytest.mark.parametrize("name", ["x.yml", "x.YAML", "x.Yml"])
def test_a_name_that_nearly_ends_in_yaml_is_refused_and_not_passed_over(root: Path, inbox: Inbox, name: str) -> None:
    drop(root, name)
    one = refused(inbox)
    assert (one.name, one.reason) == (name, "its name does not end in .yaml; drop it again under one that does")
    assert inbox.reject(one, one.reason) == "rejected/x.yaml"
    assert files(root) == ["rejected/x.error.txt", "rejected/x.yaml"]


def test_a_very_long_name_is_refused(root: Path, inbox: Inbox) -> None:
    drop(root, "x" * 250 + ".yaml")
    one = refused(inbox)
    assert one.reason == "its name has 255 bytes; use at most 200"
    assert inbox.reject(one, "no") == f"rejected/{'x' * 100}.yaml"


@pytest.mark.parametrize("name", ["a..b.yaml", "-rf.yaml", "grüß dich.yaml", "$(id).yaml", "a\\b.yaml"])
def test_an_odd_name_that_prints_is_a_name_like_any_other(root: Path, inbox: Inbox, name: str) -> None:
    drop(root, name)
    candidate = taken(inbox)
    inbox.claim(candidate, inbox.choose_target(candidate, Verdict.ACCEPTED))
    assert files(root) == [f"accepted/{name}"]


def test_a_directory_is_moved_away_as_it_is(root: Path, inbox: Inbox) -> None:
    (root / "inbox/dir.yaml").mkdir()
    (root / "inbox/dir.yaml/inside").write_text("x")
    one = refused(inbox)
    assert one.reason == "it is a directory; drop a regular file"
    inbox.reject(one, one.reason)
    assert files(root) == ["rejected/dir.error.txt", "rejected/dir.yaml/inside"]


def test_a_link_is_moved_and_not_followed(root: Path, inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(TASK)
    (root / "inbox/x.yaml").symlink_to(tmp_path / "secret")
    inbox.reject(refused(inbox), "no")
    assert (root / "inbox/rejected/x.yaml").is_symlink()
    assert (tmp_path / "secret").read_text() == TASK


# --- claims ---------------------------------------------------------------------------------------


def test_a_claimed_file_is_moved_and_its_result_is_put_beside_it(root: Path, inbox: Inbox) -> None:
    drop(root)
    candidate = taken(inbox)
    target = inbox.choose_target(candidate, Verdict.ACCEPTED)
    assert target == "accepted/x.yaml"
    inbox.claim(candidate, target)
    assert files(root) == ["accepted/x.yaml"]
    assert scan(inbox, 2000.0) == Scan()
    assert inbox.write_result(target, {"state": "failed"}) == "accepted/x.result.json"
    inbox.write_result(target, {"state": "succeeded", "text": "grün \ud800"})
    assert files(root) == ["accepted/x.result.json", "accepted/x.yaml"]
    assert json.loads((root / "inbox/accepted/x.result.json").read_text())["state"] == "succeeded"


def test_a_file_that_is_rejected_by_the_caller_has_its_reason(root: Path, inbox: Inbox) -> None:
    drop(root)
    assert inbox.reject(taken(inbox), "x.yaml:1:1: no such agent") == "rejected/x.yaml"
    assert files(root) == ["rejected/x.error.txt", "rejected/x.yaml"]
    assert "no such agent" in (root / "inbox/rejected/x.error.txt").read_text()


def test_the_same_name_again_never_overwrites(root: Path, inbox: Inbox) -> None:
    targets = []
    for content in ("a", "b", "b", "b"):
        drop(root, content=content)
        candidate = taken(inbox)
        targets.append(inbox.choose_target(candidate, Verdict.ACCEPTED))
        inbox.claim(candidate, targets[-1])
        inbox.write_result(targets[-1], {"content": content})
    b8 = hashlib.sha256(b"b").hexdigest()[:8]
    assert targets == [
        "accepted/x.yaml",
        f"accepted/x.{b8}.yaml",
        f"accepted/x.{b8}.2.yaml",
        f"accepted/x.{b8}.3.yaml",
    ]
    assert [(root / "inbox" / t).read_text() for t in targets] == ["a", "b", "b", "b"]
    assert len(files(root)) == 8


def test_a_name_whose_result_still_lies_there_is_taken(root: Path, inbox: Inbox) -> None:
    drop(root)
    candidate = taken(inbox)
    inbox.claim(candidate, "accepted/x.yaml")
    inbox.write_result("accepted/x.yaml", {})
    (root / "inbox/accepted/x.yaml").unlink()
    drop(root)
    assert inbox.choose_target(taken(inbox), Verdict.ACCEPTED) != "accepted/x.yaml"


def test_a_file_that_was_dropped_anew_differs_from_one_that_was_found_again(root: Path, inbox: Inbox) -> None:
    path = drop(root)
    first = taken(inbox)
    assert scan(inbox, 2000.0).candidates == (first,)
    (root / "inbox/other").write_text(TASK)
    (root / "inbox/other").rename(path)
    again = rested(inbox).candidates[0]
    assert (again.name, again.digest) == (first.name, first.digest)
    assert again.signature != first.signature


def test_claiming_twice_is_fine(root: Path, inbox: Inbox) -> None:
    drop(root)
    candidate = taken(inbox)
    inbox.claim(candidate, "accepted/x.yaml")
    before = (root / "inbox/accepted/x.yaml").stat()
    inbox.claim(candidate, "accepted/x.yaml")
    assert (root / "inbox/accepted/x.yaml").stat() == before


def test_a_file_replaced_after_it_was_read_is_not_swallowed(root: Path, inbox: Inbox) -> None:
    path = drop(root, content="old")
    candidate = taken(inbox)
    (root / "inbox/new").write_text("new")
    (root / "inbox/new").rename(path)
    inbox.claim(candidate, "accepted/x.yaml")
    assert (root / "inbox/accepted/x.yaml").read_text() == "old"
    assert path.read_text() == "new"
    assert rested(inbox).candidates[0].content == b"new"


def test_a_file_removed_after_it_was_read_is_kept_as_it_was_read(root: Path, inbox: Inbox) -> None:
    path = drop(root)
    candidate = taken(inbox)
    path.unlink()
    inbox.claim(candidate, "accepted/x.yaml")
    assert (root / "inbox/accepted/x.yaml").read_text() == TASK


def test_a_claim_keeps_what_was_read_however_often_the_file_is_replaced(root: Path) -> None:
    inbox, over, claimed = Inbox(str(root), rest_s=0.0), threading.Event(), 0
    deadline = time.monotonic() + 60

    def disturb() -> None:
        number = 0
        while not over.is_set():
            number += 1
            (root / "inbox/new").write_text(f"version {number}")
            (root / "inbox/new").rename(root / "inbox/x.yaml")

    drop(root)
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        while claimed < 100 and time.monotonic() < deadline:
            for candidate in scan(inbox, time.monotonic()).candidates:
                target = inbox.choose_target(candidate, Verdict.ACCEPTED)
                inbox.claim(candidate, target)
                assert (root / "inbox" / target).read_bytes() == candidate.content
                claimed += 1
    finally:
        over.set()
        thread.join()
    assert claimed > 20


def test_a_target_in_use_is_not_overwritten(root: Path, inbox: Inbox) -> None:
    drop(root, content="new")
    candidate = taken(inbox)
    (root / "inbox/accepted/x.yaml").write_text("old")
    with pytest.raises(SourceError, match=r"claiming x\.yaml of the inbox"):
        inbox.claim(candidate, "accepted/x.yaml")
    assert (root / "inbox/accepted/x.yaml").read_text() == "old"


@pytest.mark.parametrize(
    "target", ["x.yaml", "../x.yaml", "accepted/../../x.yaml", "other/x.yaml", "accepted/.x.yaml", "accepted/x"]
)
def test_only_names_that_were_chosen_are_targets(inbox: Inbox, root: Path, target: str) -> None:
    drop(root)
    candidate = taken(inbox)
    with pytest.raises(SourceError, match="is no name from choose_target"):
        inbox.claim(candidate, target)
    with pytest.raises(SourceError, match="is no name from choose_target"):
        inbox.write_result(target, {})


def test_who_may_read_the_manifest_may_read_the_result(root: Path, inbox: Inbox) -> None:
    path = drop(root)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, ORDINARY_UID, ORDINARY_UID)
    candidate = taken(inbox)
    assert candidate.uid == path.stat().st_uid
    inbox.claim(candidate, "accepted/x.yaml")
    for beside in (inbox.write_result("accepted/x.yaml", {}), inbox.write_error("accepted/x.yaml", "no")):
        status = (root / "inbox" / beside).stat()
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert status.st_uid == candidate.uid


# --- folders --------------------------------------------------------------------------------------


def test_folders_are_made_when_asked_for_and_not_by_looking(tmp_path: Path) -> None:
    inbox = Inbox(str(tmp_path), "deep/inbox")
    assert inbox.scan(1.0) == Absent()
    assert os.listdir(tmp_path) == []
    inbox.prepare()
    inbox.prepare()
    assert sorted(os.listdir(tmp_path / "deep/inbox")) == ["accepted", "rejected"]
    assert inbox.scan(1.0) == Ok(Scan())


def test_what_a_killed_writer_left_is_removed_and_nothing_else(root: Path, inbox: Inbox) -> None:
    (root / "inbox/accepted/.x.result.json.0123abcd.partial").write_text("half")
    (root / "inbox/accepted/x.yaml").write_text(TASK)
    inbox.prepare()
    assert files(root) == ["accepted/x.yaml"]


@pytest.mark.parametrize("link", ["inbox", "deep"])
def test_an_inbox_behind_a_link_is_unavailable(tmp_path: Path, link: str) -> None:
    (tmp_path / "outside/inbox").mkdir(parents=True)
    root = tmp_path / "root"
    root.mkdir()
    (root / link).symlink_to(tmp_path / "outside")
    inbox = Inbox(str(root), "inbox" if link == "inbox" else "deep/inbox")
    reading = inbox.scan(1.0)
    assert isinstance(reading, Unavailable)
    assert "or reached through a link" in reading.reason
    with pytest.raises(SourceError, match="preparing the inbox"):
        inbox.prepare()
    assert os.listdir(tmp_path / "outside/inbox") == []


def test_a_folder_of_results_that_is_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / "inbox/accepted").symlink_to(tmp_path / "outside")
    inbox = Inbox(str(root))
    drop(root)
    with pytest.raises(SourceError, match=r"choosing a name for x\.yaml in the inbox"):
        inbox.choose_target(taken(inbox), Verdict.ACCEPTED)
    with pytest.raises(SourceError, match=r"claiming x\.yaml of the inbox"):
        inbox.claim(taken(inbox), "accepted/x.yaml")
    assert os.listdir(tmp_path / "outside") == []


def test_a_folder_of_results_that_somebody_else_made_is_not_used(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    (root / "inbox/accepted").mkdir()
    os.chown(root / "inbox/accepted", ORDINARY_UID, ORDINARY_UID)
    with pytest.raises(SourceError) as raised:
        Inbox(str(root)).prepare()
    assert "belongs to uid 1000; remove it" in str(raised.value.__cause__)


def test_an_inbox_that_may_not_be_written_to_can_still_be_read(root: Path) -> None:
    drop(root)
    let_through(root / "inbox")
    (root / "inbox").chmod(0o555)
    inbox = Inbox(str(root))
    with ordinary_user():
        candidate = taken(inbox)
        with pytest.raises(SourceError, match=r"choosing a name for x\.yaml in the inbox"):
            inbox.choose_target(candidate, Verdict.ACCEPTED)
        with pytest.raises(SourceError, match=r"claiming x\.yaml of the inbox"):
            inbox.claim(candidate, "accepted/x.yaml")
        assert scan(inbox, 2000.0).candidates == (candidate,)
    (root / "inbox").chmod(0o755)


def test_an_inbox_that_may_not_be_read_is_unavailable(root: Path) -> None:
    let_through(root)
    (root / "inbox").chmod(0)
    with ordinary_user():
        reading = Inbox(str(root)).scan(1.0)
    (root / "inbox").chmod(0o755)
    assert reading == Unavailable(reason=f"the inbox {root}/inbox cannot be read: Permission denied")


@pytest.mark.parametrize("folder", ["..", "a/../b", "", "/", "a//b"])
def test_an_inbox_is_inside_its_root(tmp_path: Path, folder: str) -> None:
    with pytest.raises(SourceError, match="not a folder inside"):
        Inbox(str(tmp_path), folder)
