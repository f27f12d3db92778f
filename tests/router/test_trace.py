"""W3C Trace Context: what is carried on, what is refused, and what a new trace looks like."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.router.trace import INVALID, check, new_traceparent, trace_id

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "traceparent", [GOOD, GOOD[:-2] + "ff", "cc" + GOOD[2:], "cc" + GOOD[2:] + "-what-comes-later"]
)
def test_what_the_recommendation_allows_is_carried_on(traceparent: str) -> None:
    assert check(traceparent, None) is None
    assert trace_id(traceparent) == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        GOOD.upper(),
        GOOD[:-1],
        GOOD + "0",
        GOOD + "-",
        GOOD + "-more",
        "ff" + GOOD[2:],
        "0" + GOOD,
        GOOD.replace("-", "_"),
        " " + GOOD,
        GOOD + "\n",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
    ],
)
def test_a_traceparent_of_another_form_is_refused(traceparent: str) -> None:
    assert check(traceparent, None) == INVALID


@pytest.mark.parametrize(
    "tracestate",
    [
        "",
        "rojo=00f067aa0ba902b7",
        "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
        "a=1, b=2\t,,c=3",
        "tenant@system=x",
        "0tenant@system=x",
        "a*/-_=value with spaces!",
        ",".join(f"k{n}=v" for n in range(32)),
        "k=" + "v" * 256,
        "a" * 256 + "=1",
    ],
)
def test_a_list_of_vendors_is_carried_on(tracestate: str) -> None:
    assert check(GOOD, tracestate) is None


@pytest.mark.parametrize(
    ("tracestate", "said"),
    [
        ("rojo", "member 1 of tracestate"),
        ("a=1,=2", "member 2 of tracestate"),
        ("a=", "member 1"),
        ("A=1", "member 1"),
        ("a=1=2", "member 1"),
        ("a=é", "member 1"),
        ("a=1\n", "member 1"),
        ("0a=1", "member 1"),
        ("a@0b=1", "member 1"),
        ("a@b@c=1", "member 1"),
        ("k=" + "v" * 257, "member 1"),
        ("a" * 257 + "=1", "member 1"),
        ("a=1,b=2,a=3", "the key a stands twice"),
        (",".join(f"k{n}=v" for n in range(33)), "33 members, at most 32"),
        ("a=" + "1" * 511, "513 characters, at most 512"),
    ],
)
def test_a_tracestate_that_is_none_is_refused_with_its_place(tracestate: str, said: str) -> None:
    assert said in (check(GOOD, tracestate) or "")


def test_a_tracestate_alone_is_refused() -> None:
    assert check(None, "a=1") == "tracestate has no meaning without traceparent"
    assert check(None, None) is None


def test_new_traces_are_valid_sampled_and_different() -> None:
    made = [new_traceparent() for _ in range(1000)]
    assert all(check(traceparent, None) is None and traceparent.endswith("-01") for traceparent in made)
    assert len({trace_id(traceparent) for traceparent in made}) == 1000


@given(st.text(max_size=80), st.text(max_size=600))
def test_any_text_is_carried_on_or_refused(traceparent: str, tracestate: str) -> None:
    assert check(traceparent, tracestate) is None or check(traceparent, None) == INVALID or check(GOOD, tracestate)
