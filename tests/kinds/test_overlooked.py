"""Files that would be missed without a word: manifests by another ending, or below the folder."""

import pytest

from reconciler.kinds.overlooked import find_overlooked
from reconciler.kinds.tree import ParseCache, Tree
from reconciler.settings import Paths
from tests.fakes.desired import Files, desired_of, problems_of
from tests.fakes.source import FakeSnapshot, Odd
from tests.fakes.texts import agent_text, hub_text, task_text


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"agents.d/a.yml": agent_text()},
            "agents.d/a.yml: is not read: only *.yaml directly in agents.d/ are; rename it, or move it away",
        ),
        (
            {"agents.d/A.YAML": agent_text()},
            "agents.d/A.YAML: is not read: only *.yaml directly in agents.d/ are; rename it, or move it away",
        ),
        (
            {"agents.d/team/a.yaml": agent_text()},
            "agents.d/team/a.yaml: is not read: only *.yaml directly in agents.d/ are; "
            "move it there, or out of agents.d/",
        ),
        (
            {"tasks.d/x/y/t.yml": task_text()},
            "tasks.d/x/y/t.yml: is not read: only *.yaml directly in tasks.d/ are; move it there, or out of tasks.d/",
        ),
        (
            {"policies/lib/deny.rego": "package hub.lib\n"},
            "policies/lib/deny.rego: is not read: only *.rego and data.yaml directly in policies/ are; "
            "move it there, or out of policies/",
        ),
        (
            {"policies/data.yml": "a: 1\n"},
            "policies/data.yml: is not read: only *.rego and data.yaml directly in policies/ are; "
            "rename it, or move it away",
        ),
        (
            {"schemas/messages/docs.published.json": "{}"},
            "schemas/messages/docs.published.json: is not read: only *.schema.json directly in "
            "schemas/messages/ are; rename it, or move it away",
        ),
        (
            {"schemas/messages/docs/docs.published.schema.json": "{}"},
            "schemas/messages/docs/docs.published.schema.json: is not read: only *.schema.json directly in "
            "schemas/messages/ are; move it there, or out of schemas/messages/",
        ),
        (
            {"agents.d/team": Odd(b"../elsewhere", mode="120000")},
            "agents.d/team: is a symbolic link, which is not followed; commit the files themselves",
        ),
    ],
)
def test_what_looks_like_a_manifest_and_would_be_passed_over_is_a_problem(files: Files, said: str) -> None:
    assert problems_of(files) == [said]


def test_what_is_no_manifest_may_stand_beside_them() -> None:
    beside: dict[str, bytes | str | Odd] = {
        "README.yml": "x",
        "agents.d/README.md": "x",
        "agents.d/bin/work.py": "x",
        "agents.d/bin/python3": Odd(b"/usr/bin/python3", mode="120000"),
        "agents.d/bin/.hidden.yaml": agent_text(),
        "agents.d/bin/rules.yaml": "rules:\n- kind: Agent\n",
        "agents.d/bin/large.yaml": Odd(b"", size_bytes=2**30),
        "agents.d/bin/link.yaml": Odd(b"../a.yaml", mode="120000"),
        "policies/.linter/config.yaml": "x",
        "policies/testdata.json": "{}",
        "schemas/other.yaml": "x",
        "schemas/messages/README.md": "x",
        "docs/agents.d/a.yml": "x",
    }
    assert sorted(desired_of({**beside, "agents.d/a.yaml": agent_text()}).of("agent")) == ["writer"]


def test_a_folder_of_one_kind_may_be_inside_that_of_another() -> None:
    paths = {"agents": "fleet", "tasks": "fleet/tasks", "policies": "fleet/rego", "inbox": "fleet/tasks/inbox"}
    files = {
        "hub.yaml": hub_text(paths=paths),
        "fleet/a.yaml": agent_text(),
        "fleet/tasks/t.yaml": task_text(),
        "fleet/rego/data.yaml": "x: 1\n",
        "fleet/tasks/inbox/accepted/dropped.yaml": task_text("dropped"),
    }
    desired = desired_of(files)
    assert (sorted(desired.of("agent")), sorted(desired.of("task"))) == (["writer"], ["changelog"])


def test_what_stands_below_is_read_once() -> None:
    snapshot = FakeSnapshot({"agents.d/bin/rules.yaml": "a: 1\n", "tasks.d/x/t.yaml": task_text()})
    tree = Tree(snapshot=snapshot, cache=ParseCache())
    found = [find_overlooked(tree, Paths()) for _ in range(2)]
    assert [[p.file for p in problems] for problems in found] == [["tasks.d/x/t.yaml"]] * 2
    assert snapshot.read_paths == ["agents.d/bin/rules.yaml", "tasks.d/x/t.yaml"]


def test_an_agent_in_a_file_that_is_passed_over_is_not_reported_as_missing_too() -> None:
    said = problems_of({"agents.d/a.yml": agent_text("writer"), "tasks.d/t.yaml": task_text(agent="writer")})
    assert [s.partition(":")[0] for s in said] == ["agents.d/a.yml"]
