"""A file of known size that is given back to the file system when the disk is full.

With it the log can be written for a while longer; it is made anew once there is room again.
"""

import contextlib
import logging
import os
from pathlib import Path

RESERVE_BYTES = 8 * 2**20

_LOG = logging.getLogger("reconciler.router.log")


class Reserve:
    """`is_used` when it was given back, or could not be made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_used = False
        self.fill()

    def release(self) -> bool:
        """Give it back; False when there is none left."""
        try:
            self._path.unlink()
        except OSError:
            return False
        self.is_used = True
        _LOG.error("the disk is full; the reserve %s is in use now", self._path)
        return True

    def fill(self) -> None:
        """Make it, where there is room for twice its size."""
        if self._path.exists():
            return
        self.is_used = True
        try:
            room = os.statvfs(self._path.parent)
            if room.f_bavail * room.f_frsize < 2 * RESERVE_BYTES:
                return
            with open(self._path, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError as error:
            _LOG.warning("there is no reserve %s: %s", self._path, error)
            with contextlib.suppress(OSError):
                self._path.unlink()
            return
        self.is_used = False
