"""Rego tests, run in a worker."""

from collections.abc import Sequence

from reconciler.policy.link import WorkerLink
from reconciler.policy.testing import TestLimits, run_tests
from reconciler.ports import PolicyBundle
from tests.policy.example import bundle_of, bundle_with_tests, module

POLICY = """
decision := {"allow": count(deny) == 0, "reasons": deny}
deny contains "too large" if input.size > limit
deny contains "production" if data.environment == "production"
limit := 10
loop if count([1 | some a in r; some b in r; some c in r; a + b + c < 0]) > 0
r := numbers.range(1, 9999)
hog if count(numbers.range(1, 9000000)) > 0
bad := 1 / input.size
"""


def start() -> WorkerLink:
    return WorkerLink(memory_bytes=2**27)


def run(bundle: PolicyBundle, limits: TestLimits | None = None) -> list[str]:
    """Problems without the path; tests begin on line 4."""
    problems: Sequence[object] = run_tests(start, bundle, limits or TestLimits())
    return [str(problem).removeprefix("policies/message_test.rego:") for problem in problems]


def test_passing_tests_are_no_problem() -> None:
    tests = """
small := {"size": 1}
of(size) := {"size": size}
test_plain if message.limit == 10
test_input if message.decision.allow with input as small
test_not if not message.decision.allow with input as of(11)
test_whole if message.decision == {"allow": true, "reasons": set()} with input as small
test_set if {
	decision := message.decision with input as of(11)
	decision.reasons == {"too large"}
	not decision.allow
}
test_data if {
	message.decision.reasons == {"production"} with input as small with data.environment as "production"
	message.decision.allow with input as small with data.environment as "test"
}
test_undefined if not message.nothing with input as small
"""
    assert run(bundle_with_tests(POLICY, tests)) == []


def test_a_failing_test_is_a_problem_at_its_rule() -> None:
    tests = """
test_false := false
test_undefined if 1 == 2
test_with if {
	message.decision.allow with input as {"size": 11}
}
test_fault if 1 / message.decision.nothing == message.limit / 0
"""
    assert run(bundle_with_tests(POLICY, tests)) == [
        "5:1: test_false fails: it is false, not true",
        "6:1: test_undefined fails: an expression in it does not hold",
        "7:1: test_with fails: an expression in it does not hold",
        "10:1: test_fault fails: an expression in it does not hold",
    ]


def test_a_fault_is_told() -> None:
    problems = run(bundle_with_tests(POLICY, '\ntest_a if message.bad with input as {"size": 0}\ntest_b if 1 / 0 == 1'))
    assert any(p.startswith("5:1: test_a fails: divide by zero") for p in problems)
    assert any(p.startswith("6:1: test_b fails: divide by zero") for p in problems)


def test_endless_and_hungry_tests_fail_alone() -> None:
    tests = """
test_a if message.loop
test_b if message.limit == 10
test_c if message.hog
test_d if message.loop with input as {}
"""
    assert run(bundle_with_tests(POLICY, tests), TestLimits(each_s=3.0)) == [
        "5:1: test_a fails: it did not end within 3s",
        "7:1: test_c fails: it used too much memory, or crashed",
        "8:1: test_d fails: an expression in it does not hold",
        "8:1: test_d fails: it did not end within 3s",
    ]


def test_all_tests_together_have_a_limit_too() -> None:
    tests = "\n" + "\n".join(f"test_{n} if message.loop" for n in range(9))
    (problem,) = run(bundle_with_tests(POLICY, tests), TestLimits(each_s=0.2, all_s=0.3))
    assert problem == " the tests took longer than 0.3s together"


def test_a_value_after_with_must_be_there() -> None:
    problems = run(bundle_with_tests(POLICY, "\ntest_a if not message.decision.allow with input as data.nothing"))
    assert problems == ["5:1: test_a fails: a value after 'with' in it: it is undefined"]


def test_a_with_that_cannot_be_evaluated_is_a_problem_before_anything_runs() -> None:
    problems = run(
        bundle_with_tests(POLICY, "\ntest_a if {\n\tx := {}\n\tmessage.limit with input as x\n}\ntest_b := false")
    )
    assert [p.split(" stands")[0] for p in problems] == ["7:16: 'with'"]


def test_tests_of_several_files_and_packages_run_together() -> None:
    modules = {
        "a.rego": module("x := input.v", "a"),
        "a_test.rego": module('test_a if data.a.x == 1 with input as {"v": 1}', "a_test"),
        "b_test.rego": module('test_a if data.a.x == 2 with input as {"v": 1}', "b_test"),
    }
    assert run(bundle_of(modules)) == ["b_test.rego:3:1: test_a fails: an expression in it does not hold"]


def test_no_tests_start_no_worker() -> None:
    def refuse() -> WorkerLink:
        raise AssertionError("a worker was started")

    assert run_tests(refuse, bundle_of({"a.rego": module("x := 1")}), TestLimits()) == ()
