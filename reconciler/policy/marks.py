"""Policies that say which of their rules held: each value goes through a function that prints a number. Pure.

A definition is a rule's head with one body; `else` begins another one. It becomes a rule of its own, and what stood
there takes its value from that one, through the mark. So the number is printed once the body held, whatever the order
in which the engine evaluates a body, and the answers are the same as before.

    deny contains reason if { … }               what a module says
    hub_held_3 contains reason if { … }         what is evaluated
    deny contains data.hub.answer.hub_mark(3, hub_value) if some hub_value in hub_held_3

Defaults and tests have no marks, nor have rules with several keys in brackets.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.policy.bundle import ANSWER_PACKAGE, is_test
from reconciler.policy.module import CLOSE, OPEN, Module, Rule, read_module
from reconciler.policy.tokens import Sort, Token, tokenise

MARKS_FILE = "<hub>/marks.rego"
MARKS_MODULE = f"""package {ANSWER_PACKAGE}

import rego.v1

hub_mark(number, value) := value if print("hub_mark", number)
"""

_CALL = f"data.{ANSWER_PACKAGE}.hub_mark"
_MARK = re.compile(r"^hub_mark (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One way for a rule to hold. `package` and `name` are dotted; lines count from 1, the last one included.

    `is_constant` says that it has no body, so that it holds whenever it is asked for.
    """

    file: str
    package: str
    name: str
    line: int
    last_line: int
    is_constant: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """`modules` are to be loaded in place of those that answer; the number of a mark is an index of `definitions`.

    `unmarked` counts the rules that have no marks because of their form.
    """

    modules: Mapping[str, str]
    definitions: tuple[Definition, ...]
    unmarked: int


def mark_modules(modules: Mapping[str, str]) -> Marked:
    """The modules that answer, with marks. They are those that `build_bundle` accepted."""
    marked: dict[str, str] = {MARKS_FILE: MARKS_MODULE}
    definitions: list[Definition] = []
    unmarked = 0
    for path in sorted(path for path in modules if not is_test(path)):
        marker = _Marker(read_module(path, modules[path]), modules[path])
        marked[path] = marker.mark(definitions)
        unmarked += marker.unmarked
    return Marked(modules=marked, definitions=tuple(definitions), unmarked=unmarked)


def read_marks(log: str) -> set[int]:
    """The numbers in what the library has printed."""
    return {int(number) for number in _MARK.findall(log)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clause:
    """A definition as written: its head without arguments and key, these, its value and its body, each as text.

    `key` is None without one, and `body` is None for a constant.
    """

    head: str
    arguments: str
    key: str | None
    is_member: bool
    value: str
    body: str | None
    first: Token
    last: Token


class _Marker:
    """One module, and its tokens."""

    def __init__(self, module: Module, source: str) -> None:
        self._module = module
        self._source = source
        self._tokens = tokenise(module.file, source)[0]
        self._depths = _find_depths(self._tokens)
        self.unmarked = 0

    def mark(self, definitions: list[Definition]) -> str:
        """The text with marks; each definition is added to the list, at the index that its mark prints."""
        parts: list[str] = []
        done = 0
        for rule, start, end in self._find_rules():
            clauses = [self._read_clause(*span, is_first=span[0] == start) for span in self._find_clauses(start, end)]
            found = [clause for clause in clauses if clause is not None]
            if len(found) < len(clauses):
                self.unmarked += 1
                continue
            parts += [self._source[done : found[0].first.start], _write_rule(rule, found, len(definitions))]
            done = found[-1].last.end
            definitions += [self._define(rule, clause) for clause in found]
        return "".join([*parts, self._source[done:]])

    def _define(self, rule: Rule, clause: _Clause) -> Definition:
        return Definition(
            file=self._module.file,
            package=self._module.package,
            name=rule.name,
            line=clause.first.line,
            last_line=clause.last.line,
            is_constant=clause.body is None,
        )

    def _find_rules(self) -> Iterator[tuple[Rule, int, int]]:
        """Each rule but defaults, with its first token and the one behind its last."""
        by_place = {(rule.line, rule.column): rule for rule in self._module.rules}
        starts = [i for i, token in enumerate(self._tokens) if (token.line, token.column) in by_place]
        stops = [i - (self._text(i - 1) == "default") for i in starts]
        for start, stop in zip(starts, [*stops[1:], len(self._tokens)], strict=True):
            if self._text(start - 1) != "default":
                token = self._tokens[start]
                yield by_place[token.line, token.column], start, stop

    def _find_clauses(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The rule up to its first `else`, and from each `else` on."""
        elses = [i for i in range(start, end) if self._is_word(i, "else")]
        yield from zip([start, *elses], [*elses, end], strict=True)

    def _read_clause(self, start: int, end: int, *, is_first: bool) -> _Clause | None:
        """None for a head of a form that has no marks."""
        body_at = next((i for i in range(start, end) if self._is_word(i, "if")), end)
        value_at = next((i for i in range(start, body_at) if self._is_value_sign(i)), body_at)
        head_end = next((i for i in range(start, value_at) if self._text(i) in ("(", "[")), value_at)
        arguments, key = "", None
        if head_end < value_at:
            is_closed_last = self._depths[value_at - 1] == 0 and self._text(value_at - 1) in CLOSE
            opened = sum(self._depths[i] == 0 and self._text(i) in ("(", "[") for i in range(start, value_at))
            if not is_closed_last or opened != 1:
                return None
            inner = self._slice(head_end + 1, value_at - 1)
            arguments, key = (inner, None) if self._text(head_end) == "(" else ("", inner)
        return _Clause(
            head=self._slice(start, head_end) if is_first else "else",
            arguments=arguments,
            key=key,
            is_member=self._is_word(value_at, "contains"),
            value=self._slice(value_at + 1, body_at) or "true",
            body=self._slice(body_at + 1, end) if body_at < end else None,
            first=self._tokens[start],
            last=self._tokens[end - 1],
        )

    def _is_value_sign(self, index: int) -> bool:
        return self._depths[index] == 0 and (
            self._text(index) in (":=", "=") or (self._is_word(index, "contains") and self._text(index + 1) != "(")
        )

    def _is_word(self, index: int, word: str) -> bool:
        if self._text(index) != word or self._tokens[index].sort is not Sort.NAME:
            return False
        return self._depths[index] == 0 and self._text(index - 1) != "."

    def _slice(self, start: int, end: int) -> str:
        """The text of the tokens from `start` to before `end`."""
        return self._source[self._tokens[start].start : self._tokens[end - 1].end] if start < end else ""

    def _text(self, index: int) -> str:
        return self._tokens[index].text if 0 <= index < len(self._tokens) else ""


def _write_rule(rule: Rule, clauses: Sequence[_Clause], first_number: int) -> str:
    """The rules of their own, and behind them the one that takes their values."""
    held: list[str] = []
    taken: list[str] = []
    for number, clause in enumerate(clauses, start=first_number):
        name = f"hub_held_{number}"
        # Without arguments, `else` has those of the rule.
        arguments = f"({clauses[0].arguments})" if rule.arity is not None else ""
        given = f"({', '.join(f'hub_given_{nth}' for nth in range(rule.arity))})" if rule.arity else arguments
        body = f" if {clause.body}" if clause.body is not None else ""
        if clause.is_member:
            held.append(f"{name} contains {clause.value}{body}")
            taken.append(f"{clause.head} contains {_CALL}({number}, hub_value) if some hub_value in {name}")
        elif clause.key is not None:
            held.append(f"{name}[{clause.key}] := {clause.value}{body}")
            taken.append(f"{clause.head}[hub_key] := {_CALL}({number}, hub_value) if some hub_key, hub_value in {name}")
        else:
            head = clause.head if clause.head == "else" else f"{clause.head}{given}"
            held.append(f"{name}{arguments} := {clause.value}{body}")
            taken.append(f"{head} := hub_value if hub_value := {_CALL}({number}, {name}{given})")
    return "\n".join([*held, " ".join(taken)])


def _find_depths(tokens: Sequence[Token]) -> list[int]:
    """How many brackets are open at each token, its own not counted."""
    depth, depths = 0, []
    for token in tokens:
        is_sign = token.sort is Sort.SIGN
        depth -= is_sign and token.text in CLOSE
        depths.append(depth)
        depth += is_sign and token.text in OPEN
    return depths
