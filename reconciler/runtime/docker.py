"""Containers on a Docker Engine, in the strict sandbox, through docker-py's low-level client.

In: container specs and ids. Out: what the engine has of this fleet. Effects: containers of the
fleet are made, changed, stopped and removed; nothing else is touched, no image is pulled. In the
engine a container is called `reconciler-<fleet>-<name>`, so that two fleets on one host never
meet; all names here are without that prefix. A container that carries the fleet's label under
another name keeps that one, marked, so that it cannot pass for an instance.

Creating and starting are one call each; an image is looked at once per image id.
"""

import math
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from reconciler.core.quantity import show_size
from reconciler.core.reading import Absent, Ok, Reading, Unavailable
from reconciler.errors import NameTakenError, RuntimeRefusedError, RuntimeUnavailableError
from reconciler.ports import (
    ContainerSpec,
    ContainerState,
    ContainerSummary,
    Limits,
    RuntimeEvent,
    RuntimeFacts,
    Usage,
)
from reconciler.runtime import sandbox
from reconciler.runtime.docker_fields import (
    ImageDefaults,
    Stored,
    Wanted,
    image_defaults,
    stored_fields,
    wanted_fields,
)
from reconciler.runtime.sandbox import FLEET_LABEL, container_uid

if TYPE_CHECKING:
    import docker

MAX_LOG_BYTES = 2**20
STRANGER = "engine:"
_BETWEEN_TRIES_S = 0.05
_RACES = ("already in progress", "is not running")
_NEVER = "0001-01-01T00:00:00Z"
_NO_ANSWER = (RuntimeUnavailableError, RuntimeRefusedError)


class _Listed(msgspec.Struct):
    """What is read of one entry of the list call."""

    id: str = msgspec.field(name="Id")
    names: list[str] = msgspec.field(name="Names")
    state: str = msgspec.field(name="State")
    image_id: str = msgspec.field(name="ImageID")
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


_LISTING = msgspec.json.Decoder(list[_Listed])


class DockerRuntime:
    """`ports.Runtime` on a Docker Engine. May be used by many threads at once.

    `base_url` None follows `DOCKER_HOST`, then the default socket. `timeout_s` is how long the
    engine may be silent. Connects at the first call. Raises UsageError when `base_url` cannot be
    an engine's address.
    """

    def __init__(self, fleet: str, base_url: str | None = None, timeout_s: float = 30.0) -> None:
        # docker-py is slow to import, which commands that need no engine must not pay for.
        import docker.errors

        from reconciler.runtime.docker_events import DockerEvents
        from reconciler.runtime.docker_link import DockerLink

        self._fleet = fleet
        self._errors = docker.errors
        self._link = DockerLink(base_url, timeout_s)
        self._events = DockerEvents(self._link, fleet, quiet_s=timeout_s)
        self._images: dict[str, ImageDefaults] = {}

    @property
    def name(self) -> str:
        return "docker"

    def close(self) -> None:
        """End all event iterators and let the connections go."""
        self._events.close()
        self._link.close()

    def facts(self) -> Reading[RuntimeFacts]:
        """Asks the engine each time."""
        try:
            info = self._link.refresh()
        except _NO_ANSWER as error:
            return Unavailable(reason=str(error))
        return Ok(RuntimeFacts(name=self.name, version=info.version, limitations=info.limitations))

    def resolve_image(self, reference: str) -> Reading[str]:
        """The id of a local image; nothing is pulled."""
        try:
            with self._link.asking(f"look up image {reference}") as client:
                try:
                    body = client.inspect_image(reference)
                except self._errors.APIError as error:
                    if error.status_code in (400, 404):  # no possible name, or nobody's
                        return Absent()
                    raise
                image_id: str = body["Id"]
                self._images[image_id] = image_defaults(body)
                return Ok(image_id)
        except _NO_ANSWER as error:
            return Unavailable(reason=str(error))

    def normalise(self, spec: ContainerSpec) -> Mapping[str, Any]:
        """The compared fields. What `update` can change is below `limits`, and nothing else is.

        Depends on the engine's features and on what the image adds, each of which is read once.
        """
        return wanted_fields(
            Wanted(
                spec=spec,
                fleet=self._fleet,
                features=self._link.info().features,
                image=self._image(spec.image_id) or ImageDefaults(),
            )
        )

    def uid_for(self, name: str) -> int:  # noqa: ARG002 - the port's
        """The same for all: each container has its own file system and processes."""
        return container_uid()

    def list(self) -> Reading[Sequence[ContainerSummary]]:
        """One whose name in the engine is not of our form is called `engine:<that name>`: it is no instance of ours."""
        return self._list(FLEET_LABEL, self._fleet, stranger=STRANGER)

    def list_labelled(self, label: str, value: str) -> Reading[Sequence[ContainerSummary]]:
        """Those of other fleets are called by their names in the engine."""
        return self._list(label, value, stranger="")

    def _list(self, label: str, value: str, stranger: str) -> Reading[Sequence[ContainerSummary]]:
        filters = msgspec.json.encode({"label": [f"{label}={value}"]}).decode()
        params = {"all": "1", "filters": filters}
        try:
            with self._link.asking("list containers") as client:
                response = self._link.call(client, "GET", "/containers/json", params=params)
                listed = _LISTING.decode(response.content)
        except _NO_ANSWER as error:
            return Unavailable(reason=str(error))
        return Ok([self._summary(entry, stranger) for entry in listed])

    def usage(self, name: str) -> Reading[Usage]:
        try:
            with self._link.asking(f"look what container {name} uses") as client:
                try:
                    stats = client.stats(sandbox.engine_name(self._fleet, name), stream=False, one_shot=True)
                except self._errors.NotFound:
                    return Absent()
        except _NO_ANSWER as error:
            return Unavailable(reason=str(error))
        return Ok(_usage(stats)) if stats.get("memory_stats") else Absent()

    def inspect(self, name: str) -> Reading[ContainerState]:
        try:
            with self._link.asking(f"inspect container {name}") as client:
                try:
                    body = client.inspect_container(sandbox.engine_name(self._fleet, name))
                except self._errors.NotFound:
                    return Absent()
                if (body["Config"].get("Labels") or {}).get(FLEET_LABEL) != self._fleet:
                    return Absent()
                stored = Stored(
                    body=body,
                    features=self._link.info().features,
                    image=self._image(body["Image"]) or ImageDefaults(),
                )
                return Ok(_state(name, stored))
        except _NO_ANSWER as error:
            return Unavailable(reason=str(error))

    def create(self, spec: ContainerSpec) -> str:
        """Also refused: an image that is absent, and one with volumes, which no limit holds."""
        doing = f"create container {spec.name}"
        image = self._image(spec.image_id)
        if image is None:
            raise RuntimeRefusedError(f"{doing}: no image {spec.image} ({spec.image_id})")
        if image.volumes:
            raise RuntimeRefusedError(
                f"{doing}: image {spec.image} declares volumes ({', '.join(image.volumes)}), which"
                " the sandbox does not allow; build it without VOLUME"
            )
        body = sandbox.create_body(spec, self._fleet, self._link.info().features)
        engine_name = sandbox.engine_name(self._fleet, spec.name)
        with self._link.asking(doing) as client:
            try:
                container_id: str = client.create_container_from_config(body, engine_name)["Id"]
            except self._errors.APIError as error:
                if error.status_code == 409:
                    raise NameTakenError(f"{doing}: {error.explanation}") from error
                raise
            return container_id

    def start(self, container_id: str) -> None:
        """A program that cannot be executed is no refusal: the container ends with 126 or 127."""
        with self._link.asking(f"start container {container_id[:12]}") as client:
            client.start(container_id)

    def update(self, container_id: str, limits: Limits) -> None:
        """Memory in use is not taken away: on some kernels that would kill the container."""
        doing = f"update container {container_id[:12]}"
        features = self._link.info().features
        with self._link.asking(doing) as client:
            if features.memory:
                self._check_memory(client, doing, container_id, limits.memory_bytes)
            path = f"/containers/{container_id}/update"
            self._link.call(client, "POST", path, body=sandbox.limits_body(limits, features))

    def stop(self, container_id: str, grace_s: float) -> None:
        """The grace period is rounded up to whole seconds."""
        with self._link.asking(f"stop container {container_id[:12]}") as client:
            try:
                client.stop(container_id, timeout=max(0, math.ceil(grace_s)))
                client.wait(container_id, timeout=self._link.timeout_s, condition="not-running")
            except self._errors.NotFound:
                return

    def remove(self, container_id: str) -> None:
        """Outlasts others who remove or stop it at the same moment."""
        deadline = time.monotonic() + self._link.timeout_s
        with self._link.asking(f"remove container {container_id[:12]}") as client:
            while not self._is_removed(client, container_id, is_last_try=time.monotonic() >= deadline):
                time.sleep(_BETWEEN_TRIES_S)

    def logs(self, container_id: str, tail: int) -> str:
        """Standard output and error as they came, at most the last MiB of them.

        The engine counts each 16 KiB of a longer line as one.
        """
        params = {"stdout": "1", "stderr": "1", "tail": str(max(0, tail))}
        with self._link.asking(f"read logs of container {container_id[:12]}") as client:
            path = f"/containers/{container_id}/logs"
            frames = self._link.call(client, "GET", path, params=params).content
        return join_frames(frames)[-MAX_LOG_BYTES:].decode("utf-8", errors="replace")

    def events(self, since_ns: int) -> Iterator[RuntimeEvent]:
        """Ends at `close`. The engine remembers only its last 256 events for `since_ns`."""
        return self._events.follow(since_ns)

    def _check_memory(self, client: "docker.APIClient", doing: str, container_id: str, limit_bytes: int) -> None:
        """Raises RuntimeRefusedError if a lower limit is below what is in use. Takes a second."""
        if limit_bytes >= client.inspect_container(container_id)["HostConfig"]["Memory"]:
            return
        used_bytes = _memory_in_use(client.stats(container_id, stream=False, one_shot=True))
        if used_bytes > limit_bytes:
            raise RuntimeRefusedError(
                f"{doing}: it uses {show_size(used_bytes)} of memory,"
                f" more than the new limit of {show_size(limit_bytes)}"
            )

    def _is_removed(self, client: "docker.APIClient", container_id: str, *, is_last_try: bool) -> bool:
        """Try to remove. A conflict with somebody's removal or kill resolves itself, one way or the other."""
        try:
            client.remove_container(container_id, v=True, force=True)
        except self._errors.NotFound:
            return True
        except self._errors.APIError as error:
            if is_last_try or not any(mark in str(error.explanation) for mark in _RACES):
                raise
            return False
        return True

    def _image(self, image_id: str) -> ImageDefaults | None:
        """What an image adds to its containers; None when it is absent. Ids name content."""
        if image_id not in self._images:
            with self._link.asking(f"look up image {image_id}") as client:
                try:
                    self._images[image_id] = image_defaults(client.inspect_image(image_id))
                except self._errors.NotFound:
                    return None
        return self._images[image_id]

    def _summary(self, entry: _Listed, stranger: str) -> ContainerSummary:
        engine_name = entry.names[0].lstrip("/") if entry.names else entry.id
        prefix = sandbox.engine_name(self._fleet, "")
        is_ours_by_name = engine_name.startswith(prefix)
        return ContainerSummary(
            id=entry.id,
            name=engine_name.removeprefix(prefix) if is_ours_by_name else f"{stranger}{engine_name}",
            state=_state_word(entry.state),
            labels=entry.labels or {},
            image_id=entry.image_id,
        )


def join_frames(data: bytes) -> bytes:
    """The output in an answer of the logs call, without the 8-byte headers of its frames.

    A container with a terminal has no frames; its output is returned as it is.
    """
    out = bytearray()
    at = 0
    while at + 8 <= len(data):
        stream, length = struct.unpack_from(">B3xL", data, at)
        if stream > 2 or at + 8 + length > len(data):
            return data
        out += data[at + 8 : at + 8 + length]
        at += 8 + length
    return bytes(out)


def _state(name: str, stored: Stored) -> ContainerState:
    state = stored.body["State"]
    word = _state_word(state["Status"])
    return ContainerState(
        id=stored.body["Id"],
        name=name,
        state=word,
        fields=stored_fields(stored),
        labels=stored.config.get("Labels") or {},
        exit_code=state["ExitCode"] if word in ("exited", "dead") else None,
        oom_killed=bool(state.get("OOMKilled")),
        started_at="" if state["StartedAt"] == _NEVER else state["StartedAt"],
        pid=state["Pid"],
    )


def _state_word(status: str) -> str:
    """The engine has a word more: a container that is being removed is as good as dead."""
    return "dead" if status == "removing" else status


def _usage(stats: Mapping[str, Any]) -> Usage:
    cpu = (stats.get("cpu_stats") or {}).get("cpu_usage") or {}
    moved = (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive") or ()
    by_op = {op: sum(int(m["value"]) for m in moved if m["op"].lower() == op) for op in ("read", "write")}
    return Usage(
        cpu_s=int(cpu.get("total_usage", 0)) / 1e9,
        memory_bytes=_memory_in_use(stats),
        read_bytes=by_op["read"],
        written_bytes=by_op["write"],
    )


def _memory_in_use(stats: Mapping[str, Any]) -> int:
    """Bytes that dropping file caches would not give back; 0 when nothing is running."""
    memory = stats.get("memory_stats") or {}
    detail = memory.get("stats") or {}
    cache = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    return max(0, int(memory.get("usage", 0)) - int(cache))
