"""`hub.yaml` and `operator.yaml` as models, and the rule that the repository can only narrow the operator."""

import pytest
from pydantic import ValidationError

from reconciler.settings import (
    Hub,
    HubSpec,
    Maxima,
    Operator,
    OperatorRuntime,
    OperatorSpec,
    check_narrowing,
    permits_image,
)


@pytest.mark.parametrize(
    ("patterns", "reference", "is_permitted"),
    [
        (["agents/*"], "agents/base:1", True),
        (["agents/*"], "agents/base", True),
        (["agents/*"], "docker.io/agents/base:1", False),
        (["agents/*"], "evil/agents/base", False),
        (["agents/base"], "agents/base:1", True),
        (["agents/base"], "agents/base@sha256:0123", True),
        (["agents/base"], "agents/base:1@sha256:0123", True),
        (["agents/base:1"], "agents/base:2", False),
        (["agents/base"], "agents/baseline:1", False),
        (["localhost:5000/agents/*"], "localhost:5000/agents/base", True),
        (["localhost"], "localhost:5000/agents/base", False),
        ([], "agents/base", False),
        (["x", "agents/*"], "agents/base", True),
    ],
)
def test_an_image_is_permitted_by_its_name_with_or_without_its_tag(
    patterns: list[str], reference: str, is_permitted: bool
) -> None:
    assert permits_image(tuple(patterns), reference) is is_permitted


def test_defaults_are_those_of_the_contracts() -> None:
    hub, operator = HubSpec(), OperatorSpec()
    assert (hub.loop.resync, hub.loop.concurrency, hub.loop.stalled_after) == (30.0, 4, 5)
    assert (hub.loop.prune_budget.count, hub.loop.prune_budget.percent) == (3, 20)
    assert (hub.router.lease, hub.router.ttl, hub.router.max_body) == (30.0, 600.0, 2**20)
    assert (hub.orchestrator.retry.max_attempts, hub.orchestrator.max_parallel_tasks) == (3, 5)
    assert (operator.maxima.agents, operator.maxima.cpus, operator.maxima.memory) == (1000, 4.0, 8 * 2**30)
    assert operator.runtime.allow == ("docker",)
    assert not operator.runtime.process_runtime


def test_a_hub_that_asks_for_what_it_may_is_narrow_enough() -> None:
    assert check_narrowing(HubSpec(), OperatorSpec(), "hub.yaml") == []
    wide = OperatorSpec(runtime=OperatorRuntime.model_validate({"processRuntime": True, "imageAllow": ["*"]}))
    hub = HubSpec.model_validate({"runtime": {"prefer": "process", "images": ["tools/*", "agents/base"]}})
    assert check_narrowing(hub, wide, "hub.yaml") == []


def test_each_place_where_it_asks_for_more_is_a_problem_of_its_own() -> None:
    hub = HubSpec.model_validate(
        {"runtime": {"prefer": "process", "images": ["agents/base", "*"]}, "orchestrator": {"maxParallelTasks": 50}}
    )
    operator = OperatorSpec(maxima=Maxima.model_validate({"maxParallelTasks": 10}))
    found = check_narrowing(hub, operator, "hub.yaml")
    assert [tuple(path) for path, _ in found] == [
        ("spec", "orchestrator", "maxParallelTasks"),
        ("spec", "runtime", "images"),
        ("spec", "runtime", "prefer"),
    ]
    assert all("ask the operator" in problem.message for _, problem in found)


@pytest.mark.parametrize(
    ("policy", "engines"),
    [
        ({}, ("embedded", "builtin")),
        ({"opa": None}, ("embedded", "builtin")),
        ({"opa": {}}, ("opa", "embedded", "builtin")),
        ({"opa": {}, "engines": ["embedded"]}, ("embedded",)),
        ({"opa": {"managed": True}, "engines": ["opa", "builtin"]}, ("opa", "builtin")),
    ],
)
def test_opa_is_asked_first_where_there_is_a_section_for_it(
    policy: dict[str, object], engines: tuple[str, ...]
) -> None:
    assert HubSpec.model_validate({"policy": policy}).policy.engines == engines


def test_opa_has_the_defaults_of_the_contracts() -> None:
    opa = HubSpec.model_validate({"policy": {"opa": {}}}).policy.opa
    assert opa is not None
    assert (opa.address, opa.timeout, opa.managed) == ("http://127.0.0.1:8181", 0.05, False)
    assert (opa.breaker.failures, opa.breaker.half_open_after) == (5, 2.0)
    managed = HubSpec.model_validate({"policy": {"opa": {"managed": True}}}).policy.opa
    assert managed is not None
    assert managed.address is None


def test_opa_is_asked_elsewhere_only_where_the_operator_says_so() -> None:
    def problems(url: str) -> list[tuple[str, ...]]:
        hub = HubSpec.model_validate({"policy": {"opa": {"url": url}}})
        return [tuple(path) for path, _ in check_narrowing(hub, operator, "hub.yaml")]

    operator = OperatorSpec.model_validate({"policy": {"opaUrls": ["http://opa.internal:8181"]}})
    assert problems("http://127.0.0.1:1") == problems("http://[::1]:1") == problems("unix:///run/opa.sock") == []
    assert problems("http://opa.internal:8181/") == []
    assert problems("http://opa.internal:8182") == [("spec", "policy", "opa", "url")]


@pytest.mark.parametrize(
    "value",
    [
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"policy": {"opaUrls": ["opa.internal"]}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"policy": {"opaBinary": "opa"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"maxima": {"agents": 0}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"maxima": {"agents": "10"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"runtime": {"processRuntime": "yes"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"runtime": {"allow": ["podman"]}}},
        {"apiVersion": "reconciler/v1", "kind": "Hub"},
        {"kind": "Operator"},
    ],
)
def test_an_operator_file_that_is_none_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Operator.model_validate(value)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../b", ".git", "a//b", "a/", "", "a b", "a\nb", "~"])
def test_paths_stay_within_the_repository(path: str) -> None:
    with pytest.raises(ValidationError):
        HubSpec.model_validate({"paths": {"agents": path}})


@pytest.mark.parametrize("path", ["agents.d", "fleet/agents", "a.b-c_d"])
def test_paths_that_are_fine(path: str) -> None:
    assert HubSpec.model_validate({"paths": {"agents": path}}).paths.agents == path


def test_settings_cannot_be_changed() -> None:
    hub = Hub.model_validate({"apiVersion": "reconciler/v1", "kind": "Hub", "metadata": {"name": "x"}})
    with pytest.raises(ValidationError):
        hub.spec.loop.concurrency = 9  # type: ignore[misc]
