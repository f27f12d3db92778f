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


def main() -> int:
    parser = argparse.ArgumentParser(prog="reconciler.egress", description="The way out of one fleet.")
    parser.add_argument("--run", type=Path, required=True, help="run-time directory, on tmpfs: sockets, pid file")
    parser.add_argument("--data", type=Path, required=True, help="data directory: usage.db")
    parser.add_argument("--fleet", required=True, help="fleet id")
    given = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    os.umask(0o077)
    try:
        uvloop.run(serve(given.run.absolute(), given.data.absolute(), given.fleet))
    except (ReconcilerError, OSError, ValueError) as error:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        print(f"the egress process cannot start: {error}{cause}", file=sys.stderr)  # noqa: T201 - why it ends
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
