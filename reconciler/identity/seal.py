"""The seal: an HMAC by the fleet's key in a container's labels, so that a label alone never makes it ours."""

import hashlib
import hmac
from functools import lru_cache

FLEET_LABEL = "io.reconciler.fleet"
AGENT_LABEL = "io.reconciler.agent"
INSTANCE_LABEL = "io.reconciler.instance"
HOME_LABEL = "io.reconciler.home"
SEAL_LABEL = "io.reconciler.seal"


@lru_cache(maxsize=8192)
def make_seal(key: bytes, fleet: str, instance: str) -> str:
    """32 hex digits of HMAC-SHA256 over fleet and instance."""
    return hmac.new(key, f"{fleet}\0{instance}".encode(), hashlib.sha256).hexdigest()[:32]


def is_sealed(key: bytes, fleet: str, instance: str, seal: str) -> bool:
    """Whether the seal was made with our key; compared in constant time."""
    return hmac.compare_digest(make_seal(key, fleet, instance), seal)
