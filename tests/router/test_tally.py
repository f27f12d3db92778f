"""What is counted of each agent for control: its own doing, by kind."""

from typing import Any

import pytest

from reconciler.core.reading import Ok
from reconciler.ports import Tally as Told
from reconciler.router.message import Deny
from reconciler.router.tally import Tallies, Tally
from tests.router.fleet import Fleet


def deny(code: str, *, is_forgery: bool = False) -> Deny:
    return Deny(code=code, step="s", reason="r", is_forgery=is_forgery)


@pytest.mark.parametrize(
    ("denied", "expected"),
    [
        (deny("forbidden"), Tally(denied=1)),
        (deny("unknown_or_forbidden_recipient"), Tally(denied=1)),
        (deny("invalid_envelope"), Tally(invalid=1)),
        (deny("invalid_payload"), Tally(invalid=1)),
        (deny("too_large"), Tally(invalid=1)),
        (deny("rate_limited"), Tally(limited=1)),
        (deny("forbidden", is_forgery=True), Tally(forged=1)),
        (deny("unauthenticated", is_forgery=True), Tally(forged=1)),
        (deny("unauthenticated"), Tally()),
        (deny("mailbox_full"), Tally()),
        (deny("policy_unavailable"), Tally()),
        (deny("internal"), Tally()),
    ],
)
def test_a_denial_is_counted_by_what_the_sender_did(denied: Deny, expected: Tally) -> None:
    tally = Tally()
    tally.note(denied)
    assert tally == expected


def test_agents_are_counted_apart() -> None:
    tallies = Tallies()
    tallies["a"].note(deny("forbidden"))
    assert tallies["a"] == Tally(denied=1)
    assert tallies["b"] == Tally()


def told(fleet: Fleet, agent: str) -> Told:
    counted: Told = fleet.report().tallies.get(agent, Told())
    return counted


def test_control_is_told_what_came_of_the_messages_of_each_agent(fleet: Fleet) -> None:
    fleet.configure(limits={"rate": {"messages_per_s": 1000.0, "bytes_per_s": 1e9}})
    writer, _reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    forged: dict[str, Any] = {"from": "reviewer"}
    before = told(fleet, "writer")
    for _ in range(2):
        assert writer.send("review.note", to="reviewer").status == 202
    assert writer.send("review.note", to="archive").status == 403
    assert writer.call("POST", "/api/hub/messages", b"{").status == 400
    for _ in range(3):
        assert writer.send("review.note", to="reviewer", **forged).status == 403
    after = told(fleet, "writer")
    assert after.accepted - before.accepted == 2
    assert after.denied - before.denied == 1
    assert after.invalid - before.invalid == 1
    assert after.forged - before.forged == 3


def test_a_flood_is_counted_once_for_its_alarm_and_each_message_over_the_rate(fleet: Fleet) -> None:
    agents = fleet.config["agents"]
    slow = {**agents["writer"], "quota": {"messages_per_s": 0.05}}
    rate = {"messages_per_s": 1000.0, "bytes_per_s": 1e9}
    fleet.configure(limits={"rate": rate}, agents={**agents, "writer": slow})
    writer, _reviewer = fleet.register("writer-0"), fleet.register("reviewer-0")
    before = told(fleet, "writer")
    assert [writer.send("review.note", to="reviewer").status for _ in range(35)].count(429) == 32
    after = told(fleet, "writer")
    assert after.limited - before.limited == 32
    assert after.floods - before.floods == 1


def test_a_new_registration_keeps_what_was_counted_of_the_agent(fleet: Fleet) -> None:
    writer = fleet.register("writer-0")
    assert writer.send("review.note", to="archive").status == 403
    before = told(fleet, "writer")
    fleet.link.remove_instance("writer-0")
    fleet.register("writer-0", hello=False)
    assert isinstance(fleet.link.report(), Ok)
    assert told(fleet, "writer") == before
