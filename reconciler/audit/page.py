"""A report as one HTML page: nothing is loaded from anywhere, no script runs, and it prints well. Pure."""

from collections.abc import Iterable, Sequence
from html import escape

from reconciler.audit.report import ContainerLine, Report, RevisionLine, people
from reconciler.store.audit import ChainedEntry

MOST_ROWS = 5000
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1b1f24; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.meta, td.quiet, .none { color: #57606a; }
table { border-collapse: collapse; width: 100%; } thead { display: table-header-group; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid #d0d7de; padding: .3rem .6rem .3rem 0; }
td { vertical-align: top; border-bottom: 1px solid #eaeef2; padding: .3rem .6rem .3rem 0; overflow-wrap: anywhere; }
code, pre { font: 12px/1.4 ui-monospace, monospace; }
pre { white-space: pre-wrap; background: #f6f8fa; padding: .6rem; }
.fault { color: #b42318; font-weight: 600; } .proven { color: #1a7f37; } .unchecked { color: #9a6700; }
tr { break-inside: avoid; } h2 { break-after: avoid; }
@media print { body { font-size: 10pt; margin: 0; max-width: none; } a { color: inherit; text-decoration: none; } }
@page { margin: 1.5cm; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def show_page(report: Report) -> str:
    """The whole page. Everything that came from outside is escaped."""
    title = f"Audit report of fleet {report.fleet}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="meta">{escape(report.period)} · {report.rows} rows of the log · made {escape(report.made_at)}</p>',
        _section("Can the log be trusted?", _verdict(report)),
        _section("Who changed what", _revisions(report.revisions)),
        _section("What the hub did", _rows(report.done)),
        _section("Every container that ran", _containers(report.containers)),
        "<h2>Exceptions</h2>",
        *(_exception(name, rows) for name, rows in report.exceptions.items()),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}"


def _verdict(report: Report) -> str:
    verdict = report.verdict
    lines = [
        *(("fault", fault.message) for fault in verdict.faults),
        *(("proven", text) for text in verdict.proven),
        *(("unchecked", text) for text in verdict.unchecked),
    ]
    head = "It cannot: see the faults." if verdict.faults else "Nothing that was looked at disagrees with it."
    items = "".join(f'<li><span class="{kind}">{kind}</span> {escape(text)}</li>' for kind, text in lines)
    return f"<p>{head} It is {escape(verdict.anchored)}.</p>\n<ul>{items}</ul>"


def _revisions(lines: Sequence[RevisionLine]) -> str:
    rows = (
        (
            _time(line.row),
            f"<code>{escape(_short(line.row.entry.name))}</code>",
            "<br>".join(escape(who) for who in people(line)),
            escape(line.commit.revision.subject if line.commit else ""),
            escape(_came_out(line)),
            escape(line.row.entry.reason),
            _seq(line.row),
        )
        for line in lines
    )
    return _table(("In force from", "Revision", "Who", "Subject", "Came out", "History", "Row"), rows)


def _came_out(line: RevisionLine) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(line.outcomes.items()))
    return f"{line.note.outcome}; {counts or 'no changes'}" if line.note else counts or "no changes"


def _rows(rows: Sequence[ChainedEntry]) -> str:
    shown = (
        (
            _time(row),
            f"<code>{escape(_short(row.entry.revision))}</code>",
            escape(f"{row.entry.kind}/{row.entry.name}"),
            escape(row.entry.action),
            escape(f"{row.entry.cause} · {row.entry.actor}"),
            escape(row.entry.outcome),
            escape(row.entry.reason),
            _seq(row),
        )
        for row in rows[:MOST_ROWS]
    )
    head = ("Time", "Revision", "What", "Action", "Why · who", "Outcome", "Reason", "Row")
    return _table(head, shown) + _left_out(len(rows))


def _containers(lines: Sequence[ContainerLine]) -> str:
    rows = (
        (
            escape(line.name),
            f"<code>{escape(line.id[:12])}</code>" if line.id else "",
            _time(line.made),
            f"<code>{escape(_short(line.made.entry.revision))}</code>",
            escape(f"{line.made.entry.action}: {line.made.entry.reason}"),
            _time(line.ended) if line.ended else "runs",
            escape(f"{line.ended.entry.cause}: {line.ended.entry.reason}") if line.ended else "",
            _seq(line.made) + (f", {_seq(line.ended)}" if line.ended else ""),
        )
        for line in lines[:MOST_ROWS]
    )
    head = ("Container", "Id", "Made", "Revision", "Because", "Ended", "Because", "Rows")
    return _table(head, rows) + _left_out(len(lines))


def _exception(title: str, rows: Sequence[ChainedEntry]) -> str:
    if not rows:
        return f'<h3>{escape(title)}</h3>\n<p class="none">none</p>'
    manifests = "".join(
        f"<h4>{escape(row.entry.name)}, {_seq(row)}</h4>\n<pre>{escape(row.entry.after)}</pre>"
        for row in rows[:MOST_ROWS]
        if row.entry.cause in ("inbox", "api") and row.entry.after
    )
    return f"<h3>{escape(title)}</h3>\n{_rows(rows)}{manifests}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Of cells that are HTML already."""
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    if not body:
        return '<p class="none">none</p>'
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _left_out(count: int) -> str:
    more = count - MOST_ROWS
    return f'<p class="none">and {more} more; audit export has all of them</p>' if more > 0 else ""


def _time(row: ChainedEntry) -> str:
    return escape(row.entry.time[:19].replace("T", " "))


def _seq(row: ChainedEntry) -> str:
    return f"#{row.seq}"


def _short(revision: str) -> str:
    return revision[:21] if ":" in revision else revision[:12]
