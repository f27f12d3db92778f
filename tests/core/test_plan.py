"""The plan as a value: what is pending, what its digest covers, and its JSON."""

from dataclasses import replace

from reconciler.core.change import Action, Change
from reconciler.core.plan import Plan, Refusal
from reconciler.core.problem import Problem


def change(name: str, action: Action = Action.CREATE, digest: str = "1:a") -> Change:
    return Change(kind="agent", name=name, action=action, reason="because", spec_digest=digest)


PLAN = Plan(
    revision="r1", compared_with="engine", changes=(change("a"), change("b", Action.KEEP), change("c", Action.HOLD))
)


def test_keep_and_hold_are_not_pending() -> None:
    assert [c.name for c in PLAN.pending] == ["a"]


def test_the_digest_covers_the_revision_and_each_removal_and_nothing_else() -> None:
    gone = change("a", Action.REMOVE)
    plan = replace(PLAN, changes=(gone,))
    more = (change("b"), change("c", Action.UPDATE), replace(change("router"), kind="router"), change("d", Action.KEEP))
    begun = replace(change("a", Action.HOLD), towards=Action.REMOVE, reason="running on")
    for same in (
        replace(plan, changes=(replace(gone, reason="another"),)),
        replace(plan, changes=(*more, gone)),
        replace(plan, changes=(begun,)),
    ):
        assert same.digest == plan.digest
    for other in (
        replace(plan, revision="r2"),
        replace(plan, changes=()),
        replace(plan, changes=(gone, change("x", Action.REMOVE))),
        replace(plan, changes=(change("x", Action.REMOVE),)),
        replace(plan, changes=(change("a", Action.RECYCLE),)),
        replace(plan, changes=(change("a", Action.REMOVE, digest="1:b"),)),
        replace(plan, changes=(replace(gone, instance="a-0"),)),
        replace(plan, changes=(replace(gone, kind="task"),)),
    ):
        assert other.digest != plan.digest


def test_json_leaves_out_what_is_kept_unless_asked() -> None:
    refused = (Refusal(guard="protect", reason="no", confirm="1:d"),)
    plan = replace(PLAN, refused=refused, problems=(Problem(file="hub.yaml", message="is missing"),))
    value = plan.to_json()
    assert [c["name"] for c in value["changes"]] == ["a", "c"]
    assert [c["name"] for c in plan.to_json(everything=True)["changes"]] == ["a", "b", "c"]
    assert {k: v for k, v in value.items() if k != "changes"} == {
        "revision": "r1",
        "compared_with": "engine",
        "digest": plan.digest,
        "kept": 1,
        "refused": [{"guard": "protect", "reason": "no", "confirm": "1:d"}],
        "problems": [{"file": "hub.yaml", "line": 0, "column": 0, "message": "is missing"}],
    }
