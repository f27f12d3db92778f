"""How many tokens an answer cost, read from its bytes while they pass. Pure; nothing is held back or changed.

The Messages API says it in `message_start` and, with totals so far, in each `message_delta`; OpenAI's in the last chunk
of a stream, or in the body. What the provider does not say is estimated from sizes.
"""

import contextlib
from dataclasses import dataclass, replace

import msgspec

from reconciler.egress.body import estimate_tokens
from reconciler.egress.config import Costs

_MAX_LINE = 4 * 2**20
_MAX_BODY = 16 * 2**20
_PER_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens. `input` counts those that were neither read from a cache nor put into it."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    is_estimate: bool = False

    @property
    def total(self) -> int:
        return self.input + self.output + self.cache_read + self.cache_write


def cost_of(usage: Usage, costs: Costs) -> float:
    """In dollars."""
    sum_ = usage.input * costs.input + usage.output * costs.output
    return (sum_ + usage.cache_read * costs.cache_read + usage.cache_write * costs.cache_write) / _PER_MILLION


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Counted(msgspec.Struct, gc=False):
    """Of both APIs; each uses some of the names."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Message(msgspec.Struct, gc=False):
    usage: _Counted | None = None


class _Said(msgspec.Struct, gc=False):
    usage: _Counted | None = None
    message: _Message | None = None


_decoder = msgspec.json.Decoder(_Said)


class Meter:
    """Reads along one answer; `is_stream` says that it is a stream of events."""

    def __init__(self, *, is_stream: bool, sent_bytes: int) -> None:
        self._is_stream = is_stream
        self._sent_bytes = sent_bytes
        self._got_bytes = 0
        self._rest = b""
        self._is_skipping = False
        self._usage: Usage | None = None

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body."""
        self._got_bytes += len(chunk)
        if not self._is_stream:
            if len(self._rest) + len(chunk) <= _MAX_BODY:
                self._rest += chunk
            return
        *lines, rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if self._is_skipping:
                self._is_skipping = False
            elif line.startswith(b"data:") and b'"usage"' in line:
                self._read(line[5:])
        self._is_skipping = self._is_skipping or len(rest) > _MAX_LINE
        self._rest = b"" if self._is_skipping else rest

    def settle(self, *, is_whole: bool) -> Usage:
        """What it came to; `is_whole` says that the answer came to its end, and was not an error."""
        if not self._is_stream:
            self._read(self._rest)
        said = self._usage
        if said is None:
            guessed = Usage(input=estimate_tokens(self._sent_bytes), output=estimate_tokens(self._got_bytes))
            return replace(guessed, is_estimate=True)
        if is_whole or not self._is_stream:
            return said
        return replace(said, output=max(said.output, estimate_tokens(self._got_bytes)), is_estimate=True)

    def _read(self, text: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            said = _decoder.decode(text)
            counted = said.usage or (said.message.usage if said.message else None)
            if counted is not None:
                self._usage = _add(self._usage or Usage(), counted)


def _add(before: Usage, counted: _Counted) -> Usage:
    """Totals so far replace earlier ones; what is not said stays."""
    cached = counted.prompt_tokens_details.cached_tokens if counted.prompt_tokens_details else None
    prompt = counted.prompt_tokens - (cached or 0) if counted.prompt_tokens is not None else None
    return Usage(
        input=_latest(before.input, counted.input_tokens, prompt),
        output=_latest(before.output, counted.output_tokens, counted.completion_tokens),
        cache_read=_latest(before.cache_read, counted.cache_read_input_tokens, cached),
        cache_write=_latest(before.cache_write, counted.cache_creation_input_tokens),
    )


def _latest(before: int, *said: int | None) -> int:
    """Never less than before: a provider that counts down, or below zero, is not believed."""
    return max(before, *(number or 0 for number in said))
