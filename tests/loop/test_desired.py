"""From a snapshot to a desired state, all or nothing; above all what is said of `hub.yaml`."""

import pytest

from reconciler.core.problem import Problem
from reconciler.errors import PolicyEngineError
from reconciler.settings import Maxima, OperatorSpec
from tests.fakes.desired import desired_of, load, problems_of
from tests.fakes.policy import FakePolicy
from tests.fakes.source import Odd
from tests.fakes.texts import agent_text, hub_text, task_text

HEAD = "apiVersion: reconciler/v1\nkind: Hub\nmetadata: {name: x}\n"


def hub_problems(hub: str | bytes | Odd, operator: OperatorSpec | None = None) -> list[str]:
    return problems_of({"hub.yaml": hub}, operator=operator)


def test_a_repository_needs_a_hub_yaml() -> None:
    found = load({"agents.d/a.yaml": agent_text()})
    assert found.desired is None
    assert [str(p) for p in found.problems] == [
        "hub.yaml: is missing; a repository needs one (apiVersion: reconciler/v1, kind: Hub, metadata: {name: …})"
    ]


def test_an_empty_repository_with_a_hub_yaml_is_a_fleet_of_nothing() -> None:
    desired = desired_of({"hub.yaml": HEAD})
    assert desired.of("agent") == {}
    assert desired.route["agents"] == {}


@pytest.mark.parametrize(
    ("hub", "said"),
    [
        ("", "hub.yaml: holds 0 documents; it must hold one"),
        (HEAD + "---\n" + HEAD, "hub.yaml: holds 2 documents; it must hold one"),
        ("~\n", "hub.yaml:1:1: the document is None; expected a mapping"),
        ("- a\n", "hub.yaml:1:1: the document is ['a']; expected a mapping"),
        (HEAD.replace("Hub", "Hubb"), "hub.yaml:2:1: kind is 'Hubb'; expected 'Hub'"),
        (
            HEAD + "spec: {loop: {resinc: 5s}}\n",
            "hub.yaml:4:15: unknown key 'resinc' in spec.loop; did you mean 'resync'?",
        ),
        (
            HEAD + "spec: {loop: {resync: 5}}\n",
            "hub.yaml:4:15: spec.loop.resync: 5 is not a duration; write a number and",
        ),
        (HEAD + "spc: {}\n", "hub.yaml:4:1: unknown key 'spc' in the document; did you mean 'spec'?"),
        (
            HEAD + "spec: {loop: {pruneBudget: {percent: 101}}}\n",
            "hub.yaml:4:29: spec.loop.pruneBudget.percent: input shou",
        ),
        (HEAD + "spec: {loop: {prune: {agents: on}}}\nx\n", "hub.yaml:6:1: is not valid YAML"),
        (
            HEAD + "spec: {paths: {agents: ../other}}\n",
            "hub.yaml:4:16: spec.paths.agents is '../other', which is not a",
        ),
        (HEAD + "spec: {paths: {agents: /etc}}\n", "hub.yaml:4:16: spec.paths.agents is '/etc', which is not a"),
        (
            HEAD + "spec: {policy: {engines: [opa]}}\n",
            "hub.yaml:4:27: spec.policy.engines.0 is 'opa'; expected 'embedded' or",
        ),
        (
            HEAD + "spec: {defaults: {resources: {cpus: .nan}}}\n",
            "hub.yaml:4:19: spec.defaults.resources: NaN and infinity are not JSON values",
        ),
        (HEAD + "spec:\n\tloop: {}\n", "hub.yaml:5:1: a tab is used for indentation; YAML wants spaces"),
        (Odd(b"../x", mode="120000"), "hub.yaml: is a symbolic link; commit the file itself"),
        (Odd(b"", size_bytes=2**21), "hub.yaml: has 2097152 bytes; at most 1048576 are read; split it"),
    ],
)
def test_a_fault_in_hub_yaml_says_where_and_what(hub: str | Odd, said: str) -> None:
    (problem,) = hub_problems(hub)
    assert problem.startswith(said)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "orchestrator: {maxParallelTasks: 11}",
            "hub.yaml:5:18: orchestrator.maxParallelTasks is 11, but the operator allows at most 10; lower it, or ask the",
        ),
        (
            "runtime: {images: ['*']}",
            "hub.yaml:5:13: runtime.images is '*', but the operator allows agents/*; lower it, or",
        ),
        (
            "runtime: {prefer: process}",
            "hub.yaml:5:13: runtime.prefer is process, but the operator allows docker only (runtime.processRuntime is fal",
        ),
    ],
)
def test_hub_yaml_can_only_narrow_what_the_operator_allows(spec: str, said: str) -> None:
    operator = OperatorSpec(maxima=Maxima.model_validate({"maxParallelTasks": 10}))
    (problem,) = hub_problems(f"{HEAD}spec:\n  {spec}\n", operator)
    assert problem.startswith(said)


def test_a_broken_hub_yaml_is_the_only_problem_since_everything_else_depends_on_it() -> None:
    assert problems_of({"hub.yaml": "a: [", "agents.d/a.yaml": "b: ["}) == [
        "hub.yaml:2:1: is not valid YAML: did not find expected node content"
    ]


def test_hub_yaml_says_where_the_other_files_are() -> None:
    paths = {"agents": "fleet", "tasks": "work"}
    desired = desired_of(
        {
            "hub.yaml": hub_text(paths=paths),
            "fleet/a.yaml": agent_text(),
            "work/t.yaml": task_text(),
            "agents.d/x.yaml": "[",
        }
    )
    assert sorted(desired.of("agent")) == ["writer"]
    assert sorted(desired.of("task")) == ["changelog"]


def test_what_the_policy_engine_finds_is_a_problem_of_the_revision() -> None:
    policy = FakePolicy()
    policy.problems = [Problem(file="policies/a.rego", line=3, column=1, message="test failed")]
    found = load({"hub.yaml": hub_text(), "policies/a.rego": "package hub.task\n\nimport rego.v1\n"}, policy=policy)
    assert [str(p) for p in found.problems] == ["policies/a.rego:3:1: test failed"]


def test_an_engine_that_is_away_is_no_problem_of_the_committers() -> None:
    policy = FakePolicy()
    policy.is_away = True
    with pytest.raises(PolicyEngineError):
        load({"hub.yaml": hub_text(), "policies/a.rego": "package hub.task\n\nimport rego.v1\n"}, policy=policy)


def test_the_configuration_of_the_router_has_one_digest_that_does_not_depend_on_the_revision() -> None:
    files = {"agents.d/a.yaml": agent_text()}
    first, second = desired_of(files, revision="r1"), desired_of(files, revision="r2")
    assert (first.route["revision"], second.route["revision"]) == ("r1", "r2")
    assert first.route["digest"] == second.route["digest"]
    assert desired_of({**files, "agents.d/b.yaml": agent_text("b")}).route["digest"] != first.route["digest"]
