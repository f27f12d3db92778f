"""HTTP over a unix socket for a requests session, in one pool of connections.

docker-py brings an adapter of its own, which keeps a pool per URL, so that it hardly ever uses a
connection twice, and forgets to close a socket that could not connect.
"""

import socket
from collections.abc import Mapping

import requests.adapters
import urllib3.connection
import urllib3.connectionpool


class UnixAdapter(requests.adapters.HTTPAdapter):
    """Mount it on a prefix; whatever the URL, the request goes to the socket at `path`.

    At most `idle` connections are kept for later; more than that may be open at once.
    """

    def __init__(self, path: str, idle: int) -> None:
        super().__init__()
        self._pool = _Pool(path, idle)

    def get_connection_with_tls_context(
        self, *_request: object, **_options: object
    ) -> urllib3.connectionpool.HTTPConnectionPool:
        return self._pool

    def request_url(self, request: requests.PreparedRequest, _proxies: Mapping[str, str] | None) -> str:
        return request.path_url

    def close(self) -> None:
        """Close the idle connections; the adapter can be used again."""
        self._pool.close()
        self._pool = _Pool(self._pool.path, self._pool.idle)
        super().close()


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    def __init__(self, path: str, idle: int) -> None:
        super().__init__("localhost", maxsize=idle)
        self.path = path
        self.idle = idle

    def _new_conn(self) -> "_Connection":
        return _Connection(self.path)


class _Connection(urllib3.connection.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if isinstance(self.timeout, int | float):
                sock.settimeout(self.timeout)
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        self.sock = sock
