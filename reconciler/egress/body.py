"""The body of a request: which model it asks for, and the same body as the provider shall have it. Pure.

A provider must not read another model in it than was checked here. Servers differ in what they do with a name that
stands twice, or in other letters (Go reads `MODEL` as `model`). So the body is written anew, each name once, from the
very bytes of its values; names that only look like one of ours are refused.
"""

from dataclasses import dataclass

import msgspec

from reconciler.egress.problem import Deny

_OURS = ("model", "stream", "max_tokens", "max_completion_tokens", "stream_options")
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


class _Read(msgspec.Struct, gc=False):
    """What is looked at. Anything else is between agent and provider."""

    model: str
    stream: bool | None = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


_reader = msgspec.json.Decoder(_Read)


@dataclass(frozen=True, slots=True)
class Asked:
    """`content` is what the provider gets; `tokens` is an estimate of what it may cost at most."""

    model: str
    is_stream: bool
    tokens: int
    content: bytes


def read_body(body: bytes, *, counts_stream: bool = False) -> Asked | Deny:
    """`counts_stream` asks the provider to say at the end of a stream what it used, as OpenAI's API does on request."""
    try:
        members = _decoder.decode(body)
        content = _encoder.encode(members)
        found = _reader.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _deny(f"the body is not JSON of this API: {str(error)[:200]}")
    alike = next((name for name in members if name not in _OURS and name.casefold() in _OURS), None)
    if alike is not None:
        return _deny(f"{alike!a} is not {alike.casefold()!r}; write it in small letters")
    if counts_stream and found.stream:
        content = _encoder.encode({**members, "stream_options": _count_usage(members.get("stream_options"))})
    most = found.max_tokens or found.max_completion_tokens or 0
    return Asked(found.model, bool(found.stream), estimate_tokens(len(body)) + max(0, most), content)


def estimate_tokens(size_bytes: int) -> int:
    """About how many tokens so many bytes of JSON are."""
    return size_bytes // 4


def _count_usage(options: msgspec.Raw | None) -> object:
    try:
        known = msgspec.json.decode(options) if options is not None else None
    except msgspec.DecodeError:
        known = None
    return {**known, "include_usage": True} if isinstance(known, dict) else {"include_usage": True}


def _deny(reason: str) -> Deny:
    return Deny(status=400, code="invalid_request", reason=reason)
