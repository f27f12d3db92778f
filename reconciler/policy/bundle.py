"""The Rego files and the data of one revision as a checked bundle. Pure: bytes come in, a bundle and problems go out.

Paths ending in `_test.rego` are tests: checked and run, but no part of what answers. The data document holds the
value of `data.yaml` at its root, and `hub.revision`, the digest of everything else: it returns with each decision, so
that no answer can be taken for another revision's. Because `data.hub` is the hub's, `data.yaml` has no key `hub`.

A kind of question for which there is no `package hub.<kind>` is not answered by Rego at all: the built-in rules answer
it (`builtin.py`, `chain.py`). What only looks like an answer, because a name is misspelt, is reported.

What only the engine can see, syntax above all, is found by `PolicyEngine.check`.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from reconciler.core.digest import digest
from reconciler.core.problem import Problem, sort_problems
from reconciler.policy.builtins import check_calls, find_functions
from reconciler.policy.module import Module, Rule, read_module
from reconciler.ports import PolicyBundle

KINDS = ("message", "task", "delegation", "admission", "llm")
TEST_SUFFIX = "_test.rego"
TEST_PREFIX = "test_"

MAX_MODULE_BYTES = 256 * 1024
MAX_MODULES = 200
MAX_DATA_VALUES = 50_000
MAX_DATA_DEPTH = 32
MAX_NUMBER = 2**53

NO_POLICIES = PolicyBundle(modules={}, data={"hub": {"revision": ""}}, digest="")
"""What is in force where a repository has no policies: a bundle that answers no question."""

ANSWER_PACKAGE = "hub.answer"
DECISION = "decision"
LIBRARY_PACKAGE = "hub.lib"
_RESERVED = ("hub.answer", "hub.revision")
_OF_OPA = "system"
_ONE_ARITY = "functions of one name take as many everywhere"
_NO_WITH = "uses 'with', which the embedded engine cannot evaluate outside of tests; use a function"
_IMPORTS = "rego.v1, data.… or input.…"

_Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """`bundle` is None where `problems` is not empty. `unasked` are modules that look like answers and are never asked.

    A bundle with `unasked` modules works, but not as its author meant it: no revision may have one. `kinds` are the
    kinds of question that it answers.
    """

    bundle: PolicyBundle | None
    kinds: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    unasked: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRule:
    """A rule `test_…` in a `*_test.rego`; `path` is what the engine evaluates, such as `hub/message_test/test_x`."""

    __test__ = False

    path: str
    name: str
    file: str
    line: int
    column: int


def build_bundle(
    files: Mapping[str, bytes],
    data: object = None,
    *,
    data_file: str = "policies/data.yaml",
    locate: Callable[[_Path], tuple[int, int]] = lambda _path: (0, 0),
) -> Built:
    """The bundle of all `.rego` files by path. `data` is the parsed value of `data_file`, None where there is none.

    `locate` gives line and column of a path in `data_file`; (0, 0) where nobody knows.
    """
    problems: list[Problem] = []
    sources: dict[str, str] = {}
    if len(files) > MAX_MODULES:
        message = f"is one of {len(files)} modules; there may be at most {MAX_MODULES}"
        problems.append(Problem(file=sorted(files)[MAX_MODULES], message=message))
    for path in sorted(files):
        text = _decode(path, files[path])
        if isinstance(text, Problem):
            problems.append(text)
        else:
            sources[path] = text
    modules = [read_module(path, source) for path, source in sources.items()]
    problems.extend(_check_modules(modules))
    for where, message in _check_data(data, modules):
        line, column = locate(where)
        problems.append(Problem(file=data_file, line=line, column=column, message=message))
    if problems:
        return Built(bundle=None, problems=sort_problems(problems))
    document = dict(data) if isinstance(data, Mapping) else {}
    name = digest([sources, document])
    document["hub"] = {"revision": name}
    bundle = PolicyBundle(modules=sources, data=document, digest=name)
    kinds = _answered([m for m in modules if not is_test(m.file)])
    return Built(bundle=bundle, kinds=kinds, unasked=sort_problems(_find_unasked(modules)))


def is_test(path: str) -> bool:
    return path.endswith(TEST_SUFFIX)


def without_tests(modules: Mapping[str, str]) -> dict[str, str]:
    """The modules that answer."""
    return {path: text for path, text in modules.items() if not is_test(path)}


def answered_kinds(modules: Mapping[str, str]) -> frozenset[str]:
    """The kinds of questions that the modules of a bundle answer."""
    return _answered([read_module(path, text) for path, text in without_tests(modules).items()])


def is_decision(rule: Rule) -> bool:
    """Whether a rule defines the decision of its package, or a part of it such as `decision.allow`."""
    return rule.arity is None and rule.name.partition(".")[0] == DECISION


def problem_at_decision(modules: Mapping[str, str], kind: str, message: str) -> Problem:
    """A problem of a kind's decision, at the rule in the modules that defines it."""
    outlines = [read_module(path, text) for path, text in sorted(without_tests(modules).items())]
    module, rule = next((m, r) for m in outlines if m.package == f"hub.{kind}" for r in m.rules if is_decision(r))
    return module.problem(rule, f"data.hub.{kind}.decision {message}")


def answer_module(kinds: Iterable[str]) -> str:
    """The module that the hub adds: revision and decision of a kind as one value, the latter missing if undefined."""
    lines = [f"package {ANSWER_PACKAGE}", "", "import rego.v1", ""]
    for kind in sorted(kinds):
        lines.append(f'{kind}["revision"] := data.hub.revision')
        lines.append(f'{kind}["decision"] := data.hub.{kind}.decision')
    return "\n".join(lines) + "\n"


def find_tests(modules: Mapping[str, str]) -> tuple[TestRule, ...]:
    """All test rules, by file and line; a name that stands twice in a file once."""
    found: dict[str, TestRule] = {}
    for path, text in sorted(modules.items()):
        if not is_test(path):
            continue
        module = read_module(path, text)
        for rule in module.rules:
            if rule.name.startswith(TEST_PREFIX) and rule.arity is None:
                where = f"{module.package.replace('.', '/')}/{rule.name}"
                test = TestRule(path=where, name=rule.name, file=path, line=rule.line, column=rule.column)
                found.setdefault(where, test)
    return tuple(found.values())


def _answered(modules: Iterable[Module]) -> frozenset[str]:
    packages = {m.package for m in modules if any(is_decision(r) for r in m.rules)}
    return frozenset(kind for kind in KINDS if f"hub.{kind}" in packages)


def _find_unasked(modules: Sequence[Module]) -> Iterator[Problem]:
    """Below `hub` are answers and libraries; what is neither was meant to be one of them."""
    answering = sorted((m for m in modules if not is_test(m.file)), key=lambda m: m.file)
    answered = _answered(answering)
    by_kind: dict[str, list[Module]] = {}
    for module in answering:
        root, _, below = module.package.partition(".")
        kind = below.partition(".")[0]
        if root != "hub" or f"{module.package}.".startswith(f"{LIBRARY_PACKAGE}."):
            continue
        if kind not in KINDS:
            yield _not_a_kind(module, kind)
        elif kind not in answered:
            by_kind.setdefault(kind, []).append(module)
    yield from (_no_decision(kind, found) for kind, found in by_kind.items())


def _not_a_kind(module: Module, kind: str) -> Problem:
    likely = difflib.get_close_matches(kind, KINDS, n=1)
    meant = f"did you mean hub.{likely[0]}? " if likely else ""
    packages = ", ".join(f"hub.{k}" for k in KINDS)
    message = (
        f"package {module.package} is never asked; {meant}questions go to {packages}, "
        f"and libraries are below {LIBRARY_PACKAGE} or outside of hub"
    )
    return Problem(file=module.file, line=module.line, column=1, message=message)


def _no_decision(kind: str, modules: Sequence[Module]) -> Problem:
    """At the rule that was probably meant, else at the package."""
    message = f"package hub.{kind} has no rule {DECISION!r}, so that built-in rules would answer instead"
    for module in modules:
        for rule in module.rules:
            if rule.name == DECISION:
                return module.problem(rule, f"{message}; this is a function, make it a rule without arguments")
            if difflib.get_close_matches(rule.name, [DECISION], cutoff=0.75):
                return module.problem(rule, f"{message}; rename {rule.name}, if this is meant to be it")
    first = modules[0]
    advice = f"define it, or name a library {LIBRARY_PACKAGE}.{kind}"
    return Problem(file=first.file, line=first.line, column=1, message=f"{message}; {advice}")


def _decode(path: str, content: bytes) -> str | Problem:
    if len(content) > MAX_MODULE_BYTES:
        message = f"has {len(content)} bytes; a module has at most {MAX_MODULE_BYTES} (256KiB)"
        return Problem(file=path, message=message)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        return _problem_after(path, content[: exc.start].decode(), "is not UTF-8 text; save the file as UTF-8")
    before, nul, _ = text.partition("\0")
    return _problem_after(path, before, "contains a NUL character; remove it") if nul else text


def _problem_after(path: str, before: str, message: str) -> Problem:
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return Problem(file=path, line=line, column=column, message=message)


def _check_modules(modules: Sequence[Module]) -> Iterator[Problem]:
    functions = find_functions(modules)
    yield from _check_arities(modules)
    for module in modules:
        yield from module.problems
        if not module.problems:
            yield from _check_header(module)
            yield from check_calls(module, functions)
            if not is_test(module.file):
                yield from (module.problem(token, _NO_WITH) for token in module.withs)


def _check_arities(modules: Sequence[Module]) -> Iterator[Problem]:
    """The embedded engine crashes on functions of one name and different numbers of arguments, in any packages."""
    first: dict[str, tuple[Module, Rule]] = {}
    for module in modules:
        for rule in module.rules:
            if rule.arity is None:
                continue
            where, known = first.setdefault(rule.name.rpartition(".")[2], (module, rule))
            if known.arity != rule.arity:
                other = f"{known.arity} in {where.file}:{known.line}"
                message = f"function {rule.name} takes {rule.arity} arguments, but {other}; {_ONE_ARITY}"
                yield module.problem(rule, message)


def _check_header(module: Module) -> Iterator[Problem]:
    """The package and the imports. Without `import rego.v1` the embedded engine reads another dialect than OPA."""

    def at_package(message: str) -> Problem:
        return Problem(file=module.file, line=module.line or 1, column=1, message=message)

    if not module.package:
        yield at_package("names no package; begin with 'package hub.message' or another name")
    elif module.package == "hub" or f"{module.package}.".startswith(tuple(f"{name}." for name in _RESERVED)):
        yield at_package(f"package {module.package} is the hub's own; choose another name")
    elif module.package.partition(".")[0] == _OF_OPA:
        yield at_package(
            f"package {module.package} is below '{_OF_OPA}', which OPA keeps for itself; choose another name"
        )
    elif not any(i.path == "rego.v1" for i in module.imports):
        yield at_package("does not import rego.v1; write 'import rego.v1' below the package")
    for found in module.imports:
        if found.path != "rego.v1" and found.path.partition(".")[0] not in ("data", "input"):
            yield module.problem(found, f"imports {found.path}; policies import only {_IMPORTS}")


def _check_data(data: object, modules: Sequence[Module]) -> Iterator[tuple[_Path, str]]:
    """What is wrong with the data, and where in it."""
    if data is None:
        return
    if not isinstance(data, Mapping):
        yield (), "is not a mapping; write keys and values"
        return
    if "hub" in data:
        yield ("hub",), "has the key 'hub', which is the hub's own; rename it"
    if _OF_OPA in data:
        yield (_OF_OPA,), f"has the key '{_OF_OPA}', which OPA keeps for itself; rename it"
    for package in sorted({m.package for m in modules}):
        if package and package.partition(".")[0] != "hub" and _holds(data, package.split(".")):
            yield tuple(package.split(".")), f"has a value where package {package} is; rename one of them"
    fault, count = _check_value(data, ())
    if fault:
        yield fault
    elif count > MAX_DATA_VALUES:
        yield (), f"has {count} values; there may be at most {MAX_DATA_VALUES}"


def _holds(data: Mapping[str, Any], path: Sequence[str]) -> bool:
    value: object = data
    for part in path:
        if not isinstance(value, Mapping):
            return True
        if part not in value:
            return False
        value = value[part]
    return True


def _check_value(value: object, path: _Path) -> tuple[tuple[_Path, str] | None, int]:
    """Where a value of the data has its first fault, with what it is, and how many values it holds."""
    if len(path) > MAX_DATA_DEPTH:
        return (path, f"{_dotted(path)} is nested deeper than {MAX_DATA_DEPTH} levels; flatten it"), 1
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                message = f"{_dotted(path) or 'the root'} has the key {key!r}, which is not text; put it in quotes"
                return ((*path, str(key)), message), 1
        return _check_items((((*path, k), v) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return _check_items((((*path, i), v) for i, v in enumerate(value)))
    fault = _fault_of(value)
    return ((path, f"{_dotted(path)} {fault}") if fault else None), 1


def _check_items(items: Iterable[tuple[_Path, object]]) -> tuple[tuple[_Path, str] | None, int]:
    total = 1
    for path, value in items:
        fault, count = _check_value(value, path)
        total += count
        if fault:
            return fault, total
    return None, total


def _fault_of(value: object) -> str:
    """What is wrong with a value that holds no others; empty where nothing is."""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, str):
        bad = "\0" in value or any("\ud800" <= c <= "\udfff" for c in value)
        return "contains a character that is no text; remove it" if bad else ""
    if not isinstance(value, int | float):
        return f"is a {type(value).__name__}; put it in quotes to make it text"
    if not abs(value) <= MAX_NUMBER or "e" in repr(value):
        return f"is {value}, which the engines do not read alike; write it as text, or smaller"
    return ""


def _dotted(path: _Path) -> str:
    """`a.b[0]`"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
