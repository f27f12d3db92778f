"""A hub killed at any step of the inbox.

No task is lost, none is recorded twice, each file is explained.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HUB = """
import json, os, sys
from reconciler.source.inbox import Inbox, Verdict

root, store = sys.argv[1:]
records = [json.loads(line) for line in open(store)] if os.path.exists(store) else []
target_by_key = {tuple(record["key"]): record["target"] for record in records}
inbox = Inbox(root)
inbox.prepare()
inbox.scan(1.0)
found = inbox.scan(2.0).value
for candidate in found.candidates:
    key = (candidate.name, candidate.digest, str(candidate.signature))
    if key not in target_by_key:
        target_by_key[key] = inbox.choose_target(candidate, Verdict.ACCEPTED)
        with open(store, "a") as out:
            out.write(json.dumps({"key": key, "target": target_by_key[key]}) + "\\n")
    inbox.claim(candidate, target_by_key[key])
for refused in found.refused:
    inbox.reject(refused, refused.reason)
for target in target_by_key.values():
    inbox.write_result(target, {"state": "succeeded"})
"""

POINTS = [f"inbox.{step}.{moment}" for step in ("read", "claim", "result", "error") for moment in ("before", "after")]


def run_hub(root: Path, store: Path, crash_at: str = "") -> int:
    done = subprocess.run(
        [sys.executable, "-c", HUB, str(root), str(store)],
        env={**os.environ, "RECONCILER_CRASH_AT": crash_at},
        timeout=120,
        check=False,
    )
    return done.returncode


@pytest.mark.parametrize("visit", [1, 2])
@pytest.mark.parametrize("point", POINTS)
def test_a_hub_killed_at_any_step_is_repaired_by_the_next_one(tmp_path: Path, point: str, visit: int) -> None:
    inbox, store = tmp_path / "inbox", tmp_path / "store"
    inbox.mkdir()
    (inbox / "one.yaml").write_text("1")
    (inbox / "two.yaml").write_text("2")
    os.mkfifo(inbox / "bad.yaml")
    (inbox / "worse.yaml").mkdir()

    assert run_hub(tmp_path, store, f"{point}:{visit}") == -signal.SIGKILL
    assert run_hub(tmp_path, store) == 0

    records = [json.loads(line) for line in store.read_text().splitlines()]
    assert sorted(r["target"] for r in records) == ["accepted/one.yaml", "accepted/two.yaml"]
    assert sorted(os.listdir(inbox)) == ["accepted", "rejected"]
    assert sorted(os.listdir(inbox / "accepted")) == [
        "one.result.json",
        "one.yaml",
        "two.result.json",
        "two.yaml",
    ]
    assert sorted(os.listdir(inbox / "rejected")) == [
        "bad.error.txt",
        "bad.yaml",
        "worse.error.txt",
        "worse.yaml",
    ]
