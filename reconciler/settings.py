"""`operator.yaml` and `hub.yaml` as frozen models, and the rule that the repository can only narrow the operator.

Bytes come in, settings and problems go out. Defaults are those of the contracts, §1 and §2.
"""

import fnmatch
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    field_validator,
    model_validator,
)

from reconciler.core.address import parse_address
from reconciler.core.endpoint import Endpoint, parse_endpoint, parse_listen
from reconciler.core.exposure import EXPOSURES, LEVELS, Exposure, runs_remotely
from reconciler.core.model import JsonValue, Line, Model, Text
from reconciler.core.names import DottedName, Name
from reconciler.core.origin import parse_origin
from reconciler.core.problem import Problem
from reconciler.core.provider_url import parse_provider_url
from reconciler.core.quantity import ByteRate, Duration, Rate, Size
from reconciler.core.routing import Provider
from reconciler.core.trust import TrustRules
from reconciler.settings_notify import Apprise, CommitStatus, Smtp
from reconciler.settings_source import Credentials, OperatorSource

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


def _only(wanted: object, why: str) -> BeforeValidator:
    """A key that contracts know and that has one value: anything else is refused, and not passed over."""

    def check(value: object) -> object:
        if type(value) is not type(wanted) or value != wanted:
            raise ValueError(f"is {json.dumps(value, default=str)}; {why}; write {json.dumps(wanted)}, or leave it out")
        return wanted

    return BeforeValidator(check)


class Drift(Model):
    """`policies` is about the OPA that the hub runs: nobody else can change what the engines have loaded."""

    agents: DriftMode = "correct"
    policies: DriftMode = "correct"
    router: Annotated[
        Literal["correct"],
        _only("correct", "what the router knows is how tokens are issued and revoked, and always put right"),
    ] = "correct"


class Loop(Model):
    resync: Duration = Field(default=30.0, ge=0.05)
    concurrency: StrictInt = Field(default=4, ge=1, le=64)
    stalled_after: StrictInt = Field(default=5, ge=1)
    prune: Prune = Prune()
    prune_budget: PruneBudget = PruneBudget()
    drift: Drift = Drift()
    auto_rollback: StrictBool = False


class Paths(Model):
    agents: RelativePath = "agents.d"
    policies: RelativePath = "policies"
    schemas: RelativePath = "schemas"
    tasks: RelativePath = "tasks.d"
    inbox: RelativePath = "inbox"


class HubRuntime(Model):
    prefer: Literal["docker", "process"] = "docker"
    images: tuple[Line, ...] = ("agents/*",)
    network: Annotated[
        Literal["isolated"], _only("isolated", "agents reach the hub, and models through its relay, and nothing else")
    ] = "isolated"


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
    llm: LastResortChoice = "deny"


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
    sandbox_required: Annotated[Literal[True], _only(True, "there is no sandbox but the strict one")] = True
    trust_threshold: StrictFloat = Field(default=0.7, ge=0, le=1)
    trust: TrustRules = TrustRules()
    audit_all_actions: Annotated[Literal[True], _only(True, "what is done is always recorded")] = True
    crypto_required: StrictBool = False

    @model_validator(mode="after")
    def _check_trust(self) -> "Orchestrator":
        if self.trust_threshold > self.trust.neutral:
            raise ValueError(
                f"orchestrator.trustThreshold is {self.trust_threshold:g}, above trust.neutral of "
                f"{self.trust.neutral:g}: no agent would ever be trusted; lower it"
            )
        return self


class Egress(Model):
    """How long providers may take, and when one counts as away. `first_byte` is for streams, `whole` for the others."""

    connect: Duration = Field(default=5.0, ge=0.05)
    first_byte: Duration = Field(default=120.0, ge=0.05)
    whole: Duration = Field(default=600.0, ge=0.05)
    idle: Duration = Field(default=300.0, ge=0.05)
    max_body: Size = Field(default=32 * 2**20, ge=1024, le=256 * 2**20)
    parallel: StrictInt = Field(default=16, ge=1, le=1000)
    breaker: Breaker = Breaker()


LOG_SINK = "log"
"""The sink that is always there: the log of the hub."""
FORGE_SINK = "forge"
"""The one that commit statuses go to; no alert does."""


class Sensitivities(Model):
    """Where work of each sensitivity may go. What is confidential or restricted stays private, whatever is written."""

    public: tuple[Exposure, ...] = EXPOSURES["public"]
    internal: tuple[Exposure, ...] = EXPOSURES["internal"]
    confidential: tuple[Literal["private"], ...] = ("private",)
    restricted: tuple[Literal["private"], ...] = ("private",)

    @property
    def exposures(self) -> Mapping[str, tuple[Exposure, ...]]:
        """By sensitivity."""
        return {level: getattr(self, level) for level in LEVELS}


class Alerts(Model):
    """`throughput_window`: how long tasks may wait while none is dispatched; `source_window`: how long git may be away.

    `sinks` are `log`, and those that the operator defines.
    """

    throughput_window: Duration = Field(default=600.0, ge=0.05)
    source_window: Duration = 600.0
    sinks: tuple[Line, ...] = (LOG_SINK,)


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
    providers: tuple[Provider, ...] = ()
    sensitivity: Sensitivities = Sensitivities()
    egress: Egress = Egress()
    defaults: dict[Literal["resources", "lifecycle", "sandbox"], JsonValue] = Field(default_factory=dict)
    alerts: Alerts = Alerts()
    retention: Retention = Retention()


# --- operator.yaml ----------------------------------------------------------------------------------------------------


class OperatorRuntime(Model):
    allow: tuple[Literal["docker", "process"], ...] = ("docker",)
    process_runtime: StrictBool = False
    image_allow: tuple[Line, ...] = ("agents/*",)


class OperatorPolicy(Model):
    """`opa_urls`: addresses beyond this host at which `hub.yaml` may ask OPA. `opa_binary`: what `managed` runs.

    `check_timeout`: for compiling and testing the policies of one revision.
    """

    opa_urls: tuple[Annotated[Line, AfterValidator(_check_address)], ...] = ()
    check_timeout: Duration = Field(default=10.0, ge=1, le=600)
    opa_binary: Annotated[Line, Field(pattern=r"^/")] | None = None


def _check_listen(value: str) -> str:
    parse_listen(value)
    return value


def _check_advertised(value: str) -> str:
    if parse_endpoint(value).is_any:
        raise ValueError(f"is {value!r}, which nobody can call; write an address or a name of this host")
    return value


class AgentPlane(Model):
    """TCP with TLS, where an instance can have no unix socket: that of the `agents`, by patterns, and of no other.

    `advertise` is where they find it; what is listened on, unless that is all addresses.
    """

    listen: Annotated[Line, AfterValidator(_check_listen)] | None = None
    advertise: Annotated[Line, AfterValidator(_check_advertised)] | None = None
    agents: tuple[Line, ...] = ()

    @property
    def listens_at(self) -> Endpoint | None:
        return parse_listen(self.listen) if self.listen is not None else None

    def address_of(self, agent: str) -> str:
        """`host:port` that the agent's instances call; empty where each has a socket of its own."""
        if self.listen is None or not any(fnmatch.fnmatchcase(agent, pattern) for pattern in self.agents):
            return ""
        return str(parse_endpoint(self.advertise) if self.advertise else parse_listen(self.listen))

    @model_validator(mode="after")
    def _check_whole(self) -> "AgentPlane":
        endpoint = self.listens_at
        if endpoint is None and (self.advertise is not None or self.agents):
            raise ValueError("agentPlane does not say where to listen; write listen, such as tcp://10.0.0.1:8421")
        if endpoint is not None and endpoint.is_any and self.advertise is None:
            raise ValueError("agentPlane.listen is all addresses of this host; advertise says which one agents call")
        return self


class OperatorSecrets(Model):
    """Where the values of secrets are. `path` is a directory (file), a program (command), or begins names (env)."""

    provider: Literal["file", "env", "command"] = "file"
    path: Line | None = None
    timeout: Duration = Field(default=10.0, ge=0.05, le=60)

    @model_validator(mode="after")
    def _check_path(self) -> "OperatorSecrets":
        if self.provider == "command" and self.path is None:
            raise ValueError("secrets.provider is command, but secrets.path names no program; write its absolute path")
        if self.provider != "env" and self.path is not None and not self.path.startswith("/"):
            raise ValueError(f"secrets.path is {self.path!r}; write an absolute path")
        if self.provider == "env" and self.path is not None and not self.path.isidentifier():
            raise ValueError(f"secrets.path is {self.path!r}; with env it is how the variables' names begin")
        return self


def _check_url(value: str) -> str:
    parse_provider_url(value)
    return value


class ProviderKey(Model):
    """What only the operator says of a provider: the file with its key, where it is, and how far it may be trusted.

    Without `url` it is where its type usually is. One beyond this host is public, unless `exposure` says otherwise.
    """

    file: Annotated[Line, Field(pattern=r"^/")] | None = None
    url: Annotated[Line, AfterValidator(_check_url)] | None = None
    exposure: Exposure | None = None


def _check_webhook(value: str) -> str:
    """The value may be a secret, and is not repeated."""
    if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+(/[!-~]*)?", value) or "#" in value:
        raise ValueError("is no URL such as https://alerts.example.org/hook; names and passwords do not go into it")
    return value


class Webhook(Model):
    """Where a notice is posted. With `key_file` it is signed; the URL itself may be a secret, and is never shown."""

    url: Annotated[Line, AfterValidator(_check_webhook)] = Field(repr=False)
    key_file: Annotated[Line, Field(pattern=r"^/")] | None = None


class SinkCommand(Model):
    """A program that gets a notice as its input."""

    argv: Annotated[tuple[Line, ...], Field(min_length=1)]

    @field_validator("argv")
    @classmethod
    def _check_program(cls, argv: tuple[str, ...]) -> tuple[str, ...]:
        if not argv[0].startswith("/"):
            raise ValueError(f"names {argv[0]!r}; write the absolute path of the program")
        return argv


class OperatorSink(Model):
    """Where alerts go. With `heartbeat` it gets a word that often, so that its silence means: the hub is gone."""

    webhook: Webhook | None = None
    command: SinkCommand | None = None
    smtp: Smtp | None = None
    apprise: Apprise | None = None
    timeout: Duration = Field(default=10.0, ge=0.05, le=60)
    heartbeat: Duration | None = Field(default=None, ge=0.05)

    @model_validator(mode="after")
    def _one_way(self) -> "OperatorSink":
        if sum(way is not None for way in (self.webhook, self.command, self.smtp, self.apprise)) != 1:
            raise ValueError("a sink has one of 'webhook', 'command', 'smtp' and 'apprise'")
        return self


class CheckpointEvery(Model):
    """Whichever comes first, as long as there are new rows."""

    rows: StrictInt = Field(default=1000, ge=1)
    seconds: StrictInt = Field(default=60, ge=1)


class NotesPush(Model):
    """Another repository that gets the notes, with credentials of its own, which may write there."""

    url: Line
    credentials: Credentials = Credentials()

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        parse_origin(url)
        return url


class OperatorAudit(Model):
    """How the audit log is anchored. `key_directory` is where the signing key is, if not in the data directory.

    With `notes` the hub writes a git note at each commit that it applied, and renews it every `renew_notes`. With
    `reason_required` nothing is done by hand without a reason. `sink` names one of `sinks`: it gets each checkpoint.
    """

    checkpoint_every: CheckpointEvery = CheckpointEvery()
    key_directory: Annotated[Line, Field(pattern=r"^/")] | None = None
    notes: StrictBool = True
    renew_notes: Duration = Field(default=3600.0, ge=1)
    push: NotesPush | None = None
    sink: Name | None = None
    reason_required: StrictBool = False

    @model_validator(mode="after")
    def _check_push(self) -> "OperatorAudit":
        if self.push is not None and not self.notes:
            raise ValueError("audit.push is where notes are sent, but audit.notes is false; leave one of them out")
        return self


AbsolutePath = Annotated[Line, Field(pattern=r"^/")]


class OperatorHttp(Model):
    """The operator plane on a port: where, for whom (`token_file`), and by which certificate (PEM, a chain).

    Without TLS it must be an address that only this host has.
    """

    listen: Annotated[Line, AfterValidator(_check_listen)] = "tcp://127.0.0.1:8490"
    token_file: AbsolutePath
    certificate_file: AbsolutePath | None = None
    key_file: AbsolutePath | None = None

    @property
    def listens_at(self) -> Endpoint:
        return parse_listen(self.listen)

    @model_validator(mode="after")
    def _check_tls(self) -> "OperatorHttp":
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("has one of 'certificateFile' and 'keyFile'; TLS needs both")
        if self.certificate_file is None and not self.listens_at.is_loopback:
            raise ValueError(
                f"listens at {self.listens_at}, which is not of this host alone, without TLS; write certificateFile "
                "and keyFile, or an address such as tcp://127.0.0.1:8490"
            )
        return self


class OperatorApi(Model):
    """The operator plane: its socket is always there, a port only where `http` says so."""

    http: OperatorHttp | None = None


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
    audit: OperatorAudit = OperatorAudit()
    policy: OperatorPolicy = OperatorPolicy()
    secrets: OperatorSecrets = OperatorSecrets()
    agent_plane: AgentPlane = AgentPlane()
    api: OperatorApi = OperatorApi()
    provider_keys: dict[Name, ProviderKey] = Field(default_factory=dict)
    sinks: dict[Name, OperatorSink] = Field(default_factory=dict)
    commit_status: CommitStatus | None = None

    @field_validator("sinks")
    @classmethod
    def _check_sinks(cls, sinks: dict[str, OperatorSink]) -> dict[str, OperatorSink]:
        for name in (LOG_SINK, FORGE_SINK):
            if name in sinks:
                raise ValueError(f"{name!r} is there without being defined; choose another name")
        return sinks

    @model_validator(mode="after")
    def _check_audit_sink(self) -> "OperatorSpec":
        if self.audit.sink is not None and self.audit.sink not in self.sinks:
            known = ", ".join(sorted(self.sinks)) or "none"
            raise ValueError(f"audit.sink is {self.audit.sink!r}, which sinks does not define; it has: {known}")
        return self


DEFAULT_URLS: Mapping[str, str] = {
    "anthropic": "https://api.anthropic.com",
    "openai": "https://api.openai.com",
    "ollama": "http://127.0.0.1:11434",
}


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
    known = (LOG_SINK, *sorted(operator.sinks))
    if unknown := [name for name in hub.alerts.sinks if name not in known]:
        more(("spec", "alerts", "sinks"), " ".join(unknown), f"{' '.join(known)} (sinks)")
    return out


def _permits_opa(opa: Opa, operator: OperatorPolicy) -> bool:
    if opa.address is None:
        return True
    address = parse_address(opa.address)
    return address.is_local or address in [parse_address(url) for url in operator.opa_urls]


def provider_url(provider: Provider, key: ProviderKey | None) -> str:
    """Where a provider is."""
    return key.url if key is not None and key.url is not None else DEFAULT_URLS[provider.type]


def check_providers(hub: HubSpec, operator: OperatorSpec, file: str) -> list[tuple[Sequence[str | int], Problem]]:
    """Where the providers of `hub.yaml` do not fit together, or claim to be private: path, and the problem."""
    out: list[tuple[Sequence[str | int], Problem]] = []

    def add(path: Sequence[str | int], message: str) -> None:
        out.append((("spec", "providers", *path), Problem(file=file, message=message)))

    seen: set[str] = set()
    for index, provider in enumerate(hub.providers):
        if provider.name in seen:
            add((index, "name"), f"providers has {provider.name} twice; rename one of them")
        seen.add(provider.name)
        key = operator.provider_keys.get(provider.name)
        if provider.exposure == "private" and not _may_be_private(provider, key):
            where = provider_url(provider, key)
            add(
                (index, "exposure"),
                f"provider {provider.name} is at {where}, which is not this host; declare it public, or ask the "
                f"operator (providerKeys.{provider.name}.exposure: private)",
            )
        names = [model.name for model in provider.models]
        if not names:
            add((index, "models"), f"provider {provider.name} has no models; name one at least")
        for place, name in enumerate(names):
            if name in names[:place]:
                add((index, "models", place, "name"), f"provider {provider.name} has model {name!r} twice")
            elif provider.exposure == "private" and runs_remotely(name):
                message = f"model {name!r} of the private provider {provider.name} runs elsewhere; declare it public"
                add((index, "models", place, "name"), f"{message}, or use a model without 'cloud' in its tag")
    return out


def _may_be_private(provider: Provider, key: ProviderKey | None) -> bool:
    if key is not None and key.exposure is not None:
        return key.exposure == "private"
    return parse_provider_url(provider_url(provider, key)).address.is_local


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
