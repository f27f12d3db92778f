"""The agent manifest: what git says of one agent. Pure: bytes come in, manifests and problems go out."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictFloat, StrictInt, field_validator

from reconciler.core.digest import digest
from reconciler.core.model import Line, Model, Text
from reconciler.core.names import DottedName, Name
from reconciler.core.quantity import ByteRate, Duration, Rate, Size
from reconciler.core.routing import Llm
from reconciler.core.secret import SecretNames
from reconciler.kinds.agent.executor import ClaudeCodeExecutor, EnvName, Executor, check_claude, check_env, check_llm
from reconciler.kinds.manifest import Loaded, Manifest, Parsed, merge_by_name, parse_manifests
from reconciler.kinds.tree import Tree
from reconciler.settings import DriftMode, HubSpec, TypeRate

TopicPattern = Annotated[
    Text, Field(pattern=r"^(?:[a-z0-9_-]+|\*)(?:\.(?:[a-z0-9_-]+|\*))*(?:\.>)?$|^>$", max_length=100)
]


class Resources(Model):
    cpus: StrictFloat = Field(default=1.0, gt=0, le=256)
    memory: Size = Field(default=512 * 2**20, ge=32 * 2**20)
    disk: Size = Field(default=2**30, ge=2**20)
    pids: StrictInt = Field(default=100, ge=10, le=32768)


class Workspace(Model):
    source: Literal["none", "repository", "volume"] = "none"
    history: StrictBool = True
    writable: StrictBool = False
    retain: StrictBool = False


class Send(Model):
    """A grant: which types may go to one agent, or onto topics."""

    to: Name | None = None
    topic: TopicPattern | None = None
    types: tuple[DottedName, ...] = ()


def _or_topic(schema: dict[str, Any]) -> None:
    whole = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string"}, whole]


class Subscription(Model):
    """One topic; in YAML also just its name."""

    model_config = ConfigDict(json_schema_extra=_or_topic)

    topic: TopicPattern
    delivery: Literal["one", "all"] = "one"


class Quota(Model):
    """What each instance may send; a part that is left out is that of `router.rate` in `hub.yaml`."""

    messages: Rate | None = None
    bytes: ByteRate | None = None
    per_type: dict[DottedName, TypeRate] = Field(default_factory=dict)


class Klp(Model):
    """A peer that signs what it sends to others, with Ed25519."""

    public_key: Annotated[Line, Field(pattern=r"^ed25519:[A-Za-z0-9+/]{43}=$")] | None = None


class Messaging(Model):
    sends: tuple[Send, ...] = ()
    subscribes: tuple[Subscription, ...] = ()
    quota: Quota | None = None
    klp: Klp = Klp()

    @field_validator("subscribes", mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        if isinstance(value, list):
            return [{"topic": v} if isinstance(v, str) else v for v in value]
        return value

    @field_validator("sends")
    @classmethod
    def _one_target(cls, sends: tuple[Send, ...]) -> tuple[Send, ...]:
        for send in sends:
            if (send.to is None) == (send.topic is None):
                raise ValueError("each entry has either 'to' (an agent) or 'topic', not both and not neither")
            if send.to is not None and not send.types:
                raise ValueError(f"the entry to {send.to!r} names no types; list the message types it may send")
        return sends


class Budget(Model):
    """What the tasks below one task may come to: how many in all, and the `cpus` of those under way together."""

    tasks: StrictInt = Field(default=10, ge=0, le=1000)
    cpus: StrictFloat | None = Field(default=None, gt=0)


class Delegation(Model):
    """To which agents a task may hand on parts of itself, and how many such steps may lie above a task."""

    to: tuple[Name, ...] = ()
    max_depth: StrictInt = Field(default=1, ge=0, le=10)
    budget: Budget = Budget()


class AgentTasks(Model):
    max_parallel: StrictInt = Field(default=1, ge=1, le=100)


class Lifecycle(Model):
    ttl: Duration = Field(default=8 * 3600.0, gt=0)
    max_crashes: StrictInt = Field(default=3, ge=1)
    auto_restart: StrictBool = True
    quarantine_threshold: StrictInt = Field(default=5, ge=1)
    upgrade: Literal["drain"] = "drain"
    max_unavailable: StrictInt = Field(default=1, ge=1, le=100)
    drain_deadline: Duration = 600.0
    grace: Duration = 30.0
    protect: StrictBool = False


class Idle(Model):
    """How long an instance without work stays; then it sleeps until there is some."""

    after: Duration = Field(default=900.0, gt=0)


class Health(Model):
    heartbeat: Duration = Field(default=10.0, ge=0.05)
    missed: StrictInt = Field(default=3, ge=1)
    handshake: Duration = 30.0


class AgentSpec(Model):
    """`spec` of an agent manifest (contracts, §3), as far as this release carries it out."""

    description: Text = ""
    persona: Text = ""
    role: Name
    version: Text = "1"
    image: Annotated[Line, Field(pattern=r"^[a-z0-9][a-z0-9._/:@-]*$", max_length=255)]
    replicas: StrictInt = Field(default=1, ge=0, le=100)
    mode: Literal["persistent", "per-task"] = "persistent"
    idle: Idle | None = None
    capabilities: tuple[DottedName, ...] = ()
    executor: Executor
    llm: Llm | None = None
    resources: Resources = Resources()
    sandbox: Literal["strict"] = "strict"
    network: Literal["isolated"] = "isolated"
    workspace: Workspace = Workspace()
    secrets: SecretNames = Field(default=(), max_length=50)
    env: dict[EnvName, Text] = Field(default_factory=dict)
    messaging: Messaging = Messaging()
    delegation: Delegation = Delegation()
    tasks: AgentTasks = AgentTasks()
    lifecycle: Lifecycle = Lifecycle()
    health: Health = Health()
    drift: DriftMode | None = None

    check_env = field_validator("env")(check_env)


def parse_agent(file: str, content: bytes, defaults: Mapping[str, Any]) -> Parsed[AgentSpec]:
    """One file of agents."""
    return parse_manifests(file, content, kind="Agent", model=AgentSpec, defaults=defaults, check=_check)


def load(tree: Tree, hub: HubSpec) -> Loaded[Manifest[AgentSpec]]:
    """All agents of a snapshot. Raises SourceError."""
    key = f"agent:{digest(hub.model_dump(mode='json')['defaults'])}"
    defaults = {str(k): v for k, v in hub.defaults.items()}
    parsed, problems = tree.parse(
        hub.paths.agents, ".yaml", key, lambda file, content: parse_agent(file, content, defaults)
    )
    return merge_by_name(parsed, problems)


def _check(spec: AgentSpec) -> Sequence[tuple[Sequence[str | int], str]]:
    out: list[tuple[Sequence[str | int], str]] = []
    if len(set(spec.capabilities)) != len(spec.capabilities):
        out.append((("capabilities",), "a capability stands twice; keep one"))
    if len(set(spec.secrets)) != len(spec.secrets):
        out.append((("secrets",), "a secret stands twice; keep one"))
    if spec.workspace.source == "volume" and not spec.workspace.writable:
        out.append((("workspace",), "a volume that is not writable is always empty; set writable: true"))
    if spec.idle is not None and spec.mode == "per-task":
        out.append((("idle",), "an instance of a per-task agent ends with its task; take idle off"))
    if spec.mode == "per-task" and spec.tasks.max_parallel != 1:
        out.append((("tasks", "maxParallel"), "an instance of a per-task agent has one task; raise replicas instead"))
    out.extend(check_llm(spec.executor, spec.llm))
    if isinstance(spec.executor, ClaudeCodeExecutor):
        out.extend(check_claude(spec.executor, spec.env, spec.resources.memory, spec.resources.pids))
    return out
