"""Starting servers of the hub's own that outlive it."""

import os
from collections.abc import Mapping


def spawn_detached(program: str, argv: list[str], environment: Mapping[str, str], log: str) -> int:
    """The pid of a process in a session of its own, without input, whose output goes to the end of `log` (0600).

    Raises OSError.
    """
    return os.posix_spawn(
        program,
        argv,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
