"""One user id per instance of the process runtime: stable, unique in the fleet, nobody else's.

In: fleet and instance name. Out: a number. Effects: one small file per number ever given out, in
the registry directory. A number is never given to another name, because files outlive containers.

Numbers start from a hash of fleet and name, so that a registry lost with the machine's memory is
made again as it was.
"""

import hashlib
import os
import pwd
import secrets
from pathlib import Path

from reconciler.errors import RuntimeRefusedError

# Above what useradd, subordinate ids, directory services and systemd hand out, below 2^31:
# https://systemd.io/UIDS-GIDS
UID_BASE = 2_010_000_000
UID_COUNT = 2**20
_TRIES = 1000


def allocate_uid(registry: Path, uid_base: int, fleet: str, name: str) -> int:
    """The number of this name, given out now if it has none.

    Raises OSError, and RuntimeRefusedError when all are taken.
    """
    registry.mkdir(mode=0o700, parents=True, exist_ok=True)
    first = int.from_bytes(hashlib.sha256(f"{fleet}/{name}".encode()).digest()[:8], "big")
    for step in range(_TRIES):
        uid = uid_base + 1 + (first + step) % (UID_COUNT - 1)
        owner = _read_owner(registry / str(uid))
        if owner is None and not _is_account(uid):
            owner = _claim(registry, uid, name)
        if owner == name:
            return uid
    raise RuntimeRefusedError(f"give {name} a user id: none is free from {uid_base} on")


def _claim(registry: Path, uid: int, name: str) -> str | None:
    """Write the owner in one step; returns who it is, which may be a name that came first."""
    draft = registry / f".{secrets.token_hex(8)}"
    draft.write_text(name)
    try:
        os.link(draft, registry / str(uid))
        return name
    except FileExistsError:
        return _read_owner(registry / str(uid))
    finally:
        draft.unlink()


def _read_owner(entry: Path) -> str | None:
    try:
        return entry.read_text()
    except FileNotFoundError:
        return None


def _is_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
