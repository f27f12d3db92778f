"""The composition root: the only place that builds real adapters and knows where everything is.

`open_home` takes the data directory (lock, fleet id, keys, state.db); `build_world` puts the adapters together.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from reconciler.alerts.courier import Courier
from reconciler.alerts.sink import Sink
from reconciler.clock import SystemClock
from reconciler.core.address import UnixAddress, parse_address
from reconciler.core.origin import is_remote
from reconciler.core.problem import Problem
from reconciler.core.reading import Ok, Reading, Unavailable
from reconciler.core.ref import parse_ref
from reconciler.egress.client import EgressLink
from reconciler.errors import CheckStoppedError, ForeignFleetError, SourceError, StoreError, UsageError
from reconciler.home import FLEET_FILE, Home, data_folder, followed, lock, open_followed, open_home, prepare_run
from reconciler.identity.secret_files import Secrets
from reconciler.identity.secrets import open_provider
from reconciler.kinds.kind import Desired, World
from reconciler.kinds.task.escalation import escalations
from reconciler.kinds.tree import ParseCache, Tree
from reconciler.loop.conditions import Fault
from reconciler.loop.desired import load_hub
from reconciler.loop.inspections import Inspections
from reconciler.lost import Leftover, lost_containers, lost_processes
from reconciler.policy.builtin import Facts
from reconciler.policy.chain import Chain, Order
from reconciler.policy.opa import OpaEngine, OpaSettings
from reconciler.policy.opa_config import OPA_SOCKET
from reconciler.policy.opa_process import NO_PROGRAM, find_program
from reconciler.ports import PolicyBundle, PolicyEngine, Runtime, RuntimeFacts, Source
from reconciler.router.client import RouterLink
from reconciler.settings import FORGE_SINK, HubSpec, OperatorSink, OperatorSpec
from reconciler.store import records
from reconciler.store.store import FILE_NAME, Store

TELL_S = 1.0
"""How often a person is told of a check of policies that goes on."""


def choose_runtime(home: Home, operator: OperatorSpec, wish: str, used: str | None) -> tuple[Runtime, str]:
    """The runtime, and a sentence for the person when it is not the obvious one.

    A fleet keeps the runtime that it was started with: an engine that is away for a moment is no reason to leave it.
    """
    may_process = operator.runtime.process_runtime
    docker = _docker(home)
    if used == "docker":
        return docker, ""
    if used == "process":
        return _process(home), ""
    facts: Reading[RuntimeFacts] = (
        docker.facts()
        if "docker" in operator.runtime.allow and wish != "process"
        else (Unavailable(reason="none is asked for"))
    )
    if isinstance(facts, Ok):
        return docker, ""
    if may_process:
        why = say_engine_away(facts)
        return _process(home), f"no container engine: {why}; agents run as plain processes (SandboxNotEnforced)"
    return docker, ""


def say_engine_away(facts: Reading[RuntimeFacts]) -> str:
    """Why no engine answers, without what it was asked for."""
    reason = facts.reason if isinstance(facts, Unavailable) else "there is none"
    return reason[reason.find("the engine at") :] if "the engine at" in reason else reason


def _docker(home: Home) -> Runtime:
    from reconciler.runtime.docker import DockerRuntime

    return DockerRuntime(home.fleet)


def _process(home: Home) -> Runtime:
    from reconciler.runtime.process import ProcessRuntime

    return ProcessRuntime(home.fleet, home.run / "process")


def check_same_fleet(home: Home, known: str | None, source: str, recorded_source: str | None) -> None:
    """Refuse a state.db that belongs to another fleet or another repository. Raises ForeignFleetError."""
    if known is not None and known != home.fleet:
        raise ForeignFleetError(
            f"{home.state} mixes two fleets: its state belongs to {known}, its keys to {home.fleet}; "
            "restore the backup of one of them, or start with an empty --data"
        )
    if recorded_source and is_remote(recorded_source) and not is_remote(source):
        raise ForeignFleetError(
            f"{home.state} holds the fleet of {recorded_source}, not of {source}; name the operator.yaml that says so "
            "with --operator, or the right --data"
        )
    if recorded_source and recorded_source != source and Path(recorded_source).exists():
        raise ForeignFleetError(
            f"{home.state} holds the fleet of {recorded_source}, not of {source}; name the right --data"
        )


class CheckWatch:
    """What a person sees of a check of policies that takes its time, and how they end it."""

    def __init__(self, tell: Callable[[str], None] = lambda _text: None) -> None:
        self.tell = tell
        self._stop = threading.Event()
        self._told_s = 0.0

    def stop(self) -> None:
        """End the check under way, and each later one. Safe from a signal handler."""
        self._stop.set()

    def attend(self, seconds: float) -> None:
        """Called while a check goes on. Raises CheckStoppedError when it was told to stop."""
        if self._stop.is_set():
            raise CheckStoppedError("the check of the policies was stopped")
        if seconds < self._told_s:
            self._told_s = 0.0
        if seconds >= self._told_s + TELL_S:
            self._told_s = seconds
            self.tell(f"checking policies for {seconds:.0f}s …")


@dataclass(slots=True, kw_only=True)
class Built:
    """A fleet opened for work: its world, the cache of inspections, and what to tell the person."""

    home: Home
    world: World
    inspections: Inspections
    policy: Chain
    opa: OpaEngine
    fallback: list[str]
    checks: CheckWatch
    hub_settings: HubSpec = field(default_factory=HubSpec)
    notice: str = ""
    folder: str = "."
    """Where the inbox is: the source, or beside the data where that is elsewhere."""

    def fresh_engine(self) -> PolicyEngine:
        """An engine of its own for judging a revision that is not in force yet."""
        return build_policy(self.hub_settings, self.world.operator, checks=self.checks)

    def on_desired(self, desired: Desired) -> None:
        """Another desired state: the chain asks in its order from now on."""
        self.hub_settings = desired.hub
        self.world.secrets.keep({name for m in desired.of("agent").values() for name in m.spec.secrets})
        self.opa.configure(opa_settings(desired.hub, self.world.operator, self.world.run))
        self.policy.configure(policy_order(desired.hub, self.world.operator, has_opa=True))

    def faults(self) -> Sequence[Fault]:
        """Conditions of the hub that the adapters know of."""
        self.policy.probe()
        away = [("PolicyFallback", "EngineAway", reason) for reason in self.fallback]
        return [*away, *escalations(self.world.store)]


def build_policy(
    hub: HubSpec,
    operator: OperatorSpec,
    on_fallback: Callable[[str | None], None] | None = None,
    opa: OpaEngine | None = None,
    checks: CheckWatch | None = None,
) -> Chain:
    """The chain of engines; the worker of the embedded one starts when it is first asked.

    Without `opa` the embedded engine stands in for it: OPA has only the policies that are in force.
    """
    from reconciler.policy.embedded import EmbeddedEngine, EngineLimits

    limits = EngineLimits(check_s=operator.policy.check_timeout)
    engines: Mapping[str, PolicyEngine] = {"embedded": EmbeddedEngine(limits, (checks or CheckWatch()).attend)}
    probes: Mapping[str, Callable[[], None]] = {}
    if opa is not None:
        engines, probes = {"opa": opa, **engines}, {"opa": opa.probe}
    order = policy_order(hub, operator, has_opa=opa is not None)
    return Chain(engines, order, on_fallback or (lambda _reason: None), probes=probes)


def policy_order(hub: HubSpec, operator: OperatorSpec, *, has_opa: bool = False) -> Order:
    """Which engines answer, and what the built-in rules go by; policies for OPA are checked by its compiler, too."""
    names = ("embedded" if name == "opa" and not has_opa else name for name in hub.policy.engines)
    return Order(
        engines=tuple(dict.fromkeys(names)),
        last_resort=hub.policy.last_resort.model_dump(),
        facts=Facts(
            allow_cross_agent=hub.orchestrator.allow_cross_agent,
            images=(hub.runtime.images, operator.runtime.image_allow),
            exposures={level: frozenset({"none", *where}) for level, where in hub.sensitivity.exposures.items()},
        ),
        second_check=_opa_check(hub, operator),
    )


def _opa_check(hub: HubSpec, operator: OperatorSpec) -> Callable[[PolicyBundle], Sequence[Problem]]:
    """Nothing where there is no program: what OPA does not take then shows when it fetches the policies."""
    from reconciler.policy.opa_check import check_with_opa

    program = find_program(operator.policy.opa_binary) if "opa" in hub.policy.engines else None
    return partial(check_with_opa, program) if program else lambda _bundle: ()


def opa_settings(hub: HubSpec, operator: OperatorSpec, run: Path) -> OpaSettings | None:
    """How OPA is asked; None where `hub.yaml` has no section for it."""
    opa = hub.policy.opa
    if opa is None:
        return None
    return OpaSettings(
        address=parse_address(opa.address) if opa.address else UnixAddress(path=str(run / OPA_SOCKET)),
        timeout_s=opa.timeout,
        failures=opa.breaker.failures,
        half_open_after_s=opa.breaker.half_open_after,
        missing=NO_PROGRAM if opa.managed and find_program(operator.policy.opa_binary) is None else "",
    )


@contextmanager
def open_fleet(
    source_path: str, data: str | None, operator: OperatorSpec, *, keep_runtime: bool = False
) -> Iterator[Built]:
    """Lock a data directory and put the world together. Raises any ReconcilerError.

    With `keep_runtime` the runtime is the one of the last start, also where none of its instances is left.
    """
    state = data_folder(source_path, data)
    check_not_lost(state, operator)
    with lock(state):
        home = open_home(state, create=True)
        if home is None:
            raise StoreError(f"the fleet of {state} could not be made")
        prepare_run(home)
        store = Store(state / FILE_NAME)
        tracked = followed(source_path, operator.source)
        absolute = tracked.url if tracked.origin else str(Path(tracked.url).absolute())
        check_same_fleet(home, store.get_meta("fleet"), absolute, store.get_meta("source"))
        branch = None if tracked.origin else _branch(tracked.url, operator, store)
        source = open_followed(tracked.model_copy(update={"url": absolute}), state, branch)
        runtime, notice = choose_runtime(home, operator, _wish(source, operator), _used(store, keep=keep_runtime))
        if runtime.name == "docker":
            # Its daemon mounts what is below as root; a host user with the containers' user id must not get there.
            home.run.chmod(0o700)
        for key, value in (("fleet", home.fleet), ("source", absolute), ("runtime", runtime.name)):
            if store.get_meta(key) != value:
                store.set_meta(key, value)
        inspections = Inspections(runtime)
        router = RouterLink(home.fleet, home.run, state)
        fallback: list[str] = []
        opa = OpaEngine()
        checks = CheckWatch()
        policy = build_policy(HubSpec(), operator, lambda reason: _replace(fallback, reason), opa, checks)
        world = World(
            fleet=home.fleet,
            seal_key=home.seal_key,
            run=home.run,
            state=state,
            store=store,
            runtime=runtime,
            router=router,
            egress=EgressLink(home.fleet, home.run, state),
            policy=policy,
            source=source,
            clock=SystemClock(),
            inspections=inspections,
            operator=operator,
            secrets=Secrets(open_provider(operator.secrets, os.environ)),
            last_messages=partial(read_last_messages, state),
        )
        try:
            yield Built(
                home=home,
                world=world,
                inspections=inspections,
                policy=policy,
                opa=opa,
                fallback=fallback,
                checks=checks,
                notice=notice,
                folder=str(state.parent) if tracked.origin or tracked.url != source_path else source_path,
            )
        finally:
            runtime.close()
            policy.close()
            source.close()
            store.close()


def read_last_messages(state: Path, instance: str, count: int) -> Sequence[Mapping[str, object]]:
    """The last messages from and to an instance by the message log, without their payloads. Raises RouterError."""
    from reconciler.router.history import Selection, read_newest

    rows = read_newest(state / "traffic.db", Selection(agent=instance), count)
    kept = ("seq", "time", "msg_id", "type", "agent", "instance", "recipient", "verdict", "code", "reason")
    return [{name: row[name] for name in kept} for row in rows]


def open_couriers(
    operator: OperatorSpec, on_done: Callable[[int], None], is_alive: Callable[[], bool]
) -> Mapping[str, Courier]:
    """One for each sink that the operator defines, and for the forge; they deliver once they are started."""
    from reconciler.alerts.forge import ForgeSink

    couriers: dict[str, Courier] = {}
    for name, settings in operator.sinks.items():
        sink = _open_sink(settings)
        couriers[name] = Courier(name, sink, on_done=on_done, heartbeat_s=settings.heartbeat, is_alive=is_alive)
    if operator.commit_status is not None:
        couriers[FORGE_SINK] = Courier(FORGE_SINK, ForgeSink(operator.commit_status), on_done=on_done)
    return couriers


def _open_sink(settings: OperatorSink) -> Sink:
    from reconciler.alerts.chat import ChatSink
    from reconciler.alerts.command import CommandSink
    from reconciler.alerts.smtp import SmtpSink
    from reconciler.alerts.webhook import WebhookSink

    if settings.webhook is not None:
        return WebhookSink(settings.webhook, settings.timeout)
    if settings.command is not None:
        return CommandSink(settings.command, settings.timeout)
    if settings.smtp is not None:
        return SmtpSink(settings.smtp, settings.timeout)
    if settings.apprise is not None:
        return ChatSink(settings.apprise, settings.timeout)
    raise UsageError("a sink has no way out")


def _replace(fallback: list[str], reason: str | None) -> None:
    fallback[:] = [reason] if reason is not None else []


def check_not_lost(state: Path, operator: OperatorSpec) -> None:
    """A new fleet must not stand beside a running one of the same place, or take the place of its key.

    Looks only where there is no fleet, and changes nothing. Raises ForeignFleetError, StoreError.
    """
    if (state / FLEET_FILE).exists():
        return
    if known := _recorded_fleet(state):
        raise ForeignFleetError(
            f"{state} has the record of fleet {known}, but its key ({FLEET_FILE}) was lost; restore it from a backup, "
            "or remove what runs with `reconciler recycle` and start with an empty --data"
        )
    containers = lost_containers(state, "") if "docker" in operator.runtime.allow else Ok([])
    found = [*(containers.value if isinstance(containers, Ok) else ()), *lost_processes(state, "")]
    if found:
        fleets = ", ".join(sorted({x.fleet for x in found}))
        raise ForeignFleetError(
            f"{state} is new, but {_count(found)} of fleet {fleets} were made from it: its data was lost; "
            "restore its backup, or remove them with `reconciler recycle`"
        )


def _recorded_fleet(state: Path) -> str:
    """The fleet that the record in a data directory belongs to; empty where there is none. Raises StoreError."""
    if not (state / FILE_NAME).exists():
        return ""
    store = Store(state / FILE_NAME, read_only=True)
    try:
        return store.get_meta("fleet") or ""
    finally:
        store.close()


def _count(found: Sequence[Leftover]) -> str:
    """`7 containers and a router`"""
    counts = (
        ("containers", sum(not x.is_process for x in found)),
        ("instances", sum(x.is_process and not x.is_router for x in found)),
        ("routers", sum(x.is_router for x in found)),
    )
    return " and ".join(f"{count} {name if count > 1 else name[:-1]}" for name, count in counts if count)


def _used(store: Store, *, keep: bool) -> str | None:
    """The runtime that the fleet's instances are on; None when it has none, unless the last one is to be kept."""
    return store.get_meta("runtime") if keep or records.instances(store) else None


def _wish(source: Source, operator: OperatorSpec) -> str:
    head = source.head()
    if not isinstance(head, Ok) or not _is_believed(source, head.value.id):
        return "docker"
    snapshot = source.snapshot(head.value.id)
    if not isinstance(snapshot, Ok):
        return "docker"
    hub, _problems = load_hub(Tree(snapshot=snapshot.value, cache=ParseCache()), operator)
    return hub.runtime.prefer if hub is not None else "docker"


def _is_believed(source: Source, revision: str) -> bool:
    """Whether anything of it may be read, by its signatures."""
    try:
        return source.unverified("", revision) is None
    except SourceError:
        return False


def _branch(path: str, operator: OperatorSpec, store: Store) -> str | None:
    """The branch to follow: as the operator says, as recorded at first start, or the current one."""
    from reconciler.source.repository import current_branch, has_branch

    if (ref := operator.source.ref) is not None and parse_ref(ref).kind != "branch":
        raise UsageError(f"source.ref is {ref}, but of a directory a branch is followed; write url: file://{path}")
    chosen = ref or store.get_meta("branch")
    if chosen is None and (Path(path) / ".git").exists():
        found = current_branch(path)
        if not isinstance(found, Ok):
            reason = found.reason if isinstance(found, Unavailable) else "it has no branch"
            raise SourceError(f"choosing the branch to follow: {reason}")
        chosen = found.value
    if chosen is not None and store.get_meta("branch") != chosen and (ref is None or has_branch(path, chosen)):
        store.set_meta("branch", chosen)
    return chosen
