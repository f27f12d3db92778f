"""A place on the network: `host:port`, the host an IP address (IPv6 in brackets) or a name of DNS. Pure."""

import ipaddress
import re
from dataclasses import dataclass

_SHAPE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:]+):(?P<port>[0-9]{1,5})")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_MAX_NAME = 253
_LISTEN = "tcp://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """`host` is an address without brackets, or a name in lower case."""

    host: str
    port: int

    @property
    def is_any(self) -> bool:
        """Whether it stands for all addresses of a host, which can be listened on but not called."""
        return self.host in ("0.0.0.0", "::")  # noqa: S104 - looked for, not bound

    @property
    def is_loopback(self) -> bool:
        """Whether it is an address that only this host itself can call."""
        return is_address(self.host) and ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Raises ValueError that says what is wrong and what to write."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise ValueError(f"is {text!r}, which is no host and port; write hub.example.org:8421 or [2001:db8::1]:8421")
    port = int(found["port"])
    if not 0 < port < 2**16:
        raise ValueError(f"has port {port}; write one from 1 to 65535, which agents can be told")
    return Endpoint(host=_parse_host(found["host"]), port=port)


def parse_listen(text: str) -> Endpoint:
    """`tcp://` and an address of this host, by number. Raises ValueError as `parse_endpoint` does."""
    if not text.startswith(_LISTEN):
        raise ValueError(f"is {text!r}; write the address and port of this host, such as tcp://10.0.0.1:8421")
    endpoint = parse_endpoint(text.removeprefix(_LISTEN))
    if not is_address(endpoint.host):
        raise ValueError(f"names {endpoint.host!r}; write an IP address of this host, such as tcp://10.0.0.1:8421")
    return endpoint


def is_address(host: str) -> bool:
    """Whether it is an IP address, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _parse_host(text: str) -> str:
    bare = text.strip("[]")
    if is_address(bare):
        return str(ipaddress.ip_address(bare))
    name = text.lower()
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        raise ValueError(f"has the host {text!r}, which is neither an IP address nor a name of DNS")
    return name
