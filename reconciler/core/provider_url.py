"""Where a provider listens: `https://host`, `http://127.0.0.1:11434` or `unix:///run/model.sock`, with a path. Pure."""

import re
from dataclasses import dataclass

from reconciler.core.address import Address, TcpAddress, UnixAddress, parse_address

_HTTP = re.compile(r"(?P<scheme>https?)://(?P<place>[^/?#@\s]+)(?P<base>(?:/[A-Za-z0-9._~-]+)*)/?")
_WANTED = "write https://api.example.org, http://127.0.0.1:11434 or unix:///run/model.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderUrl:
    """`base` is what stands before `/v1` in each path; empty, or beginning with a slash."""

    address: Address
    is_tls: bool = False
    base: str = ""

    @property
    def host(self) -> str:
        """The value of the header Host."""
        if isinstance(self.address, UnixAddress):
            return "localhost"
        host = f"[{self.address.host}]" if ":" in self.address.host else self.address.host
        usual = 443 if self.is_tls else 80
        return host if self.address.port == usual else f"{host}:{self.address.port}"


def parse_provider_url(text: str) -> ProviderUrl:
    """Raises ValueError that says what is wrong and what to write."""
    if text.startswith("unix://"):
        return ProviderUrl(address=parse_address(text))
    found = _HTTP.fullmatch(text)
    if found is None:
        raise ValueError(f"is {text!r}, which is no address of a provider; {_WANTED}")
    is_tls = found["scheme"] == "https"
    address = parse_address(f"http://{found['place']}")
    has_port = re.search(r":\d+$", found["place"]) is not None
    if is_tls and not has_port and isinstance(address, TcpAddress):
        address = TcpAddress(host=address.host, port=443)
    return ProviderUrl(address=address, is_tls=is_tls, base=found["base"])
