"""`python -m bench [NAME ...]`: measure, print one table, write build/bench.json."""

import importlib
import sys
import time

from bench.figure import Figure, report

BENCHES = ("manifests", "plan_review", "passes", "tasks", "engine", "history", "memory", "route", "egress", "audit")


def main() -> int:
    names = sys.argv[1:] or BENCHES
    unknown = [n for n in names if n not in BENCHES]
    if unknown:
        print(f"no bench named {unknown[0]!r}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 64
    figures: list[Figure] = []
    for name in names:
        start = time.monotonic()
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures.extend(importlib.import_module(f"bench.{name}").measure())
        print(f"  {time.monotonic() - start:.1f} s", file=sys.stderr)
    report(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
