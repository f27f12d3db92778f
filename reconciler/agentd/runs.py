"""The runs of this instance.

`max_parallel` at once, the rest in line, each (run, generation) only once.

Assignments and cancellations come in, reports go into the outbox. An attempt is held from its
assignment until the hub has settled its report; the reports of the last ones are kept, to be sent
again when the hub asks again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from reconciler.agentd.assignment import (
    Assignment,
    AssignmentError,
    Ref,
    parse_assignment,
    parse_ref,
)
from reconciler.agentd.message import (
    Json,
    Message,
    build_completed,
    build_failed,
    build_progress,
    build_started,
)
from reconciler.agentd.outbox import Outbox, Parcel
from reconciler.agentd.outcome import Completed, Failed, Outcome, Usage
from reconciler.agentd.process import Halt
from reconciler.agentd.task import Bench, perform

_KEPT_REPORT_BYTES = 16 * 2**20
_KEPT_KEYS = 10_000
_Key = tuple[str, int]


@dataclass
class _Run:
    """One attempt that has not ended."""

    assignment: Assignment
    halt: Halt = field(default_factory=Halt)
    is_running: bool = False

    @property
    def ref(self) -> Ref:
        return self.assignment.ref


@dataclass
class _Ended:
    """One attempt that has ended; `parcel` is None where its report is no longer kept."""

    ref: Ref
    parcel: Parcel | None
    is_settled: bool = False


class Runs:
    """From any thread. `on_change` is called when an attempt has ended; `spawn_thread` runs one."""

    def __init__(
        self,
        bench: Bench,
        outbox: Outbox,
        *,
        spawn_thread: Callable[[str, Callable[[], None]], None],
        on_change: Callable[[], None],
    ) -> None:
        self._bench = bench
        self._log = bench.log
        self._outbox = outbox
        self._spawn_thread = spawn_thread
        self._on_change = on_change
        self._lock = threading.RLock()
        self._open: dict[_Key, _Run] = {}
        self._ended: dict[_Key, _Ended] = {}
        self._kept_bytes = 0
        self._is_stopping = False

    def assign(self, payload: object, correlation_id: str) -> None:
        """Take an assignment: run it, put it in line, or report again what came of it."""
        try:
            ref = parse_ref(payload)
        except AssignmentError as error:
            self._log.error("an assignment that names no run was dropped", error=str(error))
            return
        with self._lock:
            if self._is_stopping or self._is_known(ref):
                return
            try:
                run = _Run(parse_assignment(payload, correlation_id))
            except AssignmentError as error:
                refused = Assignment(ref=ref, correlation_id=correlation_id)
                self._report(refused, Failed(reason="spawn", error=f"the assignment is wrong: {error}"))
                return
            for older in [r for r in self._open.values() if r.ref.run == ref.run]:
                self._halt(older, "cancelled")
            self._open[ref.key] = run
            self._start_next()

    def cancel(self, ref: Ref) -> None:
        """End the attempt.

        `ref.run` may be empty: then the task's name and the generation tell which. One that never
        arrived is reported as cancelled, and will not be run should it still come.
        """
        with self._lock:
            if ref.run and ref.key not in self._open and ref.key not in self._ended:
                self._report(Assignment(ref=ref), Failed(reason="cancelled", error="cancelled before it arrived"))
                return
            for run in list(self._open.values()):
                same_run = ref.run in ("", run.ref.run)
                if same_run and run.ref.task == ref.task and run.ref.generation == ref.generation:
                    self._halt(run, "cancelled")

    def held(self) -> tuple[Ref, ...]:
        """Attempts that run, wait in line, or whose report the hub has not settled.

        Their leases must live.
        """
        with self._lock:
            unsettled = [e.ref for e in self._ended.values() if not e.is_settled]
            return (*(r.ref for r in self._open.values()), *unsettled)

    def is_idle(self) -> bool:
        with self._lock:
            return not self._open

    def stop_taking(self) -> None:
        """Start nothing more; what waits in line is reported as not run."""
        with self._lock:
            self._is_stopping = True
            for run in [r for r in self._open.values() if not r.is_running]:
                self._halt(run, "shutdown")

    def shut_down(self, *, kill_after_s: float) -> None:
        """End what still runs: SIGTERM, and SIGKILL after `kill_after_s`."""
        with self._lock:
            for run in list(self._open.values()):
                run.halt.set("shutdown", kill_after_s=kill_after_s)

    def _is_known(self, ref: Ref) -> bool:
        """Whether this attempt or a later one of the run was here; reports again what has ended."""
        ended = self._ended.get(ref.key)
        if ended is not None:
            self._log.info("assigned again after it ended", task=ref.task, generation=ref.generation)
            if ended.parcel is not None and ended.is_settled:
                ended.is_settled = False
                self._outbox.put(ended.parcel)
            return True
        if ref.key in self._open:
            self._log.info("assigned again while it is here", task=ref.task, generation=ref.generation)
            return True
        if any(run == ref.run and generation > ref.generation for run, generation in (*self._open, *self._ended)):
            self._log.warning("an old generation was dropped", task=ref.task, generation=ref.generation)
            return True
        return False

    def _start_next(self) -> None:
        """Start what is in line as far as there is room; two attempts of one run never at once."""
        running = [r for r in self._open.values() if r.is_running]
        if self._is_stopping:
            return
        for run in list(self._open.values()):
            if len(running) >= self._bench.config.max_parallel:
                return
            if not run.is_running and all(run.ref.run != r.ref.run for r in running):
                run.is_running = True
                running.append(run)
                self._start(run)

    def _start(self, run: _Run) -> None:
        try:
            self._spawn_thread(f"run-{run.ref.task}", lambda: self._perform(run))
        except RuntimeError as error:
            self._close(run, Failed(reason="spawn", error=f"no thread for the task: {error}"))

    def _perform(self, run: _Run) -> None:
        assignment, ref = run.assignment, run.ref

        def report_started() -> None:
            self._log.info("started", task=ref.task, run=ref.run, generation=ref.generation)
            self._put(build_started(ref, assignment.correlation_id), run)

        def report_progress(text: str) -> None:
            self._put(build_progress(ref, text, assignment.correlation_id), run, droppable=True)

        with self._bench.groups.turn.taken():
            outcome = perform(assignment, self._bench, run.halt, report_started, report_progress)
        with self._lock:
            self._close(run, outcome)
            self._start_next()
        self._on_change()

    def _halt(self, run: _Run, reason: str) -> None:
        if run.is_running:
            run.halt.set(reason)
            return
        self._close(run, Failed(reason=reason, error=f"{reason} before it was started"))
        self._on_change()

    def _close(self, run: _Run, outcome: Outcome) -> None:
        run.halt.close()
        self._open.pop(run.ref.key, None)
        self._report(run.assignment, outcome)

    def _put(self, message: Message, run: _Run, *, droppable: bool = False) -> None:
        """An event of a running attempt.

        One that the hub has given to another generation is void.
        """

        def settle(code: str) -> None:
            if code == "stale_generation":
                self.cancel(run.ref)

        self._outbox.put(Parcel(message=message, task=run.ref.task, on_settled=settle, droppable=droppable))

    def _report(self, assignment: Assignment, outcome: Outcome) -> None:
        ref = assignment.ref
        reason = outcome.reason if isinstance(outcome, Failed) else ""
        self._log.info(
            "failed" if reason else "completed",
            task=ref.task,
            run=ref.run,
            generation=ref.generation,
            reason=reason,
            duration_s=outcome.duration_s,
        )
        parcel = Parcel(
            message=_build_report(assignment, outcome),
            task=ref.task,
            on_settled=lambda _code: self._settle(ref),
            fallback=lambda explanation: _build_fallback(assignment, outcome, explanation),
        )
        self._ended[ref.key] = _Ended(ref=ref, parcel=replace(parcel, fallback=None))
        self._kept_bytes += len(parcel.message.body)
        self._outbox.put(parcel)

    def _settle(self, ref: Ref) -> None:
        """Note that the hub has the report."""
        with self._lock:
            ended = self._ended.get(ref.key)
            if ended is not None:
                ended.is_settled = True
                self._let_go()

    def _let_go(self) -> None:
        """Forget the oldest settled reports; their (run, generation) is remembered longer."""
        forgotten: list[_Key] = []
        for key, ended in self._ended.items():
            has_too_many = len(self._ended) - len(forgotten) > _KEPT_KEYS
            if not has_too_many and self._kept_bytes <= _KEPT_REPORT_BYTES:
                break
            if ended.is_settled and ended.parcel:
                self._kept_bytes -= len(ended.parcel.message.body)
                ended.parcel = None
            if ended.is_settled and has_too_many:
                forgotten.append(key)
        for key in forgotten:
            del self._ended[key]


def _build_report(assignment: Assignment, outcome: Outcome) -> Message:
    if isinstance(outcome, Completed):
        return build_completed(
            assignment.ref,
            outcome.result,
            outcome.artefacts.artefacts,
            outcome.duration_s,
            assignment.correlation_id,
            usage=_show(outcome.usage),
        )
    return build_failed(
        assignment.ref,
        exit_code=outcome.exit_code,
        reason=outcome.reason,
        error=outcome.error,
        stderr_tail=outcome.stderr_tail,
        duration_s=outcome.duration_s,
        correlation_id=assignment.correlation_id,
        partial=outcome.partial,
        usage=_show(outcome.usage),
    )


def _show(usage: Usage | None) -> Json | None:
    return None if usage is None else usage.to_json()


def _build_fallback(assignment: Assignment, outcome: Outcome, explanation: str) -> Message:
    """What is said instead when the hub refuses a report for its content; nothing large."""
    refused = f"the hub refused the report: {explanation}"
    if isinstance(outcome, Completed):
        too_large = explanation.startswith("413") or "too_large" in explanation
        failed = Failed(
            reason="too_large" if too_large else "exit",
            error=refused,
            exit_code=0,
            duration_s=outcome.duration_s,
            usage=outcome.usage,
        )
    else:
        failed = Failed(
            reason=outcome.reason,
            error=outcome.error,
            exit_code=outcome.exit_code,
            duration_s=outcome.duration_s,
            usage=outcome.usage,
        )
    return _build_report(assignment, failed)
