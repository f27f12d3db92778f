"""OPA's compiler as a second look at policies: places, capabilities, and what happens without the program."""

from pathlib import Path

import pytest

from reconciler.core.problem import Problem
from reconciler.policy.chain import Chain, Order
from reconciler.policy.opa_check import check_with_opa
from reconciler.ports import PolicyBundle
from tests.policy.example import bundle_of, example_bundle, module
from tests.policy.fake_engine import FakeEngine
from tests.policy.opa_servers import need_opa


def raw(text: str) -> PolicyBundle:
    """A bundle that nobody has looked at; the text begins on line 3."""
    return PolicyBundle(modules={"policies/deep/message.rego": module(text)}, data={}, digest="x")


def test_the_example_is_taken() -> None:
    assert check_with_opa(need_opa(), example_bundle()) == ()


def test_no_policies_are_nothing_to_check() -> None:
    assert check_with_opa("/nowhere", PolicyBundle(modules={}, data={}, digest="")) == ()


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ('x := 1\ny if lower(x) == "a"', 4, 6, "lower: invalid argument(s)"),
        ("x := http.send({})", 3, 6, "undefined function http.send"),
        ("x := time.now_ns()", 3, 6, "undefined function time.now_ns"),
        ("x := opa.runtime()", 3, 6, "undefined function opa.runtime"),
        ("x if {", 4, 1, ""),
    ],
)
def test_what_opa_does_not_take_is_named_with_its_place(text: str, line: int, column: int, said: str) -> None:
    first = check_with_opa(need_opa(), raw(text))[0]
    assert (first.file, first.line) == ("policies/deep/message.rego", line)
    assert first.column >= column
    assert first.message.startswith(f"is not taken by OPA: {said}")


def test_modules_that_only_together_are_wrong_are_found() -> None:
    bundle = bundle_of({"a.rego": module("x := 1"), "b.rego": module("x := 2", "hub.message.x")})
    problems = check_with_opa(need_opa(), bundle)
    assert {p.file for p in problems} <= {"a.rego", "b.rego"}
    assert any("conflict" in p.message for p in problems)


def test_a_program_that_does_not_work_is_no_reason_to_refuse_policies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "opa"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o700)
    for program in (str(broken), "/nowhere/opa"):
        caplog.clear()
        assert check_with_opa(program, example_bundle()) == ()
        assert f"{program} does not check policies" in caplog.text


def test_the_chain_asks_it_only_where_the_engine_finds_nothing() -> None:
    seen: list[str] = []

    def second(bundle: PolicyBundle) -> tuple[Problem, ...]:
        seen.append(bundle.digest)
        return (Problem(file="second", message="no"),)

    class Content(FakeEngine):
        def check(self, _bundle: PolicyBundle) -> tuple[Problem, ...]:
            return ()

    bundle = raw("x := 1")
    assert Chain({"embedded": FakeEngine()}, Order(second_check=second)).check(bundle)[0].file == "embedded"
    assert seen == []
    assert Chain({"embedded": Content()}, Order(second_check=second)).check(bundle)[0].file == "second"
    assert seen == ["x"]
