"""Bundles and questions for the tests of policies: the example policies of this repository, and small ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconciler.core.yaml import load_documents
from reconciler.policy.bundle import build_bundle
from reconciler.ports import PolicyBundle

FOLDER = Path(__file__).resolve().parents[2] / "policies"


def read_example() -> dict[str, bytes]:
    """The files of `policies/` by their path in the repository."""
    return {f"policies/{path.name}": path.read_bytes() for path in sorted(FOLDER.glob("*.rego"))}


def example_data() -> Any:
    (value,) = load_documents((FOLDER / "data.yaml").read_bytes(), "policies/data.yaml").values
    return value


def example_bundle() -> PolicyBundle:
    built = build_bundle(read_example(), example_data())
    assert built.problems == ()
    assert built.bundle is not None
    return built.bundle


def module(body: str, package: str = "hub.message") -> str:
    """A module whose `body` begins on line 3."""
    return f"package {package}\nimport rego.v1\n{body}\n"


def bundle_of(modules: Mapping[str, str], data: object = None) -> PolicyBundle:
    built = build_bundle({path: text.encode() for path, text in modules.items()}, data)
    assert built.problems == ()
    assert built.bundle is not None
    return built.bundle


def message_bundle(body: str, data: object = None) -> PolicyBundle:
    """One module of message policy."""
    return bundle_of({"policies/message.rego": module(body)}, data)


def bundle_with_tests(body: str, tests: str) -> PolicyBundle:
    """A message policy and its tests, both beginning on line 3."""
    return bundle_of(
        {
            "policies/message.rego": module(body),
            "policies/message_test.rego": module(f"import data.hub.message\n{tests}", "hub.message_test"),
        }
    )


def problems_of(body: str) -> list[str]:
    """What is wrong with one module, as `line:column: message`; the body begins on line 3."""
    return [str(p).removeprefix("p.rego:") for p in build_bundle({"p.rego": module(body).encode()}).problems]


def message_question(**changes: Any) -> dict[str, Any]:
    """An analyst sends a finding to a reporter, as its manifest permits. `changes` replace parts."""
    return {
        "sender": {
            "agent": "counter",
            "instance": "counter-0",
            "role": "analyst",
            "labels": {},
            "capabilities": ["code.count"],
            "trust": 1.0,
        },
        "recipient": {"kind": "agent", "name": "writer", "role": "reporter", "labels": {}, "capabilities": []},
        "message": {"type": "finding.raised", "pattern": "request", "size_bytes": 100, "sensitivity": "internal"},
        "grants": {"sends": [{"to": "writer", "types": ["finding.raised"]}]},
        "time": "2026-11-20T09:00:00Z",
        **changes,
    }


def task_question(*, task: Mapping[str, Any] | None = None, agent: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A task of a commit's for an analyst in a sandbox, with no model. `task` and `agent` replace fields."""
    return {
        "task": {
            "name": "count-lines",
            "labels": {},
            "sensitivity": "internal",
            "source": "git",
            "uid": None,
            "requires": ["code.count"],
            "revision": "0123456789ab",
            "priority": 0,
            **(task or {}),
        },
        "agent": {
            "name": "counter",
            "role": "analyst",
            "labels": {},
            "capabilities": ["code.count", "git.read"],
            "trust": 1.0,
            "exposure": "none",
            "sandboxed": True,
            **(agent or {}),
        },
        "time": "2026-11-20T09:00:00Z",
    }
