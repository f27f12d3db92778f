"""Messages of operators: what the plane takes, what it makes of it, and what it says when it cannot."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.api.access import RefusedRequest
from reconciler.api.messages import read_message
from reconciler.api.operations import HubOperations
from reconciler.core.caller import Caller
from reconciler.errors import RouterError
from reconciler.kinds import KINDS
from reconciler.loop.serve import Hub
from reconciler.router.channel import RefusedByRouterError
from reconciler.store.audit import tail
from tests.fakes.fleet import FakeFleet
from tests.fakes.router import FakeRouter


def order(**fields: object) -> bytes:
    return json.dumps({"type": "notice.planned", **fields}).encode()


def test_an_event_names_an_agent_or_a_topic() -> None:
    made = read_message(
        order(to="writer/writer-0", payload={"a": 1}, sensitivity="public", ttl_s=5), Caller(proven="uid:7")
    )
    message = made.pop("message")
    assert made == {"to": "writer/writer-0", "actor": "uid:7"}
    assert message.pop("id").startswith("operator-")
    assert message == {
        "type": "notice.planned",
        "pattern": "event",
        "payload": {"a": 1},
        "sensitivity": "public",
        "ttl_s": 5.0,
    }
    assert read_message(order(topic="notice.planned"), Caller(proven="uid:7"))["topic"] == "notice.planned"


def test_an_audience_makes_a_broadcast() -> None:
    made = read_message(order(audience={"roles": ["writer"], "labels": {"team": "docs"}}), Caller(proven="uid:0"))
    assert made["message"]["pattern"] == "broadcast"
    assert made["audience"] == {"roles": ("writer",), "labels": {"team": "docs"}, "capabilities": ()}


def test_each_message_has_an_id_of_its_own() -> None:
    assert read_message(order(to="a"), "x")["message"]["id"] != read_message(order(to="a"), "x")["message"]["id"]


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "cannot be read"),
        (b"[]", 400, "cannot be read"),
        (b"\xff", 400, "cannot be read"),
        (order(), 400, "exactly one of to, topic and audience"),
        (order(to="a", topic="b"), 400, "exactly one of to, topic and audience"),
        (order(to="a", surprise=1), 400, "unknown field `surprise`"),
        (order(to="a", type="Not A Type"), 400, r"\$\.type"),
        (order(to="a", ttl_s=0), 400, r"\$\.ttl_s"),
        (order(to="a", sensitivity="secret"), 400, r"\$\.sensitivity"),
        (order(to="a", type="task.assigned"), 403, "only the hub sends"),
        (order(audience={"role": "x"}), 400, "unknown field `role`"),
    ],
)
def test_what_is_no_message_is_refused_with_the_reason(content: bytes, status: int, said: str) -> None:
    with pytest.raises(RefusedRequest, match=said) as refused:
        read_message(content, Caller(proven="uid:0"))
    assert refused.value.status == status


class ToldRouter(FakeRouter):
    """Says what it is told to when something is to be sent."""

    answer: Exception | None = None
    orders: list[Any]

    def send(self, message: Any) -> None:
        if self.answer is not None:
            raise self.answer
        self.orders = [message]


def operations(fleet: FakeFleet, router: FakeRouter) -> HubOperations:
    hub = Hub(fleet.loop, fleet.world, KINDS, fleet.inspections)
    return HubOperations(hub, fleet.loop, replace(fleet.world, router=router), lambda _drain: None)


def test_a_message_is_sent_and_audited_with_who_sent_it(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    router = ToldRouter(fleet.clock)
    sent = operations(fleet, router).send(order(to="writer"), Caller(proven="uid:7"))
    (row,) = [row.entry for row in tail(fleet.store, 5) if row.entry.action == "send"]
    fleet.end_hub()
    assert router.orders[0]["message"]["id"] == sent["id"]
    assert (row.kind, row.name, row.actor, row.cause, row.outcome) == (
        "message",
        sent["id"],
        "uid:7",
        "operator",
        "applied",
    )


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (RefusedByRouterError("there is no instance of nobody", 404), 404, "no instance of nobody"),
        (RouterError("POST /messages failed"), 502, "no RouterDown"),
    ],
)
def test_what_the_router_did_not_take_is_told_and_not_audited(
    tmp_path: Path, answer: Exception, status: int, said: str
) -> None:
    fleet = FakeFleet(tmp_path)
    router = ToldRouter(fleet.clock)
    router.answer = answer
    with pytest.raises(RefusedRequest, match=said) as refused:
        operations(fleet, router).send(order(to="nobody"), Caller(proven="uid:0"))
    assert refused.value.status == status
    assert [row for row in tail(fleet.store, 5) if row.entry.action == "send"] == []
    fleet.end_hub()
