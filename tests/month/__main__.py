"""`python -m tests.month [N [SEED]]`: N pushes of a team's life on a real engine, and the figures.

Exit 0 where all was as it shall be; else 1, after the seed and the last steps.
"""

import argparse
import random
import sys

from tests.month.driver import play


def main() -> int:
    parser = argparse.ArgumentParser(prog="month", description=__doc__)
    parser.add_argument("pushes", type=int, nargs="?", default=200)
    parser.add_argument("seed", type=int, nargs="?", default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    outcome = play(options.pushes, options.seed)
    print(outcome.story() if outcome.wrong else outcome.table())
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
