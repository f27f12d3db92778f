"""The trace that a run belongs to, as W3C Trace Context writes it: it follows from the run, and is kept nowhere. Pure.

The hub's log, the assignment in the message log, and what an agent says in answer to it can be found by one id.
"""

import hashlib


def trace_of(run: str) -> str:
    """32 hex digits."""
    return hashlib.sha256(f"run {run}".encode()).hexdigest()[:32]


def traceparent_of(run: str, generation: int) -> str:
    """Of one attempt, sampled."""
    span = hashlib.sha256(f"attempt {run} {generation}".encode()).hexdigest()[:16]
    return f"00-{trace_of(run)}-{span}-01"
