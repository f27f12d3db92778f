"""Paths in a tree: which are fit to be used, and which links stay inside."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import SourceError
from reconciler.source.tree import check_folder, is_inside, is_safe_path, show_path, why_unusable

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
