"""The example fleet as a whole: its manifests fit together, and each task does its work here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from reconciler.kinds.agent.spec import parse_agent
from reconciler.kinds.task.spec import parse_task
from reconciler.router.topics import TopicIndex
from reconciler.settings import Hub

from .stage import ROOT, Done, Work, git, listen, read_manifest

HUB = Hub.model_validate(read_manifest(ROOT / "hub.yaml"))
AGENT_FILES = sorted((ROOT / "agents.d").glob("*.yaml"))
TASK_FILES = sorted((ROOT / "tasks.d").glob("*.yaml"))
DEFAULTS: dict[str, Any] = {str(key): value for key, value in HUB.spec.defaults.items()}
AGENTS = {m.name: m.spec for f in AGENT_FILES for m in parse_agent(f.name, f.read_bytes(), DEFAULTS).manifests}
TASKS = {m.name: m.spec for f in TASK_FILES for m in parse_task(f.name, f.read_bytes()).manifests}
CPU_BUDGET_S = 5.0


def agent_of(task: str) -> str:
    """The agent that the task names, or the first that can do what it requires."""
    spec = TASKS[task]
    if spec.agent:
        return spec.agent
    return next(n for n, a in sorted(AGENTS.items()) if set(spec.requires) <= set(a.capabilities))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What came of all tasks, by name, what they delegated, and what they told the hub."""

    done: Mapping[str, Done]
    delegated: Sequence[Done]
    messages: Sequence[Mapping[str, Any]]


def deliver(agent: str, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What of all that was sent is for an agent, as it reads it."""
    topics = TopicIndex((name, s.topic, True) for name, a in AGENTS.items() for s in a.messaging.subscribes)
    out: list[dict[str, Any]] = []
    for message in (call["message"] for call in calls):
        sender = agent_of(message["payload"]["task"])
        reached = [s.agent for s in topics.find(message["topic"])] if "topic" in message else [message["to"]]
        if agent in reached and agent != sender:
            out.append({**message, "from": f"{sender}/{sender}-0"})
    return out


@pytest.fixture(scope="module")
def fleet(snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Every task after those it depends on, with its own input and half of its agent's memory."""
    folder = tmp_path_factory.mktemp("fleet")
    work = Work(folder=folder, tree=snapshot)
    done: dict[str, Done] = {}
    delegated: list[Done] = []

    def delegate(payload: Mapping[str, Any]) -> Mapping[str, Any]:
        assert payload["agent"] in AGENTS[agent_of(payload["task"])].delegation.to
        came = work(payload["agent"], payload["input"], snapshot, task="delegation-1")
        delegated.append(came)
        return {"ok": came.exit_code == 0, "task": "delegation-1", "state": "succeeded", "result": came.result}

    order = TopologicalSorter({name: spec.depends_on for name, spec in TASKS.items()})
    with listen(folder) as hub:
        hub.delegate = delegate
        for name in order.static_order():
            agent = agent_of(name)
            hub.fill(deliver(agent, hub.received))
            done[name] = work(
                agent,
                TASKS[name].input,
                snapshot,
                parents={parent: done[parent].result for parent in TASKS[name].depends_on},
                task=name,
                env=hub.env,
                memory_bytes=AGENTS[agent].resources.memory // 2,
            )
    assert {name: d.errors for name, d in done.items() if d.exit_code != 0} == {}
    return Fleet(done=done, delegated=delegated, messages=[call["message"] for call in hub.received])


def validator(name: str) -> Any:
    schema = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())
    return jsonschema_rs.Draft202012Validator(schema, offline=True)


@pytest.mark.parametrize("path", AGENT_FILES, ids=lambda path: path.stem)
def test_each_agent_manifest_is_accepted(path: Path) -> None:
    assert parse_agent(path.name, path.read_bytes(), DEFAULTS).problems == ()
    assert path.stem in AGENTS


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: path.stem)
def test_each_task_manifest_is_accepted(path: Path) -> None:
    assert parse_task(path.name, path.read_bytes()).problems == ()
    assert path.stem in TASKS


def test_the_fleet_is_large_enough_to_show_something() -> None:
    assert len(AGENTS) >= 5
    assert len(TASKS) >= 8
    assert len({agent.role for agent in AGENTS.values()}) == len(AGENTS)


def test_the_fleet_fits_on_two_cores() -> None:
    assert HUB.spec.orchestrator.max_parallel_tasks <= 3
    assert all(agent.resources.cpus <= 1 for agent in AGENTS.values())
    assert all(agent.resources.memory <= 256 * 2**20 for agent in AGENTS.values())


def test_each_task_has_an_agent_and_its_parents() -> None:
    for name, spec in TASKS.items():
        assert agent_of(name) in AGENTS
        assert set(spec.depends_on) <= TASKS.keys()


def test_every_agent_has_work_to_do() -> None:
    assert {agent_of(name) for name in TASKS} == AGENTS.keys()


def test_every_message_type_that_is_sent_has_a_schema() -> None:
    for agent in AGENTS.values():
        for grant in agent.messaging.sends:
            for type_name in grant.types or (grant.topic,):
                assert (ROOT / "schemas" / "messages" / f"{type_name}.schema.json").is_file()


def test_every_task_does_its_work_on_this_repository(fleet: Fleet, snapshot: Path) -> None:
    revision = git(snapshot, "rev-parse", "HEAD").strip()
    result_schema = validator("result")
    for name, done in fleet.done.items():
        result_schema.validate(done.result)
        assert (done.result["task"], done.result["revision"]) == (name, revision)
        assert done.errors.startswith("progress: ")
        assert done.cpu_s < CPU_BUDGET_S


def test_what_the_tasks_say_of_this_repository_is_so(fleet: Fleet, snapshot: Path) -> None:
    staged = git(snapshot, "ls-files", "--stage").splitlines()
    tracked = [line.partition("\t")[2] for line in staged if line.startswith("100")]
    size = fleet.done["code-size"].result
    assert size["figures"]["files"] + size["not_text"] == len(tracked)
    assert size["languages"][0]["name"] == "Python"
    commits = int(git(snapshot, "rev-list", "--count", "--no-merges", "HEAD"))
    assert fleet.done["churn"].result["figures"]["commits"] == commits
    assert fleet.done["activity"].result["figures"]["commits"] == commits
    modules = [p for p in tracked if p.startswith("reconciler/") and p.endswith(".py")]
    assert fleet.done["import-layers"].result["figures"]["modules"] >= len(modules)
    assert fleet.done["import-layers"].result["cycles"] == []
    assert fleet.done["import-layers"].result["violations"] == []
    assert fleet.done["manifest-check"].result["problems"] == []
    assert fleet.done["doc-links"].result["broken"] == []
    assert fleet.done["secrets-scan"].result["found"] == []


def test_the_report_combines_the_results_of_all_others(fleet: Fleet) -> None:
    report = fleet.done["report"].result
    validator("report").validate(report)
    parents = sorted(fleet.done.keys() - {"report"})
    assert [section["task"] for section in report["sections"]] == parents
    for name in parents:
        for figure, number in fleet.done[name].result["figures"].items():
            assert report["figures"][f"{name}.{figure}"] == number
    text = (fleet.done["report"].output / "report.md").read_text()
    assert f"| {fleet.done['code-size'].result['summary']} |" in text.replace("\\", "")
    assert f"| {fleet.done['churn'].result['summary']} |" in text.replace("\\", "")


def test_what_the_scripts_send_fits_the_schemas_and_the_grants(fleet: Fleet) -> None:
    assert {"review.request", "report.published"} <= {m["type"] for m in fleet.messages}
    for message in (m for m in fleet.messages if m["to" if "to" in m else "topic"] != "hub"):
        validator(f"messages/{message['type']}").validate(message["payload"])
        grants = AGENTS[agent_of(message["payload"]["task"])].messaging.sends
        targets = [(g.to, g.topic) for g in grants]
        assert (message.get("to"), message.get("topic")) in targets


def test_the_reporter_hears_of_the_findings_of_others_and_the_reviewer_of_what_it_is_asked_for(fleet: Fleet) -> None:
    raised = [m["payload"] for m in fleet.messages if m["type"] == "finding.raised"]
    report = fleet.done["report"]
    assert report.result["findings"] == [{"by": "reviewer/reviewer-0", **payload} for payload in raised]
    assert f"{len(raised)} findings heard of from reviewer" in report.result["summary"]
    assert raised[0]["path"].replace("_", "\\_") in (report.output / "report.md").read_text()
    (asked,) = [m["payload"]["paths"] for m in fleet.messages if m["type"] == "review.request"]
    reviewed = [row["path"] for row in fleet.done["long-code"].result["asked_for"]]
    assert sorted(reviewed) == sorted(p for p in asked if p.endswith(".py"))


def test_the_report_has_the_reviewer_look_into_what_needs_it_most(fleet: Fleet) -> None:
    report, (looked,) = fleet.done["report"], fleet.delegated
    hottest = [h["path"] for h in report.result["hotspots"] if h["path"].endswith(".py")][:3]
    assert report.result["reviewed"]["paths"] == hottest
    assert {f["path"] for f in looked.result["files"]} == set(hottest)
    longest = looked.result["functions"][0]
    assert report.result["reviewed"]["functions"][0]["name"] == longest["name"]
    row = f"| {longest['name']} | {longest['path']} | {longest['lines']} |".replace("_", "\\_")
    assert row in (report.output / "report.md").read_text()


def test_work_leaves_the_workspace_as_it_was(fleet: Fleet, snapshot: Path) -> None:
    assert fleet.done
    assert git(snapshot, "status", "--porcelain", "--ignored") == ""
