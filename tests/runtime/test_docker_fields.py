import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from reconciler.core.reading import Ok
from reconciler.ports import ContainerState, Limits, Mount
from reconciler.runtime.docker import DockerRuntime
from reconciler.runtime.docker_fields import (
    COMPARED,
    ImageDefaults,
    Stored,
    Wanted,
    image_defaults,
    stored_fields,
    wanted_fields,
)
from reconciler.runtime.sandbox import EngineFeatures, create_body, engine_name
from tests.contract.runtimes import (
    BUSYBOX,
    RuntimeUnderTest,
    make_busybox_image,
    make_docker_runtime,
    make_fake_runtime,
    make_spec,
)

FIELDS = [row.name for row in COMPARED]
Body = dict[str, Any]


def read(under: RuntimeUnderTest, name: str = "writer-0") -> ContainerState:
    reading = under.runtime.inspect(name)
    assert isinstance(reading, Ok)
    return reading.value


def differing(under: RuntimeUnderTest, wanted: Mapping[str, Any], name: str = "writer-0") -> set[str]:
    stored = read(under, name).fields
    assert list(stored) == list(wanted) == FIELDS
    return {field for field in FIELDS if stored[field] != wanted[field]}


# --- what the engine stores -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Mapping[str, Any]]]:
    """The fields of one container: wanted, and as stored when created, running and stopped."""
    directory = tmp_path_factory.mktemp("life")
    under = make_docker_runtime(directory)
    (directory / "hub").mkdir()
    (directory / "work").mkdir()
    spec = make_spec(
        under,
        env={"B": "two words", "A": "1=1", "EMPTY": "", "PATH": "/bin", "FROM_IMAGE": "2", "HOME": "/tmp"},
        labels={"io.reconciler.agent": "writer", "from.image": "yes", "dotted.x": "ü"},
        argv=("/bin/sh", "-c", "sleep 600", "a b", ""),
        working_dir="/tmp/../tmp/",
        mounts=(
            Mount(source=f"{directory}/./hub/", target="/run/../run/hub/"),
            Mount(source=f"{directory}/work", target="/work", read_only=False),
        ),
        limits=Limits(cpus=1 / 3, memory_bytes=100_000_001, pids=77),
        uid=1234,
    )
    stages: dict[str, Mapping[str, Any]] = {"wanted": under.runtime.normalise(spec)}
    try:
        container_id = under.runtime.create(spec)
        stages["created"] = read(under).fields
        under.runtime.start(container_id)
        stages["running"] = read(under).fields
        under.runtime.stop(container_id, 0)
        stages["stopped"] = read(under).fields
        yield stages
    finally:
        under.close()


@pytest.mark.engine
@pytest.mark.parametrize("field", FIELDS)
def test_the_engine_stores_what_we_want(life: dict[str, Mapping[str, Any]], field: str) -> None:
    for stage in ("created", "running", "stopped"):
        assert life[stage][field] == life["wanted"][field], stage


@pytest.mark.engine
def test_there_are_no_other_fields(life: dict[str, Mapping[str, Any]]) -> None:
    assert {tuple(fields) for fields in life.values()} == {tuple(FIELDS)}
    assert json.loads(json.dumps(life)) == life


# --- what somebody made differently ---------------------------------------------------------------


def host(key: str, value: object) -> Callable[[Body], object]:
    return lambda body: body["HostConfig"].update({key: value})


def top(key: str, value: object) -> Callable[[Body], object]:
    return lambda body: body.update({key: value})


DIFFERENTLY: dict[str, tuple[set[str], Callable[[Body], object]]] = {
    "another program": ({"argv"}, top("Cmd", ["/bin/sleep", "601"])),
    "an entry point": ({"argv"}, top("Entrypoint", ["/bin/sh"])),
    "a variable more": ({"env"}, lambda body: body["Env"].append("ADDED=1")),
    "a variable less": ({"env"}, lambda body: body["Env"].pop()),
    "a variable of the image changed": ({"env"}, lambda body: body["Env"].append("FROM_IMAGE=2")),
    "a label more": ({"labels"}, lambda body: body["Labels"].update(added="1")),
    "root": ({"user"}, top("User", "0:0")),
    "another directory": ({"working_dir"}, top("WorkingDir", "/")),
    "another hostname": ({"hostname"}, top("Hostname", "other")),
    "more CPU": ({"limits"}, host("NanoCpus", 600_000_000)),
    "any CPU": ({"limits"}, host("NanoCpus", 0)),
    "more memory": ({"limits"}, lambda body: body["HostConfig"].update(Memory=2**27, MemorySwap=2**27)),
    "swap": ({"limits"}, host("MemorySwap", 2**27)),
    "more processes": ({"limits"}, host("PidsLimit", 51)),
    "any processes": ({"limits"}, host("PidsLimit", -1)),
    "more files": ({"ulimits"}, host("Ulimits", [])),
    "a writable mount": ({"mounts"}, lambda body: body["HostConfig"]["Mounts"][0].update(ReadOnly=False)),
    "a shared mount": (
        {"mounts"},
        lambda body: body["HostConfig"]["Mounts"][0]["BindOptions"].update(Propagation="rslave"),
    ),
    "a bind": ({"mounts", "extras"}, host("Binds", ["/usr:/usr:ro"])),
    "a volume": ({"mounts"}, top("Volumes", {"/data": {}})),
    "another tmpfs": ({"tmpfs"}, lambda body: body["HostConfig"]["Tmpfs"].update({"/data": "rw"})),
    "a network": ({"networks"}, host("NetworkMode", "bridge")),
    "the host's network": ({"networks"}, host("NetworkMode", "host")),
    "a writable root": ({"read_only"}, host("ReadonlyRootfs", False)),
    "capabilities kept": ({"cap_drop"}, host("CapDrop", None)),
    "new privileges": ({"security_opt"}, host("SecurityOpt", None)),
    "no seccomp": ({"security_opt"}, lambda body: body["HostConfig"]["SecurityOpt"].append("seccomp=unconfined")),
    "an open /proc": ({"proc_masked"}, host("MaskedPaths", [])),
    "a writable /proc": ({"proc_masked"}, host("ReadonlyPaths", [])),
    "no init": ({"init"}, host("Init", False)),
    "shareable IPC": ({"ipc"}, host("IpcMode", "shareable")),
    "more shared memory": ({"shm_bytes"}, host("ShmSize", 2**28)),
    "a restart policy": ({"restart"}, host("RestartPolicy", {"Name": "always"})),
    "another stop signal": ({"stop_signal"}, top("StopSignal", "SIGKILL")),
    "the image's health check": ({"healthcheck"}, lambda body: body.pop("Healthcheck")),
    "no log": ({"log"}, host("LogConfig", {"Type": "none"})),
    "an endless log": ({"log"}, host("LogConfig", {"Type": "json-file", "Config": {"max-file": "2"}})),
    "privileged": ({"extras", "proc_masked", "security_opt"}, host("Privileged", True)),
    "a capability": ({"extras"}, host("CapAdd", ["NET_ADMIN"])),
    "a device": (
        {"extras"},
        host("Devices", [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}]),
    ),
    "the host's processes": ({"extras", "security_opt"}, host("PidMode", "host")),
    "the host's users": ({"extras"}, host("UsernsMode", "host")),
    "the host's name": ({"extras", "hostname"}, lambda b: (b.pop("Hostname"), b["HostConfig"].update(UTSMode="host"))),
    "a group": ({"extras"}, host("GroupAdd", ["0"])),
    "a known host": ({"extras"}, host("ExtraHosts", ["x:127.0.0.1"])),
    "a name server": ({"extras"}, host("Dns", ["127.0.0.1"])),
    "a kernel setting": ({"extras"}, host("Sysctls", {"net.ipv4.ip_unprivileged_port_start": "0"})),
    "no OOM killer": ({"extras"}, host("OomKillDisable", True)),
    "an OOM score": ({"extras"}, host("OomScoreAdj", 100)),
    "a group of control": ({"extras"}, host("CgroupParent", "/elsewhere")),
    "a CPU of its own": ({"extras"}, host("CpusetCpus", "0")),
}


@pytest.mark.engine
@pytest.mark.parametrize("what", DIFFERENTLY)
def test_what_was_made_differently_shows_in_its_fields_and_in_no_other(
    under: RuntimeUnderTest, engine: docker.APIClient, tmp_path: Path, what: str
) -> None:
    fields, change = DIFFERENTLY[what]
    spec = make_spec(under, mounts=(Mount(source=str(tmp_path), target="/run/hub"),))
    assert isinstance(under.runtime, DockerRuntime)
    fleet = under.runtime._fleet
    body = copy.deepcopy(create_body(spec, fleet, EngineFeatures()))
    change(body)
    engine.create_container_from_config(body, engine_name(fleet, spec.name))
    assert differing(under, under.runtime.normalise(spec)) == fields


@pytest.mark.engine
def test_another_image_shows_in_its_field_and_in_no_other(under: RuntimeUnderTest, engine: docker.APIClient) -> None:
    twin_id = make_busybox_image(engine, BUSYBOX.replace(":1", ":2"))
    spec = make_spec(under)
    under.runtime.create(replace(spec, image_id=twin_id))
    assert differing(under, under.runtime.normalise(spec)) == {"image_id"}


def test_each_field_is_made_differently_by_some_test() -> None:
    covered = set().union(*(fields for fields, _ in DIFFERENTLY.values()))
    assert {*covered, "image_id"} == set(FIELDS)


# --- what somebody changed later ------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ({"limits"}, {"PidsLimit": 60}),
        ({"limits"}, {"NanoCpus": 700_000_000}),
        ({"limits"}, {"Memory": 2**27, "MemorySwap": 2**28}),
        ({"restart"}, {"RestartPolicy": {"Name": "always"}}),
        ({"extras"}, {"CpuShares": 100}),
    ],
    ids=str,
)
def test_what_is_updated_by_hand_shows(
    under: RuntimeUnderTest, engine: docker.APIClient, fields: set[str], change: dict[str, Any]
) -> None:
    spec = make_spec(under)
    container_id = under.runtime.create(spec)
    under.runtime.start(container_id)
    response = engine.post(
        f"{engine.base_url}/v{engine.api_version}/containers/{container_id}/update", json=change, timeout=120
    )
    assert response.ok, response.text
    assert differing(under, under.runtime.normalise(spec)) == fields


@pytest.mark.engine
def test_a_network_connected_by_hand_shows(under: RuntimeUnderTest, engine: docker.APIClient) -> None:
    spec = make_spec(under)
    container_id = under.runtime.create(spec)
    engine.disconnect_container_from_network(container_id, "none")
    engine.connect_container_to_network(container_id, "bridge")
    assert differing(under, under.runtime.normalise(spec)) == {"networks"}


# --- engines that differ --------------------------------------------------------------------------


BODY: Body = {
    "Image": "sha256:1",
    "Path": "/bin/sleep",
    "Args": ["600"],
    "Mounts": None,
    "Config": {"Env": None, "Labels": None},
    "HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2", "tag": "x"}}},
}


def test_log_options_that_the_engine_adds_to_all_containers_are_no_difference(wanted_by_us: Wanted) -> None:
    stored = stored_fields(Stored(body=BODY, features=EngineFeatures(), image=ImageDefaults()))
    assert stored["log"] == wanted_fields(wanted_by_us)["log"]


@pytest.mark.parametrize(
    ("features", "missing"),
    [
        (EngineFeatures(swap=False), {"memory_swap_bytes"}),
        (EngineFeatures(memory=False), {"memory_bytes", "memory_swap_bytes"}),
        (EngineFeatures(cpus=False), {"cpus"}),
        (EngineFeatures(pids=False), {"pids"}),
    ],
)
def test_a_limit_that_the_engine_lacks_is_none_on_both_sides(
    wanted_by_us: Wanted, features: EngineFeatures, missing: set[str]
) -> None:
    wanted = wanted_fields(replace(wanted_by_us, features=features))["limits"]
    stored = stored_fields(Stored(body=BODY, features=features, image=ImageDefaults()))["limits"]
    for limits in (wanted, stored):
        assert missing <= {key for key, value in limits.items() if value is None}
    assert {key for key, value in wanted.items() if value is None} == missing


def test_an_image_without_any_settings_adds_nothing() -> None:
    assert image_defaults({"Id": "sha256:1", "Config": None}) == ImageDefaults()
    assert image_defaults({"Id": "sha256:1"}) == ImageDefaults()


@pytest.fixture
def wanted_by_us(tmp_path: Path) -> Wanted:
    spec = make_spec(make_fake_runtime(tmp_path))
    return Wanted(spec=spec, fleet="0badcafe", features=EngineFeatures(), image=ImageDefaults())
