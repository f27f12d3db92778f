"""Paths in a tree: which are fit to be used, and which links stay inside."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import SourceError
from reconciler.source.git import EmptyRepository, ObjectView
from reconciler.source.objects import ObjectReader
from reconciler.source.tree import check_folder, is_inside, is_safe_path, list_tree, show_path, why_unusable
from tests.source.repo import Repo, make_repo

names = st.sampled_from([b"a", b"b", b"..", b".", b"", b"c"])
link_paths = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(b"/".join)
targets = st.lists(names, min_size=1, max_size=5).map(b"/".join)


@given(st.dictionaries(link_paths, targets, max_size=6))
def test_links_that_are_called_inside_never_lead_out(links: dict[bytes, bytes]) -> None:
    """Resolve each kept link by the rules of the kernel, through all other kept links."""
    kept = {path: target for path, target in links.items() if is_inside(path, target)}
    for path in kept:
        resolve(path.split(b"/"), kept)


def resolve(parts: list[bytes], links: dict[bytes, bytes]) -> None:
    at: list[bytes] = []
    todo, hops = list(parts), 0
    while todo and hops < 40:
        part = todo.pop(0)
        if part in (b"", b"."):
            continue
        if part == b"..":
            assert at, "climbed out of the tree"
            at.pop()
            continue
        at.append(part)
        if (target := links.get(b"/".join(at))) is not None:
            at.pop()
            todo, hops = target.split(b"/") + todo, hops + 1


@pytest.mark.parametrize(
    ("link", "target", "expected"),
    [
        (b"a", b"b", True),
        (b"d/a", b"../b/c", True),
        (b"d/a", b"./x", True),
        (b"d/a", b"..", True),
        (b"a", b"..", False),
        (b"d/a", b"../../x", False),
        (b"a", b"/etc/passwd", False),
        (b"a", b"", False),
        (b"d/e/a", b"x/../../y", False),
    ],
)
def test_a_link_is_inside_if_it_only_climbs_at_its_start(link: bytes, target: bytes, expected: bool) -> None:
    assert is_inside(link, target) is expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"a/b", True),
        (b"a/..b/...", True),
        (b".gitignore", True),
        (b"\xe9", True),
        (b"a/../b", False),
        (b"./a", False),
        (b"/a", False),
        (b"a//b", False),
        (b"a/.git/hooks", False),
        (b".GiT", False),
        (b"a\0", False),
        (b"", False),
    ],
)
def test_a_path_is_safe_if_it_stays_in_the_tree_and_out_of_git(path: bytes, expected: bool) -> None:
    assert is_safe_path(path) is expected


def test_a_path_is_usable_if_it_can_stand_in_a_message() -> None:
    assert why_unusable("grüß dich.yaml".encode()) is None
    assert why_unusable(b"\xff") == "its name is not UTF-8"
    assert why_unusable(b"a\tb") == "its name has characters that don't print"
    assert why_unusable("\u202egpj".encode()) == "its name has characters that don't print"


@given(st.binary(max_size=20))
def test_a_shown_path_always_prints(path: bytes) -> None:
    assert show_path(path).isprintable()
    show_path(path).encode()


def test_a_folder_loses_its_slash_and_must_be_inside() -> None:
    assert check_folder("a/b/") == "a/b"
    for wrong in ("/", "", "..", "a/..", "a//b"):
        with pytest.raises(SourceError):
            check_folder(wrong)


def test_the_model_of_the_kernel_in_these_tests_is_right(tmp_path: Path) -> None:
    """The negative control: a link with a later `..` does lead out, through another one."""
    tree = tmp_path / "tree"
    tree.mkdir()
    os.symlink(".", tree / "d")
    os.symlink("d/../outside", tree / "x")
    (tmp_path / "outside").write_text("secret")
    assert (tree / "x").read_text() == "secret"
    with pytest.raises(AssertionError, match="climbed out"):
        resolve([b"x"], {b"d": b".", b"x": b"d/../outside"})


# --- listing --------------------------------------------------------------------------------------


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo")


def listed(repo: Repo, *folders: str, max_entries: int = 1000) -> list[str]:
    """What `list_tree` finds at the tip of `main`, in the words of `git ls-tree -r`."""
    empty = EmptyRepository()
    view = ObjectView(git_dir=empty.path("sha1"), objects_dir=str(repo.path / ".git/objects"))
    commit = repo.git("rev-parse", "main")
    leaves = list_tree(ObjectReader(view), commit, *folders, max_entries=max_entries)
    return sorted(f"{leaf.mode} {leaf.object_id} {leaf.path.decode()}" for leaf in leaves)


def listed_by_git(repo: Repo, *folders: str) -> list[str]:
    arguments = (
        "-c",
        "core.quotePath=false",
        "ls-tree",
        "-r",
        "-z",
        "--format=%(objectmode) %(objectname) %(path)",
        "main",
        "--",
        *folders,
    )
    return sorted(repo.git(*arguments).split("\0")[:-1])


def test_the_leaves_are_those_that_git_lists(repo: Repo) -> None:
    names = ("a", "a.d/x", "a.d/b/c/d", "a.d/b/e", "a.dx", "schemas/messages/m", "schemas/other", "z/\u00fc")
    for name in names:
        repo.write(name, name)
    (repo.path / "a.d/x").chmod(0o755)
    os.symlink("x", repo.path / "a.d/link")
    repo.commit()
    below = repo.git("rev-parse", "main:a.d")
    module = f"160000 commit {repo.git('rev-parse', 'main')}\tmodule"
    repo.commit_tree(repo.hash_tree(*repo.git("ls-tree", "main").split("\n"), module, f"040000 tree {below}\ttwice"))
    questions: list[tuple[str, ...]] = [
        (),
        ("a.d",),
        ("a.d/b", "a"),
        ("a.d/b/c/d", "schemas/messages", "none/at/all"),
        ("a/b", "module", "module/x"),
        ("a.d/link", "a.d/link/x"),
        ("a.d", "a.d/b"),
    ]
    for folders in questions:
        assert listed(repo, *folders) == listed_by_git(repo, *folders), folders
    assert listed(repo, "a.d", "") == listed_by_git(repo)
    assert len(listed(repo)) == 14


def test_modes_are_what_git_takes_them_for(repo: Repo) -> None:
    blob = repo.blob(b"x")
    raw = b"".join(
        f"{mode} {name}\0".encode() + bytes.fromhex(blob)
        for mode, name in (("100664", "group"), ("100700", "mine"), ("100604", "odd"), ("120777", "link"))
    )
    repo.commit_tree(repo.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw))
    assert listed(repo) == listed_by_git(repo)


@pytest.mark.parametrize("damage", [b"rubbish", b"100644 a\0short", b"100644 a", b"100644 \0" + b"x" * 20, b"9 a\0"])
def test_a_malformed_tree_is_an_error(repo: Repo, damage: bytes) -> None:
    good = b"100644 a\0" + bytes.fromhex(repo.blob(b"a"))
    for raw in (damage, good + damage):
        repo.commit_tree(repo.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw))
        with pytest.raises(SourceError, match="git fsck"):
            listed(repo)


@pytest.mark.parametrize("head", ["tree ../../etc/passwd", "tree \u00e9", "parent 1234", "tree HEAD:a", ""])
def test_a_commit_that_names_no_tree_is_an_error(repo: Repo, head: str) -> None:
    text = f"{head}\nauthor A <a> 0 +0000\ncommitter A <a> 0 +0000\n\nCrafted\n".encode()
    crafted = repo.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", stdin=text)
    (repo.path / ".git/refs/heads/main").write_text(f"{crafted}\n")
    with pytest.raises(SourceError, match="names no tree"):
        listed(repo)


def test_a_tree_that_multiplies_is_refused_before_it_is_built(repo: Repo) -> None:
    tree = repo.hash_tree(*(f"100644 blob {repo.blob(b'x')}\tf{n}" for n in range(30)))
    for _ in range(12):
        tree = repo.hash_tree(*(f"040000 tree {tree}\td{n}" for n in range(30)))
    repo.commit_tree(tree)
    with pytest.raises(SourceError, match="more than 1000 files and folders"):
        listed(repo)
    path = "/".join(["d7"] * 12)
    assert len(listed(repo, path)) == 30
