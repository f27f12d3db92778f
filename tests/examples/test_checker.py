"""The checker: misfits between YAML files and schemas, with their place."""

import json

import pytest

from .stage import ListeningHub, Repository, Work

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "kind": {"const": "Agent"},
        "spec": {
            "type": "object",
            "properties": {"replicas": {"type": "integer"}, "a/b": {"items": {"type": "string"}}},
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def checked(repository: Repository) -> Repository:
    repository.write(
        {
            "schemas/agent.schema.json": json.dumps(SCHEMA),
            "agents.d/good.yaml": "kind: Agent\nspec: {replicas: 1}\n",
        }
    )
    return repository


def test_what_fits_is_counted(work: Work, checked: Repository) -> None:
    checked.commit({})
    result = work("checker", {"do": "schemas"}, checked.path).result
    assert result["ok"] is True
    assert result["checked"] == {"Agent": 1}
    assert result["problems"] == []


def test_a_misfit_is_found_with_file_place_and_pointer(work: Work, checked: Repository) -> None:
    checked.commit({"agents.d/bad.yaml": "# one\nkind: Agent\nspec:\n  replicas: many\n"})
    result = work("checker", {"do": "schemas"}, checked.path).result
    assert result["ok"] is False
    assert result["problems"] == [
        {
            "file": "agents.d/bad.yaml",
            "line": 4,
            "column": 3,
            "pointer": "/spec/replicas",
            "message": '"many" is not of type "integer"',
        }
    ]


def test_the_second_document_of_a_file_is_checked_too(work: Work, checked: Repository) -> None:
    bad = "kind: Agent\nspec: {}\n---\nkind: Agent\nspec:\n  a/b:\n    - fine\n    - 5\n"
    checked.commit({"agents.d/two.yaml": bad})
    result = work("checker", {"do": "schemas"}, checked.path).result
    assert result["checked"] == {"Agent": 3}
    (problem,) = result["problems"]
    assert (problem["line"], problem["column"], problem["pointer"]) == (8, 7, "/spec/a~1b/1")


def test_an_unknown_key_is_found_at_its_mapping(work: Work, checked: Repository) -> None:
    checked.commit({"a.yml": "kind: Agent\nspec:\n  replica: 1\n"})
    (problem,) = work("checker", {"do": "schemas"}, checked.path).result["problems"]
    assert (problem["line"], problem["pointer"]) == (2, "/spec")
    assert "replica" in problem["message"]


@pytest.mark.parametrize(
    ("content", "line"),
    [("a: 1\nb: [1\n", 3), ("a: 1\na: 2\n", 2), ("a: 1\n\tb: 2\n", 2), ("a: &x [*y]\n", 1)],
    ids=["unclosed list", "duplicate key", "tab", "unknown alias"],
)
def test_what_is_not_yaml_is_a_problem(work: Work, checked: Repository, content: str, line: int) -> None:
    checked.commit({"broken.yaml": content})
    (problem,) = work("checker", {"do": "schemas"}, checked.path).result["problems"]
    assert (problem["file"], problem["line"]) == ("broken.yaml", line)
    assert problem["message"].startswith("is not YAML: ")


def test_what_has_no_schema_is_named_and_no_problem(work: Work, checked: Repository) -> None:
    checked.commit({"ci.yaml": "jobs: {}\n", "other.yaml": "kind: Teapot\n"})
    result = work("checker", {"do": "schemas"}, checked.path).result
    assert result["ok"] is True
    assert {row["file"]: row["reason"] for row in result["unchecked"]} == {
        "ci.yaml": "it has no kind",
        "other.yaml": "no schema for kind Teapot",
    }


def test_files_can_be_skipped(work: Work, checked: Repository) -> None:
    checked.commit({"tests/bad/x.yaml": "a: [\n"})
    result = work("checker", {"do": "schemas", "skip": ["tests/*"]}, checked.path).result
    assert result["ok"] is True


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ("{", ""),
        ('{"type": "strin"}', "/type"),
        ('{"$ref": "https://example.org/other.json"}', ""),
    ],
    ids=["not JSON", "not a schema", "remote reference"],
)
def test_a_bad_schema_is_a_problem(work: Work, checked: Repository, schema: str, pointer: str) -> None:
    checked.commit({"schemas/messages/x.schema.json": schema})
    (problem,) = work("checker", {"do": "schemas"}, checked.path).result["problems"]
    assert (problem["file"], problem["pointer"]) == ("schemas/messages/x.schema.json", pointer)


def test_each_misfit_is_raised_as_a_finding(work: Work, checked: Repository, hub: ListeningHub) -> None:
    checked.commit({"bad.yaml": "kind: Agent\nspec: {replicas: no}\n"})
    work("checker", {"do": "schemas"}, checked.path, task="manifest-check", env=hub.env)
    (call,) = hub.received
    assert call["message"]["topic"] == "finding.raised"
    assert call["message"]["payload"]["path"] == "bad.yaml"
    assert call["message"]["payload"]["line"] == 2


def test_a_repository_without_yaml_is_fine(work: Work, repository: Repository) -> None:
    repository.commit({"README.md": "hi\n"})
    assert work("checker", {"do": "schemas"}, repository.path).result["figures"] == {
        "documents": 0,
        "schemas": 0,
        "problems": 0,
        "unchecked": 0,
    }
