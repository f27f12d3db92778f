"""`operator.yaml` and `hub.yaml` as frozen models, and the rule that the repository can only narrow the operator.

Bytes come in, settings and problems go out. Defaults are those of the contracts, §1 and §2.
"""

import fnmatch
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    field_validator,
    model_validator,
)

from reconciler.core.address import parse_address
from reconciler.core.model import JsonValue, Line, Model, Text
from reconciler.core.names import DottedName, Name
from reconciler.core.problem import Problem
from reconciler.core.quantity import ByteRate, Duration, Rate, Size

# --- hub.yaml ---------------------------------------------------------------------------------------------------------

PruneMode = Literal["on", "off", "budget"]
DriftMode = Literal["correct", "report", "ignore"]
LogMode = Literal["keep", "hash", "drop"]
RelativePath = Annotated[Line, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")]


class Prune(Model):
    agents: PruneMode = "budget"
    policies: PruneMode = "budget"
    tasks: PruneMode = "budget"


class PruneBudget(Model):
    """A plan is refused when it removes more than `count` and more than `percent` of a kind."""

    count: StrictInt = Field(default=3, ge=0)
    percent: StrictInt = Field(default=20, ge=0, le=100)


class Drift(Model):
    agents: DriftMode = "correct"
    policies: DriftMode = "correct"
    router: DriftMode = "correct"


class Loop(Model):
    resync: Duration = Field(default=30.0, ge=0.05)
    concurrency: StrictInt = Field(default=4, ge=1, le=64)
    stalled_after: StrictInt = Field(default=5, ge=1)
    prune: Prune = Prune()
    prune_budget: PruneBudget = PruneBudget()
    drift: Drift = Drift()


class Paths(Model):
    agents: RelativePath = "agents.d"
    policies: RelativePath = "policies"
    schemas: RelativePath = "schemas"
    tasks: RelativePath = "tasks.d"
    inbox: RelativePath = "inbox"


class HubRuntime(Model):
    prefer: Literal["docker", "process"] = "docker"
    images: tuple[Line, ...] = ("agents/*",)
    network: Literal["isolated"] = "isolated"


class Mailbox(Model):
    messages: StrictInt = Field(default=1000, ge=1, le=1_000_000)
    bytes: Size = Field(default=16 * 2**20, ge=1)


class TypeRate(Model):
    """What an instance may send of one message type; a part that is left out is that of all types."""

    messages: Rate | None = None
    bytes: ByteRate | None = None


class RouterRate(Model):
    """What each instance may send, unless its agent has a quota."""

    messages: Rate = 10.0
    bytes: ByteRate = float(2**20)
    per_type: dict[DottedName, TypeRate] = Field(default_factory=dict)


def _default_modes() -> dict[str, LogMode]:
    return {"agent.heartbeat": "drop"}


class MessageLog(Model):
    payload: LogMode = "keep"
    retention: Duration = 30 * 86400.0
    per_type: dict[DottedName, LogMode] = Field(default_factory=_default_modes)


class Router(Model):
    mailbox: Mailbox = Mailbox()
    lease: Duration = Field(default=30.0, ge=0.05)
    ttl: Duration = Field(default=600.0, ge=0.05)
    max_body: Size = Field(default=2**20, ge=1024, le=64 * 2**20)
    rate: RouterRate = RouterRate()
    log: MessageLog = MessageLog()


DEFAULT_OPA_URL = "http://127.0.0.1:8181"

EngineName = Literal["opa", "embedded", "builtin"]
LastResortChoice = Literal["builtin", "deny"]


class LastResort(Model):
    message: LastResortChoice = "builtin"
    task: LastResortChoice = "builtin"
    delegation: LastResortChoice = "deny"
    admission: LastResortChoice = "deny"


def _check_address(value: str) -> str:
    parse_address(value)
    return value


class PolicyCache(Model):
    entries: StrictInt = Field(default=100_000, ge=0)


class Breaker(Model):
    """After `failures` in a row nothing is asked for `half_open_after`; then one question tries."""

    failures: StrictInt = Field(default=5, ge=1, le=1000)
    half_open_after: Duration = Field(default=2.0, ge=0.05, le=3600)


class Opa(Model):
    """An OPA server: the one at `url`, or with `managed` one that the hub runs itself on a socket of its own."""

    url: Annotated[Line, AfterValidator(_check_address)] | None = None
    timeout: Duration = Field(default=0.05, ge=0.001, le=5)
    breaker: Breaker = Breaker()
    managed: StrictBool = False

    @property
    def address(self) -> str | None:
        """Where it listens; None where the hub chooses."""
        return None if self.managed else self.url or DEFAULT_OPA_URL


class Policy(Model):
    """`engines` are asked in this order. Where they are not written, OPA is the first if there is a section for it."""

    engines: tuple[EngineName, ...] = ("embedded", "builtin")
    opa: Opa | None = None
    last_resort: LastResort = LastResort()
    cache: PolicyCache = PolicyCache()

    @model_validator(mode="before")
    @classmethod
    def _put_opa_first(cls, value: object) -> object:
        if isinstance(value, Mapping) and value.get("opa") is not None and "engines" not in value:
            return {**value, "engines": ("opa", "embedded", "builtin")}
        return value


class Retry(Model):
    max_attempts: StrictInt = Field(default=3, ge=1, le=100)
    strategy: Literal["exponential", "fixed"] = "exponential"
    base_delay: Duration = Field(default=0.2, ge=0)
    jitter: StrictBool = True


class Orchestrator(Model):
    retry: Retry = Retry()
    fallback_on_error: StrictBool = True
    allow_cross_agent: StrictBool = True
    max_parallel_tasks: StrictInt = Field(default=5, ge=1)
    sandbox_required: StrictBool = True
    trust_threshold: StrictFloat = Field(default=0.7, ge=0, le=1)
    audit_all_actions: StrictBool = True
    crypto_required: StrictBool = False


class Alerts(Model):
    throughput_window: Duration = 600.0
    sinks: tuple[Line, ...] = ("log",)


class Retention(Model):
    state: Duration = 365 * 86400.0
    artefacts: Duration = 30 * 86400.0


class HubSpec(Model):
    """`spec` of `hub.yaml`. `defaults` is merged, as written, under each agent before that is validated."""

    loop: Loop = Loop()
    paths: Paths = Paths()
    runtime: HubRuntime = HubRuntime()
    router: Router = Router()
    policy: Policy = Policy()
    orchestrator: Orchestrator = Orchestrator()
    defaults: dict[Literal["resources", "lifecycle", "sandbox"], JsonValue] = Field(default_factory=dict)
    alerts: Alerts = Alerts()
    retention: Retention = Retention()


# --- operator.yaml ----------------------------------------------------------------------------------------------------


class OperatorSource(Model):
    url: Line = "."
    ref: Line | None = None
    poll: Duration = Field(default=60.0, ge=0.05)


class OperatorRuntime(Model):
    allow: tuple[Literal["docker", "process"], ...] = ("docker",)
    process_runtime: StrictBool = False
    image_allow: tuple[Line, ...] = ("agents/*",)


class OperatorPolicy(Model):
    """`opa_urls`: addresses beyond this host at which `hub.yaml` may ask OPA. `opa_binary`: what `managed` runs."""

    opa_urls: tuple[Annotated[Line, AfterValidator(_check_address)], ...] = ()
    opa_binary: Annotated[Line, Field(pattern=r"^/")] | None = None


class Maxima(Model):
    agents: StrictInt = Field(default=1000, ge=1)
    cpus: StrictFloat = Field(default=4.0, gt=0)
    memory: Size = 8 * 2**30
    ttl: Duration = 30 * 86400.0
    max_parallel_tasks: StrictInt = Field(default=100, ge=1)


class OperatorSpec(Model):
    """`spec` of `operator.yaml`: what only the owner of the host decides."""

    source: OperatorSource = OperatorSource()
    runtime: OperatorRuntime = OperatorRuntime()
    maxima: Maxima = Maxima()
    policy: OperatorPolicy = OperatorPolicy()


class Metadata(Model):
    name: Name
    labels: dict[Text, Text] = Field(default_factory=dict)
    annotations: dict[Text, Text] = Field(default_factory=dict)

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key in labels:
            if key.startswith("io.reconciler"):
                raise ValueError(f"label {key!r} uses the reserved prefix 'io.reconciler'; choose another")
        return labels


class Hub(Model):
    """The whole of `hub.yaml`."""

    api_version: Literal["reconciler/v1"]
    kind: Literal["Hub"]
    metadata: Metadata
    spec: HubSpec = HubSpec()


class Operator(Model):
    """The whole of `operator.yaml`."""

    api_version: Literal["reconciler/v1"]
    kind: Literal["Operator"]
    spec: OperatorSpec = OperatorSpec()

    def digest_hex(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


@lru_cache(maxsize=4096)
def permits_image(patterns: tuple[str, ...], reference: str) -> bool:
    """Whether an image reference matches one of the glob patterns, with or without its tag."""
    bare = reference.split("@")[0].rsplit(":", 1)[0] if ":" in reference.split("/")[-1] else reference.split("@")[0]
    return any(fnmatch.fnmatchcase(reference, p) or fnmatch.fnmatchcase(bare, p) for p in patterns)


def check_narrowing(hub: HubSpec, operator: OperatorSpec, file: str) -> list[tuple[Sequence[str], Problem]]:
    """Where `hub.yaml` asks for more than the operator allows: path within the file, and the problem."""
    out: list[tuple[Sequence[str], Problem]] = []

    def more(path: Sequence[str], asked: object, allowed: object) -> None:
        message = f"{'.'.join(path[1:])} is {asked}, but the operator allows {allowed}; lower it, or ask the operator"
        out.append((path, Problem(file=file, message=message)))

    if hub.orchestrator.max_parallel_tasks > operator.maxima.max_parallel_tasks:
        more(
            ("spec", "orchestrator", "maxParallelTasks"),
            hub.orchestrator.max_parallel_tasks,
            f"at most {operator.maxima.max_parallel_tasks}",
        )
    for pattern in hub.runtime.images:
        if not permits_image(operator.runtime.image_allow, pattern):
            more(("spec", "runtime", "images"), repr(pattern), " ".join(operator.runtime.image_allow))
    if hub.runtime.prefer == "process" and not operator.runtime.process_runtime:
        more(("spec", "runtime", "prefer"), "process", "docker only (runtime.processRuntime is false)")
    if hub.policy.opa is not None and not _permits_opa(hub.policy.opa, operator.policy):
        also = " ".join(("loopback addresses and unix sockets", *operator.policy.opa_urls))
        more(("spec", "policy", "opa", "url"), hub.policy.opa.url, f"{also} (policy.opaUrls)")
    return out


def _permits_opa(opa: Opa, operator: OperatorPolicy) -> bool:
    if opa.address is None:
        return True
    address = parse_address(opa.address)
    return address.is_local or address in [parse_address(url) for url in operator.opa_urls]


def check_engines(policy: Policy, file: str) -> list[tuple[Sequence[str | int], Problem]]:
    """Where the engines of `hub.yaml` do not fit together: path within the file, and the problem."""
    out: list[tuple[Sequence[str | int], Problem]] = []
    if not policy.engines:
        message = "policy.engines names none; name builtin at least, or leave it out"
        out.append((("spec", "policy", "engines"), Problem(file=file, message=message)))
    for index, name in enumerate(policy.engines):
        path: Sequence[str | int] = ("spec", "policy", "engines", index)
        if name in policy.engines[:index]:
            out.append((path, Problem(file=file, message=f"policy.engines names {name} twice; name it once")))
        elif name == "opa" and policy.opa is None:
            message = (
                "policy.engines names opa, but there is no section policy.opa; add it, such as opa: {managed: true}"
            )
            out.append((path, Problem(file=file, message=message)))
    if policy.opa is not None and policy.opa.managed and policy.opa.url is not None:
        message = "policy.opa.url is where somebody else's OPA listens; leave it out with managed: true"
        out.append((("spec", "policy", "opa", "url"), Problem(file=file, message=message)))
    return out
