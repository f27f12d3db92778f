"""What the hub tells the router over the control socket: JSON comes in, checked structs go out, or a readable refusal.

`Config` is swapped whole by `PUT /config`; `InstanceEntry` is one `PUT /instances/<name>`. All times are seconds, all
sizes bytes; `expires_at` is wall clock in epoch seconds. Unknown members are refused.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from reconciler.router.audience import Audience
from reconciler.router.buckets import Limit
from reconciler.router.message import DOTTED

NAME = r"^[a-z0-9](?:[-a-z0-9]{0,58}[a-z0-9])?\Z"
TOPIC_PATTERN = r"^(?:[a-z0-9_-]+|\*)(?:\.(?:[a-z0-9_-]+|\*))*(?:\.>)?\Z|^>\Z"

Name = Annotated[str, msgspec.Meta(pattern=NAME)]
Dotted = Annotated[str, msgspec.Meta(max_length=100, pattern=DOTTED)]
Address = Annotated[str, msgspec.Meta(max_length=100, pattern=r"^[a-z0-9-]+(/[a-z0-9-]+)?\Z")]
TopicPattern = Annotated[str, msgspec.Meta(max_length=100, pattern=TOPIC_PATTERN)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
PayloadMode = Literal["keep", "hash", "drop"]
EngineName = Literal["opa", "embedded", "builtin"]

_T = TypeVar("_T")


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class QuotaEntry(_Strict, frozen=True):
    """As much of a limit as a manifest says; the rest is the configuration's `rate`."""

    messages_per_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    bytes_per_s: Annotated[float, msgspec.Meta(ge=0)] | None = None


class Limits(_Strict, frozen=True):
    """`max_report_bytes` bounds what agents report of tasks to the hub, `max_body_bytes` all other messages.

    `ttl_s` bounds how long a message may wait in a mailbox; `lease_s` how long a reader may take to acknowledge.
    `rate` is what an instance may send where its agent has no quota, None for any amount; `rate_by_type` the same of
    single types.
    """

    mailbox_messages: Count = 1000
    mailbox_bytes: Count = 16 * 2**20
    lease_s: Seconds = 30.0
    ttl_s: Seconds = 600.0
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 * 2**20)] = 2**20
    max_report_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 * 2**20)] = 4 * 2**20
    request_timeout_s: Seconds = 120.0
    rate: Limit | None = None
    rate_by_type: dict[Dotted, QuotaEntry] = {}


class LogRules(_Strict, frozen=True):
    """What the message log keeps of payloads, by type where `per_type` names it, and how long rows stay."""

    payload: PayloadMode = "keep"
    retention_s: Seconds = 30 * 86400.0
    per_type: dict[str, PayloadMode] = {}


class PolicyRules(_Strict, frozen=True):
    """`engines` are asked in this order; `last_resort` says whether builtin may answer for one that cannot.

    `cache_entries` is how many decisions are remembered; 0 for none. With `crypto_required` agents message each other
    only where they sign.
    """

    allow_cross_agent: bool = True
    crypto_required: bool = False
    engines: tuple[EngineName, ...] = ("builtin",)
    last_resort: Literal["builtin", "deny"] = "builtin"
    cache_entries: Annotated[int, msgspec.Meta(ge=0)] = 100_000


class OpaEntry(_Strict, frozen=True):
    """Where OPA answers, how long a question may take, and its breaker. Without `url` it is the hub's own OPA."""

    url: str | None = None
    timeout_s: Seconds = 0.05
    failures: Count = 5
    half_open_after_s: Seconds = 2.0


class Grant(_Strict, frozen=True):
    """What an agent may send: message types to one agent, or to a topic. Types and topic may hold wildcards."""

    to: Name | None = None
    topic: TopicPattern | None = None
    types: tuple[TopicPattern, ...] = (">",)


class Subscription(_Strict, frozen=True):
    """`one`: each message goes to one instance of the agent; `all`: to each of them."""

    topic: TopicPattern
    delivery: Literal["one", "all"] = "one"


class AgentEntry(_Strict, frozen=True):
    """An agent as policies and the router see it. `trust` is between 0 and 1.

    `quota` stands in for the configuration's `rate`, `quota_by_type` for its `rate_by_type`. `klp` is the public key
    of a peer that signs.
    """

    labels: dict[str, str] = {}
    role: str = ""
    version: str = ""
    capabilities: tuple[str, ...] = ()
    trust: float = 1.0
    sends: tuple[Grant, ...] = ()
    subscribes: tuple[Subscription, ...] = ()
    quota: QuotaEntry = QuotaEntry()
    quota_by_type: dict[Dotted, QuotaEntry] = {}
    klp: str | None = None


class PolicyEntry(_Strict, frozen=True):
    """The Rego modules of one revision by path, and the data document."""

    digest: str
    modules: dict[str, str]
    data: dict[str, Any] = {}


class TlsEntry(_Strict, frozen=True):
    """Where agents without a socket come in: an address of this host, and the names that the certificate is for."""

    host: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Config(_Strict, frozen=True):
    """The whole configuration. `digest` names its content, `revision` the commit that it comes from."""

    digest: str
    revision: str
    limits: Limits = Limits()
    log: LogRules = LogRules()
    rules: PolicyRules = PolicyRules()
    agents: dict[Name, AgentEntry] = {}
    schemas: dict[Dotted, Any] = {}
    policy: PolicyEntry | None = None
    opa: OpaEntry | None = None
    tls: TlsEntry | None = None


class TokenEntry(_Strict, frozen=True):
    sha256: Sha256
    expires_at: float


class InstanceEntry(_Strict, frozen=True):
    """One instance: whose it is, which uid owns its socket, and the tokens accepted there.

    With `transport` tls it has no socket, and comes in by TCP. `capabilities` are given where it was made for one
    delegated task: it has these only, and nobody can address it, but its own requests are answered.
    """

    agent: Name
    uid: Annotated[int, msgspec.Meta(ge=0)] = 0
    tokens: tuple[TokenEntry, ...] = ()
    transport: Literal["unix", "tls"] = "unix"
    capabilities: tuple[Dotted, ...] | None = None
    digest: str = ""


class HubMessage(_Strict, frozen=True):
    """A message of the hub's own, or of an operator's. Without `id` the router gives it one.

    A `reply` is the hub's alone: to the instance whose request has the id `correlation_id`.
    """

    type: Dotted
    payload: msgspec.Raw
    pattern: Literal["request", "event", "broadcast", "reply"] = "event"
    id: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,128}\Z")] | None = None
    correlation_id: str | None = None
    ttl_s: Seconds | None = None
    sensitivity: Literal["public", "internal", "confidential", "restricted"] = "internal"
    traceparent: str | None = None


class HubSend(_Strict, frozen=True):
    """Body of `POST /messages`: to exactly one of an instance, `to` an agent or agent/instance, a topic, an audience.

    `actor` is the operator who sends it; empty where it is the hub's own.
    """

    message: HubMessage
    instance: Name | None = None
    to: Address | None = None
    topic: Dotted | None = None
    audience: Audience | None = None
    actor: str = ""


class InboxCursor(_Strict, frozen=True):
    """Body of `PUT /inbox-cursor`."""

    seq: Annotated[int, msgspec.Meta(ge=0)]


class RefusedError(ValueError):
    """What the hub sent cannot be taken. The message says which member is wrong."""


def read_json(body: bytes, shape: type[_T], what: str) -> _T:
    """`body` as a value of `shape`. Raises RefusedError that starts with `what`."""
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(f"{what}: {error}") from error
