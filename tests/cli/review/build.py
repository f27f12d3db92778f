"""Reviews with valid defaults: a test writes only what it is about."""

from typing import Any

from reconciler.core.change import Action, Change, FieldChange
from reconciler.core.decision import Decision
from reconciler.core.plan import Plan, Refusal
from reconciler.core.problem import Problem
from reconciler.kinds.manifest import Manifest
from reconciler.loop.admit import Opinion
from reconciler.loop.review import Review
from tests.fakes.desired import task_manifest
from tests.fakes.texts import task_text

HEAD, BASE = "a" * 40, "b" * 40
HOSTILE = "x`|\n::error::pwn <script> @team #1 [a](http://b.example) \x1b[31m %0A"


def change(name: str = "writer", action: Action = Action.REPLACE, **more: Any) -> Change:
    return Change(**{"kind": "agent", "name": name, "action": action, "reason": "changed in git", **more})


def image(before: str = "a:1", after: str = "a:2") -> FieldChange:
    return FieldChange(path="spec.image", before=before, after=after)


def review(
    *changes: Change, refused: tuple[Refusal, ...] = (), problems: tuple[Problem, ...] = (), **more: Any
) -> Review:
    """Of `HEAD`, compared with `BASE`."""
    plan = Plan(revision=HEAD, compared_with="base", changes=changes, refused=refused, problems=problems)
    return Review(**{"plan": plan, "base": BASE, "places": {("agent", "writer"): ("agents.d/w.yaml", 3)}, **more})


def opinion(*, head: str = "", base: str | None = "") -> Opinion:
    """About one task; a text is the reason of a denial, None that nobody was asked."""
    manifest: Manifest[Any] = task_manifest(task_text())
    return Opinion(manifest=manifest, own=_decision(head), in_force=None if base is None else _decision(base))


def _decision(reason: str) -> Decision:
    return Decision(allow=not reason, reasons=(reason,) if reason else (), engine="embedded", revision="1:p")


def everything() -> Review:
    """Something of all that a review can hold, with text of a stranger's wherever text of a stranger's may be."""
    return review(
        change(action=Action.KEEP),
        change("old", Action.REMOVE, instance="old-0", spec_digest="1:m", reason="no longer in git"),
        change("new", Action.CREATE, instance="new-0", spec_digest="1:m", reason="new"),
        change("writer", instance="writer-0", fields=(image(HOSTILE, HOSTILE * 20),), disruptive=True),
        change("gone", Action.REMOVE, instance="gone-0", reason=HOSTILE),
        change("job", Action.CANCEL, kind="task", reason="removed from git"),
        refused=(Refusal(guard="prune-budget", reason=HOSTILE, confirm="1:c"),),
        notes=(HOSTILE,),
        settings=(FieldChange(path="loop.resync", before=30.0, after=60.0),),
        opinions=(opinion(head=HOSTILE, base=""), opinion(head="", base=HOSTILE), opinion()),
    )
