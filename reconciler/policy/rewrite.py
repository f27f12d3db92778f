"""Rego tests without `with`, which the embedded engine cannot evaluate: each use becomes a question of its own. Pure.

    test_alice if message.decision.allow with input as alice     what a test says
    test_alice if data.hub.message_test.hub_with_0               what is evaluated at last
    hub_with_0 := v if { v := message.decision.allow }           what is evaluated before, under the value of the next
    hub_input_0 := v if { v := alice }

So what stands before and after `with` must not use variables of the body around it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reconciler.core.problem import Problem
from reconciler.policy.module import (
    CLOSE,
    KEYWORDS,
    OPEN,
    VALUES,
    Module,
    Rule,
    match_brackets,
    read_module,
)
from reconciler.policy.tokens import Sort, Token, tokenise

_NOT_HERE = "is read by the embedded engine only directly in the body of a rule"
_VARIABLE = "stands with the variable {}; give that value to a rule of its own, and name the rule here"


@dataclass(frozen=True, slots=True, kw_only=True)
class With:
    """One expression under `with`, in the rule `rule` of a test file.

    `value`, `input` (or `""`) and `data` (by dotted path) are entry points; `rules` is the Rego that defines them, to
    be added to the module.
    """

    file: str
    rule: Rule
    value: str
    input: str
    data: tuple[tuple[str, str], ...]
    rules: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A test module without `with`."""

    text: str
    withs: tuple[With, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Span:
    """Tokens from `start` to before `end`."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Literal:
    """One expression of a body: its lead (`not` or `x :=`), the expression proper, and (target, value) pairs."""

    lead: _Span
    expression: _Span
    pairs: tuple[tuple[str, _Span], ...]
    end: int


class _UnsupportedError(ValueError):
    """The message continues "'with' …"."""


def rewrite_module(file: str, source: str, first_number: int) -> Rewritten:
    """Take each `with` out of a module that `build_bundle` accepted. Numbers count from `first_number`."""
    module = read_module(file, source)
    if not module.withs:
        return Rewritten(text=source)
    return _Rewriter(module, source).rewrite(first_number)


class _Rewriter:
    """One module, its tokens, and for each token the bracket around it (-1 for none)."""

    def __init__(self, module: Module, source: str) -> None:
        self._module = module
        self._source = source
        self._tokens = tokenise(module.file, source)[0]
        closing = match_brackets(module.file, self._tokens)
        self._closing = closing if isinstance(closing, dict) else {}
        self._around = self._find_around()

    def rewrite(self, first_number: int) -> Rewritten:
        withs: list[With] = []
        problems: list[Problem] = []
        parts: list[str] = []
        copied = done = 0
        starts = {token.start for token in self._module.withs}
        for index, token in enumerate(self._tokens):
            if token.start not in starts or index < done:
                continue
            try:
                literal = self._read_literal(index)
            except _UnsupportedError as exc:
                problems.append(self._module.problem(token, f"'with' {exc}"))
                continue
            found = self._as_with(literal, first_number + len(withs))
            withs.append(found)
            start, end = self._tokens[literal.expression.start].start, self._tokens[literal.end - 1].end
            parts.append(self._source[copied:start])
            # As many lines as before, so that what the engine says of the rest has its place.
            parts.append(f"data.{found.value.replace('/', '.')}" + "\n" * self._source.count("\n", start, end))
            copied, done = end, literal.end
        text = "".join([*parts, self._source[copied:]])
        return Rewritten(text=text, withs=tuple(withs), problems=tuple(problems))

    def _as_with(self, literal: _Literal, number: int) -> With:
        package = self._module.package.replace(".", "/")
        value, given = f"hub_with_{number}", f"hub_input_{number}"
        rules = [self._as_rule(value, literal.expression)]
        data: list[tuple[str, str]] = []
        has_input = False
        for target, span in literal.pairs:
            name = given if target == "input" else f"hub_data_{number}_{len(data)}"
            rules.append(self._as_rule(name, span))
            if target == "input":
                has_input = True
            else:
                data.append((target.removeprefix("data."), f"{package}/{name}"))
        return With(
            file=self._module.file,
            rule=self._rule_around(literal.expression.start),
            value=f"{package}/{value}",
            input=f"{package}/{given}" if has_input else "",
            data=tuple(data),
            rules="\n".join(rules) + "\n",
        )

    def _as_rule(self, name: str, span: _Span) -> str:
        text = self._source[self._tokens[span.start].start : self._tokens[span.end - 1].end]
        return f"{name} := hub_value if {{\n\thub_value := {text}\n}}"

    def _rule_around(self, index: int) -> Rule:
        place = self._tokens[index]
        here = (place.line, place.column)
        before = [r for r in self._module.rules if (r.line, r.column) <= here]
        return before[-1] if before else Rule(name="", line=place.line, column=place.column)

    def _find_around(self) -> list[int]:
        out: list[int] = []
        opened: list[int] = []
        for index, token in enumerate(self._tokens):
            if token.sort is Sort.SIGN and token.text in CLOSE and opened:
                opened.pop()
            out.append(opened[-1] if opened else -1)
            if token.sort is Sort.SIGN and token.text in OPEN:
                opened.append(index)
        return out

    def _text(self, index: int) -> str:
        return self._tokens[index].text if 0 <= index < len(self._tokens) else ""

    def _read_literal(self, index: int) -> _Literal:
        """The expression whose first `with` stands at `index`. Raises _UnsupportedError."""
        around = self._around[index]
        if around >= 0 and (self._text(around) != "{" or self._text(around - 1) not in ("if", "else")):
            raise _UnsupportedError(_NOT_HERE)
        start = index
        while not self._starts_literal(start, around):
            start -= 1
        end = index + 1
        while not self._ends_literal(end, around):
            end += 1
        if self._text(start) in ("some", "every"):
            raise _UnsupportedError(_NOT_HERE)
        lead = start + (self._text(start) == "not") + 2 * (self._text(start + 1) == ":=")
        literal = _Literal(
            lead=_Span(start, lead),
            expression=_Span(lead, index),
            pairs=tuple(self._read_pairs(index, end)),
            end=end,
        )
        self._check_variables(literal, around)
        return literal

    def _starts_literal(self, index: int, around: int) -> bool:
        if self._around[index] != around:
            return False
        if index - 1 in (-1, around) or self._text(index - 1) in (";", "if"):
            return True
        before, token = self._tokens[index - 1], self._tokens[index]
        if before.line == token.line or token.text in KEYWORDS - VALUES - {"not", "some", "every"}:
            return False
        if token.sort is Sort.SIGN and token.text not in OPEN:
            return False
        if before.sort is Sort.NAME:
            return before.text not in KEYWORDS - VALUES
        return before.sort is not Sort.SIGN or before.text in CLOSE

    def _ends_literal(self, index: int, around: int) -> bool:
        if index >= len(self._tokens) or index == self._closing.get(around):
            return True
        if self._around[index] != around:
            return False
        return self._text(index) in (";", "else") or self._starts_literal(index, around)

    def _read_pairs(self, index: int, end: int) -> Iterator[tuple[str, _Span]]:
        """`with input as … with data.x as …` from `index` on. Raises _UnsupportedError."""
        around = self._around[index]
        starts = [i for i in range(index, end) if self._around[i] == around and self._text(i) == "with"]
        for start, stop in zip(starts, [*starts[1:], end], strict=True):
            middle = next((i for i in range(start, stop) if self._text(i) == "as"), stop)
            target = "".join(token.text for token in self._tokens[start + 1 : middle])
            if middle + 1 >= stop:
                raise _UnsupportedError("has no 'as' with a value")
            if target != "input" and not target.startswith("data."):
                raise _UnsupportedError(f"replaces {target}; only input and data.… can be replaced")
            yield target, _Span(middle + 1, stop)

    def _check_variables(self, literal: _Literal, around: int) -> None:
        """Raises _UnsupportedError where the rules made of a literal would lack a variable."""
        bound = set(self._bound_names(literal, around))
        for span in (literal.expression, *(span for _, span in literal.pairs)):
            for index in range(span.start, span.end):
                token = self._tokens[index]
                if token.sort is Sort.NAME and self._text(index - 1) != "." and token.text in bound:
                    raise _UnsupportedError(_VARIABLE.format(token.text))

    def _bound_names(self, literal: _Literal, around: int) -> Iterator[str]:
        """Names that the body, or the head of its function, binds."""
        own = range(literal.lead.start, literal.lead.end)
        for index in range(len(self._tokens)):
            if self._around[index] != around or around < 0 or index in own:
                continue
            if self._text(index + 1) == ":=":
                yield self._text(index)
            if self._text(index) == "some":
                yield from _names_until_in(self._tokens[index + 1 :])
        head = self._rule_around(literal.expression.start)
        if head.arity is not None:
            line = [t for t in self._tokens if (t.line, t.column) > (head.line, head.column)]
            yield from (t.text for t in line[: _closing_index(line)] if t.sort is Sort.NAME)


def _names_until_in(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        if token.sort is not Sort.NAME and token.text != ",":
            return
        if token.text == "in":
            return
        yield token.text


def _closing_index(tokens: Sequence[Token]) -> int:
    """The index of the first closing parenthesis: the end of a function's arguments, near enough."""
    return next((i for i, token in enumerate(tokens) if token.text == ")"), 0)
