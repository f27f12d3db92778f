"""What tests reach: counted from marks, read from OPA's report, and measured in a worker."""

from reconciler.policy.coverage import Coverage, FileCoverage, Gap, count_marks, read_opa_report
from reconciler.policy.link import WorkerLink
from reconciler.policy.marks import mark_modules
from reconciler.policy.testing import TestLimits, measure_coverage
from reconciler.ports import PolicyBundle
from tests.policy.example import bundle_of, bundle_with_tests, example_bundle, module

FILE = "policies/message.rego"
POLICY = """decision := {"allow": count(deny) == 0, "reasons": deny}
deny contains "too large" if input.size > limit
deny contains "odd" if {
	input.size == 7
	is_odd(input.size)
}
limit := 10
is_odd(n) if n % 2 == 1
else := false"""


def measure(bundle: PolicyBundle, limits: TestLimits | None = None) -> tuple[list[str], Coverage]:
    problems, coverage = measure_coverage(lambda: WorkerLink(memory_bytes=2**28), bundle, limits or TestLimits())
    return [str(problem) for problem in problems], coverage


def test_a_rule_is_covered_once_its_body_held_in_a_test() -> None:
    tests = 'test_a if message.decision.allow with input as {"size": 1}\ntest_b if message.limit == 10'
    problems, coverage = measure(bundle_with_tests(POLICY, tests))
    assert problems == []
    gaps = (
        Gap(line=4, last_line=4, name="deny"),
        Gap(line=5, last_line=8, name="deny"),
        Gap(line=10, last_line=10, name="is_odd"),
        Gap(line=11, last_line=11, name="is_odd"),
    )
    (found,) = coverage.files
    assert found == FileCoverage(file=FILE, covered=2, total=6, gaps=gaps)
    assert (coverage.engine, coverage.unit, coverage.unmeasured) == ("embedded", "rules", 0)
    assert round(coverage.percent, 1) == round(found.percent, 1) == 33.3


def test_what_a_value_after_with_and_other_data_reach_counts_too() -> None:
    tests = """
test_a if not message.decision.allow with input as {"size": 7}
test_b if not message.decision.allow with input as {"size": 8} with data.unused as 1
test_c if message.decision.allow with input as {"size": message.limit}"""
    _, coverage = measure(bundle_with_tests(POLICY.replace(" > limit", " == 8"), tests))
    assert [gap.line for gap in coverage.files[0].gaps] == [11]


def test_nothing_is_covered_without_tests() -> None:
    problems, coverage = measure(bundle_of({FILE: module(POLICY)}))
    assert problems == []
    assert (coverage.percent, coverage.files[0].covered, coverage.files[0].total) == (0.0, 0, 6)


def test_a_test_that_fails_is_told_here_too() -> None:
    problems, _ = measure(bundle_with_tests(POLICY, "test_a := false"))
    assert problems == ["policies/message_test.rego:4:1: test_a fails: it is false, not true"]


def test_the_examples_tests_reach_every_rule() -> None:
    problems, coverage = measure(example_bundle())
    assert problems == []
    assert [(found.file, found.gaps) for found in coverage.files] == [
        (f"policies/{name}.rego", ()) for name in ("admission", "delegation", "llm", "message", "task")
    ]


def test_an_evaluation_with_too_many_marks_is_told_and_not_guessed() -> None:
    policy = """decision := {"allow": allow}
allow if count([1 | some x in numbers.range(1, 100000); f(x)]) > 0
f(x) if x > 0
rest := 1"""
    tests = "test_a if message.decision.allow with input as {}\ntest_b if message.rest == 1"
    problems, coverage = measure(bundle_with_tests(policy, tests), TestLimits(each_s=20.0))
    assert problems == []
    assert (coverage.unmeasured, coverage.files[0].covered) == (1, 1)


def test_marks_are_counted_by_file() -> None:
    modules = {
        "b.rego": module("x := 1\ny := 2", "b"),
        "a.rego": module("z := 1\nw[a][b] := 1 if some a, b in [1]", "a"),
    }
    marked = mark_modules(bundle_of(modules).modules)
    coverage = count_marks(marked, frozenset({0, 2}), 1)
    assert coverage == Coverage(
        engine="embedded",
        unit="rules",
        files=(
            FileCoverage(file="a.rego", covered=1, total=1),
            FileCoverage(file="b.rego", covered=1, total=2, gaps=(Gap(line=3, last_line=3, name="x"),)),
        ),
        unmeasured=1,
        uncounted=1,
    )


def test_nothing_to_cover_is_covered() -> None:
    assert Coverage(engine="embedded", unit="rules", files=()).percent == 100.0


def test_the_report_of_opa_is_read() -> None:
    def span(first: int, last: int) -> dict[str, dict[str, int]]:
        return {"start": {"row": first, "col": 1}, "end": {"row": last, "col": 9}}

    report = {
        "files": {
            "modules/a.rego": {
                "covered": [span(1, 3)],
                "not_covered": [span(9, 9), span(5, 6), span(5, 5), span(7, 7)],
                "covered_lines": 3,
                "not_covered_lines": 4,
            },
            "modules/a_test.rego": {"covered_lines": 7},
        },
    }
    coverage = read_opa_report(report, {"modules/a.rego": "a.rego", "modules/b.rego": "b.rego"})
    gaps = (Gap(line=5, last_line=7), Gap(line=9, last_line=9))
    assert coverage == Coverage(
        engine="opa",
        unit="lines",
        files=(
            FileCoverage(file="a.rego", covered=3, total=7, gaps=gaps),
            FileCoverage(file="b.rego", covered=0, total=0),
        ),
    )
