"""The few seams between the pure core and the world, each with a real adapter and a fake.

`Source` reads revisions, `Runtime` runs containers, `PolicyEngine` answers policy questions, `RouterControl` and
`EgressControl` speak to the processes of these names, `Clock` tells time. Adapters translate library exceptions into
the tree in `errors.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from reconciler.core.decision import Decision
from reconciler.core.problem import Problem
from reconciler.core.reading import Reading
from reconciler.core.secret import SecretValue

# --- source -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One regular file of a tree. `blob` is its content's id: equal ids, equal bytes."""

    path: str
    blob: str
    size_bytes: int
    mode: str = "100644"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A path that is not offered as an entry; shown printable, perhaps not the exact name."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """What a revision is, for the record. `id` is a commit id, or `worktree:<digest>` for a plain directory."""

    id: str
    author: str = ""
    subject: str = ""
    time: datetime | None = None
    audited: bool = True


class Snapshot(Protocol):
    """The immutable tree of one revision."""

    @property
    def revision(self) -> Revision: ...

    def entries(self, folder: str) -> Sequence[Entry]:
        """Regular files and symlinks at or below `folder` (`""` for the whole tree), by path."""
        ...

    def prepare(self, folders: Sequence[str]) -> None:
        """These folders and files will be asked for; an adapter may fetch them in one go. Raises SourceError."""
        ...

    def read(self, entries: Sequence[Entry]) -> Mapping[str, bytes]:
        """Contents by path. Raises SourceError."""
        ...

    def set_aside(self, folder: str) -> Sequence[SetAside]:
        """What is at or below `folder` but can be no entry: submodules, names unfit for records. Raises SourceError."""
        ...

    def close(self) -> None:
        """Let go of what reading needed; nothing is read afterwards."""
        ...


class Source(Protocol):
    """Where desired state comes from."""

    def head(self) -> Reading[Revision]:
        """The revision that should be in force. `Unavailable` also while the repository is unsettled."""
        ...

    def snapshot(self, revision: str) -> Reading[Snapshot]:
        """The tree of a revision that `head` returned, or that an operator named."""
        ...

    def is_ancestor(self, older: str, newer: str) -> bool:
        """Whether `newer` descends from `older` (or is it). Raises SourceError."""
        ...

    def unverified(self, since: str, revision: str) -> str | None:
        """Why a revision may not be followed by what its signatures say; None where nothing is wrong, or none is asked.

        `since` is the revision in force, empty where there is none. Raises SourceError.
        """
        ...

    def refresh(self) -> None:
        """Look for news now, and not only at the next poll; returns at once."""
        ...

    def notify(self, ring: Callable[[], None]) -> None:
        """From now on call `ring`, from any thread, when `head` may say something else but no watched path changed."""
        ...

    def checkout(self, revision: str, target: str, *, history: bool) -> None:
        """Make a read-only snapshot of the revision in the new directory `target`. Raises SourceError."""
        ...

    def watch_paths(self) -> Sequence[str]:
        """Files and directories (not what is below them) whose change should wake the loop."""
        ...

    def close(self) -> None:
        """Let go of what was kept open."""
        ...


# --- runtime ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A bind mount of an absolute host path."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What can be changed while the container runs."""

    cpus: float
    memory_bytes: int
    pids: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """One container as it shall be. Sandbox `strict` is what the runtime adds; there is no field to relax it."""

    name: str
    image: str
    image_id: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    labels: Mapping[str, str]
    limits: Limits
    mounts: tuple[Mount, ...]
    disk_bytes: int
    grace_s: float
    uid: int = 1000
    working_dir: str = "/tmp"  # noqa: S108 - a tmpfs of the container's own


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSummary:
    """One entry of the one list call. `state` is created, running, paused, restarting, exited or dead."""

    id: str
    name: str
    state: str
    labels: Mapping[str, str]
    image_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """What `inspect` says, normalised: `fields` has the keys and value forms of `Runtime.normalise`."""

    id: str
    name: str
    state: str
    fields: Mapping[str, Any]
    labels: Mapping[str, str]
    exit_code: int | None = None
    oom_killed: bool = False
    started_at: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a running container uses: processor seconds and bytes read and written since its start, memory now."""

    cpu_s: float = 0.0
    memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeEvent:
    """A hint that a container of ours changed; carries no state."""

    name: str
    action: str
    time_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFacts:
    """What answers, and what it cannot enforce: each limitation is a sentence for the operator."""

    name: str
    version: str
    limitations: tuple[str, ...] = ()


class Runtime(Protocol):
    """Something that runs containers. Only containers that carry the fleet's label are ever listed or touched.

    All methods may raise RuntimeUnavailableError; those that change something also RuntimeRefusedError, whose message
    says what the engine said. `list` and `inspect` answer `Unavailable` instead of raising.
    """

    @property
    def name(self) -> str:
        """`docker`, `process` or `fake`."""
        ...

    def facts(self) -> Reading[RuntimeFacts]: ...

    def uid_for(self, name: str) -> int:
        """The user id that the container of this name runs as; its socket and secrets belong to it."""
        ...

    def resolve_image(self, reference: str) -> Reading[str]:
        """The image id behind a reference; `Absent` where there is none."""
        ...

    def normalise(self, spec: ContainerSpec) -> Mapping[str, Any]:
        """The compared fields of `spec` the way this engine stores them.

        What `update` can change is below the field `limits`, and nothing else is; a limit that the engine cannot
        enforce is None.
        """
        ...

    def list(self) -> Reading[Sequence[ContainerSummary]]:
        """All containers with the fleet's label, running or not, in one call."""
        ...

    def list_labelled(self, label: str, value: str) -> Reading[Sequence[ContainerSummary]]:
        """All containers of this host with a label of this value, of whatever fleet."""
        ...

    def inspect(self, name: str) -> Reading[ContainerState]: ...

    def usage(self, name: str) -> Reading[Usage]:
        """One look, at once; `Absent` where it does not run. What cannot be told is 0."""
        ...

    def create(self, spec: ContainerSpec) -> str:
        """Create without starting; returns the id. Raises NameTakenError where a container of that name is there."""
        ...

    def start(self, container_id: str) -> None:
        """Start; already running is fine. A program that cannot be executed may be refused here, or exit with 127."""
        ...

    def update(self, container_id: str, limits: Limits) -> None:
        """Change the limits in place. Raises RuntimeRefusedError where the engine cannot."""
        ...

    def stop(self, container_id: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; returns when it is confirmed dead. Absent is fine."""
        ...

    def remove(self, container_id: str) -> None:
        """Remove, killing if needed; absent is fine."""
        ...

    def logs(self, container_id: str, tail: int) -> str:
        """The last `tail` lines of output."""
        ...

    def events(self, since_ns: int) -> Iterator[RuntimeEvent]:
        """Follow `create`, `start`, `die` and `destroy` from a wall-clock time on.

        Ends with `close`; raises RuntimeUnavailableError when the link is lost.
        """
        ...

    def close(self) -> None:
        """End all event iterators and let go of the link; containers go on."""
        ...


# --- policy -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBundle:
    """All Rego modules of one revision by path, and the data document. `digest` names the content."""

    modules: Mapping[str, str]
    data: Mapping[str, Any]
    digest: str


class PolicyEngine(Protocol):
    """Something that evaluates Rego. Raises PolicyEngineError when it cannot answer; that may fall through."""

    def check(self, bundle: PolicyBundle) -> Sequence[Problem]:
        """Parse errors, forbidden built-ins and failed tests, with positions; empty when all is well."""
        ...

    @property
    def revision(self) -> str:
        """The digest of the bundle in force; empty where there is none."""
        ...

    def activate(self, bundle: PolicyBundle) -> None:
        """Make this bundle, whole, the one that answers."""
        ...

    def decide(self, entry_point: str, question: Mapping[str, Any]) -> Decision:
        """`entry_point` is `message`, `task`, `delegation` or `admission`. Undefined is a denial."""
        ...

    def close(self) -> None: ...


# --- router -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReport:
    """What the router knows of one instance. Times are seconds of CLOCK_BOOTTIME; 0 where never.

    `mailbox_messages` are those that somebody has to be there for. `last_denial` is what it was told last, while it has
    not said hello.
    """

    instance: str
    digest: str = ""
    hello: Mapping[str, Any] | None = None
    last_seen: float = 0.0
    last_denial: str = ""
    mailbox_messages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many messages of one agent came to what, since the router started.

    `limited` are messages over the rate, `floods` the alarms that followed; `forged` claimed to be of somebody else.
    """

    accepted: int = 0
    denied: int = 0
    invalid: int = 0
    limited: int = 0
    forged: int = 0
    floods: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InboxMessage:
    """One message of an agent's to the hub, as it stands in hub_inbox. `payload` is the message's."""

    seq: int
    instance: str
    agent: str
    type: str
    id: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterReport:
    """What the router process says of itself; `epoch` changes with each start of it.

    `next_version` is the code that one which is started now would run, where `code_version` is another one.
    `policy_engine` answers its questions now; `policy_fault` says why that is not the first one listed. `tallies` are
    by agent.
    """

    pid: int
    epoch: str
    code_version: str
    config_digest: str
    policy_revision: str
    inbox_seq: int
    next_version: str = ""
    uptime_s: float = 0.0
    log_unavailable: bool = False
    policy_engine: str = ""
    policy_fault: str = ""
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    instances: Mapping[str, InstanceReport] = field(default_factory=dict)


class RouterControl(Protocol):
    """Calls on the router's control socket; each is acknowledged. Raises RouterError."""

    def report(self) -> Reading[RouterReport]: ...

    def configure(self, config: Mapping[str, Any]) -> None:
        """Swap the whole configuration (see `router/config.py`) without dropping a connection."""
        ...

    def send(self, message: Mapping[str, Any]) -> None:
        """Deliver a message of the hub's own to an instance's mailbox."""
        ...

    def send_all(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[str]:
        """Several in one call, in order: of each why it was refused, empty where it was delivered."""
        ...

    def put_instance(self, name: str, entry: Mapping[str, Any]) -> None:
        """Register an instance, or change it: `{agent, uid, tokens: [{sha256, expires_at}], digest}`."""
        ...

    def remove_instance(self, name: str) -> None:
        """Revoke its tokens, close its socket, drop its mailbox; unknown is fine."""
        ...

    def set_cancels(self, instance: str, cancels: Sequence[Mapping[str, Any]]) -> None:
        """What the instance's heartbeats shall be told to cancel: `{task, run, generation}` each."""
        ...

    def set_inbox_cursor(self, seq: int) -> None:
        """Rows of hub_inbox up to `seq` are taken in and may be dropped."""
        ...

    def read_inbox(self, after_seq: int, limit: int) -> Sequence["InboxMessage"]:
        """Rows of hub_inbox after `after_seq`, in order."""
        ...

    def start(self) -> None:
        """Start the process, or adopt the one that runs; one of other code is ended first. Returns when it answers."""
        ...

    def stop(self) -> None:
        """End the process; not running is fine."""
        ...

    def wait_hint(self, timeout_s: float) -> Sequence[str]:
        """Kinds to look at (`task`, `agent`), as soon as there are any; empty after the time-out."""
        ...


# --- secrets ----------------------------------------------------------------------------------------------------------


class SecretProvider(Protocol):
    """Where the operator keeps the values of secrets."""

    def read(self, name: str) -> Reading[SecretValue]:
        """The value as it is now, bytes unchanged; `Absent` where there is none. A reason never holds a value."""
        ...


# --- egress -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """What was used: requests, tokens of all kinds, and dollars."""

    requests: int = 0
    tokens: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressReport:
    """What the egress process says of itself; `epoch` changes with each start of it.

    `instances` are the digests of their entries; `faults` says what is wrong with each provider that is not well, or
    with the `ledger`, `policy_fault` why the first policy engine cannot answer. `next_version` is the code that one
    which is started now would run, where `code_version` is another one. `usage` is that of today (UTC) by agent,
    `runs` that of the runs under way.
    """

    pid: int
    epoch: str
    code_version: str
    config_digest: str
    uptime_s: float = 0.0
    instances: Mapping[str, str] = field(default_factory=dict)
    next_version: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)
    policy_fault: str = ""
    usage: Mapping[str, UsageReport] = field(default_factory=dict)
    runs: Mapping[str, UsageReport] = field(default_factory=dict)


class EgressControl(Protocol):
    """Calls on the control socket of the egress process; each is acknowledged. Raises EgressError."""

    def report(self) -> Reading[EgressReport]: ...

    def configure(self, config: Mapping[str, Any]) -> None:
        """Swap the whole configuration (see `egress/config.py`); requests under way end as they began."""
        ...

    def put_instance(self, name: str, entry: Mapping[str, Any]) -> None:
        """Register an instance, or change it: its tokens, route, budget, work, and the sensitivity of what it had."""
        ...

    def remove_instance(self, name: str) -> None:
        """Revoke its tokens, end its connections; unknown is fine."""
        ...

    def start(self) -> None:
        """Start the process, or adopt the one that runs. Returns when it answers."""
        ...

    def stop(self) -> None:
        """End the process; not running is fine."""
        ...


# --- clock ------------------------------------------------------------------------------------------------------------


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall time, UTC, for records and people."""
        ...

    def boottime(self) -> float:
        """CLOCK_BOOTTIME in seconds, for leases and back-off; comparable only within one `boot_id`."""
        ...

    def boot_id(self) -> str: ...
