"""Docker's event stream as hints about the containers of one fleet.

In: a point in time. Out: `RuntimeEvent`s in the engine's order. A quiet stream is opened again
after a while from where it was, which tells a quiet engine from a dead one; the engine remembers
only its last 256 events for that. A lost link raises. `close`, from any thread, ends all iterators.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker
import docker.errors
import requests
import urllib3

from reconciler.errors import RuntimeUnavailableError
from reconciler.ports import RuntimeEvent
from reconciler.runtime.docker_link import DockerLink
from reconciler.runtime.sandbox import FLEET_LABEL, engine_name

# What changes a container's state; commands executed in it, signals and attachments don't.
ACTIONS = (
    "create",
    "destroy",
    "die",
    "oom",
    "pause",
    "rename",
    "restart",
    "start",
    "stop",
    "unpause",
    "update",
)


class DockerEvents:
    """All open streams of one runtime.

    `quiet_s` is how long a stream may be quiet before it is opened again.
    """

    def __init__(self, link: DockerLink, fleet: str, quiet_s: float) -> None:
        self._link = link
        self._prefix = engine_name(fleet, "")
        self._filters = json.dumps({"type": ["container"], "label": [f"{FLEET_LABEL}={fleet}"], "event": list(ACTIONS)})
        self._quiet_s = quiet_s
        self._lock = threading.Lock()
        self._streams: set[requests.Response] = set()
        self._closed = False

    def follow(self, since_ns: int) -> Iterator[RuntimeEvent]:
        """Raises RuntimeUnavailableError when the link is lost."""
        while not self._closed:
            try:
                for event in self._read(since_ns):
                    since_ns = event.time_ns + 1
                    yield event
            except RuntimeUnavailableError:
                if self._closed:
                    return
                raise

    def close(self) -> None:
        """End all streams; later ones end at once."""
        with self._lock:
            self._closed = True
            for response in self._streams:
                _interrupt(response)

    def _read(self, since_ns: int) -> Iterator[RuntimeEvent]:
        """Events of one stream, until it has been quiet for `quiet_s`."""
        with (
            self._link.asking("follow events") as client,
            self._stream(client, since_ns) as response,
        ):
            pending = b""
            try:
                for chunk in response.raw.read_chunked():
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        yield self._event(json.loads(line))
            except urllib3.exceptions.ReadTimeoutError:
                return
            except json.JSONDecodeError as error:
                raise docker.errors.StreamParseError(error) from error
            raise ConnectionResetError("the engine ended the stream")

    @contextmanager
    def _stream(self, client: docker.APIClient, since_ns: int) -> Iterator[requests.Response]:
        seconds, nanoseconds = divmod(since_ns, 10**9)
        params = {"since": f"{seconds}.{nanoseconds:09d}", "filters": self._filters}
        response = self._link.call(client, "GET", "/events", params=params, quiet_s=self._quiet_s)
        with self._lock:
            self._streams.add(response)
            if self._closed:
                _interrupt(response)
        try:
            yield response
        finally:
            with self._lock:
                self._streams.discard(response)
            response.close()

    def _event(self, body: dict[str, Any]) -> RuntimeEvent:
        name = str(body["Actor"]["Attributes"]["name"])
        return RuntimeEvent(
            name=name.removeprefix(self._prefix),
            action=body["Action"],
            time_ns=body["timeNano"],
        )


def _interrupt(response: requests.Response) -> None:
    """Wake the thread that reads the response; without a socket to be found it wakes by itself."""
    sock = getattr(getattr(response.raw, "connection", None), "sock", None)
    if sock is None:
        return
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # already gone
