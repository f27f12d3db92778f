"""What stands where manifests do and looks like one, but is read by nobody: it would be missed without a word.

A tree and where in it manifests are come in; problems go out. What belongs to agents' programs may stand among the
manifests and below them.
"""

import re
from collections.abc import Iterator, Sequence

from reconciler.core.problem import Problem
from reconciler.core.yaml import MAX_BYTES
from reconciler.kinds.policy import spec as policy
from reconciler.kinds.schema import spec as schema
from reconciler.kinds.tree import SYMLINK_MODE, Tree
from reconciler.ports import Entry
from reconciler.settings import Paths

YAML = (".yaml", ".yml")
_MANIFEST = re.compile(rb"""^(?:apiVersion\s*:\s*["']?reconciler/|kind\s*:\s*["']?(?:Agent|Task)\b)""", re.MULTILINE)


def find_overlooked(tree: Tree, paths: Paths) -> list[Problem]:
    """Raises SourceError."""
    policies, messages = paths.policies, f"{paths.schemas}/messages"
    suffixes = {paths.agents: ".yaml", paths.tasks: ".yaml", policies: ".rego", messages: schema.SUFFIX}
    out: list[Problem] = []
    below: list[tuple[Entry, Problem]] = []
    for folder, suffix in suffixes.items():
        files = (policy.DATA_FILE,) if folder == policies else ()
        read = f"only {' and '.join((f'*{suffix}', *files))} directly in {folder}/ are"
        inner = tuple(f"{f}/" for f in (*suffixes, paths.inbox) if f.startswith(f"{folder}/"))
        for entry in tree.snapshot.entries(folder):
            name = entry.path[len(folder) + 1 :]
            if "/" not in name:
                out.extend(_beside(entry, name, suffix, files, read))
            elif _has_ending(name, suffix) and "/." not in f"/{name}" and not entry.path.startswith(inner):
                message = f"is not read: {read}; move it there, or out of {folder}/"
                below.append((entry, Problem(file=entry.path, message=message)))
    manifests = _find_manifests(tree, [e for e, _ in below if _has_ending(e.path, ".yaml")])
    return out + [p for e, p in below if e.path in manifests or not _has_ending(e.path, ".yaml")]


def _beside(entry: Entry, name: str, suffix: str, files: Sequence[str], read: str) -> Iterator[Problem]:
    """What stands directly in the folder."""
    if not name or name.startswith(".") or name.endswith(suffix) or name in files:
        return
    stem, dot, ending = name.rpartition(".")
    is_alike = _has_ending(name, suffix) or (suffix == schema.SUFFIX and ending == "json")
    if is_alike or (ending in ("yml", "json") and any(f.startswith(f"{stem}.") for f in files)):
        yield Problem(file=entry.path, message=f"is not read: {read}; rename it, or move it away")
    elif entry.mode == SYMLINK_MODE and not dot:
        yield Problem(file=entry.path, message="is a symbolic link, which is not followed; commit the files themselves")


def _has_ending(name: str, suffix: str) -> bool:
    """In small or capital letters; `.yml` is as good as `.yaml`."""
    return name.lower().endswith(YAML if suffix == ".yaml" else suffix)


def _find_manifests(tree: Tree, entries: Sequence[Entry]) -> set[str]:
    """Paths of the files that say what a manifest says at its beginning."""
    readable = [e for e in entries if e.mode != SYMLINK_MODE and e.size_bytes <= MAX_BYTES]
    said = {e.path: tree.cache.get(("is-manifest", "", e.blob)) for e in readable}
    contents = tree.snapshot.read([e for e in readable if said[e.path] is None])
    for entry in (e for e in readable if e.path in contents):
        said[entry.path] = _MANIFEST.search(contents[entry.path]) is not None
        tree.cache.put(("is-manifest", "", entry.blob), said[entry.path])
    return {path for path, is_manifest in said.items() if is_manifest}
