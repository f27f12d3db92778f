"""W3C Trace Context: `traceparent` and `tracestate` of senders, checked; and a new trace where there is none.

The hub carries both on as they are: it is a stop on the way, not a span. Source: www.w3.org/TR/trace-context, §3.
"""

import random
import re
from typing import Final

INVALID: Final = (
    "traceparent is not of the form 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, lower-case, ids not all zero"
)
MAX_STATE: Final = 512
_MAX_MEMBERS: Final = 32
_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?P<rest>-[!-~]*)?"
)
_KEY = r"(?:[a-z][-_*/a-z0-9]{0,255}|[a-z0-9][-_*/a-z0-9]{0,240}@[a-z][-_*/a-z0-9]{0,13})"
_MEMBER = re.compile(rf"[ \t]*(?:({_KEY})=[ -+\--<>-~]{{0,255}}[!-+\--<>-~])?[ \t]*")
_NEW_BITS: Final = 128 + 64


def check(traceparent: str | None, tracestate: str | None) -> str | None:
    """What is wrong with the two, or None. Later versions of `traceparent` may be longer, version 00 may not."""
    if traceparent is not None:
        found = _PARENT.fullmatch(traceparent)
        if found is None or (found["rest"] is not None and traceparent.startswith("00")):
            return INVALID
    if tracestate is None:
        return None
    if traceparent is None:
        return "tracestate has no meaning without traceparent"
    return _check_state(tracestate)


def new_traceparent() -> str:
    """The start of a new trace, sampled. Ids need to differ, not to be secret; the kernel's would cost more."""
    ids = f"{random.getrandbits(_NEW_BITS) | 1 << 64 | 1:048x}"
    return f"00-{ids[:32]}-{ids[32:]}-01"


def trace_id(traceparent: str) -> str:
    """The 32 hex digits that all messages of one trace share."""
    return traceparent[3:35]


def _check_state(tracestate: str) -> str | None:
    if len(tracestate) > MAX_STATE:
        return f"tracestate has {len(tracestate)} characters, at most {MAX_STATE} are carried on"
    members = tracestate.split(",")
    if len(members) > _MAX_MEMBERS:
        return f"tracestate has {len(members)} members, at most {_MAX_MEMBERS} are allowed"
    seen: set[str] = set()
    for nth, member in enumerate(members, 1):
        found = _MEMBER.fullmatch(member)
        if found is None:
            return f"member {nth} of tracestate is not of the form key=value"
        key = found[1]
        if key in seen:
            return f"the key {key} stands twice in tracestate"
        if key:
            seen.add(key)
    return None
