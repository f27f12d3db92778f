"""The C library's heap, where it can be told anything: glibc."""

import ctypes
from contextlib import suppress

_M_ARENA_MAX = -8


def share_one_heap() -> None:
    """Have all threads started from now on allocate from one heap.

    glibc gives each thread its own, and what is free in one is of no use to the others. Elsewhere nothing happens.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
