"""Reading hub_inbox of traffic.db, from the hub's side: a cursor goes in, the messages after it come out, in order."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from reconciler.errors import RouterError
from reconciler.ports import InboxMessage

_SELECT = "SELECT seq, instance, agent, type, msg_id, body FROM hub_inbox WHERE seq > ? ORDER BY seq LIMIT ?"


def read_inbox(path: Path, after_seq: int, limit: int) -> Sequence[InboxMessage]:
    """At most `limit` messages with a seq above `after_seq`. Raises RouterError; a file that is not there too."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)) as connection:
            rows = connection.execute(_SELECT, (after_seq, limit)).fetchall()
    except sqlite3.Error as error:
        raise RouterError(f"reading the router's inbox in {path}") from error
    return [
        InboxMessage(seq=seq, instance=instance, agent=agent, type=type_, id=msg_id, payload=json.loads(body))
        for seq, instance, agent, type_, msg_id, body in rows
    ]
