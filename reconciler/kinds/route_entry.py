"""What the router is told of an instance; shared by those who register instances. Pure."""

from typing import Any

from reconciler.core.digest import digest
from reconciler.store.records import InstanceRecord


def instance_entry(record: InstanceRecord) -> dict[str, Any]:
    """Agent, uid and token digests; the entry's own digest changes with each token."""
    entry = {
        "agent": record.agent,
        "uid": record.uid,
        "tokens": [{"sha256": record.token_sha256, "expires_at": record.token_expires_at}],
    }
    return {**entry, "digest": digest(entry)}
