"""What a model is asked: an `Assignment` comes in, one text goes out. No I/O."""

from __future__ import annotations

import json

from reconciler.agentd.assignment import Assignment


def build_prompt(assignment: Assignment) -> str:
    """The prompt, then the input and the parents' results as JSON; empty where there is nothing."""
    parts = [assignment.prompt] if assignment.prompt.strip() else []
    if assignment.input is not None:
        parts.append(_show("Input", assignment.input))
    parts += [_show(f"Result of {name}", result) for name, result in assignment.parents.items()]
    return "\n\n".join(parts)


def _show(title: str, value: object) -> str:
    return f"{title} (JSON):\n{json.dumps(value, ensure_ascii=False, indent=1)}"
