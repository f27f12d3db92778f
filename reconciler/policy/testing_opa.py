"""The Rego tests of a bundle, run by OPA itself: which fail, and which lines of the policies they reach.

`opa test` runs with an empty environment, on copies of the modules and the data, within a deadline, and with the
built-in functions that policies have here.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reconciler.core.problem import Problem, sort_problems
from reconciler.errors import PolicyEngineError
from reconciler.policy.builtins import restrict_capabilities
from reconciler.policy.bundle import is_test
from reconciler.policy.coverage import Coverage, read_opa_report
from reconciler.ports import PolicyBundle

_DEADLINE_S = 60.0
_CAPABILITIES, _DATA, _MODULES = "capabilities.json", "data.json", "modules"


def run_opa_tests(program: str, bundle: PolicyBundle) -> tuple[tuple[Problem, ...], Coverage | None]:
    """A problem for each test that fails, or the coverage where none does. Raises PolicyEngineError."""
    with tempfile.TemporaryDirectory(prefix="reconciler-opa-") as folder:
        try:
            capabilities = restrict_capabilities(json.loads(_run(program, folder, "capabilities", "--current")))
            (Path(folder) / _CAPABILITIES).write_text(json.dumps(capabilities), encoding="utf-8")
            (Path(folder) / _DATA).write_text(json.dumps(bundle.data), encoding="utf-8")
            names = _write_modules(Path(folder), bundle)
            test = ("test", "--format", "json", "--capabilities", _CAPABILITIES, _MODULES, _DATA)
            problems = sort_problems(_read_failures(json.loads(_run(program, folder, *test)), names))
            if problems:
                return problems, None
            report = json.loads(_run(program, folder, *test, "--coverage"))
        except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as exc:
            raise PolicyEngineError(f"{program} test: {exc}") from exc
    return (), read_opa_report(report, {name: path for name, path in names.items() if not is_test(path)})


def _run(program: str, folder: str, *arguments: str) -> bytes:
    """What it says. Raises ValueError where it says nothing but errors."""
    done = subprocess.run(
        [program, *arguments], cwd=folder, env={}, capture_output=True, timeout=_DEADLINE_S, check=False
    )
    if not done.stdout:
        raise ValueError(" ".join(done.stderr.decode(errors="replace").split())[:500] or f"status {done.returncode}")
    return done.stdout


def _write_modules(folder: Path, bundle: PolicyBundle) -> dict[str, str]:
    """The paths of the modules by the names that OPA has for them."""
    names: dict[str, str] = {}
    for path, text in bundle.modules.items():
        file = folder / _MODULES / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")
        names[f"{_MODULES}/{path}"] = path
    return names


def _read_failures(results: Sequence[Any] | None, names: dict[str, str]) -> Iterator[Problem]:
    for result in results or ():
        if result.get("fail") or result.get("error"):
            place = result["location"]
            why = (result.get("error") or {}).get("message", "an expression in it does not hold")
            yield Problem(
                file=names[place["file"]],
                line=int(place["row"]),
                column=int(place["col"]),
                message=f"{result['name']} fails: {why}",
            )
