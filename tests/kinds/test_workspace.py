"""Snapshots of the repository for agents: where they are as hub and agents see them."""

from pathlib import Path

import pytest

from reconciler.kinds.workspace import provide_workspace, workspace_name, workspace_path
from tests.fakes.fleet import FakeFleet


@pytest.mark.parametrize(
    ("revision", "name"),
    [("0123456789abcdef0123", "0123456789ab"), ("worktree:0123456789abcdef", "worktree-0123456789ab"), ("r1", "r1")],
)
def test_a_workspace_is_named_after_its_revision(revision: str, name: str) -> None:
    assert workspace_name(revision) == name


def test_each_revision_is_checked_out_once(tmp_path: Path) -> None:
    fleet = FakeFleet(tmp_path)
    revision = fleet.commit({"README.md": "read me"})
    for history in (True, False, True):
        provide_workspace(fleet.world, revision, history)
    for kind in ("full", "tree"):
        assert (tmp_path / "workspaces" / kind / revision[:12] / "README.md").read_text() == "read me"
    fleet.end_hub()


@pytest.mark.parametrize(
    ("workspace", "path"),
    [("full", "/workspaces/abc"), ("tree", "/workspaces/abc"), ("own", "/workspace"), ("none", "")],
)
def test_an_agent_sees_it_below_its_mount(tmp_path: Path, workspace: str, path: str) -> None:
    fleet = FakeFleet(tmp_path)
    assert workspace_path(fleet.world, "writer-0", "abc", workspace) == path
    fleet.end_hub()
