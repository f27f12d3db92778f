"""A policy decision: one question, one answer, and who gave it at which revision."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`engine` is `opa`, `embedded`, `builtin` or `none`; `revision` is that of the policy that answered.

    `decided_at` is in epoch seconds, where somebody wrote it down.
    """

    allow: bool
    reasons: tuple[str, ...] = ()
    engine: str
    revision: str
    cached: bool = False
    decided_at: float | None = field(default=None, compare=False)
