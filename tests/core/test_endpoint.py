"""Places on the network as people write them."""

import pytest

from reconciler.core.endpoint import Endpoint, is_address, parse_endpoint, parse_listen


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1:8421", "10.0.0.1", 8421),
        ("[2001:DB8::0:1]:80", "2001:db8::1", 80),
        ("[::]:1", "::", 1),
        ("hub:65535", "hub", 65535),
        ("Hub.Example.org:8421", "hub.example.org", 8421),
        ("3.example:1", "3.example", 1),
        ("a-1.b--c:1", "a-1.b--c", 1),
    ],
)
def test_a_host_and_a_port_are_read_and_written_again(text: str, host: str, port: int) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint == Endpoint(host=host, port=port)
    assert parse_endpoint(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no host and port"),
        ("hub", "no host and port"),
        ("hub:", "no host and port"),
        (":1", "no host and port"),
        ("::1:80", "no host and port"),
        ("hub:123456", "no host and port"),
        ("hub:8\N{ARABIC-INDIC DIGIT ONE}", "no host and port"),
        ("https://hub:1", "no host and port"),
        ("[fe80::1%eth0]:1", "no host and port"),
        ("hub:0", "has port 0"),
        ("hub:65536", "has port 65536"),
        ("10.0.0.300:1", "neither an IP address nor a name"),
        ("12:1", "neither an IP address nor a name"),
        ("-hub:1", "neither an IP address nor a name"),
        ("hub-:1", "neither an IP address nor a name"),
        ("a..b:1", "neither an IP address nor a name"),
        ("a b:1", "neither an IP address nor a name"),
        ("h\N{LATIN SMALL LETTER U WITH DIAERESIS}b:1", "neither an IP address nor a name"),
        ("[hub]:1", "no host and port"),
        ("[12]:1", "neither an IP address nor a name"),
        (f"{'a.' * 130}b:1", "neither an IP address nor a name"),
    ],
)
def test_what_is_none_is_said_to_be_so(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_endpoint(text)


def test_all_addresses_of_a_host_are_not_one_of_them() -> None:
    assert [parse_endpoint(f"{host}:1").is_any for host in ("0.0.0.0", "[::]", "[0::0]")] == [True] * 3
    assert [parse_endpoint(f"{host}:1").is_any for host in ("127.0.0.1", "[::1]", "hub")] == [False] * 3


def test_one_listens_on_an_address_by_number() -> None:
    assert parse_listen("tcp://[::1]:8421") == Endpoint(host="::1", port=8421)
    for text in ("10.0.0.1:8421", "unix:///run/x", "tls://10.0.0.1:1", "TCP://10.0.0.1:1"):
        with pytest.raises(ValueError, match=r"such as tcp://10\.0\.0\.1:8421"):
            parse_listen(text)
    with pytest.raises(ValueError, match="names 'localhost'"):
        parse_listen("tcp://localhost:8421")
    with pytest.raises(ValueError, match="has port 0"):
        parse_listen("tcp://10.0.0.1:0")


def test_a_name_is_no_address() -> None:
    assert [is_address(host) for host in ("10.0.0.1", "::1", "hub", "10.0.0.300", "")] == [True, True] + [False] * 3
