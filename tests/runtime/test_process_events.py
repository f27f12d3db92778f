"""The journal: replay, following, rotation, closing."""

import threading
from pathlib import Path

from reconciler.ports import RuntimeEvent
from reconciler.runtime.process_events import Journal

from .process_world import eventually


class Follower:
    def __init__(self, journal: Journal, since_ns: int = 0) -> None:
        self.events: list[RuntimeEvent] = []
        self._stream = journal.follow(since_ns)
        self.thread = threading.Thread(target=self._follow)
        self.thread.start()

    def _follow(self) -> None:
        for event in self._stream:
            self.events.append(event)


def test_what_was_and_what_comes_is_told_in_order(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), lambda: None)
    journal.append("writer-0", "create")
    follower = Follower(journal)
    journal.append("writer-0", "start")
    eventually(lambda: [event.action for event in follower.events] == ["create", "start"])
    late = Follower(journal, follower.events[1].time_ns)
    eventually(lambda: [event.action for event in late.events] == ["start"])
    journal.close()
    for each in (follower, late):
        each.thread.join(60)
        assert not each.thread.is_alive()


def test_following_begins_before_there_is_a_journal(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "later"), lambda: None)
    follower = Follower(journal)
    (tmp_path / "later").mkdir()
    journal.append("writer-0", "create")
    eventually(lambda: [event.name for event in follower.events] == ["writer-0"])
    journal.close()
    follower.thread.join(60)


def test_nothing_is_lost_when_the_journal_is_full(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), lambda: None)
    follower = Follower(journal)
    names = [f"{'x' * 4000}-{number}" for number in range(400)]
    for name in names:
        journal.append(name, "start")
    eventually(lambda: [event.name for event in follower.events] == names)
    assert (tmp_path / ".events.1").exists()
    assert (tmp_path / ".events").stat().st_size < 2**20
    replay = Follower(journal)
    eventually(lambda: [event.name for event in replay.events] == names)
    journal.close()
    follower.thread.join(60)
    replay.thread.join(60)


def test_half_a_line_waits_for_its_other_half_and_garbage_is_skipped(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path), lambda: None)
    (tmp_path / ".events").write_bytes(b"\xff garbage\n\n12 writer-0")
    follower = Follower(journal)
    with (tmp_path / ".events").open("ab") as file:
        file.write(b" die\n")
    expected = RuntimeEvent(name="writer-0", action="die", time_ns=12)
    eventually(lambda: follower.events == [expected])
    journal.close()
    follower.thread.join(60)


def test_somebody_looks_now_and_then_while_somebody_follows(tmp_path: Path) -> None:
    looks: list[int] = []
    journal = Journal(str(tmp_path), lambda: looks.append(1), look_s=0.05)
    assert looks == []
    follower = Follower(journal)
    eventually(lambda: len(looks) > 1)
    journal.close()
    follower.thread.join(60)
