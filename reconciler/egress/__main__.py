"""`python -m reconciler.egress --run RUN --data DATA --fleet FLEET`: the egress process.

Exit code 0 after a clean stop, 1 when it cannot start; why stands on standard error.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

import uvloop

from reconciler.egress.process import serve
from reconciler.errors import ReconcilerError
from reconciler.logs import log_as_json


def main() -> int:
    parser = argparse.ArgumentParser(prog="reconciler.egress", description="The way out of one fleet.")
    parser.add_argument("--run", type=Path, required=True, help="run-time directory, on tmpfs: sockets, pid file")
    parser.add_argument("--data", type=Path, required=True, help="data directory: usage.db")
    parser.add_argument("--fleet", required=True, help="fleet id")
    given = parser.parse_args()
    log_as_json(sys.stderr, "egress", fleet=given.fleet)
    os.umask(0o077)
    try:
        uvloop.run(serve(given.run.absolute(), given.data.absolute(), given.fleet))
    except (ReconcilerError, OSError, ValueError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        logging.getLogger("reconciler.egress").error("the egress process cannot start: %s%s", error, cause)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
