"""What the router is told of an instance; shared by those who register instances. Pure."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from reconciler.core.digest import digest
from reconciler.store.records import InstanceRecord


def instance_entry(record: InstanceRecord) -> Mapping[str, Any]:
    """Agent, uid and token digests; the entry's own digest changes with each token. Not to be changed by callers."""
    return _entry(record.agent, record.uid, record.token_sha256, record.token_expires_at)


@lru_cache(maxsize=8192)
def _entry(agent: str, uid: int, sha256: str, expires_at: float) -> Mapping[str, Any]:
    entry = {"agent": agent, "uid": uid, "tokens": [{"sha256": sha256, "expires_at": expires_at}]}
    return {**entry, "digest": digest(entry)}
