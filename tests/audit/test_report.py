"""The report: every container is explained, everything out of the ordinary is listed, and the page is safe to open."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from reconciler.audit.page import MOST_ROWS, show_page
from reconciler.audit.report import EXCEPTIONS, Collector, ContainerLine, Report, build_report, people
from reconciler.audit.verify import Verdict
from reconciler.ports import Revision
from reconciler.source.log import CommitFacts
from reconciler.store.audit import AuditEntry, ChainedEntry, Fault

VERDICT = Verdict(
    rows=9, last_seq=9, by_checkpoint=8, by_note=7, faults=(), proven=("rows: 9",), unchecked=("the engine is away",)
)
HOSTILE = "<script>alert(1)</script>&\"'"


class Log:
    """Rows that a test writes one after the other, a minute each."""

    def __init__(self) -> None:
        self.rows: list[ChainedEntry] = []

    def add(self, action: str = "create", outcome: str = "applied", **more: Any) -> ChainedEntry:
        minute = len(self.rows)
        values = {
            "kind": "agent",
            "name": "writer-0",
            "cause": "commit",
            "plan_digest": "1:ab",
            "revision": "r1",
            **more,
        }
        entry = AuditEntry(
            time=f"2026-11-21T{minute // 60:02}:{minute % 60:02}:00+00:00",
            boottime=float(minute),
            fleet="f1",
            action=action,
            outcome=outcome,
            **values,
        )
        row = ChainedEntry(seq=minute + 1, entry=entry, prev="", hash="")
        self.rows.append(row)
        return row

    def collect(self, since: str = "", until: str = "") -> Collector:
        collected = Collector(since=since, until=until)
        collected.take(self.rows)
        return collected


def report(collected: Collector, **commits: CommitFacts) -> Report:
    return build_report(
        collected, fleet="f1", period="always", made_at="now", verdict=VERDICT, commits=commits, notes={}
    )


def test_a_container_lives_from_the_intent_to_make_it_until_it_is_removed() -> None:
    log = Log()
    made = log.add("create", "intent")
    log.add("create")
    log.add("remove", "intent")
    gone = log.add("remove")
    again = log.add("create", "intent")
    assert log.collect().containers == (
        ContainerLine(name="writer-0", made=made, ended=gone),
        ContainerLine(name="writer-0", made=again),
    )


def test_a_replacement_ends_one_and_makes_one_unless_it_fails() -> None:
    log = Log()
    made = log.add("create", "intent")
    log.add("replace", "intent")
    log.add("replace", "failed")
    replaced = log.add("replace", "intent")
    log.add("replace")
    assert log.collect().containers == (
        ContainerLine(name="writer-0", made=made, ended=replaced),
        ContainerLine(name="writer-0", made=replaced),
    )


def test_a_container_that_could_not_be_made_never_ran() -> None:
    log = Log()
    log.add("create", "intent")
    log.add("create", "failed")
    assert log.collect().containers == ()


def phase(log: Log, name: str, container: str = "") -> ChainedEntry:
    after = {"phase": name, **({"container": container} if container else {})}
    return log.add("phase", "noted", after=json.dumps(after), plan_digest="")


def test_a_container_that_went_by_itself_is_listed_beside_the_one_that_was_made_instead() -> None:
    log = Log()
    first = log.add("create", "intent")
    phase(log, "activating")
    phase(log, "handshaking", "c1")
    log.add("create")
    phase(log, "executing", "c1")
    second = log.add("create", "intent", cause="drift", reason="its container is gone")
    phase(log, "activating")
    phase(log, "handshaking", "c2")
    assert log.collect().containers == (
        ContainerLine(name="writer-0", id="c1", made=first, ended=second),
        ContainerLine(name="writer-0", id="c2", made=second),
    )


def test_a_container_made_anew_because_its_limits_could_not_be_changed_is_one_of_its_own() -> None:
    log = Log()
    first = log.add("create", "intent")
    phase(log, "handshaking", "c1")
    log.add("update", "intent")
    phase(log, "activating")
    second = phase(log, "handshaking", "c2")
    log.add("update", reason="the engine refused to change limits in place; replaced")
    assert log.collect().containers == (
        ContainerLine(name="writer-0", id="c1", made=first, ended=second),
        ContainerLine(name="writer-0", id="c2", made=second),
    )


def test_a_container_whose_start_failed_half_way_may_have_run() -> None:
    log = Log()
    first = log.add("create", "intent")
    phase(log, "handshaking", "c1")
    half = log.add("replace", "intent")
    phase(log, "activating")
    log.add("replace", "failed", reason="the engine does not answer")
    phase(log, "executing", "c2")
    assert log.collect().containers == (
        ContainerLine(name="writer-0", id="c1", made=first, ended=half),
        ContainerLine(name="writer-0", id="c2", made=half),
    )


def test_a_replacement_that_was_not_begun_leaves_what_ran_among_others_that_were() -> None:
    log = Log()
    made = log.add("create", "intent")
    log.add("create", "intent", name="other-0")
    log.add("replace", "intent")
    other = log.add("replace", "intent", name="other-0")
    log.add("replace", "failed", reason="image a:2 is not on this engine")
    log.add("replace", name="other-0")
    assert {(line.name, line.made, line.ended) for line in log.collect().containers[0:1]} == {("writer-0", made, None)}
    assert log.collect().containers[-1] == ContainerLine(name="other-0", made=other)


def test_a_container_that_was_put_to_sleep_ended_then() -> None:
    log = Log()
    made = log.add("create", "intent")
    asleep = log.add("deactivate", cause="ttl")
    again = log.add("create", "intent", cause="start")
    assert log.collect().containers == (
        ContainerLine(name="writer-0", made=made, ended=asleep),
        ContainerLine(name="writer-0", made=again),
    )


def test_what_ran_before_the_span_and_still_does_is_in_it_and_what_was_gone_is_not() -> None:
    log = Log()
    early = log.add("create", "intent")
    log.add("create", "intent", name="gone-0")
    log.add("remove", name="gone-0")
    log.add("accept", kind="revision", name="r1", plan_digest="")
    since = log.add("keep", "noted", plan_digest="").entry.time
    collected = log.collect(since=since)
    assert collected.containers == (ContainerLine(name="writer-0", made=early),)
    assert [row.entry.name for row in collected.accepted] == ["r1"]
    assert collected.rows == 1
    assert log.collect(until=early.entry.time).rows == 0


def test_everything_out_of_the_ordinary_is_under_its_title() -> None:
    log = Log()
    wanted = {
        "Drift: what somebody changed by hand": log.add("update", cause="drift"),
        "Manual operations": log.add("cancel", cause="operator", actor="uid:0"),
        "Refused plans": log.add("PlanRefused", "noted", kind="condition", cause="start"),
        "Revisions that were not valid": log.add("ConfigInvalid", "noted", kind="condition", cause="start"),
        "Fall-backs of policy": log.add("PolicyFallback", "noted", kind="condition", cause="start"),
        "Suspensions": log.add("suspend", "noted"),
        "Rollbacks": log.add("rollback", cause="crash"),
        "Tasks from the inbox or the API, with their manifests": log.add(kind="task", cause="inbox", after="a: 1"),
        "Changes that failed": log.add("create", "failed"),
        "Messages and reports that were refused": log.add("task.completed", "refused", cause="start"),
        "Rewritten history": log.add("accept", kind="revision", name="r2", reason="rewritten: it does not descend"),
    }
    log.add("update", "intent", cause="drift")
    log.add()
    found = report(log.collect()).exceptions
    assert {title: list(rows) for title, rows in found.items()} == {title: [row] for title, row in wanted.items()}
    assert list(found) == list(EXCEPTIONS)


def test_people_are_author_committer_approvals_and_signer() -> None:
    log = Log()
    log.add("accept", kind="revision", name="r1", actor="Ada")
    commit = CommitFacts(
        revision=Revision(id="r1", author="Ada <a@x>"),
        parents=(),
        committer="Bob <b@x>",
        message="",
        approvals=("Reviewed-by: Eve",),
        signer="SSH key SHA256:x",
    )
    [line] = report(log.collect(), r1=commit).revisions
    assert people(line) == ["Ada <a@x>", "committed by Bob <b@x>", "Reviewed-by: Eve", "signed with SSH key SHA256:x"]
    assert people(replace(line, commit=None)) == ["Ada"]


class _Page(HTMLParser):
    """Tags with attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "style") or name.startswith("on")
        ]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_runs_nothing_and_shows_hostile_texts_as_they_are() -> None:
    log = Log()
    log.add("accept", kind="revision", name="r1", actor=HOSTILE, reason=HOSTILE)
    log.add("create", "intent", name=HOSTILE, reason=HOSTILE)
    log.add(name=HOSTILE, reason=HOSTILE)
    log.add(kind="task", cause="inbox", name=HOSTILE, after=HOSTILE)
    verdict = replace(VERDICT, faults=(Fault(seq=3, message=HOSTILE),))
    page = _Page(show_page(replace(report(log.collect()), verdict=verdict, fleet=HOSTILE, period=HOSTILE)))
    assert page.links == []
    assert not {"script", "link", "img", "iframe", "a"} & set(page.tags)
    assert page.text.count("<script>alert(1)</script>") >= 9
    assert "It cannot" in page.text


def test_the_page_says_what_is_proven_and_how_many_rows_it_leaves_out() -> None:
    log = Log()
    log.add(name="first-0")
    collected = log.collect()
    collected.done.extend(collected.done * (MOST_ROWS + 1))
    page = _Page(show_page(report(collected)))
    assert "proven rows: 9" in page.text
    assert "anchored by a note to row 7, by a signed checkpoint to row 8; 1 row not yet" in page.text
    assert "and 2 more; audit export has all of them" in page.text
