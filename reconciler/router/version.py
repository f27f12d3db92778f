"""Which code a router runs: the release and a digest over the package, so that the hub notices an upgrade."""

import hashlib
from functools import cache
from pathlib import Path

from reconciler import __version__

_PACKAGE = Path(__file__).parent.parent
_SUFFIXES = (".py", ".json")


def code_version() -> str:
    """`0.1.0+` and 12 hex digits over the files of the package, as they are on the disk now."""
    digest = hashlib.sha256()
    for path in sorted(path for path in _PACKAGE.rglob("*") if path.suffix in _SUFFIXES):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def find_newer(running: str) -> str:
    """The version of this hub where a router runs another one, and would run this one if it was started again.

    Empty where it would not: files that changed under a running hub, or are just being replaced, are of a hub that is
    still to come.
    """
    try:
        own = _own_version()
        return own if running != own and code_version() == own else ""
    except OSError:
        return ""


@cache
def _own_version() -> str:
    return code_version()
