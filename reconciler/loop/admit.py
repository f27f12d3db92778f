"""Admission: what policy says of the manifests that a revision changes. Asked of the policies in force and of its own.

A revision that changes policy and manifest together does not approve itself: where its own policies allow what those in
force deny, a person has to confirm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.decision import Decision
from reconciler.core.problem import Problem, sort_problems
from reconciler.kinds.kind import Desired
from reconciler.kinds.manifest import Manifest
from reconciler.ports import PolicyBundle, PolicyEngine

ENTRY_POINT = "admission"
NOBODY = "none"
"""The engine of a decision that no engine made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opinion:
    """What the revision's own policies say of one changed manifest, and those in force, where there are any."""

    manifest: Manifest[Any]
    own: Decision
    in_force: Decision | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """`problems` deny the revision; `disputed` says what only its own policies allow; `opinions` are all answers."""

    problems: tuple[Problem, ...] = ()
    disputed: tuple[str, ...] = ()
    opinions: tuple[Opinion, ...] = field(default=(), compare=False)


def admit(
    desired: Desired, base: Desired | None, in_force: PolicyEngine | None, fresh: Callable[[], PolicyEngine]
) -> Admission:
    """Ask about every changed manifest. `fresh` makes an engine for the revision's own policies.

    Without policies there is nothing to ask: what the built-in rules know of manifests is checked with them.

    Raises PolicyEngineError when these cannot be loaded.
    """
    changed = _changed(desired, base)
    if not changed:
        return Admission()
    policies = desired.of("policy").get("policies")
    bundle: PolicyBundle | None = policies.bundle if policies is not None else None
    digest = bundle.digest if bundle is not None else ""
    if not digest and (in_force is None or not in_force.revision):
        return Admission()
    if in_force is not None and in_force.revision == digest:
        return _judge(changed, base, desired, in_force, in_force)
    own = fresh()
    try:
        if bundle is not None:
            own.activate(bundle)
        return _judge(changed, base, desired, own, in_force if base is not None else None)
    finally:
        own.close()


def _changed(desired: Desired, base: Desired | None) -> Sequence[Manifest[Any]]:
    out: list[Manifest[Any]] = []
    for kind, loaded in desired.loaded.items():
        before = base.of(kind) if base is not None else {}
        out.extend(
            m
            for name, m in loaded.by_name.items()
            if isinstance(m, Manifest) and (name not in before or before[name].digest != m.digest)
        )
    return out


def _judge(
    changed: Sequence[Manifest[Any]],
    base: Desired | None,
    desired: Desired,
    own: PolicyEngine,
    in_force: PolicyEngine | None,
) -> Admission:
    problems: list[Problem] = []
    disputed: list[str] = []
    opinions: list[Opinion] = []
    for number, manifest in enumerate(changed, start=1):
        question = _question(manifest, base, desired)
        decision = own.decide(ENTRY_POINT, question)
        if decision.engine == NOBODY:
            # Each question may take as long as a deadline, and the next one would fare no better.
            left = len(changed) - number
            rest = f"; not asked about: {left} more" if left else ""
            problems.append(manifest.problem(f"admission cannot be asked: {_reasons(decision)}{rest}"))
            break
        before = decision if in_force is own else in_force.decide(ENTRY_POINT, question) if in_force else None
        opinions.append(Opinion(manifest=manifest, own=decision, in_force=before))
        if not decision.allow:
            problems.append(manifest.problem(f"admission denied ({decision.engine}): {_reasons(decision)}"))
        elif before is not None and not before.allow:
            disputed.append(f"{manifest.kind}/{manifest.name}: {_reasons(before)}")
    return Admission(problems=sort_problems(problems), disputed=tuple(disputed), opinions=tuple(opinions))


def _reasons(decision: Decision) -> str:
    return "; ".join(decision.reasons) or "no reason given"


def _question(manifest: Manifest[Any], base: Desired | None, desired: Desired) -> Mapping[str, Any]:
    before = base.of(manifest.kind).get(manifest.name) if base is not None else None
    whole = manifest.spec.model_dump(mode="json", by_alias=True)
    return {
        "kind": manifest.kind,
        "name": manifest.name,
        "labels": dict(manifest.labels),
        "spec": whole,
        "before": before.spec.model_dump(mode="json", by_alias=True) if before is not None else None,
        "revision": desired.revision.id,
    }
