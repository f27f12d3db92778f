"""Addresses of HTTP servers."""

import pytest

from reconciler.core.address import Address, TcpAddress, UnixAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address", "is_local"),
    [
        ("http://127.0.0.1:8181", TcpAddress(host="127.0.0.1", port=8181), True),
        ("http://127.9.9.9:1", TcpAddress(host="127.9.9.9", port=1), True),
        ("http://localhost:8181/", TcpAddress(host="localhost", port=8181), True),
        ("http://LocalHost:8181", TcpAddress(host="localhost", port=8181), True),
        ("http://[::1]:65535", TcpAddress(host="::1", port=65535), True),
        ("http://localhost", TcpAddress(host="localhost", port=80), True),
        ("http://localhost.example:8181", TcpAddress(host="localhost.example", port=8181), False),
        ("http://10.0.0.7:8181", TcpAddress(host="10.0.0.7", port=8181), False),
        ("http://0.0.0.0:8181", TcpAddress(host="0.0.0.0", port=8181), False),
        ("http://[::ffff:10.0.0.7]:8181", TcpAddress(host="::ffff:10.0.0.7", port=8181), False),
        ("unix:///run/opa.sock", UnixAddress(path="/run/opa.sock"), True),
    ],
)
def test_an_address_is_read_and_known_to_be_of_this_host(text: str, address: Address, is_local: bool) -> None:
    assert parse_address(text) == address
    assert address.is_local is is_local
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no address"),
        ("127.0.0.1:8181", "is no address"),
        ("https://127.0.0.1:8181", "is no address"),
        ("http://user:secret@127.0.0.1:8181", "is no address"),
        ("http://127.0.0.1:8181/v1", "is no address"),
        ("http://127.0.0.1:8181?x=1", "is no address"),
        ("http://127.0.0.1:8181#x", "is no address"),
        ("http://127.0.0.1:8181\r\nHost: x", "is no address"),
        ("http://::1:8181", "is no address"),
        ("http://-x:8181", "is no address"),
        ("http://127.0.0.1:0", "has port 0"),
        ("http://127.0.0.1:65536", "has port 65536"),
        ("unix://run/opa.sock", "no absolute path"),
        ("unix:///run/opa\0.sock", "no absolute path"),
        (f"unix:///{'x' * 107}", "108 bytes"),
    ],
)
def test_what_is_no_address_is_refused_with_what_to_write(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_address(text)
