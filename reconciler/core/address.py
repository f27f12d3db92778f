"""Where an HTTP server of this host or another listens: `http://host:port` or `unix:///path`. Pure."""

import ipaddress
import re
from dataclasses import dataclass
from typing import TypeAlias

MAX_SOCKET_PATH = 107

_HTTP = re.compile(
    r"http://(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(?P<port>\d{1,5}))?/?"
)
_WANTED = "write http://127.0.0.1:8181, or unix:///run/opa.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpAddress:
    """`host` is a name or an address without brackets."""

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only this host can be meant."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAddress:
    """The absolute path of a unix socket."""

    path: str

    @property
    def is_local(self) -> bool:
        return True

    def __str__(self) -> str:
        return f"unix://{self.path}"


Address: TypeAlias = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Raises ValueError that says what is wrong and what to write."""
    if text.startswith("unix://"):
        return _parse_socket(text.removeprefix("unix://"))
    found = _HTTP.fullmatch(text)
    if found is None:
        raise ValueError(f"is {text!r}, which is no address of an HTTP server; {_WANTED}")
    port = int(found["port"] or 80)
    if not 0 < port < 2**16:
        raise ValueError(f"has port {port}; ports are 1 to 65535")
    return TcpAddress(host=found["host"].strip("[]").lower(), port=port)


def _parse_socket(path: str) -> UnixAddress:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"names the socket {path!r}, which is no absolute path; write unix:///run/opa.sock")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(
            f"names a socket whose path has {len(path.encode())} bytes; the system allows {MAX_SOCKET_PATH}"
        )
    return UnixAddress(path=path)
