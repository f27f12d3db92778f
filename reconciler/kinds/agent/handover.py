"""Agents under another name: the workspaces of the old name's instances go to those of the new one. Pure.

An agent has moved where all of one name goes and all of another comes with the same digest, and no third has it. The
new instance waits until the old one is gone, since two of them must not work on the same files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from reconciler.core.change import Action, Change
from reconciler.core.move import find_moves
from reconciler.core.names import instance_name
from reconciler.core.plan import is_addition, is_removal
from reconciler.kinds.agent.spec import AgentSpec
from reconciler.kinds.kind import LOOK_S
from reconciler.kinds.manifest import Manifest


def hand_over(changes: Sequence[Change], manifests: Mapping[str, Manifest[AgentSpec]]) -> Sequence[Change]:
    """The changes of agents; of those that moved with a workspace of their own, each says what it gives, or waits."""
    if not any(map(is_removal, changes)) or not any(map(is_addition, changes)):
        return changes
    moves = [m for m in find_moves(changes) if _has_workspace(manifests[m.after]) and _is_plain(changes, m.after)]
    after = {move.before: move.after for move in moves}
    before = {move.after: move.before for move in moves}
    going = {c.instance for c in changes if c.name in after}
    return [
        _giving(c, manifests[after[c.name]]) if c.name in after else _waiting(c, before.get(c.name), going)
        for c in changes
    ]


def _has_workspace(manifest: Manifest[AgentSpec]) -> bool:
    return manifest.spec.workspace.writable and manifest.spec.mode == "persistent"


def _is_plain(changes: Sequence[Change], name: str) -> bool:
    """Whether nobody else comes or goes with the same digest, so that it is clear who becomes whom."""
    digest = next(c.spec_digest for c in changes if c.name == name)
    alike = {c.name for c in changes if c.spec_digest == digest and (is_removal(c) or is_addition(c))}
    return len(alike) == 2


def _giving(change: Change, manifest: Manifest[AgentSpec]) -> Change:
    work = change.spec
    if work.ordinal >= manifest.spec.replicas:
        return change
    heir = instance_name(manifest.name, work.ordinal)
    reason = f"{change.reason}; {heir} goes on with its workspace"
    return replace(change, reason=reason, spec=replace(work, heir=heir, drops_workspace=False))


def _waiting(change: Change, before: str | None, going: set[str | None]) -> Change:
    """Nobody waits for an instance that is not there."""
    if before is None or (former := instance_name(before, change.spec.ordinal)) not in going:
        return change
    reason = f"waits until {former} is gone, whose workspace it goes on with"
    return replace(change, action=Action.HOLD, towards=Action.CREATE, reason=reason, wait_s=LOOK_S)
