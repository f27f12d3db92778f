"""Manifests as committers write and miswrite them: each fault with file, line, column, and what to do."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.kinds.manifest import Manifest, merge
from reconciler.kinds.task.spec import TaskSpec, parse_task
from tests.fakes.desired import problems_of
from tests.fakes.source import Odd
from tests.fakes.texts import agent_text, task_text

FILE = "tasks.d/t.yaml"


def said_of(text: str | bytes) -> list[str]:
    """The problems of one task file."""
    parsed = parse_task(FILE, text.encode() if isinstance(text, str) else text)
    return [str(p) for p in parsed.problems]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "apiVersion: reconciler/v1\nkind: Agent\nmetadata: {name: a}\nspec: {agent: w}\n",
            ["tasks.d/t.yaml:2:1: kind is 'Agent'; expected 'Task'"],
        ),
        (
            "apiVersion: reconciler/v1\nkind: [Task]\nmetadata: {name: a}\nspec: {agent: w}\n",
            ["tasks.d/t.yaml:2:1: kind is ['Task']; expected 'Task'"],
        ),
        (
            "apiVersion: reconciler/v2\nkind: Task\nmetadata: {name: a}\nspec: {agent: w}\n",
            ["tasks.d/t.yaml:1:1: apiVersion is 'reconciler/v2'; expected 'reconciler/v1'"],
        ),
        (
            "kind: Task\nmetadata: {name: a}\nspec: {agent: w}\n",
            ["tasks.d/t.yaml:1:1: apiVersion is missing; expected 'reconciler/v1'"],
        ),
        ("- a\n- b\n", ["tasks.d/t.yaml:1:1: a Task manifest is a mapping with apiVersion, kind, metadata and spec"]),
        (
            "apiVersion: reconciler/v1\nkind: Task\nmetadata: {name: a}\n",
            ["tasks.d/t.yaml:1:1: spec is missing"],
        ),
        (
            "apiVersion: reconciler/v1\nkind: Task\nmetdata: {name: a}\nspec: {agent: w}\n",
            [
                "tasks.d/t.yaml:3:1: unknown key 'metdata'; did you mean 'metadata'?",
                "tasks.d/t.yaml:1:1: metadata is missing",
            ],
        ),
        (
            "apiVersion: reconciler/v1\nkind: Task\nmetadata: {}\nspec: {agent: w}\n",
            ["tasks.d/t.yaml:3:1: metadata.name is missing"],
        ),
        (
            "apiVersion: reconciler/v1\nkind: Task\nmetadata: [a]\nspec: {agent: w}\n",
            ["tasks.d/t.yaml:3:1: metadata is ['a']; expected a mapping"],
        ),
        (
            "apiVersion: reconciler/v1\nkind: Task\nmetadata: {name: 7}\nspec: {agent: w}\n",
            ["tasks.d/t.yaml:3:12: metadata.name is 7; expected text"],
        ),
        (
            "apiVersion: reconciler/v1\nkind: Task\nmetadata: {name: a}\nspec: {agent: w, priority: high}\n",
            ["tasks.d/t.yaml:4:18: spec.priority is 'high'; expected a whole number"],
        ),
        (
            "apiVersion: reconciler/v1\nkind: Task\nmetadata: {name: a}\nspec: {agent: w}\n7: x\n",
            ["tasks.d/t.yaml:5:1: unknown key 7; known: apiVersion, kind, metadata, spec"],
        ),
        (
            "apiVersion: reconciler/v1\n\tkind: Task\n",
            ["tasks.d/t.yaml:2:1: a tab is used for indentation; YAML wants spaces"],
        ),
        ("a: 1\na: 2\n", ["tasks.d/t.yaml:2:1: found duplicate key 'a'; keep one of them"]),
        (b"a: \xff\n", ["tasks.d/t.yaml:1:4: is not UTF-8 text; save the file as UTF-8"]),
        (b"a: \0\n", ["tasks.d/t.yaml:1:4: contains a NUL character; remove it"]),
        ("", ["tasks.d/t.yaml: is empty; remove it or write a manifest"]),
        ("# soon\n---\n", ["tasks.d/t.yaml: is empty; remove it or write a manifest"]),
    ],
)
def test_a_miswritten_manifest_says_where_and_what(text: str | bytes, said: list[str]) -> None:
    assert said_of(text) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../etc/passwd", "'.' is not allowed"),
        ("a\nb", "'\\n' is not allowed"),
        ("wr\u0456ter", "'\\u0456' is not allowed"),
        ("ch\u0430ngelog", "'\\u0430' is not allowed"),
        ("Changelog", "'C' is not allowed"),
        ("a" * 41, "a name has at most 40"),
    ],
)
def test_a_name_that_is_none_says_which_character_is_wrong(name: str, said: str) -> None:
    (problem,) = said_of(task_text(name))
    assert problem.startswith("tasks.d/t.yaml:3:12: metadata.name: ")
    assert said in problem
    assert problem.isascii() or "…" in problem


def test_a_manifest_in_the_folder_of_another_kind_is_one_problem() -> None:
    assert problems_of({"tasks.d/a.yaml": agent_text()}) == ["tasks.d/a.yaml:2:1: kind is 'Agent'; expected 'Task'"]
    assert problems_of({"agents.d/t.yaml": task_text()}) == ["agents.d/t.yaml:2:1: kind is 'Task'; expected 'Agent'"]


def test_labels_of_the_hub_are_reserved() -> None:
    (problem,) = said_of(task_text(labels={"io.reconciler.seal": "x"}))
    assert problem == (
        "tasks.d/t.yaml:3:33: metadata.labels: label 'io.reconciler.seal' uses the reserved prefix 'io.reconciler'; "
        "choose another"
    )


def test_an_error_in_the_second_document_has_the_line_of_the_file() -> None:
    second = task_text("second", agnt="x")
    assert said_of(task_text() + "---\n" + second) == [
        "tasks.d/t.yaml:12:3: unknown key 'agnt' in spec; did you mean 'agent'?"
    ]


def test_documents_between_separators_may_be_empty() -> None:
    parsed = parse_task(FILE, f"---\n{task_text('a')}---\n---\n{task_text('b')}".encode())
    assert [m.name for m in parsed.manifests] == ["a", "b"]
    assert parsed.problems == ()


def test_a_name_that_stands_twice_is_a_problem_at_its_second_place() -> None:
    files = {
        "agents.d/a.yaml": agent_text("writer"),
        "agents.d/b.yaml": "# the other one\n---\n" + agent_text("reader") + "---\n" + agent_text("writer"),
    }
    assert problems_of(files) == [
        "agents.d/b.yaml:14:1: agent 'writer' is already defined in agents.d/a.yaml:1; rename or remove one of them"
    ]


def test_all_problems_of_all_files_come_in_one_go_sorted_by_place() -> None:
    files: dict[str, bytes | str | Odd] = {
        "agents.d/a.yaml": agent_text(rol="x", replicas=-1),
        "agents.d/b.yaml": "a: [\n",
        "tasks.d/t.yaml": task_text(timeout="soon", priority=1000) + "---\n" + task_text("u", agnt="x"),
        "schemas/messages/x.y.schema.json": "{",
        "policies/a.rego": b"\xff",
    }
    said = problems_of(files)
    assert [s.split(": ")[0] for s in said] == [
        "agents.d/a.yaml:9:3",
        "agents.d/a.yaml:10:3",
        "agents.d/b.yaml:2:1",
        "policies/a.rego:1:1",
        "schemas/messages/x.y.schema.json:1:2",
        "tasks.d/t.yaml:6:3",
        "tasks.d/t.yaml:7:3",
        "tasks.d/t.yaml:14:3",
    ]


def test_names_that_cannot_be_resolved_because_of_a_broken_file_are_not_reported_as_missing() -> None:
    files = {"agents.d/a.yaml": "a: [\n", "tasks.d/t.yaml": task_text(agent="writer")}
    (problem,) = problems_of(files)
    assert problem.startswith("agents.d/a.yaml:2:1: is not valid YAML")


def test_the_digest_is_over_what_was_written_not_over_how() -> None:
    first = parse_task(FILE, task_text(timeout="60s", priority=1).encode()).manifests[0]
    second = parse_task("tasks.d/moved.yaml", ("# note\n" + task_text(priority=1, timeout="1m")).encode()).manifests[0]
    other = parse_task(FILE, task_text(timeout="61s", priority=1).encode()).manifests[0]
    assert first.digest == second.digest
    assert other.digest != first.digest
    assert (first.kind, first.file, first.line) == ("task", FILE, 1)


def test_labels_are_part_of_the_digest_and_annotations_are_not() -> None:
    plain = task_text()
    annotated = plain.replace('{"name": "changelog"}', '{"name": "changelog", "annotations": {"a": "b"}}')
    labelled = task_text(labels={"a": "b"})
    digests = [parse_task(FILE, t.encode()).manifests[0].digest for t in (plain, annotated, labelled)]
    assert digests[0] == digests[1] != digests[2]


def test_defaults_are_merged_mapping_by_mapping_under_what_was_written() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 9}}) == {"a": {"x": 9, "y": 2}, "b": 3}
    assert merge({"a": {"x": 1}}, {"a": 5}) == {"a": 5}
    assert merge({"a": 1}, None) is None


def test_what_is_derived_of_a_manifest_is_made_once_and_dies_with_it() -> None:
    made: list[str] = []

    def shout(manifest: Manifest[TaskSpec]) -> str:
        made.append(manifest.name)
        return manifest.name.upper()

    first, twin = (parse_task(FILE, task_text("a").encode()).manifests[0] for _ in range(2))
    assert [first.once(shout), first.once(shout)] == ["A", "A"]
    assert made == ["a"]
    assert first == twin
    assert [twin.once(shout), replace(first, name="b").once(shout)] == ["A", "B"]
    assert made == ["a", "a", "b"]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3))
KEYS = st.sampled_from(
    ["agent", "requires", "priority", "input", "output", "timeout", "retries", "dependsOn", "select"]
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_no_spec_makes_the_parser_raise_and_every_fault_has_a_line(spec: dict[str, object]) -> None:
    import json

    lines = [f"  {key}: {json.dumps(value)}" for key, value in spec.items()]
    text = "\n".join(["apiVersion: reconciler/v1", "kind: Task", "metadata: {name: a}", "spec:", *lines, ""])
    parsed = parse_task(FILE, text.encode())
    assert bool(parsed.manifests) != bool(parsed.problems)
    assert all(p.line and p.column and p.message for p in parsed.problems)
