"""A mirror holds what was last fetched, follows what a ref means, and mends itself."""

import os
from pathlib import Path

import pytest

from reconciler.errors import SourceError
from tests.source.remotes import Shared, mirror_of
from tests.source.repo import Repo


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path)


def test_a_branch_is_followed_to_its_newest_commit(shared: Shared, tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, shared.url)
    assert not mirror.is_there
    assert mirror.update() == shared.work.git("rev-parse", "HEAD")
    new = shared.push({"hub.yaml": "a: 2\n"})
    assert mirror.update() == new == mirror.followed()


def test_a_branch_is_found_under_its_own_name_and_no_earlier_one_is(shared: Shared, tmp_path: Path) -> None:
    mirror_of(tmp_path, shared.url).update()
    shared.work.git("push", "--quiet", "origin", "HEAD:refs/heads/release/1")
    there = mirror_of(tmp_path, shared.url, "release/1")
    there.update()
    mirror = Repo(Path(there.path))
    assert mirror.git("rev-parse", "release/1") == there.followed()
    assert mirror.git("for-each-ref", "--format=%(refname)", "refs/heads").split() == [
        "refs/heads/followed",
        "refs/heads/release/1",
    ]
    newer = shared.push({"hub.yaml": "a: 2\n"})
    shared.work.git("push", "--quiet", "origin", "HEAD:refs/heads/release/1")
    assert there.update() == newer == mirror.git("rev-parse", "release/1")


def test_nobody_else_on_the_host_can_read_it(shared: Shared, tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, shared.url)
    mirror.update()
    assert Path(mirror.path).stat().st_mode & 0o777 == 0o700


def test_a_forced_push_is_followed_and_what_was_there_is_kept(shared: Shared, tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, shared.url)
    old = shared.push({"hub.yaml": "a: 2\n"})
    mirror.update()
    shared.work.git("reset", "--quiet", "--hard", "HEAD~1")
    new = shared.push({"hub.yaml": "a: 3\n"})
    assert mirror.update() == new
    assert Repo(Path(mirror.path)).git("cat-file", "-t", old) == "commit"


def test_a_tag_is_followed_to_its_commit_and_when_it_is_moved(shared: Shared, tmp_path: Path) -> None:
    first = shared.work.git("rev-parse", "HEAD")
    shared.work.git("tag", "-a", "-m", "one", "v1")
    shared.push({"hub.yaml": "a: 2\n"})
    mirror = mirror_of(tmp_path, shared.url, "tag:v1")
    assert mirror.update() == first
    shared.work.git("tag", "--force", "v1")
    second = shared.push({"x": "later\n"})
    assert mirror.update() == shared.work.git("rev-parse", "v1^{commit}") != second


def test_the_newest_version_within_a_range_is_followed(shared: Shared, tmp_path: Path) -> None:
    for name in ("v1.0.0", "v1.2.0", "v2.0.0", "v1.3.0-rc.1", "nonsense"):
        shared.push({"hub.yaml": f"{name}\n"})
        shared.work.git("tag", name)
    shared.push({"hub.yaml": "end\n"})
    mirror = mirror_of(tmp_path, shared.url, "semver:^1.0")
    assert mirror.update() == shared.work.git("rev-parse", "v1.2.0")
    shared.work.git("tag", "v1.10.0")
    shared.push({})
    assert mirror.update() == shared.work.git("rev-parse", "v1.10.0")
    with pytest.raises(SourceError, match="none of its 6 tags is a version within it"):
        mirror_of(tmp_path / "other", shared.url, "semver:^9").update()


def test_a_commit_is_followed_and_stays_the_one(shared: Shared, tmp_path: Path) -> None:
    pinned = shared.work.git("rev-parse", "HEAD")
    shared.push({"hub.yaml": "a: 2\n"})
    mirror = mirror_of(tmp_path, shared.url, f"commit:{pinned}")
    assert mirror.update() == pinned
    shared.bare.path.rename(tmp_path / "away")
    assert mirror.update() == pinned


def test_a_revision_that_does_not_exist_is_said_so_and_changes_nothing(shared: Shared, tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, shared.url)
    good = mirror.update()
    for ref, said in (
        ("none", "couldn't find remote ref"),
        ("tag:none", "find remote ref"),
        (f"commit:{'1' * 40}", "it is no commit"),
    ):
        with pytest.raises(SourceError, match=said):
            mirror_of(tmp_path, shared.url, ref).update()
    assert mirror.followed() == good


def test_a_shallow_mirror_grows_from_where_it_was_cut(shared: Shared, tmp_path: Path) -> None:
    for n in range(5):
        shared.push({"hub.yaml": f"a: {n}\n"})
    mirror = mirror_of(tmp_path, shared.url, depth=2)
    old = mirror.update()
    repo = Repo(Path(mirror.path))
    assert repo.git("rev-list", "--count", "followed") == "2"
    new = shared.push({"hub.yaml": "a: 9\n"})
    assert mirror.update() == new
    assert repo.git("rev-list", "--count", "followed") == "3"
    assert repo.run("merge-base", "--is-ancestor", old, new).returncode == 0
    assert mirror_of(tmp_path, shared.url).update() == new
    assert repo.git("rev-list", "--count", "followed") == "7"


def test_a_file_beyond_the_limit_is_not_fetched_and_harms_nothing(shared: Shared, tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, shared.url, max_bytes=2**20)
    good = mirror.update()
    shared.work.write("big", os.urandom(3 * 2**20))
    shared.push({"hub.yaml": "a: 2\n"})
    with pytest.raises(SourceError, match="a file of more than 1 MiB; take it out, or raise source"):
        mirror.update()
    assert mirror.followed() == good
    assert Repo(Path(mirror.path)).run("fsck", "--connectivity-only").returncode == 0


@pytest.mark.parametrize("harm", ["objects", "refs", "config", "HEAD", "packed"])
def test_a_damaged_mirror_is_made_anew(shared: Shared, tmp_path: Path, harm: str) -> None:
    mirror = mirror_of(tmp_path, shared.url)
    good = mirror.update()
    path = Path(mirror.path)
    match harm:
        case "objects":
            for pack in (path / "objects").rglob("*.*"):
                pack.unlink()
            for loose in [f for f in (path / "objects").rglob("*") if f.is_file()]:
                loose.unlink()
        case "refs":
            (path / "refs/remote/tip").write_text("rubbish\n")
        case "config":
            (path / "config").write_text("[core\n")
        case "HEAD":
            (path / "HEAD").unlink()
        case _:
            (path / "packed-refs").write_bytes(b"\0" * 100)
    assert mirror.rebuild() == good
    assert Repo(path).git("fsck") == ""
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("mirror")) == ["mirror"]


def test_what_a_killed_process_left_is_removed(shared: Shared, tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, shared.url)
    mirror.update()
    (tmp_path / "mirror.new-1" / "objects").mkdir(parents=True)
    for lock in ("HEAD.lock", "refs/heads/followed.lock", "refs/remote/tip.lock", "shallow.lock", "packed-refs.lock"):
        (Path(mirror.path) / lock).write_text("")
    new = shared.push({"hub.yaml": "a: 2\n"})
    mirror.tidy()
    assert mirror.update() == new
    assert not (tmp_path / "mirror.new-1").exists()


def test_many_fetches_do_not_leave_many_packs(shared: Shared, tmp_path: Path) -> None:
    mirror = mirror_of(tmp_path, shared.url, max_packs=2)
    first = mirror.update()
    for round_ in range(4):
        shared.push({f"agents.d/{round_}-{n}.yaml": f"{round_} {n}\n" for n in range(120)})
        new = mirror.update()
    repo = Repo(Path(mirror.path))
    assert len(list((Path(mirror.path) / "objects/pack").glob("*.pack"))) <= 3
    assert repo.git("rev-list", "--count", f"{first}..{new}") == "4"


def test_nothing_that_the_remote_repository_is_set_to_run_is_run(shared: Shared, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    run = f"sh -c 'touch {canary}'"
    bare = shared.bare
    for key in (
        "core.fsmonitor",
        "core.sshCommand",
        "core.alternateRefsCommand",
        "core.pager",
        "uploadpack.packObjectsHook",
        "filter.x.smudge",
        "filter.x.clean",
        "diff.external",
        "credential.helper",
        "gc.recentObjectsHook",
    ):
        bare.git("config", key, run)
    bare.git("config", "core.hooksPath", str(bare.path / "hooks"))
    for hook in ("post-checkout", "reference-transaction", "pre-auto-gc", "post-upload-pack", "post-index-change"):
        (bare.path / "hooks").mkdir(exist_ok=True)
        (bare.path / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {canary}\n")
        (bare.path / "hooks" / hook).chmod(0o755)
    shared.work.write(".gitattributes", "* filter=x diff=x merge=x\n")
    shared.work.write(".gitmodules", f'[submodule "s"]\n\tpath = s\n\turl = ext::{run}\n\tupdate = !{run}\n')
    shared.work.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},s")
    shared.work.commit(message="Hostile")
    shared.work.git("push", "--quiet", "origin", "HEAD:main")
    canary.unlink(missing_ok=True)
    mirror = mirror_of(tmp_path, shared.url)
    assert mirror.update() == shared.work.git("rev-parse", "HEAD")
    assert mirror.rebuild() == mirror.followed()
    assert not canary.exists()
    assert sorted(p.name for p in Path(mirror.path).iterdir()) == ["HEAD", "config", "objects", "refs", "serving"]
