"""The outline of a Rego module, from its tokens: package, imports, rules, functions and calls, each with its place.

Not a parser: it finds what the checks need, and sees a call rather than miss one. Pure, in linear time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reconciler.core.problem import Problem
from reconciler.policy.tokens import Sort, Token, tokenise

MAX_NESTING = 64

KEYWORDS = frozenset(
    ["as", "default", "else", "every", "false", "if", "import", "in", "not", "null", "package", "some", "true", "with"]
)
VALUES = frozenset({"true", "false", "null"})
OPEN, CLOSE = ("(", "[", "{"), (")", "]", "}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """`time.now_ns` or `time["now_ns"]`: dotted name, place, and how it is used.

    `arity` is the number of arguments where it is called, else None. `dynamic` means that a bracket with
    anything but a string stands before the call, so that nobody can say what runs. `arguments` are the tokens
    between the brackets.
    """

    name: str
    line: int
    column: int
    arity: int | None = None
    dynamic: bool = False
    arguments: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """The head of a rule. `name` is dotted where the head is; `arity` is None unless it is a function."""

    name: str
    line: int
    column: int
    arity: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """`path` is dotted; `alias` is the name under which it is known in the module."""

    path: str
    alias: str
    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One file of Rego. `package` is dotted, `""` where the file names none. `withs` are the keywords `with`."""

    file: str
    package: str
    line: int
    imports: tuple[Import, ...] = ()
    rules: tuple[Rule, ...] = ()
    references: tuple[Reference, ...] = ()
    withs: tuple[Token, ...] = ()
    problems: tuple[Problem, ...] = ()

    def problem(self, place: Rule | Reference | Import | Token, message: str) -> Problem:
        return Problem(file=self.file, line=place.line, column=place.column, message=message)


def read_module(file: str, source: str) -> Module:
    """The outline of one file. Never raises: what cannot be read is in `problems`."""
    tokens, problems = tokenise(file, source)
    closing = match_brackets(file, tokens)
    if isinstance(closing, Problem):
        return Module(file=file, package="", line=0, problems=(*problems, closing))
    return _Outline(tokens, closing).read(file, problems)


def match_brackets(file: str, tokens: Sequence[Token]) -> dict[int, int] | Problem:
    """The index of each opening bracket's end; what stays open ends with the file."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for index, token in enumerate(tokens):
        if token.sort is not Sort.SIGN:
            continue
        if token.text in OPEN:
            opened.append(index)
            if len(opened) > MAX_NESTING:
                message = f"brackets are nested deeper than {MAX_NESTING} levels; use rules of their own"
                return Problem(file=file, line=token.line, column=token.column, message=message)
        elif token.text in CLOSE and opened:
            closing[opened.pop()] = index
    return closing | dict.fromkeys(opened, len(tokens))


class _Outline:
    """The tokens of one module with their brackets matched."""

    def __init__(self, tokens: Sequence[Token], closing: dict[int, int]) -> None:
        self._tokens = tokens
        self._closing = closing
        self._calls: set[int] = set()
        self._nested = self._find_nested()

    def read(self, file: str, problems: tuple[Problem, ...]) -> Module:
        package: Reference | None = None
        imports: list[Import] = []
        rules: list[Rule] = []
        references: list[Reference] = []
        done = 0
        for index, token in enumerate(self._tokens):
            if index < done or token.sort is not Sort.NAME or self._text(index - 1) == ".":
                continue
            if token.text == "package" and package is None:
                package, done = self._chain(index + 1)
            elif token.text == "import" and self._starts_statement(index):
                found, done = self._import(index)
                imports.append(found)
            elif token.text not in KEYWORDS and not self._is_contains_keyword(index):
                reference, _ = self._chain(index)
                if self._text(index - 1) == "default" or self._starts_statement(index):
                    rules.append(_as_rule(reference))
                else:
                    references.append(reference)
        return Module(
            file=file,
            package=package.name if package else "",
            line=package.line if package else 0,
            imports=tuple(imports),
            rules=tuple(rules),
            references=(*references, *self._anonymous_calls()),
            withs=tuple(t for i, t in enumerate(self._tokens) if self._is_with(i)),
            problems=problems,
        )

    def _is_with(self, index: int) -> bool:
        token = self._tokens[index]
        return token.sort is Sort.NAME and token.text == "with" and self._text(index - 1) != "."

    def _text(self, index: int) -> str:
        return self._tokens[index].text if 0 <= index < len(self._tokens) else ""

    def _find_nested(self) -> list[bool]:
        """For each token, whether it stands inside of brackets."""
        depth, out = 0, []
        for token in self._tokens:
            sign = token.sort is Sort.SIGN
            depth -= sign and token.text in CLOSE
            out.append(depth > 0)
            depth += sign and token.text in OPEN
        return out

    def _chain(self, index: int) -> tuple[Reference, int]:
        """The reference that starts at `index`, and the index behind it, before its arguments."""
        if index >= len(self._tokens):
            return Reference(name="", line=0, column=0), index
        first, parts, dynamic = self._tokens[index], [self._text(index)], False
        index += 1
        while self._text(index) in (".", "["):
            if self._text(index) == ".":
                parts.append(self._text(index + 1))
                index += 2
                continue
            end = self._closing[index]
            inner = self._tokens[index + 1 : end]
            if len(inner) == 1 and inner[0].sort in (Sort.TEXT, Sort.RAW):
                parts.append(inner[0].text[1:-1])
            else:
                dynamic = True
            index = end + 1
        arity: int | None = None
        arguments: tuple[Token, ...] = ()
        if self._text(index) == "(":
            self._calls.add(index)
            arguments = tuple(self._tokens[index + 1 : self._closing[index]])
            arity = _count_arguments(arguments)
        found = Reference(
            name=".".join(parts),
            line=first.line,
            column=first.column,
            arity=arity,
            dynamic=dynamic,
            arguments=arguments,
        )
        return found, index

    def _import(self, index: int) -> tuple[Import, int]:
        reference, end = self._chain(index + 1)
        alias = reference.name.rpartition(".")[2]
        if self._text(end) == "as":
            alias, end = self._text(end + 1), end + 2
        place = self._tokens[index]
        return Import(path=reference.name, alias=alias, line=place.line, column=place.column), end

    def _starts_statement(self, index: int) -> bool:
        """Whether this is the first word of its line, outside of brackets, and continues no expression."""
        if index == 0:
            return True
        before = self._tokens[index - 1]
        if before.line == self._tokens[index].line or self._nested[index]:
            return False
        if before.sort is Sort.NAME:
            return before.text not in KEYWORDS - VALUES and before.text != "contains"
        return before.sort is not Sort.SIGN or before.text in CLOSE

    def _is_contains_keyword(self, index: int) -> bool:
        """`deny contains x`: the word where it follows the head of a rule, on the same line."""
        if self._text(index) != "contains" or not index:
            return False
        before = self._tokens[index - 1]
        is_name = before.sort is Sort.NAME and before.text not in KEYWORDS
        return (is_name or before.text == "]") and before.line == self._tokens[index].line

    def _anonymous_calls(self) -> Iterator[Reference]:
        """Calls of what an expression yields, such as `f(x)(y)`."""
        for index, token in enumerate(self._tokens):
            if token.text == "(" and index not in self._calls and self._text(index - 1) in ("]", ")"):
                yield Reference(name="", line=token.line, column=token.column, arity=0, dynamic=True)


def _as_rule(head: Reference) -> Rule:
    return Rule(name=head.name, line=head.line, column=head.column, arity=head.arity)


def _count_arguments(arguments: Sequence[Token]) -> int:
    depth = commas = 0
    for token in arguments:
        if token.sort is Sort.SIGN:
            depth += (token.text in OPEN) - (token.text in CLOSE)
            commas += depth == 0 and token.text == ","
    has_trailing_comma = bool(arguments) and arguments[-1].text == ","
    return commas + (not has_trailing_comma) if arguments else 0
