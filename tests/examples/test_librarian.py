"""The librarian: links and changes in small repositories."""

import pytest

from .stage import ListeningHub, Repository, Work

MAP = """# The Map

[a](docs/a.md) ![b](docs/b%20c.png) [c](docs/) [d](#the-map)
[e](/LICENSE "title") [f](docs/a.md#two-words) [g](<docs/b c.png>)

[h]: docs/a.md
"""
GUIDE = """## Two *words*

[up](../README.md) [out](https://example.org/x) <a id='here'></a> [self](#here)

## Same

## Same

[second](#same-1)
"""


def broken(work: Work, repository: Repository) -> list[tuple[str, int, str]]:
    result = work("librarian", {"do": "links"}, repository.path).result
    return [(row["file"], row["line"], row["target"]) for row in result["broken"]]


def test_links_that_lead_somewhere_are_fine(work: Work, repository: Repository) -> None:
    repository.commit(
        {
            "README.md": MAP,
            "docs/a.md": GUIDE,
            "docs/b c.png": b"\0",
            "LICENSE": "",
        }
    )
    result = work("librarian", {"do": "links"}, repository.path).result
    assert result["broken"] == []
    assert result["figures"] == {"files": 2, "links": 11, "broken": 0}
    assert result["external"] == 1


def test_broken_links_are_found_with_file_and_line(work: Work, repository: Repository) -> None:
    repository.commit(
        {
            "README.md": "[a](nowhere.md)\n[b](docs/a.md#missing) [c](#missing)\n",
            "docs/a.md": "# There\n\n[d](../../outside)\n[e]: gone.md\n[f]()\n",
        }
    )
    assert broken(work, repository) == [
        ("README.md", 1, "nowhere.md"),
        ("README.md", 2, "docs/a.md#missing"),
        ("README.md", 2, "#missing"),
        ("docs/a.md", 3, "../../outside"),
        ("docs/a.md", 4, "gone.md"),
        ("docs/a.md", 5, ""),
    ]


def test_a_link_to_what_git_does_not_carry_is_broken(work: Work, repository: Repository) -> None:
    repository.commit({".gitignore": "build/\n", "README.md": "[a](build/x.txt)\n"})
    repository.write({"build/x.txt": "there, but only here"})
    assert broken(work, repository) == [("README.md", 1, "build/x.txt")]


def test_links_in_code_are_not_links(work: Work, repository: Repository) -> None:
    repository.commit({"a.md": "`[a](x)`\n\n```md\n[b](y)\n```\n\n~~~\n[c](z)\n~~~\n[d](w)\n"})
    assert broken(work, repository) == [("a.md", 10, "w")]


def test_links_can_be_checked_in_one_place_only(work: Work, repository: Repository) -> None:
    repository.commit({"docs/a.md": "[x](no)\n", "docsite/b.md": "[y](no)\n", "c.md": "[z](no)\n"})
    given = {"do": "links", "under": ["docs", "c.md"]}
    result = work("librarian", given, repository.path).result
    assert [row["file"] for row in result["broken"]] == ["c.md", "docs/a.md"]


def test_a_broken_link_is_raised_as_a_finding(work: Work, repository: Repository, hub: ListeningHub) -> None:
    repository.commit({"a.md": "[x](no)\n"})
    work("librarian", {"do": "links"}, repository.path, env=hub.env)
    (call,) = hub.received
    assert call["message"]["payload"]["message"] == "no: there is no no"


def test_a_repository_without_documentation_is_fine(work: Work, repository: Repository) -> None:
    repository.commit({"a.py": ""})
    assert work("librarian", {"do": "links"}, repository.path).result["ok"] is True


def test_changes_are_counted_from_the_last_tag(work: Work, repository: Repository) -> None:
    repository.commit({"old.py": "1\n"}, "before")
    repository.tag("v1")
    repository.commit({"src/deep/er/a.py": "1\n", "top.txt": "1\n"}, "first", day=1)
    repository.commit(
        {
            "src/deep/b.py": "1\n",
            "CHANGELOG.md": "# Log\n\n## [Unreleased]\n\n- A thing.\n\n## 1\n\n- Old.\n",
        },
        "second",
        author="Grace",
        day=2,
    )
    result = work("librarian", {"do": "changes"}, repository.path).result
    assert result["since"] == "v1"
    assert [(c["subject"], c["author"], c["date"]) for c in result["commits"]] == [
        ("second", "Grace", "2026-01-07"),
        ("first", "Ada", "2026-01-06"),
    ]
    assert result["areas"] == [
        {"area": ".", "commits": 2, "latest": "second"},
        {"area": "src/deep", "commits": 2, "latest": "second"},
    ]
    assert result["unreleased"] == ["A thing."]
    assert result["changelog_touched"] is True


def test_without_a_tag_the_last_commits_are_shown(work: Work, repository: Repository) -> None:
    for day in range(5):
        repository.commit({"a": f"{day}\n"}, f"commit {day}", day=day)
    result = work("librarian", {"do": "changes", "commits": 2}, repository.path).result
    assert result["since"] is None
    assert [c["subject"] for c in result["commits"]] == ["commit 4", "commit 3"]
    assert result["files"] == {"a": 2}


def test_a_start_can_be_named(work: Work, repository: Repository) -> None:
    repository.commit({"a": "1\n"}, "one")
    repository.commit({"a": "2\n"}, "two", day=1)
    result = work("librarian", {"do": "changes", "since": "HEAD~1"}, repository.path).result
    assert [c["subject"] for c in result["commits"]] == ["two"]


@pytest.mark.parametrize("since", ["no-such-tag", "--output=stolen"])
def test_a_start_that_is_no_commit_is_a_clear_failure(work: Work, repository: Repository, since: str) -> None:
    repository.commit({"a": "1\n"})
    done = work("librarian", {"do": "changes", "since": since}, repository.path)
    assert done.exit_code == 1
    assert done.errors == f"the input's 'since' is {since!r}, which names no commit here\n"
    assert not (repository.path / "stolen").exists()


def test_the_first_commit_is_a_change(work: Work, repository: Repository) -> None:
    repository.commit({"a": "1\n"}, "one")
    result = work("librarian", {"do": "changes"}, repository.path).result
    assert result["figures"] == {"commits": 1, "files": 1, "unreleased": 0}


def test_the_reports_that_were_announced_are_named(work: Work, repository: Repository, hub: ListeningHub) -> None:
    repository.commit({"a.md": "hi\n"})
    payload = {"task": "report", "title": "News", "sha256": "0" * 64, "sections": ["churn"]}
    hub.fill([{"id": "1", "type": "report.published", "from": "reporter/reporter-0", "payload": payload}])
    assert work("librarian", {"do": "changes"}, repository.path, env=hub.env).result["reports"] == ["News"]
    assert work("librarian", {"do": "changes"}, repository.path).result["reports"] == []
