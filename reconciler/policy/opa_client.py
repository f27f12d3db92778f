"""opa-python-client as the hub needs it: over unix sockets too, nothing tried twice, no redirects, no proxies, bounds.

The library takes proxies from the environment, follows redirects and reads answers without end; the session that is put
under it does not. Questions come in, `Said` goes out, or a `Fault` where there is no answer.
"""

import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from opa_client import OpaClient
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError, ReadTimeoutError

from reconciler.core.address import Address, UnixAddress
from reconciler.policy.opa_answer import MAX_ANSWER_BYTES, Fault, no_answer_within

_CHUNK_BYTES = 16 * 1024
_LINES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Status, and the JSON value of the body: None where it is empty, text where it is not JSON."""

    status: int
    value: object


class Client:
    """One server. A question takes `timeout_s`, connecting not included. Several threads may use it."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._client = _OpaClient(address, timeout_s)

    def query(
        self, package: str, rule: str, question: Mapping[str, Any], parameters: Mapping[str, str]
    ) -> Said | Fault | None:
        """What a rule says to a question; None where that is not JSON."""
        try:
            return Said(status=200, value=self._client.query_rule(question, package, rule, parameters))
        except _NotJsonError:
            return None
        except _StatusError as exc:
            return exc.said
        except (ValueError, RecursionError):
            return Said(status=200, value="no JSON")
        except (requests.Timeout, ReadTimeoutError):
            return no_answer_within(self._timeout_s)
        except (requests.RequestException, HTTPError) as exc:
            return Fault(reason=f"cannot be reached at {self._address}: {_innermost(exc)}")

    def close(self) -> None:
        self._client.close_connection()


class _NotJsonError(requests.RequestException):
    pass


class _StatusError(requests.RequestException):
    """An answer with another status than 200, which the library would not give to anybody."""

    def __init__(self, said: Said) -> None:
        super().__init__()
        self.said = said


class _OpaClient(OpaClient):  # type: ignore[misc]  # the library has no types
    """The library's client over another session."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        host, port = ("localhost", 80) if isinstance(address, UnixAddress) else (address.host, address.port)
        super().__init__(host=f"[{host}]" if ":" in host else host, port=port, retries=0, timeout=timeout_s)

    def _init_session(self) -> requests.Session:
        session = _Session()
        session.trust_env = False
        session.headers["Accept-Encoding"] = "identity"
        socket_path = self._address.path if isinstance(self._address, UnixAddress) else ""
        session.mount("http://", _SocketAdapter(socket_path) if socket_path else HTTPAdapter(pool_maxsize=_LINES))
        return session


class _Session(requests.Session):
    def request(self, *args: Any, **options: Any) -> requests.Response:
        """Raises `_StatusError` for every status but 200."""
        try:
            body = json.dumps(options.pop("json", None), allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as exc:
            raise _NotJsonError(str(exc)) from exc
        until = time.monotonic() + options["timeout"]
        options |= {"data": body, "headers": {"Content-Type": "application/json"}}
        options |= {"allow_redirects": False, "stream": True}
        response = super().request(*args, **options)
        response._content = _read_bounded(response, until)
        if response.status_code != 200:
            raise _StatusError(Said(status=response.status_code, value=_read_value(response._content)))
        return response


def _read_bounded(response: requests.Response, until: float) -> bytes:
    """The body. Raises RequestException when it is too large or not here in time, and HTTPError of urllib3's."""
    parts = bytearray()
    with response:
        while part := response.raw.read1(_CHUNK_BYTES):
            parts += part
            if len(parts) > MAX_ANSWER_BYTES:
                raise requests.RequestException(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
            if time.monotonic() > until:
                raise requests.Timeout
    return bytes(parts)


class _SocketAdapter(HTTPAdapter):
    """Everything goes to one unix socket, whatever the URL says."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._pool = _SocketPool(path)

    def get_connection_with_tls_context(self, *_args: Any, **_options: Any) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


class _SocketPool(HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", maxsize=_LINES)
        self._path = path

    def _new_conn(self) -> HTTPConnection:
        return _SocketConnection(self._path)


class _SocketConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _read_value(content: bytes) -> object:
    if not content:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content.decode(errors="replace")


def _innermost(exc: BaseException) -> str:
    """What the system said, below what the libraries made of it."""
    found: BaseException = exc
    while (inner := found.__cause__ or found.__context__) is not None:
        found = inner
    return (found.strerror if isinstance(found, OSError) else None) or str(found) or type(found).__name__
