"""What policy says of requests to models, over the real process: asked before anybody else, and written down."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from reconciler.core.digest import digest
from reconciler.errors import EgressRefusedError
from tests.egress.places import Place, until
from tests.fakes.messages_api import MessagesApi
from tests.policy.opa_servers import RealOpa, socket_folder

BY_ROLE = """package hub.llm

import rego.v1

decision := {"allow": count(deny) == 0, "reasons": deny}

deny contains "readers ask nobody" if input.agent.role == "reader"
"""
BY_USE = """package hub.llm

import rego.v1

decision := {"allow": input.used.task.requests < 2, "reasons": ["two are enough"]}
"""
WRITER = {"role": "reporter"}
READER = {"role": "reader"}


def policy(text: str) -> Mapping[str, Any]:
    modules = {"policies/llm.rego": text}
    name = digest(modules)
    return {"digest": name, "modules": modules, "data": {"hub": {"revision": name}}}


def use(place: Place, text: str | None, **agents: Mapping[str, Any]) -> None:
    rules = {"engines": ["embedded", "builtin"], "last_resort": "deny"}
    place.configure(policy=None if text is None else policy(text), rules=rules, agents=agents)


def test_what_policy_denies_reaches_no_provider_and_is_a_row(place: Place, api: MessagesApi) -> None:
    use(place, BY_ROLE, writer=WRITER, reader=READER)
    writer, reader = place.register(), place.register("reader-0", token="r" * 43, work=[{"run": "r1", "task": "t"}])
    reply = reader.ask()
    assert (reply.status, reply.code) == (403, "policy")
    assert "policy does not allow it: readers ask nobody" in reply.body["error"]["message"]
    assert api.asked == []
    assert writer.ask().status == 200
    until(lambda: len(place.written()) >= 2)
    denied, asked = sorted(place.written(), key=lambda row: row.agent)
    revision = policy(BY_ROLE)["digest"]
    assert (denied.agent, denied.denied, denied.status, denied.run) == ("reader", "readers ask nobody", 0, "r1")
    assert (denied.engine, denied.policy_revision, denied.input) == ("embedded", revision, 0)
    assert (asked.denied, asked.engine, asked.policy_revision, asked.cached) == ("", "embedded", revision, False)
    assert place.state()["instances"]["reader-0"]["denied"] == {"policy": 1}


def test_an_answer_is_remembered_and_another_policy_is_asked_anew(place: Place) -> None:
    fresh = f"{BY_ROLE}# of the row {place.since}\n"
    use(place, fresh, writer=WRITER)
    writer = place.register()
    assert [writer.ask().status, writer.ask().status] == [200, 200]
    assert [row.cached for row in place.rows(2)] == [False, True]
    use(place, fresh, writer=READER)
    assert writer.ask().code == "policy"
    use(place, None)
    assert writer.ask().status == 200
    until(lambda: len(place.written()) >= 4)
    assert {row.engine for row in place.written() if not row.denied} == {"embedded", "builtin"}


def test_a_policy_may_go_by_what_the_task_has_used(place: Place) -> None:
    use(place, BY_USE, writer=WRITER)
    writer = place.register(work=[{"run": f"run-{place.since}-by-use", "task": "t"}])
    assert [writer.ask().status for _ in range(4)] == [200, 200, 403, 403]
    until(lambda: sum(row.count for row in place.written()) >= 4)
    assert sum(row.count for row in place.written() if row.denied == "two are enough") == 2


def test_a_policy_that_does_not_compile_changes_nothing(place: Place) -> None:
    use(place, BY_ROLE, writer=READER)
    writer = place.register()
    with pytest.raises(EgressRefusedError, match="policy"):
        use(place, "package hub.llm\ndecision := undefined_ref.x + 1 {", writer=WRITER)
    assert writer.ask().code == "policy"
    assert place.state()["policy"] == {"engine": "embedded", "fault": ""}
    place.rows(1)


def test_policy_is_asked_after_the_law_of_sensitivity(place: Place, api: MessagesApi) -> None:
    use(place, BY_ROLE.replace("readers ask nobody", "never"), writer=WRITER)
    assert place.register(sensitivity="confidential").ask().code == "sensitivity"
    assert api.asked == []


@pytest.fixture
def opa() -> Iterator[RealOpa]:
    with socket_folder() as folder:
        server = RealOpa(folder)
        yield server
        server.kill()


def test_opa_is_asked_and_while_it_is_away_the_last_resort_answers(place: Place, opa: RealOpa) -> None:
    revision = f"r{place.since}"
    opa.put(revision, 'decision := {"allow": input.agent.role == "reporter", "reasons": ["by opa"]}', "llm")
    modules = {"policies/llm.rego": BY_ROLE}
    place.configure(
        policy={"digest": revision, "modules": modules, "data": {"hub": {"revision": revision}}},
        rules={"engines": ["opa", "builtin"], "last_resort": "builtin", "cache_entries": 0},
        opa={"url": f"unix://{opa.address.path}", "timeout_s": 2.0},
        agents={"writer": WRITER, "reader": READER},
    )
    writer, reader = place.register(), place.register("reader-0", token="r" * 43)
    until(lambda: place.state()["policy"]["engine"] == "opa", timeout_s=30)
    assert writer.ask().status == 200
    assert "by opa" in reader.ask().body["error"]["message"]
    assert {(row.engine, row.denied) for row in place.rows(2)} == {("opa", ""), ("opa", "by opa")}
    opa.kill()
    until(lambda: bool(place.state()["policy"]["fault"]), timeout_s=30)
    assert place.state()["policy"]["engine"] == "builtin"
    assert reader.ask().status == 200
    until(lambda: place.written()[-1].engine == "builtin")
