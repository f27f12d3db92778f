"""The librarian: do the links of the documentation lead somewhere, and what changed lately?

Operations: `links`, `changes`. Both read the workspace; a broken link is raised as a finding, and `changes` names the
reports that were announced lately.
"""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import normpath
from urllib.parse import unquote

from repository import Commit, WorkError, is_shallow, list_files, read_commits, read_git, read_text
from work import Result, Task, count, mailbox, perform, progress, raise_finding

MAX_FINDINGS_SENT = 20

_FENCE = re.compile(r"^\s{0,3}(`{3,}|~{3,})")
_CODE_SPAN = re.compile(r"(`+)(?:(?!`).)+?\1(?!`)")
_INLINE = re.compile(r"\]\(\s*(?:<([^>]*)>|([^\s()]*(?:\([^\s()]*\)[^\s()]*)*))(?:\s+[\"'(][^)]*)?\s*\)")
_DEFINITION = re.compile(r"^\s{0,3}\[[^\]]+\]:\s*<?(\S+?)>?(?:\s|$)")
_HEADING = re.compile(r"^\s{0,3}#{1,6}\s+(.*?)\s*#*\s*$")
_ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)[\"']", re.IGNORECASE)
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:|^//", re.IGNORECASE)
_ENTRY = re.compile(r"^[-*]\s+(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link as written, and the line that it is on."""

    file: str
    line: int
    target: str


def links(task: Task, *, under: Sequence[str] = ()) -> Result:
    """Relative links and anchors of the Markdown files, all or those at or below `under`."""
    paths = frozenset(list_files(task.workspace))
    folders = frozenset(str(parent) for p in paths for parent in PurePosixPath(p).parents)
    checked = [p for p in sorted(paths) if p.endswith(".md") and _is_under(p, under)]
    texts = {p: read_text(task.workspace, p) or "" for p in paths if p.endswith(".md")}
    anchors = {p: _anchors(text) for p, text in texts.items()}
    found = [link for p in checked for link in _links(p, texts[p])]
    local = [link for link in found if not _SCHEME.match(link.target)]
    progress(f"{count(len(local), 'link')} in {count(len(checked), 'Markdown file')}")
    broken = [(link, why) for link in local if (why := _why_broken(link, paths | folders, anchors))]
    return {
        "ok": not broken,
        "summary": f"{count(len(broken), 'broken link')} of {len(local)} in {count(len(checked), 'file')}",
        "figures": {"files": len(checked), "links": len(local), "broken": len(broken)},
        "broken": [
            {"file": link.file, "line": link.line, "target": link.target, "why": why} for link, why in broken[:200]
        ],
        "external": len(found) - len(local),
        "messages": [
            raise_finding(task, "link", link.file, link.line, f"{link.target}: {why}")
            for link, why in broken[:MAX_FINDINGS_SENT]
        ],
    }


def changes(task: Task, *, since: str = "", commits: int = 20, changelog: str = "CHANGELOG.md") -> Result:
    """What changed since `since`, else since the last tag, else in the last `commits` commits."""
    start = since or _last_tag(task)
    selection = f"{_commit_id(task, start)}..HEAD" if start else f"--max-count={commits}"
    history = read_commits(task.workspace, selection)
    progress(f"{count(len(history), 'commit')} since {start or 'the beginning of the window'}")
    areas: dict[str, list[Commit]] = defaultdict(list)
    for commit in history:
        for area in sorted({_area(file.path) for file in commit.files}):
            areas[area].append(commit)
    unreleased = _unreleased(task, changelog)
    with mailbox() as heard:
        reports = [m["payload"]["title"] for m in heard if m["type"] == "report.published"]
    touched = {file.path for commit in history for file in commit.files}
    return {
        "ok": True,
        "summary": f"{count(len(history), 'commit')} to {count(len(touched), 'file')} "
        + (f"since {start}" if start else "in the latest history"),
        "figures": {"commits": len(history), "files": len(touched), "unreleased": len(unreleased)},
        "since": start or None,
        "commits": [
            {
                "id": c.id[:12],
                "date": c.time.date().isoformat(),
                "author": c.author,
                "subject": c.subject,
            }
            for c in history[:200]
        ],
        "areas": [
            {"area": area, "commits": len(own), "latest": own[0].subject}
            for area, own in sorted(areas.items(), key=lambda item: (-len(item[1]), item[0]))
        ],
        "files": dict(Counter(file.path for c in history for file in c.files).most_common(50)),
        "unreleased": unreleased,
        "reports": reports,
        "changelog_touched": changelog in touched,
        "shallow": is_shallow(task.workspace),
    }


def _is_under(path: str, places: Sequence[str]) -> bool:
    return not places or any(path == p or path.startswith(p.rstrip("/") + "/") for p in places)


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """Lines outside fenced code, numbered from 1."""
    fence = ""
    for number, line in enumerate(text.splitlines(), start=1):
        match = _FENCE.match(line)
        if fence:
            if match and match[1].startswith(fence) and not line.strip(" `~"):
                fence = ""
        elif match:
            fence = match[1]
        else:
            yield number, line


def _links(path: str, text: str) -> Iterator[Link]:
    for number, line in _prose(text):
        plain = _CODE_SPAN.sub("``", line)
        targets = [m[1] or m[2] or "" for m in _INLINE.finditer(plain)]
        if definition := _DEFINITION.match(plain):
            targets.append(definition[1])
        for target in targets:
            yield Link(file=path, line=number, target=target)


def _anchors(text: str) -> frozenset[str]:
    """Anchors as GitHub makes them of headings (the second `name` is `name-1`), or set by hand."""
    seen: Counter[str] = Counter()
    out: set[str] = set()
    for _, line in _prose(text):
        out.update(_ANCHOR.findall(line))
        if heading := _HEADING.match(line):
            slug = _slug(heading[1])
            out.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return frozenset(out)


def _slug(heading: str) -> str:
    words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", words).replace(" ", "-")


def _why_broken(link: Link, existing: frozenset[str], anchors: dict[str, frozenset[str]]) -> str | None:
    place, _, anchor = link.target.partition("#")
    if not place and not anchor:
        return "the link is empty"
    path = link.file
    if place:
        base = "" if place.startswith("/") else str(PurePosixPath(link.file).parent)
        path = normpath(f"{base}/{unquote(place).lstrip('/')}".lstrip("/"))
    if path.startswith(".."):
        return "it leads out of the repository"
    if path not in existing:
        return f"there is no {path}"
    if anchor and path in anchors and unquote(anchor).lower() not in anchors[path]:
        return f"{path} has no heading #{anchor}"
    return None


def _last_tag(task: Task) -> str:
    try:
        return read_git(task.workspace, "describe", "--tags", "--abbrev=0", "HEAD").strip()
    except WorkError:
        return ""


def _commit_id(task: Task, name: str) -> str:
    """Raises WorkError where `name` names no commit; an option of git's never does."""
    try:
        named = ("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        return read_git(task.workspace, *named).split()[-1]
    except WorkError:
        raise WorkError(f"the input's 'since' is {name!r}, which names no commit here") from None


def _area(path: str) -> str:
    """The first two folders, or the first, or `.` for files at the top."""
    return "/".join(path.split("/")[:-1][:2]) or "."


def _unreleased(task: Task, changelog: str) -> list[str]:
    """The entries below the heading `Unreleased` of a changelog in the Keep-a-changelog form."""
    if changelog not in list_files(task.workspace):
        return []
    inside, out = False, list[str]()
    for _, line in _prose(read_text(task.workspace, changelog) or ""):
        if line.startswith("## "):
            inside = "unreleased" in line.lower()
        elif inside and (entry := _ENTRY.match(line)):
            out.append(entry[1])
    return out


if __name__ == "__main__":
    sys.exit(perform({"links": links, "changes": changes}))
