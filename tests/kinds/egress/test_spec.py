"""What `hub.yaml`, operator and manifests say of the way out: problems for the committer, words for the process."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from reconciler.egress.config import AgentEntry, Config, InstanceEntry, PolicyRules
from reconciler.kinds.egress.spec import write_config
from reconciler.kinds.egress_entry import Outgoing, digest_providers, write_entry
from reconciler.kinds.route_entry import with_trust
from reconciler.ports import Revision
from reconciler.settings import OperatorSpec, ProviderKey
from tests.fakes.desired import desired_of, problems_of
from tests.fakes.texts import agent_text, hub_text

GPU = {
    "name": "gpu",
    "type": "ollama",
    "exposure": "private",
    "models": [{"name": "qwen3", "context": "32k"}],
}
CLOUD = {
    "name": "anthropic",
    "type": "anthropic",
    "models": [{"name": "opus", "context": "200k", "cost": {"input": 15, "output": 75, "cacheRead": 1.5}}],
}
CLAUDE = {"type": "claude-code"}


def hub(*providers: dict[str, Any], **more: Any) -> str:
    return hub_text(providers=list(providers), **more)


def problems(agent: dict[str, Any], *providers: dict[str, Any]) -> list[str]:
    return problems_of({"hub.yaml": hub(*providers), "agents.d/a.yaml": agent_text(**agent)})


def operator(**keys: dict[str, str]) -> OperatorSpec:
    return OperatorSpec.model_validate({"providerKeys": keys})


# --- problems ---


def test_an_agent_may_name_a_model_that_is_there() -> None:
    assert problems({"llm": {"provider": "anthropic", "model": "opus"}}, GPU, CLOUD) == []
    assert problems({"llm": {"require": {"exposure": "private"}}}, GPU, CLOUD) == []


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        ({"provider": "openai", "model": "x"}, "which hub.yaml does not declare; there are: anthropic, gpu"),
        ({"provider": "gpu", "model": "x"}, "llm.model names 'x', which gpu does not have; it has: qwen3"),
        ({"require": {"context": "1M"}}, "no model has what llm.require asks for"),
        ({"require": {"sensitivity": "restricted", "context": "100k"}}, "where restricted work may not go"),
    ],
)
def test_what_is_not_there_or_fits_nothing_is_a_problem_with_its_line(llm: dict[str, Any], said: str) -> None:
    (problem,) = problems({"llm": llm}, GPU, CLOUD)
    assert problem.startswith("agents.d/a.yaml:9:3: ")
    assert said in problem


def test_a_section_that_is_not_whole_is_a_problem_at_its_place() -> None:
    (problem,) = problems({"llm": {"provider": "gpu"}}, GPU)
    assert problem.startswith("agents.d/a.yaml:9:3: spec.llm: name either 'provider' and 'model'")


@pytest.mark.parametrize(
    ("providers", "said"),
    [
        ([{**CLOUD, "exposure": "private"}], "anthropic is at https://api.anthropic.com, which is not this host"),
        ([GPU, GPU], "providers has gpu twice"),
        ([{**GPU, "models": []}], "provider gpu has no models"),
        ([{**GPU, "models": [{"name": "a"}, {"name": "a"}]}], "provider gpu has model 'a' twice"),
        ([{**GPU, "models": [{"name": "kimi:cloud"}]}], "of the private provider gpu runs elsewhere"),
        ([{**GPU, "models": [{"name": "kimi:1t-cloud"}]}], "of the private provider gpu runs elsewhere"),
        ([{**GPU, "url": "http://elsewhere"}], "unknown key 'url'"),
        ([{**GPU, "models": [{"name": "a", "cost": -1}]}], "greater than or equal to 0"),
    ],
)
def test_providers_that_do_not_fit_are_problems_of_hub_yaml(providers: list[dict[str, Any]], said: str) -> None:
    found = problems_of({"hub.yaml": hub(*providers)})
    assert found
    assert all(problem.startswith("hub.yaml:6:") for problem in found)
    assert said in found[0]


def test_a_public_provider_may_have_models_that_run_elsewhere() -> None:
    models = [{"name": "kimi:cloud"}]
    assert problems_of({"hub.yaml": hub({**GPU, "exposure": "public", "models": models})}) == []


@pytest.mark.parametrize("level", ["confidential", "restricted"])
def test_no_configuration_lets_sensitive_work_reach_a_public_provider(level: str) -> None:
    (problem,) = problems_of({"hub.yaml": hub(GPU, sensitivity={level: ["private", "public"]})})
    assert f"spec.sensitivity.{level}" in problem
    assert "expected 'private'" in problem


@pytest.mark.parametrize(
    ("key", "is_fine"),
    [
        ({"url": "http://10.0.0.7:11434"}, False),
        ({"url": "http://10.0.0.7:11434", "exposure": "private"}, True),
        ({"url": "http://127.0.0.1:9", "exposure": "public"}, False),
        ({"url": "http://localhost:9"}, True),
        ({"url": "unix:///run/model.sock"}, True),
    ],
)
def test_only_this_host_and_what_the_operator_says_may_be_called_private(key: dict[str, str], is_fine: bool) -> None:
    found = problems_of({"hub.yaml": hub(GPU)}, operator=operator(gpu=key))
    assert (found == []) == is_fine


@pytest.mark.parametrize("url", ["gpu", "https://user:pw@host", "ftp://x"])
def test_an_address_that_is_none_is_refused_to_the_operator(url: str) -> None:
    with pytest.raises(ValueError, match="no address of a provider"):
        operator(gpu={"url": url})


# --- words for the process ---


def test_the_configuration_is_what_the_process_takes() -> None:
    desired = desired_of({"hub.yaml": hub(GPU, CLOUD, egress={"firstByte": "7s", "breaker": {"failures": 2}})})
    keys = operator(anthropic={"file": "/etc/hub/anthropic.key"}).provider_keys
    config = msgspec.convert(write_config(desired, keys), Config)
    anthropic = config.providers["anthropic"]
    assert (anthropic.type, anthropic.url, anthropic.exposure, anthropic.key_file) == (
        "anthropic",
        "https://api.anthropic.com",
        "public",
        "/etc/hub/anthropic.key",
    )
    assert msgspec.to_builtins(anthropic.models["opus"]) == {
        "input": 15,
        "output": 75,
        "cache_read": 1.5,
        "cache_write": 15,
    }
    assert (config.providers["gpu"].url, config.providers["gpu"].key_file) == ("http://127.0.0.1:11434", None)
    assert (config.limits.first_byte_s, config.limits.failures, config.revision) == (7.0, 2, "r1")
    assert config.exposures["confidential"] == ("private",)


def test_its_digest_is_of_what_matters_and_not_of_the_revision() -> None:
    desired = desired_of({"hub.yaml": hub(GPU)})
    keys = {"gpu": ProviderKey.model_validate({"file": "/k"})}
    digests = [
        write_config(desired, {})["digest"],
        write_config(replace(desired, revision=Revision(id="r2", author="Ada")), {})["digest"],
        write_config(desired, keys)["digest"],
    ]
    assert digests[0] == digests[1] != digests[2]


def outgoing(llm: str, **more: Any) -> Outgoing:
    base = {"agent": "writer", "uid": 7, "token_sha256": "a" * 64, "token_expires_at": 9.0}
    return Outgoing(llm=llm, **{**base, **more})


def test_an_instance_goes_the_way_of_the_manifest_it_was_made_from() -> None:
    desired = desired_of({"hub.yaml": hub(GPU, CLOUD)})
    routes = digest_providers(desired.hub)
    llm = '{"require": {"exposure": "private"}, "budget": {"perTask": {"tokens": 1000, "cost": 0.5}}}'
    entry = write_entry(outgoing(llm, work=(("r1", "changelog"),), sensitivity="restricted"), desired.hub, routes)
    found = msgspec.convert(entry, InstanceEntry)
    assert found.route is not None
    assert (found.route.provider, found.route.model) == ("gpu", "qwen3")
    assert (found.per_task.tokens, found.per_task.cost, found.per_day.tokens) == (1000, 0.5, None)
    assert (found.sensitivity, found.work[0].run, found.work[0].task) == ("restricted", "r1", "changelog")
    assert found.digest != write_entry(outgoing(llm), desired.hub, routes)["digest"]


def test_a_recorded_manifest_whose_model_is_gone_has_no_way_out() -> None:
    desired = desired_of({"hub.yaml": hub(GPU)})
    llm = '{"provider": "anthropic", "model": "opus"}'
    assert write_entry(outgoing(llm), desired.hub, digest_providers(desired.hub))["route"] is None


# --- policy ---

LLM_POLICY = """package hub.llm

import rego.v1

decision := {"allow": true, "reasons": []}
"""
WRITER = agent_text(name="writer", role="reporter", llm={"provider": "gpu", "model": "qwen3"}, capabilities=["a.b"])
FLEET = {
    "hub.yaml": hub(GPU, policy={"lastResort": {"llm": "builtin"}, "cache": {"entries": 7}}),
    "agents.d/writer.yaml": WRITER,
    "agents.d/other.yaml": agent_text(name="other"),
}


def test_a_policy_for_models_goes_to_the_process_with_the_agents_that_use_them() -> None:
    desired = desired_of({**FLEET, "policies/llm.rego": LLM_POLICY})
    config = msgspec.convert(write_config(desired, {}), Config)
    assert config.policy is not None
    assert list(config.policy.modules) == ["policies/llm.rego"]
    assert config.rules == PolicyRules(engines=("embedded", "builtin"), last_resort="builtin", cache_entries=7)
    assert config.agents == {"writer": AgentEntry(role="reporter", capabilities=("a.b",))}


def test_policies_that_say_nothing_of_models_stay_with_the_router() -> None:
    desired = desired_of({**FLEET, "policies/task.rego": LLM_POLICY.replace("hub.llm", "hub.task")})
    config = msgspec.convert(write_config(desired, {}), Config)
    assert (config.policy, config.agents) == (None, {})
    assert config.digest == write_config(desired_of(FLEET), {})["digest"]


def test_another_policy_role_or_trust_is_another_configuration() -> None:
    files = {**FLEET, "policies/llm.rego": LLM_POLICY}
    desired = desired_of(files)
    trusted = replace(desired, route=with_trust(desired.route, {"writer": 0.5}, 1.0))
    assert msgspec.convert(write_config(trusted, {}), Config).agents["writer"].trust == 0.5
    others = [
        desired_of({**files, "policies/llm.rego": LLM_POLICY.replace("true", "false")}),
        desired_of({**files, "agents.d/writer.yaml": WRITER.replace("reporter", "reader")}),
        trusted,
    ]
    assert len({write_config(d, {})["digest"] for d in (desired, *others)}) == 4
    assert write_config(desired_of(files, revision="r2"), {})["digest"] == write_config(desired, {})["digest"]


def test_a_delegate_is_told_with_the_capabilities_that_it_has() -> None:
    desired = desired_of(FLEET)
    narrowed = write_entry(
        outgoing('{"provider": "gpu", "model": "qwen3"}', capabilities=("a.b",)),
        desired.hub,
        digest_providers(desired.hub),
    )
    assert msgspec.convert(narrowed, InstanceEntry).capabilities == ("a.b",)
