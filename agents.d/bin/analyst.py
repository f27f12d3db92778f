"""The analyst: how large the repository is, what changes most in it, and who works on it when.

Operations: `size`, `churn`, `activity`. All read the workspace only; `churn` may ask the reviewer
for a look.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from repository import Commit, is_shallow, list_files, read_commits, read_text
from work import Result, Task, count, perform, progress, send

_BY_NAME = {"Makefile": ("Make", "#"), "Dockerfile": ("Dockerfile", "#")}
_BY_SUFFIX = {
    ".py": ("Python", "#"),
    ".rego": ("Rego", "#"),
    ".yaml": ("YAML", "#"),
    ".yml": ("YAML", "#"),
    ".toml": ("TOML", "#"),
    ".sh": ("Shell", "#"),
    ".json": ("JSON", None),
    ".md": ("Markdown", None),
    ".html": ("HTML", None),
    ".css": ("CSS", None),
    ".js": ("JavaScript", "//"),
    ".ts": ("TypeScript", "//"),
    ".go": ("Go", "//"),
    ".rs": ("Rust", "//"),
    ".c": ("C", "//"),
    ".sql": ("SQL", "--"),
}
_OTHER = ("Other", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSize:
    """Lines of one file; `comment` counts lines that hold nothing but a line comment."""

    path: str
    language: str
    lines: int
    blank: int
    comment: int


def size(task: Task, *, top: int = 10) -> Result:
    """Lines by language, and the `top` largest files. Binary files are counted, not read."""
    paths = list_files(task.workspace)
    progress(f"reading {count(len(paths), 'file')}")
    files = [f for path in paths if (f := _measure(task, path))]
    by_language: dict[str, list[FileSize]] = defaultdict(list)
    for file in files:
        by_language[file.language].append(file)
    sums = {name: _sum(members) for name, members in by_language.items()}
    languages = sorted(sums, key=lambda name: (-sums[name]["lines"], name))
    total = _sum(files)
    largest = sorted(files, key=lambda f: (-f.lines, f.path))[:top]
    return {
        "ok": True,
        "summary": f"{count(total['lines'], 'line')} in {count(len(files), 'text file')}",
        "figures": {"files": len(files), "lines": total["lines"], "code": total["code"]},
        "languages": [{"name": name, **sums[name]} for name in languages],
        "total": total,
        "largest": [{"path": f.path, "language": f.language, "lines": f.lines} for f in largest],
        "not_text": len(paths) - len(files),
    }


def churn(task: Task, *, top: int = 20, since: str = "", review: int = 0) -> Result:
    """The `top` files with the most commits since `since`, a date as git reads it.

    Asks the reviewer for a look at the first `review` of them that still exist.
    """
    commits = read_commits(task.workspace, *([f"--since={since}"] if since else []))
    progress(f"read {count(len(commits), 'commit')}")
    present = frozenset(list_files(task.workspace))
    rows = _churn_rows(commits, present)
    hottest = [str(row["path"]) for row in rows if row["exists"]][:review]
    messages = []
    if hottest:
        payload: Result = {"task": task.name, "paths": hottest, "reason": "changed most often"}
        messages.append(send("review.request", payload, to="reviewer"))
    return {
        "ok": True,
        "summary": f"{count(len(rows), 'file')} changed in {count(len(commits), 'commit')}"
        + (f", most often {rows[0]['path']}" if rows else ""),
        "figures": {"commits": len(commits), "files": len(rows)},
        "files": rows[:top],
        "folders": _folder_rows(commits),
        "shallow": is_shallow(task.workspace),
        "messages": messages,
    }


def activity(task: Task, *, weeks: int = 26) -> Result:
    """Commits and authors per ISO week in UTC, up to `weeks` before the newest commit."""
    commits = read_commits(task.workspace)
    progress(f"read {count(len(commits), 'commit')}")
    authors = _author_rows(commits)
    return {
        "ok": True,
        "summary": f"{count(len(commits), 'commit')} by {count(len(authors), 'author')}",
        "figures": {"commits": len(commits), "authors": len(authors)},
        "weeks": _week_rows(commits, weeks),
        "authors": authors,
        "first": min(c.time for c in commits).isoformat() if commits else None,
        "last": max(c.time for c in commits).isoformat() if commits else None,
        "shallow": is_shallow(task.workspace),
    }


def _measure(task: Task, path: str) -> FileSize | None:
    text = read_text(task.workspace, path)
    if text is None:
        return None
    name = PurePosixPath(path)
    language, comment = _BY_NAME.get(name.name) or _BY_SUFFIX.get(name.suffix.lower()) or _OTHER
    lines = [line.strip() for line in text.splitlines()]
    return FileSize(
        path=path,
        language=language,
        lines=len(lines),
        blank=lines.count(""),
        comment=sum(line.startswith(comment) for line in lines) if comment else 0,
    )


def _sum(files: Iterable[FileSize]) -> dict[str, int]:
    rows = list(files)
    lines, blank, comment = (sum(getattr(f, key) for f in rows) for key in ("lines", "blank", "comment"))
    code = lines - blank - comment
    return {"files": len(rows), "lines": lines, "code": code, "comment": comment, "blank": blank}


def _churn_rows(commits: Iterable[Commit], present: frozenset[str]) -> list[Result]:
    touched: dict[str, list[tuple[Commit, int, int]]] = defaultdict(list)
    for commit in commits:
        for file in commit.files:
            touched[file.path].append((commit, file.added, file.deleted))
    ordered = sorted(touched.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "path": path,
            "commits": len(changes),
            "authors": len({commit.author for commit, _, _ in changes}),
            "added": sum(added for _, added, _ in changes),
            "deleted": sum(deleted for _, _, deleted in changes),
            "last": max(commit.time for commit, _, _ in changes).isoformat(),
            "exists": path in present,
        }
        for path, changes in ordered
    ]


def _folder_rows(commits: Iterable[Commit]) -> list[Result]:
    seen: Counter[str] = Counter()
    for commit in commits:
        seen.update({file.path.partition("/")[0] for file in commit.files if "/" in file.path})
    return [{"folder": folder, "commits": times} for folder, times in seen.most_common(20)]


def _author_rows(commits: Iterable[Commit]) -> list[Result]:
    by_author: dict[str, list[Commit]] = defaultdict(list)
    for commit in commits:
        by_author[commit.author].append(commit)
    ordered = sorted(by_author.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        {
            "name": name,
            "commits": len(own),
            "added": sum(file.added for commit in own for file in commit.files),
            "deleted": sum(file.deleted for commit in own for file in commit.files),
            "first": min(commit.time for commit in own).date().isoformat(),
            "last": max(commit.time for commit in own).date().isoformat(),
        }
        for name, own in ordered[:100]
    ]


def _week_rows(commits: tuple[Commit, ...], weeks: int) -> list[Result]:
    if not commits:
        return []
    by_week: dict[str, list[Commit]] = defaultdict(list)
    for commit in commits:
        by_week[_week(commit.time)].append(commit)
    newest, oldest = max(c.time for c in commits), min(c.time for c in commits)
    shown = min(weeks, (newest.date() - oldest.date()).days // 7 + 2)
    names = [_week(newest - timedelta(weeks=back)) for back in reversed(range(shown))]
    if names and names[0] < _week(oldest):
        names = names[1:]
    return [
        {
            "week": name,
            "commits": len(by_week[name]),
            "authors": len({c.author for c in by_week[name]}),
        }
        for name in names
    ]


def _week(time: datetime) -> str:
    year, week, _ = time.isocalendar()
    return f"{year:04}-W{week:02}"


if __name__ == "__main__":
    sys.exit(perform({"size": size, "churn": churn, "activity": activity}))
