"""A review as a comment on a pull or merge request: a summary, a table, and the fields in a fold.

Everything quoted is written in entities, which mean nothing to Markdown: no link, no mention, no table is made of it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.cli.output import ACTION_SIGNS, show_value
from reconciler.cli.review.words import (
    admission_reasons,
    count,
    headline,
    printable,
    say_admission,
    summary,
)
from reconciler.core.change import FieldChange
from reconciler.loop.review import Review

MARKER = "<!-- reconciler-plan -->"
"""The first line, by which a workflow finds its earlier comment."""
LIMIT = 60_000
"""Characters. GitHub takes 65,536."""
LONGEST = 200
RESERVE = 100
"""Characters that each section may need to say how much of it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """One table; `frame` comes before its rows, `end` after them."""

    title: str
    frame: Sequence[str]
    rows: Sequence[str]
    end: Sequence[str] = ()


def write_markdown(review: Review) -> str:
    """At most `LIMIT` characters; what is left out is counted."""
    head = [
        MARKER,
        f"### Plan: {escape(summary(review))}",
        "",
        code(headline(review)),
        *(f"\n> {escape(note)}" for note in review.notes),
    ]
    sections = [
        _section("Problems", ("where", "what"), _problems(review)),
        _section("Refused", ("guard", "why"), _refusals(review)),
        _section("Changes", ("", "resource", "what", "why"), _changes(review)),
        _section("Admission", ("resource", "policies of the head", "of the base", "why"), _admission(review)),
        _section("Fields", ("resource", "field", "before", "after"), _fields(review), is_folded=True),
        _section("hub.yaml", ("field", "before", "after"), _settings(review.settings), is_folded=True),
    ]
    filled = [section for section in sections if section.rows]
    left = LIMIT - _size(head) - sum(_size([*s.frame, *s.end]) + RESERVE for s in filled)
    out = list(head)
    for section in filled:
        kept = _fitting(section.rows, left)
        left -= _size(kept)
        missing = len(section.rows) - len(kept)
        more = [f"\n{count(missing, 'more row')} of {section.title}: see the plan as text or JSON."] if missing else []
        out.extend([*section.frame, *kept, *more, *section.end])
    return "\n".join(out) + "\n"


def _section(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, is_folded: bool = False) -> _Section:
    written = [f"| {' | '.join(row)} |" for row in rows]
    table = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    if is_folded:
        fold = ["", f"<details><summary>{title} ({len(written)})</summary>", "", *table]
        return _Section(title=title, frame=fold, rows=written, end=["", "</details>"])
    return _Section(title=title, frame=["", f"#### {title}", "", *table], rows=written)


def _size(lines: Iterable[str]) -> int:
    return sum(len(line) + 1 for line in lines)


def _fitting(rows: Sequence[str], left: int) -> Sequence[str]:
    for number, row in enumerate(rows):
        left -= len(row) + 1
        if left < 0:
            return rows[:number]
    return rows


def _problems(review: Review) -> Iterator[Sequence[str]]:
    for problem in review.plan.problems:
        where = f"{problem.file}:{problem.line}:{problem.column}" if problem.line else problem.file
        yield code(where), escape(problem.message)


def _refusals(review: Review) -> Iterator[Sequence[str]]:
    for refusal in review.plan.refused:
        how = f"; if this is meant: {code(f'reconciler apply --confirm {refusal.confirm}')}" if refusal.confirm else ""
        yield escape(refusal.guard), escape(refusal.reason) + how


def _changes(review: Review) -> Iterator[Sequence[str]]:
    for move in review.moves:
        yield "→", code(f"{move.kind}/{move.before} → {move.kind}/{move.after}"), "move", escape(move.reason)
    for line in review.lines:
        sign, _colour = ACTION_SIGNS.get(str(line.action), ("→", ""))
        why = escape(line.reason) + (" **(interrupts work)**" if line.is_disruptive else "")
        yield escape(sign), code(line.subject), str(line.action), why


def _admission(review: Review) -> Iterator[Sequence[str]]:
    for opinion in review.opinions:
        head, base = say_admission(opinion)
        yield code(f"{opinion.manifest.kind}/{opinion.manifest.name}"), head, base, escape(admission_reasons(opinion))


def _fields(review: Review) -> Iterator[Sequence[str]]:
    for line in review.lines:
        for field in line.fields:
            yield code(line.subject), *_field(field)


def _settings(settings: Sequence[FieldChange]) -> Iterator[Sequence[str]]:
    return (_field(field) for field in settings)


def _field(field: FieldChange) -> tuple[str, str, str]:
    before, after = (code(show_value(v, field.path, LONGEST)) for v in (field.before, field.after))
    return code(field.path), before, after


def code(text: object) -> str:
    """Quoted as code, where nobody is mentioned either."""
    return f"<code>{escape(text)}</code>"


def escape(text: object) -> str:
    """Text that is nothing but text; an `@` or `#` calls nobody."""
    cut = printable(text)[: LONGEST * 3]
    return "".join(_entity(c) for c in cut)


def _entity(character: str) -> str:
    if character.isalnum() or character in " -,;()→…�±" or ord(character) > 127:
        return character
    return f"&#{ord(character)};" + ("\u200b" if character in "@#" else "")
