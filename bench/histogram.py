"""Latency histograms as one SVG, readable on light and dark: times in milliseconds come in, text goes out. Pure."""

from collections.abc import Mapping, Sequence
from math import ceil, log2

LEAST_MS, MOST_MS, PER_DOUBLING = 0.125, 64.0, 6
WIDTH, PANEL, LEFT, TOP, FOOT = 760, 150, 20, 56, 34

_BINS = round(log2(MOST_MS / LEAST_MS)) * PER_DOUBLING
_STYLE = """\
    text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; font-size: 12px;
      fill: #59636e; }
    .title { fill: #1f2328; font-weight: 600; font-size: 14px; }
    .name { fill: #1f2328; font-weight: 600; font-size: 13px; }
    .tick { text-anchor: middle; }
    .end { text-anchor: end; }
    .bar { fill: #0969da; }
    .axis { stroke: #818b98; }
    .mark { stroke: #bc4c00; stroke-dasharray: 4 3; }
    @media (prefers-color-scheme: dark) {
      text { fill: #b3bcc6; }
      .title, .name { fill: #f0f6fc; }
      .bar { fill: #4493f8; }
      .axis { stroke: #9198a1; }
      .mark { stroke: #f0883e; }
    }"""


def render_histograms(title: str, panels: Mapping[str, Sequence[float]]) -> str:
    """One panel below the other, by name; the times are sorted. What is beyond the scale counts in its last bar."""
    height = TOP + PANEL * len(panels)
    drawn = [
        line
        for nth, (name, sorted_ms) in enumerate(panels.items())
        for line in _draw_panel(TOP + PANEL * nth, name, sorted_ms)
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="title">',
        f'  <title id="title">{title}</title>',
        f"  <style>\n{_STYLE}\n  </style>",
        f'  <text class="title" x="{LEFT}" y="26">{title}</text>',
        *(f"  {line}" for line in drawn),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _draw_panel(top: int, name: str, sorted_ms: Sequence[float]) -> Sequence[str]:
    base = top + PANEL - FOOT
    counts = _count(sorted_ms)
    width, scale = _x(LEAST_MS * 2 ** (1 / PER_DOUBLING)) - LEFT, (base - top - 26) / max(counts)
    p50, p99 = (sorted_ms[int(len(sorted_ms) * part)] for part in (0.5, 0.99))
    bars = [
        f'<rect class="bar" x="{LEFT + nth * width:.1f}" y="{base - count * scale:.1f}" '
        f'width="{width - 1:.1f}" height="{count * scale:.1f}"/>'
        for nth, count in enumerate(counts)
        if count
    ]
    marks = [
        f'<line class="mark" x1="{_x(ms):.1f}" y1="{top + 18}" x2="{_x(ms):.1f}" y2="{base}"/>' for ms in (p50, p99)
    ]
    ticks = [
        f'<text class="tick" x="{_x(ms):.1f}" y="{base + 16}">{ms:g} ms</text>'
        for ms in (0.25, 0.5, 1, 2, 4, 8, 16, 32)
    ]
    return [
        f'<text class="name" x="{LEFT}" y="{top + 8}">{name}</text>',
        f'<text class="end" x="{WIDTH - LEFT}" y="{top + 8}">'
        f"{len(sorted_ms)} messages, p50 {p50:.2g} ms, p99 {p99:.2g} ms</text>",
        *bars,
        *marks,
        f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{WIDTH - LEFT}" y2="{base}"/>',
        *ticks,
    ]


def _count(times_ms: Sequence[float]) -> Sequence[int]:
    counts = [0] * _BINS
    for ms in times_ms:
        nth = ceil(log2(ms / LEAST_MS) * PER_DOUBLING) - 1 if ms > LEAST_MS else 0
        counts[min(nth, _BINS - 1)] += 1
    return counts


def _x(ms: float) -> float:
    part = log2(min(max(ms, LEAST_MS), MOST_MS) / LEAST_MS) / log2(MOST_MS / LEAST_MS)
    return LEFT + part * (WIDTH - 2 * LEFT)
