"""Files of a snapshot: each content is parsed once; links and oversized files are never opened."""

import pytest

from reconciler.core.problem import Problem
from reconciler.core.yaml import MAX_BYTES
from reconciler.kinds.tree import ParseCache, Tree
from reconciler.ports import SetAside
from tests.fakes.desired import problems_of
from tests.fakes.source import FakeSnapshot, Odd
from tests.fakes.texts import agent_text


def parse(snapshot: FakeSnapshot, cache: ParseCache, parsed: list[str]) -> tuple[dict[str, bytes], list[Problem]]:
    """All `.yaml` files of `d`; what was really parsed is added to `parsed`."""

    def parser(file: str, content: bytes) -> bytes:
        parsed.append(file)
        return content

    return Tree(snapshot=snapshot, cache=cache).parse("d", ".yaml", "key", parser)


def test_only_files_right_in_the_folder_with_the_suffix_are_parsed() -> None:
    files = {"d/b.yaml": "b", "d/a.yaml": "a", "d/x.yml": "x", "d/sub/c.yaml": "c", "dd/e.yaml": "e", "d.yaml": "f"}
    found, problems = parse(FakeSnapshot(files), ParseCache(), [])
    assert list(found.items()) == [("d/a.yaml", b"a"), ("d/b.yaml", b"b")]
    assert problems == []


def test_a_link_is_a_problem_and_is_never_read() -> None:
    snapshot = FakeSnapshot({"d/a.yaml": Odd(b"/etc/shadow", mode="120000"), "d/b.yaml": "b"})
    found, problems = parse(snapshot, ParseCache(), [])
    assert list(found) == ["d/b.yaml"]
    assert problems == [Problem(file="d/a.yaml", message="is a symbolic link; commit the file itself")]
    assert snapshot.read_paths == ["d/b.yaml"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("agents.d", "agents.d: is a symbolic link, which is not followed; agents.d is to be a folder; "),
        ("schemas", "schemas: is a symbolic link, which is not followed; schemas/messages is to be a folder; "),
    ],
)
def test_a_link_in_place_of_a_folder_is_a_problem(path: str, said: str) -> None:
    assert problems_of({path: Odd(b"../elsewhere", mode="120000")}) == [f"{said}rename or remove it"]


def test_a_file_in_place_of_a_folder_is_a_problem() -> None:
    assert problems_of({"tasks.d": "x"}) == ["tasks.d: is a file; tasks.d is to be a folder; rename or remove it"]


@pytest.mark.parametrize("folder", ["agents.d", "schemas"])
def test_a_submodule_in_place_of_a_folder_is_a_problem(folder: str) -> None:
    (said,) = problems_of({"README.md": "x"}, aside=[SetAside(path=folder, reason="a submodule")])
    assert said.startswith(f"{folder}: ")
    assert "a submodule" in said


def test_an_oversized_file_is_a_problem_and_is_never_read() -> None:
    snapshot = FakeSnapshot(
        {"d/a.yaml": Odd(b"", size_bytes=MAX_BYTES + 1), "d/b.yaml": Odd(b"b", size_bytes=MAX_BYTES)}
    )
    found, problems = parse(snapshot, ParseCache(), [])
    assert list(found) == ["d/b.yaml"]
    assert [str(p) for p in problems] == ["d/a.yaml: has 1048577 bytes; at most 1048576 are read; split it"]
    assert snapshot.read_paths == ["d/b.yaml"]


def test_paths_that_git_sets_aside_are_problems() -> None:
    aside = [SetAside(path=r"agents.d/a\nb.yaml", reason="a line break in its name")]
    assert problems_of({"agents.d/a.yaml": agent_text()}, aside=aside) == [
        r"agents.d/a\nb.yaml: cannot be used: a line break in its name; rename or remove it"
    ]


def test_a_content_is_parsed_once_and_again_when_it_changes_or_moves() -> None:
    cache, parsed = ParseCache(), list[str]()
    parse(FakeSnapshot({"d/a.yaml": "1", "d/b.yaml": "2"}), cache, parsed)
    parse(FakeSnapshot({"d/a.yaml": "1", "d/b.yaml": "3"}), cache, parsed)
    parse(FakeSnapshot({"d/a.yaml": "1", "d/c.yaml": "3"}), cache, parsed)
    assert parsed == ["d/a.yaml", "d/b.yaml", "d/b.yaml", "d/c.yaml"]


def test_settling_forgets_what_the_last_revision_did_not_use() -> None:
    cache, parsed = ParseCache(), list[str]()
    for files in ({"d/a.yaml": "1"}, {"d/b.yaml": "2"}, {"d/a.yaml": "1"}):
        parse(FakeSnapshot(files), cache, parsed)
        cache.settle()
    assert parsed == ["d/a.yaml", "d/b.yaml", "d/a.yaml"]


def test_one_file_by_its_path() -> None:
    tree = Tree(
        snapshot=FakeSnapshot({"hub.yaml": "x", "d/hub.yaml": "y", "link": Odd(b"x", mode="120000")}),
        cache=ParseCache(),
    )
    assert tree.file("hub.yaml") == b"x"
    assert tree.file("d/hub.yaml") == b"y"
    assert tree.file("other") is None
    assert tree.file("d") is None
    assert isinstance(tree.file("link"), Problem)
