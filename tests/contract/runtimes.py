"""The runtimes that the contract suite runs on, one factory each, and the image for real engines.

A factory takes an empty directory and returns a `RuntimeUnderTest` with two fleets on one engine.
Whoever uses it calls `close`, which removes all containers of both.
"""

import io
import os
import shutil
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import docker
import docker.errors
import docker.utils
import pytest

from reconciler.core.reading import Ok
from reconciler.ports import ContainerSpec, Limits, Runtime
from reconciler.runtime.docker import DockerRuntime
from reconciler.runtime.fake import FakeRuntime
from reconciler.runtime.fake_container import Program
from reconciler.runtime.process import ProcessRuntime
from reconciler.runtime.sandbox import FLEET_LABEL

SLEEP = ("/bin/sleep", "600")
STUBBORN = ("/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
HELLO = ("/bin/sh", "-c", "echo one; echo two; echo three; exit 3")

BUSYBOX = "agents/test-busybox:1"
APPLETS = (
    *("cat", "dd", "echo", "env", "grep", "id", "ls", "mkdir"),
    *("nc", "rm", "sh", "sleep", "touch", "wget"),
)
NO_ENGINE = "no Docker Engine answers"


class ClosableRuntime(Runtime, Protocol):
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeUnderTest:
    """`other` is a second fleet on the same engine. `image` is there and can run SLEEP etc.

    `has_images` is False where any image will do, because programs come from the host.
    """

    runtime: ClosableRuntime
    other: ClosableRuntime
    image: str
    image_id: str
    close: Callable[[], None]
    has_images: bool = True


def make_spec(under: RuntimeUnderTest, **changes: Any) -> ContainerSpec:
    """A spec that any runtime accepts; `changes` are fields of ContainerSpec."""
    defaults: dict[str, Any] = {
        "name": "writer-0",
        "image": under.image,
        "image_id": under.image_id,
        "argv": SLEEP,
        "env": {"LOG_LEVEL": "info", "EMPTY": ""},
        "labels": {"io.reconciler.agent": "writer"},
        "limits": Limits(cpus=0.5, memory_bytes=64 * 2**20, pids=50),
        "mounts": (),
        "disk_bytes": 16 * 2**20,
        "grace_s": 5.0,
    }
    return ContainerSpec(**{**defaults, **changes})


def eventually(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    """Poll until `condition` holds; fail the test when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.02)


def random_fleet() -> str:
    return uuid.uuid4().hex[:8]


# --- fake -----------------------------------------------------------------------------------------


def make_fake_runtime(_directory: Path) -> RuntimeUnderTest:
    fleets = FakeRuntime(random_fleet()), FakeRuntime(random_fleet())
    for fleet in fleets:
        fleet.add_image("agents/base:1", "sha256:" + "1" * 64)
        fleet.add_program(STUBBORN, Program(output="ready\n", shutdown_s=3600))
        fleet.add_program(HELLO, Program(output="one\ntwo\nthree\n", exit_code=3))
    runtime, other = fleets

    def close() -> None:
        runtime.close()
        other.close()

    return RuntimeUnderTest(
        runtime=runtime,
        other=other,
        image="agents/base:1",
        image_id="sha256:" + "1" * 64,
        close=close,
    )


# --- docker ---------------------------------------------------------------------------------------


def open_engine() -> docker.APIClient:
    """A bare client of the real engine. Without one the test is skipped, or fails if required."""
    asking = DockerRuntime("00000000")
    facts = asking.facts()
    asking.close()
    if not isinstance(facts, Ok):
        refuse_to_run(NO_ENGINE)
    return docker.APIClient(version="auto", timeout=120, **docker.utils.kwargs_from_env())


def refuse_to_run(reason: str) -> Any:
    """Skip, but fail where RECONCILER_REQUIRE_ENGINE=1 says that the engine must be there."""
    if os.environ.get("RECONCILER_REQUIRE_ENGINE") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.APIClient]:
    client = open_engine()
    yield client
    client.close()


@pytest.fixture(scope="session")
def busybox_id(engine: docker.APIClient) -> str:
    """The id of a small image whose own settings are all ones that a sandbox must not take over."""
    return make_busybox_image(engine)


def make_busybox_image(client: docker.APIClient, name: str = BUSYBOX) -> str:
    """Import the image unless it is there; each import has an id of its own."""
    try:
        return str(client.inspect_image(name)["Id"])
    except docker.errors.ImageNotFound:
        repository, _, tag = name.rpartition(":")
    busybox = shutil.which("busybox")
    if busybox is None:
        return str(refuse_to_run("no busybox (Debian package busybox-static)"))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        _add(archive, "bin", kind=tarfile.DIRTYPE)
        _add(archive, "bin/busybox", content=Path(busybox).read_bytes())
        for applet in APPLETS:
            _add(archive, f"bin/{applet}", kind=tarfile.SYMTYPE, target="busybox")
    changes = [
        "ENV PATH=/bin",
        "ENV FROM_IMAGE=1",
        "LABEL from.image=yes",
        'ENTRYPOINT ["/bin/echo", "entry point of the image"]',
        "HEALTHCHECK CMD /bin/true",
        "EXPOSE 80/tcp",
        "USER 7",
        "WORKDIR /bin",
    ]
    client.import_image_from_data(tar.getvalue(), repository=repository, tag=tag, changes=changes)
    return str(client.inspect_image(name)["Id"])


def _add(
    archive: tarfile.TarFile,
    name: str,
    *,
    content: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode, entry.size = kind, target, 0o755, len(content)
    archive.addfile(entry, io.BytesIO(content))


def remove_fleet(client: docker.APIClient, fleet: str) -> None:
    for container in client.containers(all=True, filters={"label": f"{FLEET_LABEL}={fleet}"}):
        client.remove_container(container["Id"], force=True, v=True)


def make_docker_runtime(_directory: Path) -> RuntimeUnderTest:
    client = open_engine()
    fleets = random_fleet(), random_fleet()
    runtime, other = (DockerRuntime(fleet) for fleet in fleets)

    def close() -> None:
        runtime.close()
        other.close()
        for fleet in fleets:
            remove_fleet(client, fleet)
        client.close()

    return RuntimeUnderTest(
        runtime=runtime, other=other, image=BUSYBOX, image_id=make_busybox_image(client), close=close
    )


# --- process --------------------------------------------------------------------------------------


def make_process_runtime(_directory: Path) -> RuntimeUnderTest:
    """In a directory of its own: pytest's cannot be entered by the users of instances."""
    directory = Path(tempfile.mkdtemp(prefix="reconciler-contract-"))
    directory.chmod(0o711)
    runtime, other = (ProcessRuntime(fleet, directory / fleet) for fleet in (random_fleet(), random_fleet()))

    def close() -> None:
        for each in (runtime, other):
            each.close()
            listing = each.list()
            for summary in listing.value if isinstance(listing, Ok) else ():
                each.remove(summary.id)
        shutil.rmtree(directory)

    image_id = runtime.resolve_image("agents/base:1")
    assert isinstance(image_id, Ok)
    return RuntimeUnderTest(
        runtime=runtime,
        other=other,
        image="agents/base:1",
        image_id=image_id.value,
        close=close,
        has_images=False,
    )


# --- all ------------------------------------------------------------------------------------------

FACTORIES: dict[str, Callable[[Path], RuntimeUnderTest]] = {
    "fake": make_fake_runtime,
    "docker": make_docker_runtime,
    "process": make_process_runtime,
}
