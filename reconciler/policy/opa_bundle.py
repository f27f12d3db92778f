"""The policies of a revision as a signed bundle of OPA's: what `/bundles/hub.tar.gz` is. Pure.

    /.manifest          revision; the root is everything, so that nobody can put anything beside it
    /.signatures.json   HMAC over all files, by a key that only the hub and OPA know
    /data.json          the data document, with hub.revision
    /answer.rego        revision and decision as one value (`bundle.answer_module`)
    /modules/<path>     the modules, without tests

Equal policies and an equal key give equal bytes.
"""

import base64
import gzip
import hashlib
import hmac
import io
import json
import tarfile
from collections.abc import Mapping
from typing import Any

from reconciler.policy.bundle import answer_module, answered_kinds, without_tests


def build_archive(modules: Mapping[str, str], data: Mapping[str, Any], digest: str, key: bytes) -> bytes:
    """The bundle as gzipped tar. `digest` is the revision."""
    manifest = {"revision": digest, "roots": [""], "rego_version": 1}
    files = {
        ".manifest": _canonical(manifest),
        "data.json": _canonical(data),
        "answer.rego": answer_module(answered_kinds(modules)).encode(),
        **{f"modules/{path}": text.encode() for path, text in without_tests(modules).items()},
    }
    return gzip.compress(_pack({**files, ".signatures.json": _sign(files, key)}), mtime=0)


def etag_of(archive: bytes) -> str:
    """The entity tag of a bundle, quoted."""
    return f'"{hashlib.sha256(archive).hexdigest()}"'


def _pack(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(f"/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _sign(files: Mapping[str, bytes], key: bytes) -> bytes:
    """`.signatures.json`: one JWT (HS256) whose payload lists name and hash of every file."""
    hashes = [
        {"name": name, "hash": hashlib.sha256(content).hexdigest(), "algorithm": "SHA-256"}
        for name, content in sorted(files.items())
    ]
    signed = b".".join(_base64(_canonical(part)) for part in ({"alg": "HS256", "typ": "JWT"}, {"files": hashes}))
    signature = _base64(hmac.digest(key, signed, "sha256"))
    return _canonical({"signatures": [f"{signed.decode()}.{signature.decode()}"]})


def _canonical(value: object) -> bytes:
    """JSON exactly as OPA hashes it: keys sorted, no blanks, and no escapes but the necessary ones and these two."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").encode()


def _base64(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")
