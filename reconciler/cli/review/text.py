"""A review for a terminal: within 100 columns, colours left to whoever prints it."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

import click

from reconciler.cli.output import ACTION_SIGNS, WIDTH, show_value
from reconciler.cli.review.words import (
    admission_reasons,
    count,
    headline,
    is_clear,
    printable,
    say_admission,
    summary,
)
from reconciler.core.change import Action, FieldChange
from reconciler.loop.review import Line, Review, gather

ACTION_WIDTH = 12
SUBJECT_WIDTH = 42
INDENT = "    "


def write_text(review: Review, *, everything: bool = False) -> str:
    """All of it."""
    parts = [
        _wrap(headline(review)),
        *(_wrap(f"note: {note}") for note in review.notes),
        *_moves(review),
        *(_line(line) for line in review.lines),
        *(_line(line) for line in (_kept(review) if everything else ())),
        *_settings(review.settings),
        *_admission(review),
        _wrap(summary(review)),
        *_refusals(review),
        *(_wrap(printable(problem)) for problem in review.plan.problems),
    ]
    return "\n".join(parts) + "\n"


def _moves(review: Review) -> Iterator[str]:
    for move in review.moves:
        subject = f"{move.kind}/{move.before} → {move.kind}/{move.after}"
        yield _row("→ move", subject, move.reason, "blue")


def _line(line: Line) -> str:
    sign, colour = ACTION_SIGNS.get(str(line.action), ("→", "blue"))
    reason = f"{line.reason} (interrupts work)" if line.is_disruptive else line.reason
    return "\n".join([_row(f"{sign} {line.action}", line.subject, reason, colour), *_fields(line.fields)])


def _kept(review: Review) -> Sequence[Line]:
    return gather(c for c in review.plan.changes if c.action is Action.KEEP)


def _row(action: str, subject: str, reason: str, colour: str) -> str:
    """Three columns, the last one wrapped; a subject that is too long has a line of its own."""
    head = f"{action:<{ACTION_WIDTH}}{printable(subject)}"
    margin = ACTION_WIDTH + SUBJECT_WIDTH
    lines = _broken(printable(reason), WIDTH - margin)
    if len(head) >= margin:
        return "\n".join([click.style(head, fg=colour), *(" " * margin + text for text in lines)])
    first = click.style(f"{head:<{margin}}", fg=colour) + lines[0]
    return "\n".join([first, *(" " * margin + text for text in lines[1:])])


def _fields(fields: Iterable[FieldChange]) -> Iterator[str]:
    for field in fields:
        before, after = (printable(show_value(v, field.path)) for v in (field.before, field.after))
        yield _wrap(f"{printable(field.path)}: {before} → {after}", INDENT)


def _settings(settings: Sequence[FieldChange]) -> Iterator[str]:
    if settings:
        yield "settings that change in hub.yaml"
        yield from _fields(settings)


def _admission(review: Review) -> Iterator[str]:
    if not review.opinions:
        return
    clear = sum(is_clear(o) for o in review.opinions)
    yield f"admission: {clear} of {count(len(review.opinions), 'changed manifest')} allowed by all policies asked"
    for opinion in review.opinions:
        if not is_clear(opinion):
            head, base = say_admission(opinion)
            name = f"{opinion.manifest.kind}/{opinion.manifest.name}"
            why = printable(admission_reasons(opinion))
            yield _wrap(f"{name}: {head} by the head's policies, {base} by the base's: {why}", INDENT)


def _refusals(review: Review) -> Iterator[str]:
    for refusal in review.plan.refused:
        yield _wrap(click.style(f"refused by {refusal.guard}: ", fg="red") + printable(refusal.reason))
        if refusal.confirm:
            yield f"  if this is meant: reconciler apply --confirm {refusal.confirm}"


def _wrap(text: str, indent: str = "") -> str:
    further = f"{indent}  " if indent else ""
    return "\n".join(_broken(text, WIDTH, indent, further))


def _broken(text: str, width: int, indent: str = "", further: str = "") -> list[str]:
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=further, break_on_hyphens=False)
    return lines or [""]
