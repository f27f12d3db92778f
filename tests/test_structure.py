"""The shape of the code: what is pure imports nothing that touches the world, and every kind has the same files.

Pure modules may import the standard library's computing parts, pydantic and the parsers of YAML and JSON Schema, and
from the project what is pure itself, or values and types: `ports`, `settings`, records of the store, `World` and its
kin in `kinds/kind.py`, the seal (a hash), and the builder of policy bundles. `pathlib` is allowed where paths are
values; methods of theirs that open files are not.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.kinds import KINDS

ROOT = Path(__file__).parents[1] / "reconciler"
KIND_FOLDERS = sorted(p for p in (ROOT / "kinds").iterdir() if (p / "__init__.py").exists())

STANDARD = {
    "binascii",
    "collections",
    "dataclasses",
    "datetime",
    "difflib",
    "enum",
    "fnmatch",
    "functools",
    "hashlib",
    "hmac",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "string",
    "struct",
    "types",
    "typing",
    "zoneinfo",
}
PATHS = {"pathlib"}
LIBRARIES = {"cronsim", "jsonschema_rs", "msgspec", "pydantic", "ruamel"}
PROJECT = (
    "reconciler.core.",
    "reconciler.errors",
    "reconciler.identity.seal",
    "reconciler.policy.bundle",
    "reconciler.ports",
    "reconciler.settings",
    "reconciler.store.records",
    "reconciler.kinds.kind",
    "reconciler.kinds.manifest",
    "reconciler.kinds.egress_entry",
    "reconciler.kinds.route_entry",
    "reconciler.kinds.tree",
    "reconciler.kinds.verdicts",
    "reconciler.kinds.agent.container",
    "reconciler.kinds.policy.observe",
    "reconciler.loop.observe",
)
PURE_STEPS = {"spec", "state", "plan", "check", "container", "executor", "view", "guard", "message", "secrets"}
PURE_STEPS |= {"delegate", "demand", "findings", "handover", "instance", "rest", "rollout"}
PURE_STEPS |= {"child", "delegation", "explain", "payload", "routing", "schedule", "step", "verdict"}
TASK_STEPS = PURE_STEPS | {"artefacts", "escalation", "judge", "request"}
"""What tasks have besides: there is more to them than to other kinds."""

TOUCHES_FILES = {
    "chmod",
    "exists",
    "glob",
    "is_dir",
    "is_file",
    "iterdir",
    "mkdir",
    "open",
    "read_bytes",
    "read_text",
    "rename",
    "resolve",
    "rmdir",
    "stat",
    "touch",
    "unlink",
    "write_bytes",
    "write_text",
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}


def pure_files() -> list[Path]:
    """All of `core/`, the pure steps of each kind, what they share, the guard, the plan, and the message."""
    files = list((ROOT / "core").glob("*.py"))
    files += [f for folder in KIND_FOLDERS for f in folder.glob("*.py") if f.stem in PURE_STEPS]
    files += [ROOT / "kinds" / name for name in ("manifest.py", "route_entry.py", "egress_entry.py")]
    files += [ROOT / "settings.py", ROOT / "settings_source.py"]
    files += [ROOT / "loop" / "guard.py", ROOT / "loop" / "plan.py", ROOT / "router" / "message.py"]
    return sorted(files)


def imports(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every import, also those inside functions: module, and the names taken from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or "", tuple(alias.name for alias in node.names)


def is_allowed(module: str, file: Path) -> bool:
    root = module.partition(".")[0]
    if root in STANDARD | LIBRARIES or module in PATHS:
        return True
    own = f"reconciler.{'.'.join(file.relative_to(ROOT).with_suffix('').parts[:-1])}."
    is_own_step = module.startswith(own) and module.rpartition(".")[2] in PURE_STEPS
    return is_own_step or f"{module}.".startswith(PROJECT) or module in PROJECT or is_pure_module(module)


def is_pure_module(module: str) -> bool:
    return (ROOT.parent / f"{module.replace('.', '/')}.py") in pure_files()


def faults(source: str, file: Path) -> list[str]:
    """What in a pure file could touch the world."""
    tree = ast.parse(source)
    found = [f"imports {module}" for module, _ in imports(tree) if not is_allowed(module, file)]
    for module, names in imports(tree):
        if module == "reconciler.store.records":
            found += [f"takes {n} from the store" for n in names if not n.endswith("Record") and not n.isupper()]
        if module == "reconciler.kinds.policy.observe":
            found += [f"takes {n} from observing" for n in names if not n.endswith("State")]
        if module == "reconciler.loop.observe":
            found += [f"takes {n} from observing" for n in names if n != "Observed"]
        if module == "datetime":
            found += [f"takes {n}" for n in names if n not in ("UTC", "date", "datetime", "timedelta", "timezone")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += _fault_of_call(node)
        if isinstance(node, ast.Global | ast.AsyncFunctionDef):
            found.append(f"has {type(node).__name__} at line {node.lineno}")
    return found


def _fault_of_call(node: ast.Call) -> list[str]:
    match node.func:
        case ast.Name(id=name) if name in IMPURE_CALLS:
            return [f"calls {name}() at line {node.lineno}"]
        case ast.Attribute(value=ast.Name(id="datetime" | "date"), attr=("now" | "utcnow" | "today") as name):
            return [f"asks the clock with {name}() at line {node.lineno}"]
        case ast.Attribute(attr=name) if name in TOUCHES_FILES:
            return [f"calls .{name}() at line {node.lineno}"]
    return []


@pytest.mark.parametrize("file", pure_files(), ids=lambda f: str(f.relative_to(ROOT)))
def test_a_pure_file_imports_and_calls_nothing_that_touches_the_world(file: Path) -> None:
    assert faults(file.read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "import subprocess as s",
        "from socket import socket",
        "from time import monotonic",
        "import random",
        "import secrets",
        "import logging",
        "import asyncio",
        "import docker",
        "from sqlmodel import select",
        "def f():\n    import sqlite3",
        "from reconciler.store.records import put_tasks",
        "from reconciler.store.store import Store",
        "from reconciler.runtime.docker import DockerRuntime",
        "from reconciler.kinds.task.apply import apply",
        "from datetime import datetime\nx = datetime.now()",
        "x = open('f')",
        "from pathlib import Path\nx = Path('f').read_text()",
        "async def f(): ...",
        "global x",
    ],
)
def test_the_check_finds_what_it_is_for(source: str) -> None:
    assert faults(source, ROOT / "kinds" / "agent" / "plan.py") != []


@pytest.mark.parametrize("folder", KIND_FOLDERS, ids=lambda f: f.name)
def test_every_kind_has_the_same_steps(folder: Path) -> None:
    steps = {f.stem for f in folder.glob("*.py")}
    assert {"__init__", "spec", "observe", "plan", "apply"} <= steps
    assert (
        steps - {"__init__", "spec", "observe", "plan", "apply"}
        <= {
            "state",
            "check",
            "container",
            "executor",
            "view",
            "receive",
            "question",
            "secrets",
            "transition",
            "evidence",
        }
        | TASK_STEPS
    )


def test_every_folder_of_a_kind_is_in_the_list_of_kinds() -> None:
    assert sorted(k.name for k in KINDS) == [f.name for f in KIND_FOLDERS]
    assert [k.name for k in KINDS] == ["schema", "policy", "router", "egress", "agent", "task"]


def test_kinds_do_not_know_each_other() -> None:
    for folder in KIND_FOLDERS:
        for file in folder.glob("*.py"):
            for module, _ in imports(ast.parse(file.read_text(encoding="utf-8"))):
                parts = module.split(".")
                other = parts[2] if parts[:2] == ["reconciler", "kinds"] and len(parts) > 2 else folder.name
                assert other == folder.name or not (ROOT / "kinds" / other).is_dir(), f"{file} imports {module}"


def test_only_the_list_of_kinds_names_them_in_the_loop_guard_and_tests_of_actions() -> None:
    named = {"guard.py", "apply.py"}
    for file in (ROOT / "loop").glob("*.py"):
        if file.name not in named | {"inbox.py", "serve.py", "recorded.py", "export.py", "run.py"}:
            assert 'kind == "' not in file.read_text(encoding="utf-8"), file


def test_the_loop_reaches_into_a_kind_only_where_files_are_dropped_defaults_checked_or_a_record_stands_in() -> None:
    for file in (ROOT / "loop").glob("*.py"):
        if file.name not in {"inbox.py", "desired.py", "recorded.py", "base.py", "export.py"}:
            for module, _ in imports(ast.parse(file.read_text(encoding="utf-8"))):
                assert not module.startswith("reconciler.policy"), f"{file} imports {module}"
                for folder in KIND_FOLDERS:
                    assert not module.startswith(f"reconciler.kinds.{folder.name}."), f"{file} imports {module}"


def test_each_library_that_touches_the_world_has_one_home() -> None:
    homes = {
        "docker": "runtime",
        "sqlmodel": "store",
        "sqlalchemy": "store",
        "git": "source",
        "regopy": "policy",
        "watchfiles": "loop",
        "uvicorn": ("router", "api"),
        "starlette": "api",
        "click": "cli",
        "rich": "cli",
    }
    for file in ROOT.rglob("*.py"):
        place = file.relative_to(ROOT).parts[0]
        for module, _ in imports(ast.parse(file.read_text(encoding="utf-8"))):
            home = homes.get(module.partition(".")[0])
            assert home is None or place in home, f"{file} imports {module}"
