"""The tests of a bundle in the real OPA."""

import pytest

from reconciler.errors import PolicyEngineError
from reconciler.policy.coverage import FileCoverage, Gap
from reconciler.policy.testing_opa import run_opa_tests
from tests.policy.example import bundle_with_tests, example_bundle
from tests.policy.opa_servers import need_opa

POLICY = """decision := {"allow": count(deny) == 0, "reasons": deny}
deny contains "too large" if {
	input.size > data.limit
}
unused if {
	input.x
}"""


def test_lines_are_covered_as_opa_says() -> None:
    tests = 'test_a if not message.decision.allow with input as {"size": 11} with data.limit as 10'
    problems, coverage = run_opa_tests(need_opa(), bundle_with_tests(POLICY, tests))
    assert problems == ()
    assert coverage is not None
    gaps = (Gap(line=7, last_line=8),)
    assert coverage.files == (FileCoverage(file="policies/message.rego", covered=3, total=5, gaps=gaps),)
    assert (coverage.engine, coverage.unit) == ("opa", "lines")


def test_a_failing_test_is_a_problem_at_its_rule_and_nothing_is_measured() -> None:
    problems, coverage = run_opa_tests(need_opa(), bundle_with_tests(POLICY, "test_a := false\ntest_b if 1 == 1"))
    assert [str(p) for p in problems] == [
        "policies/message_test.rego:4:1: test_a fails: an expression in it does not hold"
    ]
    assert coverage is None


def test_the_example_passes_with_its_data() -> None:
    problems, coverage = run_opa_tests(need_opa(), example_bundle())
    assert problems == ()
    assert coverage is not None
    assert all(found.percent == 100.0 for found in coverage.files)


def test_a_program_that_is_no_opa_is_an_error() -> None:
    with pytest.raises(PolicyEngineError, match="/bin/false test: status 1"):
        run_opa_tests("/bin/false", example_bundle())
