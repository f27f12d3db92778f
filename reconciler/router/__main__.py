"""`python -m reconciler.router --run RUN --data DATA --fleet FLEET`: the router process.

Exit code 0 after a clean stop, 1 when it cannot start; why stands on standard error.
"""

import argparse
import sys
from pathlib import Path

import uvloop

from reconciler.errors import ReconcilerError
from reconciler.router.process import serve, set_up_logging


def main() -> int:
    parser = argparse.ArgumentParser(prog="reconciler.router", description="The message router of one fleet.")
    parser.add_argument("--run", type=Path, required=True, help="run-time directory, on tmpfs: sockets, pid file")
    parser.add_argument("--data", type=Path, required=True, help="data directory: traffic.db")
    parser.add_argument("--fleet", required=True, help="fleet id")
    given = parser.parse_args()
    set_up_logging()
    try:
        uvloop.run(serve(given.run.absolute(), given.data.absolute(), given.fleet))
    except (ReconcilerError, OSError, ValueError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        print(f"the router cannot start: {error}{cause}", file=sys.stderr)  # noqa: T201 - why it ends
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
