"""A hub over a runtime where somebody else's container stands in the place of one of ours: it is reported, and left."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from reconciler.core.change import Action
from reconciler.core.outcome import Failed
from reconciler.core.reading import Absent, Ok
from reconciler.identity.seal import AGENT_LABEL, FLEET_LABEL, INSTANCE_LABEL, SEAL_LABEL, make_seal
from reconciler.kinds import KINDS
from reconciler.loop.apply import TRANSIENT_CAP_S
from reconciler.loop.inspections import Inspections
from reconciler.loop.run import Loop, PassReport
from reconciler.runtime.sandbox import EngineFeatures, create_body, engine_name
from tests.contract.runtimes import FACTORIES, SLEEP, RuntimeUnderTest, engine, make_spec, random_fleet
from tests.fakes.fleet import FakeFleet, change_of
from tests.fakes.texts import agent_text, hub_text

__all__ = ["engine"]

PARAMS = [pytest.param(name, marks=[pytest.mark.engine] if name == "docker" else []) for name in ("fake", "docker")]


class Hub:
    """A loop over fakes and this runtime, as the fleet whose containers that runtime makes."""

    def __init__(self, folder: Path, under: RuntimeUnderTest) -> None:
        self.under = under
        self.fakes = FakeFleet(folder)
        self.fleet = self._ask_fleet()
        inspections = Inspections(under.runtime)
        self.world = replace(self.fakes.world, fleet=self.fleet, runtime=under.runtime, inspections=inspections)
        self.loop = Loop(self.world, KINDS)

    def close(self) -> None:
        self.loop.close()
        self.fakes.end_hub()

    def commit(self, *agents: str) -> None:
        files = {f"agents.d/{a}.yaml": agent_text(a, image=self.under.image) for a in agents}
        self.fakes.commit(files, hub=hub_text(loop={"concurrency": 1, "prune": {"agents": "on"}}))

    def run(self) -> PassReport:
        report = self.loop.run_pass()
        self.fakes.clock.advance(1)
        return report

    def labels(self, instance: str, seal_key: bytes) -> Mapping[str, str]:
        """Those of an instance of this fleet, sealed with a key."""
        agent = instance.rpartition("-")[0]
        seal = make_seal(seal_key, self.fleet, instance)
        return {FLEET_LABEL: self.fleet, AGENT_LABEL: agent, INSTANCE_LABEL: instance, SEAL_LABEL: seal}

    def _ask_fleet(self) -> str:
        made = self.under.runtime.create(make_spec(self.under, name="probe-0"))
        listed = self.under.runtime.list()
        assert isinstance(listed, Ok)
        self.under.runtime.remove(made)
        return listed.value[0].labels[FLEET_LABEL]


@pytest.fixture(params=PARAMS)
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    under = FACTORIES[request.param](tmp_path)
    made = Hub(tmp_path, under)
    yield made
    made.close()
    under.close()


@pytest.fixture
def docker_hub(tmp_path: Path) -> Iterator[Hub]:
    under = FACTORIES["docker"](tmp_path)
    made = Hub(tmp_path, under)
    yield made
    made.close()
    under.close()


@pytest.mark.parametrize("is_wanted", [True, False])
@pytest.mark.parametrize("seal", ["none", "forged", "another fleet's", "another instance's"])
def test_one_with_our_label_and_name_but_not_our_seal_is_held_and_left(hub: Hub, seal: str, is_wanted: bool) -> None:
    labels = {
        "none": {},
        "forged": {**hub.labels("writer-0", b""), SEAL_LABEL: "0" * 32},
        "another fleet's": hub.labels("writer-0", b"another key"),
        "another instance's": hub.labels("reader-0", hub.world.seal_key),
    }[seal]
    runtime = hub.under.runtime
    runtime.start(runtime.create(make_spec(hub.under, labels=labels)))
    before = runtime.inspect("writer-0")
    hub.commit(*(["writer"] if is_wanted else []))
    for _ in range(3):
        report = hub.run()
        change = change_of(report, "agent/writer-0")
        assert change.action is Action.HOLD
        assert "it is not ours and is left alone" in change.reason
        assert not [d for d in report.done if d.change.kind == "agent"]
    assert runtime.inspect("writer-0") == before


@pytest.mark.engine
@pytest.mark.parametrize("labels", [{}, {FLEET_LABEL: "0badcafe"}], ids=["no label", "another fleet's"])
def test_one_with_our_name_only_makes_the_creation_fail_by_name_and_is_left(
    docker_hub: Hub, engine: docker.APIClient, labels: Mapping[str, str]
) -> None:
    hub, name = docker_hub, engine_name(docker_hub.fleet, "writer-0")
    body = {**create_body(make_spec(hub.under), "", EngineFeatures()), "Labels": dict(labels), "Cmd": list(SLEEP)}
    foreign = engine.create_container_from_config(body, name)["Id"]
    try:
        engine.start(foreign)
        before = engine.inspect_container(foreign)
        hub.commit("writer")
        reports = [hub.run() for _ in range(3)]
        failed = [d.outcome for report in reports for d in report.failed if d.change.unit == "agent/writer-0"]
        assert failed
        assert all(isinstance(f, Failed) and name in f.reason and "already in use" in f.reason for f in failed)
        hub.commit()
        for _ in range(3):
            hub.run()
        assert hub.fakes.instances() == {}
        assert hub.under.runtime.list() == Ok([])
        hub.commit("writer")
        hub.run()
        assert engine.inspect_container(foreign) == before
    finally:
        engine.remove_container(foreign, force=True)
    hub.fakes.clock.advance(TRANSIENT_CAP_S)
    hub.run()
    assert isinstance(hub.under.runtime.inspect("writer-0"), Ok)


@pytest.mark.engine
def test_one_with_all_of_our_labels_but_not_our_form_of_name_is_not_taken_for_the_instance(
    docker_hub: Hub, engine: docker.APIClient
) -> None:
    """In the engine it is called what the instance is called everywhere else."""
    hub, agent = docker_hub, f"w{random_fleet()}"
    instance = f"{agent}-0"
    labels = hub.labels(instance, hub.world.seal_key)
    body = create_body(make_spec(hub.under, labels=labels), hub.fleet, EngineFeatures())
    copy = engine.create_container_from_config(body, instance)["Id"]
    engine.start(copy)
    before = engine.inspect_container(copy)
    listed = hub.under.runtime.list()
    assert isinstance(listed, Ok)
    assert [c.name for c in listed.value] == [f"engine:{instance}"]
    assert hub.under.runtime.inspect(listed.value[0].name) == Absent()
    hub.commit(agent)
    report = hub.run()
    assert [c.action for c in report.plan.changes if c.instance == instance] == [Action.CREATE]
    assert isinstance(hub.under.runtime.inspect(instance), Ok)
    held = change_of(report, f"agent/engine:{instance}")
    assert (held.action, "it is not ours and is left alone" in held.reason) == (Action.HOLD, True)
    hub.commit()
    for _ in range(3):
        hub.run()
    assert engine.inspect_container(copy) == before
    assert hub.under.runtime.inspect(instance) == Absent()
