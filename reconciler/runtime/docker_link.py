"""The link to a Docker Engine: a client, its API version, its features, what its errors mean.

In: an address. Out: a docker-py `APIClient`, only inside `DockerLink.asking`, which turns each
exception of docker-py, requests, urllib3 and the socket into RuntimeUnavailableError or
RuntimeRefusedError. Nothing is connected before the first call, so that a hub can start while the
engine is down. Importing this module imports docker-py.
"""

import http.client
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import docker.transport
import docker.utils
import msgspec
import requests
import urllib3

from reconciler.errors import RuntimeRefusedError, RuntimeUnavailableError, UsageError
from reconciler.runtime.sandbox import EngineFeatures
from reconciler.runtime.unix_http import UnixAdapter

SPOKEN_API = (1, 41)
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
CONNECTIONS = 16

LIBRARY_ERRORS = (
    docker.errors.DockerException,
    docker.errors.StreamParseError,
    requests.exceptions.RequestException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,
    http.client.HTTPException,
    msgspec.MsgspecError,
    OSError,
)

# An engine that loses its containerd, or is shutting down, still answers: 500 and one of these.
_GOING_AWAY = (
    ": unavailable",
    "code = unavailable",
    "transport is closing",
    "error while dialing",
    "ttrpc: closed",
    "context canceled",
)
_TRY_LATER = (408, 429)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What the engine says of itself. `limitations` are sentences for the operator."""

    version: str
    features: EngineFeatures
    limitations: tuple[str, ...]


class DockerLink:
    """A link that opens itself at the first use and may be used by many threads at once.

    `address` None follows `DOCKER_HOST` and its companions, then the default socket. Raises
    UsageError when the address cannot be one.
    """

    def __init__(self, address: str | None, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._info: EngineInfo | None = None
        try:
            settings = {"base_url": address} if address else docker.utils.kwargs_from_env()
            self.address: str = settings.setdefault("base_url", DEFAULT_ADDRESS)
            self._settings = settings
            self._client = self._open(SPOKEN_API)
        except LIBRARY_ERRORS as error:
            given = address or os.environ.get("DOCKER_HOST")
            raise UsageError(f"{given!r} cannot be the address of a container engine") from error

    @contextmanager
    def asking(self, doing: str) -> Iterator[docker.APIClient]:
        """Give the client for one question; `doing` (`start container x`) opens the message."""
        with self._translating(doing):
            if self._info is None:
                self._negotiate(again=False)
            yield self._client

    def call(
        self,
        client: docker.APIClient,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        quiet_s: float | None = None,
    ) -> requests.Response:
        """One call that docker-py has no (or no lean) method for, inside `asking`.

        With `quiet_s` the answer is a stream, of which a read may take that long.
        """
        response: requests.Response = client.request(
            method,
            f"{client.base_url}/v{client.api_version}{path}",
            params=params,
            json=body,
            timeout=(self.timeout_s, quiet_s or self.timeout_s),
            stream=quiet_s is not None,
        )
        try:
            response.raise_for_status()
        except requests.exceptions.HTTPError as error:
            docker.errors.create_api_error_from_http_exception(error)
        return response

    def info(self) -> EngineInfo:
        """What the engine said at the last `refresh` or, without one, at the first use."""
        return self._info or self.refresh()

    def refresh(self) -> EngineInfo:
        """Ask again for version and features: the engine may have been upgraded meanwhile."""
        with self._translating("ask the engine what it can do"):
            return self._negotiate(again=True)

    def close(self) -> None:
        """Let the connections go. A later call opens new ones."""
        self._client.close()

    @contextmanager
    def _translating(self, doing: str) -> Iterator[None]:
        try:
            yield
        except LIBRARY_ERRORS as error:
            raise translate(error, doing, self.address) from error
        except KeyError as error:  # docker-py, too, takes keys out of answers without a look
            raise RuntimeUnavailableError(f"{doing}: what answers at {self.address} is no container engine") from error

    def _negotiate(self, *, again: bool) -> EngineInfo:
        with self._lock:
            if self._info is not None and not again:
                return self._info
            version = self._client.version(api_version=False)
            api = choose_api(version["ApiVersion"], version.get("MinAPIVersion", "1.12"))
            if self._client.api_version != _dotted(api):
                self._client.close()
                self._client = self._open(api)
            self._info = describe(self._client.info(), version, self.address)
            return self._info

    def _open(self, api: tuple[int, int]) -> docker.APIClient:
        client = docker.APIClient(
            version=_dotted(api),
            timeout=self.timeout_s,
            **self._settings,
        )
        # Proxies and ~/.netrc don't concern the engine, and looking costs a file read per call.
        client.trust_env = False
        own = client.get_adapter(f"{client.base_url}/")
        if isinstance(own, docker.transport.UnixHTTPAdapter):
            client.mount("http+docker://", UnixAdapter(own.socket_path, CONNECTIONS))
            own.close()
        return client


def choose_api(newest: str, oldest: str) -> tuple[int, int]:
    """The API version to speak: the one that was tested, or the nearest that the engine speaks."""
    return max(min(SPOKEN_API, _numbers(newest)), _numbers(oldest))


def describe(info: Mapping[str, Any], version: Mapping[str, Any], address: str) -> EngineInfo:
    """Read the answers of `/info` and `/version`."""
    features = EngineFeatures(
        memory=bool(info.get("MemoryLimit")),
        swap=bool(info.get("SwapLimit")),
        cpus=bool(info.get("CpuCfsQuota")) and bool(info.get("CpuCfsPeriod")),
        pids=bool(info.get("PidsLimit")),
    )
    security = [str(option) for option in info.get("SecurityOptions") or ()]
    return EngineInfo(
        version=str(version["Version"]),
        features=features,
        limitations=(
            *_missing_limits(features),
            *_missing_walls(security),
            *_unusual_engine(str(version["ApiVersion"]), address),
        ),
    )


def translate(error: Exception, doing: str, address: str) -> RuntimeUnavailableError | RuntimeRefusedError:
    """What a library's exception means: the engine said no, or there is no telling.

    A 500 about one container is a refusal, else one broken container would look like a lost
    engine.
    """
    if isinstance(error, docker.errors.APIError):
        status = error.status_code or 0
        said = " ".join(str(error.explanation or "no reason given").split())
        if _is_refusal(status, said):
            return RuntimeRefusedError(f"{doing}: the engine refuses: {said}")
        return RuntimeUnavailableError(f"{doing}: the engine at {address} answers {status}: {said}")
    if isinstance(error, docker.errors.StreamParseError):
        return RuntimeUnavailableError(f"{doing}: the engine at {address} sends broken JSON")
    if isinstance(error, docker.errors.DockerException):
        return RuntimeRefusedError(f"{doing}: docker-py refuses: {error}")
    why = _innermost(error)
    return RuntimeUnavailableError(f"{doing}: the engine at {address} does not answer: {why}")


def _is_refusal(status: int, said: str) -> bool:
    if status == 500:
        return not any(mark in said.lower() for mark in _GOING_AWAY)
    return 400 <= status < 500 and status not in _TRY_LATER


def _missing_limits(features: EngineFeatures) -> Iterator[str]:
    if not features.memory:
        yield "The engine cannot limit memory."
    elif not features.swap:
        yield "The engine cannot limit swap: a container may swap beyond its memory limit."
    if not features.cpus:
        yield "The engine cannot limit CPU time."
    if not features.pids:
        yield "The engine cannot limit the number of processes."


def _missing_walls(security: list[str]) -> Iterator[str]:
    seccomp = [option for option in security if option.startswith("name=seccomp")]
    if not seccomp:
        yield "The engine applies no seccomp profile."
    elif "profile=unconfined" in seccomp[0]:
        yield "The engine's default seccomp profile is 'unconfined'."
    if any(option.startswith(("name=rootless", "name=userns")) for option in security):
        yield (
            "The engine maps user ids (rootless or userns-remap): what containers share with the"
            " hub must belong to the mapped id."
        )


def _unusual_engine(api: str, address: str) -> Iterator[str]:
    if _numbers(api) < SPOKEN_API:
        yield f"The engine speaks API {api}; the oldest that was tested is {_dotted(SPOKEN_API)}."
    if not address.startswith("unix://"):
        yield "The engine is reached over a network: mounts work only if it runs on this host."


def _innermost(error: BaseException) -> str:
    """What the operating system said, far below what the libraries made of it."""
    said = "the connection broke"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, requests.RequestException):
            said = cause.strerror or str(cause) or said
        cause = cause.__cause__ or cause.__context__
    return said


def _numbers(api: str) -> tuple[int, int]:
    major, _, minor = api.partition(".")
    return int(major), int(minor)


def _dotted(api: tuple[int, int]) -> str:
    return f"{api[0]}.{api[1]}"
