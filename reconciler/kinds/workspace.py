"""Snapshots of the repository that agents work on: where they are, and how they come to be."""

from pathlib import Path

from reconciler.kinds.kind import World

MOUNT = "/workspaces"
OWN_MOUNT = "/workspace"


def workspace_name(revision: str) -> str:
    """A folder name for a revision: 12 characters of a commit id, `worktree-` and 12 of a directory's digest."""
    head, _, tail = revision.partition(":")
    return f"{head}-{tail[:12]}" if tail else head[:12]


def provide_workspace(world: World, revision: str, history: bool) -> None:
    """Make the read-only snapshot of a revision, if it is not there yet. Raises SourceError."""
    target = _folder(world, history) / workspace_name(revision)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    world.source.checkout(revision, str(target), history=history)


def workspace_path(world: World, instance: str, revision: str, workspace: str) -> str:
    """The path of a task's workspace as its agent sees it; empty where the agent has none."""
    mapped = world.runtime.name != "process"
    match workspace:
        case "full" | "tree":
            name = workspace_name(revision)
            return f"{MOUNT}/{name}" if mapped else str(_folder(world, workspace == "full") / name)
        case "own":
            return OWN_MOUNT if mapped else str(world.state / "instances" / instance / "workspace")
        case _:
            return ""


def _folder(world: World, history: bool) -> Path:
    return world.state / "workspaces" / ("full" if history else "tree")
