"""What every format says in the same words: what is compared, what it comes to, and what is done about each line."""

from collections import Counter

from reconciler.core.plan import Plan
from reconciler.loop.admit import Opinion
from reconciler.loop.review import Review

SHORT = 12
COMPARED = {"nothing": "nothing (as if new)", "state": "the recorded state", "engine": "the live engine"}
REMOVED = ("remove", "recycle", "cancel")


def short(revision: str) -> str:
    """A revision as people write it."""
    return revision[:SHORT] if ":" not in revision else revision[:21]


def headline(review: Review) -> str:
    """What is planned, and what it is compared with; what has problems is compared with nothing."""
    revision = f"revision {short(review.plan.revision)}" if review.plan.revision else "no revision"
    return revision if review.plan.problems else f"{revision} compared with {compared_with(review)}"


def compared_with(review: Review) -> str:
    """`base 1a2b3c4d5e6f`, or `fleet 3e25c4de as of 2026-11-21 18:04 UTC`."""
    if review.plan.compared_with == "export" and review.as_of is not None:
        return f"fleet {review.fleet} as of {review.as_of:%Y-%m-%d %H:%M %Z}"
    if review.plan.compared_with == "base":
        return f"base {short(review.base)}"
    return COMPARED.get(review.plan.compared_with, review.plan.compared_with)


def summary(review: Review) -> str:
    """`1 to create, 2 to replace; 7 as they should be`, or the number of problems."""
    plan = review.plan
    if plan.problems:
        return count(len(plan.problems), "problem")
    return f"{count_actions(plan)}; {count_kept(plan)} as they should be"


def count_actions(plan: Plan) -> str:
    """What is done how often; changes of several instances count each."""
    counts = Counter(str(c.action) for c in plan.pending)
    return ", ".join(f"{n} to {action}" for action, n in sorted(counts.items())) or "nothing to change"


def count_kept(plan: Plan) -> int:
    return sum(str(c.action) == "keep" for c in plan.changes)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def say_admission(opinion: Opinion) -> tuple[str, str]:
    """What the policies of the head, and those of the base, answered."""
    before = opinion.in_force
    return _answer(opinion.own.allow), "not asked" if before is None else _answer(before.allow)


def admission_reasons(opinion: Opinion) -> str:
    """Why one of them said no."""
    reasons = [*opinion.own.reasons] if not opinion.own.allow else []
    if opinion.in_force is not None and not opinion.in_force.allow:
        reasons += [r for r in opinion.in_force.reasons if r not in reasons]
    return "; ".join(reasons)


def is_clear(opinion: Opinion) -> bool:
    """Whether all who were asked allowed it."""
    return opinion.own.allow and (opinion.in_force is None or opinion.in_force.allow)


def printable(text: object) -> str:
    """One line without control characters: what a file says shall not move a terminal's cursor."""
    return "".join(c if c.isprintable() else "�" for c in str(text).replace("\n", " "))


def _answer(allow: bool) -> str:
    return "allowed" if allow else "denied"
