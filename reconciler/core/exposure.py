"""How far the words given to a model go, and which work may go there. Pure, and light enough for the egress process."""

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

Sensitivity: TypeAlias = Literal["public", "internal", "confidential", "restricted"]
Exposure: TypeAlias = Literal["private", "public"]

LEVELS: tuple[Sensitivity, ...] = ("public", "internal", "confidential", "restricted")
"""From the least to the most sensitive."""

PRIVATE_ONLY = frozenset({"confidential", "restricted"})
"""What never reaches a public provider, whatever anybody writes."""

EXPOSURES: Mapping[str, tuple[Exposure, ...]] = {
    "public": ("private", "public"),
    "internal": ("private", "public"),
    "confidential": ("private",),
    "restricted": ("private",),
}
"""Where work of each sensitivity may go, unless `hub.yaml` says less."""

_REMOTE = (":cloud", "-cloud")


def permits(exposures: Mapping[str, Collection[str]], sensitivity: str, exposure: str) -> bool:
    """Whether work of a sensitivity may reach a model of that exposure; what is unknown may not."""
    if sensitivity in PRIVATE_ONLY and exposure != "private":
        return False
    return exposure in exposures.get(sensitivity, ())


def highest(sensitivities: Collection[str]) -> Sensitivity:
    """The most sensitive of these; `public` where there are none, and what is unknown counts as the highest."""
    ranks: Mapping[str, int] = {level: rank for rank, level in enumerate(LEVELS)}
    return LEVELS[max((ranks.get(s, len(LEVELS) - 1) for s in sensitivities), default=0)]


def runs_remotely(model: str) -> bool:
    """Whether a server of this host hands the model of that name to others: what Ollama calls a cloud model."""
    return model.strip().casefold().endswith(_REMOTE)
