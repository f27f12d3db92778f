"""A run's trace: always the same, of no other run, and in the form that routers accept."""

from reconciler.core.trace import trace_of, traceparent_of
from reconciler.router.trace import check


def test_a_run_has_one_trace_and_each_attempt_a_span_of_it() -> None:
    first, second, other = traceparent_of("ab12", 1), traceparent_of("ab12", 2), traceparent_of("ab13", 1)
    assert [check(t, None) for t in (first, second, other)] == [None] * 3
    assert first == traceparent_of("ab12", 1)
    assert {t.split("-")[1] for t in (first, second)} == {trace_of("ab12")}
    assert first.split("-")[2] != second.split("-")[2]
    assert trace_of("ab12") != trace_of("ab13")
