"""What Claude Code's image is made of is pinned: one version, each package by its digest."""

import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "images/claude"


def test_the_lock_pins_what_the_package_file_asks_for() -> None:
    asked = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    packages = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    assert packages.pop("")["dependencies"] == asked
    (version,) = asked.values()
    assert {p["version"] for p in packages.values()} == {version}
    assert all(p["integrity"].startswith("sha512-") for p in packages.values())
    assert {"linux-x64", "linux-arm64"} <= {name.rpartition("claude-code-")[2] for name in packages}
