"""Artefacts are kept by their digest and given back only when they are what was kept."""

import hashlib
from pathlib import Path

import pytest

from reconciler.errors import StoreError
from reconciler.kinds.task.artefacts import keep_artefact, read_artefact

CONTENT = b"# Report\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def test_what_was_kept_is_read_and_what_is_gone_is_not_there(tmp_path: Path) -> None:
    assert read_artefact(tmp_path, DIGEST) is None
    for _ in range(2):
        keep_artefact(tmp_path, DIGEST, CONTENT)
    assert read_artefact(tmp_path, DIGEST) == CONTENT
    assert [p.name for p in (tmp_path / "artefacts").rglob("*") if p.is_file()] == [DIGEST]


def test_what_was_changed_on_disk_is_not_given_out(tmp_path: Path) -> None:
    keep_artefact(tmp_path, DIGEST, CONTENT)
    (tmp_path / "artefacts" / DIGEST[:2] / DIGEST).write_bytes(b"forged")
    with pytest.raises(StoreError, match="is not what was kept"):
        read_artefact(tmp_path, DIGEST)
