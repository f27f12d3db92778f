"""The login name of a user of this host: what a caller is called who gives no other name."""

import pwd
from functools import lru_cache


@lru_cache(maxsize=256)
def login_name(uid: int) -> str:
    """Empty where the host has no such user."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return ""
