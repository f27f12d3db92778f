"""Admission: a revision's own policies must allow what it changes, and those in force must not be got round by it."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from reconciler.core.decision import Decision
from reconciler.errors import PolicyEngineError
from reconciler.kinds.kind import Desired
from reconciler.loop.admit import Admission, admit
from tests.fakes.desired import desired_of
from tests.fakes.policy import FakePolicy
from tests.fakes.texts import agent_text, task_text

REGO = 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true}\n'
BASE = desired_of({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text()})


def engines(deny_own: str = "", deny_in_force: str = "") -> tuple[FakePolicy, FakePolicy]:
    """The engine of the revision itself, and the one in force with other policies."""
    own, in_force = FakePolicy(), FakePolicy()
    in_force.revision = "1:in force"
    for engine, name in ((own, deny_own), (in_force, deny_in_force)):
        if name:
            engine.deny("admission", f"{name} is not wanted", _is_about(name))
    return own, in_force


def _is_about(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda question: question["name"] == name


def asked(engine: FakePolicy) -> list[str]:
    return [q["name"] for _, q in engine.asked]


def judge(desired: Desired, base: Desired | None, own: FakePolicy, in_force: FakePolicy | None) -> Admission:
    return admit(desired, base, in_force, lambda: own)


def test_only_what_a_revision_changes_is_asked_about() -> None:
    own, in_force = engines()
    changed = desired_of({"agents.d/a.yaml": agent_text(version="2"), "tasks.d/t.yaml": task_text()})
    assert judge(changed, BASE, own, in_force) == Admission()
    assert asked(own) == asked(in_force) == ["writer"]
    own, in_force = engines()
    assert judge(BASE, BASE, own, in_force) == Admission()
    assert asked(own) == []


def test_the_question_shows_what_was_and_what_shall_be() -> None:
    own, in_force = engines()
    changed = desired_of({"agents.d/a.yaml": agent_text(version="2", labels={"team": "docs"})}, revision="r2")
    judge(changed, BASE, own, in_force)
    question: Mapping[str, Any] = own.asked[0][1]
    assert {k: question[k] for k in ("kind", "name", "labels", "revision")} == {
        "kind": "agent",
        "name": "writer",
        "labels": {"team": "docs"},
        "revision": "r2",
    }
    assert (question["before"]["version"], question["spec"]["version"]) == ("1", "2")


def test_what_its_own_policies_deny_is_a_problem_at_its_place() -> None:
    own, in_force = engines(deny_own="writer")
    changed = desired_of({"agents.d/a.yaml": agent_text(version="2"), "tasks.d/t.yaml": task_text()})
    (problem,) = judge(changed, BASE, own, in_force).problems
    assert str(problem) == "agents.d/a.yaml:1:1: admission denied (fake): writer is not wanted"


def test_what_only_its_own_policies_allow_is_disputed() -> None:
    own, in_force = engines(deny_in_force="writer")
    changed = desired_of({"agents.d/a.yaml": agent_text(version="2"), "policies/task.rego": REGO})
    assert judge(changed, BASE, own, in_force) == Admission(disputed=("agent/writer: writer is not wanted",))
    assert own.revision == changed.of("policy")["policies"].digest


def test_the_first_revision_is_judged_by_its_own_policies_alone() -> None:
    own, in_force = engines(deny_in_force="writer")
    assert judge(BASE, None, own, in_force) == Admission()
    assert asked(in_force) == []


def test_unchanged_policies_are_asked_once() -> None:
    own, in_force = engines(deny_in_force="writer")
    changed = desired_of({"agents.d/a.yaml": agent_text(version="2"), "policies/task.rego": REGO})
    in_force.revision = changed.of("policy")["policies"].digest
    admission = judge(changed, BASE, own, in_force)
    assert len(admission.problems) == 1
    assert asked(own) == []


def test_policies_that_cannot_be_loaded_decide_nothing() -> None:
    own, in_force = engines()
    own.is_away = True
    with pytest.raises(PolicyEngineError):
        judge(desired_of({"agents.d/a.yaml": agent_text(version="2")}), BASE, own, in_force)


def test_where_no_engine_can_answer_it_is_not_asked_for_each_manifest() -> None:
    class Nobody(FakePolicy):
        def decide(self, entry_point: str, question: Mapping[str, Any]) -> Decision:
            super().decide(entry_point, question)
            return Decision(allow=False, reasons=("it did not end within 1s",), engine="none", revision=self.revision)

    own, (_, in_force) = Nobody(), engines()
    found = judge(BASE, None, own, in_force)
    assert len(asked(own)) == 1
    (problem,) = found.problems
    expected = "admission cannot be asked: it did not end within 1s; not asked about: 1 more"
    assert problem.message == expected
