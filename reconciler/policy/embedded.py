"""The embedded engine: Rego in a worker process of its own, blocking, with a deadline for each call.

`activate` starts a new worker and loads the whole bundle into it before the old one goes, so that what answers is
always one bundle, and a bundle that cannot be loaded leaves the last good one in force. A worker that misses its
deadline or dies is replaced at the next call, with the same bundle. `check` and the tests in it never touch the worker
that answers.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from threading import Lock
from typing import Any

from reconciler.core.decision import Decision
from reconciler.core.problem import Problem, sort_problems
from reconciler.errors import PolicyEngineError
from reconciler.policy.bundle import is_test, problem_at_decision
from reconciler.policy.link import PATIENCE, WorkerLink, WorkerLostError
from reconciler.policy.rewrite import rewrite_module
from reconciler.policy.testing import TestLimits, run_tests
from reconciler.ports import PolicyBundle

ENGINE = "embedded"
SHORTEST_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Seconds for one decision (of the processor), for loading, and for a whole check with its tests; bytes for one
    worker.
    """

    decide_s: float = 1.0
    load_s: float = 10.0
    check_s: float = 10.0
    memory_bytes: int = 256 * 2**20
    tests: TestLimits = field(default_factory=TestLimits)


class EmbeddedEngine:
    """A `PolicyEngine` (`ports.py`) that several threads may use; their questions are asked one after another.

    While a check takes its time, `attend` is called with its seconds, some times in each; what it raises ends the
    check.
    """

    def __init__(self, limits: EngineLimits | None = None, attend: Callable[[float], None] = lambda _s: None) -> None:
        self._limits = limits or EngineLimits()
        self._attend = attend
        self._lock = Lock()
        self._bundle: PolicyBundle | None = None
        self._link: WorkerLink | None = None

    @property
    def revision(self) -> str:
        """The digest of the bundle in force; empty where there is none."""
        return self._bundle.digest if self._bundle else ""

    @property
    def worker_pid(self) -> int | None:
        """The process that answers, for `status`; None where none runs."""
        return self._link.pid if self._link else None

    def check(self, bundle: PolicyBundle) -> Sequence[Problem]:
        """Syntax, compilation and whether decisions end at all; if all that is well the tests.

        Raises PolicyEngineError where no worker starts.
        """
        modules = {
            path: rewrite_module(path, text, 0).text if is_test(path) else text for path, text in bundle.modules.items()
        }
        check = _Check(modules, self._limits, self._attend)
        problems = check.compile()
        if not problems:
            limits = replace(self._limits.tests, all_s=min(self._limits.tests.all_s, check.left_s()))
            problems = list(run_tests(check.start, bundle, limits))
        return sort_problems(problems)

    def activate(self, bundle: PolicyBundle) -> None:
        """Make this bundle the one that answers. Raises PolicyEngineError; then the last one stays in force."""
        fresh = self._start()
        try:
            self._load(fresh, bundle)
        except PolicyEngineError:
            fresh.close()
            raise
        with self._lock:
            old, self._link, self._bundle = self._link, fresh, bundle
        if old:
            old.close()

    def decide(self, entry_point: str, question: Mapping[str, Any]) -> Decision:
        """The answer of the active bundle. Raises PolicyEngineError where the worker cannot answer."""
        with self._lock:
            if self._bundle is None:
                raise PolicyEngineError(f"embedded engine: no bundle is active to decide {entry_point}")
            reply = self._ask(self._bundle, entry_point, question)
            revision = self._bundle.digest
        if reply is None:
            reason = "the question cannot be put to the policy: it is not JSON, or too large"
            return Decision(allow=False, reasons=(reason,), engine=ENGINE, revision=revision)
        if "error" in reply:
            raise PolicyEngineError(f"embedded engine: deciding {entry_point}: {reply['error']}")
        if reply["revision"] != revision:
            raise PolicyEngineError(f"embedded engine: answered for {reply['revision']}, not {revision}")
        return Decision(allow=reply["allow"], reasons=tuple(reply["reasons"]), engine=ENGINE, revision=revision)

    def close(self) -> None:
        with self._lock:
            link, self._link, self._bundle = self._link, None, None
        if link:
            link.close()

    def _start(self) -> WorkerLink:
        return WorkerLink(memory_bytes=self._limits.memory_bytes)

    def _ask(self, bundle: PolicyBundle, kind: str, question: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The worker's reply; None where the question is no JSON. The lock is held."""
        if self._link is None or not self._link.is_alive:
            self._drop_link()
            fresh = self._start()
            try:
                self._load(fresh, bundle)
            except PolicyEngineError:
                fresh.close()
                raise
            self._link = fresh
        try:
            return self._link.ask(
                "decide", PATIENCE * self._limits.decide_s, busy_s=self._limits.decide_s, kind=kind, question=question
            )
        except WorkerLostError as exc:
            self._link = None
            what = f"data.hub.{kind}.decision"
            if exc.timed_out:
                message = f"{what} did not end within {self._limits.decide_s:g}s; bound what it walks through"
            else:
                message = f"{what} crashed the engine, or used up its memory; simplify it"
            raise PolicyEngineError(f"{message} ({exc})") from exc
        except ValueError:
            return None

    def _drop_link(self) -> None:
        if self._link:
            self._link.close()
            self._link = None

    def _load(self, link: WorkerLink, bundle: PolicyBundle) -> None:
        """Raises PolicyEngineError."""
        reply = link.ask("load", self._limits.load_s, modules=bundle.modules, data=bundle.data)
        if "error" in reply:
            raise PolicyEngineError(f"embedded engine: loading {bundle.digest}: {reply['error']}")
        if reply["revision"] != bundle.digest:
            raise PolicyEngineError(f"embedded engine: {bundle.digest} calls itself {reply['revision']}")


class _Check:
    """One check within its time: of modules that nobody is asked about yet, in workers of its own."""

    def __init__(self, modules: Mapping[str, str], limits: EngineLimits, attend: Callable[[float], None]) -> None:
        self._modules, self._limits, self._attend = modules, limits, attend
        self._began = time.monotonic()

    def left_s(self) -> float:
        """Seconds that the check may still take; a little where it may take no more."""
        return max(self._began + self._limits.check_s - time.monotonic(), SHORTEST_S)

    def start(self) -> WorkerLink:
        return WorkerLink(
            memory_bytes=self._limits.memory_bytes, attend=lambda: self._attend(time.monotonic() - self._began)
        )

    def compile(self) -> list[Problem]:
        """What the engine says of the modules; where they crash it or do not end, which of them is to blame."""
        found = self._ask_problems(self._modules, self.left_s() / 2)
        return found if found is not None else self._find_guilty()

    def _find_guilty(self) -> list[Problem]:
        """The modules that the engine does not survive alone, as far as there is time to try them."""
        guilty = []
        for path, text in self._modules.items():
            if self.left_s() <= SHORTEST_S:
                break
            if self._ask_problems({path: text}, min(self.left_s(), self._limits.decide_s)) is None:
                guilty.append(path)
        where = guilty or [str(PurePosixPath(min(self._modules)).parent)]
        message = "cannot be compiled: the engine crashed or hung on it; simplify what was changed last"
        return [Problem(file=path, message=message) for path in where]

    def _ask_problems(self, modules: Mapping[str, str], busy_s: float) -> list[Problem] | None:
        """None where the worker did not survive the modules."""
        link = self.start()
        try:
            reply = link.ask("check", self.left_s(), busy_s=busy_s, modules=modules)
            problems = [Problem(**fields) for fields in reply["problems"]]
            return problems or self._probe(link, modules, reply["kinds"])
        except WorkerLostError:
            return None
        finally:
            link.close()

    def _probe(self, link: WorkerLink, modules: Mapping[str, str], kinds: Sequence[str]) -> list[Problem]:
        """Decisions that nobody can get, because they fail or do not end even for an empty question."""
        problems: list[Problem] = []
        for kind in kinds:
            deadline_s = min(self._limits.decide_s, self.left_s())
            try:
                fault = link.ask("probe", self.left_s(), busy_s=deadline_s, kind=kind).get("fault", "")
            except WorkerLostError as exc:
                late = (
                    f"did not end within {deadline_s:g}s, not even for an empty question; bound what it walks through"
                )
                crashed = "crashed the engine, or used up its memory; simplify it"
                return [*problems, problem_at_decision(modules, kind, late if exc.timed_out else crashed)]
            if fault:
                problems.append(problem_at_decision(modules, kind, str(fault)))
        return problems
