"""Names of resources and instances: what is allowed, and why not.

A name becomes a file name, a socket path (107 bytes in all) and a container name, so it is short, lower-case ASCII.
"""

import re
from typing import Annotated, NewType

from pydantic import AfterValidator

InstanceName = NewType("InstanceName", str)

MAX_NAME = 40
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,38}[a-z0-9])?")
_DOTTED = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


def check_name(text: str) -> str:
    """Return `text` if it is a resource name. Raises ValueError that says which character is wrong."""
    if len(text) > MAX_NAME:
        raise ValueError(f"{text[:20]!r}… has {len(text)} characters; a name has at most {MAX_NAME}")
    if not _NAME.fullmatch(text):
        wrong = next((c for c in text if not re.fullmatch(r"[-a-z0-9]", c)), None)
        why = f"{wrong!a} is not allowed" if wrong else "it must start and end with a letter or digit"
        raise ValueError(f"{text!a} is not a name: {why}; use a-z, 0-9 and '-' (for example 'doc-writer')")
    return text


def check_dotted(text: str) -> str:
    """Return `text` if it is a capability, topic or message type such as `docs.write`. Raises ValueError."""
    if len(text) > 100 or not _DOTTED.fullmatch(text):
        raise ValueError(f"{text[:100]!a} is not a dotted name; use parts of a-z, 0-9, '-', '_' like 'docs.write'")
    return text


Name = Annotated[str, AfterValidator(check_name)]
DottedName = Annotated[str, AfterValidator(check_dotted)]


def instance_name(agent: str, ordinal: int) -> InstanceName:
    """`writer`, 0 -> `writer-0`."""
    return InstanceName(f"{agent}-{ordinal}")
