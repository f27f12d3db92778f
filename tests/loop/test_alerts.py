"""Alerts of a whole hub: told on transitions, once, also over a restart, whatever becomes of the sinks."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.alerts.courier import Courier, Patience
from reconciler.alerts.sink import Sent, Sink
from reconciler.alerts.webhook import WebhookSink
from reconciler.kinds import KINDS
from reconciler.loop.alerts import Alerts
from reconciler.loop.run import Loop
from reconciler.settings import OperatorSpec, Webhook
from reconciler.store import records
from tests.alerts.receiver import Receiver, receiving
from tests.fakes.fleet import FakeFleet, put_beside, told
from tests.fakes.texts import agent_text, hub_text, task_text

GOOD = {"agents.d/a.yaml": agent_text()}
OPERATOR = OperatorSpec.model_validate({"sinks": {"pager": {"webhook": {"url": "http://127.0.0.1/"}}}})
HUB = hub_text(alerts={"sinks": ["log", "pager"], "throughputWindow": "5m", "sourceWindow": "10m"})


class Said:
    """The sink `log` of one life of the hub, as a list of (status, subject, type); `alerts` is what tells it."""

    def __init__(self, fleet: FakeFleet) -> None:
        self.all: list[tuple[str, str, str]] = []
        self.messages: list[str] = []
        self.alerts = Alerts(fleet.store, fleet.world.fleet, fleet.clock, self)

    def send(self, document: bytes) -> Sent:
        notice = json.loads(document)
        self.all.append((notice["status"], notice["subject"], notice["type"]))
        self.messages.append(notice["message"])
        return Sent()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    made = FakeFleet(tmp_path, OPERATOR)
    made.router.start()
    yield made
    made.end_hub()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def listen(fleet: FakeFleet, sink: Sink | None = None) -> Said:
    """Another life of the hub, with its log to be read, and with a pager where there is a sink for it."""
    said = Said(fleet)
    fleet.loop.close()
    fleet.loop = Loop(fleet.world, KINDS, alerts=said.alerts)
    if sink is not None:
        patience = Patience(base_s=0.001, half_open_s=0.01)
        outbox = said.alerts.outbox
        outbox.start({"pager": Courier("pager", sink, on_done=outbox.arrived, patience=patience)})
    return said


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def settled(fleet: FakeFleet, hub: str = HUB) -> None:
    fleet.commit(GOOD, hub=hub)
    fleet.settle()


# --- on transitions ---------------------------------------------------------------------------------------------------


def test_a_fleet_that_is_well_tells_nothing(fleet: FakeFleet) -> None:
    said = listen(fleet)
    settled(fleet)
    fleet.clock.advance(10_000)
    fleet.run()
    assert said.all == []


def test_an_outage_is_told_once_when_it_begins_and_once_when_it_ends(fleet: FakeFleet) -> None:
    said = listen(fleet)
    settled(fleet)
    fleet.runtime.go_down()
    for _ in range(5):
        fleet.run()
    assert said.all == [("raised", "hub", "RuntimeUnavailable"), ("raised", "hub", "ModeChanged")]
    fleet.runtime.come_back()
    fleet.settle()
    assert said.all[2:] == [("cleared", "hub", "RuntimeUnavailable"), ("cleared", "hub", "ModeChanged")]


def test_a_restart_tells_nothing_twice_and_forgets_nothing(fleet: FakeFleet) -> None:
    listen(fleet)
    settled(fleet)
    fleet.runtime.go_down()
    fleet.run()
    fleet.restart()
    said = listen(fleet)
    fleet.run()
    assert said.all == []
    fleet.runtime.come_back()
    fleet.settle()
    assert said.all == [("cleared", "hub", "RuntimeUnavailable"), ("cleared", "hub", "ModeChanged")]


def test_looking_tells_nothing(fleet: FakeFleet) -> None:
    said = listen(fleet)
    settled(fleet)
    fleet.runtime.go_down()
    assert told(fleet.look()).keys() == {"RuntimeUnavailable"}
    assert said.all == []


def test_a_router_that_is_down_is_told_after_ten_seconds(fleet: FakeFleet) -> None:
    said = listen(fleet)
    settled(fleet)
    fleet.router.die()
    fleet.router.fail_next("start", 100)
    for _ in range(4):
        fleet.run()
    assert ("raised", "hub", "RouterDown") not in said.all
    fleet.clock.advance(10)
    fleet.run()
    assert said.all == [("raised", "hub", "ModeChanged"), ("raised", "hub", "RouterDown")]


def test_a_source_that_is_away_is_told_after_its_window(fleet: FakeFleet) -> None:
    said = listen(fleet)
    settled(fleet)
    fleet.source.fail("no such branch")
    fleet.run()
    fleet.clock.advance(599)
    fleet.run()
    assert said.all == []
    fleet.clock.advance(2)
    fleet.run()
    assert said.all == [("raised", "hub", "SourceUnavailable")]


def test_a_revision_that_is_not_valid_is_told_after_the_window(fleet: FakeFleet) -> None:
    said = listen(fleet)
    settled(fleet)
    fleet.commit({"agents.d/a.yaml": "nonsense"}, hub=HUB)
    fleet.run()
    assert said.all == []
    fleet.clock.advance(601)
    fleet.run()
    assert said.all == [("raised", "hub", "ConfigInvalid")]


# --- what is found ----------------------------------------------------------------------------------------------------


def test_tasks_that_wait_while_none_is_dispatched_are_told_after_the_window(fleet: FakeFleet) -> None:
    said = listen(fleet)
    fleet.agents.holding.update(("one", "two"))
    hub = hub_text(alerts={"throughputWindow": "5m"}, orchestrator={"maxParallelTasks": 1})
    tasks = {f"tasks.d/{n}.yaml": task_text(n, timeout="1h") for n in ("one", "two")}
    fleet.commit({**GOOD, **tasks}, hub=hub)
    fleet.watch(10, are_calling=True)
    assert sorted(fleet.states().values()) == ["authorised", "running"]
    fleet.watch(280, are_calling=True)
    assert said.all == []
    fleet.watch(30, are_calling=True)
    assert said.all == [("raised", "hub", "NothingDispatched")]
    fleet.agents.holding.clear()
    fleet.settle()
    assert said.all[1:] == [("cleared", "hub", "NothingDispatched")]


def test_a_queue_that_is_empty_is_no_reason_to_tell(fleet: FakeFleet) -> None:
    said = listen(fleet)
    settled(fleet)
    fleet.clock.advance(3600)
    fleet.commit({**GOOD, "tasks.d/t.yaml": task_text()}, hub=HUB)
    fleet.settle()
    assert said.all == []


def test_an_orphan_is_told_and_its_end_too(fleet: FakeFleet) -> None:
    said = listen(fleet)
    settled(fleet)
    put_beside(fleet, "stray-0", {})
    fleet.run()
    assert said.all == [("raised", "runtime", "Orphans")]
    assert "stray-0" in said.messages[0]
    fleet.runtime.remove_by_hand("stray-0")
    fleet.run()
    assert said.all[1:] == [("cleared", "runtime", "Orphans")]


@pytest.mark.parametrize(
    ("type_", "payload", "condition"),
    [
        ("hub.flood", {"reason": "30 messages over the rate"}, "Flooding"),
        ("hub.forged", {"reason": "from says reviewer"}, "ForgedSender"),
        ("security.alert", {"summary": "somebody asks for keys"}, "SecurityAlert"),
    ],
)
def test_what_the_router_or_an_agent_tells_of_is_raised_once_and_over_after_a_quiet_time(
    fleet: FakeFleet, type_: str, payload: dict[str, str], condition: str
) -> None:
    said = listen(fleet)
    settled(fleet)
    for _ in range(3):
        fleet.router.post("writer-0", type_, payload)
        fleet.run()
    assert said.all == [("raised", "agent/writer-0", condition)]
    assert next(iter(payload.values())) in said.messages[0]
    fleet.clock.advance(301)
    fleet.run()
    assert said.all[1:] == [("cleared", "agent/writer-0", condition)]


def test_an_alarm_outlives_a_restart_without_being_told_again_and_one_meanwhile_is_not_missed(fleet: FakeFleet) -> None:
    listen(fleet)
    settled(fleet)
    fleet.router.post("writer-0", "hub.flood", {"reason": "a"})
    fleet.run()
    fleet.router.post("writer-0", "hub.forged", {"reason": "b"})
    fleet.restart()
    said = listen(fleet)
    fleet.run()
    assert said.all == [("raised", "agent/writer-0", "ForgedSender")]
    fleet.clock.advance(301)
    fleet.run()
    assert sorted(said.all[1:]) == [
        ("cleared", "agent/writer-0", "Flooding"),
        ("cleared", "agent/writer-0", "ForgedSender"),
    ]


def test_a_provider_that_is_away_is_a_condition_of_its_own_and_told(fleet: FakeFleet) -> None:
    said = listen(fleet)
    provider = {"name": "gpu", "type": "ollama", "exposure": "private", "models": [{"name": "qwen3"}]}
    settled(fleet, hub_text(providers=[provider]))
    fleet.egress.faults = {"gpu": "it refused 5 connections in a row"}
    report = fleet.run()
    assert told(report) == {"ProviderAway": "it refused 5 connections in a row"}
    assert said.all == [("raised", "provider/gpu", "ProviderAway")]
    fleet.egress.die()
    fleet.run()
    assert said.all == [("raised", "provider/gpu", "ProviderAway")]
    fleet.egress.faults = {}
    fleet.settle()
    assert said.all[1:] == [("cleared", "provider/gpu", "ProviderAway")]


# --- without a record -------------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_written_is_told_at_once_and_its_end_is_on_record(fleet: FakeFleet) -> None:
    said = listen(fleet)
    settled(fleet)
    for _ in range(3):
        fleet.loop.note_store_fault("database or disk is full")
    assert said.all == [("raised", "hub", "StoreUnwritable"), ("raised", "hub", "ModeChanged")]
    assert [c.type for c in fleet.loop.conditions] == ["StoreUnwritable"]
    assert fleet.loop.mode == "degraded"
    report = fleet.run()
    assert (report.mode, told(report)) == ("normal", {})
    assert said.all[2:] == [("cleared", "hub", "StoreUnwritable"), ("cleared", "hub", "ModeChanged")]
    assert [e.action for e in fleet.audit() if e.kind == "condition"] == ["StoreUnwritable"]
    assert fleet.loop.conditions == ()


# --- sinks ------------------------------------------------------------------------------------------------------------


def test_a_sink_gets_each_transition_once_and_in_order(fleet: FakeFleet, receiver: Receiver) -> None:
    said = listen(fleet, WebhookSink(Webhook(url=receiver.url), 5.0))
    settled(fleet)
    fleet.runtime.go_down()
    fleet.run()
    fleet.runtime.come_back()
    fleet.settle()
    until(lambda: records.notices(fleet.store) == [])
    assert receiver.types == [
        ("raised", "RuntimeUnavailable"),
        ("raised", "ModeChanged"),
        ("cleared", "RuntimeUnavailable"),
        ("cleared", "ModeChanged"),
    ]
    assert receiver.posts[0].notice["fleet"] == fleet.world.fleet
    said.alerts.outbox.close()


def test_only_the_sinks_that_the_repository_names_are_told(fleet: FakeFleet, receiver: Receiver) -> None:
    said = listen(fleet, WebhookSink(Webhook(url=receiver.url), 5.0))
    settled(fleet, hub_text(alerts={"sinks": ["log"]}))
    fleet.runtime.go_down()
    fleet.run()
    assert len(said.all) == 2
    assert records.notices(fleet.store) == []
    said.alerts.outbox.close()


def test_a_sink_that_hangs_holds_no_pass_up(fleet: FakeFleet, receiver: Receiver) -> None:
    over = threading.Event()
    receiver.answer = lambda _n: 204 if over.wait(600) else 500
    said = listen(fleet, WebhookSink(Webhook(url=receiver.url), 30.0))
    settled(fleet)
    fleet.runtime.go_down()
    passes = threading.Thread(target=lambda: [fleet.run() for _ in range(5)])
    passes.start()
    passes.join(60)
    assert not passes.is_alive()
    assert len(records.notices(fleet.store)) == 2
    over.set()
    until(lambda: records.notices(fleet.store) == [])
    said.alerts.outbox.close()


def test_what_a_killed_hub_could_not_deliver_is_delivered_by_the_next_one(fleet: FakeFleet, receiver: Receiver) -> None:
    receiver.answer = lambda _n: 503
    said = listen(fleet, WebhookSink(Webhook(url=receiver.url), 5.0))
    settled(fleet)
    fleet.runtime.go_down()
    fleet.run()
    until(lambda: len(receiver.posts) > 2)
    said.alerts.outbox.close()
    fleet.restart()
    receiver.posts.clear()
    receiver.answer = lambda _n: 204
    said = listen(fleet, WebhookSink(Webhook(url=receiver.url), 5.0))
    until(lambda: records.notices(fleet.store) == [])
    assert receiver.types == [("raised", "RuntimeUnavailable"), ("raised", "ModeChanged")]
    said.alerts.outbox.close()


def test_a_sink_that_is_away_is_a_condition_that_the_others_are_told_of(fleet: FakeFleet, receiver: Receiver) -> None:
    receiver.answer = lambda _n: 503
    said = listen(fleet, WebhookSink(Webhook(url=receiver.url), 5.0))
    settled(fleet)
    fleet.runtime.go_down()
    fleet.run()
    until(lambda: len(receiver.posts) > 6)
    assert told(fleet.run())["SinkAway"] == "it answered 503"
    assert said.all[-1] == ("raised", "sink/pager", "SinkAway")
    receiver.answer = lambda _n: 204
    until(lambda: records.notices(fleet.store) == [])
    assert "SinkAway" not in told(fleet.run())
    assert said.all[-1] == ("cleared", "sink/pager", "SinkAway")
    said.alerts.outbox.close()


def test_notices_for_a_sink_that_the_operator_took_away_are_dropped(fleet: FakeFleet) -> None:
    settled(fleet)
    records.put_notices(fleet.store, [records.NoticeRecord(seq=1, sink="gone", document="{}")])
    alerts = Alerts(fleet.store, fleet.world.fleet, fleet.clock)
    alerts.outbox.start({})
    assert records.notices(fleet.store) == []


def test_a_sink_that_the_operator_does_not_define_is_refused(fleet: FakeFleet) -> None:
    fleet.commit(GOOD, hub=hub_text(alerts={"sinks": ["log", "sms"]}))
    (problem,) = fleet.run().problems
    assert "alerts.sinks is sms, but the operator allows log pager (sinks)" in str(problem)


def test_a_fault_of_the_hubs_own_is_told_once_on_record_with_the_next_pass_and_over_with_a_whole_one(
    fleet: FakeFleet,
) -> None:
    said = listen(fleet)
    settled(fleet)
    for _ in range(2):
        fleet.loop.note_own_fault("KeyError", "a fault of the hub's own ended a pass: KeyError; see the hub's log")
    assert [c.type for c in fleet.loop.conditions] == ["PassFailed"]
    assert records.conditions(fleet.store) == {}
    fleet.run()
    assert [(c.type, c.reason) for c in records.conditions(fleet.store).values()] == [("PassFailed", "KeyError")]
    fleet.run()
    assert [c.type for c in fleet.loop.conditions] == ["PassFailed"]
    assert said.all == [("raised", "hub", "PassFailed")]
    fleet.loop.end_own_fault()
    assert fleet.loop.conditions == ()
    assert said.all[1:] == [("cleared", "hub", "PassFailed")]
    fleet.run()
    assert said.all[2:] == []
