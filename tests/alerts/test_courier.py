"""One courier per sink: in order, again and again where it fails, never in anybody's way."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from reconciler.alerts.courier import Courier, Patience
from reconciler.alerts.sink import Sent

QUICK = Patience(base_s=0.001, failures=3, half_open_s=0.01, most=5)


@dataclass
class FakeSink:
    """Takes what comes, answers what it is told to, the last answer for ever; `gate` holds it up while it is closed."""

    answers: list[Sent | Exception] = field(default_factory=lambda: [Sent()])
    taken: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    is_asked: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def send(self, document: bytes) -> Sent:
        self.is_asked.set()
        assert self.gate.wait(60)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if not answer.fault:
            self.taken.append(document.decode())
        return answer


@contextmanager
def working(sink: FakeSink, **more: Any) -> Iterator[Courier]:
    courier = Courier("pager", sink, **{"patience": QUICK, **more})
    courier.start()
    try:
        yield courier
    finally:
        sink.gate.set()
        courier.close(60)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_notices_arrive_in_order_and_each_is_done_once() -> None:
    sink, done = FakeSink(), list[int]()
    with working(sink, on_done=done.append) as courier:
        for seq in range(5):
            courier.offer(seq, f"n{seq}")
        until(lambda: len(done) == 5)
    assert sink.taken == ["n0", "n1", "n2", "n3", "n4"]
    assert done == [0, 1, 2, 3, 4]


def test_a_sink_that_fails_is_tried_again_until_it_takes_the_notice() -> None:
    sink, done = FakeSink([Sent(fault="no"), Sent(fault="no"), Sent()]), list[int]()
    with working(sink, on_done=done.append) as courier:
        courier.offer(1, "n1")
        until(lambda: done == [1])
        assert courier.fault == ""
    assert sink.taken == ["n1"]


def test_after_a_few_failures_it_counts_as_away_until_it_takes_something() -> None:
    sink = FakeSink([Sent(fault="it answered 503")])
    with working(sink) as courier:
        courier.offer(1, "n1")
        until(lambda: courier.fault == "it answered 503")
        sink.answers = [Sent()]
        until(lambda: sink.taken == ["n1"])
        until(lambda: courier.fault == "")


def test_while_it_is_away_it_is_left_alone_between_tries() -> None:
    sink = FakeSink([Sent(fault="no")])
    with working(sink, patience=Patience(base_s=0.001, failures=3, half_open_s=1000)) as courier:
        courier.offer(1, "n1")
        until(lambda: courier.fault == "no")
        sink.answers = [Sent()]
        courier.offer(2, "n2")
        started = time.monotonic()
        courier.close(500)
        assert time.monotonic() - started < 100
    assert sink.taken == []


def test_what_will_never_be_taken_is_given_up_and_the_next_one_follows() -> None:
    final = Sent(fault="it answered 400", is_final=True)
    sink, done = FakeSink([final, final, final, Sent()]), list[int]()
    with working(sink, on_done=done.append) as courier:
        courier.offer(1, "bad")
        courier.offer(2, "good")
        until(lambda: done == [1, 2])
    assert sink.taken == ["good"]


def test_no_more_wait_than_are_allowed_and_the_oldest_go_first() -> None:
    sink, done = FakeSink(), list[int]()
    sink.gate.clear()
    with working(sink, on_done=done.append) as courier:
        courier.offer(0, "n0")
        assert sink.is_asked.wait(60)
        for seq in range(1, 20):
            courier.offer(seq, f"n{seq}")
        assert done == list(range(15))
        sink.gate.set()
        until(lambda: len(done) == 20)
    assert sink.taken == ["n0", *(f"n{seq}" for seq in range(15, 20))]
    assert sorted(done) == list(range(20))


def test_whoever_offers_never_waits_for_a_sink_that_hangs() -> None:
    sink = FakeSink()
    sink.gate.clear()
    with working(sink) as courier:

        def offer_many() -> None:
            for seq in range(1000):
                courier.offer(seq, "x")

        offered = threading.Thread(target=offer_many)
        offered.start()
        offered.join(60)
        assert not offered.is_alive()


def test_draining_waits_for_what_waits_and_not_for_a_sink_that_fails() -> None:
    sink = FakeSink()
    sink.gate.clear()
    with working(sink) as courier:
        for number in range(3):
            courier.offer(number, f"n{number}")
        threading.Timer(0.05, sink.gate.set).start()
        courier.drain(10)
        assert sink.taken == ["n0", "n1", "n2"]
        courier.drain(10)
        sink.answers = [Sent(fault="no")]
        courier.offer(3, "n3")
        courier.drain(10_000)
    assert len(sink.taken) == 3


def test_a_fault_of_the_sink_s_own_code_is_a_failure_and_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    sink = FakeSink([ZeroDivisionError("secret"), Sent()])
    with working(sink) as courier:
        courier.offer(1, "n1")
        until(lambda: sink.taken == ["n1"])
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text


def test_a_heartbeat_comes_as_long_as_the_hub_is_alive() -> None:
    sink, alive = FakeSink(), [True]
    with working(sink, heartbeat_s=0.01, is_alive=lambda: alive[0]) as courier:
        until(lambda: len(sink.taken) >= 3)
        alive[0] = False
        courier.offer(1, '{"id": "n1"}')
        until(lambda: '{"id": "n1"}' in sink.taken)
        beats = len(sink.taken)
        courier.offer(2, '{"id": "n2"}')
        until(lambda: '{"id": "n2"}' in sink.taken)
        assert len(sink.taken) == beats + 1
    ids = [json.loads(t)["id"] for t in sink.taken]
    assert len(set(ids)) == len(ids)
