"""What is kept of an instance that is isolated: why, its container, the end of its output, its last messages.

In `evidence/<instance>/<time>/` of the data directory, for the hub's user only, bounded, and without the values of
the secrets that it had.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from reconciler.core.reading import Ok, Unavailable
from reconciler.errors import ReconcilerError
from reconciler.kinds.kind import World
from reconciler.ports import ContainerSummary
from reconciler.store.records import InstanceRecord

LOG_LINES = 1000
LOG_BYTES = 256 * 1024
MESSAGES = 50
KEPT = 3
"""How many pieces of evidence are kept of one instance; the oldest goes first."""
_SHORTEST = 4
_HIDDEN = "[secret]"


def keep_evidence(world: World, record: InstanceRecord, container: ContainerSummary | None, reason: str) -> Path:
    """Write it, and return where. What cannot be read is said in its place. Raises OSError."""
    of_it = world.state / "evidence" / record.name
    folder = of_it / world.clock.now().strftime("%Y%m%dT%H%M%S%fZ")
    hide = _Veil(world.run / "secrets" / record.name)
    for parent in (of_it.parent, of_it, folder):
        parent.mkdir(mode=0o700, exist_ok=True)
    why = {
        "instance": record.name,
        "reason": reason,
        "time": world.clock.now().isoformat(),
        "revision": record.revision,
        "spec_digest": record.spec_digest,
        "image_id": record.image_id,
        "crashes": record.crashes,
    }
    _write(folder / "reason.json", hide(_json(why)))
    _write(folder / "container.json", hide(_json(_inspect(world, record.name))))
    _write(folder / "output.txt", hide(_read_output(world, container))[-LOG_BYTES:])
    _write(folder / "messages.json", hide(_json(_last_messages(world, record.name))))
    for old in sorted(p for p in of_it.iterdir())[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


class _Veil:
    """Hides what stands in the files of a directory, as a whole and line by line."""

    def __init__(self, folder: Path) -> None:
        hidden: set[str] = set()
        for path in folder.iterdir() if folder.is_dir() else ():
            text = path.read_bytes().decode(errors="replace").strip()
            hidden.update({text, *(line.strip() for line in text.splitlines())} - {""})
        self._hidden = sorted((h for h in hidden if len(h) >= _SHORTEST), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self._hidden:
            text = text.replace(value, _HIDDEN).replace(json.dumps(value)[1:-1], _HIDDEN)
        return text


def _inspect(world: World, name: str) -> object:
    found = world.runtime.inspect(name)
    if isinstance(found, Ok):
        return asdict(found.value)
    return {"unreadable": found.reason if isinstance(found, Unavailable) else "there is no container"}


def _read_output(world: World, container: ContainerSummary | None) -> str:
    if container is None:
        return "there is no container\n"
    try:
        return world.runtime.logs(container.id, LOG_LINES)
    except ReconcilerError as exc:
        return f"the output could not be read: {exc}\n"


def _last_messages(world: World, name: str) -> object:
    try:
        found: Sequence[object] = world.last_messages(name, MESSAGES)
    except ReconcilerError as exc:
        return {"unreadable": str(exc)}
    return list(found)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True, default=str) + "\n"


def _write(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
