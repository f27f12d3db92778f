"""Random policies for messages, and random fleets that they tell apart: few values, so that answers often differ.

The rules read paths in the ways that Rego has: compared, negated, in comprehensions, loops and `every`, through
functions, other rules and variables, `else` and defaults, by names that are computed, as parts and now and then as a
whole.
"""

import re
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from msgspec.structs import replace

from reconciler.router.config import AgentEntry, Grant
from reconciler.router.engine import show_face
from tests.policy.example import module

ROLES = ("writer", "reviewer")
TEAMS = ("docs", "code")
CAPABILITIES = ("docs.read", "docs.write")
TYPES = ("review.note", "review.done")
PATTERNS = ("event", "request")
SENSITIVITIES = ("public", "internal")
SIZES = (100, 101)
MINUTES = ("2026-11-20T09:00:00Z", "2026-11-20T09:01:00Z")

_DECISION = 'decision := {"allow": count(deny) == 0, "reasons": deny}'

_LIBRARY = """
role_of(who) := who.role if who.agent == "a"
else := object.get(who, "kind", "none")
is_one_of(value, values) if value in values
pick(who, key) := who[key]
same(value) := value
sent := input.message
default team := "nobody"
team := input.sender.labels.team if count(input.sender.capabilities) > 0
else := input.recipient.labels.team
walks(value, wanted) if {
	walk(value, [_, found])
	found == wanted
}
"""

_TEXTS: dict[str, Sequence[str]] = {
    "sender.agent": ("a", "b", "u"),
    "sender.instance": ("r-0",),
    "sender.role": ROLES,
    "sender.labels.team": TEAMS,
    "sender.labels.missing": ("x",),
    "sender.missing.deeper": ("x",),
    "recipient.kind": ("agent", "topic"),
    "recipient.name": ("a", "b"),
    "recipient.role": ROLES,
    "recipient.labels.team": TEAMS,
    "message.type": TYPES,
    "message.pattern": PATTERNS,
    "message.sensitivity": SENSITIVITIES,
    "time": MINUTES,
}
_LISTS: dict[str, Sequence[str]] = {
    "sender.capabilities": CAPABILITIES,
    "recipient.capabilities": CAPABILITIES,
    "sender.labels": TEAMS,
    "recipient.labels": TEAMS,
    "sender": ("a", *ROLES),
    "message": (*TYPES, *PATTERNS),
}
_NUMBERS: dict[str, Sequence[str]] = {
    "message.size_bytes": ("100", "101"),
    "sender.trust": ("0.5", "0.7"),
    "sender.missing": ("1",),
}
_SIZES: dict[str, Sequence[str]] = {
    "sender.capabilities": ("0", "1"),
    "sender.labels": ("0",),
    "recipient.capabilities": ("0", "1"),
    "grants.sends": ("0",),
}
_VARIABLE = re.compile(r"\b(piece|key|index)\b")
_PARTS: dict[str, Sequence[str]] = {path: values for path, values in _TEXTS.items() if "." in path}


def _paths(table: dict[str, Sequence[str]], *templates: str) -> st.SearchStrategy[str]:
    """Templates with a path and a value of it; of a path in two halves as `{whole}` and `{part}`."""
    pairs = [(path, value) for path, values in table.items() for value in values]
    return st.builds(_fill, st.sampled_from(templates), st.sampled_from(pairs))


def _fill(template: str, pair: tuple[str, str]) -> str:
    path, value = pair
    whole, _, part = path.rpartition(".")
    return template.format(path=f"input.{path}", value=value, whole=f"input.{whole}", part=part)


_EXPRESSIONS = st.one_of(
    _paths(
        _TEXTS,
        '{path} == "{value}"',
        '{path} != "{value}"',
        'not {path} == "{value}"',
        "not {path}",
        'startswith({path}, "{value}")',
        'is_one_of({path}, {{"x", "{value}"}})',
        'same({path}) == "{value}"',
        "piece := {path}",
        "{path} == input.sender.role",
        "{path} == same(input.recipient.name)",
    ),
    _paths(
        _PARTS,
        'object.get({whole}, "{part}", "none") == "{value}"',
        'object.get({whole}, ["{part}"], "none") == "{value}"',
        'object.get({{}}, "none", {whole}).{part} == "{value}"',
        'pick({whole}, "{part}") == "{value}"',
        '{whole}["{part}"] == "{value}"',
        'same({whole}).{part} == "{value}"',
        'some key in ["x", "{part}"]; {whole}[key] == "{value}"',
        'piece := {whole}; piece.{part} == "{value}"',
        'piece := {whole}; not piece.{part} == "{value}"',
        "piece := {whole}; not piece.{part}.deeper",
        'count({{key | {whole}[key] == "{value}"}}) > 0',
        'count({{key: found | some key, found in {whole}; found == "{value}"}}) > 0',
        'role_of({whole}) == "{value}"',
        'walks({whole}, "{value}")',
    ),
    _paths(
        _LISTS,
        '"{value}" in {path}',
        'not "{value}" in {path}',
        'count([piece | some piece in {path}; piece != "{value}"]) > 1',
        'some piece in {path}; piece == "{value}"',
        'every piece in {path} {{ piece != "{value}" }}',
        '{path}[0] == "{value}"',
        'some index; {path}[index] == "{value}"',
    ),
    _paths(_NUMBERS, "{path} > {value}", "{path} <= {value}", "{path} + 1 > {value}", "[1, {path}][1] == {value}"),
    _paths(_SIZES, "count({path}) > {value}", "count({path}) == {value}"),
    _paths({"message.type": TYPES, "message.pattern": PATTERNS}, 'sent.{part} == "{value}"'),
    st.sampled_from(
        [
            'team == "docs"',
            'team == "nobody"',
            'input.grants.sends[_].types[0] == "review.note"',
            'data.roles[input.sender.role] == "author"',
            "data.roles[input.recipient.role]",
            "input.message",
            "same(input.sender) == same(input.sender)",
        ]
    ),
)
_WHOLE = st.sampled_from(
    ["count(input) > 2", "some piece in input; piece.role", 'some key in ["sender"]; input[key].role', "same(input)"]
)

DATA = {"hub": {"revision": "r1"}, "roles": {"writer": "author"}}
"""What the policies have as data."""


@st.composite
def policies(draw: st.DrawFn) -> str:
    """A module of `hub.message`, of which can be told what it reads."""
    told = st.one_of(st.just(""), st.just(""), st.just(""), st.sampled_from(list(_TEXTS)))
    rules = [
        _write_rule(draw(st.lists(_EXPRESSIONS, min_size=1, max_size=2)), number, draw(told))
        for number in range(draw(st.integers(1, 3)))
    ]
    return module("\n".join([_DECISION, _LIBRARY, *rules]))


@st.composite
def whole_policies(draw: st.DrawFn) -> str:
    """One that uses its input as a whole."""
    return draw(policies()) + _write_rule([draw(_WHOLE)], 9, "")


def _write_rule(expressions: Sequence[str], number: int, told: str) -> str:
    """A reason to deny, which tells the value at a path where `told` is one. Each expression has variables of its own."""
    body = [_VARIABLE.sub(rf"\1_{nth}", expression) for nth, expression in enumerate(expressions)]
    reason = f'sprintf("{number} %v", [input.{told}])' if told else f'"{number}"'
    return "deny contains reason if {\n\t" + "\n\t".join([*body, f"reason := {reason}"]) + "\n}\n"


_ENTRIES: dict[str, Sequence[Any]] = {
    "role": ["", *ROLES],
    "labels": [{}, *({"team": team} for team in TEAMS)],
    "capabilities": [(), *((name,) for name in CAPABILITIES), CAPABILITIES],
    "trust": [0.5, 1.0],
    "sends": [(), (Grant(to="b", types=("review.note",)),)],
}


@st.composite
def fleets(draw: st.DrawFn) -> list[dict[str, AgentEntry]]:
    """The agents a and b, and then the same again with one value of a changed, for each value."""
    kept = draw(st.builds(AgentEntry, **{name: st.sampled_from(values) for name, values in _ENTRIES.items()}))
    other = draw(st.builds(AgentEntry, **{name: st.sampled_from(values) for name, values in _ENTRIES.items()}))
    changed = [
        replace(kept, **{name: value})
        for name, values in _ENTRIES.items()
        for value in values
        if value != getattr(kept, name)
    ]
    return [{"a": entry, "b": other} for entry in (kept, *changed)]


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """A question as the router asks it."""

    def choose(values: Sequence[Any]) -> Any:
        return draw(st.sampled_from(values))

    entries = draw(fleets())[0]
    own, other = show_face(entries["a"]), show_face(entries["b"])
    return {
        "sender": {"agent": "a", "instance": choose(["r-0", "r-1"]), **own.sender},
        "recipient": {"kind": choose(["agent", "topic"]), "name": choose(["a", "b"]), **other.recipient},
        "message": {
            "type": choose(TYPES),
            "pattern": choose(PATTERNS),
            "sensitivity": choose(SENSITIVITIES),
            "size_bytes": choose(SIZES),
        },
        "grants": own.grants,
        "time": choose(MINUTES),
    }
