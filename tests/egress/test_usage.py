"""Tokens, read along an answer however it is cut."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.egress.config import Costs
from reconciler.egress.usage import Meter, Usage, cost_of

START = {
    "type": "message_start",
    "message": {
        "usage": {
            "input_tokens": 25,
            "cache_creation_input_tokens": 7,
            "cache_read_input_tokens": 1000,
            "output_tokens": 1,
        }
    },
}
DELTA = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}}
ANTHROPIC = "".join(
    f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
    for event in (START, {"type": "ping"}, {"type": "content_block_delta", "delta": {"text": '"usage"'}}, DELTA)
).encode()
OPENAI = (
    b'data: {"choices":[{"delta":{"content":"hi"}}],"usage":null}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":5,'
    b'"prompt_tokens_details":{"cached_tokens":12}}}\n\ndata: [DONE]\n\n'
)
OF_ANTHROPIC = Usage(input=25, output=15, cache_read=1000, cache_write=7)
OF_OPENAI = Usage(input=8, output=5, cache_read=12)


def read(chunks: Sequence[bytes], *, is_stream: bool = True, is_whole: bool = True, sent: int = 400) -> Usage:
    meter = Meter(is_stream=is_stream, sent_bytes=sent)
    for chunk in chunks:
        meter.feed(chunk)
    return meter.settle(is_whole=is_whole)


@given(st.sampled_from([(ANTHROPIC, OF_ANTHROPIC), (OPENAI, OF_OPENAI)]), st.lists(st.integers(0, 700), max_size=12))
def test_a_stream_is_read_the_same_however_it_is_cut(case: tuple[bytes, Usage], cuts: list[int]) -> None:
    stream, usage = case
    places = [0, *sorted(c % len(stream) for c in cuts), len(stream)]
    assert read([stream[a:b] for a, b in zip(places, places[1:], strict=False)]) == usage


def test_line_ends_of_both_sorts_are_read() -> None:
    assert read([ANTHROPIC.replace(b"\n", b"\r\n")]) == OF_ANTHROPIC


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        ({"usage": {"input_tokens": 12, "output_tokens": 7}}, Usage(input=12, output=7)),
        ({"usage": {"prompt_tokens": 12, "completion_tokens": 7}}, Usage(input=12, output=7)),
        ({"usage": {"prompt_tokens": 1, "prompt_tokens_details": None}}, Usage(input=1)),
    ],
)
def test_a_whole_answer_is_read_at_its_end(body: object, usage: Usage) -> None:
    content = json.dumps(body).encode()
    assert read([content[:9], content[9:]], is_stream=False) == usage


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"usage": 5}', b'{"usage": {"input_tokens": "many"}}'])
def test_what_says_nothing_is_estimated(body: bytes) -> None:
    assert read([body], is_stream=False) == Usage(input=100, output=len(body) // 4, is_estimate=True)


def test_a_stream_that_broke_off_counts_what_came() -> None:
    half = ANTHROPIC[: ANTHROPIC.index(b"event: ping")] + b"x" * 4000
    found = read([half], is_whole=False)
    assert (found.input, found.cache_read, found.is_estimate) == (25, 1000, True)
    assert found.output >= 1000


def test_a_provider_that_counts_down_or_below_zero_is_not_believed() -> None:
    lower = b'data: {"usage":{"output_tokens":-50,"input_tokens":-1}}\n'
    assert read([ANTHROPIC, lower]) == OF_ANTHROPIC


def test_a_line_without_end_costs_no_memory_and_what_follows_is_read() -> None:
    meter = Meter(is_stream=True, sent_bytes=0)
    for _ in range(200):
        meter.feed(b"x" * 65536)
    meter.feed(b"\n" + ANTHROPIC)
    assert meter.settle(is_whole=True) == OF_ANTHROPIC


def test_costs_are_by_the_million() -> None:
    usage = Usage(input=1_000_000, output=100_000, cache_read=2_000_000, cache_write=10_000)
    costs = Costs(input=3, output=15, cache_read=0.3, cache_write=3.75)
    assert cost_of(usage, costs) == pytest.approx(3 + 1.5 + 0.6 + 0.0375)
    assert usage.total == 3_110_000
