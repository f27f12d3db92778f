"""What is counted and bounded, and the law that sensitive work reaches no public provider."""

import os
import signal
import socket
from typing import Any

import pytest

from reconciler.core.exposure import LEVELS
from reconciler.core.reading import Ok
from reconciler.runtime.pid import read_process
from tests.egress.places import MODEL, Place, provider, until
from tests.fakes.messages_api import MessagesApi

# --- what is counted ---


def test_each_request_is_a_row_with_its_run_tokens_and_cost(place: Place, api: MessagesApi) -> None:
    writer = place.register(work=[{"run": "r1", "task": "changelog"}])
    api.say("hi", input_tokens=1000, output_tokens=100)
    writer.ask()
    (row,) = place.rows()
    assert (row.agent, row.instance, row.run, row.task) == ("writer", "writer-0", "r1", "changelog")
    assert (row.provider, row.model, row.status) == ("anthropic", MODEL, 200)
    assert (row.input, row.output, round(row.cost, 9)) == (1000, 100, 0.015)
    assert row.first_byte_ms is not None
    assert 0 <= row.first_byte_ms <= row.whole_ms
    report = place.link.report()
    assert isinstance(report, Ok)
    assert report.value.runs["r1"].tokens == 1100
    assert report.value.usage["writer"].requests >= 1


def test_of_several_runs_the_header_says_which_and_no_other(place: Place) -> None:
    writer = place.register(work=[{"run": "r1", "task": "a"}, {"run": "r2", "task": "b"}])
    for header in ("r2", "r9", ""):
        writer.ask(headers={"hub-run": header} if header else {})
    assert [row.run for row in place.rows(3)] == ["r2", None, None]


def test_a_run_that_used_up_its_budget_is_refused_and_others_are_not(place: Place, api: MessagesApi) -> None:
    work = [{"run": "b1", "task": "t"}]
    writer = place.register(work=work, per_task={"tokens": 150})
    api.say("hi", input_tokens=140, output_tokens=30)
    assert writer.ask().status == 200
    reply = writer.ask()
    assert (reply.status, reply.code, reply.body["error"]["type"]) == (402, "budget_spent", "billing_error")
    assert "run b1 has used" in reply.body["error"]["message"]
    assert place.register(work=[{"run": "b2", "task": "t"}], per_task={"tokens": 150}).ask().status == 200
    assert len(api.asked) == 2


def test_budgets_hold_over_a_kill_of_the_process(own_place: Place, api: MessagesApi) -> None:
    frugal: dict[str, Any] = {
        "work": [{"run": "b1", "task": "t"}],
        "per_task": {"cost": 0.001},
        "per_day": {"tokens": 5000},
    }
    api.say("hi", input_tokens=1000, output_tokens=10)
    assert own_place.register(**frugal).ask().status == 200
    own_place.rows()
    pid = own_place.state()["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: read_process(pid) is None)
    own_place.link.start()
    own_place.configure()
    writer = own_place.register(**frugal)
    assert writer.ask().code == "budget_spent"
    assert own_place.state()["usage"]["writer"]["tokens"] == 1010


# --- the law ---


@pytest.mark.parametrize("level", ["confidential", "restricted"])
def test_sensitive_work_reaches_no_public_provider_by_no_change_of_manifest_or_configuration(
    place: Place, api: MessagesApi, level: str
) -> None:
    with MessagesApi() as local:
        providers = {"anthropic": provider(api.url), "gpu": provider(local.url, type="ollama", exposure="private")}
        place.configure(providers=providers)
        private: dict[str, Any] = {"route": {"provider": "gpu", "model": MODEL}, "work": [{"run": "r1", "task": "t"}]}
        writer = place.register(**private, sensitivity=level)
        assert writer.ask().status == 200
        writer = place.register(sensitivity="public", digest="e2")
        assert (writer.ask().status, writer.ask().code) == (403, "sensitivity")
        everywhere = {level: ["private", "public"] for level in LEVELS}
        place.configure(exposures=everywhere)
        assert writer.ask().code == "sensitivity"
        place.configure(providers={**providers, "gpu": provider(api.url, type="ollama", exposure="public")})
        assert place.register(**private).ask().code == "sensitivity"
        assert (len(api.asked), len(local.asked)) == (0, 1)
        assert place.state()["instances"]["writer-0"]["denied"]["sensitivity"] == 4


def test_when_a_private_provider_is_away_no_public_one_is_asked(place: Place, api: MessagesApi) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    gpu = provider(url, type="ollama", exposure="private")
    place.configure(providers={"anthropic": provider(api.url), "gpu": gpu}, limits={"failures": 2})
    writer = place.register(route={"provider": "gpu", "model": MODEL}, sensitivity="restricted")
    assert [writer.ask().code for _ in range(4)] == ["provider_failed"] * 2 + ["provider_away"] * 2
    assert api.asked == []


def test_a_model_that_runs_elsewhere_is_refused_on_a_private_route(place: Place, api: MessagesApi) -> None:
    models: dict[str, Any] = {"kimi:cloud": {}}
    place.configure(providers={"gpu": provider(api.url, type="ollama", exposure="private", models=models)})
    writer = place.register(route={"provider": "gpu", "model": "kimi:cloud"})
    reply = writer.ask(model="kimi:cloud")
    assert (reply.status, reply.code) == (403, "sensitivity")
    assert api.asked == []
