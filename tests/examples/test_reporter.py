"""The reporter: what parents found, in one Markdown file and one result."""

import hashlib
from typing import Any

import pytest

from .stage import ListeningHub, Repository, Work

SIZE = {
    "do": "size",
    "revision": "a" * 40,
    "ok": True,
    "summary": "900 lines in 3 text files",
    "figures": {"lines": 900, "files": 3},
    "languages": [{"name": "Python", "files": 3, "lines": 900, "code": 700}],
    "largest": [
        {"path": "big.py", "language": "Python", "lines": 500},
        {"path": "quiet.py", "language": "Python", "lines": 400},
        {"path": "all.lock", "language": "Other", "lines": 300},
    ],
}
CHURN = {
    "do": "churn",
    "revision": "a" * 40,
    "ok": True,
    "summary": "3 files changed in 40 commits",
    "figures": {"commits": 40},
    "files": [
        {"path": "big.py", "commits": 9, "authors": 2, "added": 600, "deleted": 100},
        {"path": "small.py", "commits": 30, "authors": 1, "added": 1, "deleted": 1},
        {"path": "all.lock", "commits": 20, "authors": 1, "added": 1, "deleted": 1},
    ],
}
TODO: dict[str, Any] = {
    "do": "todo",
    "revision": None,
    "ok": False,
    "summary": "1 open end, 1 without an owner",
    "figures": {"found": 1},
    "found": [{"path": "a.py", "line": 3, "marker": "HACK", "text": "a | b\n# not a heading"}],
}


def test_the_report_holds_the_figures_of_all_parents(work: Work, repository: Repository) -> None:
    parents = {"code-size": SIZE, "churn": CHURN, "open-ends": TODO}
    given = {"do": "report", "title": "The state"}
    done = work("reporter", given, repository.path, parents=parents, task="report")
    report = (done.output / "report.md").read_text()
    assert report.startswith("# The state\n\nRevision aaaaaaaaaaaa.\n")
    assert "| churn | ok | 3 files changed in 40 commits |" in report
    assert "| open-ends | needs attention | 1 open end, 1 without an owner |" in report
    assert "| Python | 3 | 900 | 700 |" in report
    assert "| big.py | 9 | 2 | 600 | 100 |" in report
    assert done.result["figures"] == {
        "churn.commits": 40,
        "code-size.files": 3,
        "code-size.lines": 900,
        "open-ends.found": 1,
    }
    assert done.result["attention"] == ["open-ends: 1 open end, 1 without an owner"]
    assert done.result["ok"] is False
    assert [row["task"] for row in done.result["sections"]] == ["churn", "code-size", "open-ends"]


def test_hotspots_are_sources_both_large_and_often_changed(work: Work, repository: Repository) -> None:
    parents = {"code-size": SIZE, "churn": CHURN}
    done = work("reporter", {"do": "report"}, repository.path, parents=parents)
    assert done.result["hotspots"] == [{"path": "big.py", "commits": 9, "lines": 500}]
    assert "## Hotspots" in (done.output / "report.md").read_text()


def test_what_parents_say_cannot_break_the_markdown(work: Work, repository: Repository) -> None:
    done = work("reporter", {"do": "report"}, repository.path, parents={"open-ends": TODO})
    report = (done.output / "report.md").read_text()
    assert "| a.py | 3 | HACK | a \\| b \\# not a heading |" in report


def test_long_tables_are_cut_and_say_so(work: Work, repository: Repository) -> None:
    given = {"do": "report", "rows": 1}
    done = work("reporter", given, repository.path, parents={"churn": CHURN})
    report = (done.output / "report.md").read_text()
    assert "small.py" not in report
    assert "and 2 more." in report


def test_parents_of_another_fleet_are_left_out_by_name(work: Work, repository: Repository) -> None:
    parents = {"churn": CHURN, "talk": "just text", "list": [1], "odd": {"do": "dance"}}
    done = work("reporter", {"do": "report"}, repository.path, parents=parents)
    assert done.result["left_out"] == ["list", "talk"]
    assert [row["task"] for row in done.result["sections"]] == ["churn", "odd"]


def test_a_report_of_nothing_is_a_clear_failure(work: Work, repository: Repository) -> None:
    done = work("reporter", {"do": "report"}, repository.path)
    assert done.exit_code == 1
    assert "nothing to combine" in done.errors
    assert list(done.output.iterdir()) == []


def test_the_report_is_announced_with_its_digest(work: Work, repository: Repository, hub: ListeningHub) -> None:
    given = {"do": "report", "title": "News"}
    parents = {"churn": CHURN}
    done = work("reporter", given, repository.path, parents=parents, task="report", env=hub.env)
    sha256 = hashlib.sha256((done.output / "report.md").read_bytes()).hexdigest()
    (call,) = hub.received
    assert call["message"]["topic"] == "report.published"
    assert call["message"]["payload"] == {
        "task": "report",
        "title": "News",
        "sha256": sha256,
        "sections": ["churn"],
    }
    assert done.result["artefacts"][0]["sha256"] == sha256


def finding(number: int) -> dict[str, Any]:
    payload = {"task": "long-code", "rule": "length", "path": f"a{number}.py", "line": 1, "message": "too long"}
    return {"id": f"f-{number}", "type": "finding.raised", "from": "reviewer/reviewer-0", "payload": payload}


def test_what_agents_told_is_in_the_report_once_and_then_acknowledged(
    work: Work, repository: Repository, hub: ListeningHub
) -> None:
    other = {"id": "p", "type": "policy.changed", "from": "hub", "payload": {"revision": "r"}}
    hub.fill([*(finding(n) for n in range(120)), finding(0), other])
    done = work("reporter", {"do": "report"}, repository.path, parents={"churn": CHURN}, env=hub.env)
    assert [f["path"] for f in done.result["findings"]] == [f"a{n}.py" for n in range(120)]
    assert done.result["summary"].endswith("120 findings heard of from reviewer")
    assert "| a7.py | 1 | length | too long | reviewer/reviewer-0 |" in (done.output / "report.md").read_text()
    assert hub.acknowledged == 122


def test_where_no_report_comes_about_what_agents_told_comes_again(
    work: Work, repository: Repository, hub: ListeningHub
) -> None:
    hub.fill([finding(1)])
    (repository.path / "output").write_text("in the way")
    env = {**hub.env, "HUB_OUTPUT": str(repository.path / "output")}
    done = work("reporter", {"do": "report"}, repository.path, parents={"churn": CHURN}, env=env)
    assert (done.exit_code, hub.handed_out, hub.acknowledged) == (1, 1, 0)


FUNCTIONS = [{"path": "big.py", "line": 3, "name": "Big.do", "lines": 90, "over": True}]
REVIEWED = {"ok": True, "task": "delegation-1", "state": "succeeded", "result": {"functions": FUNCTIONS}}


@pytest.mark.parametrize("is_late", [False, True])
def test_the_reviewer_is_asked_for_what_is_long_in_the_hotspots(
    work: Work, repository: Repository, hub: ListeningHub, is_late: bool
) -> None:
    hub.is_late, hub.delegate = is_late, lambda _payload: REVIEWED
    given = {"do": "report", "review": 3}
    parents = {"code-size": SIZE, "churn": CHURN}
    done = work("reporter", given, repository.path, parents=parents, task="report", env=hub.env)
    asked = hub.received[0]["message"]
    assert (asked["type"], asked["pattern"], asked["to"]) == ("delegation.request", "request", "hub")
    assert asked["payload"]["agent"] == "reviewer"
    assert asked["payload"]["task"] == "report"
    assert asked["payload"]["input"] == {"do": "long", "paths": ["big.py"], "top": 10}
    assert done.result["reviewed"]["functions"] == [{"name": "Big.do", "path": "big.py", "lines": 90}]
    assert "| Big.do | big.py | 90 |" in (done.output / "report.md").read_text()


@pytest.mark.parametrize(
    "answer", [None, {"ok": False, "task": "", "state": "rejected", "reason": "no budget is left to delegate"}]
)
def test_a_report_comes_out_where_nobody_may_look_into_the_hotspots(
    work: Work, repository: Repository, hub: ListeningHub, answer: dict[str, Any] | None
) -> None:
    hub.delegate = None if answer is None else lambda _payload: answer
    parents = {"code-size": SIZE, "churn": CHURN}
    done = work("reporter", {"do": "report", "review": 3}, repository.path, parents=parents, env=hub.env)
    reason = answer["reason"] if answer is not None else "403"
    assert done.exit_code == 0
    assert (done.result["reviewed"]["ok"], done.result["reviewed"]["functions"]) == (False, [])
    assert reason in done.result["reviewed"]["reason"]
    assert f"Not known: {reason}" in (done.output / "report.md").read_text()


def test_without_a_hub_nobody_is_asked(work: Work, repository: Repository) -> None:
    parents = {"code-size": SIZE, "churn": CHURN}
    done = work("reporter", {"do": "report", "review": 1}, repository.path, parents=parents)
    assert (done.exit_code, done.result["reviewed"]["reason"]) == (0, "HUB_URL or HUB_TOKEN_FILE is not set")
