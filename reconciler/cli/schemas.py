"""`schemas`: the JSON schemas of hub, operator, agents and tasks, generated from the models for editors."""

import json
from pathlib import Path
from typing import Any

import click

from reconciler.cli.options import source_option


@click.command(name="schemas")
@click.option("--check", is_flag=True, help="Change nothing; exit 1 when a file is not current.")
@source_option
def schemas_command(check: bool, source: str) -> int:
    """Write the JSON schemas of all manifests into schemas/."""
    folder = Path(source) / "schemas"
    stale: list[str] = []
    for name, text in sorted(_all().items()):
        target = folder / f"{name}.schema.json"
        if target.exists() and target.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(target))
        if not check:
            folder.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    if not stale:
        click.echo("schemas are current")
        return 0
    for path in stale:
        click.echo(f"{'not current' if check else 'written'}: {path}")
    if check:
        click.echo("write them with: reconciler schemas", err=True)
        return 1
    return 0


def _all() -> dict[str, str]:
    from reconciler.kinds.agent.spec import AgentSpec
    from reconciler.kinds.task.spec import TaskSpec
    from reconciler.settings import Hub, Metadata, Operator

    return {
        "hub": _dump(Hub.model_json_schema(by_alias=True), "hub.yaml"),
        "operator": _dump(Operator.model_json_schema(by_alias=True), "operator.yaml"),
        "agent": _dump(_manifest("Agent", AgentSpec, Metadata), "agent manifest"),
        "task": _dump(_manifest("Task", TaskSpec, Metadata), "task manifest"),
    }


def _manifest(kind: str, spec: Any, metadata: Any) -> dict[str, Any]:
    inner = spec.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
    meta = metadata.model_json_schema(by_alias=True, ref_template="#/$defs/{model}")
    definitions = {**inner.pop("$defs", {}), **meta.pop("$defs", {})}
    return {
        "$defs": definitions,
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {"const": "reconciler/v1"},
            "kind": {"const": kind},
            "metadata": meta,
            "spec": inner,
        },
    }


def _dump(schema: dict[str, Any], title: str) -> str:
    """Defaults are left out: here they are in base units, and no author writes those."""
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_defaults(schema), "title": title}
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _without_defaults(node: Any) -> Any:
    if isinstance(node, list):
        return [_without_defaults(n) for n in node]
    if not isinstance(node, dict):
        return node
    quantity = node.get("type") == "string" and "pattern" in node
    drop = {"title", "default", "minimum", "exclusiveMinimum", "maximum"} if quantity else {"title", "default"}
    kept = {k: v for k, v in node.items() if k not in drop or isinstance(v, dict)}
    return {k: _without_defaults(v) for k, v in kept.items()}
