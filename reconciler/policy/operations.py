"""What the policy worker does: check, load, decide, test. Requests' values come in, replies' values go out.

Runs only in the worker, because Rego may hang, eat memory or crash the process. The library describes errors on
standard output, which the worker has turned into a memory file; it is read from there.
"""

import ctypes
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from reconciler.core.problem import Problem, sort_problems
from reconciler.policy import rego
from reconciler.policy.bundle import ANSWER_PACKAGE, answer_module, answered_kinds, without_tests
from reconciler.policy.decision import read_decision, shorten
from reconciler.policy.marks import read_marks
from reconciler.policy.reads import Reads, find_reads

MAX_PROBLEMS_PER_MODULE = 5

_ANSWER_FILE = "<hub>/answer.rego"
_ANSWER_ROOT = ANSWER_PACKAGE.replace(".", "/")
_LOG, _LOG_BYTES = 1, 2**20
_PLACE = re.compile(r"^-- (?P<file>\S.*):(?P<line>\d+):(?P<column>\d+)$", re.MULTILINE)
_MESSAGE = re.compile(r"\(errormsg \d+:(.*)\)$", re.MULTILINE)
_OFFSET = re.compile(r"\|(\d+)\|\d+")
_STATIC: Mapping[str, str] = {
    "timeout_error": "does not end, not even for an empty question; bound what it walks through",
    "rego_recursion_error": "needs a rule or function that calls itself; break the circle",
    "wellformed_error": "cannot be evaluated",
    "rego_compile_error": "cannot be evaluated",
}
"""What is wrong with a decision whatever is asked, by the library's code. It counts steps, not time."""

Reply = dict[str, object]


class Operations:
    """One loaded bundle, or none."""

    def __init__(self) -> None:
        rego.warm_up()
        self._libc = ctypes.CDLL(None)
        self._program: rego.Program | None = None
        self._checked: rego.Program | None = None
        self._revision = ""
        self._kinds: frozenset[str] = frozenset()

    def check(self, modules: Mapping[str, str]) -> Reply:
        """Syntax of each module; then, if that is well, what only compiling shows."""
        problems = [p for path, text in modules.items() for p in self._parse(path, text)]
        found = sort_problems(problems or self._compile(modules))
        return {"problems": [p.to_json() for p in found], "kinds": sorted(answered_kinds(modules))}

    def probe(self, kind: str) -> Reply:
        """What is wrong with a decision of the modules checked last, whatever is asked; it may not end."""
        if self._checked is None:
            return {"error": "nothing is checked"}
        answer = self._checked.ask(f"{_ANSWER_ROOT}/{kind}", {})
        if isinstance(answer, rego.Fault) and answer.code in _STATIC:
            return {"fault": f"{_STATIC[answer.code]} ({answer.message})"}
        return {}

    def load(
        self,
        modules: Mapping[str, str],
        data: Mapping[str, object],
        entry_points: Sequence[str] = (),
    ) -> Reply:
        """Replace what is loaded, or leave it as it is and say why."""
        hub = data.get("hub")
        revision = hub.get("revision") if isinstance(hub, Mapping) else None
        if not isinstance(revision, str):
            return {"error": "the data has no hub.revision"}
        kinds = answered_kinds(modules)
        try:
            program = _compile(modules, data, kinds, entry_points)
        except rego.CompileError as exc:
            return {"error": f"the policies do not compile: {exc}"}
        self._program, self._revision, self._kinds = program, revision, kinds
        loaded: Reply = {"revision": revision, "kinds": sorted(kinds)}
        return loaded if entry_points else {**loaded, "reads": _find_reads(program, kinds)}

    def decide(self, kind: str, question: object) -> Reply:
        if self._program is None:
            return {"error": "nothing is loaded"}
        if kind not in self._kinds:
            return self._deny(f"no policy defines data.hub.{kind}.decision")
        try:
            answer = self._program.ask(f"{_ANSWER_ROOT}/{kind}", question)
        except rego.NotAskableError as exc:
            return self._deny(f"the question cannot be put to the policy: {exc}")
        match answer:
            case rego.Value(value={"revision": str(revision), "decision": decision}):
                allow, reasons = read_decision(kind, decision)
                return {"revision": revision, "allow": allow, "reasons": list(reasons)}
            case rego.Value() | rego.Undefined():
                return self._deny(f"data.hub.{kind}.decision is undefined for this question")
            case rego.Fault(message, code):
                return self._deny(f"data.hub.{kind}.decision failed: {message} ({code})")

    def evaluate(self, path: str, question: object) -> Reply:
        if self._program is None:
            return {"error": "nothing is loaded"}
        try:
            answer = self._program.ask(path, question, as_term=True)
        except rego.NotAskableError as exc:
            return {"fault": str(exc)}
        match answer:
            case rego.Value(value, term):
                return {"value": value, "term": term}
            case rego.Undefined():
                return {"undefined": True}
            case rego.Fault(message, code):
                return {"fault": f"{message} ({code})"}

    def with_marks(self, answer: Callable[[], Reply]) -> Reply:
        """The reply, and in `marks` which marks were printed meanwhile; None where they were too many to keep."""
        self._take_log()
        reply = answer()
        log = self._take_log()
        return {**reply, "marks": None if len(log) >= _LOG_BYTES else sorted(read_marks(log))}

    def _deny(self, reason: str) -> Reply:
        return {"revision": self._revision, "allow": False, "reasons": [shorten(reason)]}

    def _parse(self, path: str, text: str) -> list[Problem]:
        self._take_log()
        fault = rego.parse(path, text)
        if not fault:
            return []
        logged = [_in_characters(p, text) for p in _read_log(self._take_log()) if p.file == path]
        # An unclosed bracket is reported a second time, at the start of the file.
        inner = [p for p in logged if (p.line, p.column) != (1, 1)] or logged
        inner = list({(p.line, p.message): p for p in reversed(inner)}.values())[::-1]
        return inner[:MAX_PROBLEMS_PER_MODULE] or [_read_fault(path, text, fault)]

    def _compile(self, modules: Mapping[str, str]) -> list[Problem]:
        """What is wrong with modules each of which parses."""
        self._take_log()
        whole = _folder(modules)
        kinds = answered_kinds(modules)
        try:
            self._checked = _compile(modules, {"hub": {"revision": ""}}, kinds)
        except rego.CompileError as exc:
            logged = [p for p in _read_log(self._take_log()) if p.file in modules]
            return logged or [Problem(file=whole, message=_no_rego(str(exc)))]
        return []

    def _take_log(self) -> str:
        """What the library has printed since the last call."""
        self._libc.fflush(None)
        text = os.pread(_LOG, _LOG_BYTES, 0).decode(errors="replace")
        os.ftruncate(_LOG, 0)
        os.lseek(_LOG, 0, os.SEEK_SET)
        return text


def _compile(
    modules: Mapping[str, str],
    data: Mapping[str, object],
    kinds: Iterable[str],
    entry_points: Sequence[str] = (),
) -> rego.Program:
    used = {**without_tests(modules), _ANSWER_FILE: answer_module(kinds)}
    paths = [f"{_ANSWER_ROOT}/{kind}" for kind in sorted(kinds)] + list(entry_points)
    return rego.Program(used, data, paths or [_ANSWER_ROOT])


def _find_reads(program: rego.Program, kinds: Iterable[str]) -> dict[str, object]:
    """What each kind reads of its question, as JSON of `Reads`."""
    try:
        plan = program.read_plan()
        return {kind: find_reads(plan, f"{_ANSWER_ROOT}/{kind}").to_json() for kind in sorted(kinds)}
    except (LookupError, ValueError):
        return {kind: Reads(obstacle="its plan has an unknown form").to_json() for kind in sorted(kinds)}


def _read_log(log: str) -> Iterator[Problem]:
    """The library's errors: a message, then `-- file:line:column`, columns in bytes, with a rule between errors."""
    for block in log.split("----------------\n"):
        lines = [line for line in block.splitlines() if line and line != "Errors:"]
        if lines and (place := _PLACE.search(block)):
            yield Problem(
                file=place["file"],
                line=int(place["line"]),
                column=int(place["column"]),
                message=_no_rego(lines[0]),
            )


def _read_fault(path: str, text: str, fault: str) -> Problem:
    """The same from the library's exception, for what it does not print: offsets in bytes."""
    message, offset = _MESSAGE.search(fault), _OFFSET.search(fault)
    before = text.encode()[: int(offset[1])].decode(errors="ignore") if offset else ""
    return Problem(
        file=path,
        line=before.count("\n") + 1,
        column=len(before) - (before.rfind("\n") + 1) + 1,
        message=_no_rego(message[1] if message else fault),
    )


def _in_characters(problem: Problem, text: str) -> Problem:
    lines = text.splitlines()
    if not 0 < problem.line <= len(lines):
        return problem
    before = lines[problem.line - 1].encode()[: problem.column - 1].decode(errors="ignore")
    return Problem(file=problem.file, line=problem.line, column=len(before) + 1, message=problem.message)


def _no_rego(message: str) -> str:
    first = message.strip().splitlines()[0] if message.strip() else "no reason given"
    return f"is not valid Rego: {first[:1].lower()}{first[1:]}"


def _folder(modules: Iterable[str]) -> str:
    first = min(modules, default="policies")
    return str(PurePosixPath(first).parent) if "/" in first else first
