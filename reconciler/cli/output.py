"""Printing for people: tables within 100 columns, colours on terminals only, JSON on request."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from reconciler.core.change import Change
    from reconciler.core.plan import Plan
    from reconciler.core.problem import Problem
    from reconciler.store.audit import AuditEntry

WIDTH = 100
LONGEST_LINE = 1000


def console(*, err: bool = False) -> "Console":
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    width = None if stream.isatty() else WIDTH
    return Console(stderr=err, highlight=False, soft_wrap=False, width=width)


def program() -> str:
    """How to call this program from where the person stands."""
    name = "reconciler"
    if shutil.which(name):
        return name
    called = os.path.relpath(sys.argv[0])
    return called if called.endswith(name) and not called.startswith("..") else name


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_problems(problems: "Iterable[Problem]") -> None:
    """One per line on stderr, with a count at the end."""
    found = list(problems)
    for problem in found:
        click.echo(str(problem), err=True)
    click.echo(f"{len(found)} problem{'s' if len(found) != 1 else ''}", err=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, as_lines: bool = False) -> None:
    """A plain table; the last column takes what is left of the width.

    With `as_lines` each row is one line where there is no terminal, however long: it is read by programs then.
    """
    from rich.table import Table

    out = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for index, column in enumerate(columns):
        last = index == len(columns) - 1
        out.add_column(column, overflow="fold" if last else "ellipsis", no_wrap=not last)
    for row in rows:
        out.add_row(*(escape(cell) for cell in row))
    shown = console()
    if as_lines and not shown.is_terminal:
        shown.width = LONGEST_LINE
    shown.print(out)


def escape(text: object) -> str:
    from rich.markup import escape as rich_escape

    return rich_escape(str(text))


def age(iso: str) -> str:
    """How long ago, in one unit: `12s`, `5m`, `3h`, `2d`."""
    from datetime import UTC, datetime

    if not iso:
        return "-"
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(iso)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


ACTION_SIGNS: dict[str, tuple[str, str]] = {
    "create": ("+", "green"),
    "remove": ("-", "red"),
    "recycle": ("-", "red"),
    "replace": ("±", "yellow"),
    "update": ("~", "yellow"),
    "restart": ("~", "yellow"),
    "cancel": ("-", "red"),
    "hold": ("!", "cyan"),
    "keep": ("=", "white"),
}


def print_plan(plan: "Plan", *, everything: bool) -> None:
    """The plan as people read it: one line per change, its differing fields below."""
    from reconciler.core.move import find_moves, moved

    compared = {"nothing": "nothing (as if new)", "state": "the recorded state", "engine": "the live engine"}
    revision = plan.revision[:12] if ":" not in plan.revision else plan.revision[:21]
    lines = [f"revision {revision} compared with {compared.get(plan.compared_with, plan.compared_with)}"]
    moves = find_moves(plan.changes)
    by_move = moved(moves)
    for move in moves:
        head = click.style(f"→ move      {move.kind}/{move.before} → {move.kind}/{move.after}", fg="blue")
        lines.append(f"{head} {move.reason}")
    for change in plan.changes:
        is_shown = everything or str(change.action) != "keep"
        if is_shown and (change.kind, change.name) not in by_move:
            lines.extend(_change_lines(change))
    kept = sum(str(c.action) == "keep" for c in plan.changes)
    counts: dict[str, int] = {}
    for change in plan.pending:
        counts[str(change.action)] = counts.get(str(change.action), 0) + 1
    done = ", ".join(f"{n} to {a}" for a, n in sorted(counts.items())) or "nothing to change"
    lines.append(f"{done}; {kept} as they should be")
    for refusal in plan.refused:
        lines.append(click.style(f"refused by {refusal.guard}: ", fg="red") + refusal.reason)
        if refusal.confirm:
            lines.append(f"  if this is meant: reconciler apply --confirm {refusal.confirm}")
    click.echo("\n".join(lines))


def _change_lines(change: "Change") -> list[str]:
    sign, colour = ACTION_SIGNS.get(str(change.action), ("→", "blue"))
    head = click.style(
        f"{sign} {change.action:<9} {change.kind + '/' + (change.instance or change.name):<32}", fg=colour
    )
    warning = click.style(" (interrupts work)", fg="red") if change.disruptive else ""
    fields = [f"    {f.path}: {show_value(f.before, f.path)} → {show_value(f.after, f.path)}" for f in change.fields]
    return [f"{head} {change.reason}{warning}", *fields]


SIZES = ("memory", "memory_bytes", "memory_swap_bytes", "disk", "disk_bytes", "maxSize")
DURATIONS = ("ttl", "grace", "timeout", "drainDeadline", "heartbeat", "handshake", "firstOutput", "baseDelay")
SETTINGS = ("resync", "lease", "retention")


def show_value(value: Any, path: str, most: int = 60) -> str:
    """A value as people write it: quantities with their unit, texts longer than `most` characters cut."""
    from reconciler.core.quantity import show_duration, show_size

    if value is None:
        return "-"
    last = path.rpartition(".")[2]
    if last in SIZES and isinstance(value, int):
        return show_size(value)
    if last in (*DURATIONS, *SETTINGS) and isinstance(value, int | float):
        return show_duration(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else text[: most - 3] + "…"


def say_why(entry: "AuditEntry") -> str:
    """The reason of a row of the audit log; with who it was, where somebody asked for it."""
    return f"{entry.actor}: {entry.reason}".removesuffix(": ") if entry.cause == "operator" else entry.reason
