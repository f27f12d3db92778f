"""Agent manifests: what is refused, and how the committer is told."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.quantity import NORMALISED
from reconciler.kinds.agent.spec import AgentSpec, parse_agent
from tests.fakes.texts import agent_text

FILE = "agents.d/a.yaml"
EXECUTOR = {"type": "command", "argv": ["x"]}


def said_of(text: str) -> list[str]:
    return [str(p) for p in parse_agent(FILE, text.encode(), {}).problems]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"rol": "x"}, "9:3: unknown key 'rol' in spec; did you mean 'role'?"),
        ({"resources": {"memry": "1GiB"}}, "9:15: unknown key 'memry' in spec.resources; did you mean 'memory'?"),
        (
            {"messaging": {"sends": [{"to": "x", "tpyes": ["a.b"]}]}},
            "9:37: unknown key 'tpyes' in spec.messaging.sends.0; did you mean 'types'?",
        ),
        (
            {"messaging": {"quota": {"message": "1/s"}}},
            "9:25: unknown key 'message' in spec.messaging.quota; did you mean 'messages'?",
        ),
        ({"lifecycle": {"frobnicate": 1}}, "9:15: unknown key 'frobnicate' in spec.lifecycle; known: autoRestart, "),
        ({"replicas": True}, "9:3: spec.replicas is true; expected a whole number"),
        ({"replicas": "2"}, "9:3: spec.replicas is '2'; expected a whole number"),
        ({"replicas": 1.5}, "9:3: spec.replicas is 1.5; expected a whole number"),
        ({"replicas": -1}, "9:3: spec.replicas: input should be greater than or equal to 0 (found -1)"),
        ({"replicas": 10**30}, "9:3: spec.replicas: input should be less than or equal to 100"),
        ({"lifecycle": {"autoRestart": "yes"}}, "9:15: spec.lifecycle.autoRestart is 'yes'; expected true or false"),
        ({"resources": {"cpus": "1"}}, "9:15: spec.resources.cpus is '1'; expected a number"),
        ({"resources": {"cpus": 0}}, "9:15: spec.resources.cpus: input should be greater than 0 (found 0)"),
        (
            {"resources": {"memory": 512}},
            "9:15: spec.resources.memory: 512 is not a size; write a number and one of B, ",
        ),
        ({"resources": {"memory": "512MB"}}, "9:15: spec.resources.memory: '512MB' is not a size; write a number"),
        (
            {"lifecycle": {"ttl": "8 weeks"}},
            "9:15: spec.lifecycle.ttl: '8 weeks' is not a duration; write a number and",
        ),
        ({"lifecycle": {"ttl": 30}}, "9:15: spec.lifecycle.ttl: 30 is not a duration"),
        (
            {"lifecycle": {"drainDeadline": "999999999d"}},
            "9:15: spec.lifecycle.drainDeadline: 999999999d is longer than",
        ),
        ({"messaging": {"quota": {"messages": "60"}}}, "9:25: spec.messaging.quota.messages: '60' is not a rate"),
        ({"capabilities": "docs.write"}, "7:3: spec.capabilities is 'docs.write'; expected a list"),
        ({"capabilities": ["Docs"]}, "7:18: spec.capabilities.0: 'Docs' is not a dotted name"),
        ({"capabilities": ["a", "b", "a"]}, "7:3: a capability stands twice; keep one"),
        ({"secrets": ["a", "a"]}, "9:3: a secret stands twice; keep one"),
        ({"secrets": ["Hunter2"]}, "9:13: spec.secrets.0: is not the name of a secret: use a-z, 0-9 and '-'; values"),
        ({"secrets": ["agent-token"]}, "9:13: spec.secrets.0: 'agent-token' is the name of the hub's own token"),
        ({"secrets": {"a": "hunter2"}}, "9:3: spec.secrets: is not a list of names; write secrets: [docs"),
        ({"executor": []}, "8:3: spec.executor is []; expected a mapping"),
        (
            {"executor": {"type": "codex", "argv": ["x"]}},
            "8:14: spec.executor.type is 'codex'; expected 'command', 'claude-code', 'http'",
        ),
        ({"executor": {"type": "command", "argv": []}}, "8:33: spec.executor.argv: tuple should have at least 1 item"),
        (
            {"executor": {"type": "command", "argv": "python3 x.py"}},
            "8:33: spec.executor.argv is 'python3 x.py'; expected",
        ),
        (
            {"executor": {"type": "command", "argv": ["sleep", 5]}},
            "8:51: spec.executor.argv.1: is 5, not text; put it in",
        ),
        ({"network": "egress"}, "9:3: spec.network is 'egress'; expected 'isolated'"),
        ({"sandbox": "none"}, "9:3: spec.sandbox is 'none'; expected 'strict'"),
        ({"role": "Tech Writer"}, "5:3: spec.role: 'Tech Writer' is not a name: 'T' is not allowed"),
        ({"image": "Agents/Base"}, "6:3: spec.image is 'Agents/Base', which is not a valid value here; it must match"),
        ({"image": "agents/base:1\n"}, "6:3: spec.image: contains a control character or a line break"),
        ({"version": 1}, "9:3: spec.version: is 1, not text; put it in quotes"),
        ({"env": ["A=b"]}, "9:3: spec.env is ['A=b']; expected a mapping"),
        ({"env": {"DEBUG": True}}, "9:9: spec.env.DEBUG: is True, not text; put it in quotes"),
        ({"env": {"1A": "x"}}, "9:9: spec.env.1A is '1A', which is not a valid value here"),
        (
            {"messaging": {"subscribes": ["Docs.*"]}},
            "9:30: spec.messaging.subscribes.0.topic is 'Docs.*', which is not a",
        ),
        (
            {"messaging": {"subscribes": ["docs*"]}},
            "9:30: spec.messaging.subscribes.0.topic is 'docs*', which is not a",
        ),
        (
            {"messaging": {"sends": [{}]}},
            "9:15: spec.messaging.sends: each entry has either 'to' (an agent) or 'topic'",
        ),
        (
            {"messaging": {"sends": [{"to": "x"}]}},
            "9:15: spec.messaging.sends: the entry to 'x' names no types; list the",
        ),
        ({"workspace": {"source": "volume"}}, "9:3: a volume that is not writable is always empty; set writable: true"),
        ({"drift": "fix"}, "9:3: spec.drift is 'fix'; expected 'correct', 'report' or 'ignore'"),
    ],
)
def test_a_fault_in_the_spec_says_where_and_what(spec: dict[str, Any], said: str) -> None:
    (problem,) = said_of(agent_text(**spec))
    assert problem.startswith(f"{FILE}:{said}")


@pytest.mark.parametrize("where", ["env", "executor"])
@pytest.mark.parametrize("key", ["HUB_TOKEN", "HUB_", "LD_PRELOAD", "PYTHONPATH"])
def test_env_of_the_hub_is_reserved(where: str, key: str) -> None:
    env = {key: "x"}
    spec: dict[str, Any] = {"env": env} if where == "env" else {"executor": {**EXECUTOR, "env": env}}
    (problem,) = said_of(agent_text(**spec))
    assert f"{key} is set by the hub; choose another name" in problem


@pytest.mark.parametrize(
    "value",
    [
        "sk-ant-api03-abc",
        "ghp_0123456789",
        "github_pat_11ABC",
        "glpat-xyz",
        "xoxb-1-2",
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA-1234",
        "-----BEGIN RSA PRIVATE KEY-----\nMII",
        "0123456789abcdef0123456789abcdef",
    ],
)
def test_env_values_that_look_like_secrets_are_refused_without_being_shown(value: str) -> None:
    (problem,) = said_of(agent_text(env={"TOKEN": value}))
    assert problem.startswith(f"{FILE}:9:3: spec.env: the value of TOKEN looks like a secret; env is not for secrets")
    assert value not in problem


@pytest.mark.parametrize("value", ["info", "https://example.org/a/b", "a" * 40, "1.2.3", "/opt/tools/bin:/usr/bin"])
def test_ordinary_env_values_are_fine(value: str) -> None:
    assert said_of(agent_text(env={"SOME": value})) == []


def test_a_nul_in_an_env_value_is_refused() -> None:
    assert "contains a NUL character" in said_of(agent_text() + '  env: {A: "a\\0b"}\n')[0]


def test_the_hubs_defaults_are_merged_under_each_agent() -> None:
    defaults = {"resources": {"cpus": 0.5, "memory": "64MiB"}}
    parsed = parse_agent(FILE, agent_text(resources={"cpus": 2}).encode(), defaults)
    resources = parsed.manifests[0].spec.resources
    assert (resources.cpus, resources.memory, resources.pids) == (2.0, 64 * 2**20, 100)


def test_a_topic_may_be_written_short() -> None:
    parsed = parse_agent(
        FILE, agent_text(messaging={"subscribes": ["a.b", {"topic": "c.*", "delivery": "all"}]}).encode(), {}
    )
    assert [(s.topic, s.delivery) for s in parsed.manifests[0].spec.messaging.subscribes] == [
        ("a.b", "one"),
        ("c.*", "all"),
    ]


SPECS = st.fixed_dictionaries(
    {},
    optional={
        "description": st.text(alphabet="aé𐀀 '\"\n:#", max_size=10),
        "replicas": st.integers(0, 100),
        "capabilities": st.lists(st.sampled_from(["a", "b.c", "d"]), unique=True),
        "resources": st.fixed_dictionaries(
            {}, optional={"cpus": st.floats(0.1, 4) | st.just(1), "memory": st.sampled_from(["64MiB", "1GiB"])}
        ),
        "lifecycle": st.fixed_dictionaries(
            {}, optional={"ttl": st.sampled_from(["90s", "8h"]), "maxCrashes": st.just(2)}
        ),
        "messaging": st.fixed_dictionaries(
            {},
            optional={
                "subscribes": st.lists(st.sampled_from(["a.b", "c.*"])),
                "quota": st.fixed_dictionaries({}, optional={"messages": st.just("7/min"), "bytes": st.just("1KiB/s")}),
            },
        ),
        "env": st.dictionaries(st.sampled_from(["A", "B"]), st.text(alphabet="abc é\n", max_size=5)),
        "drift": st.sampled_from(["correct", "report"]),
    },
)


@given(SPECS)
def test_what_is_recorded_of_a_manifest_is_read_back_as_the_same_spec(spec: dict[str, Any]) -> None:
    manifest = parse_agent(FILE, agent_text(**spec).encode(), {}).manifests[0]
    recorded = json.loads(json.dumps(manifest.written))
    again = AgentSpec.model_validate(recorded["spec"], context=NORMALISED)
    assert again == manifest.spec
    assert again.written() == manifest.spec.written()
