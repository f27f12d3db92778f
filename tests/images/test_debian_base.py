"""Which Debian mirror the base is made from: the one that apt uses, in both of its formats."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "images"))

from debian_base import Mirror, find_mirror


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


def test_a_machine_without_sources_leaves_the_choice_to_debootstrap(apt: Path) -> None:
    assert find_mirror(apt) == Mirror()


def test_a_list_file_gives_the_first_main_archive(apt: Path) -> None:
    (apt / "sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb-src http://src.example/debian bookworm main\n"
        "deb http://security.example/debian-security bookworm-security main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ bookworm main contrib\n"
        "deb http://second.example/debian bookworm main\n"
    )
    assert find_mirror(apt) == Mirror(url="http://mirror.example/debian")


def test_a_deb822_file_gives_it_too(apt: Path) -> None:
    (apt / "sources.list.d/debian.sources").write_text(
        "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\n"
        "Components: main\n"
        "\n"
        "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\n"
        "Suites: trixie trixie-updates\n"
        "Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )
    assert find_mirror(apt) == Mirror(url="http://mirror.example/debian")


def test_archives_of_others_are_no_debian_mirror(apt: Path) -> None:
    (apt / "sources.list.d/other.list").write_text(
        "deb http://archive.example/ubuntu noble main universe\ndeb https://tools.example/apt stable main\n"
    )
    assert find_mirror(apt) == Mirror()


def test_signatures_are_checked_unless_apt_itself_is_told_not_to(apt: Path) -> None:
    (apt / "sources.list").write_text("deb [trusted=yes] http://mirror.example/debian bookworm main\n")
    assert find_mirror(apt) == Mirror(url="http://mirror.example/debian", trusted=True)
