"""`python -m tests.chaos [--faults N] [--seed S] [--runtime process|docker]`: as many faults as wanted, and one table.

Exit 0 where all invariants hold; else 1, after the seed and a timeline.
"""

import argparse
import os
import random
import sys
from collections.abc import Mapping
from contextlib import ExitStack

from tests.chaos.driver import Driver, Outcome
from tests.chaos.faults import KINDS
from tests.chaos.own_engine import NoOwnEngineError, OwnEngine
from tests.chaos.scenario import IMAGE, make_scenario
from tests.chaos.site import Site, can_mount, has_opa_program
from tests.flows.clock import FAKETIME
from tests.outside.checker import has_engine

DOCKER_ONLY = ("container-pause", "container-relabel", "engine-cut")


def why_not(runtime: str, *, is_engine_own: bool = False) -> Mapping[str, str]:
    """Kinds of faults that cannot be had here, and why."""
    out: dict[str, str] = {}
    if not is_engine_own:
        out["engine-restart"] = "there is no engine that may be ended"
    if runtime == "process":
        out |= dict.fromkeys(DOCKER_ONLY, "there are no containers")
    if not has_opa_program():
        out |= {k: "there is no program opa (RECONCILER_OPA)" for k in KINDS if k.startswith("opa-")}
    if not FAKETIME:
        out["clock-jump"] = "there is no libfaketime (apt-get install faketime)"
    if not can_mount():
        out["disk-full"] = "a tmpfs cannot be mounted here"
    return out


def counts_of(runtime: str, each: int, *, is_engine_own: bool = False) -> dict[str, int]:
    """Each kind that can be had, so often."""
    missing = why_not(runtime, is_engine_own=is_engine_own)
    return {kind: each for kind in KINDS if kind not in missing}


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many, of all kinds together")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--runtime", choices=("process", "docker"), default=None)
    options = parser.parse_args()
    runtimes = [options.runtime] if options.runtime else ["process", *(["docker"] if has_engine() else [])]
    outcomes = [run(r, max(1, options.faults // len(runtimes)), options.seed) for r in runtimes]
    return 1 if any(o.wrong for o in outcomes) else 0


def run(runtime: str, faults: int, seed: int) -> Outcome:
    """One run; says what comes of it."""
    with ExitStack() as stack:
        own = find_own_engine() if runtime == "docker" else None
        if own is not None:
            stack.callback(own.close)
            os.environ["DOCKER_HOST"] = own.address
        for kind, reason in why_not(runtime, is_engine_own=own is not None).items():
            print(f"no {kind}: {reason}")
        kinds = list(counts_of(runtime, 1, is_engine_own=own is not None))
        counts = {kind: faults // len(kinds) + (n < faults % len(kinds)) for n, kind in enumerate(kinds)}
        site = Site(runtime, make_scenario(seed, counts), own_engine=own)
        stack.callback(site.close)
        outcome = Driver(site).run()
    print(f"{runtime}\n{outcome.story() if outcome.wrong else outcome.table()}", flush=True)
    return outcome


def find_own_engine() -> OwnEngine | None:
    try:
        return OwnEngine(IMAGE)
    except NoOwnEngineError as error:
        print(f"the machine's engine is used: {error}")
        return None


if __name__ == "__main__":
    sys.exit(main())
