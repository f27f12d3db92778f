"""Runs the Rego tests of a bundle in policy workers, and says where each failing one stands, and what they reach.

A bundle comes in, problems go out; worker processes are started, and killed where a test does not end. A test is a
rule `test_…` of a file `*_test.rego`, and passes when it is true. Expressions under `with` are evaluated first, each
under the input and data that it names, and stand in the tests as values (`rewrite.py`).
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from reconciler.core.problem import Problem, sort_problems
from reconciler.policy.bundle import TestRule, find_tests, is_test, without_tests
from reconciler.policy.coverage import Coverage, count_marks
from reconciler.policy.link import PATIENCE, WorkerLink, WorkerLostError
from reconciler.policy.marks import mark_modules
from reconciler.policy.module import Rule
from reconciler.policy.rewrite import Rewritten, With, rewrite_module
from reconciler.ports import PolicyBundle

Data: TypeAlias = Mapping[str, Any]

_RUN_SUFFIX = ".run"
"""Stands behind the path of a rewritten test module, so that the worker does not leave it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestLimits:
    """Seconds for one evaluation, for loading once, and for all tests of a bundle together."""

    __test__ = False

    each_s: float = 2.0
    load_s: float = 10.0
    all_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What an expression came to: a value and its Rego, a reason why there is none, or neither where undefined."""

    value: Any = None
    term: str = ""
    reason: str = ""


class _StoppedError(Exception):
    """The tests cannot go on; the message is for their author."""


def run_tests(start: Callable[[], WorkerLink], bundle: PolicyBundle, limits: TestLimits) -> tuple[Problem, ...]:
    """A problem for each test that fails, at its rule. Raises PolicyEngineError where no worker starts."""
    problems, _ = _run_tests(start, bundle, limits, without_tests(bundle.modules), has_marks=False)
    return problems


def measure_coverage(
    start: Callable[[], WorkerLink], bundle: PolicyBundle, limits: TestLimits
) -> tuple[tuple[Problem, ...], Coverage]:
    """The same of policies with marks (`marks.py`), and which of their rules the tests reach."""
    marked = mark_modules(bundle.modules)
    problems, run = _run_tests(start, bundle, limits, marked.modules, has_marks=True)
    marks, unmeasured = (run.marks, run.unmeasured) if run else (frozenset[int](), 0)
    return problems, count_marks(marked, frozenset(marks), unmeasured)


def _run_tests(
    start: Callable[[], WorkerLink],
    bundle: PolicyBundle,
    limits: TestLimits,
    modules: Mapping[str, str],
    *,
    has_marks: bool,
) -> tuple[tuple[Problem, ...], "_Run | None"]:
    """Problems, and the run that found them, where tests could be run."""
    tests = find_tests(bundle.modules)
    if not tests:
        return (), None
    rewritten: dict[str, Rewritten] = {}
    for path in sorted(filter(is_test, bundle.modules)):
        number = sum(len(r.withs) for r in rewritten.values())
        rewritten[path] = rewrite_module(path, bundle.modules[path], number)
    if problems := [p for r in rewritten.values() for p in r.problems]:
        return sort_problems(problems), None
    run = _Run(start, bundle.data, limits, modules, rewritten, has_marks=has_marks)
    try:
        return sort_problems(run.run(tests)), run
    except _StoppedError as exc:
        return (Problem(file=tests[0].file, message=str(exc)),), run
    finally:
        run.close()


class _Run:
    """One run: the worker in use, and what is loaded into it.

    With `has_marks`, `marks` are those that were printed, and `unmeasured` counts evaluations that did not tell theirs.
    """

    def __init__(
        self,
        start: Callable[[], WorkerLink],
        data: Data,
        limits: TestLimits,
        modules: Mapping[str, str],
        rewritten: Mapping[str, Rewritten],
        *,
        has_marks: bool,
    ) -> None:
        self._start = start
        self._data = data
        self._limits = limits
        self._modules = modules
        self._rewritten = rewritten
        self._has_marks = has_marks
        self.marks: set[int] = set()
        self.unmeasured = 0
        self._until = time.monotonic() + limits.all_s
        self._link: WorkerLink | None = None
        self._loaded: Mapping[str, Any] = {}

    def run(self, tests: Sequence[TestRule]) -> list[Problem]:
        found = self._evaluate_withs()
        problems = [_problem(w.file, w.rule, f.reason) for w, f in found.items() if f.reason]
        self._load(
            {
                path: [f"{_name(w)} := {found[w].term}" for w in r.withs if found[w].term]
                for path, r in self._rewritten.items()
            },
            [test.path for test in tests],
            self._data,
        )
        for test in tests:
            result = self._evaluate(test.path, {})
            if result.value is not True:
                undefined = "an expression in it does not hold"
                said = f"it is {result.term}, not true" if result.term else undefined
                problems.append(_problem(test.file, test, result.reason or said))
        return problems

    def close(self) -> None:
        if self._link:
            self._link.close()

    def _evaluate_withs(self) -> dict[With, _Found]:
        """Each expression under `with`; those under other data after the rest, because each needs a load."""
        withs = [w for r in self._rewritten.values() for w in r.withs]
        if not withs:
            return {}
        self._load_questions(withs, self._data)
        found: dict[With, _Found] = {}
        questions: dict[With, object] = {}
        data: dict[With, Data] = {}
        for w in withs:
            given = {path: self._evaluate(path, {}) for path in _given_paths(w)}
            if bad := [f for f in given.values() if not f.term]:
                reason = bad[0].reason or "it is undefined"
                found[w] = _Found(reason=f"a value after 'with' in it: {reason}")
                continue
            questions[w] = given[w.input].value if w.input else {}
            if w.data:
                data[w] = _replace(self._data, [(p, given[n].value) for p, n in w.data])
            else:
                found[w] = self._evaluate(w.value, questions[w])
        for w, changed in data.items():
            self._load_questions(withs, changed)
            found[w] = self._evaluate(w.value, questions[w])
        return found

    def _load_questions(self, withs: Sequence[With], data: Data) -> None:
        rules = {path: [w.rules for w in r.withs] for path, r in self._rewritten.items()}
        self._load(rules, [path for w in withs for path in (w.value, *_given_paths(w))], data)

    def _load(self, rules: Mapping[str, Iterable[str]], entry_points: Sequence[str], data: Data) -> None:
        """Load policies and tests with more rules in each test module. Raises _StoppedError."""
        modules = dict(self._modules)
        for path, rewritten in self._rewritten.items():
            modules[path + _RUN_SUFFIX] = "\n".join([rewritten.text, *rules[path], ""])
        self._loaded = {"modules": modules, "data": data, "entry_points": entry_points}
        self._reload()

    def _reload(self) -> WorkerLink:
        try:
            self._link = self._link or self._start()
            reply = self._link.ask("load", self._limits.load_s, **self._loaded)
        except WorkerLostError as exc:
            self._link = None
            raise _StoppedError(f"the tests cannot be compiled: {exc}") from exc
        if "error" in reply:
            raise _StoppedError(f"the tests cannot be compiled: {reply['error']}")
        return self._link

    def _evaluate(self, path: str, question: object) -> _Found:
        """Raises _StoppedError when the time for all tests is over."""
        if time.monotonic() > self._until:
            raise _StoppedError(f"the tests took longer than {self._limits.all_s:g}s together")
        link = self._link or self._reload()
        try:
            reply = link.ask(
                "evaluate",
                PATIENCE * self._limits.each_s,
                busy_s=self._limits.each_s,
                path=path,
                question=question,
                marks=self._has_marks,
            )
        except WorkerLostError as exc:
            self._link = None
            self.unmeasured += self._has_marks
            late = f"it did not end within {self._limits.each_s:g}s"
            return _Found(reason=late if exc.timed_out else "it used too much memory, or crashed")
        if self._has_marks:
            self._take_marks(link, reply)
        if reason := reply.get("fault") or reply.get("error"):
            return _Found(reason=str(reason))
        return _Found(value=reply.get("value"), term=str(reply.get("term", "")))

    def _take_marks(self, link: WorkerLink, reply: Mapping[str, Any]) -> None:
        if reply["marks"] is None:
            link.close()
            self._link = None
            self.unmeasured += 1
        else:
            self.marks.update(reply["marks"])


def _given_paths(w: With) -> list[str]:
    return [*([w.input] if w.input else []), *(path for _, path in w.data)]


def _name(w: With) -> str:
    return w.value.rpartition("/")[2]


def _problem(file: str, place: Rule | TestRule, reason: str) -> Problem:
    message = f"{place.name} fails: {reason}"
    return Problem(file=file, line=place.line, column=place.column, message=message)


def _replace(data: Data, changes: Sequence[tuple[str, object]]) -> Data:
    """`data` with the values at some dotted paths replaced; other values are shared."""
    out = data
    for path, value in changes:
        out = _replace_one(out, path.split("."), value)
    return out


def _replace_one(data: object, path: Sequence[str], value: object) -> Data:
    inner = dict(data) if isinstance(data, Mapping) else {}
    rest = path[1:]
    inner[path[0]] = _replace_one(inner.get(path[0]), rest, value) if rest else value
    return inner
