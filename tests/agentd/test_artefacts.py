from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.agentd.artefacts import (
    Artefact,
    ArtefactsTooLargeError,
    Collection,
    collect_artefacts,
)


def test_files_that_match_a_pattern_are_taken_also_from_folders(tmp_path: Path) -> None:
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts/a.svg").write_text("<svg/>")
    (tmp_path / "report.md").write_text("# Hi")
    (tmp_path / "notes.txt").write_text("no")
    found = collect_artefacts(str(tmp_path), ["report.md", "charts/*.svg"], 100)
    assert found == Collection(
        artefacts=(
            Artefact(name="charts/a.svg", content=b"<svg/>"),
            Artefact(name="report.md", content=b"# Hi"),
        )
    )


def test_without_patterns_nothing_is_taken(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("# Hi")
    assert collect_artefacts(str(tmp_path), [], 100) == Collection()


def test_links_pipes_and_linked_folders_are_left_out_and_named(tmp_path: Path) -> None:
    output, outside = tmp_path / "output", tmp_path / "outside"
    output.mkdir()
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    (output / "link.md").symlink_to(outside / "secret.md")
    (output / "folder.md").symlink_to(outside)
    os.mkfifo(output / "pipe.md")
    found = collect_artefacts(str(output), ["*.md", "folder.md/*"], 100)
    assert found == Collection(left_out=("folder.md", "link.md", "pipe.md"))


def test_an_output_directory_that_became_a_link_yields_nothing(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.md").write_text("secret")
    (tmp_path / "output").symlink_to(tmp_path / "outside")
    assert collect_artefacts(str(tmp_path / "output"), ["*"], 100) == Collection()


def test_the_limit_is_on_all_of_them_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"12345")
    assert len(collect_artefacts(str(tmp_path), ["*"], 10).artefacts) == 2
    with pytest.raises(ArtefactsTooLargeError, match="9 bytes"):
        collect_artefacts(str(tmp_path), ["*"], 9)


def test_the_hub_takes_a_hundred_of_them(tmp_path: Path) -> None:
    for i in range(101):
        (tmp_path / f"{i}.txt").touch()
    assert len(collect_artefacts(str(tmp_path), ["?.txt", "??.txt"], 10).artefacts) == 100
    with pytest.raises(ArtefactsTooLargeError, match="more than 100"):
        collect_artefacts(str(tmp_path), ["*"], 10)


def test_its_json_has_size_digest_and_content() -> None:
    assert Artefact(name="a", content=b"hello").to_json() == {
        "name": "a",
        "size": 5,
        "sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "content_base64": "aGVsbG8=",
    }
