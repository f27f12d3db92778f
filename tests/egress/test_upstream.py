"""Connections to providers by TLS: only to who proves to be the one that the operator named."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agentd.tls import TlsListener
from tests.egress.conftest import KEY
from tests.egress.places import Place, egress_process, provider
from tests.egress.raw import Line


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[TlsListener]:
    listener = TlsListener(tmp_path, "localhost")
    yield listener
    listener.close()


def serve_once(listener: TlsListener, asked: list[bytes]) -> threading.Thread:
    def serve() -> None:
        raw = listener.accept_raw()
        try:
            with listener.shake_hands(raw) as link:
                line = Line(link)
                while request := line.receive():
                    asked.append(request)
                    line.answer()
        except OSError:
            """It did not trust us."""
        finally:
            raw.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_who_has_a_good_certificate_gets_the_key_and_the_connection_is_kept(
    listener: TlsListener, run_folder: Path, tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", listener.ca_file)
    asked: list[bytes] = []
    serving = serve_once(listener, asked)
    with egress_process(run_folder, tmp_path / "data") as place:
        url = f"https://localhost:{listener.port}/base"
        place.configure(providers={"anthropic": provider(url, key_file=str(key_file))})
        writer = place.register()
        assert [writer.ask().status, writer.ask().status] == [200, 200]
    serving.join(60)
    assert len(asked) == 2
    assert asked[0].startswith(b"POST /base/v1/messages HTTP/1.1\r\nhost: localhost:%d\r\n" % listener.port)
    assert KEY.encode() in asked[0]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_nobody_else_gets_anything(
    listener: TlsListener,
    run_folder: Path,
    tmp_path: Path,
    key_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
) -> None:
    """An authority that nobody trusts; and a good certificate, but of another name."""
    if host == "127.0.0.1":
        monkeypatch.setenv("SSL_CERT_FILE", listener.ca_file)
    else:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    asked: list[bytes] = []
    serving = serve_once(listener, asked)
    with egress_process(run_folder, tmp_path / "data") as place:
        url = f"https://{host}:{listener.port}"
        place.configure(providers={"anthropic": provider(url, key_file=str(key_file))})
        reply = place.register().ask()
        assert (reply.status, reply.code) == (502, "provider_failed")
        assert "Traceback" not in place.log
    serving.join(60)
    assert asked == []


def test_a_name_that_nobody_has_is_a_fault_like_others(place: Place) -> None:
    place.configure(providers={"anthropic": provider("http://nobody.invalid:80")})
    assert place.register().ask().code == "provider_failed"
