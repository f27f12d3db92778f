"""The hub's end of a worker: deadlines, deaths and nonsense."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from reconciler.errors import PolicyEngineError
from reconciler.policy.link import WorkerLink, WorkerLostError
from tests.policy.example import module

ENDLESS = module(
    "x if count([1 | some a in r; some b in r; some c in r; a + b + c < 0]) > 0\nr := numbers.range(1, 9999)", "a"
)


def loaded_link(text: str) -> WorkerLink:
    link = WorkerLink(memory_bytes=2**27)
    link.ask("load", 10, modules={"a.rego": text}, data={"hub": {"revision": "r"}}, entry_points=["a/x"])
    return link


def has_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_an_endless_rule_is_killed_at_the_deadline() -> None:
    link = loaded_link(ENDLESS)
    started = time.monotonic()
    with pytest.raises(WorkerLostError, match="missed its deadline") as caught:
        link.ask("evaluate", 0.2, path="a/x", question={})
    assert 0.2 <= time.monotonic() - started < 60
    assert caught.value.timed_out
    assert isinstance(caught.value, PolicyEngineError)
    assert not link.is_alive
    assert has_gone(link.pid)


def test_an_endless_rule_is_killed_when_it_has_used_its_processor_time() -> None:
    link = loaded_link(ENDLESS)
    with pytest.raises(WorkerLostError, match="missed its deadline") as caught:
        link.ask("evaluate", 3600, busy_s=0.2, path="a/x", question={})
    assert caught.value.timed_out


def test_a_worker_that_gets_no_processor_is_waited_for() -> None:
    link = loaded_link(module("x := 7", "a"))
    os.kill(link.pid, signal.SIGSTOP)
    waker = threading.Timer(1.0, os.kill, (link.pid, signal.SIGCONT))
    waker.start()
    assert link.ask("evaluate", 600, busy_s=0.5, path="a/x", question={})["value"] == 7
    waker.join()
    link.close()


def test_an_answer_that_is_there_counts_however_late_somebody_looks() -> None:
    stopped: list[int] = []

    def look_late() -> None:
        """Not before the worker has answered, and waits for more."""
        while stopped:
            os.kill(stopped[0], signal.SIGCONT)
            if state_of(stopped[0]) == "S":
                stopped.clear()

    link = WorkerLink(memory_bytes=2**27, attend=look_late)
    link.ask(
        "load", 60, modules={"a.rego": module("x := 7", "a")}, data={"hub": {"revision": "r"}}, entry_points=["a/x"]
    )
    os.kill(link.pid, signal.SIGSTOP)
    stopped.append(link.pid)
    assert link.ask("evaluate", 0.05, path="a/x", question={})["value"] == 7
    link.close()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_memory_hog_dies_and_takes_no_more_than_its_limit() -> None:
    for hog in ("numbers.range(1, 5000000)", "[b | some a in numbers.range(1, 3000); b := numbers.range(1, 300)]"):
        link = loaded_link(module(f"x if count({hog}) > 0", "a"))
        with pytest.raises(WorkerLostError, match="ended it") as caught:
            link.ask("evaluate", 20, path="a/x", question={})
        assert not caught.value.timed_out


def test_a_worker_killed_while_it_is_asked_is_lost() -> None:
    link = loaded_link(ENDLESS)
    killer = threading.Timer(0.1, os.kill, (link.pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(WorkerLostError, match="status -9"):
        link.ask("evaluate", 20, path="a/x", question={})
    killer.join()


def test_a_worker_that_died_before_is_lost_when_it_is_asked() -> None:
    link = loaded_link(ENDLESS)
    os.kill(link.pid, signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        link.ask("decide", 5, kind="message", question={})
    with pytest.raises(WorkerLostError):
        link.ask("decide", 5, kind="message", question={})
    link.close()


def test_a_question_that_is_no_json_costs_the_worker_nothing() -> None:
    link = loaded_link(ENDLESS)
    circle: list[object] = []
    circle.append(circle)
    for question in ({1, 2}, float("inf"), circle):
        with pytest.raises(ValueError, match=r"JSON|Circular"):
            link.ask("decide", 5, kind="message", question=question)
    assert link.is_alive
    link.close()


def test_large_questions_go_both_ways() -> None:
    link = loaded_link(module("x := input", "a"))
    reply = link.ask("evaluate", 20, path="a/x", question={"a": "é" * 200_000})
    assert reply["value"] == {"a": "é" * 200_000}
    link.close()


def test_closing_twice_is_fine() -> None:
    link = WorkerLink(memory_bytes=2**27)
    link.close()
    link.close()
    assert has_gone(link.pid)
