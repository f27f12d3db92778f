"""What each answer of OPA's means, and when the breaker lets a question through."""

import pytest

from reconciler.core.decision import Decision
from reconciler.policy.decision import MAX_REASON_CHARACTERS, MAX_REASONS
from reconciler.policy.opa_answer import (
    Breaker,
    Fault,
    Unevaluated,
    read_answer,
    read_revision,
    settle_unevaluated,
)

UNDEFINED = "data.hub.message.decision is undefined for this question"
NO_ALLOW = "data.hub.message.decision has no boolean 'allow'"


def decision(allow: bool, *reasons: str) -> Decision:
    return Decision(allow=allow, reasons=reasons, engine="opa", revision="r1")


def answered(document: object) -> object:
    """What a 200 with this decision at revision r1 means."""
    return read_answer("message", 200, {"decision_id": "x", "result": {"revision": "r1", "decision": document}}, "r1")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"allow": True}, decision(True)),
        ({"allow": True, "reasons": []}, decision(True)),
        ({"allow": True, "reasons": ["so it is"]}, decision(True, "so it is")),
        ({"allow": False, "reasons": ["a", "b"]}, decision(False, "a", "b")),
        ({"allow": False, "reasons": "a"}, decision(False, "a")),
        ({"allow": False, "reasons": [1, None]}, decision(False, "1", "None")),
        ({"allow": False, "reasons": []}, decision(False, "the policy gives no reason")),
        ({"allow": False}, decision(False, "the policy gives no reason")),
        ({"allow": "true"}, decision(False, NO_ALLOW)),
        ({"allow": 1}, decision(False, NO_ALLOW)),
        ({"allow": None, "reasons": []}, decision(False, NO_ALLOW)),
        ({}, decision(False, NO_ALLOW)),
        (True, decision(False, NO_ALLOW)),
        (None, decision(False, NO_ALLOW)),
        ([{"allow": True}], decision(False, NO_ALLOW)),
    ],
)
def test_only_a_boolean_true_allows(document: object, expected: Decision) -> None:
    assert answered(document) == expected


def test_reasons_are_bounded_in_number_and_length() -> None:
    found = answered({"allow": False, "reasons": ["x" * 1000] * 100})
    assert found == decision(False, *["x" * (MAX_REASON_CHARACTERS - 1) + "…"] * MAX_REASONS)


def test_undefined_at_the_right_revision_is_a_denial() -> None:
    assert read_answer("message", 200, {"result": {"revision": "r1"}}, "r1") == decision(False, UNDEFINED)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "it has no policies, not r1"),
        ({"decision_id": "x"}, "it has no policies, not r1"),
        ({"result": None}, "it has no policies, not r1"),
        ({"result": {}}, "it has no policies, not r1"),
        ({"result": []}, "it has no policies, not r1"),
        ({"result": {"decision": {"allow": True}}}, "it has no policies, not r1"),
        ({"result": {"revision": None, "decision": {"allow": True}}}, "it has no policies, not r1"),
        ({"result": {"revision": ["r1"], "decision": {"allow": True}}}, "it has no policies, not r1"),
        ({"result": {"revision": "r0", "decision": {"allow": True}}}, "it has policies r0, not r1"),
        ({"result": {"revision": "r0"}}, "it has policies r0, not r1"),
        ({"result": {"revision": "R1"}}, "it has policies R1, not r1"),
    ],
)
def test_another_revision_or_none_is_no_answer_and_no_outage(value: object, said: str) -> None:
    assert read_answer("message", 200, value, "r1") == Fault(reason=said, is_outage=False)


@pytest.mark.parametrize("value", [None, "<html>", [], 7, True, "", "{"])
def test_what_is_no_answer_of_the_data_api_is_a_fault(value: object) -> None:
    assert read_answer("message", 200, value, "r1") == Fault(reason="its answer is not JSON of the data API")


@pytest.mark.parametrize(
    ("status", "value", "said"),
    [
        (500, None, "it answers with status 500 and nothing else"),
        (503, "", "it answers with status 503 and nothing else"),
        (404, None, "it answers with status 404 and nothing else"),
        (301, None, "it answers with a redirect (301), which is not followed"),
        (307, {"result": {"revision": "r1", "decision": {"allow": True}}}, "it answers with a redirect (307), which"),
    ],
)
def test_errors_without_a_body_and_redirects_are_faults(status: int, value: object, said: str) -> None:
    found = read_answer("message", status, value, "r1")
    assert isinstance(found, Fault)
    assert found.is_outage
    assert found.reason.startswith(said)


CONFLICT = {
    "code": "internal_error",
    "message": "error(s) occurred while evaluating query",
    "errors": [{"code": "eval_conflict_error", "message": "rules must not produce multiple outputs"}],
}


@pytest.mark.parametrize(
    ("status", "value", "said"),
    [
        (500, CONFLICT, "rules must not produce multiple outputs (eval_conflict_error)"),
        (400, {"code": "invalid_parameter", "message": "not JSON"}, "not JSON (invalid_parameter)"),
        (502, "<html>Bad Gateway</html>", "status 502: <html>Bad Gateway</html>"),
        (500, {"errors": [7]}, "status 500: {'errors': [7]}"),
        (201, {"result": {"revision": "r1", "decision": {"allow": True}}}, "status 201: {'result'"),
    ],
)
def test_a_failed_evaluation_is_a_denial_if_it_was_that_of_the_right_revision(
    status: int, value: object, said: str
) -> None:
    failed = read_answer("message", status, value, "r1")
    assert isinstance(failed, Unevaluated)
    assert failed.reason.startswith(f"data.hub.message.decision failed: {said}")
    assert settle_unevaluated(failed, "r1", "r1") == decision(False, failed.reason)
    assert settle_unevaluated(failed, "r0", "r1") == Fault(reason="it has policies r0, not r1", is_outage=False)
    assert settle_unevaluated(failed, "", "r1") == Fault(reason="it has no policies, not r1", is_outage=False)
    gone = Fault(reason="gone")
    assert settle_unevaluated(failed, gone, "r1") == gone


@pytest.mark.parametrize(
    ("status", "value", "expected"),
    [
        (200, {"result": "r1"}, "r1"),
        (200, {}, ""),
        (200, {"result": 7}, Fault(reason="its data.hub.revision is no text", is_outage=False)),
        (200, None, Fault(reason="asked for its revision, it answers with status 200")),
        (302, None, Fault(reason="asked for its revision, it answers with status 302")),
        (401, {"code": "unauthorized"}, Fault(reason="asked for its revision, it answers with status 401")),
    ],
)
def test_the_revision_is_a_text_or_nothing(status: int, value: object, expected: str | Fault) -> None:
    assert read_revision(status, value) == expected


def test_the_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(3, 2.0)
    for _ in range(2):
        breaker.fail(0.0)
        breaker.fail(0.0)
        assert breaker.permits(0.0)
        breaker.succeed()
    for _ in range(3):
        assert not breaker.is_open
        breaker.fail(10.0)
    assert breaker.is_open
    assert not breaker.permits(10.0)


def test_an_open_breaker_lets_one_probe_through_per_pause() -> None:
    breaker = Breaker(1, 2.0)
    breaker.fail(10.0)
    assert [breaker.permits(at) for at in (10.0, 11.9, 12.0, 12.1, 13.9, 14.0)] == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]


def test_a_probe_that_fails_starts_the_pause_again_and_one_that_succeeds_closes() -> None:
    breaker = Breaker(2, 2.0)
    breaker.fail(0.0)
    breaker.fail(0.0)
    assert breaker.permits(2.0)
    breaker.fail(2.5)
    assert not breaker.permits(4.4)
    assert breaker.permits(4.5)
    breaker.succeed()
    assert not breaker.is_open
    assert breaker.permits(4.5)
    breaker.fail(5.0)
    assert not breaker.is_open


def test_a_half_open_breaker_opens_with_the_next_outage() -> None:
    breaker = Breaker(3, 2.0)
    for _ in range(3):
        breaker.fail(0.0)
    breaker.half_open()
    assert breaker.permits(0.0)
    breaker.fail(1.0)
    assert breaker.is_open
