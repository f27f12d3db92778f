"""What agents run: one execution of a task, which holds the task's lock and writes its start and stop into the journal.

It runs alone in the agent's container, from the repository, so it imports nothing of the project. Input on stdin:
`{"seconds": 0.3, "code": 0}`; output is `{"task": ..., "nonce": ...}`. CHAOS_GROUND has a file `lock/<task>` for each
task that can ever be, and `journal`, a pipe or a file, which takes one line of JSON per event.
"""

import fcntl
import json
import os
import sys
import time

TAKEN = 70
"""The exit code where somebody else is executing the same task."""


def main() -> int:
    ground, task = os.environ["CHAOS_GROUND"], os.environ["HUB_TASK"]
    order = json.load(sys.stdin)
    nonce = os.urandom(8).hex()
    lock = os.open(os.path.join(ground, "lock", task), os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note(ground, "taken", task, nonce)
        return TAKEN
    note(ground, "start", task, nonce)
    time.sleep(order["seconds"])
    if order["code"]:
        note(ground, "fail", task, nonce)
        return int(order["code"])
    note(ground, "stop", task, nonce)
    print(json.dumps({"task": task, "nonce": nonce}))
    return 0


def note(ground: str, event: str, task: str, nonce: str) -> None:
    """One line, whole: a single write of less than PIPE_BUF."""
    line = {
        "at": time.clock_gettime(time.CLOCK_BOOTTIME),
        "event": event,
        "task": task,
        "nonce": nonce,
        "instance": os.environ["HUB_INSTANCE"],
    }
    journal = os.open(os.path.join(ground, "journal"), os.O_WRONLY | os.O_APPEND)
    os.write(journal, json.dumps(line).encode() + b"\n")
    os.close(journal)


if __name__ == "__main__":
    sys.exit(main())
