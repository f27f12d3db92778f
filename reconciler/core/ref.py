"""What of a repository is followed: `main`, `tag:v1.4.0`, `semver:^1.4` or `commit:<id>`. Pure."""

import re
from dataclasses import dataclass
from typing import Literal

from reconciler.core.semver import parse_range

RefKind = Literal["branch", "tag", "semver", "commit"]
DEFAULT_REF = "main"
"""Of a remote repository: another is named on purpose, never guessed."""

_BAD = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)|^[-./@]|[./]$")
_FULL_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """`name` is a branch, a tag, a range of versions, or a full commit id."""

    kind: RefKind
    name: str

    def __str__(self) -> str:
        return self.name if self.kind == "branch" else f"{self.kind}:{self.name}"


def parse_ref(text: str) -> Ref:
    """Raises ValueError that says what to write."""
    prefix, colon, name = text.partition(":")
    if not colon:
        if not is_ref_name(text):
            raise ValueError(f"is {text!r}, which cannot be a branch; write one, or tag:NAME, semver:RANGE, commit:ID")
        return Ref(kind="branch", name=text)
    if prefix == "tag":
        if not is_ref_name(name):
            raise ValueError(f"is {text!r}, and {name!r} cannot be a tag")
        return Ref(kind="tag", name=name)
    if prefix == "semver":
        parse_range(name)
        return Ref(kind="semver", name=name)
    if prefix == "commit":
        if not _FULL_ID.fullmatch(name):
            raise ValueError(f"is {text!r}; write the full commit id, 40 or 64 hexadecimal digits in lower case")
        return Ref(kind="commit", name=name)
    raise ValueError(f"is {text!r}; write a branch, or tag:NAME, semver:RANGE, commit:ID")


def is_ref_name(name: str) -> bool:
    """Whether git would take it as the name of a branch or tag, and it can neither be an option nor lead elsewhere."""
    return 0 < len(name) <= 200 and name.isprintable() and not _BAD.search(name)
