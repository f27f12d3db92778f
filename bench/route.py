"""The route: messages accepted, logged durably, delivered and acknowledged, against a bare ASGI echo in the same run.

Echo, bare OPA and the router in each of its modes are measured in turns, by the same generator; echo and router with
the same bytes over as many connections. Of each the best turn counts, since whatever else the machine does only takes
away. Without an OPA (`RECONCILER_OPA`, or `opa` on the PATH) what needs one is left out.
"""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.figure import Figure
from bench.histogram import render_histograms
from bench.load import Load
from bench.router import IDLE_POLLS, Mode, Router, pss_mb, register, router_process, socket_path
from bench.servers import Server, echo_process, peer_process, poll, rate
from bench.subscribers import measure_stopped
from reconciler.policy.opa_process import find_program
from reconciler.router.channel import call

ROUNDS, ROUND_S = 3, 2.0
HALVES, HALF_S = 5, 1.0
ECHO, BARE_OPA = "bare ASGI echo", "bare OPA"
BUILTIN = Mode(engine="builtin")
PICTURE = Path(__file__).resolve().parents[1] / "docs" / "route-latency.svg"


def measure() -> list[Figure]:
    """Rates and ratios of all modes, latencies at half of the rate, overload, a stopped subscriber, idle polls."""
    opa = find_program(None)
    if opa is None:
        print("no OPA (RECONCILER_OPA, or opa on the PATH): all that needs one is left out", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="rb", dir="/tmp") as name:
        folder = Path(name)
        with router_process(folder, opa) as router:
            with echo_process(folder) as echo:
                best = _take_turns(echo, router)
                floor = _calmest(lambda: echo.load(seconds=HALF_S, at=rate(best[ECHO]) / 2))
            halves = {
                mode: _load_half(router, mode, rate(best[str(mode)])) for mode in _modes(router) if mode.is_cached
            }
            most = rate(best[str(BUILTIN)])
            over = max((router.load(BUILTIN, seconds=ROUND_S, at=1.5 * most) for _ in range(2)), key=rate)
            figures = [
                *_show_rates(best),
                *(figure for mode, half in halves.items() for figure in _show_latencies(mode, half, floor)),
                _over_reference("route: goodput at 1.5 x the maximum", rate(over), "maximum", most, budget=0.8),
                measure_stopped(router),
                Figure(name=f"route: {IDLE_POLLS} idle polls", value=_idle_polls(router), unit="MB", budget=20.0),
            ]
        PICTURE.write_text(_draw(halves))
        if opa is not None:
            try:
                figures.append(_compare_with_peer(folder, opa, most))
            except subprocess.CalledProcessError:
                print("the obvious version did not stand the load; its row is left out", file=sys.stderr)
    return figures


def _modes(router: Router) -> Sequence[Mode]:
    engines = ("builtin", "embedded", "opa") if router.opa else ("builtin", "embedded")
    return [Mode(engine=engine, is_cached=is_cached) for engine in engines for is_cached in (True, False)]


def _take_turns(echo: Server, router: Router) -> Mapping[str, Load]:
    """The best turn of each, by name."""
    turns: dict[str, list[Load]] = {}
    for _ in range(ROUNDS):
        turns.setdefault(ECHO, []).append(echo.load(seconds=ROUND_S))
        for mode in _modes(router):
            turns.setdefault(str(mode), []).append(router.load(mode, seconds=ROUND_S))
        if router.opa:
            turns.setdefault(BARE_OPA, []).append(router.opa.load(seconds=ROUND_S))
    return {name: max(loads, key=rate) for name, loads in turns.items()}


def _load_half(router: Router, mode: Mode, most: float) -> Load:
    return _calmest(lambda: router.load(mode, seconds=HALF_S, at=most / 2))


def _calmest(load: Callable[[], Load]) -> Load:
    """Of several turns the one in which the machine stood still least."""
    return min((load() for _ in range(HALVES)), key=lambda turn: _percentile(turn.answer_ms, 0.99))


def _percentile(sorted_ms: Sequence[float], part: float) -> float:
    return sorted_ms[int(len(sorted_ms) * part)]


def _show_rates(best: Mapping[str, Load]) -> Sequence[Figure]:
    echoed, sent = best[ECHO], best[str(BUILTIN)]
    cached = [
        _over_reference(f"route: {name}, cached", rate(best[name]), ECHO, rate(echoed), budget=0.45)
        for name in ("builtin", "embedded", "opa")
        if name in best
    ]
    uncached = [
        _over_reference(f"route: {name}", rate(load), ECHO, rate(echoed))
        for name, load in best.items()
        if name.endswith("uncached") and not name.startswith("opa")
    ]
    figures = [
        *cached,
        *uncached,
        Figure(
            name="route: echo busy under the generator",
            value=echoed.server_busy,
            unit="core",
            budget=0.95,
            at_most=False,
        ),
        Figure(
            name="route: processor time of a message",
            value=1e6 * (sent.server_busy + sent.children_busy) / rate(sent),
            unit="µs",
            reference=ECHO,
            reference_value=1e6 * echoed.server_busy / rate(echoed),
        ),
        Figure(name="route: of it in the log's writer", value=1e6 * sent.children_busy / rate(sent), unit="µs"),
    ]
    if BARE_OPA in best:
        bare, uncached_rate = rate(best[BARE_OPA]), rate(best["opa uncached"])
        figures.append(_over_reference("route: opa uncached", uncached_rate, BARE_OPA, bare, budget=0.7))
    return figures


def _show_latencies(mode: Mode, half: Load, floor: Load) -> Sequence[Figure]:
    """Beside the echo's at half of its own rate: what this machine adds to anything."""
    found = {"answer": half.answer_ms, "delivery": half.delivery_ms}
    return [
        Figure(
            name=f"route: {mode}, {what} at half, p{part * 100:.0f}",
            value=_percentile(sorted_ms, part),
            unit="ms",
            reference="echo at half",
            reference_value=_percentile(floor.answer_ms, part),
            budget=5.0 if part == 0.99 else None,
        )
        for what, sorted_ms in found.items()
        for part in (0.5, 0.99)
    ]


def _over_reference(
    name: str, value: float, reference: str, reference_value: float, *, budget: float | None = None
) -> Figure:
    """Messages per second, of which more are better."""
    return Figure(
        name=name,
        value=value,
        unit="1/s",
        reference=reference,
        reference_value=reference_value,
        budget=budget,
        at_most=False,
        by_ratio=True,
    )


def _compare_with_peer(folder: Path, opa: str, most: float) -> Figure:
    """The obvious version has an OPA; the route is taken with its builtin rules."""
    with peer_process(folder, opa) as peer:
        found = max(rate(peer.load(seconds=ROUND_S)) for _ in range(2))
    return _over_reference("route: against the obvious version", most, "FastAPI+OPA+SQLModel", found, budget=15.0)


def _idle_polls(router: Router) -> float:
    """What polls of as many instances add to the router's memory, in MB."""
    router.use(BUILTIN)
    tokens = {f"i{n}": register(router.link, f"i{n}") for n in range(IDLE_POLLS)}
    before = pss_mb(router.server.pid)
    links: list[socket.socket] = []
    try:
        for name, token in tokens.items():
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            links.append(link)
            link.connect(socket_path(router.run, name))
            link.sendall("-.0".join(poll(token, 50)).encode())
        deadline = time.monotonic() + 30
        while _count_polls(router) < IDLE_POLLS:
            assert time.monotonic() < deadline, "not all polls wait"
            time.sleep(0.1)
        return pss_mb(router.server.pid) - before
    finally:
        for link in links:
            link.close()


def _count_polls(router: Router) -> int:
    instances = call(router.run, "GET", "/report")["instances"]
    return sum(entry["polls"] for name, entry in instances.items() if name.startswith("i"))


def _draw(halves: Mapping[Mode, Load]) -> str:
    panels = {f"{mode}, {rate(half):.0f} messages per second": half.answer_ms for mode, half in halves.items()}
    return render_histograms("Time to the answer at half of the highest rate, decisions cached", panels)
