"""The contract of a kind: six functions of the same names in each folder, and what they are given.

A kind owns its work; the loop owns timing, order, guard, intents, outcomes and back-off. `load`, `check`,
`contribute` and `plan` are pure; `observe` reads the world; `apply` changes it and decides nothing.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from reconciler.core.caller import Caller
from reconciler.core.change import Change
from reconciler.core.condition import Finding, Mode
from reconciler.core.fleet import AgentView, Delegate, Fleet
from reconciler.core.outcome import Outcome
from reconciler.core.problem import Problem
from reconciler.core.reading import Ok, Reading
from reconciler.core.rollback import Rollback
from reconciler.kinds.manifest import Loaded
from reconciler.kinds.tree import Tree
from reconciler.kinds.verdicts import Verdicts
from reconciler.ports import (
    Clock,
    ContainerState,
    EgressControl,
    PolicyEngine,
    Revision,
    RouterControl,
    RouterReport,
    Runtime,
    Source,
)
from reconciler.settings import AgentPlane, HubSpec, OperatorSpec

if TYPE_CHECKING:
    from reconciler.identity.secret_files import Secrets
    from reconciler.store.audit import AuditEntry
    from reconciler.store.store import Store

GAP_S = 5.0
LOOK_S = GAP_S / 2
"""How far apart two looks at the router may be, and how soon to look again while an instance is silent."""


class Inspections(Protocol):
    """The latest `inspect` of each container, kept fresh by events and a rolling sweep."""

    def get(self, name: str, container_id: str) -> ContainerState | None: ...

    def is_as_recorded(self, inspected: ContainerState, fields: str) -> bool: ...

    def forget(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Since when the router has been seen to listen to each instance that it knows, as of `at_s` (CLOCK_BOOTTIME)."""

    at_s: float = 0.0
    since: Mapping[str, float] = field(default_factory=dict)

    def seconds(self, instance: str) -> float:
        """For how long the instance could have called; 0 where it is not known to the router."""
        return self.at_s - self.since.get(instance, self.at_s)


class RouterWatch:
    """Watches whether instances can call: their silence counts against them for no longer than that.

    Router, hub or the whole machine may stand still for a while, and nobody can call then. Each pass is a look; what
    was between two looks that are further apart than `GAP_S` is unknown. In memory: a new hub has seen nothing yet.
    """

    def __init__(self) -> None:
        self._epoch = ""
        self._listening = Listening()

    def look(self, report: Reading[RouterReport], boottime_s: float) -> Listening:
        """Note whom the router listens to now, as it says."""
        epoch = report.value.epoch if isinstance(report, Ok) else ""
        known = report.value.instances.keys() if isinstance(report, Ok) else ()
        before = self._listening
        is_next = epoch == self._epoch and 0.0 <= boottime_s - before.at_s <= GAP_S
        since = before.since if is_next else {}
        if since.keys() != known:
            since = {name: since.get(name, boottime_s) for name in known}
        self._epoch, self._listening = epoch, Listening(at_s=boottime_s, since=since)
        return self._listening


def _without_secrets() -> "Secrets":
    from reconciler.identity.secret_files import Secrets
    from reconciler.identity.secrets import NoSecrets

    return Secrets(NoSecrets())


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The adapters and places that `observe` and `apply` work on. `run` is on tmpfs, `state` holds what must last.

    `last_messages` gives the last so many of an instance's messages, without what they say; it raises RouterError.
    """

    fleet: str
    seal_key: bytes
    run: Path
    state: Path
    store: "Store"
    runtime: Runtime
    router: RouterControl
    egress: EgressControl
    policy: PolicyEngine
    source: Source
    clock: Clock
    inspections: Inspections
    operator: OperatorSpec
    router_watch: RouterWatch = field(default_factory=RouterWatch)
    secrets: "Secrets" = field(default_factory=_without_secrets)
    last_messages: Callable[[str, int], Sequence[Mapping[str, Any]]] = lambda _instance, _count: ()

    def entry(self, **fields: str) -> "AuditEntry":
        """An entry for the audit log, of this fleet and of now; `fields` are the other columns."""
        from reconciler.store.audit import AuditEntry

        return AuditEntry(time=self.clock.now().isoformat(), boottime=self.clock.boottime(), fleet=self.fleet, **fields)

    def asked(self, caller: Caller, **fields: str) -> "AuditEntry":
        """An entry for what somebody did by hand, with who and why in the form that all such rows have."""
        by_hand = {"actor": str(caller), "cause": "operator", "outcome": "applied", "reason": caller.asked}
        return self.entry(**{**by_hand, **fields})


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """One revision: settings, and the specs of each kind by name.

    `broken` names kinds some of whose files could not be read, so that what is missing may only be unreadable.
    `images` is what image references mean on the engine; `route` the router's whole configuration with its digest.
    `disputed` is what only the revision's own policies allow, and those in force do not. `plane` is where instances
    come in that the operator wants without a socket. `rollbacks` are those that hold for it: the one of the fleet, by
    which this is the older revision, or those of resources, which are as other revisions say.
    """

    revision: Revision
    hub: HubSpec
    loaded: Mapping[str, Loaded[Any]]
    broken: frozenset[str] = frozenset()
    images: Mapping[str, Reading[str]] = field(default_factory=dict)
    route: Mapping[str, Any] = field(default_factory=dict)
    disputed: tuple[str, ...] = ()
    plane: AgentPlane = field(default_factory=AgentPlane)
    rollbacks: tuple[Rollback, ...] = ()

    def of(self, kind: str) -> Mapping[str, Any]:
        """The manifests of a kind by name; empty where it has none."""
        found = self.loaded.get(kind)
        return found.by_name if found else {}

    def asked_by(self, kind: str, name: str) -> str:
        """Who wants of a resource what the revision says: its author, or whoever rolled it back to that."""
        back = next((r for r in self.rollbacks if r.is_of_fleet or r.subject == f"{kind}/{name}"), None)
        return back.actor if back is not None else self.revision.author or "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What planning may know besides desired and observed: time as values, the mode, and the fleet.

    While `is_fleet_known` is False the agents could not be read, and an empty `fleet` says nothing. `runtime` is empty
    where it is not known. `busy` counts runs under way by instance, `waiting` those that could begin now by agent;
    `delegated` are the instances that delegated runs are to have, by name.
    `trust` is the score of agents that are not at neutral, `distrusted` why some are below the threshold: they are
    wished into quarantine.
    """

    now: datetime
    boottime: float
    boot_id: str
    mode: Mode = Mode.NORMAL
    runtime: str = ""
    sandboxed: bool = True
    router: RouterReport | None = None
    fleet: Fleet = field(default_factory=dict)
    is_fleet_known: bool = True
    busy: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    delegated: Mapping[str, Delegate] = field(default_factory=dict)
    trust: Mapping[str, float] = field(default_factory=dict)
    distrusted: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One entry of `KINDS`.

    load        snapshot -> manifests and problems; raises SourceError
    check       cross references of a whole revision -> problems
    contribute  manifests -> sections of the router's configuration
    observe     world, what the router said at the start of the pass, settings -> state, or Unavailable
    plan        desired, observed, facts -> changes in order, KEEP included
    apply       one change -> outcome; may raise any ReconcilerError
    join        changes -> those that `apply_joint` is quicker for, in groups
    apply_joint some changes -> their outcomes in order; when it raises, each can be applied by itself
    view        desired, observed -> what other kinds may know of the fleet
    find        observed -> what a person should know of it, by the kinds of subjects that were looked at
    receive     takes in what agents reported since the last pass; returns how many reports
    images      the image references that the manifests name
    verify      what only a policy engine can find wrong with a whole revision
    nothing     the state of a world in which there is nothing of the kind
    watch       for how many seconds a failure after a change counts as that of its roll-out, at most
    take_down   ends what the kind runs besides its resources, when the hub is taken down; may raise any ReconcilerError
    """

    name: str
    load: Callable[[Tree, HubSpec], Loaded[Any]]
    check: Callable[[Desired, OperatorSpec], Sequence[Problem]]
    contribute: Callable[[Desired], Mapping[str, Any]]
    observe: Callable[[World, Reading[RouterReport], HubSpec], Reading[Any]]
    plan: Callable[[Desired, Any, Facts], Sequence[Change]]
    apply: Callable[[Change, World, Desired], Outcome]
    nothing: Callable[[], Any]
    view: Callable[[Desired, Any, Facts], Mapping[str, AgentView]] | None = None
    find: Callable[[Any], Mapping[str, Sequence[Finding]]] | None = None
    receive: Callable[[World, Reading[RouterReport]], int] | None = None
    images: Callable[[Desired], Iterable[str]] | None = None
    verify: Callable[[Desired, Callable[[], PolicyEngine], Verdicts], Sequence[Problem]] | None = None
    watch: Callable[[Desired], float] | None = None
    take_down: Callable[[World], None] | None = None
    join: Callable[[Sequence[Change]], Sequence[Sequence[Change]]] = lambda _changes: ()
    apply_joint: Callable[[Sequence[Change], World, Desired], Sequence[Outcome]] | None = None


def later(module: str, name: str) -> Callable[..., Any]:
    """A function that is imported when it is first called: who only plans does without what touches the world."""
    function: Callable[..., Any] | None = None

    def call(*arguments: Any) -> Any:
        nonlocal function
        if function is None:
            function = getattr(importlib.import_module(module), name)
        return function(*arguments)

    return call
