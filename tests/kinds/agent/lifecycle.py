"""The steps of instances by the audit log of a fleet, and what is wrong with them."""

import json

from reconciler.kinds.agent.state import TRANSITIONS, Phase
from tests.fakes.fleet import FakeFleet


def steps(fleet: FakeFleet, name: str = "writer-0") -> list[tuple[str, str, str]]:
    """From where to where and why, of every row about the phase of an instance."""
    rows = [e for e in fleet.audit() if (e.kind, e.name, e.action) == ("agent", name, "phase")]
    return [(json.loads(e.before)["phase"], json.loads(e.after)["phase"], e.cause) for e in rows]


def broken(fleet: FakeFleet) -> list[str]:
    """What does not follow from the row before, or must not happen at all; for all instances."""
    found: list[str] = []
    for name in {e.name for e in fleet.audit() if e.action == "phase"}:
        at = "defined"
        for before, after, _ in steps(fleet, name):
            if before not in (at, "defined" if at == "terminated" else at):
                found.append(f"{name}: {before} after {at}")
            if Phase(after) not in TRANSITIONS[Phase(before)]:
                found.append(f"{name}: {before} to {after}")
            at = after
        record = fleet.instances().get(name)
        if at != (record.phase if record else "terminated"):
            found.append(f"{name}: {record and record.phase} on record, {at} in the log")
    return found
