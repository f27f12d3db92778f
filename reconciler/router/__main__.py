"""`python -m reconciler.router --run RUN --data DATA --fleet FLEET`: the router process.

Exit code 0 after a clean stop, 1 when it cannot start or cannot go on; why stands on standard error.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from reconciler.errors import ReconcilerError
from reconciler.logs import log_as_json
from reconciler.router.writer import start_writer


def main() -> int:
    parser = argparse.ArgumentParser(prog="reconciler.router", description="The message router of one fleet.")
    parser.add_argument("--run", type=Path, required=True, help="run-time directory, on tmpfs: sockets, pid file")
    parser.add_argument("--data", type=Path, required=True, help="data directory: traffic.db")
    parser.add_argument("--fleet", required=True, help="fleet id")
    given = parser.parse_args()
    log_as_json(sys.stderr, "router", fleet=given.fleet)
    os.umask(0o077)
    try:
        return _run(given.run.absolute(), given.data.absolute(), given.fleet)
    except (ReconcilerError, OSError, ValueError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        logging.getLogger("reconciler.router").error("the router cannot start: %s%s", error, cause)
        return 1


def _run(run: Path, data: Path, fleet: str) -> int:
    """The writer is forked before all else is loaded, so that it stays small."""
    writer = start_writer(data)
    import uvloop

    from reconciler.router.process import serve

    return 0 if uvloop.run(serve(run, data, fleet, writer)) else 1


if __name__ == "__main__":
    sys.exit(main())
