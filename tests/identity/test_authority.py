"""The fleet's certificate authority: made once, kept, and never replaced behind anybody's back."""

import ipaddress
import os
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from reconciler.errors import StoreError
from reconciler.identity.authority import LIFE, Authority, open_authority

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return open_authority(tmp_path, "00c0ffee", NOW)


def certificate_in(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_it_is_made_once_and_only_its_owner_can_read_the_key(tmp_path: Path, authority: Authority) -> None:
    folder = tmp_path / "tls"
    assert open_authority(tmp_path, "00c0ffee", NOW + LIFE).certificate == authority.certificate
    assert sorted(p.name for p in folder.iterdir()) == ["ca.crt", "ca.pem"]
    assert [stat.S_IMODE(p.stat().st_mode) for p in (folder, folder / "ca.pem")] == [0o700, 0o600]
    assert (folder / "ca.crt").read_bytes() == authority.pem
    assert b"PRIVATE" not in authority.pem
    assert "00c0ffee" in authority.certificate.subject.rfc4514_string()


def test_of_many_who_make_it_at_once_all_have_the_same(tmp_path: Path) -> None:
    code = (
        "import sys, datetime, pathlib; from reconciler.identity.authority import open_authority;"
        "now = datetime.datetime.now(datetime.UTC); sys.stdin.read(1);"
        "print(open_authority(pathlib.Path(sys.argv[1]), 'f', now).certificate.serial_number)"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("x")
        maker.stdin.flush()
    assert len({maker.communicate(timeout=120)[0] for maker in makers}) == 1
    assert [maker.returncode for maker in makers] == [0] * 4
    assert sorted(os.listdir(tmp_path / "tls")) == ["ca.crt", "ca.pem"]


def test_a_certificate_is_good_for_its_names_and_for_a_server(authority: Authority) -> None:
    made = certificate_in(authority.issue(["hub.test", "10.0.0.1", "::1"], NOW))
    builder = PolicyBuilder().store(Store([authority.certificate])).time(NOW)
    for name in (x509.DNSName("hub.test"), x509.IPAddress(ipaddress.ip_address("10.0.0.1"))):
        assert builder.build_server_verifier(name).verify(made, [])
    with pytest.raises(VerificationError):
        builder.build_server_verifier(x509.DNSName("other.test")).verify(made, [])
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_certificate_lasts_a_week_begins_a_little_early_and_has_a_key_of_its_own(authority: Authority) -> None:
    first, second = (certificate_in(authority.issue(["hub.test"], NOW)) for _ in range(2))
    assert first.not_valid_after_utc == NOW + LIFE == NOW + timedelta(days=7)
    assert first.not_valid_before_utc == NOW - timedelta(hours=1)
    assert first.public_key() != second.public_key()
    assert first.serial_number != second.serial_number


def test_no_certificate_outlives_the_authority(authority: Authority) -> None:
    end = authority.certificate.not_valid_after_utc
    assert certificate_in(authority.issue(["hub.test"], end - timedelta(days=1))).not_valid_after_utc == end


@pytest.mark.parametrize("days", [-2, 3651])
def test_one_that_is_not_valid_now_is_not_used_and_not_replaced(
    tmp_path: Path, authority: Authority, days: int
) -> None:
    with pytest.raises(StoreError, match=r"not valid on .*; remove it to have another one made"):
        open_authority(tmp_path, "00c0ffee", NOW + timedelta(days=days))
    assert open_authority(tmp_path, "00c0ffee", NOW).certificate == authority.certificate


def test_what_is_damaged_is_not_used_and_not_replaced(tmp_path: Path, authority: Authority) -> None:
    file = tmp_path / "tls" / "ca.pem"
    (tmp_path / "other").mkdir()
    other = open_authority(tmp_path / "other", "f", NOW)
    key, certificate = file.read_bytes().split(b"-----BEGIN CERTIFICATE", 1)
    for content in (b"", b"nonsense", key, b"-----BEGIN CERTIFICATE" + certificate, key + other.pem):
        file.write_bytes(content)
        with pytest.raises(StoreError, match="remove it to have another one made"):
            open_authority(tmp_path, "00c0ffee", NOW)
        assert file.read_bytes() == content
    del authority


def test_where_nothing_can_be_written_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("in the way")
    with pytest.raises(StoreError, match=r"certificate authority .*tls/ca\.pem"):
        open_authority(tmp_path, "f", NOW)


def test_the_certificate_beside_it_is_written_again_where_it_differs(tmp_path: Path, authority: Authority) -> None:
    shown = tmp_path / "tls" / "ca.crt"
    shown.write_text("something else")
    open_authority(tmp_path, "00c0ffee", NOW)
    assert shown.read_bytes() == authority.pem
    assert ssl.create_default_context(cafile=str(shown)).cert_store_stats()["x509_ca"] == 1
