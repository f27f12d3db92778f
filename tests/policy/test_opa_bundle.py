"""The bundle that OPA fetches: its files, its bytes, and that OPA takes exactly what we signed."""

import contextlib
import gzip
import io
import json
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from reconciler.policy.bundle import answer_module
from reconciler.policy.opa_bundle import build_archive, etag_of
from reconciler.policy.opa_config import KEY_ID
from tests.policy.example import example_bundle, module
from tests.policy.opa_servers import RealOpa, need_opa, real_opa, socket_folder

KEY = b"a key"
RULE = module('decision := {"allow": true}')
MODULES = {"policies/message.rego": RULE, "policies/message_test.rego": module("test_x if true", "hub.message_test")}
ODD: dict[str, Any] = {
    "odd": {
        "\u2028\u2029": '\x01\x1f\x7f\t\n\r\b\f"\\/<>&é😀\ud7ff',
        "Ä": [0, -1, 1.5, 0.1, -0.0, 1.0, 2**53, -(2**53), 123456789012345],
        "a\uffff": None,
        "a\U0001f600": True,
        "": [],
        "b": {},
    },
    "hub": {"revision": "r1"},
}


def unpack(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(archive))) as files:
        return {entry.name: files.extractfile(entry).read() for entry in files}  # type: ignore[union-attr]


def test_it_holds_what_answers_the_data_and_a_manifest_that_owns_everything() -> None:
    files = unpack(build_archive(MODULES, {"hub": {"revision": "r1"}, "x": 1}, "r1", KEY))
    assert json.loads(files.pop("/.manifest")) == {"revision": "r1", "roots": [""], "rego_version": 1}
    assert json.loads(files.pop("/data.json")) == {"hub": {"revision": "r1"}, "x": 1}
    assert set(json.loads(files.pop("/.signatures.json"))) == {"signatures"}
    assert files == {
        "/answer.rego": answer_module(["message"]).encode(),
        "/modules/policies/message.rego": RULE.encode(),
    }


def test_equal_policies_give_equal_bytes_and_others_another_tag() -> None:
    first = build_archive(MODULES, ODD, "r1", KEY)
    again = build_archive(dict(reversed(MODULES.items())), dict(reversed(ODD.items())), "r1", KEY)
    assert first == again
    tags = {etag_of(build_archive(MODULES, ODD, "r1", key)) for key in (KEY, b"another")}
    tags |= {etag_of(build_archive(MODULES, {**ODD, "x": 1}, "r1", KEY)), etag_of(build_archive({}, ODD, "r1", KEY))}
    assert len(tags) == 4
    assert all(tag.startswith('"') and tag.endswith('"') for tag in tags)


def start_with(archive: bytes, folder: Path, key: str) -> tuple[RealOpa | None, str]:
    """A server that verifies the bundle by the key; None where it refuses, and what it says then."""
    (folder / "hub.tar.gz").write_bytes(archive)
    arguments = ["run", "--server", "--addr", f"unix://{folder}/opa.sock", "--skip-version-check", "--log-level=error"]
    arguments += ["--bundle", f"{folder}/hub.tar.gz", "--verification-key", key, "--signing-alg", "HS256"]
    with open(folder / "opa.log", "wb") as log:
        process = subprocess.Popen([need_opa(), *arguments, "--verification-key-id", KEY_ID], stdout=log, stderr=log)
    server = RealOpa.__new__(RealOpa)
    server.address, server.process = RealOpa.address_in(folder), process
    end = time.monotonic() + 60
    while process.poll() is None:
        assert time.monotonic() < end, "OPA neither listens nor ends"
        with contextlib.suppress(OSError):
            server.call("GET", "/health")
            return server, ""
        time.sleep(0.02)
    return None, (folder / "opa.log").read_text()


def test_a_real_opa_takes_the_bundle_with_all_values_as_they_are() -> None:
    with socket_folder() as folder:
        server, said = start_with(build_archive(MODULES, ODD, "r1", KEY), folder, KEY.decode())
        assert server is not None, said
        try:
            assert server.call("GET", "/v1/data/odd")["result"] == ODD["odd"]
            answer = server.call("POST", "/v1/data/hub/answer/message", "{}")
            assert answer["result"] == {"revision": "r1", "decision": {"allow": True}}
        finally:
            server.kill()


@pytest.mark.parametrize("change", ["key", "data", "module", "signature"])
def test_a_real_opa_takes_no_bundle_that_was_changed_or_signed_by_another(change: str) -> None:
    archive = build_archive(MODULES, ODD, "r1", KEY if change != "key" else b"another")
    files = unpack(archive)
    if change == "data":
        files["/data.json"] = files["/data.json"].replace(b'"revision":"r1"', b'"revision":"r2"')
    elif change == "module":
        files["/modules/policies/message.rego"] += b"\n# and more\n"
    elif change == "signature":
        del files["/.signatures.json"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as out:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            out.addfile(entry, io.BytesIO(content))
    with socket_folder() as folder:
        server, said = start_with(gzip.compress(packed.getvalue()), folder, KEY.decode())
        if server is not None:
            server.kill()
        assert server is None
        assert "signature" in said or "digest mismatch" in said


def test_nobody_can_put_anything_beside_the_policies() -> None:
    bundle = example_bundle()
    with socket_folder() as folder:
        server, said = start_with(build_archive(bundle.modules, bundle.data, bundle.digest, KEY), folder, KEY.decode())
        assert server is not None, said
        try:
            for path, body in (("/v1/policies/x", "package hub.other"), ("/v1/data/roles", "{}"), ("/v1/data/y", "1")):
                with pytest.raises(AssertionError, match="owned by bundle"):
                    server.call("PUT", path, body)
        finally:
            server.kill()


def test_without_a_bundle_anybody_could() -> None:
    """The control of the test above."""
    with real_opa() as server:
        server.call("PUT", "/v1/policies/x", "package hub.other")
