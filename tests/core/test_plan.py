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


def test_the_digest_covers_what_would_be_done_and_nothing_else() -> None:
    same = replace(PLAN, changes=(replace(change("a"), reason="another"), change("d", Action.KEEP)))
    assert same.digest == PLAN.digest
    for other in (
        replace(PLAN, revision="r2"),
        replace(PLAN, changes=(change("x"),)),
        replace(PLAN, changes=(change("a", Action.REPLACE),)),
        replace(PLAN, changes=(change("a", digest="1:b"),)),
        replace(PLAN, changes=(replace(change("a"), instance="a-0"),)),
        replace(PLAN, changes=(replace(change("a"), kind="task"),)),
    ):
        assert other.digest != PLAN.digest


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
