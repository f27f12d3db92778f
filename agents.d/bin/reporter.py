"""The reporter: one Markdown report of what other tasks found.

Operation: `report`. It reads the results of the tasks that this one depends on, and the findings that agents raised
meanwhile, writes `report.md` to HUB_OUTPUT, and announces it on the topic `report.published`. Which files are both
large and often changed shows only when several results lie side by side: it has the reviewer look into these.
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repository import WorkError
from work import Result, Task, count, delegate, mailbox, perform, progress, send


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Which list of a result the report shows, and which keys of its rows as columns."""

    title: str
    key: str
    columns: tuple[str, ...]


TABLES = {
    "size": (Table(title="Languages", key="languages", columns=("name", "files", "lines", "code")),),
    "churn": (
        Table(
            title="Changed most",
            key="files",
            columns=("path", "commits", "authors", "added", "deleted"),
        ),
    ),
    "activity": (
        Table(title="Weeks", key="weeks", columns=("week", "commits", "authors")),
        Table(title="Authors", key="authors", columns=("name", "commits", "first", "last")),
    ),
    "schemas": (Table(title="Misfits", key="problems", columns=("file", "line", "pointer", "message")),),
    "layers": (Table(title="Against the layers", key="violations", columns=("importer", "imported", "rule")),),
    "long": (Table(title="Longest functions", key="functions", columns=("name", "path", "lines")),),
    "todo": (Table(title="Open ends", key="found", columns=("path", "line", "marker", "text")),),
    "links": (Table(title="Broken links", key="broken", columns=("file", "line", "target", "why")),),
    "changes": (Table(title="Areas", key="areas", columns=("area", "commits", "latest")),),
    "dependencies": (Table(title="Packages", key="packages", columns=("name", "version", "direct")),),
    "secrets": (Table(title="Looks like a key", key="found", columns=("path", "line", "rule", "fingerprint")),),
}


def report(task: Task, *, title: str = "Repository report", rows: int = 10, review: int = 0) -> Result:
    """Combine the parents' results; each table shows at most `rows` rows.

    Delegates to the reviewer a look into the first `review` hotspots.
    """
    results = {name: value for name, value in task.parents.items() if isinstance(value, dict) and "do" in value}
    if not results:
        raise WorkError("there is nothing to combine: no task in dependsOn left a result of this fleet")
    progress(f"combining {count(len(results), 'result')}")
    hotspots = _hotspots(results.values())
    looked_into = [str(h["path"]) for h in hotspots if str(h["path"]).endswith(".py")][:review]
    reviewed = _have_reviewed(task, looked_into, rows) if looked_into else None
    with mailbox() as heard:
        findings = [_to_finding(m) for m in heard if m["type"] == "finding.raised"]
        text = "\n".join(_lines(title, results, hotspots, reviewed, findings, rows)) + "\n"
        task.output.mkdir(parents=True, exist_ok=True)
        (task.output / "report.md").write_text(text, encoding="utf-8")
    attention = [f"{name}: {_text(r.get('summary'))}" for name, r in results.items() if r.get("ok") is False]
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    payload: Result = {
        "task": task.name,
        "title": title,
        "sha256": sha256,
        "sections": list(results),
    }
    return {
        "ok": not attention,
        "summary": f"{count(len(results), 'section')}, {len(attention)} of them need attention"
        + (f"; {count(len(findings), 'finding')} heard of from {_senders(findings)}" if findings else ""),
        "figures": {f"{name}.{key}": number for name, key, number in _figures(results)},
        "title": title,
        "sections": [
            {
                "task": name,
                "do": r["do"],
                "ok": r.get("ok") is not False,
                "summary": _text(r.get("summary")),
            }
            for name, r in results.items()
        ],
        "hotspots": hotspots,
        **({"reviewed": reviewed} if reviewed is not None else {}),
        "findings": findings,
        "attention": attention,
        "left_out": sorted(task.parents.keys() - results.keys()),
        "artefacts": [{"name": "report.md", "sha256": sha256, "size": len(text.encode())}],
        "messages": [send("report.published", payload, topic="report.published")],
    }


def _have_reviewed(task: Task, paths: list[str], top: int) -> Result:
    """What the reviewer found in these files, or why it did not."""
    prompt = f"Which functions of these {count(len(paths), 'file')} are the longest?"
    answer = delegate(task, "reviewer", prompt, {"do": "long", "paths": paths, "top": top})
    result = answer.get("result")
    return {
        "by": "reviewer",
        "task": str(answer.get("task", "")),
        "paths": paths,
        "ok": answer.get("ok") is True,
        "summary": _text(result.get("summary")) if isinstance(result, dict) else "",
        "reason": str(answer.get("reason") or answer.get("error") or ""),
        "functions": [{"name": f["name"], "path": f["path"], "lines": f["lines"]} for f in _rows(result, "functions")],
    }


def _to_finding(message: Mapping[str, Any]) -> Result:
    payload = message["payload"]
    return {"by": message["from"], **{key: payload[key] for key in ("task", "rule", "path", "line", "message")}}


def _senders(findings: Sequence[Result]) -> str:
    return ", ".join(sorted({str(f["by"]).partition("/")[0] for f in findings}))


def _hotspots(results: Any) -> list[Result]:
    """Source files both large and often changed, by commits times lines."""
    by_operation = {r["do"]: r for r in results}
    largest = _rows(by_operation.get("size"), "largest")
    lines = {row["path"]: row["lines"] for row in largest if row.get("language") != "Other"}
    both = [row for row in _rows(by_operation.get("churn"), "files") if row["path"] in lines]
    scored: list[tuple[int, Result]] = [
        (
            row["commits"] * lines[row["path"]],
            {"path": row["path"], "commits": row["commits"], "lines": lines[row["path"]]},
        )
        for row in both
    ]
    scored.sort(key=lambda item: (-item[0], str(item[1]["path"])))
    return [row for _, row in scored]


def _lines(
    title: str,
    results: Mapping[str, Any],
    hotspots: Sequence[Mapping[str, Any]],
    reviewed: Result | None,
    findings: Sequence[Mapping[str, Any]],
    rows: int,
) -> Iterator[str]:
    revisions = sorted({str(r["revision"])[:12] for r in results.values() if r.get("revision")})
    yield f"# {_text(title)}"
    yield ""
    yield f"Revision {', '.join(revisions) or 'unknown'}."
    yield ""
    overview = [
        {
            "task": name,
            "verdict": "needs attention" if r.get("ok") is False else "ok",
            "summary": r.get("summary"),
        }
        for name, r in results.items()
    ]
    yield from _table(("task", "verdict", "summary"), overview)
    if hotspots:
        yield from (
            "",
            "## Hotspots",
            "",
            "Large files that change often: the first place to simplify.",
            "",
        )
        yield from _table(("path", "commits", "lines"), hotspots[:rows])
    if reviewed is not None:
        yield from (
            "",
            "### What is long in them",
            "",
            f"As {reviewed['by']} found, who was asked for this report.",
            "",
        )
        if reviewed["ok"]:
            yield from _table(("name", "path", "lines"), _rows(reviewed, "functions")[:rows])
        else:
            yield f"Not known: {_text(reviewed['reason'])}"
    if findings:
        yield from ("", "## Findings", "", "What agents told while they worked.", "")
        yield from _table(("path", "line", "rule", "message", "by"), findings)
    for name, result in results.items():
        yield from ("", f"## {_text(name)}", "", _text(result.get("summary")))
        for table in TABLES.get(str(result["do"]), ()):
            shown = _rows(result, table.key)
            if shown:
                yield from ("", f"### {table.title}", "")
                yield from _table(table.columns, shown[:rows])
            if len(shown) > rows:
                yield from ("", f"and {len(shown) - rows} more.")


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(_text(row.get(column)) for column in columns) + " |"


def _rows(result: Any, key: str) -> list[dict[str, Any]]:
    found = result.get(key) if isinstance(result, dict) else None
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []


def _figures(results: Mapping[str, Any]) -> Iterator[tuple[str, str, int | float]]:
    for name, result in results.items():
        figures = result.get("figures")
        for key, number in figures.items() if isinstance(figures, dict) else ():
            if isinstance(number, int | float):
                yield name, key, number


def _text(value: object) -> str:
    """One line that means nothing to Markdown."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    line = " ".join(str(value).split())
    return "".join("\\" + c if c in "\\`*_[]<>|#" else c for c in line)


if __name__ == "__main__":
    sys.exit(perform({"report": report}))
