"""`policy test` and `policy eval` on a directory, as people and as programs read them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli import main
from tests.policy.opa_servers import need_opa

HUB = """apiVersion: reconciler/v1
kind: Hub
metadata: {name: test}
spec:
  runtime: {images: ["agents/*"]}
  policy: {engines: ENGINES}
  orchestrator: {allowCrossAgent: CROSS}
"""
AGENT = """apiVersion: reconciler/v1
kind: Agent
metadata: {name: NAME, labels: {team: docs}}
spec:
  role: NAME
  image: agents/base:1
  capabilities: [docs.write]
  executor: {type: command, argv: [python3, x.py]}
  messaging:
    sends: [{to: reviewer, types: [review.request]}, {topic: docs.new, types: [docs.published]}]
"""
TASK = """apiVersion: reconciler/v1
kind: Task
metadata: {name: write}
spec: {requires: [docs.write], prompt: Write.}
"""
POLICY = """package hub.message

import rego.v1

decision := {"allow": count(deny) == 0, "reasons": deny}

deny contains "not granted" if not is_granted

deny contains "too late" if input.time >= "2026-11-21T18:00:00Z"

is_granted if {
	some grant in input.grants.sends
	input.message.type in grant.types
	input.recipient.name in {object.get(grant, "to", ""), object.get(grant, "topic", "")}
}
"""
TESTS = """package hub.message_test

import rego.v1

import data.hub.message

nothing := {"message": {"type": "x"}, "grants": {"sends": []}, "time": "2026-11-20T08:00:00Z"}

test_no_grant_no_message if not message.decision.allow with input as nothing
"""
EVENING = ("--time", "2026-11-21T18:30:00Z")
MORNING = ("--time", "2026-11-21T08:30:00Z")
ASKED = ("--from", "writer", "--to", "reviewer", "--type", "review.request")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write(tmp_path, "hub.yaml", HUB.replace("ENGINES", "[embedded, builtin]").replace("CROSS", "true"))
    for name in ("writer", "reviewer"):
        write(tmp_path, f"agents.d/{name}.yaml", AGENT.replace("NAME", name))
    write(tmp_path, "tasks.d/write.yaml", TASK)
    write(tmp_path, "policies/message.rego", POLICY)
    write(tmp_path, "policies/message_test.rego", TESTS)
    return tmp_path


def write(folder: Path, path: str, text: str) -> None:
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text(text)


PATIENT = "apiVersion: reconciler/v1\nkind: Operator\nspec: {policy: {checkTimeout: 10m}}\n"


@pytest.fixture
def run(
    repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Calls the command line in the repository: exit code, standard output, standard error.

    The operator gives checks the time that a busy machine takes, and left out is what one adds: that a check goes on.
    """
    config = tmp_path_factory.mktemp("config")
    write(config, "reconciler/operator.yaml", PATIENT)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.chdir(repository)
        monkeypatch.setattr(sys, "argv", ["reconciler", "policy", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        err = "".join(line for line in said.err.splitlines(True) if not line.startswith("checking policies for "))
        return int(ended.value.code or 0), said.out, err

    return call


def json_of(run: Run, *arguments: str) -> tuple[int, Any]:
    code, out, _ = run(*arguments, "-o", "json")
    return code, json.loads(out)


# --- test ---


def test_tests_are_counted_with_what_they_cover_and_what_answers_depend_on(run: Run) -> None:
    code, out, _ = run("test")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "1 modules, 1 test files: 1 tests passed"
    assert "50.0% of the rules are covered (measured by embedded)" in lines
    assert "policies/message.rego 2/4 50.0% 9 deny, 11-15 is_granted" in lines
    assert "message grants.sends, message.type, recipient.name, time" in lines
    assert "task no policy; the built-in rules answer" in lines


def test_the_same_as_json(run: Run) -> None:
    code, found = json_of(run, "test")
    assert (code, found["tests"], found["problems"]) == (0, 1, [])
    coverage = found["coverage"]
    assert (coverage["engine"], coverage["unit"], coverage["percent"]) == ("embedded", "rules", 50.0)
    assert coverage["files"] == [
        {
            "file": "policies/message.rego",
            "percent": 50.0,
            "covered": 2,
            "total": 4,
            "not_covered": [
                {"line": 9, "last_line": 9, "name": "deny"},
                {"line": 11, "last_line": 15, "name": "is_granted"},
            ],
        }
    ]
    message, task = found["entry_points"][:2]
    assert (message["kind"], message["cacheable"], message["obstacle"]) == ("message", True, "")
    assert message["reads"] == ["grants.sends", "message.type", "recipient.name", "time"]
    assert (task["kind"], task["engine"], task["cacheable"]) == ("task", "builtin", False)


def test_opa_counts_lines(run: Run) -> None:
    need_opa()
    code, found = json_of(run, "test", "--engine", "opa")
    coverage = found["coverage"]
    assert (code, coverage["engine"], coverage["unit"]) == (0, "opa", "lines")
    assert coverage["files"][0]["file"] == "policies/message.rego"
    assert 0 < coverage["percent"] < 100


@pytest.mark.parametrize(("threshold", "code"), [("50", 0), ("50.1", 1)])
def test_less_than_the_threshold_fails(run: Run, threshold: str, code: int) -> None:
    found, _, err = run("test", "--threshold", threshold)
    assert found == code
    assert err == ("error: 50.0% is covered, less than 50.1%\n" if code else "")


def test_why_nothing_is_remembered_is_said_with_its_place(run: Run, repository: Path) -> None:
    write(repository, "policies/message.rego", POLICY + '\ndeny contains "empty" if count(input) == 0\n')
    _, out, _ = run("test")
    said = " ".join(out.split())
    assert "so nothing is remembered: it uses input as a whole (policies/message.rego:17)" in said


def test_a_failing_test_is_a_problem(run: Run, repository: Path) -> None:
    write(repository, "policies/message_test.rego", TESTS + "\ntest_b := false\n")
    code, _, err = run("test")
    assert code == 1
    assert err == "policies/message_test.rego:11:1: test_b fails: it is false, not true\n1 problem\n"
    code, found = json_of(run, "test")
    assert (code, [p["line"] for p in found["problems"]]) == (1, [11])


def test_without_policies_there_is_nothing_to_test(run: Run, repository: Path) -> None:
    for path in (repository / "policies").iterdir():
        path.unlink()
    assert run("test")[:2] == (0, "there are no policies; the built-in rules answer\n")


# --- eval ---


def test_an_allowed_message_is_explained_by_the_rules_that_held(run: Run) -> None:
    code, out, _ = run("eval", "message", *ASKED, *MORNING)
    assert code == 0
    assert out.splitlines()[0].startswith("allowed by embedded, policies 1:")
    assert out.splitlines()[1:] == [
        "",
        "rules that held",
        "  policies/message.rego:5 decision",
        "  policies/message.rego:11 is_granted",
    ]


def test_a_denial_says_the_reason_and_its_rule(run: Run) -> None:
    code, out, _ = run("eval", "message", *ASKED, *EVENING)
    assert code == 3
    assert out.splitlines()[0].startswith("denied by embedded")
    assert "  too late" in out.splitlines()
    assert "  policies/message.rego:9 deny" in out.splitlines()


def test_an_answer_as_json_has_all_of_it(run: Run, repository: Path) -> None:
    code, found = json_of(run, "eval", "message", *ASKED, *MORNING)
    assert (code, found["allow"], found["reasons"], found["engine"]) == (0, True, [], "embedded")
    assert found["revision"].startswith("worktree:")
    assert found["policy_revision"].startswith("1:")
    assert found["rules"][0] == {
        "file": "policies/message.rego",
        "line": 5,
        "last_line": 5,
        "rule": "hub.message.decision",
    }
    assert found["question"]["sender"] == {
        "agent": "writer",
        "instance": "writer-0",
        "role": "writer",
        "labels": {"team": "docs"},
        "capabilities": ["docs.write"],
        "trust": 1.0,
    }
    assert found["question"]["time"] == "2026-11-21T08:30:00Z"

    write(repository, "question.json", json.dumps(found["question"] | {"grants": {"sends": []}}))
    code, again = json_of(run, "eval", "message", "--input", "question.json")
    assert (code, again["reasons"]) == (3, ["not granted"])


def test_a_topic_can_be_asked_about(run: Run) -> None:
    to_topic = ("--from", "writer", "--topic", "docs.new", "--type", "docs.published")
    assert run("eval", "message", *to_topic, *MORNING)[0] == 0
    assert run("eval", "message", *to_topic[:-1], "docs.other", *MORNING)[0] == 3


def test_the_built_in_rules_name_the_grant(run: Run, repository: Path) -> None:
    (repository / "policies/message.rego").unlink()
    (repository / "policies/message_test.rego").unlink()
    code, out, _ = run("eval", "message", *ASKED)
    assert code == 0
    assert out == ("allowed by builtin, policies none\n\nby agents.d/writer.yaml:1 messaging.sends[0] of writer\n")
    code, out, _ = run("eval", "message", "--from", "writer", "--to", "reviewer", "--type", "other")
    assert code == 3
    assert "messaging.sends of writer does not name other to reviewer" in out


def test_an_unknown_recipient_is_denied_as_the_router_does(run: Run, repository: Path) -> None:
    write(repository, "policies/message.rego", 'package hub.message\nimport rego.v1\ndecision := {"allow": true}\n')
    (repository / "policies/message_test.rego").unlink()
    code, out, _ = run("eval", "message", "--from", "writer", "--to", "ghost", "--type", "x")
    assert code == 3
    assert "there is no such recipient" in out


def test_agents_may_be_kept_apart_whatever_a_policy_says(run: Run, repository: Path) -> None:
    write(repository, "hub.yaml", HUB.replace("ENGINES", "[embedded, builtin]").replace("CROSS", "false"))
    code, out, _ = run("eval", "message", *ASKED, *MORNING)
    assert code == 3
    assert out.splitlines()[0].startswith("denied by builtin")
    assert "allowCrossAgent is false" in out


def test_a_task_is_asked_for_its_agent(run: Run) -> None:
    code, _, err = run("eval", "task", "write")
    assert code == 1
    assert "task 'write' names no agent; say --agent; able are: reviewer, writer" in err
    code, found = json_of(run, "eval", "task", "write", "--agent", "writer")
    assert (code, found["engine"], found["question"]["agent"]["name"]) == (0, "builtin", "writer")
    assert found["question"]["task"]["requires"] == ["docs.write"]


LLM_POLICY = """package hub.llm

import rego.v1

decision := {"allow": count(deny) == 0, "reasons": deny}

deny contains "writers ask nobody" if input.agent.role == "writer"
"""


def test_a_request_to_a_model_is_asked_for_an_agent(run: Run, repository: Path) -> None:
    gpu = "{name: gpu, type: ollama, exposure: EXPOSURE, models: [{name: qwen3, context: 32k, cost: 0}]}"
    hub = HUB.replace("ENGINES", "[embedded, builtin]").replace("CROSS", "true")
    write(repository, "hub.yaml", f"{hub}  providers: [{gpu.replace('EXPOSURE', 'private')}]\n")
    for name in ("writer", "reviewer"):
        text = AGENT.replace("NAME", name)
        write(repository, f"agents.d/{name}.yaml", f"{text}  llm: {{provider: gpu, model: qwen3}}\n")
    code, found = json_of(run, "eval", "llm", "writer", "--sensitivity", "restricted")
    assert (code, found["engine"], found["question"]["provider"]["exposure"]) == (0, "builtin", "private")
    write(repository, "policies/llm.rego", LLM_POLICY)
    code, found = json_of(run, "eval", "llm", "writer")
    assert (code, found["engine"], found["reasons"]) == (3, "embedded", ["writers ask nobody"])
    assert found["question"]["agent"]["role"] == "writer"
    assert [rule["rule"] for rule in found["rules"]] == ["hub.llm.decision", "hub.llm.deny"]
    assert json_of(run, "eval", "llm", "reviewer")[0] == 0
    write(repository, "hub.yaml", f"{hub}  providers: [{gpu.replace('EXPOSURE', 'public')}]\n")
    code, found = json_of(run, "eval", "llm", "reviewer", "--sensitivity", "confidential")
    assert (code, found["engine"]) == (3, "builtin")
    assert found["reasons"] == ["it has had confidential work, which may not reach gpu (public)"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("llm",), 64, "needs a NAME or --input FILE"),
        (("llm", "ghost"), 1, "agent 'ghost' does not exist; agents with one are: none"),
        (("llm", "writer"), 1, "agent 'writer' has no llm section in its manifest"),
        (("message",), 64, "needs --from, --type and either --to or --topic"),
        (("message", *ASKED, "--topic", "x"), 64, "needs --from, --type and either --to or --topic"),
        (("message", *ASKED, "--time", "noon"), 64, "'noon' is no time"),
        (("message", "--from", "ghost", *ASKED[2:]), 1, "there is no agent 'ghost'; agents are: reviewer, writer"),
        (("message", *ASKED[:-1], "Not A Type"), 1, "nobody can send such a message"),
        (("message", *ASKED[:-1], "task.completed"), 1, "can only go to the hub"),
        (("task",), 64, "needs a NAME or --input FILE"),
        (("task", "ghost"), 1, "there is no task 'ghost'; tasks are: write"),
        (("task", "write", "--agent", "ghost"), 1, "there is no agent 'ghost'"),
        (("admission",), 64, "needs --input FILE"),
        (("message", "--input", "hub.yaml"), 64, "it is not JSON"),
    ],
)
def test_a_question_that_cannot_be_asked_is_an_error(
    run: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    found, out, err = run("eval", *arguments)
    assert (found, out) == (code, "")
    assert said in " ".join(err.split())


def test_policies_whose_tests_fail_answer_all_the_same(run: Run, repository: Path) -> None:
    write(repository, "policies/message_test.rego", TESTS.replace("if not message", "if message"))
    code, out, _ = run("eval", "message", *ASKED, *MORNING)
    assert (code, out.splitlines()[0].startswith("allowed by embedded")) == (0, True)


def test_policies_that_cannot_be_compiled_say_where(run: Run, repository: Path) -> None:
    write(repository, "policies/message.rego", POLICY + "\nbroken := 1 + + 2\n")
    code, out, err = run("eval", "message", *ASKED)
    assert (code, out) == (1, "")
    assert f"policies/message.rego:{len(POLICY.splitlines()) + 2}:" in err


def test_a_revision_that_is_not_valid_answers_nothing(run: Run, repository: Path) -> None:
    write(repository, "policies/message.rego", "package hub.message\nimport rego.v1\ndecision := {")
    code, out, err = run("eval", "message", *ASKED)
    assert (code, out) == (1, "")
    assert "policies/message.rego:3" in err
