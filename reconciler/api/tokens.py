"""Tokens of the operator plane: a file that only their hashes are in, read again whenever it changes.

What a caller shows is hashed and compared with every hash in constant time. A file that cannot be read or understood
lets nobody in: somebody may just have meant to take a token back.
"""

import hashlib
import hmac
import logging
import os
import re
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ValidationError, field_validator
from starlette.requests import Request

from reconciler.api.access import Access, RefusedRequest, Role
from reconciler.api.tries import TRIES_PER_S, Tries
from reconciler.core.model import Line, Model
from reconciler.core.names import Name
from reconciler.core.problem import Problem
from reconciler.core.timestamp import read_timestamp
from reconciler.core.yaml import load_documents
from reconciler.kinds.manifest import validation_problems
from reconciler.loop.conditions import Fault

MIN_TOKEN, MAX_TOKEN = 32, 512
"""Characters. What is shorter could be guessed, and is refused whatever the file says."""
CHALLENGE = {"www-authenticate": 'Bearer realm="reconciler"'}
_LOG = logging.getLogger("reconciler.api")
_HEX = re.compile(r"[0-9a-f]{64}")


def _check_hash(value: str) -> str:
    """The value may be the token itself, put there by mistake, and is not repeated."""
    if not _HEX.fullmatch(value):
        raise ValueError("is no SHA-256 in hex, 64 digits in lower case; a token itself does not belong here")
    return value


def _check_instant(value: str) -> str:
    if read_timestamp(value) is None:
        raise ValueError(f"is {value!r}; write a time with a zone, such as 2027-01-31T00:00:00Z")
    return value


class Token(Model):
    """One token: by which hash it is known, as whom its caller is recorded, what that may do, and until when."""

    name: Name
    role: Literal["viewer", "operator", "auditor"]
    sha256: Annotated[Line, AfterValidator(_check_hash)]
    expires: Annotated[Line, AfterValidator(_check_instant)] | None = None

    def is_over(self, wall_s: float) -> bool:
        """Whether it has expired."""
        return self.expires is not None and (read_timestamp(self.expires) or 0.0) <= wall_s


class TokenFile(Model):
    """The whole of the file."""

    tokens: tuple[Token, ...] = ()

    @field_validator("tokens")
    @classmethod
    def _check_distinct(cls, tokens: tuple[Token, ...]) -> tuple[Token, ...]:
        for what, values in (("name", [t.name for t in tokens]), ("sha256", [t.sha256 for t in tokens])):
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                shown = f" {twice[0]}" if what == "name" else ""
                raise ValueError(f"has the {what}{shown} twice; each token has its own")
        return tokens


def parse_tokens(content: bytes, file: str) -> tuple[Sequence[Token], Sequence[Problem]]:
    """The tokens, or what is wrong with the file. No problem repeats a hash."""
    documents = load_documents(content, file)
    if documents.problems:
        return (), documents.problems
    if len(documents.values) != 1:
        message = f"holds {len(documents.values)} documents; it must hold one, with a list 'tokens'"
        return (), [Problem(file=file, message=message)]
    try:
        return TokenFile.model_validate(documents.values[0]).tokens, ()
    except ValidationError as exc:
        return (), validation_problems(file, content, 0, exc, model=TokenFile)


class Tokens:
    """The tokens of one file, as it is now. Safe for threads."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._seen: tuple[int, ...] | None = None
        self._tokens: Sequence[Token] = ()
        self._fault = ""
        self._lock = threading.Lock()

    def look(self) -> str:
        """Read the file again if it is another one than before. Why nobody gets in; empty where that is not so."""
        with self._lock:
            try:
                found = self._file.stat()
                seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode)
                if seen != self._seen:
                    self._tokens, fault = self._read(found)
                    self._seen = seen
                    self._note(fault)
            except OSError as exc:
                self._seen, self._tokens = None, ()
                self._note(f"{self._file} cannot be read: {exc.strerror}; write it, or take api.http away")
            return self._fault

    def faults(self) -> Sequence[Fault]:
        """The condition that nobody gets in, while that is so."""
        fault = self.look()
        return [("TokensUnusable", "Invalid", fault)] if fault else []

    def find(self, shown: str) -> Token | None:
        """The token that was shown. Each one is compared, whichever it is."""
        self.look()
        digest = hashlib.sha256(shown.encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found if MIN_TOKEN <= len(shown) <= MAX_TOKEN else None

    def _read(self, found: os.stat_result) -> tuple[Sequence[Token], str]:
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return (), f"{self._file} may be written by others; chmod 0600 it"
        tokens, problems = parse_tokens(self._file.read_bytes(), str(self._file))
        return tokens, "; ".join(str(p) for p in problems)

    def _note(self, fault: str) -> None:
        if fault and fault != self._fault:
            _LOG.error("nobody gets in by a token: %s", fault)
        self._fault = fault


class ByToken:
    """`Authenticate` by `Authorization: Bearer …`. `refused` counts, by reason, whom it turned away.

    A right token always gets in; from each address only so many wrong ones are answered as such.
    """

    def __init__(self, tokens: Tokens, tries: Tries | None = None, wall_s: Callable[[], float] = time.time) -> None:
        self._tokens, self._tries, self._wall_s = tokens, tries or Tries(), wall_s
        self.refused: Counter[str] = Counter()

    def __call__(self, request: Request) -> Access:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        token = self._tokens.find(shown.strip()) if scheme.lower() == "bearer" else None
        if token is None:
            raise self._refuse(request, "unknown" if shown else "missing")
        if token.is_over(self._wall_s()):
            raise self._refuse(request, "expired")
        return Access(f"token:{token.name}", Role(token.role))

    def _refuse(self, request: Request, reason: str) -> RefusedRequest:
        host = request.client.host if request.client else ""
        if not self._tries.take(host):
            self.refused["limited"] += 1
            again = {"retry-after": str(int(1 / TRIES_PER_S))}
            return RefusedRequest("too many requests without a valid token; wait", 429, again)
        self.refused[reason] += 1
        _LOG.warning("a caller at %s was refused: the token is %s", host, reason)
        texts = {
            "missing": "this needs a token: send `Authorization: Bearer TOKEN`",
            "unknown": "the token is not known here; it may have been taken back",
            "expired": "the token has expired; ask whoever gives them out for another",
        }
        return RefusedRequest(texts[reason], 401, CHALLENGE)
