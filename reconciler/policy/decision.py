"""The value of a rule `decision`, whichever engine worked it out, as an answer that may be shown. Pure."""

MAX_REASONS = 20
MAX_REASON_CHARACTERS = 500


def read_decision(kind: str, decision: object) -> tuple[bool, tuple[str, ...]]:
    """Whether it allows, and its reasons, bounded in number and length. What is no decision is a denial."""
    allow = decision.get("allow") if isinstance(decision, dict) else None
    if not isinstance(decision, dict) or not isinstance(allow, bool):
        return False, (shorten(f"data.hub.{kind}.decision has no boolean 'allow'"),)
    reasons = decision.get("reasons", [])
    listed = reasons if isinstance(reasons, list) else [reasons]
    texts = tuple(shorten(r if isinstance(r, str) else repr(r)) for r in listed[:MAX_REASONS])
    return allow, texts if texts or allow else ("the policy gives no reason",)


def shorten(text: str, most: int = MAX_REASON_CHARACTERS) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
