"""What every `PolicyEngine` keeps to: the embedded one, the chain in front of it, and the fake that fast tests use."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Protocol

import pytest

from reconciler.core.problem import Problem
from reconciler.policy.bundle import NO_POLICIES
from reconciler.policy.chain import Chain
from reconciler.policy.embedded import EmbeddedEngine
from reconciler.ports import PolicyBundle, PolicyEngine
from tests.fakes.policy import FakePolicy
from tests.policy.example import bundle_of, module

MESSAGE = """
decision := {"allow": true, "reasons": []} if input.ask != "no"
decision := {"allow": false, "reasons": ["it said no"]} if input.ask == "no"
"""


def bundle(data: object = None) -> PolicyBundle:
    """Messages that ask `no` are denied, tasks all allowed."""
    task = module('decision := {"allow": true, "reasons": []}', "hub.task")
    return bundle_of({"policies/message.rego": module(MESSAGE), "policies/task.rego": task}, data)


class Subject(Protocol):
    """An engine, and how to break it."""

    engine: PolicyEngine

    @abstractmethod
    def problems_of_a_wrong_bundle(self) -> list[str]:
        """What `check` says of a bundle that the engine finds wrong."""


class FakeSubject(Subject):
    def __init__(self) -> None:
        self.engine = self._fake = FakePolicy()
        self._fake.deny("message", "it said no", when=lambda question: question.get("ask") == "no")

    def problems_of_a_wrong_bundle(self) -> list[str]:
        self._fake.problems = [Problem(file="policies/message.rego", line=3, message="wrong")]
        return [p.file for p in self.engine.check(bundle())]


class RealSubject(Subject):
    def __init__(self, engine: PolicyEngine) -> None:
        self.engine = engine

    def problems_of_a_wrong_bundle(self) -> list[str]:
        wrong = PolicyBundle(modules={"policies/message.rego": "package hub.message\nx := (\n"}, data={}, digest="1:x")
        return [p.file for p in self.engine.check(wrong)]


@pytest.fixture(params=["fake", "embedded", "chain"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    subject: Subject
    match request.param:
        case "fake":
            subject = FakeSubject()
        case "embedded":
            subject = RealSubject(EmbeddedEngine())
        case _:
            subject = RealSubject(Chain({"embedded": EmbeddedEngine()}))
    yield subject
    subject.engine.close()


def test_nothing_is_in_force_before_the_first_bundle(subject: Subject) -> None:
    assert subject.engine.revision == ""


def test_each_decision_carries_the_revision_of_the_bundle_in_force(subject: Subject) -> None:
    for data in (None, {"limits": {"tries": 3}}):
        made = bundle(data)
        subject.engine.activate(made)
        assert subject.engine.revision == made.digest
        assert subject.engine.decide("task", {}).revision == made.digest


def test_policies_can_be_taken_out_of_force(subject: Subject) -> None:
    subject.engine.activate(bundle())
    subject.engine.activate(NO_POLICIES)
    assert subject.engine.revision == ""
    subject.engine.activate(bundle())
    assert subject.engine.decide("message", {"ask": "no"}).reasons == ("it said no",)


def test_a_denial_says_why(subject: Subject) -> None:
    subject.engine.activate(bundle())
    denied = subject.engine.decide("message", {"ask": "no"})
    assert (denied.allow, denied.reasons) == (False, ("it said no",))
    allowed = subject.engine.decide("message", {"ask": "yes"})
    assert (allowed.allow, allowed.reasons) == (True, ())
    assert allowed.engine == denied.engine != ""


def test_a_bundle_that_is_right_has_no_problems_and_checking_it_activates_nothing(subject: Subject) -> None:
    assert list(subject.engine.check(bundle())) == []
    assert subject.engine.revision == ""


def test_a_bundle_that_is_wrong_has_problems_that_name_the_file(subject: Subject) -> None:
    assert set(subject.problems_of_a_wrong_bundle()) == {"policies/message.rego"}
