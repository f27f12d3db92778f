"""From a snapshot to a desired state, all or nothing; above all what is said of `hub.yaml`."""

import pytest

from reconciler.core.problem import Problem
from reconciler.errors import PolicyEngineError
from reconciler.kinds import KINDS
from reconciler.kinds.tree import ParseCache
from reconciler.loop.desired import Candidate, load_desired
from reconciler.settings import Maxima, OperatorSpec
from tests.fakes.desired import Files, desired_of, load, problems_of
from tests.fakes.policy import FakePolicy
from tests.fakes.source import FakeSnapshot, Odd
from tests.fakes.texts import agent_text, hub_text, task_text

HEAD = "apiVersion: reconciler/v1\nkind: Hub\nmetadata: {name: x}\n"
REGO = 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true}\n'


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
        ("~\n", "hub.yaml:1:1: the document is empty; expected a mapping"),
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
            HEAD + "spec: {policy: {engines: [magic]}}\n",
            "hub.yaml:4:27: spec.policy.engines.0 is 'magic'; expected 'opa', 'embedded' or",
        ),
        (
            HEAD + "spec: {policy: {engines: [embedded, opa]}}\n",
            "hub.yaml:4:37: policy.engines names opa, but there is no section policy.opa; add it,",
        ),
        (
            HEAD + "spec: {policy: {engines: [opa, opa], opa: {}}}\n",
            "hub.yaml:4:32: policy.engines names opa twice; name it once",
        ),
        (HEAD + "spec: {policy: {engines: []}}\n", "hub.yaml:4:17: policy.engines names none; name builtin"),
        (
            HEAD + "spec: {policy: {opa: {url: 'http://10.0.0.7:8181'}}}\n",
            "hub.yaml:4:23: policy.opa.url is http://10.0.0.7:8181, but the operator allows loopback addresses and unix",
        ),
        (
            HEAD + "spec: {policy: {opa: {url: 'http://127.0.0.1:8181/v1'}}}\n",
            "hub.yaml:4:23: spec.policy.opa.url: is 'http://127.0.0.1:8181/v1', which is no address of an HTTP server",
        ),
        (
            HEAD + "spec: {policy: {opa: {managed: true, url: 'http://127.0.0.1:8181'}}}\n",
            "hub.yaml:4:38: policy.opa.url is where somebody else's OPA listens; leave it out with managed: true",
        ),
        (HEAD + "spec: {policy: {opa: {timeout: 6s}}}\n", "hub.yaml:4:23: spec.policy.opa.timeout: "),
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


@pytest.mark.parametrize(
    ("defaults", "said"),
    [
        ("resources: {cpuz: 1}", "hub.yaml:6:17: unknown key 'cpuz' in spec.defaults.resources; did you mean 'cpus'?"),
        ("resources: {memory: 1}", "hub.yaml:6:17: spec.defaults.resources.memory: 1 is not a size; "),
        ("resources: ~", "hub.yaml:6:5: spec.defaults.resources is empty; expected a mapping"),
        ("lifecycle: {ttl: 0s}", "hub.yaml:6:17: spec.defaults.lifecycle.ttl: input should be greater than 0"),
        ("sandbox: loose", "hub.yaml:6:5: spec.defaults.sandbox is 'loose'; expected 'strict'"),
        ("resources: {cpus: 3}", "hub.yaml:6:17: defaults.resources.cpus is 3; the operator allows 2"),
        ("lifecycle: {ttl: 31d}", "hub.yaml:6:17: defaults.lifecycle.ttl is 31d; the operator allows 30d"),
    ],
)
@pytest.mark.parametrize("agents", [0, 1, 3])
def test_a_fault_in_the_defaults_is_reported_once_and_where_they_are_written(
    defaults: str, said: str, agents: int
) -> None:
    operator = OperatorSpec(maxima=Maxima.model_validate({"cpus": 2, "memory": "256MiB"}))
    files: Files = {f"agents.d/{n}.yaml": agent_text(f"a{n}") for n in range(agents)}
    found = problems_of({"hub.yaml": f"{HEAD}spec:\n  defaults:\n    {defaults}\n", **files}, operator=operator)
    assert len(found) == 1, found
    assert found[0].startswith(said)


def test_defaults_that_are_not_written_are_no_fault_of_hub_yaml() -> None:
    operator = OperatorSpec(maxima=Maxima.model_validate({"memory": "256MiB"}))
    assert problems_of({"hub.yaml": hub_text(defaults={"resources": {"pids": 50}})}, operator=operator) == []


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
    found = load({"hub.yaml": hub_text(), "policies/a.rego": REGO}, policy=policy)
    assert [str(p) for p in found.problems] == ["policies/a.rego:3:1: test failed"]


def test_an_engine_that_is_away_is_no_problem_of_the_committers() -> None:
    policy = FakePolicy()
    policy.is_away = True
    with pytest.raises(PolicyEngineError):
        load({"hub.yaml": hub_text(), "policies/a.rego": REGO}, policy=policy)


def test_the_configuration_of_the_router_has_one_digest_that_does_not_depend_on_the_revision() -> None:
    files = {"agents.d/a.yaml": agent_text()}
    first, second = desired_of(files, revision="r1"), desired_of(files, revision="r2")
    assert (first.route["revision"], second.route["revision"]) == ("r1", "r2")
    assert first.route["digest"] == second.route["digest"]
    assert desired_of({**files, "agents.d/b.yaml": agent_text("b")}).route["digest"] != first.route["digest"]


# --- one revision after another -------------------------------------------------------------------


SENDS = {"sends": [{"to": "reader", "types": ["docs.done"]}]}
FLEET: dict[str, bytes | str | Odd] = {
    "hub.yaml": hub_text(defaults={"resources": {"cpus": 0.5}}),
    "agents.d/a.yaml": agent_text("writer", labels={"team": "docs"}, messaging=SENDS),
    "agents.d/b.yaml": agent_text("reader") + "---\n" + agent_text("other"),
    "schemas/messages/docs.done.schema.json": '{"type": "object"}',
    "tasks.d/t.yaml": task_text(),
}
EDITS: dict[str, dict[str, bytes | str | Odd | None]] = {
    "the defaults": {"hub.yaml": hub_text(defaults={"resources": {"cpus": 0.25}})},
    "the defaults, to wrong ones": {"hub.yaml": hub_text(defaults={"resources": {"cpuz": 1}})},
    "the allowed images": {"hub.yaml": hub_text(runtime={"images": ["agents/other"]})},
    "the folder of agents": {"hub.yaml": hub_text(paths={"agents": "fleet"}), "fleet/a.yaml": agent_text("new")},
    "an agent's role": {"agents.d/a.yaml": agent_text("writer", role="editor", messaging=SENDS)},
    "an agent's labels": {"agents.d/a.yaml": agent_text("writer", labels={"team": "ops"}, messaging=SENDS)},
    "an agent's grants": {"agents.d/a.yaml": agent_text("writer", messaging={"sends": [{"topic": "docs.done"}]})},
    "an agent's name": {"agents.d/b.yaml": agent_text("renamed") + "---\n" + agent_text("other")},
    "an agent that others name is gone": {"agents.d/b.yaml": None},
    "an agent that a task names is gone": {"agents.d/a.yaml": None},
    "an agent moves to another file": {"agents.d/a.yaml": None, "agents.d/z.yaml": FLEET["agents.d/a.yaml"]},
    "an agent stands twice": {"agents.d/z.yaml": FLEET["agents.d/a.yaml"]},
    "files change places": {
        "agents.d/a.yaml": FLEET["agents.d/b.yaml"],
        "agents.d/b.yaml": FLEET["agents.d/a.yaml"],
    },
    "a schema": {"schemas/messages/docs.done.schema.json": '{"type": "string"}'},
    "a schema is gone": {"schemas/messages/docs.done.schema.json": None},
    "a schema's type": {
        "schemas/messages/docs.done.schema.json": None,
        "schemas/messages/docs.made.schema.json": FLEET["schemas/messages/docs.done.schema.json"],
    },
    "a task": {"tasks.d/t.yaml": task_text(priority=1)},
}


def load_with(cache: ParseCache, files: Files, operator: OperatorSpec | None = None) -> Candidate:
    return load_desired(FakeSnapshot(files), KINDS, operator or OperatorSpec(), cache, FakePolicy)


@pytest.mark.parametrize("edit", EDITS)
def test_what_was_loaded_before_makes_no_difference(edit: str) -> None:
    edited = {path: content for path, content in {**FLEET, **EDITS[edit]}.items() if content is not None}
    cache = ParseCache()
    alone = [load_with(ParseCache(), files) for files in (FLEET, edited)]
    assert alone[0] != alone[1]
    found = [load_with(cache, files) for files in (FLEET, edited, FLEET, edited, edited)]
    assert found == [alone[0], alone[1], alone[0], alone[1], alone[1]]
    told = [{k: v for k, v in c.desired.route.items() if k != "digest"} for c in alone if c.desired is not None]
    digests = {c.desired.route["digest"] for c in alone if c.desired is not None}
    assert len(digests) == (2 if told[0] != told[-1] else 1)


def test_another_operator_judges_what_was_loaded_before() -> None:
    cache = ParseCache()
    strict = OperatorSpec(maxima=Maxima.model_validate({"memory": "256MiB", "agents": 2}))
    assert load_with(cache, FLEET).desired is not None
    assert load_with(cache, FLEET, strict).problems == load_with(ParseCache(), FLEET, strict).problems != ()


def test_what_the_router_is_told_of_an_agent_is_made_once_while_its_file_stays() -> None:
    cache = ParseCache()
    first, second = (load_with(cache, {**FLEET, "tasks.d/t.yaml": task_text(priority=n)}).desired for n in (1, 2))
    third = load_with(cache, {**FLEET, "agents.d/a.yaml": agent_text("writer", role="editor", messaging=SENDS)}).desired
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.route["agents"]["writer"] is second.route["agents"]["writer"]
    assert first.route["agents"]["reader"] is third.route["agents"]["reader"]
    assert (second.route["agents"]["writer"]["role"], third.route["agents"]["writer"]["role"]) == ("writer", "editor")
