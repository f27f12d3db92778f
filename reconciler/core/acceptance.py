"""Whether a result fits schemas and holds patterns: what is to be judged comes in, verdicts go out. Pure, and light.

Schema and result may both be made to take for ever, so that this runs in a child that can be killed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

PATTERN_BYTES = 2**20
"""How large a compiled pattern may be. Patterns are those of an engine without backtracking."""

_MOST = 5


def judge(result: object, checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each check (`{"schema": …}` or `{"regex": …}`) finds wrong with a result; empty where nothing is.

    A pattern is looked for anywhere in the text; a result that is no text is searched as JSON.
    """
    return [_against_schema(result, c["schema"]) if "schema" in c else _against(result, c["regex"]) for c in checks]


def _against_schema(result: object, schema: Mapping[str, Any]) -> str:
    import jsonschema_rs

    validator = jsonschema_rs.Draft202012Validator(
        dict(schema), pattern_options=jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES)
    )
    out: list[str] = []
    for error in validator.iter_errors(result):
        if len(out) == _MOST:
            return "; ".join([*out, "and more"])
        where = ".".join(str(part) for part in error.instance_path)
        message = error.message if len(error.message) < 300 else f"{error.message[:299]}…"
        out.append(f"{where}: {message}" if where else message)
    return "; ".join(out)


def _against(result: object, pattern: str) -> str:
    import jsonschema_rs

    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, separators=(",", ":"))
    validator = jsonschema_rs.Draft202012Validator(
        {"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES)
    )
    return "" if validator.is_valid(text) else f"the result has nothing that matches {pattern}"
