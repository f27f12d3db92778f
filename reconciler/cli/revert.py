"""`rollback --revert`: the commit that makes what was rolled back so in git, too; or the commands for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from reconciler.core.caller import Caller
from reconciler.core.rollback import Rollback
from reconciler.errors import SourceError, UsageError
from reconciler.home import data_folder
from reconciler.settings import OperatorSpec

ALL = (".",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The repository that the hub follows, and the branch; `path` is empty where only a mirror of it is here."""

    path: str
    branch: str


def revert(made: Rollback, caller: Caller, source: str, data: str | None, operator: OperatorSpec, *, err: bool) -> int:
    """Make the commit. Exit 1 where something is in the way, which is said, with the commands for a person.

    With `err` all is said on standard error.
    """
    from reconciler.source.revert import find_obstacle, make_revert, show_commands

    place = _find_place(source, data, operator)
    files, others = _files(made, place, operator)
    message = f"Revert {made.subject} to {made.to[:12]}{f': {made.reason}' if made.reason else ''}"
    try:
        why = others or _remote(place) or find_obstacle(place.path, place.branch, made.to, files)
        commit = make_revert(place.path, made.to, files, message, caller.name) if not why else ""
    except SourceError as exc:
        why, commit = f"{exc}", ""
    if why:
        click.echo(f"no revert commit was made: {why}", err=True)
        commands = show_commands(place.branch, made.to, files, message)
        by_hand = (f"  {command}" for command in (*commands, *(() if place.path else ("git push",))))
        click.echo("\n".join(("by hand:", *by_hand)), err=err)
        return 1
    said = f"reverted on {place.branch} by commit {commit[:12]}" if commit else "the files are so already; no commit"
    click.echo(f"{said}; push it where others should have it" if commit else said, err=err)
    return 0


def _find_place(source: str, data: str | None, operator: OperatorSpec) -> Place:
    from reconciler.audit.ledger import find_ledger
    from reconciler.store.store import FILE_NAME, Store

    state = data_folder(source, data)
    ledger = find_ledger(source, operator.source, state)
    if ledger.is_remote:
        return Place(path="", branch=ledger.followed)
    store = Store(state / FILE_NAME, read_only=True)
    try:
        return Place(path=ledger.repository, branch=store.get_meta("branch") or ledger.branch)
    finally:
        store.close()


def _remote(place: Place) -> str:
    return "" if place.path else "the hub follows a remote repository; commit in a clone of it, and push"


def _unknown_file(made: Rollback) -> Sequence[str]:
    """What stands in the commands for a person where the file is not known."""
    return (f"FILE-OF-{made.subject.replace('/', '-').upper()}",)


def _files(made: Rollback, place: Place, operator: OperatorSpec) -> tuple[Sequence[str], str]:
    """What the commit is about, and what else would change with it, in words; that is for a person to decide."""
    from reconciler.cli.revisions import Revisions

    below = operator.source.path
    if made.is_of_fleet:
        return (below,) if below else ALL, ""
    if not place.path or below:
        return _unknown_file(made), f"name the file of {made.subject} yourself"
    kind, _, name = made.subject.partition("/")
    with Revisions(place.path, operator, ask_policies=False) as revisions:
        loaded = {rev: revisions.load(revisions.named(rev)) for rev in ("HEAD", made.to)}
    if unfit := next((rev for rev, found in loaded.items() if found.desired is None), None):
        first = loaded[unfit].problems[0]
        where = "if the hub goes by an operator.yaml, name it with --operator"
        return _unknown_file(made), f"revision {unfit[:12]} is not valid here ({first}); {where}"
    now, older = (found.desired.of(kind) for found in loaded.values() if found.desired is not None)
    files = tuple(dict.fromkeys(d[name].file for d in (now, older) if name in d))
    beside = {n for d in (now, older) for n, m in d.items() if m.file in files and n != name}
    changed = sorted(n for n in beside if n not in now or n not in older or now[n].digest != older[n].digest)
    if not files:
        raise UsageError(f"{made.subject} is in no file of HEAD or {made.to[:12]}; nothing can be reverted")
    what = ", ".join(f"{kind}/{n}" for n in changed)
    return files, f"{', '.join(Path(f).name for f in files)} also holds {what}, which would change, too" if what else ""
