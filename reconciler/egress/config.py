"""What the hub tells the egress process: JSON comes in, checked structs go out, or a readable refusal.

`Config` is swapped whole by `PUT /config`; `InstanceEntry` is one `PUT /instances/<name>`. All times are seconds,
costs dollars per million tokens. Keys of providers are never in it, only the files that hold them.
"""

from typing import Annotated, Literal

import msgspec

from reconciler.core.exposure import EXPOSURES, Exposure, Sensitivity
from reconciler.router.config import (
    EngineName,
    Name,
    OpaEntry,
    PolicyEntry,
    PolicyRules,
    RefusedError,
    TokenEntry,
    read_json,
)

__all__ = [
    "Config",
    "EngineName",
    "InstanceEntry",
    "Name",
    "OpaEntry",
    "PolicyEntry",
    "PolicyRules",
    "RefusedError",
    "TokenEntry",
    "read_json",
]

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Dollars = Annotated[float, msgspec.Meta(ge=0)]
Provider = Literal["anthropic", "openai", "ollama"]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Costs(_Strict, frozen=True):
    """Of tokens read and written, and of those read from a cache and put into it."""

    input: Dollars = 0.0
    output: Dollars = 0.0
    cache_read: Dollars = 0.0
    cache_write: Dollars = 0.0


class ProviderEntry(_Strict, frozen=True):
    """Who answers. `key_file` is the operator's; without one, no key is sent."""

    type: Provider
    url: str
    exposure: Exposure
    models: dict[str, Costs]
    key_file: str | None = None


class Limits(_Strict, frozen=True):
    """How long things may take, how much an instance may have under way, and when a provider counts as away.

    `first_byte_s` bounds the wait for the head of a streamed answer, `whole_s` that for one that comes at once;
    `idle_s` any silence after the head.
    """

    connect_s: Seconds = 5.0
    first_byte_s: Seconds = 120.0
    whole_s: Seconds = 600.0
    idle_s: Seconds = 300.0
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=256 * 2**20)] = 32 * 2**20
    parallel: Count = 16
    failures: Count = 5
    half_open_after_s: Seconds = 5.0


class AgentEntry(_Strict, frozen=True):
    """An agent as policies see it. `trust` is between 0 and 1."""

    role: str = ""
    labels: dict[str, str] = {}
    capabilities: tuple[str, ...] = ()
    trust: float = 1.0


class Config(_Strict, frozen=True):
    """The whole configuration; `digest` names its content, `exposures` says which work may go where.

    `policy` is given where it has rules for models, and with it who is asked, and the `agents` that use models.
    """

    digest: str
    revision: str = ""
    providers: dict[Name, ProviderEntry] = {}
    exposures: dict[str, tuple[Exposure, ...]] = msgspec.field(
        default_factory=lambda: dict[str, tuple[Exposure, ...]](EXPOSURES)
    )
    limits: Limits = Limits()
    rules: PolicyRules = PolicyRules()
    policy: PolicyEntry | None = None
    opa: OpaEntry | None = None
    agents: dict[Name, AgentEntry] = {}


class RouteEntry(_Strict, frozen=True):
    """The one model that an instance may use."""

    provider: Name
    model: str


class AllowanceEntry(_Strict, frozen=True):
    """Tokens of all kinds, and dollars; None for any amount."""

    tokens: Count | None = None
    cost: Dollars | None = None


class WorkEntry(_Strict, frozen=True):
    """A run of a task that the instance has now."""

    run: str
    task: str


class InstanceEntry(_Strict, frozen=True):
    """One instance: its tokens, its route, what it may use, and the most sensitive work that it ever had.

    `capabilities` are given where it has not all of its agent's.
    """

    agent: Name
    uid: Annotated[int, msgspec.Meta(ge=0)] = 0
    tokens: tuple[TokenEntry, ...] = ()
    route: RouteEntry | None = None
    per_task: AllowanceEntry = AllowanceEntry()
    per_day: AllowanceEntry = AllowanceEntry()
    sensitivity: Sensitivity = "public"
    work: tuple[WorkEntry, ...] = ()
    capabilities: tuple[str, ...] | None = None
    digest: str = ""


NO_CONFIG = Config(digest="")
