"""The base of all models that read what people wrote: camelCase in YAML, frozen, unknown keys refused."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel

from reconciler.core.digest import digest


class Model(BaseModel):
    """Frozen; `extra="forbid"`; accepts and dumps camelCase names."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=False, strict=False
    )

    def written(self) -> dict[str, Any]:
        """What the author wrote, normalised: unset fields are absent, quantities are numbers in base units."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def digest(self) -> str:
        """The digest of `written()`: a new default in a release does not change it."""
        return digest(self.written())


def _check_json(value: object, depth: int = 0) -> object:
    if depth > 32:
        raise ValueError("is nested deeper than 32 levels")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if abs(value) > 2**53:
            raise ValueError(f"{value} is larger than JSON numbers can carry exactly; write it as text in quotes")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("NaN and infinity are not JSON values")
        return value
    if isinstance(value, list):
        return [_check_json(v, depth + 1) for v in value]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"key {key!r} is not text; put it in quotes")
        return {k: _check_json(v, depth + 1) for k, v in value.items()}
    raise ValueError(f"{value!s} is a {type(value).__name__}; put it in quotes to make it text")


def _check_text(value: object) -> object:
    if isinstance(value, bool | int | float):
        raise ValueError(f"is {value!r}, not text; put it in quotes")
    return value


def _one_line(value: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError("contains a control character or a line break")
    return value


JsonValue = Annotated[Any, BeforeValidator(_check_json)]
Text = Annotated[str, BeforeValidator(_check_text)]
Line = Annotated[Text, AfterValidator(_one_line)]
