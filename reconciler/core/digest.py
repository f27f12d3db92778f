"""Digests over values: what the author wrote, normalised, so that the same meaning has the same digest.

`DIGEST_VERSION` is part of each digest. A release that changes the normal form raises it and migrates the record;
it must never make an untouched fleet look changed.
"""

import hashlib
import json

DIGEST_VERSION = "1"


def canonical_json(value: object) -> bytes:
    """Sorted keys, no spaces, UTF-8. Equal values give equal bytes. Raises TypeError on anything not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: object) -> str:
    """`'1:'` and 32 hex digits of the SHA-256 over the canonical JSON of `value`."""
    return f"{DIGEST_VERSION}:{hashlib.sha256(canonical_json(value)).hexdigest()[:32]}"
