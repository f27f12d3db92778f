"""Secrets on their way into instances' directories: asked in the background, compared, written whole, and removed."""

import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.core.secret import SecretFault, SecretValue
from reconciler.identity.secret_files import ABSENT, AGAIN_S, ASKING_AT_ONCE, PATIENCE_S, Secrets, remove
from tests.fakes.secrets import FakeSecrets

AGE_S = 30.0


class Stubborn(FakeSecrets):
    """Answers only when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.at_once = 0

    def read(self, name: str) -> Reading[SecretValue]:
        self.at_once += 1
        assert self.go.wait(60)
        return super().read(name)


class Timed:
    """Secrets of a fake provider, under a clock that stands still."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.provider = FakeSecrets()
        self.changes: list[str] = []
        self.secrets = Secrets(
            self.provider,
            now_s=lambda: self.now_s,
            in_background=False,
            on_change=lambda: self.changes.append("change"),
        )


@pytest.fixture
def timed() -> Timed:
    return Timed()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ok(content: bytes) -> Ok[SecretValue]:
    return Ok(SecretValue(content))


def test_a_provider_is_asked_once_per_secret_until_the_answer_is_old(timed: Timed) -> None:
    timed.provider.values["a"] = b"1"
    assert [timed.secrets.get("a", AGE_S) for _ in range(3)] == [ok(b"1")] * 3
    timed.now_s += AGE_S - 1
    timed.secrets.get("a", AGE_S)
    assert timed.provider.asked == ["a"]
    timed.provider.values["a"] = b"2"
    timed.now_s += 1
    assert timed.secrets.get("a", AGE_S) == ok(b"2")
    assert timed.changes == ["change", "change"]


def test_what_was_not_there_is_asked_for_again_soon(timed: Timed) -> None:
    assert timed.secrets.get("a", AGE_S) == Absent()
    timed.provider.values["a"] = b"1"
    timed.now_s += AGAIN_S / 2
    assert timed.secrets.get("a", AGE_S) == Absent()
    timed.now_s += AGAIN_S / 2
    assert timed.secrets.get("a", AGE_S) == ok(b"1")


def test_a_value_outlives_a_provider_that_cannot_be_read(timed: Timed) -> None:
    timed.provider.values["a"] = b"1"
    timed.secrets.get("a", AGE_S)
    timed.provider.fault = "sealed"
    timed.now_s += AGE_S
    assert timed.secrets.get("a", AGE_S) == ok(b"1")
    assert timed.secrets.get("b", AGE_S) == Unavailable(reason="sealed")
    timed.provider.fault = ""
    timed.provider.values.clear()
    timed.now_s += AGE_S
    assert timed.secrets.get("a", AGE_S) == Absent()


def test_what_is_lacking_is_asked_for_at_each_resync_until_nobody_wants_it(timed: Timed) -> None:
    timed.provider.values["a"] = b"1"
    for name in ("a", "b"):
        timed.secrets.get(name, AGE_S)
    assert timed.secrets.lacking(AGE_S) == {"b": ABSENT}
    timed.now_s += AGAIN_S
    assert timed.secrets.lacking(AGE_S) == {"b": ABSENT}
    assert timed.provider.asked == ["a", "b"]
    timed.now_s += AGE_S
    timed.provider.fault = "sealed"
    assert timed.secrets.lacking(AGE_S) == {"b": "sealed"}
    assert timed.provider.asked == ["a", "b", "b"]
    timed.secrets.keep(["a"])
    timed.now_s += AGE_S
    assert timed.secrets.lacking(AGE_S) == {}
    assert timed.provider.asked == ["a", "b", "b"]


def test_what_differs_is_named_and_writing_settles_it(timed: Timed, tmp_path: Path) -> None:
    timed.provider.values = {"a": b"1", "b": b"2"}
    names = ("a", "b", "c")
    assert timed.secrets.look(tmp_path, names, AGE_S) == {
        "a": SecretFault.CHANGED,
        "b": SecretFault.CHANGED,
        "c": SecretFault.MISSING,
    }
    timed.secrets.write(tmp_path, names, os.geteuid(), AGE_S)
    assert timed.secrets.look(tmp_path, names, AGE_S) == {"c": SecretFault.MISSING}
    timed.provider.values = {"a": b"3", "c": b"4"}
    timed.now_s += AGE_S
    assert timed.secrets.look(tmp_path, names, AGE_S) == {
        "a": SecretFault.CHANGED,
        "b": SecretFault.WITHDRAWN,
        "c": SecretFault.CHANGED,
    }
    timed.secrets.write(tmp_path, names, os.geteuid(), AGE_S)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"3", "c": b"4"}


def test_a_file_that_was_changed_by_hand_is_seen_by_the_next_look(timed: Timed, tmp_path: Path) -> None:
    timed.provider.values["a"] = b"1"
    timed.secrets.write(tmp_path, ["a"], os.geteuid(), AGE_S)
    assert timed.secrets.look(tmp_path, ("a",), AGE_S) == {}
    (tmp_path / "a").unlink()
    assert timed.secrets.look(tmp_path, ("a",), AGE_S) == {}
    timed.now_s += AGE_S
    assert timed.secrets.look(tmp_path, ("a",), AGE_S) == {"a": SecretFault.CHANGED}


def test_what_cannot_be_read_leaves_the_file_alone(timed: Timed, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    timed.provider.fault = "sealed"
    assert timed.secrets.look(tmp_path, ("a", "b"), AGE_S) == {"b": SecretFault.UNREADABLE}
    timed.secrets.write(tmp_path, ["a", "b"], os.geteuid(), AGE_S)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"1"}


@pytest.mark.parametrize("uid", [pytest.param(os.geteuid(), id="own"), pytest.param(4711, id="other")])
def test_a_file_is_its_users_alone_and_is_changed_by_rename(timed: Timed, tmp_path: Path, uid: int) -> None:
    if os.geteuid() != 0 and uid != os.geteuid():
        pytest.skip("only root can give files away")
    timed.provider.values["a"] = b"1"
    (tmp_path / ".a.new").write_bytes(b"left by a killed hub")
    timed.secrets.write(tmp_path, ["a"], uid, AGE_S)
    with (tmp_path / "a").open("rb") as reader:
        timed.provider.values["a"] = b"2"
        timed.now_s += AGE_S
        timed.secrets.write(tmp_path, ["a"], uid, AGE_S)
        assert reader.read() == b"1"
    found = (tmp_path / "a").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid if uid == 4711 else uid) == (0o400, uid, uid)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"2"}


def test_only_named_files_are_removed(tmp_path: Path) -> None:
    for name in ("a", "agent-token"):
        (tmp_path / name).write_bytes(b"1")
    remove(tmp_path, ["a", "b"])
    assert [p.name for p in tmp_path.iterdir()] == ["agent-token"]


def test_a_hanging_provider_delays_nobody_for_long_and_its_answer_is_told(tmp_path: Path) -> None:
    provider = Stubborn()
    provider.values = {f"s{i}": b"1" for i in range(20)}
    told = threading.Event()
    secrets = Secrets(provider, on_change=told.set)
    started = time.monotonic()
    readings = [secrets.get(name, AGE_S) for name in provider.values]
    faults = secrets.look(tmp_path, tuple(provider.values), AGE_S)
    assert time.monotonic() - started < 5 * PATIENCE_S
    assert readings == [Unavailable(reason="its provider has not answered yet")] * 20
    assert set(faults.values()) == {SecretFault.UNREADABLE}
    assert provider.at_once <= ASKING_AT_ONCE
    assert not told.is_set()
    provider.go.set()
    assert told.wait(60)
    eventually(lambda: all(secrets.get(name, AGE_S) == ok(b"1") for name in provider.values))
    assert sorted(provider.asked) == sorted(provider.values)
    assert set(secrets.look(tmp_path, tuple(provider.values), AGE_S).values()) == {SecretFault.CHANGED}


def test_threads_that_ask_at_once_ask_the_provider_once() -> None:
    provider = Stubborn()
    provider.values["a"] = b"1"
    secrets = Secrets(provider)
    out: list[Reading[SecretValue]] = []
    threads = [threading.Thread(target=lambda: out.append(secrets.get("a", AGE_S))) for _ in range(8)]
    for thread in threads:
        thread.start()
    provider.go.set()
    for thread in threads:
        thread.join()
    assert out == [ok(b"1")] * 8
    assert provider.asked == ["a"]
