"""Prometheus' own tool, Debian's package `prometheus`. Tests that need it are skipped without, and say so."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def promtool(*arguments: str, folder: Path | None = None, text: str = "") -> None:
    """Run it; fails with what it says. RECONCILER_REQUIRE_PROMTOOL turns skipping for want of it into a failure."""
    program = shutil.which("promtool")
    if program is None:
        assert not os.environ.get("RECONCILER_REQUIRE_PROMTOOL"), "there is no promtool, and it is required"
        pytest.skip("there is no promtool; Debian: apt-get install --no-install-recommends prometheus")
    done = subprocess.run([program, *arguments], cwd=folder, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
