"""The fleet's certificate authority: what agents that come in by TCP know the router by.

Key and certificate are one file of the data directory, made when it is first needed; `ca.crt` beside it is the
certificate alone, which agents get. Certificates of the router are short-lived, and never on disk.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reconciler.core.endpoint import is_address
from reconciler.errors import StoreError
from reconciler.identity.hub_key import write_once

FOLDER: Final = "tls"
KEY_FILE, CERTIFICATE_FILE = "ca.pem", "ca.crt"
LIFE: Final = timedelta(days=7)
_CA_LIFE: Final = timedelta(days=3650)
_SKEW: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """`pem` is its certificate, which is no secret."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(self, names: Sequence[str], now: datetime) -> bytes:
        """A new key and its certificate for a server of these names and addresses, as PEM; valid for `LIFE`."""
        key = ec.generate_private_key(ec.SECP256R1())
        until = min(now + LIFE, self.certificate.not_valid_after_utc)
        certificate = (
            _start(_name("reconciler router"), self.certificate.subject, key, now, until)
            .add_extension(x509.SubjectAlternativeName([_show_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(is_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, SHA256())
        )
        return _show_key(key) + certificate.public_bytes(Encoding.PEM)


def open_authority(data: Path, fleet: str, now: datetime) -> Authority:
    """The authority of a data directory, made where there is none. Raises StoreError; it never replaces one."""
    folder = data / FOLDER
    file = folder / KEY_FILE
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not file.exists():
            write_once(file, _make(fleet, now))
        authority = _read(file.read_bytes())
        if not authority.certificate.not_valid_before_utc <= now < authority.certificate.not_valid_after_utc:
            raise ValueError(f"its certificate is not valid on {now:%Y-%m-%d}")
        _show(folder / CERTIFICATE_FILE, authority.pem)
    except (OSError, ValueError) as error:
        remedy = "remove it to have another one made, and start its agents again"
        raise StoreError(f"using the fleet's certificate authority {file} ({error}); {remedy}") from error
    return authority


def _make(fleet: str, now: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"reconciler fleet {fleet}")
    certificate = (
        _start(name, name, key, now, now + _CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(is_authority=True), critical=True)
        .sign(key, SHA256())
    )
    return _show_key(key) + certificate.public_bytes(Encoding.PEM)


def _read(pem: bytes) -> Authority:
    """Raises ValueError."""
    key = load_pem_private_key(pem, password=None)
    certificate = x509.load_pem_x509_certificate(pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("key and certificate do not belong together")
    return Authority(certificate=certificate, key=key)


def _show(file: Path, pem: bytes) -> None:
    """For people, who may want to look at it or hand it on."""
    if not file.exists() or file.read_bytes() != pem:
        file.unlink(missing_ok=True)
        write_once(file, pem)


def _start(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    """Valid from a little before now, for clocks that are behind."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _show_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)


def _show_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
