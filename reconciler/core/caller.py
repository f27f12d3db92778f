"""Who asks for a manual operation, and why, in the one form that the audit log and all texts have of it.

`proven` is what a connection proves (`uid:0` by the socket's credentials, or the subject of a token); `name` and
`reason` are what the caller says. A name proves nothing, so it always stands behind what is proven.
"""

from dataclasses import dataclass

MAX_NAME, MAX_REASON = 100, 500
_UID = "uid:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Shown as `uid:0 (alice)`. `name` and `reason` are empty where nothing was said."""

    proven: str
    name: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.proven} ({self.name})" if self.name else self.proven

    @property
    def uid(self) -> int | None:
        """The user by the socket's credentials; None where something else is proven."""
        number = self.proven.removeprefix(_UID)
        return int(number) if number != self.proven and number.isdecimal() else None

    @property
    def asked(self) -> str:
        """Why something is done, for a row of the audit log."""
        return f"asked for: {self.reason}" if self.reason else "asked for"


def caller_of_uid(uid: int, name: str = "", reason: str = "") -> Caller:
    """One that a user id was proven of. Raises ValueError as `name_caller` does."""
    return name_caller(f"{_UID}{uid}", name, reason)


def name_caller(proven: str, name: str = "", reason: str = "") -> Caller:
    """Raises ValueError where name or reason is not one short line that prints, or a name has brackets of ours."""
    name, reason = name.strip(), reason.strip()
    for what, text, most in (("name", name, MAX_NAME), ("reason", reason, MAX_REASON)):
        if len(text) > most or not text.isprintable():
            raise ValueError(f"the {what} must be one line of at most {most} characters, all of which print")
    if "(" in name or ")" in name:
        raise ValueError("the name must have no brackets ( ), which stand around it behind what is proven")
    return Caller(proven=proven, name=name, reason=reason)
