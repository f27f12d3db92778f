"""The embedded engine: Rego in a worker process of its own, blocking, with a deadline for each call.

`activate` starts a new worker and loads the whole bundle into it before the old one goes, so that what answers is
always one bundle, and a bundle that cannot be loaded leaves the last good one in force. A worker that misses its
deadline or dies is replaced at the next call, with the same bundle. `check` and the tests in it never touch the worker
that answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from threading import Lock
from typing import Any

from reconciler.core.decision import Decision
from reconciler.core.problem import Problem, sort_problems
from reconciler.errors import PolicyEngineError
from reconciler.policy.bundle import is_test
from reconciler.policy.link import WorkerLink, WorkerLostError
from reconciler.policy.rewrite import rewrite_module
from reconciler.policy.testing import TestLimits, run_tests
from reconciler.ports import PolicyBundle

ENGINE = "embedded"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """Seconds for one decision, for loading and for checking without tests; bytes for one worker."""

    decide_s: float = 1.0
    load_s: float = 10.0
    check_s: float = 20.0
    memory_bytes: int = 256 * 2**20
    tests: TestLimits = field(default_factory=TestLimits)


class EmbeddedEngine:
    """A `PolicyEngine` (`ports.py`) that several threads may use; their questions are asked one after another."""

    def __init__(self, limits: EngineLimits | None = None) -> None:
        self._limits = limits or EngineLimits()
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
        """Syntax and compilation, and if they are well the tests. Raises PolicyEngineError where no worker starts."""
        problems = self._compile(
            {
                path: rewrite_module(path, text, 0).text if is_test(path) else text
                for path, text in bundle.modules.items()
            }
        )
        return sort_problems(problems or run_tests(self._start, bundle, self._limits.tests))

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
            return self._link.ask("decide", self._limits.decide_s, kind=kind, question=question)
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

    def _compile(self, modules: Mapping[str, str]) -> list[Problem]:
        """What the engine says of modules; if they crash it, which of them does so alone."""
        found = self._ask_problems(modules)
        if found is not None:
            return found
        alone = {path: self._ask_problems({path: text}) for path, text in modules.items()}
        guilty = [path for path, problems in alone.items() if problems is None]
        where = guilty or [str(PurePosixPath(min(modules)).parent)]
        message = "cannot be compiled: the engine crashed or hung on it; simplify what was changed last"
        return [Problem(file=path, message=message) for path in where]

    def _ask_problems(self, modules: Mapping[str, str]) -> list[Problem] | None:
        """None where the worker did not survive it."""
        link = self._start()
        try:
            reply = link.ask("check", self._limits.check_s, modules=modules)
        except WorkerLostError:
            return None
        finally:
            link.close()
        return [Problem(**fields) for fields in reply["problems"]]
