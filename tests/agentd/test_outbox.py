from __future__ import annotations

import io
import json
import threading

import pytest

from reconciler.agentd.dial import UnixDial
from reconciler.agentd.hub import Hub
from reconciler.agentd.log import Log
from reconciler.agentd.message import Message
from reconciler.agentd.outbox import Outbox, Parcel

from .fake_hub import FakeHub


@pytest.fixture
def outbox(hub: FakeHub) -> Outbox:
    log = Log(instance="demo-0", stream=io.StringIO())
    made = Outbox(Hub(UnixDial(hub.socket_path), str(hub.token_file)), log)
    threading.Thread(target=made.run, daemon=True).start()
    return made


def build_parcel(settled: list[str], type_: str = "task.started", **fields: object) -> Parcel:
    id_ = f"{type_}-{fields}"
    body = json.dumps({"id": id_, "type": type_, "payload": {"task": "demo"}}).encode()
    message = Message(id=id_, type=type_, body=body)
    return Parcel(message=message, task="demo", on_settled=settled.append, **fields)  # type: ignore[arg-type]


def test_messages_arrive_in_order_over_an_outage(hub: FakeHub, outbox: Outbox) -> None:
    settled: list[str] = []
    hub.refuse("task.started", 503, "log_unavailable")
    outbox.put(build_parcel(settled))
    outbox.put(build_parcel(settled, "task.completed"))
    assert outbox.wait_empty(5)
    assert [m["type"] for m in hub.received()] == ["task.started", "task.completed"]
    assert settled == ["", ""]


def test_a_refusal_for_good_is_told_by_its_code(hub: FakeHub, outbox: Outbox) -> None:
    settled: list[str] = []
    hub.refuse("task.started", 403, "forbidden")
    outbox.put(build_parcel(settled))
    assert outbox.wait_empty(5)
    assert settled == ["forbidden"]


def test_a_refusal_of_the_content_brings_the_fallback_once(hub: FakeHub, outbox: Outbox) -> None:
    settled: list[str] = []
    small = build_parcel([], "task.failed").message
    explained: list[str] = []

    def fall_back(explanation: str) -> Message:
        explained.append(explanation)
        return small

    hub.refuse("task.completed", 413, "too_large")
    hub.refuse("task.failed", 422, "invalid_payload")
    outbox.put(build_parcel(settled, "task.completed", fallback=fall_back))
    assert outbox.wait_empty(5)
    assert [a.message["type"] for a in hub.attempts] == ["task.completed", "task.failed"]
    assert settled == ["invalid_payload"]
    assert explained == ["413 too_large as told"]


def test_a_droppable_message_is_tried_once(hub: FakeHub, outbox: Outbox) -> None:
    settled: list[str] = []
    hub.refuse("task.progress", 503, "log_unavailable")
    outbox.put(build_parcel(settled, "task.progress", droppable=True))
    outbox.put(build_parcel(settled, "task.completed"))
    assert outbox.wait_empty(5)
    assert [(a.message["type"], a.status) for a in hub.attempts] == [
        ("task.progress", 503),
        ("task.completed", 202),
    ]


def test_of_droppable_messages_only_the_latest_waits(hub: FakeHub) -> None:
    log = Log(instance="demo-0", stream=io.StringIO())
    outbox = Outbox(Hub(UnixDial(hub.socket_path), str(hub.token_file)), log)
    settled: list[str] = []
    for _ in range(3):
        outbox.put(build_parcel(settled, "task.progress", droppable=True))
    threading.Thread(target=outbox.run, daemon=True).start()
    assert outbox.wait_empty(5)
    assert len(hub.attempts) == 1


def test_in_a_hurry_it_does_not_sit_out_a_long_pause(hub: FakeHub, outbox: Outbox) -> None:
    settled: list[str] = []
    hub.refuse("task.completed", 503, "log_unavailable", times=5)
    outbox.put(build_parcel(settled, "task.completed"))
    hub.wait_until(lambda: len(hub.attempts) >= 3, "growing pauses")
    outbox.hurry()
    assert outbox.wait_empty(3)
    assert settled == [""]


def test_messages_that_follow_each_other_share_a_connection(hub: FakeHub) -> None:
    log = Log(instance="demo-0", stream=io.StringIO())
    outbox = Outbox(Hub(UnixDial(hub.socket_path), str(hub.token_file)), log)
    for number in range(3):
        outbox.put(build_parcel([], f"task.started{number}"))
    threading.Thread(target=outbox.run, daemon=True).start()
    assert outbox.wait_empty(60)
    assert (len(hub.attempts), hub.connections) == (3, 1)


def test_a_connection_that_broke_meanwhile_costs_no_message(hub: FakeHub, outbox: Outbox) -> None:
    outbox.put(build_parcel([]))
    assert outbox.wait_empty(60)
    hub.stop()
    hub.start()
    outbox.put(build_parcel([], "task.completed"))
    assert outbox.wait_empty(60)
    assert [a.message["type"] for a in hub.attempts] == ["task.started", "task.completed"]
