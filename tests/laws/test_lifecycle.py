"""Whatever happens to a fleet, each instance goes its way only by allowed steps, and each step is in the log."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.api.access import RefusedRequest
from reconciler.api.agents import order_agent
from reconciler.core.caller import Caller
from tests.fakes.fleet import FakeFleet
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.texts import agent_text, task_text
from tests.kinds.agent.lifecycle import broken
from tests.laws.fleets import FEW, HUB

AGENTS: dict[str, dict[str, Any]] = {
    "steady": {"replicas": 2},
    "sleepy": {"idle": {"after": "10s"}},
    "once": {"mode": "per-task", "replicas": 2},
}
MOVES = ("commit", "crash", "kill", "order", "task", "wait", "remove", "router", "silence", "gone")


def commit(fleet: FakeFleet, version: int, task: int) -> None:
    """All agents in this version, and a task for each of two of them."""
    files = {f"agents.d/{n}.yaml": agent_text(n, version=str(version), **spec) for n, spec in AGENTS.items()}
    tasks = {f"tasks.d/{n}.yaml": task_text(n, agent=n, prompt=str(task)) for n in ("sleepy", "once")}
    fleet.commit({**files, **(tasks if task else {})}, hub=HUB)


def run(fleet: FakeFleet, passes: int = 4) -> None:
    for _ in range(passes):
        fleet.run()
        fleet.agents.step()


def move(fleet: FakeFleet, kind: str, number: int) -> None:
    """One thing that happens, and a few passes."""
    running = sorted(n for n, state in fleet.containers().items() if state == "running")
    chosen = running[number % len(running)] if running else ""
    match kind:
        case "commit":
            commit(fleet, number, 0)
        case "task":
            commit(fleet, 1, number)
        case "gone":
            fleet.commit({"agents.d/steady.yaml": agent_text("steady", **AGENTS["steady"])}, hub=HUB)
            fleet.end_hub()
            fleet.start_hub(Fuse(number * 2 + 1))
            with suppress(KilledError):
                run(fleet)
            fleet.restart()
            commit(fleet, 1, 0)
        case "crash" if chosen:
            fleet.runtime.crash(chosen, 1)
        case "remove" if chosen:
            fleet.runtime.remove_by_hand(chosen)
        case "router":
            fleet.router.die()
        case "silence" if chosen:
            fleet.agents.silent ^= {chosen}
        case "wait":
            fleet.watch(number * 10.0, are_calling=True)
        case "order" if chosen:
            verb = ("restart", "drain", "quarantine", "release")[number % 4]
            with suppress(RefusedRequest):
                order_agent(fleet.world, chosen, verb, Caller(proven="uid:0"), "")
        case "kill":
            fleet.end_hub()
            fleet.start_hub(Fuse(number * 3 + 1))
            with suppress(KilledError):
                run(fleet)
            fleet.restart()
    run(fleet)


@FEW
@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 9)), min_size=1, max_size=8))
def test_each_instance_goes_only_by_allowed_steps_that_the_log_has(moves: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fleet = FakeFleet(Path(folder))
        commit(fleet, 1, 1)
        run(fleet, 8)
        for kind, number in moves:
            move(fleet, kind, number)
            assert broken(fleet) == []
            assert fleet.agents.violations == []
        released = {r.agent for r in fleet.instances().values()}
        fleet.agents.silent.clear()
        for agent in released:
            with suppress(RefusedRequest):
                order_agent(fleet.world, agent, "release", Caller(proven="uid:0"), "")
        fleet.settle(120)
        assert broken(fleet) == []
        fleet.end_hub()
