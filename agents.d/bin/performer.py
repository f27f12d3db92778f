"""The performer: what the project depends on, and whether a key was left in the tree.

Operations: `dependencies`, `secrets`. Both read the files of the workspace only. A secret is never
repeated in a result or a message: a fingerprint says which one it is.
"""

import hashlib
import math
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from repository import WorkError, list_files, read_text
from work import Result, Task, count, perform, progress, send

_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*==\s*([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$")
_HASH = re.compile(r"--hash=(sha(?:256|384|512):[0-9a-f]+)")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*([^;]*)")
_CLAUSE = re.compile(r"(==|!=|<=|>=|~=|<|>)\s*([0-9][0-9.]*)(?:\.\*)?$")

_KEYS = {
    "aws-access-key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "anthropic-key": re.compile(r"\bsk-ant-[A-Za-z0-9_-]{20,}"),
    "openai-key": re.compile(r"\bsk-(?!ant-)(?:proj-)?[A-Za-z0-9_-]{32,}"),
    "github-token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})"),
    "gitlab-token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "google-key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b"),
    "slack-token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{20,}"),
    "private-key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "json-web-token": re.compile(r"\beyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
}
_ASSIGNED = re.compile(
    r"(?:password|passwd|secret|token|api[_-]?key|access[_-]?key)[\"']?\s*[:=]\s*[\"']([^\s\"']{16,})[\"']",
    re.IGNORECASE,
)
_DIGEST = re.compile(r"(?:sha\d+[:-])?[0-9a-fA-F]{32,128}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MIN_ENTROPY_BITS = 3.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One pinned package. `via` names who asked for it; `name` is normalised as in PEP 503."""

    name: str
    version: str
    hashes: int
    marker: str
    via: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Where something looks like a key. `fingerprint` is 12 hex digits of its SHA-256."""

    path: str
    line: int
    rule: str
    fingerprint: str


def dependencies(
    task: Task,
    *,
    lock: str = ".ci/requirements.lock",
    settings: str = "pyproject.toml",
    extras: Sequence[str] = (),
) -> Result:
    """The packages of a lock file in pip's hash format, and where it does not fit `settings`.

    `extras` names the optional dependencies that the lock file is meant to hold as well.
    """
    paths = list_files(task.workspace)
    problems = [] if lock in paths else [f"there is no {lock}"]
    text = read_text(task.workspace, lock) if lock in paths else ""
    packages = list(_packages(text or ""))
    progress(f"{count(len(packages), 'pinned package')}")
    wanted = _wanted(task, settings, extras) if settings in paths else {}
    if lock in paths:
        problems += _lock_problems(text or "", packages, wanted)
    direct = [p for p in packages if p.name in wanted]
    return {
        "ok": not problems,
        "summary": f"{count(len(packages), 'package')}, {len(direct)} of them asked for directly, "
        f"{count(len(problems), 'problem')}",
        "figures": {"packages": len(packages), "direct": len(direct), "problems": len(problems)},
        "lock": lock,
        "packages": [
            {"name": p.name, "version": p.version, "direct": p.name in wanted, "hashes": p.hashes}
            | {"marker": p.marker or None, "via": list(p.via)}
            for p in packages
        ],
        "problems": problems,
    }


def secrets(task: Task, *, allow: Sequence[str] = ()) -> Result:
    """What looks like a key; in files that match an `allow` pattern it is counted, not reported."""
    paths = list_files(task.workspace)
    progress(f"looking for keys in {count(len(paths), 'file')}")
    found = [s for path in paths for s in _secrets(path, read_text(task.workspace, path) or "")]
    open_ones = [s for s in found if not any(fnmatchcase(s.path, pattern) for pattern in allow)]
    messages = []
    if open_ones:
        evidence = [{"path": s.path, "line": s.line, "rule": s.rule} for s in open_ones[:20]]
        summary = f"{count(len(open_ones), 'key')} in the tree"
        alert: Result = {
            "severity": "high",
            "summary": summary,
            "task": task.name,
            "evidence": evidence,
        }
        messages.append(send("security.alert", alert, to="hub"))
    return {
        "ok": not open_ones,
        "summary": f"{count(len(open_ones), 'apparent key')} in {count(len(paths), 'file')}",
        "figures": {
            "files": len(paths),
            "found": len(open_ones),
            "allowed": len(found) - len(open_ones),
        },
        "found": [
            {"path": s.path, "line": s.line, "rule": s.rule, "fingerprint": s.fingerprint} for s in open_ones[:200]
        ],
        "messages": messages,
    }


def _packages(lock: str) -> Iterator[Package]:
    """Each is a line `name==version`, then hashes, then comments that say who asked for it."""
    starts: list[tuple[re.Match[str], list[str]]] = []
    for line in lock.splitlines():
        if match := _PINNED.match(line.rstrip()):
            starts.append((match, []))
        elif starts:
            starts[-1][1].append(line)
    for match, rest in starts:
        comments = [line.strip(" #").removeprefix("via").strip() for line in rest if line.lstrip().startswith("#")]
        yield Package(
            name=_normalise(match[1]),
            version=match[2],
            hashes=len(_HASH.findall("\n".join(rest))),
            marker=match[3] or "",
            via=tuple(comment for comment in comments if comment),
        )


def _wanted(task: Task, settings: str, extras: Sequence[str]) -> dict[str, str]:
    """Version clauses by package, from the project's dependencies and the `extras` of its own."""
    try:
        project = tomllib.loads(read_text(task.workspace, settings) or "").get("project", {})
    except tomllib.TOMLDecodeError as exc:
        raise WorkError(f"{settings} is not TOML: {exc}") from exc
    optional = project.get("optional-dependencies", {})
    lists = [project.get("dependencies", []), *(optional.get(extra, []) for extra in extras)]
    matches = [m for requirements in lists for r in requirements if (m := _REQUIREMENT.match(r))]
    return {_normalise(m[1]): m[2].strip() for m in reversed(matches)}


def _lock_problems(lock: str, packages: Sequence[Package], wanted: dict[str, str]) -> list[str]:
    pinned = {p.name: p.version for p in packages}
    loose = [line.strip() for line in lock.splitlines() if line[:1].isalnum() and not _PINNED.match(line.rstrip())]
    return [
        *(f"{line[:100]!r} is not pinned with ==" for line in loose),
        *(f"{p.name} has no hash" for p in packages if not p.hashes),
        *(f"{name} is asked for, but not in the lock" for name in sorted(wanted.keys() - pinned.keys())),
        *(
            f"{name} is locked at {pinned[name]}, but {clauses} is asked for"
            for name, clauses in sorted(wanted.items())
            if name in pinned and not _satisfies(pinned[name], clauses)
        ),
    ]


def _satisfies(version: str, clauses: str) -> bool:
    """Whether a version meets all clauses; a clause that is not about numbers counts as met."""
    have = _numbers(version)
    for clause in clauses.split(","):
        match = _CLAUSE.match(clause.strip())
        if not match or not have:
            continue
        sign, want = match[1], _numbers(match[2])
        width = max(len(have), len(want))
        left, right = (v + (0,) * (width - len(v)) for v in (have, want))
        prefix = have[: len(want) - 1] == want[:-1]
        met = {
            "==": left == right or (clause.strip().endswith(".*") and have[: len(want)] == want),
            "!=": left != right,
            "<=": left <= right,
            ">=": left >= right,
            "<": left < right,
            ">": left > right,
            "~=": left >= right and prefix,
        }
        if not met[sign]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _secrets(path: str, text: str) -> Iterator[Secret]:
    for number, line in enumerate(text.splitlines(), start=1):
        seen = [(rule, m[0]) for rule, pattern in _KEYS.items() for m in pattern.finditer(line)]
        if not seen:
            seen = [("assigned", m[1]) for m in _ASSIGNED.finditer(line) if _looks_random(m[1])]
        for rule, value in seen:
            fingerprint = hashlib.sha256(value.encode()).hexdigest()[:12]
            yield Secret(path=path, line=number, rule=rule, fingerprint=fingerprint)


def _looks_random(value: str) -> bool:
    """Entropy of its letters, and neither a digest nor a placeholder nor words joined by signs."""
    if _DIGEST.fullmatch(value) or re.search(r"[{}<>$%*]|\.\.\.|example", value, re.IGNORECASE):
        return False
    if not re.search(r"\d", value) or not re.search(r"[A-Za-z]", value):
        return False
    shares = [times / len(value) for times in Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares) >= MIN_ENTROPY_BITS


if __name__ == "__main__":
    sys.exit(perform({"dependencies": dependencies, "secrets": secrets}))
