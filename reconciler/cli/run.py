"""`run` and `down`, and what `apply` shares with them: a fleet opened, a loop over it, and a view for the person."""

import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from reconciler.cli.caller import caller_options, check_reason, with_caller
from reconciler.cli.options import data_option, operator_option, process_option, source_option
from reconciler.cli.output import print_problems, program
from reconciler.core.caller import Caller

if TYPE_CHECKING:
    from reconciler.bootstrap import Built
    from reconciler.cli.log_view import LogView
    from reconciler.kinds.kind import Desired, World
    from reconciler.loop.apply import Done
    from reconciler.loop.run import Loop, PassReport
    from reconciler.loop.serve import Hub
    from reconciler.settings import OperatorSpec
    from reconciler.store.records import TaskRecord

ONCE_TIMEOUT_S = 900.0
DOWN_TIMEOUT_S = 60.0
DRAIN_S = 10.0
"""How long a command that ends by itself waits for what is on its way to sinks that answer."""


@click.command(name="run")
@click.option("--once", is_flag=True, help="Exit when converged and leave nothing running. Exit 2 when it can't be.")
@click.option("--timeout", default=ONCE_TIMEOUT_S, show_default=True, help="With --once: seconds to wait.")
@click.option(
    "--log",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar="RECONCILER_LOG",
    show_default=True,
    help="Lines.",
)
@source_option
@data_option
@operator_option
@process_option
def run_command(
    once: bool,
    timeout: float,
    log: str,
    source: str,
    data: str | None,
    operator: str | None,
    allow_process_runtime: bool,
) -> int:
    """Run the hub on a repository, until Ctrl-C; agents go on then, and the next start adopts them."""
    interrupts = Interrupts()
    spec = _operator(operator, allow_process=allow_process_runtime)
    if spec is None:
        return 1
    with ExitStack() as stack:
        view = _choose_view(log)
        running = _start(stack, source, data, spec, interrupts, operator=operator, view=view, is_brief=once)
        if once:
            return _once(running, timeout)
        running.view.sum_up_when_done(running.built.world)
        running.view.say("the hub serves until Ctrl-C, which leaves the agents running")
        running.hub.serve()
        return _end(running)


@click.command(name="down")
@click.option("--now", is_flag=True, help="Do not wait for running tasks; they are resumed at the next start.")
@click.option(
    "--timeout",
    default=DOWN_TIMEOUT_S,
    show_default=True,
    help="Seconds to wait for an engine that does not answer; a running hub waits for as long as the default.",
)
@caller_options
@source_option
@data_option
@operator_option
def down_command(now: bool, timeout: float, caller: Caller, source: str, data: str | None, operator: str | None) -> int:
    """Drain and stop everything of a fleet; its record and its files stay. Exit 1 when something is left."""
    from reconciler.api.client import HubAwayError, call
    from reconciler.errors import LockedError, UsageError
    from reconciler.home import data_folder, is_locked, open_home

    state = data_folder(source, data)
    home = open_home(state, create=False)
    if home is None:
        raise UsageError(f"there is no fleet in {state}; name it with --data")
    with suppress(HubAwayError):
        call(home.run / "api.sock", "POST", with_caller(f"/api/v1/down{'?now=1' if now else ''}", caller))
        click.echo("the running hub drains and stops everything …")
        return _await_down(source, data)
    if is_locked(state):
        raise LockedError(f"a hub holds {state} but does not answer; wait for it, or end its process")
    spec = _operator(operator, allow_process=False)
    if spec is None:
        return 1
    check_reason(caller, spec)
    with ExitStack() as stack:
        running = _start(stack, source, data, spec, Interrupts(), quiet=True)
        _note(running.built.world, caller, "hub", running.built.world.fleet, "down now" if now else "down")
        running.drain, running.patience_s = not now, timeout
        return _take_down(running)


def _await_down(source: str, data: str | None) -> int:
    """Wait until the hub that was told to go down has ended; what it leaves is an error."""
    import time

    from reconciler.cli.reading import read_fleet
    from reconciler.home import data_folder, is_locked

    if left := read_fleet(source, data).left():
        click.echo(f"waiting: {left}")
    while is_locked(data_folder(source, data)):
        time.sleep(0.1)
    if left := read_fleet(source, data).left():
        return _not_down(left)
    click.echo("down: nothing of the fleet is running")
    return 0


def _not_down(left: str) -> int:
    click.echo(f"error: not everything could be removed: {left}; `{program()} down` goes on from there", err=True)
    return 1


def run_apply(
    source: str,
    data: str | None,
    operator: str | None,
    *,
    confirm: str | None,
    caller: Caller,
    timeout_s: float,
    allow_process: bool,
    wait_for_tasks: bool,
) -> int:
    """`apply`: converge once and leave everything running."""
    spec = _operator(operator, allow_process=allow_process)
    if spec is None:
        return 1
    if confirm is not None:
        if (code := _confirm_running(source, data, confirm, caller)) is not None:
            return code
        check_reason(caller, spec)
    with ExitStack() as stack:
        running = _start(stack, source, data, spec, Interrupts(), ends_when_refused=True, is_brief=True)
        if confirm is not None:
            _confirm(running.built.world, confirm, caller)
        converged = running.hub.run_once(timeout_s, wait_for_tasks=wait_for_tasks)
        last = running.hub.last
        if last is not None and last.problems:
            return 1
        if last is not None and last.plan.refused:
            if confirm is not None:
                _say_stale(confirm, last.plan.refused[0].confirm)
            return 3
        return 0 if converged and last is not None and not (last.is_behind or last.rollbacks) else 2


def _confirm(world: "World", digest: str, caller: Caller) -> None:
    """Note a confirmation that was given while no hub ran."""
    from reconciler.loop.run import CONFIRMED

    with world.store.transaction():
        world.store.set_meta(CONFIRMED, digest)
        _note(world, caller, "plan", digest, "confirm")


def _note(world: "World", caller: Caller, kind: str, name: str, action: str) -> None:
    """A row of the audit log for what was asked for while no hub ran."""
    from reconciler.loop.kept import APPLIED
    from reconciler.store.audit import append

    revision = world.store.get_meta(APPLIED) or ""
    append(world.store, [world.asked(caller, revision=revision, kind=kind, name=name, action=action)])


def _say_stale(confirmed: str, refused: str) -> None:
    click.echo(
        f"error: the plan that is refused is {refused}, not {confirmed}; see what it does with `{program()} plan`, and "
        "confirm that one if it is meant",
        err=True,
    )


def _confirm_running(source: str, data: str | None, digest: str, caller: Caller) -> int | None:
    """Hand the confirmation to a running hub; the exit code, or None where there is no hub."""
    from reconciler.api.client import HubAwayError, call
    from reconciler.errors import UsageError
    from reconciler.home import data_folder, open_home

    home = open_home(data_folder(source, data), create=False)
    if home is None:
        return None
    try:
        call(home.run / "api.sock", "POST", with_caller(f"/api/v1/plans/{digest}/confirm", caller))
    except HubAwayError:
        return None
    except UsageError as exc:
        click.echo(f"error: {exc}", err=True)
        return 3
    click.echo(f"confirmed {digest}; the running hub carries it out")
    return 0


@dataclass(slots=True)
class _Running:
    """One fleet that this process works on."""

    built: "Built"
    loop: "Loop"
    hub: "Hub"
    view: "View | LogView"
    drain: bool = True
    patience_s: float = DOWN_TIMEOUT_S
    is_down: bool = False

    def clear(self) -> None:
        """Once nothing listens any more: remove the run-time directory of a fleet that was taken down."""
        from reconciler.home import clear_run

        if self.is_down:
            clear_run(self.built.home)


def _start(
    stack: ExitStack,
    source: str,
    data: str | None,
    spec: "OperatorSpec",
    interrupts: "Interrupts",
    *,
    operator: str | None = None,
    view: "View | LogView | None" = None,
    quiet: bool = False,
    ends_when_refused: bool = False,
    is_brief: bool = False,
) -> _Running:
    """`is_brief`: it ends once the fleet has converged, so that what is to be told cannot wait."""
    from reconciler.api.app import build_app
    from reconciler.api.operations import HubOperations
    from reconciler.api.server import ApiServer, PortServer
    from reconciler.api.tokens import ByToken, Tokens
    from reconciler.api.webhook import WebhookServer
    from reconciler.audit.trail import open_trail
    from reconciler.bootstrap import open_couriers, open_fleet
    from reconciler.cli.audit_plane import FleetAuditReader
    from reconciler.kinds import KINDS
    from reconciler.loop.alerts import Alerts
    from reconciler.loop.health import Health
    from reconciler.loop.inbox import InboxStep
    from reconciler.loop.outbox import Outbox
    from reconciler.loop.retention import Retention
    from reconciler.loop.run import Loop
    from reconciler.loop.serve import Hub
    from reconciler.loop.statuses import Statuses
    from reconciler.store import records

    built = stack.enter_context(open_fleet(source, data, spec, keep_runtime=quiet))
    world = built.world
    view = view or View(quiet=quiet)
    if built.notice:
        view.say(built.notice)
    built.checks.tell = view.say
    serves = not quiet and not ends_when_refused
    tokens = Tokens(spec.api.http.token_file) if spec.api.http is not None and serves else None
    outbox = Outbox(world.store)
    alerts = Alerts(world.store, world.fleet, world.clock, outbox=outbox)
    statuses = None
    if spec.commit_status is not None and not quiet:
        settings = spec.commit_status.model_copy(update={"settle": 0.0}) if is_brief else spec.commit_status
        statuses = Statuses(world.store, outbox, world.fleet, world.clock, settings)
    trail = open_trail(world, source, outbox)
    stack.callback(trail.close)

    def on_desired(desired: "Desired") -> None:
        trail.accept(desired)
        if statuses is not None:
            statuses.attempt(desired)
        built.on_desired(desired)

    loop = Loop(
        world,
        KINDS,
        report=view.on_done,
        fresh_engine=built.fresh_engine,
        on_desired=on_desired,
        faults=lambda: [
            *built.faults(),
            *inbox.faults(),
            *trail.faults(),
            *health.faults(),
            *(tokens.faults() if tokens is not None else ()),
        ],
        alerts=alerts,
    )
    stack.callback(loop.close)
    inbox, retention = InboxStep(built.folder, world, loop), Retention(world, loop)
    health = Health(world, loop, KINDS, lambda: hub.wake.ring())

    def on_pass(report: "PassReport") -> None:
        view.on_pass(report)
        if ends_when_refused and is_pointless(report):
            hub.stop()

    def after_pass() -> None:
        inbox.answer()
        retention.look()
        trail.look(hub.last)
        health.look(hub.last)
        if statuses is not None:
            statuses.look(hub.last)

    def again_in_s() -> float | None:
        waits = [inbox.again_in_s(), statuses.again_in_s if statuses is not None else None]
        return min((w for w in waits if w is not None), default=None)

    hub = Hub(
        loop,
        world,
        KINDS,
        built.inspections,
        before_pass=inbox.look,
        after_pass=after_pass,
        pause=again_in_s,
        on_pass=on_pass,
        on_fault=view.say,
        watched=lambda: [*world.source.watch_paths(), *inbox.watch_paths()],
    )
    world.secrets.on_change = hub.wake.ring
    world.source.notify(hub.wake.ring)
    outbox.start(open_couriers(spec, outbox.arrived, lambda: hub.is_alive))
    stack.callback(outbox.close, DRAIN_S if is_brief else 0.0)
    began = world.clock.now().isoformat()
    view.follow(world.fleet, lambda: loop.revisions.applied)
    view.runs = lambda: choose_runs(records.tasks(world.store), loop.revisions.last_good(), began)
    running = _Running(built=built, loop=loop, hub=hub, view=view)
    stack.callback(running.clear)

    def on_down(drain: bool) -> None:
        running.drain = drain
        hub.take_down()

    by_token = ByToken(tokens) if tokens is not None else None
    operations = HubOperations(hub, loop, world, on_down, refused=by_token.refused if by_token else {})
    reader = FleetAuditReader(source=source, data=data, operator=operator)
    api = ApiServer(build_app(operations, reader=reader), built.home.run)
    api.start()
    stack.callback(api.stop)
    if by_token is not None and spec.api.http is not None:
        port = PortServer(build_app(operations, by_token, reader), spec.api.http)
        port.start()
        stack.callback(port.stop)
    if spec.source.webhook is not None and serves:
        webhook = WebhookServer(spec.source.webhook, world.source.refresh)
        webhook.start()
        stack.callback(webhook.stop)
    stack.callback(hub.stop)

    def on_interrupt() -> None:
        built.checks.stop()
        hub.stop()

    interrupts.use(on_interrupt)
    return running


def is_pointless(report: "PassReport") -> bool:
    """Whether no further pass would get further: a guard has refused the plan, or the revision is not valid."""
    return bool(report.plan.refused or report.problems)


def _once(running: _Running, timeout_s: float) -> int:
    converged = running.hub.run_once(timeout_s)
    last = running.hub.last
    running.view.summary(running.built.world, converged=converged)
    has_failed = any(run.state in ("failed", "timed_out", "rejected") for run in running.view.runs().of_interest)
    code = 0 if converged and not has_failed else 2
    if last is not None and (last.is_behind or last.rollbacks):
        code = 2
    if last is not None and last.problems:
        print_problems(last.problems)
        code = 1
    elif last is not None and last.plan.refused:
        code = 3
    left = _take_down(running)
    return code or left


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """`of_interest` are the latest runs by name that a person who starts the hub asks about; `is_new` if one is."""

    of_interest: "Sequence[TaskRecord]" = ()
    is_new: bool = False


def choose_runs(runs: "Sequence[TaskRecord]", desired: "Desired | None", began: str) -> Runs:
    """The runs of what git defines now, and what came up or ended since `began` (ISO 8601); none of the hub's own."""
    manifests = desired.of("task") if desired is not None else {}
    latest = {run.name: run for run in runs if not run.purpose}
    new = {name for name, run in latest.items() if max(run.created_at, run.finished_at) >= began}
    in_git = {name for name, run in latest.items() if name in manifests and manifests[name].digest == run.spec_digest}
    return Runs(of_interest=[run for name, run in latest.items() if name in new | in_git], is_new=bool(new))


def _end(running: _Running) -> int:
    if running.hub.is_going_down:
        return _take_down(running)
    if not (running.built.home.state / "fleet.json").exists():
        running.view.say("stopped; the data directory is gone, so no start can adopt what runs: restore it, or recycle")
        return 1
    running.view.say("stopped; router and agents go on, and the next `reconciler run` adopts them")
    running.view.say(f"to end them too: {program()} down")
    return 0


def _take_down(running: _Running) -> int:
    from reconciler.kinds import KINDS
    from reconciler.loop.serve import nothing_desired, take_down

    desired = running.loop.revisions.last_good() or nothing_desired()
    left = take_down(
        running.built.world,
        KINDS,
        desired,
        drain=running.drain,
        patience_s=running.patience_s,
        report=running.view.on_done,
        tell=running.view.say,
    )
    if left:
        return _not_down(left)
    running.is_down = True
    running.view.say("down: nothing of the fleet is running")
    return 0


class Interrupts:
    """The first Ctrl-C or SIGTERM stops in order, the second one ends at once.

    One that comes before there is anything to stop is remembered until there is: raised as an exception it could be
    lost, since Python passes over those in callbacks, of which imports are full. Stopping is done by another thread,
    because it takes locks that the interrupted one may hold.
    """

    def __init__(self) -> None:
        self._has_come = False
        self._stop: Callable[[], None] | None = None
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)

    def use(self, stop: Callable[[], None]) -> None:
        """From now on there is something to stop. It may be called twice."""
        self._stop = stop
        if self._has_come:
            stop()

    def _handle(self, number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        self._has_come = True
        if self._stop is not None:
            threading.Thread(target=self._stop, name="interrupt", daemon=True).start()


def _operator(path: str | None, *, allow_process: bool) -> "OperatorSpec | None":
    from reconciler.home import read_operator

    spec, problems = read_operator(path)
    if problems:
        print_problems(problems)
        return None
    if allow_process:
        allow = tuple(dict.fromkeys([*spec.runtime.allow, "process"]))
        runtime = spec.runtime.model_copy(update={"process_runtime": True, "allow": allow})
        spec = spec.model_copy(update={"runtime": runtime})
    return spec


def _choose_view(log: str) -> "View | LogView":
    if log == "text":
        return View()
    import sys

    from reconciler.cli.log_view import LogView
    from reconciler.logs import log_as_json

    log_as_json(sys.stdout, "hub")
    return LogView()


class View:
    """What the person sees while the hub works: a line per thing done, and a line per pass that changed the picture."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._seen: set[str] = set()
        self._picture = ""
        self._world: World | None = None
        self.runs: Callable[[], Runs] = Runs

    def follow(self, fleet: str, revision: Callable[[], str]) -> None:
        """A person knows which fleet it is."""

    def sum_up_when_done(self, world: "World") -> None:
        """Print the summary once, as soon as the fleet has converged and no task is on its way."""
        self._world = world

    def say(self, text: str) -> None:
        from rich.control import strip_control_codes

        click.echo(f"{click.style(_clock(), dim=True)} {strip_control_codes(text)}")

    def on_done(self, done: "Done") -> None:
        """A change was applied or failed; skipped ones are not worth a line."""
        from reconciler.cli.output import ACTION_SIGNS
        from reconciler.core.outcome import Applied, Skipped

        change, outcome = done.change, done.outcome
        if isinstance(outcome, Skipped):
            return
        if isinstance(outcome, Applied):
            sign, colour = ACTION_SIGNS.get(str(change.action), ("→", "blue"))
            text = outcome.note or change.reason
        else:
            sign, colour, text = "✗", "red", outcome.reason
        unit = f"{change.kind}/{change.instance or change.name}"
        self.say(f"{click.style(f'{sign} {change.action:<9}', fg=colour)} {unit:<30} {text}")

    def on_pass(self, report: "PassReport") -> None:
        """Problems, refusals, conditions and what waits for a person, once each; then how far the fleet is."""
        news = [str(p) for p in report.problems]
        news += [f"{c.type}: {c.message}" for c in report.conditions if c.type != "ConfigInvalid"]
        news += _waiting_for_somebody(report)
        for text in news:
            if text not in self._seen:
                self.say(text)
        self._seen = set(news)
        if self._quiet:
            return
        picture = _picture(report)
        if picture != self._picture:
            self._picture = picture
            self.say(picture)
        if self._world is not None and report.is_converged:
            world, self._world = self._world, None
            self.summary(world, converged=True)

    def summary(self, world: "World", *, converged: bool) -> None:
        """What ran, where, with which result, and how to look further."""
        from reconciler.cli.output import table
        from reconciler.store import records

        runs = self.runs()
        tasks = runs.of_interest
        results = records.results(world.store, [t.run for t in tasks])
        click.echo()
        table(
            ("TASK", "STATE", "RAN ON", "SECONDS", "RESULT"),
            (
                (
                    t.name,
                    t.state,
                    t.instance or "-",
                    f"{results[t.run].duration_s:.2f}" if t.run in results else "-",
                    t.reason or _short_result(results[t.run].result if t.run in results else ""),
                )
                for t in tasks
            ),
        )
        good = sum(t.state == "succeeded" for t in tasks)
        instances = records.instances(world.store)
        click.echo()
        self.say(
            f"{'converged' if converged else 'NOT converged'}: {len(instances)} instances on the "
            f"{world.runtime.name} runtime, {good} of {len(tasks)} tasks succeeded"
        )
        if tasks and not runs.is_new:
            self.say("nothing new to run: the tasks of this revision had ended before this start")
        me = program()
        self.say(f"look further: {me} status · {me} task show NAME · {me} audit show")


def _waiting_for_somebody(report: "PassReport") -> list[str]:
    """Instances that are held without a time, a line for each reason."""
    names_by_reason: dict[str, list[str]] = {}
    for change in report.held:
        if change.kind == "agent" and change.wait_s is None:
            names_by_reason.setdefault(change.reason, []).append(change.instance or change.name)
    return [f"on hold: {_count_rest(names)}: {reason}" for reason, names in names_by_reason.items()]


def _count_rest(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _picture(report: "PassReport") -> str:
    counts: dict[str, int] = {}
    ready = waiting = 0
    for change in report.plan.changes:
        if change.kind == "agent":
            ready += str(change.action) == "keep"
            waiting += str(change.action) not in ("keep", "remove", "recycle")
        if change.kind == "task":
            state = change.reason.split(":")[-1].strip() if str(change.action) == "keep" else "open"
            counts[state] = counts.get(state, 0) + 1
    tasks = ", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "none"
    revision = report.revision[:8] if ":" not in report.revision else "worktree"
    mode = "" if str(report.mode) == "normal" else f" · {report.mode}"
    return f"revision {revision or '-'} · agents {ready} ready, {waiting} on their way · tasks {tasks}{mode}"


def _short_result(result: str) -> str:
    import json

    if not result:
        return ""
    value = json.loads(result)
    if isinstance(value, dict) and isinstance(value.get("summary"), str):
        text: str = value["summary"]
    else:
        text = result
    return text if len(text) <= 120 else text[:117] + "…"


def _clock() -> str:
    from datetime import datetime

    return datetime.now().astimezone().strftime("%H:%M:%S")
