"""The JSON Schemas (2020-12) of the hub's own message types: one file per type in `schemas/` beside this module.

Payloads that agents send to the hub are held to them; those that the hub sends conform to them, as tests prove. A
repository cannot replace them. `<type>.reply` is what the hub answers to a request of that type.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).with_name("schemas")
_SUFFIX = ".schema.json"


@cache
def own_schemas() -> Mapping[str, Mapping[str, Any]]:
    """Schemas by message type, and by `<type>.reply`."""
    return {file.name.removesuffix(_SUFFIX): json.loads(file.read_bytes()) for file in sorted(_FOLDER.iterdir())}
