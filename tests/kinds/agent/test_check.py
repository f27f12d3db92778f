"""Cross references and limits of agents, as a whole revision is judged."""

from typing import Any

import pytest

from reconciler.settings import Maxima, OperatorRuntime, OperatorSpec
from tests.fakes.desired import desired_of, problems_of
from tests.fakes.texts import agent_text, hub_text

SENDS = {"sends": [{"to": "reader", "types": ["a.b"]}]}


def test_sends_may_only_name_agents_that_are_defined() -> None:
    files = {"agents.d/a.yaml": agent_text(messaging=SENDS)}
    assert problems_of(files) == [
        "agents.d/a.yaml:9:26: messaging.sends names agent 'reader', which is not defined; agents are: writer"
    ]
    assert problems_of({**files, "agents.d/b.yaml": agent_text("reader")}) == []


def test_delegation_may_only_name_agents_that_are_defined() -> None:
    files = {"agents.d/a.yaml": agent_text(delegation={"to": ["writer", "reader"]})}
    assert problems_of(files) == [
        "agents.d/a.yaml:9:33: delegation.to names agent 'reader', which is not defined; agents are: writer"
    ]


def test_a_broken_agent_file_is_the_only_problem_even_if_others_name_its_agent() -> None:
    files = {"agents.d/a.yaml": agent_text(messaging=SENDS), "agents.d/b.yaml": agent_text("reader", rol="x")}
    (problem,) = problems_of(files)
    assert problem.startswith("agents.d/b.yaml:9:3: unknown key 'rol'")


@pytest.mark.parametrize(
    ("spec", "maxima", "said"),
    [
        ({"resources": {"cpus": 2.5}}, {"cpus": 2}, "9:15: resources.cpus is 2.5; the operator allows 2"),
        (
            {"resources": {"memory": "3GiB"}},
            {"memory": "2GiB"},
            "9:15: resources.memory is 3GiB; the operator allows 2GiB",
        ),
        ({"lifecycle": {"ttl": "8d"}}, {"ttl": "7d"}, "9:15: lifecycle.ttl is 8d; the operator allows 7d"),
        ({"replicas": 3}, {"agents": 2}, "1:1: the fleet has 3 instances; the operator allows 2"),
    ],
)
def test_nobody_gets_more_than_the_operator_allows(spec: dict[str, Any], maxima: dict[str, Any], said: str) -> None:
    operator = OperatorSpec(maxima=Maxima.model_validate(maxima))
    files = {"agents.d/a.yaml": agent_text(**spec)}
    assert problems_of(files, operator=operator) == [f"agents.d/a.yaml:{said}"]
    assert problems_of(files) == []


def test_an_image_must_be_allowed_by_hub_and_operator_both() -> None:
    files = {
        "hub.yaml": hub_text(runtime={"images": ["agents/base"]}),
        "agents.d/a.yaml": agent_text(image="agents/checker:1"),
        "agents.d/b.yaml": agent_text("other", image="docker.io/evil:latest"),
    }
    assert problems_of(files) == [
        "agents.d/a.yaml:6:3: image 'agents/checker:1' is not allowed by hub.yaml (runtime.images): agents/base",
        "agents.d/b.yaml:6:3: image 'docker.io/evil:latest' is not allowed by hub.yaml (runtime.images): agents/base",
        "agents.d/b.yaml:6:3: image 'docker.io/evil:latest' is not allowed by the operator: agents/*",
    ]


def test_the_operator_may_allow_more_images() -> None:
    operator = OperatorSpec(runtime=OperatorRuntime.model_validate({"imageAllow": ["*"]}))
    files = {
        "hub.yaml": hub_text(runtime={"images": ["tools/*"]}),
        "agents.d/a.yaml": agent_text(image="tools/x@sha256:0"),
    }
    assert problems_of(files, operator=operator) == []


def test_the_router_is_told_who_may_send_what_and_who_hears_what() -> None:
    messaging = {**SENDS, "subscribes": ["docs.*", {"topic": "x", "delivery": "all"}]}
    files = {
        "agents.d/a.yaml": agent_text(messaging=messaging, labels={"team": "docs"}),
        "agents.d/b.yaml": agent_text("reader", messaging={"sends": [{"topic": "x.y"}]}),
    }
    agents = desired_of(files).route["agents"]
    assert agents["writer"] == {
        "labels": {"team": "docs"},
        "role": "writer",
        "version": "1",
        "capabilities": ["docs.write"],
        "sends": [{"to": "reader", "types": ["a.b"]}],
        "subscribes": [{"topic": "docs.*", "delivery": "one"}, {"topic": "x", "delivery": "all"}],
        "quota": {},
        "quota_by_type": {},
        "klp": None,
    }
    assert agents["reader"]["sends"] == [{"topic": "x.y"}]


def test_the_router_is_told_the_quota_as_far_as_the_manifest_says_it_and_the_key() -> None:
    key = "ed25519:" + "A" * 43 + "="
    messaging = {
        "quota": {"messages": "30/min", "perType": {"review.note": {"bytes": "1MiB/s"}}},
        "klp": {"publicKey": key},
    }
    entry = desired_of({"agents.d/a.yaml": agent_text(messaging=messaging)}).route["agents"]["writer"]
    assert entry["quota"] == {"messages_per_s": 0.5}
    assert entry["quota_by_type"] == {"review.note": {"bytes_per_s": float(2**20)}}
    assert entry["klp"] == key


def test_a_key_of_another_form_is_a_problem() -> None:
    (problem,) = problems_of({"agents.d/a.yaml": agent_text(messaging={"klp": {"publicKey": "ssh-ed25519 AAAA"}})})
    assert "publicKey" in problem


def test_models_are_asked_through_a_socket_which_an_agent_on_the_network_has_not() -> None:
    plane = {"agentPlane": {"listen": "tcp://10.0.0.1:8421", "agents": ["writer"]}}
    operator = OperatorSpec.model_validate(plane)
    llm = {"provider": "gpu", "model": "m"}
    files = {"agents.d/a.yaml": agent_text(llm=llm), "agents.d/b.yaml": agent_text("other", llm=llm)}
    why = "llm asks for models, which are at a socket; the operator's agentPlane.agents leaves this agent none"
    found = [p for p in problems_of(files, operator=operator) if "agentPlane" in p]
    assert found == [f"agents.d/a.yaml:9:3: {why}"]
    assert not any("agentPlane" in p for p in problems_of(files))
