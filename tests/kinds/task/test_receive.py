"""What agents report becomes states, results and artefacts; once, whatever they claim and whenever the hub dies."""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import RouterError, StoreError
from reconciler.kinds.task.receive import BATCH, CURSOR, receive
from reconciler.kinds.task.state import CANCEL_REQUESTED
from reconciler.store import records
from reconciler.store.audit import verify_chain
from reconciler.store.records import ResultRecord, TaskRecord
from tests.fakes.fleet import FakeFleet
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.texts import agent_text, task_text


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FakeFleet]:
    """A writer that has `changelog` and does not begin it by itself."""
    made = FakeFleet(tmp_path)
    made.commit(
        {"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text(retries={"maxAttempts": 3, "baseDelay": "4s"})}
    )
    for _ in range(2):
        made.run()
        made.agents.step()
    made.run()
    made.run()
    assert made.states() == {"changelog": "assigned"}
    yield made
    made.end_hub()


def report(fleet: FakeFleet, type_: str, instance: str = "writer-0", **payload: Any) -> None:
    run = fleet.task("changelog")
    fleet.router.post(instance, type_, {"task": run.name, "run": run.run, "generation": 1, **payload})


def take(fleet: FakeFleet) -> TaskRecord:
    """Take in what was reported; the run as it is then."""
    receive(fleet.world, fleet.router.report())
    return fleet.task("changelog")


def result(fleet: FakeFleet) -> ResultRecord | None:
    run = fleet.task("changelog").run
    return records.results(fleet.store, [run]).get(run)


def noted(fleet: FakeFleet) -> list[tuple[str, str, str]]:
    """Outcome and reason of the rows that agents caused."""
    return [(e.action, e.outcome, e.reason) for e in fleet.audit() if e.actor.startswith("agent:")]


def test_a_run_that_began_is_running_and_its_time_counts_from_then(fleet: FakeFleet) -> None:
    fleet.clock.advance(7)
    report(fleet, "task.started")
    run = take(fleet)
    assert (run.state, run.assigned_boot) == ("running", fleet.clock.boottime())
    assert run.started_at == fleet.clock.now().isoformat()
    (attempt,) = records.attempts(fleet.store, run.run)
    assert attempt.started_at == run.started_at


def test_only_the_first_report_that_it_began_counts(fleet: FakeFleet) -> None:
    report(fleet, "task.started")
    began = take(fleet)
    for _ in range(3):
        fleet.clock.advance(100)
        report(fleet, "task.started")
        assert take(fleet) == began
    assert records.attempts(fleet.store, began.run)[0].started_at == began.started_at
    assert noted(fleet) == [("task.started", "refused", "it had begun already; its time counts from then")] * 3
    fleet.clock.advance(600)
    fleet.agents.step()
    fleet.run()
    assert fleet.task("changelog").reason == "timed out after 10m, and its agent did not stop it"


def test_progress_is_shown_and_cut(fleet: FakeFleet) -> None:
    report(fleet, "task.started")
    report(fleet, "task.progress", text="half\n" + "x" * 1000)
    run = take(fleet)
    assert run.progress.startswith("half\nx")
    assert len(run.progress) == 200


def test_a_completed_run_has_succeeded_with_its_result(fleet: FakeFleet) -> None:
    report(fleet, "task.started")
    report(fleet, "task.completed", exit_code=0, result={"lines": 3}, artefacts=[], duration_s=1.5)
    run = take(fleet)
    assert (run.state, run.reason, run.finished_at) == ("succeeded", "", fleet.clock.now().isoformat())
    assert result(fleet) == ResultRecord(run=run.run, exit_code=0, result='{"lines": 3}', duration_s=1.5)
    assert records.attempts(fleet.store, run.run)[0].outcome == "succeeded"
    assert noted(fleet) == [("task.completed", "applied", "succeeded on writer-0")]


def test_what_a_run_used_of_a_model_is_kept(fleet: FakeFleet) -> None:
    report(fleet, "task.started")
    report(fleet, "task.completed", exit_code=0, result=None, artefacts=[], usage={"input_tokens": 12, "cost_usd": 0.5})
    take(fleet)
    assert json.loads(result(fleet).usage) == {"input_tokens": 12, "cost_usd": 0.5}


def test_a_failed_run_can_be_tried_again_after_a_while(fleet: FakeFleet) -> None:
    report(fleet, "task.failed", exit_code=3, reason="exit", error="it broke", stderr_tail="Traceback", duration_s=1)
    run = take(fleet)
    assert (run.state, run.instance, run.reason) == ("authorised", "", "failed on writer-0: it broke")
    assert 2.0 <= run.not_before_boot - fleet.clock.boottime() <= 4.0
    found = result(fleet)
    assert found is not None
    assert (found.exit_code, found.error, found.stderr_tail) == (3, "it broke", "Traceback")
    assert records.attempts(fleet.store, run.run)[0].outcome == "failed"


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("timeout", "timed out on writer-0: slow"),
        ("first_output", "timed out on writer-0: slow"),
        ("progress", "timed out on writer-0: slow"),
        ("exit", "failed on writer-0: slow"),
        ("too_large", "failed for good on writer-0: slow"),
        ("model_refused", "failed for good on writer-0: slow"),
        ("limit", "failed for good on writer-0: slow"),
        ("model_unavailable", "failed on writer-0: slow"),
        ("anything", "failed on writer-0: slow"),
    ],
)
def test_the_reason_tells_what_was_too_slow_from_what_broke(fleet: FakeFleet, kind: str, why: str) -> None:
    report(fleet, "task.failed", reason=kind, error="slow")
    assert take(fleet).reason == why


@pytest.mark.parametrize("kind", ["too_large", "model_refused", "limit"])
def test_what_another_attempt_cannot_mend_ends_the_run(fleet: FakeFleet, kind: str) -> None:
    report(fleet, "task.failed", reason=kind, error="no")
    fleet.run()
    run = fleet.task("changelog")
    assert (run.state, run.attempts) == ("failed", 1)
    assert run.reason == "failed for good on writer-0: no (attempt 1 of 3)"
    assert [a.outcome for a in records.attempts(fleet.store, run.run)] == ["failed"]


def test_a_run_that_was_to_be_cancelled_ends_cancelled(fleet: FakeFleet) -> None:
    asked = fleet.task("changelog")
    reason = f"{CANCEL_REQUESTED}: by uid:0"
    records.put_tasks(fleet.store, [replace(asked, reason=reason)])
    report(fleet, "task.failed", reason="exit", error="killed", exit_code=143)
    run = take(fleet)
    assert (run.state, run.reason) == ("cancelled", reason)
    assert records.attempts(fleet.store, run.run)[0].outcome == "cancelled"


def test_a_late_report_of_an_older_generation_is_refused_and_recorded(fleet: FakeFleet) -> None:
    report(fleet, "task.completed", generation=0, result="old", exit_code=0)
    assert take(fleet).state == "assigned"
    assert result(fleet) is None
    assert noted(fleet) == [("task.completed", "refused", "late task.completed of generation 0")]


def test_a_report_of_another_instance_is_refused(fleet: FakeFleet) -> None:
    report(fleet, "task.completed", instance="reader-0", result="forged", exit_code=0)
    assert take(fleet).state == "assigned"
    assert noted(fleet)[0][1] == "refused"


def test_a_second_completion_changes_nothing(fleet: FakeFleet) -> None:
    report(fleet, "task.completed", exit_code=0, result=1)
    report(fleet, "task.completed", exit_code=1, result=2)
    report(fleet, "task.failed", reason="exit", error="no")
    assert take(fleet).state == "succeeded"
    found = result(fleet)
    assert found is not None
    assert found.result == "1"
    assert [n[1] for n in noted(fleet)] == ["applied", "refused", "refused"]


def test_the_result_of_a_run_that_was_marked_succeeded_by_hand_is_taken(fleet: FakeFleet) -> None:
    records.put_tasks(fleet.store, [replace(fleet.task("changelog"), state="succeeded", finished_at="2026-01-01")])
    report(fleet, "task.started")
    report(fleet, "task.completed", exit_code=0, result=7)
    run = take(fleet)
    found = result(fleet)
    assert (run.state, found.result if found else None) == ("succeeded", "7")
    assert run.finished_at > "2026-01-01T"
    assert [(n[0], n[1]) for n in noted(fleet)] == [("task.completed", "applied")]
    drift = [e for e in fleet.audit() if e.cause == "drift"]
    assert [(e.name, e.before, e.after) for e in drift] == [("changelog", "succeeded", "assigned")]


def test_a_report_of_a_run_that_does_not_exist_is_refused(fleet: FakeFleet) -> None:
    fleet.router.post("writer-0", "task.completed", {"run": "nothing", "generation": 1})
    fleet.router.post("writer-0", "task.completed", {})
    take(fleet)
    assert noted(fleet) == [("task.completed", "refused", "task.completed for a run that does not exist")] * 2


def test_an_unknown_report_and_other_messages_are_recorded_without_effect(fleet: FakeFleet) -> None:
    report(fleet, "task.invented")
    fleet.router.post("writer-0", "security.alert", {"summary": "a key was found"})
    assert take(fleet).state == "assigned"
    assert noted(fleet) == [
        ("task.invented", "refused", "unknown report task.invented"),
        ("security.alert", "noted", "security.alert: a key was found"),
    ]


def artefact(name: object, content: bytes, **more: Any) -> dict[str, Any]:
    return {"name": name, "content_base64": base64.b64encode(content).decode(), **more}


def test_artefacts_are_kept_by_the_digest_computed_here_whatever_was_claimed(fleet: FakeFleet) -> None:
    content = b"# Report\n"
    digest = hashlib.sha256(content).hexdigest()
    claimed = artefact("report.md", content, sha256="0" * 64, size=5)
    report(fleet, "task.completed", exit_code=0, artefacts=[claimed, artefact("copy.md", content)])
    take(fleet)
    found = result(fleet)
    assert found is not None
    assert json.loads(found.artefacts) == [
        {"name": "report.md", "size": 9, "sha256": digest},
        {"name": "copy.md", "size": 9, "sha256": digest},
    ]
    assert (fleet.folder / "artefacts" / digest[:2] / digest).read_bytes() == content
    assert len([p for p in (fleet.folder / "artefacts").rglob("*") if p.is_file()]) == 1


def test_names_of_artefacts_lead_nowhere(fleet: FakeFleet) -> None:
    report(fleet, "task.completed", exit_code=0, artefacts=[artefact("../../etc/cron.d/x", b"x")])
    take(fleet)
    files = [p for p in fleet.folder.rglob("*") if p.is_file() and p.read_bytes() == b"x"]
    assert files == [fleet.folder / "artefacts" / "2d" / hashlib.sha256(b"x").hexdigest()]


def kept(fleet: FakeFleet) -> list[bytes]:
    """Contents of all files that are kept of artefacts."""
    return sorted(p.read_bytes() for p in (fleet.folder / "artefacts").rglob("*") if p.is_file())


def small(fleet: FakeFleet, max_size: str = "1KiB") -> None:
    """The run's manifest allows only so much output."""
    run = fleet.task("changelog")
    manifest = json.loads(run.manifest)
    manifest["spec"]["output"] = {"maxSize": max_size}
    records.put_tasks(fleet.store, [replace(run, manifest=json.dumps(manifest))])


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ({"result": "x" * 1025}, "the result has 1025 characters, output.maxSize is 1KiB"),
        ({"result": ["x" * 1021]}, "the result has 1025 characters, output.maxSize is 1KiB"),
        (
            {"artefacts": [artefact("a", b"a" * 1000), artefact("b", b"b" * 25)]},
            "the artefacts have 1025 bytes together, output.maxSize is 1KiB",
        ),
        ({"artefacts": [artefact("a", b"")] * 101}, "there are 101 artefacts, more than 100"),
    ],
    ids=["text", "json", "artefacts", "number of artefacts"],
)
def test_more_output_than_the_manifest_allows_is_a_failure_and_nothing_of_it_is_kept(
    fleet: FakeFleet, output: dict[str, Any], why: str
) -> None:
    small(fleet)
    report(fleet, "task.completed", **{"exit_code": 0, "result": "ok", "artefacts": [artefact("x", b"x")], **output})
    run = take(fleet)
    assert (run.state, run.reason) == ("authorised", f"failed for good on writer-0: too_large: {why}")
    found = result(fleet)
    assert found is not None
    assert (found.result, found.artefacts, found.error) == ("null", "[]", f"too_large: {why}")
    assert kept(fleet) == []
    assert [a.outcome for a in records.attempts(fleet.store, run.run)] == ["failed"]
    assert noted(fleet) == [("task.completed", "failed", run.reason)]


@pytest.mark.parametrize(
    "output",
    [
        {"result": "ü" * 1024, "artefacts": [artefact("a", b"a" * 1024)]},
        {"result": ["ü" * 1020], "artefacts": [artefact("a", b"a")] * 100},
    ],
    ids=["text", "json"],
)
def test_as_much_output_as_the_manifest_allows_is_kept(fleet: FakeFleet, output: dict[str, Any]) -> None:
    small(fleet)
    report(fleet, "task.completed", exit_code=0, **output)
    assert take(fleet).state == "succeeded"
    assert kept(fleet) == [base64.b64decode(output["artefacts"][0]["content_base64"])]


def test_too_much_output_ends_the_run_by_that_name(fleet: FakeFleet) -> None:
    small(fleet)
    report(fleet, "task.completed", exit_code=0, result="x" * 2000)
    fleet.run()
    run = fleet.task("changelog")
    assert (run.state, run.reason) == (
        "failed",
        "failed for good on writer-0: too_large: the result has 2000 characters, output.maxSize is 1KiB "
        "(attempt 1 of 3)",
    )


def test_of_a_report_that_is_refused_nothing_is_kept(fleet: FakeFleet) -> None:
    def bring(content: bytes) -> dict[str, Any]:
        return {"exit_code": 0, "artefacts": [artefact("a", content)]}

    report(fleet, "task.completed", generation=0, **bring(b"late"))
    report(fleet, "task.completed", run="nothing", **bring(b"unknown"))
    report(fleet, "task.completed", instance="reader-0", **bring(b"forged"))
    report(fleet, "task.invented", **bring(b"invented"))
    report(fleet, "task.progress", **bring(b"progress"))
    report(fleet, "task.failed", reason="exit", **bring(b"failed"))
    fleet.router.post("writer-0", "security.alert", bring(b"alert"))
    report(fleet, "task.completed", **bring(b"after the end"))
    take(fleet)
    assert kept(fleet) == []


def test_of_two_completions_in_one_batch_only_the_artefacts_of_the_first_are_kept(fleet: FakeFleet) -> None:
    report(fleet, "task.completed", exit_code=0, artefacts=[artefact("a", b"first")])
    report(fleet, "task.completed", exit_code=0, artefacts=[artefact("a", b"second")])
    assert take(fleet).state == "succeeded"
    assert kept(fleet) == [b"first"]


@pytest.mark.parametrize("blow_at", [1, 2, 3, 4])
def test_a_kill_never_leaves_a_row_without_its_artefacts(fleet: FakeFleet, blow_at: int) -> None:
    report(fleet, "task.completed", exit_code=0, artefacts=[artefact("a", b"first")])
    fleet.end_hub()
    fleet.start_hub(Fuse(blow_at))
    with pytest.raises(KilledError):
        take(fleet)
    fleet.restart()
    assert (kept(fleet) == [b"first"]) or fleet.task("changelog").state == "assigned"
    assert take(fleet).state == "succeeded"
    assert kept(fleet) == [b"first"]


ODD: list[dict[str, Any]] = [
    {"exit_code": 2**70, "duration_s": 10**400, "result": 1},
    {"exit_code": True, "duration_s": "long", "result": None},
    {"exit_code": -(2**70), "duration_s": -1.0, "result": "\ud800"},
    {"duration_s": float("inf")},
    {"artefacts": 5},
    {"artefacts": {"a": 1}},
    {
        "artefacts": [
            5,
            None,
            {},
            {"name": "x"},
            {"name": "x", "content_base64": "no!"},
            {"name": 7, "content_base64": ""},
        ]
    },
    {"artefacts": [{"name": "\ud800", "content_base64": "eA=="}]},
    {"error": "\udfff", "stderr_tail": "\ud800" * 9000, "reason": "\ud83d", "exit_code": 1},
    {"error": {"a": 1}, "stderr_tail": [1], "reason": None},
    {"text": ["x"]},
    {"text": "\ud800"},
    {"generation": "\ud800"},
    {"generation": [[[]]]},
    {"run": "\ud800"},
    {"run": ["r"]},
]


@pytest.mark.parametrize("type_", ["task.started", "task.progress", "task.completed", "task.failed"])
def test_no_report_however_odd_keeps_the_hub_from_the_next_one(fleet: FakeFleet, type_: str) -> None:
    assigned = fleet.task("changelog")
    for number, payload in enumerate(ODD):
        records.put_tasks(fleet.store, [assigned])
        report(fleet, type_, **payload)
        fleet.router.post("writer-0", "security.alert", {"text": "after it"})
        take(fleet)
        assert noted(fleet)[-1] == ("security.alert", "noted", "security.alert"), payload
        assert fleet.store.get_meta(CURSOR) == str(2 * number + 2)


@pytest.mark.parametrize("payload", [[], None, "text", 7])
def test_a_payload_that_is_no_object_is_refused(fleet: FakeFleet, payload: Any) -> None:
    fleet.router.post("writer-0", "task.completed", payload)
    take(fleet)
    assert noted(fleet) == [("task.completed", "refused", "task.completed for a run that does not exist")]


def test_more_rows_than_one_batch_are_all_taken(fleet: FakeFleet) -> None:
    for number in range(BATCH + 3):
        fleet.router.post("writer-0", "security.alert", {"n": number})
    assert receive(fleet.world, fleet.router.report()) == BATCH + 3
    assert receive(fleet.world, fleet.router.report()) == 0
    assert fleet.router.inbox == []


def test_after_the_routers_log_was_lost_the_cursor_begins_anew(fleet: FakeFleet) -> None:
    for _ in range(5):
        fleet.router.post("writer-0", "security.alert", {})
    take(fleet)
    fleet.router.forget_log()
    report(fleet, "task.started")
    assert take(fleet).state == "running"


def test_a_router_that_is_away_has_nothing_to_report(fleet: FakeFleet) -> None:
    fleet.router.die()
    assert receive(fleet.world, fleet.router.report()) == 0


def test_a_router_that_goes_away_while_it_is_read_is_read_again_in_the_next_pass(fleet: FakeFleet) -> None:
    report(fleet, "task.completed", exit_code=0)
    fleet.router.fail_next("read_inbox")
    with pytest.raises(RouterError):
        take(fleet)
    fleet.router.fail_next("read_inbox")
    fleet.run()
    assert fleet.task("changelog").state == "assigned"
    fleet.run()
    assert fleet.task("changelog").state == "succeeded"


def test_artefacts_that_cannot_be_written_are_a_store_error_and_nothing_is_taken(fleet: FakeFleet) -> None:
    (fleet.folder / "artefacts").write_text("in the way")
    report(fleet, "task.completed", exit_code=0, artefacts=[artefact("a", b"a")])
    with pytest.raises(StoreError, match="keeping artefacts in"):
        take(fleet)
    assert fleet.task("changelog").state == "assigned"
    (fleet.folder / "artefacts").unlink()
    assert take(fleet).state == "succeeded"


@pytest.mark.parametrize("blow_at", range(1, 5))
def test_a_kill_repeats_no_report_and_loses_none(fleet: FakeFleet, blow_at: int) -> None:
    """Killed before or after the one transaction, or before or after the router is told."""
    report(fleet, "task.started")
    report(fleet, "task.failed", reason="exit", error="no", artefacts=[artefact("a", b"a")])
    fleet.end_hub()
    fleet.start_hub(Fuse(blow_at))
    with pytest.raises(KilledError):
        take(fleet)
    assert len(fleet.fuse.visited) == blow_at
    fleet.restart()
    run = take(fleet)
    take(fleet)
    assert (run.state, run.attempts, run.generation) == ("authorised", 1, 1)
    assert [n[0] for n in noted(fleet)] == ["task.failed"]
    assert [a.outcome for a in records.attempts(fleet.store, run.run)] == ["failed"]
    assert verify_chain(fleet.store)[1] == ""
