"""Addresses of providers."""

import pytest

from reconciler.core.address import TcpAddress, UnixAddress
from reconciler.core.provider_url import ProviderUrl, parse_provider_url


@pytest.mark.parametrize(
    ("text", "url", "host"),
    [
        (
            "https://api.anthropic.com",
            ProviderUrl(address=TcpAddress(host="api.anthropic.com", port=443), is_tls=True),
            "api.anthropic.com",
        ),
        (
            "https://gate.example:8443/one/two/",
            ProviderUrl(address=TcpAddress(host="gate.example", port=8443), is_tls=True, base="/one/two"),
            "gate.example:8443",
        ),
        ("http://127.0.0.1:11434", ProviderUrl(address=TcpAddress(host="127.0.0.1", port=11434)), "127.0.0.1:11434"),
        ("http://[::1]:80/", ProviderUrl(address=TcpAddress(host="::1", port=80)), "[::1]"),
        ("https://[::1]", ProviderUrl(address=TcpAddress(host="::1", port=443), is_tls=True), "[::1]"),
        ("unix:///run/model.sock", ProviderUrl(address=UnixAddress(path="/run/model.sock")), "localhost"),
    ],
)
def test_what_is_an_address(text: str, url: ProviderUrl, host: str) -> None:
    assert parse_provider_url(text) == url
    assert parse_provider_url(text).host == host


@pytest.mark.parametrize(
    "text",
    [
        "api.anthropic.com",
        "ftp://host",
        "https://",
        "https://user:key@host",
        "https://host?x=1",
        "https://host/a b",
        "https://host\r\nx: y",
        "https://host:99999",
        "unix://relative",
        "https://host/../x/..;/",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is |has |names "):
        parse_provider_url(text)
