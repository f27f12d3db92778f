"""What OPA's own compiler finds wrong with policies that the embedded engine takes: it knows the types of values.

`opa check` runs with an empty environment, on copies of the modules, and with the capabilities that policies have here:
the same list of built-in functions (`builtins.py`).
"""

import json
import logging
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reconciler.core.problem import Problem, sort_problems
from reconciler.policy.builtins import restrict_capabilities
from reconciler.policy.bundle import answer_module, answered_kinds
from reconciler.ports import PolicyBundle

_CHECK_S = 20.0
_CAPABILITIES = "capabilities.json"
_MODULES = "modules"

_LOG = logging.getLogger("reconciler.policy")


def check_with_opa(program: str, bundle: PolicyBundle) -> Sequence[Problem]:
    """Each problem at its place; none where there is nothing to check, or the program does not work."""
    if not bundle.modules:
        return ()
    with tempfile.TemporaryDirectory(prefix="reconciler-opa-") as folder:
        try:
            capabilities = restrict_capabilities(json.loads(_run(program, folder, "capabilities", "--current").stdout))
            (Path(folder) / _CAPABILITIES).write_text(json.dumps(capabilities), encoding="utf-8")
            _write(Path(folder) / _MODULES, bundle.modules)
            options = ("--format", "json", "--capabilities", _CAPABILITIES)
            checked = _run(program, folder, "check", *options, _MODULES)
            said = json.loads(checked.stderr) if checked.returncode else {}
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as exc:
            _LOG.warning("%s does not check policies: %s", program, exc)
            return ()
    return sort_problems(_read_errors(said, bundle))


def _run(program: str, folder: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([program, *arguments], cwd=folder, env={}, capture_output=True, timeout=_CHECK_S, check=False)


def _write(folder: Path, modules: Mapping[str, str]) -> None:
    for path, text in {**modules, "answer.rego": answer_module(answered_kinds(modules))}.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")


def _read_errors(said: Mapping[str, Any], bundle: PolicyBundle) -> Iterator[Problem]:
    """OPA's `{errors: [{message, location: {file, row, col}}]}`. What stands in no module stands at the first one."""
    for error in said.get("errors", ()):
        location = error.get("location") or {}
        file = str(location.get("file", "")).removeprefix(f"{_MODULES}/")
        is_known = file in bundle.modules
        yield Problem(
            file=file if is_known else min(bundle.modules),
            line=int(location.get("row", 0)) if is_known else 0,
            column=max(int(location.get("col", 0)), 1) if is_known else 0,
            message=f"is not taken by OPA: {' '.join(str(error['message']).split())}",
        )
