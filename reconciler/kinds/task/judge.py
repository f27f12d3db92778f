"""The checks that the hub makes by itself, in a child that is killed when it takes too long or too much memory.

A result and checks come in, verdicts go out. The child has an empty environment and looks for nothing in the current
directory; what it reads and writes are its standard streams.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DEADLINE_S = 5.0
MEMORY_BYTES = 2**30

_ROOT = str(Path(__file__).resolve().parents[3])
_PROGRAM = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]),) * 2)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.path.insert(0, sys.argv[1])
from reconciler.core.acceptance import judge
result, checks = json.load(sys.stdin)
json.dump(judge(result, checks), sys.stdout)
"""


def judge(result: object, checks: Sequence[Mapping[str, Any]], deadline_s: float = DEADLINE_S) -> list[str]:
    """What each check finds wrong; empty where nothing is. A check that cannot be made has found that."""
    try:
        ended = subprocess.run(
            [sys.executable, "-I", "-B", "-c", _PROGRAM, _ROOT, str(MEMORY_BYTES)],
            input=json.dumps([result, list(checks)]).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"it took longer than {deadline_s:g}s to check"] * len(checks)
    except (OSError, RecursionError, ValueError) as exc:
        return [f"it cannot be checked: {type(exc).__name__}"] * len(checks)
    if ended.returncode != 0:
        return ["it cannot be checked: the result or the schema is too much for it"] * len(checks)
    found: list[str] = json.loads(ended.stdout)
    return found
