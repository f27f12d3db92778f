"""Rego source as tokens with positions: enough to tell code from comments and strings. Pure, in linear time."""

import re
from dataclasses import dataclass
from enum import Enum, auto

from reconciler.core.problem import Problem


class Sort(Enum):
    """What a token is. `TEXT` is a string in double quotes, `RAW` one in back-quotes."""

    NAME = auto()
    NUMBER = auto()
    TEXT = auto()
    RAW = auto()
    SIGN = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is as written, quotes included. `line` and `column` count characters from 1, `start` from 0."""

    sort: Sort
    text: str
    line: int
    column: int
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n]+)
    | (?P<comment>\#[^\n]*)
    | (?P<TEXT>"(?:[^"\\\n]|\\[^\n])*")
    | (?P<RAW>`[^`]*`)
    | (?P<NAME>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<NUMBER>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
    | (?P<SIGN>:=|==|!=|<=|>=|[-+*/%|&<>=.,;:()\[\]{}])
    | (?P<other>.)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_OTHERS = {
    '"': "a string that does not end on its line; close it, or use back-quotes",
    "`": "a raw string that does not end; close it with a back-quote",
    "$": "a template string; the engines read it differently, use sprintf",
}


def tokenise(file: str, source: str) -> tuple[tuple[Token, ...], tuple[Problem, ...]]:
    """All tokens of a module, and the characters and escapes that Rego or one of the engines cannot read."""
    tokens: list[Token] = []
    problems: list[Problem] = []
    line, start = 1, 0
    for match in _TOKEN.finditer(source):
        text, column = match.group(), match.start() - start + 1
        if match.lastgroup == "other":
            what = _OTHERS.get(text, f"{text!a} outside of a string; remove it")
            problems.append(Problem(file=file, line=line, column=column, message=f"has {what}"))
        elif match.lastgroup not in ("blank", "comment"):
            token = Token(Sort[match.lastgroup or ""], text, line, column, match.start())
            tokens.append(token)
            if token.sort is Sort.TEXT:
                problems.extend(_check_escapes(file, token))
        if breaks := text.count("\n"):
            line += breaks
            start = match.start() + text.rindex("\n") + 1
    return tuple(tokens), tuple(problems)


def _check_escapes(file: str, token: Token) -> list[Problem]:
    """The embedded engine compares strings as written, so that `\\u00e9` would not be `é` there."""
    return [
        Problem(
            file=file,
            line=token.line,
            column=token.column + match.start(),
            message=f"{match.group()!r} in a string is read differently by the engines; write the character itself",
        )
        for match in _ESCAPE.finditer(token.text)
        if match.group(1) in "u/"
    ]
