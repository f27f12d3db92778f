"""Fleets under fire, on both runtimes, and the negative controls: without a protection the driver must find it.

`make chaos N=… SEED=…` is the same for longer.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.__main__ import DOCKER_ONLY, counts_of, why_not
from tests.chaos.driver import WIDTH, Driver, Outcome
from tests.chaos.own_engine import NoOwnEngineError, OwnEngine
from tests.chaos.sabotage import make_code
from tests.chaos.scenario import IMAGE, Scenario, make_scenario
from tests.chaos.site import Site, has_opa_program
from tests.flows.fleet import need_engine, runtimes
from tests.flows.forks import ROOT

SEED = 5
EACH = {"process": 8, "docker": 2}
"""How often each kind of fault comes on each runtime: ten of each together."""
OF_CONTAINERS = 10
"""How often those come that only containers know."""

pytestmark = pytest.mark.slow
needs_opa = pytest.mark.skipif(not has_opa_program(), reason="there is no program opa (RECONCILER_OPA)")


def run(
    runtime: str,
    scenario: Scenario,
    *,
    code: Path = ROOT,
    width: int = WIDTH,
    own_engine: OwnEngine | None = None,
) -> Outcome:
    """One run from start to end; nothing of it is left."""
    site = Site(runtime, scenario, code=code, own_engine=own_engine)
    try:
        return Driver(site, width).run()
    finally:
        site.close()


@pytest.mark.parametrize("runtime", runtimes())
def test_a_fleet_gets_over_everything(runtime: str) -> None:
    need_engine(runtime)
    for kind, reason in why_not(runtime).items():
        print(f"no {kind}: {reason}")
    counts = counts_of(runtime, EACH[runtime])
    counts |= {kind: OF_CONTAINERS for kind in counts if kind in DOCKER_ONLY}
    outcome = run(runtime, make_scenario(SEED, counts))
    print(outcome.table())
    assert outcome.wrong == [], outcome.story()
    assert outcome.missed == []


@pytest.fixture
def own_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnEngine]:
    """The engine of DOCKER_HOST."""
    need_engine("docker")
    try:
        made = OwnEngine(IMAGE)
    except NoOwnEngineError as why:
        if os.environ.get("RECONCILER_REQUIRE_OWN_ENGINE"):
            pytest.fail(f"a second dockerd cannot be had, but RECONCILER_REQUIRE_OWN_ENGINE is set: {why}")
        pytest.skip(f"a second dockerd cannot be had: {why}")
    monkeypatch.setenv("DOCKER_HOST", made.address)
    yield made
    made.close()


@pytest.mark.engine
def test_a_fleet_gets_over_the_end_of_its_engine(own_engine: OwnEngine) -> None:
    counts = {"engine-restart": OF_CONTAINERS, "hub-kill": 4, "container-remove": 3, "agentd-kill": 3}
    outcome = run("docker", make_scenario(SEED, counts), own_engine=own_engine)
    print(outcome.table())
    assert outcome.wrong == [], outcome.story()
    assert outcome.counts == counts


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where every user can read, since agents run the code that lies there."""
    made = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize(
    ("without", "scenario", "found"),
    [
        ("generations", make_scenario(SEED, {"late-report": 3}), "which no execution of it gave"),
        (
            "fencing",
            make_scenario(SEED, {"agentd-hang": 8}, seconds=(8.0,), at_once=3, is_restarted=False),
            "executed twice at once",
        ),
        ("write-ahead", make_scenario(SEED, {}), "after 0 intents"),
        pytest.param("breaker", make_scenario(SEED, {"opa-hang": 1}), "while OPA hung", marks=needs_opa),
    ],
)
def test_without_a_protection_the_driver_fails(without: str, scenario: Scenario, found: str, folder: Path) -> None:
    outcome = run("process", scenario, code=make_code(folder, without), width=1)
    assert any(found in wrong for wrong in outcome.wrong), outcome.story()
