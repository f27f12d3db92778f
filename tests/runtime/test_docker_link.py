import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import docker.errors
import pytest
import requests
import urllib3

from reconciler.core.reading import Ok, Unavailable
from reconciler.errors import RuntimeRefusedError, RuntimeUnavailableError, UsageError
from reconciler.ports import ContainerSpec, Limits
from reconciler.runtime.docker import DockerRuntime
from reconciler.runtime.docker_link import choose_api, describe, translate
from tests.runtime.stub_engine import INFO, VERSION, Answer, StubEngine

ID = "c" * 64
SPEC = ContainerSpec(
    name="writer-0",
    image="agents/base:1",
    image_id="sha256:" + "1" * 64,
    argv=("/bin/sleep", "600"),
    env={},
    labels={},
    limits=Limits(cpus=1.0, memory_bytes=2**26, pids=50),
    mounts=(),
    disk_bytes=2**20,
    grace_s=1.0,
)
CALLS: dict[str, Callable[[DockerRuntime], object]] = {
    "facts": lambda r: r.facts(),
    "resolve_image": lambda r: r.resolve_image("agents/base:1"),
    "normalise": lambda r: r.normalise(SPEC),
    "list": lambda r: r.list(),
    "inspect": lambda r: r.inspect("writer-0"),
    "create": lambda r: r.create(SPEC),
    "start": lambda r: r.start(ID),
    "update": lambda r: r.update(ID, SPEC.limits),
    "stop": lambda r: r.stop(ID, 0),
    "remove": lambda r: r.remove(ID),
    "logs": lambda r: r.logs(ID, 10),
    "events": lambda r: next(r.events(0)),
}
READINGS = ("facts", "resolve_image", "list", "inspect")


@pytest.fixture
def runtime(stub: StubEngine) -> Iterator[DockerRuntime]:
    made = DockerRuntime("0badcafe", stub.url, timeout_s=0.3)
    yield made
    made.close()


def api_error(status: int, message: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    return docker.errors.APIError("x", response=response, explanation=message)


def library_exceptions() -> list[type[Exception]]:
    found = []
    for module in (docker.errors, requests.exceptions, urllib3.exceptions):
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Exception):
                own = value.__module__.startswith(("docker", "requests", "urllib3"))
                if own and not issubclass(value, Warning):
                    found.append(value)
    return found


# What their constructors would set and their texts are made of.
ATTRIBUTES = ("error", "explanation", "length", "msg", "name", "param", "scheme")


def bare(kind: type[Exception]) -> Exception:
    """An instance with nothing in it, whatever its constructor wants."""
    error = kind.__new__(kind)
    error.__dict__.update(dict.fromkeys(ATTRIBUTES, ""), response=None)
    return error


# --- what errors mean -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", library_exceptions(), ids=lambda kind: kind.__qualname__)
def test_each_exception_of_the_libraries_is_translated(kind: type[Exception], runtime: DockerRuntime) -> None:
    expected = pytest.raises((RuntimeUnavailableError, RuntimeRefusedError))
    with expected as caught, runtime._link.asking("do something"):
        raise bare(kind)
    assert str(caught.value).startswith("do something: ")


def test_an_error_of_our_own_is_not_swallowed(runtime: DockerRuntime) -> None:
    with pytest.raises(ZeroDivisionError), runtime._link.asking("do something"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("status", "message", "meaning"),
    [
        (400, "Range of CPUs is from 0.01 to 2.00", RuntimeRefusedError),
        (403, "forbidden by the proxy", RuntimeRefusedError),
        (404, "No such container", RuntimeRefusedError),
        (409, "name is already in use", RuntimeRefusedError),
        (500, "Cannot update container: unable to set memory limit", RuntimeRefusedError),
        (500, 'Error while dialing dial unix x: "refused": unavailable', RuntimeUnavailableError),
        (500, "transport is closing", RuntimeUnavailableError),
        (500, "ttrpc: closed: unknown", RuntimeUnavailableError),
        (408, "", RuntimeUnavailableError),
        (429, "slow down", RuntimeUnavailableError),
        (502, "bad gateway", RuntimeUnavailableError),
        (503, "not yet", RuntimeUnavailableError),
    ],
)
def test_a_refusal_is_about_the_request_and_all_else_about_the_engine(
    status: int, message: str, meaning: type[Exception]
) -> None:
    error = translate(api_error(status, message), "start container x", "unix:///d.sock")
    assert type(error) is meaning
    assert message in str(error)


NO_ANSWERS = {
    "stalls": Answer(stall=True),
    "hangs up": Answer(hang_up=True),
    "503": Answer(status=503, body={"message": "not yet"}),
    "containerd gone": Answer(status=500, body={"message": "transport is closing: unavailable"}),
    "an odd error": Answer(status=500, body={"error": "without a message"}),
    "cut short": Answer(chunks=[b"["], hang_up=True),
    "html": Answer(body="<html>not an engine</html>"),
}
STATUS_SAYS_ALL = ("start", "stop", "remove", "logs")  # the body of these is not looked at


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        pytest.param(call, answer, id=f"{call}: {name}")
        for call in CALLS
        for name, answer in NO_ANSWERS.items()
        if not (name == "html" and call in STATUS_SAYS_ALL)
    ],
)
def test_an_engine_that_gives_no_proper_answer_is_unavailable(
    stub: StubEngine, runtime: DockerRuntime, call: str, answer: Answer
) -> None:
    stub.always(answer)
    if call == "facts":
        stub.on("GET", "/version", answer)
    if call in READINGS:
        assert isinstance(CALLS[call](runtime), Unavailable)
        return
    with pytest.raises(RuntimeUnavailableError):
        CALLS[call](runtime)


@pytest.mark.parametrize("call", CALLS)
def test_without_an_engine_everything_is_unavailable(tmp_path: Path, call: str) -> None:
    runtime = DockerRuntime("0badcafe", f"unix://{tmp_path}/none.sock")
    if call in READINGS:
        reading = CALLS[call](runtime)
        assert isinstance(reading, Unavailable)
        assert "No such file or directory" in reading.reason
        return
    with pytest.raises(RuntimeUnavailableError, match="No such file or directory"):
        CALLS[call](runtime)


def test_an_engine_that_comes_up_later_is_found(stub: StubEngine) -> None:
    stub.on("GET", "/version", Answer(hang_up=True), Answer(body=VERSION))
    stub.on("GET", "/containers/json", Answer(body=[]))
    runtime = DockerRuntime("0badcafe", stub.url, timeout_s=1)
    assert isinstance(runtime.list(), Unavailable)
    assert runtime.list() == Ok([])
    runtime.close()


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["gopher://x", "tcp://", "unix:///x?y=1"])
def test_what_cannot_be_an_address_is_said_at_once(address: str) -> None:
    with pytest.raises(UsageError, match="address of a container engine"):
        DockerRuntime("0badcafe", address)


def test_the_usual_variable_names_the_engine(stub: StubEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", stub.url)
    runtime = DockerRuntime("0badcafe", timeout_s=1)
    assert isinstance(runtime.facts(), Ok)
    assert stub.paths("/info")
    runtime.close()


# --- versions and features ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest", "oldest", "spoken"),
    [
        ("1.41", "1.12", (1, 41)),
        ("1.51", "1.24", (1, 41)),
        ("1.52", "1.44", (1, 44)),
        ("1.39", "1.12", (1, 39)),
    ],
)
def test_the_tested_version_is_spoken_or_the_nearest_one(newest: str, oldest: str, spoken: tuple[int, int]) -> None:
    assert choose_api(newest, oldest) == spoken


def test_an_engine_that_forgot_the_tested_version_is_spoken_to_in_its_oldest(
    stub: StubEngine, runtime: DockerRuntime
) -> None:
    newer = {**VERSION, "ApiVersion": "1.52", "MinAPIVersion": "1.44"}
    stub.on("GET", "/version", Answer(body=newer))
    stub.on("GET", "/containers/json", Answer(body=[]))
    assert runtime.list() == Ok([])
    assert stub.paths() == ["/version", "/v1.44/info", "/v1.44/containers/json"]


def test_an_engine_upgraded_meanwhile_is_noticed_with_the_facts(stub: StubEngine, runtime: DockerRuntime) -> None:
    newer = {**VERSION, "Version": "29.0", "ApiVersion": "1.52", "MinAPIVersion": "1.44"}
    stub.on("GET", "/version", Answer(body=VERSION), Answer(body=newer))
    stub.on("GET", "/containers/json", Answer(body=[]))
    runtime.list()
    facts = runtime.facts()
    runtime.list()
    assert isinstance(facts, Ok)
    assert facts.value.version == "29.0"
    assert stub.paths("json") == ["/v1.41/containers/json", "/v1.44/containers/json"]


@pytest.mark.parametrize(
    ("info", "sentence"),
    [
        ({"MemoryLimit": False}, "limit memory"),
        ({"SwapLimit": False}, "limit swap"),
        ({"CpuCfsQuota": False}, "limit CPU time"),
        ({"PidsLimit": False}, "limit the number of processes"),
        ({"SecurityOptions": []}, "no seccomp profile"),
        ({"SecurityOptions": ["name=seccomp,profile=unconfined"]}, "'unconfined'"),
        ({"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}, "maps user ids"),
    ],
)
def test_what_an_engine_cannot_do_is_a_sentence(info: dict[str, object], sentence: str) -> None:
    assert describe(INFO, VERSION, "unix:///d.sock").limitations == ()
    [limitation] = describe({**INFO, **info}, VERSION, "unix:///d.sock").limitations
    assert sentence in limitation


def test_an_old_or_distant_engine_is_a_limitation() -> None:
    old = describe(INFO, {**VERSION, "ApiVersion": "1.40"}, "unix:///d.sock")
    assert "1.40" in old.limitations[0]
    distant = describe(INFO, VERSION, "tcp://10.0.0.1:2376")
    assert "network" in distant.limitations[0]


# --- threads and connections ----------------------------------------------------------------------


def work_in_threads(call: Callable[[int], object]) -> None:
    ready = threading.Barrier(8)

    def work(_thread: int) -> None:
        ready.wait()
        for number in range(25):
            call(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_threads_share_connections_and_ask_for_the_version_once(stub: StubEngine, runtime: DockerRuntime) -> None:
    stub.on("POST", "/start", Answer(status=204, body=""))
    work_in_threads(lambda number: runtime.start(f"{number:064x}"))
    assert len(stub.paths("/start")) == 200
    assert stub.paths("/version") == ["/version"]
    assert len(stub.connections) <= 8


def test_the_library_alone_would_not_share_connections(stub: StubEngine) -> None:
    """The negative control of the test above, and the reason for an adapter of our own."""
    stub.on("POST", "/start", Answer(status=204, body=""))
    client = docker.APIClient(stub.url, version="1.41")
    work_in_threads(lambda number: client.start(f"{number:064x}"))
    client.close()
    assert len(stub.connections) > 8
