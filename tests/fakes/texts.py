"""Texts of manifests with valid defaults: a test writes only what it is about."""

import json
from collections.abc import Mapping
from typing import Any

IMAGE = "agents/base:1"


def hub_text(**spec: Any) -> str:
    """`hub.yaml`; keywords are keys of its spec."""
    return _text("Hub", "test", {"loop": {"concurrency": 1}, **spec})


def agent_text(name: str = "writer", *, labels: Mapping[str, str] | None = None, **spec: Any) -> str:
    """An agent; keywords are keys of its spec, None leaves one out."""
    whole = {
        "role": "writer",
        "image": IMAGE,
        "capabilities": ["docs.write"],
        "executor": {"type": "command", "argv": ["true"]},
        **spec,
    }
    return _text("Agent", name, whole, labels)


def task_text(name: str = "changelog", *, labels: Mapping[str, str] | None = None, **spec: Any) -> str:
    """A task for `writer`; keywords are keys of its spec, None leaves one out."""
    return _text("Task", name, {"agent": "writer", **spec}, labels)


def _text(kind: str, name: str, spec: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> str:
    metadata = {"name": name, **({"labels": dict(labels)} if labels else {})}
    lines = [
        "apiVersion: reconciler/v1",
        f"kind: {kind}",
        f"metadata: {json.dumps(metadata, ensure_ascii=False)}",
        "spec:",
    ]
    lines += [f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in spec.items() if value is not None]
    return "\n".join(lines) + "\n"
