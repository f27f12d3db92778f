from __future__ import annotations

import threading

from reconciler.agentd.turn import Turn


def test_the_second_waits_until_the_first_passes_its_turn_on() -> None:
    turn, order = Turn(), list[str]()
    is_waiting, is_done = threading.Event(), threading.Event()

    def come_second() -> None:
        is_waiting.set()
        with turn.taken():
            order.append("second")
        is_done.set()

    thread = threading.Thread(target=come_second)
    with turn.taken():
        thread.start()
        is_waiting.wait()
        order.append("first")
        with turn.passed_on():
            assert is_done.wait(60)
        order.append("first again")
    thread.join()
    assert order == ["first", "second", "first again"]


def test_whoever_waits_too_long_goes_on_and_takes_nothing_from_the_other() -> None:
    turn, order = Turn(), list[str]()

    def come_second() -> None:
        with turn.taken(), turn.passed_on():
            order.append("second")

    with turn.taken():
        thread = threading.Thread(target=come_second)
        thread.start()
        thread.join()
        order.append("first")
    with turn.taken():
        order.append("next")
    assert order == ["second", "first", "next"]


def test_passing_on_what_nobody_took_takes_nothing() -> None:
    turn = Turn()
    with turn.passed_on():
        pass
    assert turn._lock.acquire(blocking=False)
