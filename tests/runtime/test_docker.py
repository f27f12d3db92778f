import io
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import docker
import pytest

from reconciler.core.reading import Absent, Ok
from reconciler.errors import NameTakenError, RuntimeRefusedError
from reconciler.ports import ContainerState, Limits, Mount
from reconciler.runtime.docker import MAX_LOG_BYTES, DockerRuntime, join_frames
from reconciler.runtime.sandbox import FLEET_LABEL, EngineFeatures, create_body, engine_name
from tests.contract.runtimes import STUBBORN, RuntimeUnderTest, eventually, make_spec
from tests.runtime.stub_engine import INFO, Answer, StubEngine
from tests.runtime.test_docker_link import ID, SPEC


def state_of(under: RuntimeUnderTest, name: str = "writer-0") -> ContainerState:
    reading = under.runtime.inspect(name)
    assert isinstance(reading, Ok)
    return reading.value


def fleet_of(under: RuntimeUnderTest) -> str:
    assert isinstance(under.runtime, DockerRuntime)
    return under.runtime._fleet


def run(under: RuntimeUnderTest, script: str, name: str = "writer-0") -> str:
    container_id = under.runtime.create(make_spec(under, name=name, argv=("/bin/sh", "-c", script)))
    under.runtime.start(container_id)
    return container_id


# --- on a stub ------------------------------------------------------------------------------------


@pytest.fixture
def stubbed(stub: StubEngine) -> Iterator[DockerRuntime]:
    stub.on("GET", f"/images/{SPEC.image_id}/json", Answer(body={"Id": SPEC.image_id, "Config": {}}))
    stub.on("POST", "/containers/create", Answer(status=201, body={"Id": ID, "Warnings": []}))
    stub.on("POST", "/start", Answer(status=204, body=""))
    made = DockerRuntime("0badcafe", stub.url, timeout_s=1)
    yield made
    made.close()


def test_importing_the_runtime_does_not_import_the_library() -> None:
    code = "import sys, reconciler.runtime.docker; sys.exit('docker' in sys.modules or 'requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_creating_and_starting_are_one_call_each(stub: StubEngine, stubbed: DockerRuntime) -> None:
    for number in range(3):
        stubbed.start(stubbed.create(replace(SPEC, name=f"writer-{number}")))
    first, rest = stub.paths()[:3], stub.paths()[3:]
    assert first == ["/version", "/v1.41/info", f"/v1.41/images/{SPEC.image_id}/json"]
    assert rest == ["/v1.41/containers/create", f"/v1.41/containers/{ID}/start"] * 3


def test_a_resolved_image_is_not_looked_at_again(stub: StubEngine, stubbed: DockerRuntime) -> None:
    stub.on("GET", "/images/agents/base:1/json", Answer(body={"Id": SPEC.image_id, "Config": {}}))
    assert stubbed.resolve_image("agents/base:1") == Ok(SPEC.image_id)
    stubbed.create(SPEC)
    stubbed.normalise(SPEC)
    assert len([path for path in stub.paths() if "/images/" in path]) == 1


def test_an_engine_without_limits_gets_none_and_still_shows_no_difference(
    stub: StubEngine, stubbed: DockerRuntime
) -> None:
    stub.on("GET", "/info", Answer(body={**INFO, "SwapLimit": False, "PidsLimit": False, "CpuCfsQuota": False}))
    stubbed.create(SPEC)
    host = stub.asked[-1].body["HostConfig"]
    assert {"NanoCpus", "MemorySwap", "PidsLimit"}.isdisjoint(host)
    assert host["Memory"] == SPEC.limits.memory_bytes
    limits = {"cpus": None, "memory_bytes": 2**26, "memory_swap_bytes": None, "pids": None}
    assert stubbed.normalise(SPEC)["limits"] == limits


def test_an_answer_that_says_gone_is_fine_where_gone_is_wanted(stub: StubEngine, stubbed: DockerRuntime) -> None:
    gone = Answer(status=404, body={"message": "No such container"})
    stub.on("POST", "/stop", Answer(status=204, body=""))
    stub.on("POST", "/wait", gone)
    stub.on("DELETE", ID, gone)
    stubbed.stop(ID, 1)
    stubbed.remove(ID)


@pytest.mark.parametrize(
    "message",
    [
        f"removal of container {ID} is already in progress",
        f"Could not kill running container {ID}, cannot remove - Container {ID} is not running",
    ],
)
def test_a_removal_or_kill_by_somebody_else_is_outlasted(
    stub: StubEngine, stubbed: DockerRuntime, message: str
) -> None:
    busy = Answer(status=409, body={"message": message})
    gone = Answer(status=404, body={"message": "No such container"})
    stub.on("DELETE", ID, busy, busy, gone)
    stubbed.remove(ID)
    assert len(stub.paths(ID)) == 3


def test_a_removal_that_never_ends_is_a_refusal(stub: StubEngine, stubbed: DockerRuntime) -> None:
    busy = Answer(status=409, body={"message": "removal is already in progress"})
    stub.on("DELETE", ID, busy)
    with pytest.raises(RuntimeRefusedError, match="already in progress"):
        stubbed.remove(ID)


def test_another_conflict_on_removal_is_a_refusal(stub: StubEngine, stubbed: DockerRuntime) -> None:
    stub.on("DELETE", ID, Answer(status=409, body={"message": "it is a checkpoint"}))
    with pytest.raises(RuntimeRefusedError, match="it is a checkpoint"):
        stubbed.remove(ID)


def test_a_stop_waits_for_its_grace_and_then_for_the_death(stub: StubEngine, stubbed: DockerRuntime) -> None:
    stub.on("POST", "/stop", Answer(status=204, body=""))
    stub.on("POST", "/wait", Answer(body={"StatusCode": 137}))
    stubbed.stop(ID, 2.1)
    stopped, waited = stub.asked[-2:]
    assert stopped.query == {"t": "3"}
    assert waited.query == {"condition": "not-running"}


def test_a_container_that_is_being_removed_is_dead(stub: StubEngine, stubbed: DockerRuntime) -> None:
    entry = {"Id": ID, "Names": ["/renamed"], "State": "removing", "Labels": None, "ImageID": "sha256:1"}
    stub.on("GET", "/containers/json", Answer(body=[entry]))
    reading = stubbed.list()
    assert isinstance(reading, Ok)
    assert [(one.name, one.state, one.labels) for one in reading.value] == [("engine:renamed", "dead", {})]


def test_output_of_a_terminal_has_no_frames() -> None:
    framed = b"\x01\0\0\0\0\0\0\x04out\n" + b"\x02\0\0\0\0\0\0\x04err\n"
    assert join_frames(framed) == b"out\nerr\n"
    assert join_frames(b"") == b""
    assert join_frames(b"just text, longer than a header") == b"just text, longer than a header"
    assert join_frames(framed[:-1]) == framed[:-1]


# --- on the engine --------------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize("reference", ["agents/none:1", "UPPER/CASE:1", "a b", "sha256:" + "0" * 64])
def test_what_names_no_image_is_absent(under: RuntimeUnderTest, reference: str) -> None:
    assert under.runtime.resolve_image(reference) == Absent()


@pytest.mark.engine
def test_an_image_with_volumes_is_refused(under: RuntimeUnderTest, engine: docker.APIClient) -> None:
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    name = f"agents/test-volumes-{fleet_of(under)}"
    engine.import_image_from_data(empty.getvalue(), repository=name, tag="1", changes=["VOLUME /data"])
    try:
        image_id = under.runtime.resolve_image(f"{name}:1")
        assert isinstance(image_id, Ok)
        with pytest.raises(RuntimeRefusedError, match=r"volumes \(/data\)"):
            under.runtime.create(make_spec(under, image_id=image_id.value))
        assert under.runtime.list() == Ok([])
    finally:
        engine.remove_image(f"{name}:1", force=True)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mounts": (Mount(source="/no/such/place", target="/x"),)}, "bind source path does not exist"),
        ({"mounts": (Mount(source="relative", target="/x"),)}, "absolute"),
        ({"limits": Limits(cpus=10_000, memory_bytes=2**26, pids=5)}, "Range of CPUs"),
        ({"limits": Limits(cpus=1, memory_bytes=2**20, pids=5)}, "Minimum memory"),
        ({"name": "not/a/name"}, "Invalid container name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_says_what_the_engine_said(under: RuntimeUnderTest, change: dict[str, object], said: str) -> None:
    with pytest.raises(RuntimeRefusedError, match=said):
        under.runtime.create(make_spec(under, **change))
    assert under.runtime.list() == Ok([])


@pytest.mark.engine
def test_a_container_of_that_name_without_our_label_is_absent_and_stays(
    under: RuntimeUnderTest, engine: docker.APIClient
) -> None:
    spec = make_spec(under)
    body = create_body(spec, "somebody", EngineFeatures())
    foreign = engine.create_container_from_config(body, engine_name(fleet_of(under), spec.name))["Id"]
    try:
        assert under.runtime.inspect(spec.name) == Absent()
        assert under.runtime.list() == Ok([])
        with pytest.raises(NameTakenError, match="already in use"):
            under.runtime.create(spec)
        assert engine.inspect_container(foreign)["Id"] == foreign
    finally:
        engine.remove_container(foreign, force=True)


@pytest.mark.engine
def test_a_program_that_is_not_there_ends_like_one_that_fails(under: RuntimeUnderTest) -> None:
    under.runtime.start(under.runtime.create(make_spec(under, argv=("/no/such/program",))))
    eventually(lambda: state_of(under).state == "exited")
    assert state_of(under).exit_code == 127


@pytest.mark.engine
def test_running_out_of_memory_is_told(under: RuntimeUnderTest) -> None:
    run(under, "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 9")
    eventually(lambda: state_of(under).state == "exited")
    assert (state_of(under).exit_code, state_of(under).oom_killed) == (9, True)


@pytest.mark.engine
def test_memory_in_use_is_not_taken_away(under: RuntimeUnderTest) -> None:
    container_id = run(under, "dd if=/dev/zero of=/tmp/x bs=1M count=14 && echo done; sleep 600")
    eventually(lambda: "done" in under.runtime.logs(container_id, 5))
    before = state_of(under)
    with pytest.raises(RuntimeRefusedError, match=r"more than the new limit of 8MiB"):
        under.runtime.update(container_id, Limits(cpus=0.5, memory_bytes=8 * 2**20, pids=50))
    assert state_of(under) == before


@pytest.mark.engine
def test_a_paused_container_can_be_stopped(under: RuntimeUnderTest, engine: docker.APIClient) -> None:
    container_id = run(under, "sleep 600")
    engine.pause(container_id)
    assert state_of(under).state == "paused"
    under.runtime.stop(container_id, 1)
    assert state_of(under).state == "exited"


@pytest.mark.engine
def test_many_may_stop_and_remove_the_same_container(under: RuntimeUnderTest) -> None:
    container_id = under.runtime.create(make_spec(under, argv=STUBBORN))
    under.runtime.start(container_id)
    with ThreadPoolExecutor(8) as pool:
        stops = [pool.submit(under.runtime.stop, container_id, 0) for _ in range(3)]
        removals = [pool.submit(under.runtime.remove, container_id) for _ in range(5)]
    assert [call.exception() for call in stops + removals] == [None] * 8
    assert under.runtime.inspect("writer-0") == Absent()


@pytest.mark.engine
def test_a_renamed_container_is_listed_under_its_new_name_which_is_no_instances(
    under: RuntimeUnderTest, engine: docker.APIClient
) -> None:
    container_id = under.runtime.create(make_spec(under))
    engine.rename(container_id, f"elsewhere-{fleet_of(under)}")
    assert under.runtime.inspect("writer-0") == Absent()
    reading = under.runtime.list()
    assert isinstance(reading, Ok)
    assert [summary.name for summary in reading.value] == [f"engine:elsewhere-{fleet_of(under)}"]
    everywhere = under.runtime.list_labelled(FLEET_LABEL, fleet_of(under))
    assert isinstance(everywhere, Ok)
    assert [summary.name for summary in everywhere.value] == [f"elsewhere-{fleet_of(under)}"]


@pytest.mark.engine
def test_logs_have_both_streams_and_are_bounded(under: RuntimeUnderTest) -> None:
    container_id = run(under, "echo out; echo err >&2; printf '\\377'")
    eventually(lambda: state_of(under).state == "exited")
    eventually(lambda: sorted(under.runtime.logs(container_id, 5).split()) == ["err", "out", "\ufffd"])
    loud = run(under, "dd if=/dev/zero bs=1M count=3 2>/dev/null", name="loud-0")
    eventually(lambda: state_of(under, "loud-0").state == "exited")
    eventually(lambda: len(under.runtime.logs(loud, 1000)) == MAX_LOG_BYTES)


@pytest.mark.engine
def test_an_image_id_is_a_digest_and_the_same_by_name_and_by_id(under: RuntimeUnderTest) -> None:
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", under.image_id)
    assert under.runtime.resolve_image(under.image_id) == Ok(under.image_id)
