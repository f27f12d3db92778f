"""What the record says that agents did: events that move trust, counted from a row of the audit log on."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from reconciler.store.store import Store

_DID = """
SELECT 'success', substr(actor, 7), count(*) FROM audit
    WHERE seq > :after AND kind = 'task' AND action = 'task.completed' AND outcome = 'applied'
        AND reason LIKE 'succeeded %' GROUP BY actor
UNION ALL
SELECT 'crash', name, count(*) FROM audit
    WHERE seq > :after AND kind = 'agent' AND cause = 'crash' AND outcome = 'intent' GROUP BY name
UNION ALL
SELECT iif(action = 'retry', 'notAccepted', 'success'), (
        SELECT attempt.instance FROM attempt JOIN task ON task.run = attempt.run
        WHERE task.name = audit.name ORDER BY attempt.ended_at DESC LIMIT 1
    ), 1 FROM audit
    WHERE seq > :after AND kind = 'task' AND outcome = 'applied'
        AND (action = 'retry' AND reason LIKE 'not accepted:%' OR action = 'complete' AND reason = 'accepted')
"""


def newest_row(store: Store) -> int:
    """The seq of the newest row of the audit log; 0 where there is none. Raises StoreError."""
    return int(store.rows("SELECT coalesce(max(seq), 0) FROM audit")[0][0])


def events_since(store: Store, after: int) -> Mapping[str, Mapping[str, int]]:
    """By instance, how many events of which cause there were in rows after this one. Raises StoreError."""
    out: dict[str, Counter[str]] = {}
    for cause, instance, count in store.rows(_DID, after=after):
        if instance:
            out.setdefault(instance, Counter())[cause] += count
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """The latest message of one type from one instance: `actor` is `agent:<instance>`."""

    type: str
    actor: str
    reason: str


def alarms_since(store: Store, after: int, types: Iterable[str]) -> list[Alarm]:
    """What was told in messages of these types, by rows after this one. Raises StoreError."""
    query = (
        "SELECT name, actor, reason, max(seq) FROM audit WHERE seq > :after AND kind = 'message' "
        "AND outcome = 'noted' AND name IN (SELECT value FROM json_each(:types)) GROUP BY name, actor"
    )
    rows = store.rows(query, after=after, types=json.dumps(sorted(types)))
    return [Alarm(type=name, actor=actor, reason=reason) for name, actor, reason, _ in rows]
