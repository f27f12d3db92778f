"""The built-in functions that policies may use, the reasons against the others, and the check for both.

Allowed is what needs no network, file, clock, randomness or environment, ends soon on any input that an agent can
choose, and means the same to OPA and to the embedded engine. Pure.

Even so the two engines differ at the edges, and policies should stay clear of them. In the embedded engine `count` and
`substring` see an escaped character (a quote, a line break) as two, `lower` and `upper` change only ASCII, `.` in a
regular expression matches one byte, `sort` of a set is a set and `concat` of one has no order, `sprintf` shows the
results of `concat`, `lower` and `upper` in quotes, and values of different types compare differently. With OPA
`not f(input.x)` is undefined where `input.x` is, so that a denial made of it does not fire: ask for completeness first,
as the example policies do.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from reconciler.core.problem import Problem
from reconciler.policy.module import Module, Reference
from reconciler.policy.tokens import Sort

ALLOWED: Mapping[str, int] = {
    "abs": 1,
    "array.concat": 2,
    "array.flatten": 1,
    "array.reverse": 1,
    "array.slice": 3,
    "ceil": 1,
    "concat": 2,
    "contains": 2,
    "count": 1,
    "endswith": 2,
    "floor": 1,
    "glob.match": 3,
    "graph.reachable": 2,
    "graph.reachable_paths": 2,
    "intersection": 1,
    "is_array": 1,
    "is_boolean": 1,
    "is_null": 1,
    "is_number": 1,
    "is_object": 1,
    "is_set": 1,
    "is_string": 1,
    "lower": 1,
    "max": 1,
    "min": 1,
    "numbers.range": 2,
    "numbers.range_step": 3,
    "object.filter": 2,
    "object.get": 3,
    "object.keys": 1,
    "object.remove": 2,
    "object.subset": 2,
    "product": 1,
    "regex.match": 2,
    "round": 1,
    "sort": 1,
    "split": 2,
    "sprintf": 2,
    "startswith": 2,
    "strings.any_prefix_match": 2,
    "strings.any_suffix_match": 2,
    "strings.count": 2,
    "strings.reverse": 1,
    "substring": 3,
    "sum": 1,
    "time.add_date": 4,
    "time.clock": 1,
    "time.date": 1,
    "time.diff": 2,
    "time.format": 1,
    "time.parse_duration_ns": 1,
    "time.parse_ns": 2,
    "time.weekday": 1,
    "trim": 2,
    "trim_left": 2,
    "trim_prefix": 2,
    "trim_right": 2,
    "trim_space": 1,
    "trim_suffix": 2,
    "type_name": 1,
    "union": 1,
    "units.parse": 1,
    "units.parse_bytes": 1,
    "upper": 1,
    "walk": 1,
}
"""Names and numbers of arguments."""

OPERATORS = frozenset(
    [
        "and",
        "assign",
        "div",
        "eq",
        "equal",
        "gt",
        "gte",
        "internal.member_2",
        "internal.member_3",
        "lt",
        "lte",
        "minus",
        "mul",
        "neq",
        "or",
        "plus",
        "rem",
    ]
)
"""What OPA calls the operators; they are written as signs, and only its capabilities name them."""

_NETWORK = "reaches out of the hub"
_TEXT = "reads or writes some texts differently in the two engines"
_SECRETS = "is for keys and tokens, which policies never see"
_DEPRECATED = "is gone from Rego"

REFUSED: Mapping[str, str] = {
    "http": _NETWORK,
    "net.lookup_ip_addr": _NETWORK,
    "net": "is not known to the embedded engine",
    "providers": f"{_NETWORK}, with credentials",
    "opa.runtime": "shows the environment of the process",
    "opa": "shows the state of the engine",
    "rego": "is not known to the embedded engine",
    "time.now_ns": "is a clock; use input.time, so that the same question has the same answer",
    "time.parse_rfc3339_ns": "does not read the 'Z' of input.time in the embedded engine; "
    'use time.parse_ns("2006-01-02T15:04:05Z", input.time)',
    "rand": "is random; the same question must have the same answer",
    "uuid": "is random; the same question must have the same answer",
    "uuid.parse": _TEXT,
    "io": _SECRETS,
    "crypto": _SECRETS,
    "graphql": "is not known to the embedded engine",
    "internal": "is not for policies",
    "print": "writes to the log of the engine; return a reason instead",
    "trace": "writes to the log of the engine; return a reason instead",
    "replace": "never ends on an empty pattern in the embedded engine; use trim_prefix, trim_suffix or split",
    "strings.replace_n": "never ends on an empty pattern in the embedded engine",
    "indexof": "differs on an empty text in the two engines; use contains",
    "indexof_n": "differs on an empty text in the two engines; use contains",
    "object.union": "merges only the top level in the embedded engine",
    "object.union_n": "merges only the top level in the embedded engine",
    "semver": "orders pre-releases differently in the two engines",
    "to_number": "reads '08' and '0x10' differently in the two engines; compare texts, or put a number into the input",
    "format_int": "differs on bases other than 10 in the two engines; use sprintf",
    "bits": "overflows differently in the two engines",
    "regex": "searches without a bound on time in the embedded engine; use regex.match",
    "glob": "is not needed with a pattern that must be a literal",
    "base64": _TEXT,
    "base64url": _TEXT,
    "hex": _TEXT,
    "json": "misreads paths and texts that a policy passes on, in the embedded engine; use object.get and functions",
    "yaml": _TEXT,
    "uri": _TEXT,
    "urlquery": _TEXT,
    "strings": "is not known to both engines",
    "all": _DEPRECATED,
    "any": _DEPRECATED,
    "cast_array": _DEPRECATED,
    "cast_boolean": _DEPRECATED,
    "cast_null": _DEPRECATED,
    "cast_object": _DEPRECATED,
    "cast_set": _DEPRECATED,
    "cast_string": _DEPRECATED,
    "re_match": _DEPRECATED,
    "set_diff": _DEPRECATED,
}
"""Reasons by name, or by the part before the first dot where a whole family is refused."""

_PATTERN_ARGUMENT = {"glob.match": "a glob", "regex.match": "a regular expression"}
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")
_REPEAT = re.compile(r"[*+]|\{\d*,")
_MAX_REPEATS = 4

Functions = Mapping[str, frozenset[int]]
"""Numbers of arguments by the full path of a function: `hub.lib.is_free` -> {2}."""


def find_functions(modules: Iterable[Module]) -> Functions:
    """All functions that the modules define."""
    found: dict[str, frozenset[int]] = {}
    for module in modules:
        for rule in module.rules:
            if rule.arity is not None:
                path = f"{module.package}.{rule.name}"
                found[path] = found.get(path, frozenset()) | {rule.arity}
    return found


def check_calls(module: Module, functions: Functions) -> Sequence[Problem]:
    """Each use of a built-in that is not allowed, and each call that cannot be told or does not fit."""
    return [
        *(module.problem(rule, message) for rule in module.rules for message in _shadow(rule.name)),
        *(module.problem(i, message) for i in module.imports for message in _shadow(i.alias)),
        *(
            module.problem(reference, message)
            for reference in module.references
            for message in _check_reference(module, reference, functions)
        ),
    ]


def restrict_capabilities(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """What `opa capabilities --current` says, less all that policies may not use: for `opa --capabilities`."""
    names = ALLOWED.keys() | OPERATORS
    return {
        **capabilities,
        "builtins": [b for b in capabilities["builtins"] if b["name"] in names],
        "allow_net": [],
    }


def _shadow(name: str) -> Iterator[str]:
    if name in ALLOWED or name in OPERATORS or _reason_against(name):
        yield f"{name} is the name of a built-in function; choose another name"


def _reason_against(name: str) -> str:
    """Why a known built-in is refused, and what to do; empty where the name is allowed or none of a built-in."""
    if name in ALLOWED:
        return ""
    family, dot, _ = name.partition(".")
    reason = REFUSED.get(name) or (REFUSED.get(family, "") if dot else "")
    return reason if ";" in reason or not reason else f"{reason}; policies may not use it"


def _check_reference(module: Module, reference: Reference, functions: Functions) -> Iterator[str]:
    if reference.arity is None:
        name = reference.name
        if reason := "." in name and _reason_against(name):
            yield f"{name} {reason}"
        elif name in _PATTERN_ARGUMENT:
            yield f"{name} can only be called, not passed on"
    elif reference.dynamic:
        yield "calls what a bracket yields; call functions by their dotted name"
    else:
        yield from _check_call(module, reference, functions)


def _check_call(module: Module, call: Reference, functions: Functions) -> Iterator[str]:
    name, given = call.name, call.arity or 0
    path = _resolve(module, name)
    if path in functions:
        if given not in functions[path]:
            wanted = " or ".join(str(n) for n in sorted(functions[path]))
            yield f"{name} takes {wanted} arguments, not {given}"
    elif reason := _reason_against(name):
        yield f"{name} {reason}"
    elif name in ALLOWED:
        wanted_count = ALLOWED[name]
        if given != wanted_count and not (name == "walk" and given == 2):
            yield f"{name} takes {wanted_count} arguments, not {given}"
        elif name in _PATTERN_ARGUMENT:
            yield from _check_pattern(call)
    elif not (name == "set" and given == 0):
        yield f"there is no function {name} that policies may call"


def _resolve(module: Module, name: str) -> str:
    """The full path that a called name means if it is a function of the policies'."""
    root, dot, rest = name.partition(".")
    if root == "data":
        return rest
    for found in module.imports:
        if found.alias == root and found.path.startswith("data."):
            return found.path.removeprefix("data.") + dot + rest
    return f"{module.package}.{name}"


def _check_pattern(call: Reference) -> Iterator[str]:
    """The embedded engine backtracks: only patterns that the author wrote, and that end soon, are safe."""
    pattern, kind = call.arguments[0], _PATTERN_ARGUMENT[call.name]
    alone = len(call.arguments) > 1 and call.arguments[1].text == ","
    if pattern.sort not in (Sort.TEXT, Sort.RAW) or not alone:
        yield f"the first argument of {call.name} must be {kind} written out as text"
    elif _REPEATED_GROUP.search(pattern.text):
        yield f"{kind} that repeats a group can take for ever in the embedded engine; repeat a character class"
    elif len(_REPEAT.findall(pattern.text)) > _MAX_REPEATS:
        yield f"{kind} with more than {_MAX_REPEATS} repetitions can take for ever in the embedded engine"
