"""The analyst: size, churn and activity of repositories whose history is known."""

from collections import Counter
from pathlib import Path

import pytest

from .stage import ListeningHub, Repository, Work, git

MONDAY, SUNDAY, NEXT_MONDAY = 0, 6, 7


@pytest.fixture
def known(repository: Repository) -> Repository:
    """Three commits by two people in three weeks; the last one deletes gone.txt."""
    repository.commit({"a.py": "x = 1\n", "b.md": "# B\n", "gone.txt": "old\n"}, "one", day=MONDAY)
    repository.commit({"a.py": "x = 1\n\n# why\ny = 2\n"}, "two", author="Grace", day=SUNDAY)
    (repository.path / "gone.txt").unlink()
    repository.commit({"a.py": "y = 2\n", "b.md": "# B\n\ntext\n"}, "three", day=NEXT_MONDAY + 7)
    return repository


def test_size_counts_lines_by_language(work: Work, repository: Repository) -> None:
    repository.commit(
        {
            "a.py": "# why\n\nx = 1\ny = 2\n",
            "lib/b.py": "z = 3",
            "Makefile": "run:\n\ttrue\n",
            "p.rego": "# policy\npackage p\n",
            "image.bin": b"\0\1\2",
            "empty.md": "",
        }
    )
    result = work("analyst", {"do": "size", "top": 2}, repository.path).result
    assert {row["name"]: (row["files"], row["lines"], row["code"]) for row in result["languages"]} == {
        "Python": (2, 5, 3),
        "Make": (1, 2, 2),
        "Rego": (1, 2, 1),
        "Markdown": (1, 0, 0),
    }
    assert result["total"] == {"files": 5, "lines": 9, "code": 6, "comment": 2, "blank": 1}
    assert [row["path"] for row in result["largest"]] == ["a.py", "Makefile"]
    assert result["not_text"] == 1


def test_size_does_not_follow_links_out_of_the_workspace(work: Work, repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("secret = 1\n")
    (repository.path / "link.py").symlink_to(tmp_path / "outside.py")
    repository.commit({"inside.py": "x = 1\n"})
    assert work("analyst", {"do": "size"}, repository.path).result["total"]["lines"] == 1


def test_size_needs_no_history(work: Work, tmp_path: Path) -> None:
    tree = tmp_path / "0123456789ab"
    tree.mkdir()
    (tree / "a.py").write_text("x = 1\n")
    result = work("analyst", {"do": "size"}, tree).result
    assert result["total"]["lines"] == 1
    assert result["revision"] == "0123456789ab"


def test_a_tree_inside_another_repository_is_not_taken_for_it(work: Work, repository: Repository) -> None:
    repository.commit({"outer.py": "x = 1\n"})
    tree = repository.path / "inner"
    tree.mkdir()
    done = work("analyst", {"do": "churn"}, tree)
    assert done.exit_code == 1
    assert "no git history" in done.errors


def test_churn_counts_what_git_counts(work: Work, known: Repository) -> None:
    result = work("analyst", {"do": "churn"}, known.path).result
    counted = Counter(filter(None, git(known.path, "log", "--name-only", "--format=").splitlines()))
    assert {row["path"]: row["commits"] for row in result["files"]} == dict(counted)
    assert counted == {"a.py": 3, "b.md": 2, "gone.txt": 2}
    assert result["files"][0] == {
        "path": "a.py",
        "commits": 3,
        "authors": 2,
        "added": 4,
        "deleted": 3,
        "last": "2026-01-19T12:00:00+00:00",
        "exists": True,
    }
    assert {row["path"] for row in result["files"] if not row["exists"]} == {"gone.txt"}


def test_churn_reads_names_with_spaces_and_accents(work: Work, repository: Repository) -> None:
    repository.commit({"dir a/b c.txt": "1\n", "ünï\tcode.txt": "1\n"})
    result = work("analyst", {"do": "churn"}, repository.path).result
    assert {row["path"] for row in result["files"]} == {"dir a/b c.txt", "ünï\tcode.txt"}
    assert result["folders"] == [{"folder": "dir a", "commits": 1}]


def test_churn_counts_empty_commits_and_none_twice_in_merges(work: Work, repository: Repository) -> None:
    repository.commit({"a": "1\n"}, "one")
    git(repository.path, "checkout", "-q", "-b", "side")
    repository.commit({"b": "1\n"}, "side", day=1)
    git(repository.path, "checkout", "-q", "main")
    repository.commit({}, "empty", day=2)
    git(repository.path, "merge", "-q", "--no-ff", "-m", "merged", "side")
    result = work("analyst", {"do": "churn"}, repository.path).result
    assert result["figures"] == {"commits": 3, "files": 2}
    assert {row["commits"] for row in result["files"]} == {1}


def test_churn_can_be_narrowed_in_time_and_number(work: Work, known: Repository) -> None:
    given = {"do": "churn", "since": "2026-01-10", "top": 1}
    result = work("analyst", given, known.path).result
    assert result["figures"] == {"commits": 2, "files": 3}
    assert [row["path"] for row in result["files"]] == ["a.py"]


def test_churn_of_a_shallow_clone_says_so(work: Work, known: Repository, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{known.path}", "shallow")
    result = work("analyst", {"do": "churn"}, tmp_path / "shallow").result
    assert result["shallow"] is True
    assert result["figures"] == {"commits": 1, "files": 2}


def test_churn_asks_the_reviewer_to_look_at_what_changes_most(work: Work, known: Repository, hub: ListeningHub) -> None:
    given = {"do": "churn", "review": 2}
    result = work("analyst", given, known.path, task="churn", env=hub.env).result
    (call,) = hub.received
    assert call["path"] == "/api/hub/messages"
    assert call["authorization"] == "Bearer t0ken"
    assert call["message"].pop("id")
    assert call["message"] == {
        "type": "review.request",
        "pattern": "event",
        "to": "reviewer",
        "payload": {"task": "churn", "paths": ["a.py", "b.md"], "reason": "changed most often"},
    }
    assert result["messages"] == [{"type": "review.request", "to": "reviewer", "status": "accepted"}]


def test_a_refused_message_is_noted_and_does_no_harm(work: Work, known: Repository, hub: ListeningHub) -> None:
    hub.status = 403
    done = work("analyst", {"do": "churn", "review": 1}, known.path, env=hub.env)
    assert done.exit_code == 0
    assert done.result["messages"][0]["status"] == "refused"
    assert "forbidden" in done.result["messages"][0]["reason"]


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"HUB_URL": "http://127.0.0.1:9", "HUB_TOKEN_FILE": "/nonexistent"},
        {"HUB_URL": "http://127.0.0.1:9", "HUB_TOKEN_FILE": "/dev/null"},
        {"HUB_URL": "not a url", "HUB_TOKEN_FILE": "/dev/null"},
        {"HUB_URL": "http://127.0.0.1:x", "HUB_TOKEN_FILE": "/dev/null"},
    ],
)
def test_without_a_hub_the_work_is_done_all_the_same(work: Work, known: Repository, env: dict[str, str]) -> None:
    done = work("analyst", {"do": "churn", "review": 1}, known.path, env=env)
    assert done.exit_code == 0
    assert done.result["messages"][0]["status"] == "not sent"
    assert done.result["messages"][0]["reason"]


def test_activity_counts_by_week_and_author(work: Work, known: Repository) -> None:
    result = work("analyst", {"do": "activity"}, known.path).result
    assert result["weeks"] == [
        {"week": "2026-W02", "commits": 2, "authors": 2},
        {"week": "2026-W03", "commits": 0, "authors": 0},
        {"week": "2026-W04", "commits": 1, "authors": 1},
    ]
    assert [(a["name"], a["commits"], a["first"], a["last"]) for a in result["authors"]] == [
        ("Ada", 2, "2026-01-05", "2026-01-19"),
        ("Grace", 1, "2026-01-11", "2026-01-11"),
    ]
    assert result["last"] == "2026-01-19T12:00:00+00:00"


def test_activity_shows_the_latest_weeks_only(work: Work, known: Repository) -> None:
    result = work("analyst", {"do": "activity", "weeks": 2}, known.path).result
    assert [row["week"] for row in result["weeks"]] == ["2026-W03", "2026-W04"]
    assert result["figures"] == {"commits": 3, "authors": 2}


@pytest.mark.parametrize("do", ["churn", "activity"])
def test_one_commit_is_a_history(work: Work, repository: Repository, do: str) -> None:
    repository.commit({"a": "1\n"})
    assert work("analyst", {"do": do}, repository.path).result["figures"]["commits"] == 1


@pytest.mark.parametrize("do", ["churn", "activity"])
def test_no_commit_is_a_clear_failure(work: Work, repository: Repository, do: str) -> None:
    done = work("analyst", {"do": do}, repository.path)
    assert (done.exit_code, done.result) == (1, None)
    assert "no git history" in done.errors
