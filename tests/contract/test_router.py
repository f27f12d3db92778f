"""What every `RouterControl` keeps to: the link to a real router process, and the fake that fast tests use."""

import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from reconciler.clock import SystemClock
from reconciler.core.reading import Absent, Ok
from reconciler.errors import RouterError
from reconciler.ports import RouterControl, RouterReport
from reconciler.router.client import RouterLink
from tests.fakes.clock import FakeClock
from tests.fakes.router import FakeRouter
from tests.router.fleet import FLEET, Agent, basic_config, instance_entry

TOKENS = {"writer-0": "t" * 43, "later": "l" * 43}
HELLO = {"version": "1", "capabilities": ["docs.write"], "executor": "command"}
REPORT = {"task": "count", "run": "r1", "generation": 1}


class Subject(Protocol):
    """A router, and what agents do to it."""

    router: RouterControl

    @abstractmethod
    def now(self) -> float:
        """CLOCK_BOOTTIME as the router sees it."""

    @abstractmethod
    def hello(self, name: str, payload: Mapping[str, Any]) -> None:
        """The instance says hello."""

    @abstractmethod
    def post(self, name: str, type_: str, payload: Mapping[str, Any]) -> None:
        """The instance sends a message to the hub."""

    @abstractmethod
    def mailbox(self, name: str) -> Sequence[str]:
        """Ids of the messages that wait for the instance."""

    @abstractmethod
    def cancels(self, name: str) -> Sequence[Mapping[str, Any]]:
        """What the answer to a heartbeat tells the instance to stop."""


class FakeSubject(Subject):
    def __init__(self) -> None:
        self._clock = FakeClock()
        self.router = self.fake = FakeRouter(self._clock)

    def now(self) -> float:
        return self._clock.boottime()

    def hello(self, name: str, payload: Mapping[str, Any]) -> None:
        self.fake.hello(name, payload)

    def post(self, name: str, type_: str, payload: Mapping[str, Any]) -> None:
        self.fake.post(name, type_, payload)

    def mailbox(self, name: str) -> Sequence[str]:
        return [str(message["id"]) for message in self.fake.instances[name].mailbox]

    def cancels(self, name: str) -> Sequence[Mapping[str, Any]]:
        return self.fake.cancels.get(name, ())


class RealSubject(Subject):
    def __init__(self, run: Path, data: Path) -> None:
        self._run = run
        self.router = RouterLink(FLEET, run, data)

    def now(self) -> float:
        return SystemClock().boottime()

    def hello(self, name: str, payload: Mapping[str, Any]) -> None:
        reply = self._agent(name).send("agent.hello", "request", wait_s=5, to="hub", payload=dict(payload))
        assert reply.status == 200

    def post(self, name: str, type_: str, payload: Mapping[str, Any]) -> None:
        assert self._agent(name).send(type_, to="hub", payload=dict(payload)).status == 202

    def mailbox(self, name: str) -> Sequence[str]:
        return [str(message["id"]) for message in self._agent(name).poll().body["messages"]]

    def cancels(self, name: str) -> Sequence[Mapping[str, Any]]:
        reply = self._agent(name).send("agent.heartbeat", to="hub", payload={"tasks": []})
        found: Sequence[Mapping[str, Any]] = reply.body["cancel"]
        return found

    def _agent(self, name: str) -> Agent:
        return Agent(name=name, socket_path=self._run / "hub" / name / "hub.sock", token=TOKENS["writer-0"])


@pytest.fixture(params=["fake", "process"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param == "fake":
        yield FakeSubject()
        return
    with tempfile.TemporaryDirectory(prefix="rr", dir="/tmp") as run:
        subject = RealSubject(Path(run), tmp_path)
        yield subject
        subject.router.stop()


@pytest.fixture
def started(subject: Subject) -> Subject:
    """Running, configured, with the instance writer-0, which has said hello."""
    subject.router.start()
    subject.router.configure(basic_config())
    subject.router.put_instance("writer-0", entry())
    subject.hello("writer-0", HELLO)
    return subject


def entry(token: str = TOKENS["writer-0"]) -> Mapping[str, Any]:
    return instance_entry("writer", [(token, 4e9)])


def report(subject: Subject) -> RouterReport:
    reading = subject.router.report()
    assert isinstance(reading, Ok), reading
    return reading.value


def assignment(id_: str) -> dict[str, Any]:
    payload = {**REPORT, "lease_s": 30, "timeout_s": 60}
    return {"id": id_, "type": "task.assigned", "pattern": "request", "payload": payload}


def test_one_that_was_not_started_is_absent_and_takes_no_calls(subject: Subject) -> None:
    assert subject.router.report() == Absent()
    with pytest.raises(RouterError):
        subject.router.configure(basic_config())
    with pytest.raises(RouterError):
        subject.router.put_instance("writer-0", entry())
    with pytest.raises(RouterError):
        subject.router.wait_hint(0)


def test_starting_it_twice_is_one_life_of_it(started: Subject) -> None:
    epoch = report(started).epoch
    started.router.start()
    assert report(started).epoch == epoch
    assert list(report(started).instances) == ["writer-0"]


def test_after_a_restart_it_knows_no_instance_and_no_configuration(started: Subject) -> None:
    before = report(started)
    started.router.stop()
    assert started.router.report() == Absent()
    started.router.start()
    after = report(started)
    assert (after.instances, after.config_digest) == ({}, "")
    assert before.epoch != after.epoch
    assert before.config_digest == basic_config()["digest"]


def test_it_reports_what_it_was_told_and_what_instances_said(started: Subject) -> None:
    (found,) = report(started).instances.values()
    assert (found.instance, found.digest, found.hello) == ("writer-0", entry()["digest"], HELLO)
    assert 0 < found.last_seen <= started.now()


def test_the_same_token_keeps_the_hello_and_another_one_asks_for_a_new(started: Subject) -> None:
    started.router.put_instance("writer-0", {**entry(), "digest": "d1"})
    kept = report(started).instances["writer-0"]
    assert (kept.hello, kept.digest) == (HELLO, "d1")
    started.router.put_instance("writer-0", entry(TOKENS["later"]))
    assert report(started).instances["writer-0"].hello is None


def test_removing_an_instance_twice_is_fine(started: Subject) -> None:
    for _ in range(2):
        started.router.remove_instance("writer-0")
    assert report(started).instances == {}


def test_a_message_is_in_the_mailbox_when_sending_returns(started: Subject) -> None:
    started.router.send({"instance": "writer-0", "message": assignment("r1-1")})
    assert report(started).instances["writer-0"].mailbox_messages == 1
    assert started.mailbox("writer-0") == ["r1-1"]


def test_there_is_no_sending_to_an_instance_that_is_not_there(started: Subject) -> None:
    with pytest.raises(RouterError, match="nobody-0"):
        started.router.send({"instance": "nobody-0", "message": assignment("r1-1")})


def test_of_several_messages_each_is_delivered_or_refused_by_itself(started: Subject) -> None:
    sent = [
        {"instance": name, "message": assignment(id_)}
        for name, id_ in (("writer-0", "r1-1"), ("nobody-0", "r2-1"), ("writer-0", "r3-1"))
    ]
    assert [why and "nobody-0" in why for why in started.router.send_all(sent)] == ["", True, ""]
    assert started.mailbox("writer-0") == ["r1-1", "r3-1"]
    assert started.router.send_all([]) == []


def test_cancels_are_told_to_the_instance(started: Subject) -> None:
    started.router.set_cancels("writer-0", [REPORT])
    assert list(started.cancels("writer-0")) == [REPORT]
    started.router.set_cancels("writer-0", [])
    assert list(started.cancels("writer-0")) == []


def test_the_inbox_is_read_in_order_from_a_cursor_and_outlives_a_restart(started: Subject) -> None:
    for type_ in ("task.started", "task.progress"):
        more = {"text": "half"} if type_ == "task.progress" else {}
        started.post("writer-0", type_, {**REPORT, **more})
    last = report(started).inbox_seq
    rows = started.router.read_inbox(0, 10)
    assert [(r.type, r.instance, r.agent) for r in rows] == [
        ("task.started", "writer-0", "writer"),
        ("task.progress", "writer-0", "writer"),
    ]
    assert rows[0].payload == REPORT
    assert rows[-1].seq == last
    assert [r.seq for r in started.router.read_inbox(0, 1)] == [rows[0].seq]
    started.router.stop()
    started.router.start()
    assert report(started).inbox_seq == last
    assert [r.type for r in started.router.read_inbox(rows[0].seq, 10)] == ["task.progress"]


def test_what_was_taken_in_is_never_read_again(started: Subject) -> None:
    started.post("writer-0", "task.started", REPORT)
    last = report(started).inbox_seq
    started.router.set_inbox_cursor(last)
    assert list(started.router.read_inbox(last, 10)) == []
    started.post("writer-0", "task.progress", {**REPORT, "text": "half"})
    assert [r.type for r in started.router.read_inbox(last, 10)] == ["task.progress"]


def test_stopping_it_twice_is_fine(started: Subject) -> None:
    for _ in range(2):
        started.router.stop()
    assert started.router.report() == Absent()
