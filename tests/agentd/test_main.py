"""The program as it is started."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from .conftest import PYTHON, REPOSITORY


def test_the_daemon_needs_the_standard_library_only() -> None:
    code = "import sys, reconciler.agentd.daemon; print(*sys.modules)"
    out = subprocess.run(
        [PYTHON, "-S", "-c", code],
        env={"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = {m for m in out.stdout.split() if m.partition(".")[0] == "reconciler"}
    assert {m for m in ours if not m.startswith("reconciler.agentd")} == {"reconciler"}


def test_a_wrong_configuration_is_refused_with_all_problems(tmp_path: Path) -> None:
    out = subprocess.run(
        [PYTHON, "-m", "reconciler.agentd"],
        env={
            "PYTHONPATH": str(REPOSITORY),
            "HUB_CONFIG": json.dumps({"heartbeat_s": "often", "executor": {"type": "magic"}}),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    row = json.loads(out.stderr)
    assert out.returncode == 64
    assert all(word in row["error"] for word in ("HUB_AGENT", "HUB_INSTANCE", "heartbeat_s", "magic"))
