"""Whether another bundle must become the one that answers."""

from reconciler.core.change import Action, Cause, FieldChange
from reconciler.kinds.kind import Facts
from reconciler.kinds.policy.plan import plan
from reconciler.kinds.policy.state import PolicyState
from tests.fakes.clock import START
from tests.fakes.desired import desired_of

FACTS = Facts(now=START, boottime=0.0, boot_id="b")
REGO = 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": true}\n'
TEST = "package hub.task_test\n\nimport rego.v1\n\ntest_it if true\n"
DESIRED = desired_of({"policies/task.rego": REGO, "policies/task_test.rego": TEST})
DIGEST = DESIRED.of("policy")["policies"].digest


def said(recorded: str, in_engine: str = "") -> list[tuple[Action, Cause, str]]:
    changes = plan(DESIRED, PolicyState(recorded=recorded, in_engine=in_engine), FACTS)
    assert all((c.unit, c.spec_digest) == ("policy/policies", DIGEST) for c in changes)
    return [(c.action, c.cause, c.reason) for c in changes]


def test_policies_are_one_resource() -> None:
    assert said("") == [(Action.CREATE, Cause.COMMIT, "new: 1 modules, 1 test files")]
    assert said("1:old", "1:old") == [(Action.UPDATE, Cause.COMMIT, "changed in git: 1 modules, 1 test files")]
    assert said(DIGEST, DIGEST) == [(Action.KEEP, Cause.COMMIT, "as in git")]


def test_an_engine_that_started_anew_is_loaded_again() -> None:
    assert said(DIGEST, "") == [(Action.UPDATE, Cause.START, "to be loaded into the engine")]


def test_a_change_names_both_digests() -> None:
    (change,) = plan(DESIRED, PolicyState(recorded="1:old"), FACTS)
    assert change.fields == (FieldChange(path="digest", before="1:old", after=DIGEST),)


def test_policies_that_left_git_are_removed_and_those_that_never_were_are_nothing() -> None:
    nothing = desired_of({})
    (change,) = plan(nothing, PolicyState(recorded="1:old"), FACTS)
    assert (change.action, change.reason, change.spec_digest) == (Action.REMOVE, "no longer in git", "1:old")
    assert plan(nothing, PolicyState(), FACTS) == []
