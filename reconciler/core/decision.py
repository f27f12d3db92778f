"""A policy decision: one question, one answer, and who gave it at which revision."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`engine` is `opa`, `embedded`, `builtin` or `none`; `revision` is that of the policy that answered."""

    allow: bool
    reasons: tuple[str, ...] = ()
    engine: str
    revision: str
    cached: bool = False
