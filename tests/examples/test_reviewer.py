"""The reviewer: layers, length and open ends of small packages."""

import pytest

from .stage import ListeningHub, Repository, Work

SETTINGS = """
[tool.importlinter]
root_package = "shop"
[[tool.importlinter.contracts]]
name = "one way"
type = "layers"
layers = ["shop.web", "shop.buy | shop.sell", "shop.core"]
"""


def test_imports_down_the_layers_are_fine(work: Work, repository: Repository) -> None:
    repository.commit(
        {
            "pyproject.toml": SETTINGS,
            "shop/__init__.py": "",
            "shop/web.py": "import os\nfrom shop import buy\nfrom shop.core.money import Money\n",
            "shop/buy.py": "from .core import money\n",
            "shop/sell.py": "import shop.core.money\n",
            "shop/core/__init__.py": "",
            "shop/core/money.py": "class Money: ...\n",
        }
    )
    result = work("reviewer", {"do": "layers"}, repository.path).result
    assert result["ok"] is True
    assert result["figures"] == {"modules": 6, "imports": 4, "cycles": 0, "violations": 0}
    assert result["most_imported"][0] == {"module": "shop.core.money", "by": 3}
    assert result["contracts_checked"] == ["one way"]


def test_an_import_up_or_across_the_layers_is_found_with_its_line(work: Work, repository: Repository) -> None:
    repository.commit(
        {
            "pyproject.toml": SETTINGS,
            "shop/__init__.py": "",
            "shop/web.py": "",
            "shop/buy.py": "import json\n\nfrom shop.sell import x\n",
            "shop/sell.py": "x = 1\n",
            "shop/core.py": "def late():\n    from shop import web\n    return web\n",
        }
    )
    result = work("reviewer", {"do": "layers"}, repository.path).result
    assert result["ok"] is False
    assert sorted((v["file"], v["line"], v["rule"]) for v in result["violations"]) == [
        ("shop/buy.py", 3, "shop.buy and shop.sell are independent"),
        ("shop/core.py", 2, "shop.core is below shop.web"),
    ]


def test_an_ignored_import_is_let_through(work: Work, repository: Repository) -> None:
    repository.commit(
        {
            "pyproject.toml": SETTINGS + 'ignore_imports = ["shop.core -> shop.*"]\n',
            "shop/__init__.py": "",
            "shop/web.py": "",
            "shop/core.py": "import shop.web\n",
        }
    )
    assert work("reviewer", {"do": "layers"}, repository.path).result["violations"] == []


def test_a_circle_of_imports_is_found(work: Work, repository: Repository) -> None:
    repository.commit(
        {
            "p/__init__.py": "",
            "p/a.py": "from p.b import x\n",
            "p/b.py": "from p import c\n",
            "p/c.py": "import p.a\n",
            "p/d.py": "import p.a\n",
        }
    )
    result = work("reviewer", {"do": "layers"}, repository.path).result
    assert result["cycles"] == [["p.a", "p.b", "p.c", "p.a"]]


@pytest.mark.parametrize(
    "late",
    [
        "def f():\n    import p.a\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x\n",
    ],
    ids=["in a function", "for type checkers"],
)
def test_an_import_that_waits_closes_no_circle(work: Work, repository: Repository, late: str) -> None:
    repository.commit({"p/__init__.py": "", "p/a.py": "import p.b\n", "p/b.py": late})
    result = work("reviewer", {"do": "layers"}, repository.path).result
    assert result["cycles"] == []
    assert result["figures"]["imports"] == 2


def test_code_that_does_not_parse_is_named(work: Work, repository: Repository) -> None:
    repository.commit({"p/__init__.py": "", "p/bad.py": "x = 1\ndef (:\n"})
    for do in ("layers", "long"):
        result = work("reviewer", {"do": do}, repository.path).result
        assert result["ok"] is False
        assert [(row["file"], row["line"]) for row in result["unreadable"]] == [("p/bad.py", 2)]


def test_settings_that_do_not_parse_are_a_clear_failure(work: Work, repository: Repository) -> None:
    repository.commit({"pyproject.toml": "[broken\n"})
    done = work("reviewer", {"do": "layers"}, repository.path)
    assert done.exit_code == 1
    assert "pyproject.toml is not TOML" in done.errors


def test_long_functions_and_files_are_found(work: Work, repository: Repository) -> None:
    repository.commit(
        {
            "a.py": "class C:\n    def long(self):\n" + "        x = 1\n" * 9 + "\n\ndef short():\n    pass\n",
            "b.py": "x = 1\n",
        }
    )
    given = {"do": "long", "function_lines": 9, "file_lines": 14}
    result = work("reviewer", given, repository.path).result
    assert result["ok"] is False
    assert result["functions"] == [
        {"path": "a.py", "line": 2, "name": "C.long", "lines": 10, "over": True},
        {"path": "a.py", "line": 14, "name": "short", "lines": 2, "over": False},
    ]
    assert [row["path"] for row in result["files"] if row["over"]] == ["a.py"]
    assert result["figures"]["median_function"] == 2
    assert result["figures"]["p95_function"] == 10


def test_a_limit_itself_is_not_too_long(work: Work, repository: Repository) -> None:
    repository.commit({"a.py": "def f():\n    return 1\n"})
    given = {"do": "long", "function_lines": 2, "file_lines": 2}
    assert work("reviewer", given, repository.path).result["ok"] is True


def test_open_ends_are_found_in_comments_only(work: Work, repository: Repository) -> None:
    marker = "TO" + "DO"
    repository.commit(
        {
            "a.py": f'x = "# {marker}: no"\ny = 2  # {marker}(ada): finish\n# FIX' + "ME later\n",
            "b.yaml": f"a: 1  # {marker}: yes\nb: '{marker}'\n",
            "c.md": f"{marker}: prose\n<!-- {marker}: hidden -->\n",
            "d.bin": b"\0" + marker.encode(),
        }
    )
    result = work("reviewer", {"do": "todo"}, repository.path).result
    assert [(row["path"], row["line"], row["owner"]) for row in result["found"]] == [
        ("a.py", 2, "ada"),
        ("a.py", 3, None),
        ("b.yaml", 1, None),
        ("c.md", 2, None),
    ]
    assert result["found"][0]["text"] == "finish"
    assert result["figures"] == {"found": 4, "unowned": 3}
    assert result["ok"] is False


@pytest.mark.parametrize("do", ["layers", "long", "todo"])
def test_a_repository_without_python_is_fine(work: Work, repository: Repository, do: str) -> None:
    repository.commit({"README.md": "hi\n"})
    assert work("reviewer", {"do": do}, repository.path).result["ok"] is True


def test_a_file_that_is_too_long_is_raised_as_a_finding(work: Work, repository: Repository, hub: ListeningHub) -> None:
    repository.commit({"a.py": "x = 1\n" * 6, "b.py": "x = 1\n"})
    work("reviewer", {"do": "long", "file_lines": 5}, repository.path, task="long-code", env=hub.env)
    (call,) = hub.received
    assert call["message"]["topic"] == "finding.raised"
    assert call["message"]["payload"] == {
        "task": "long-code",
        "rule": "length",
        "path": "a.py",
        "line": 1,
        "message": "it has 6 lines, more than 5",
    }


def test_files_that_others_ask_to_review_are_measured(work: Work, repository: Repository, hub: ListeningHub) -> None:
    repository.commit({"a.py": "x = 1\n" * 6, "b.py": "x = 1\n"})
    payload = {"task": "churn", "paths": ["a.py", "gone.py"], "reason": "changed most often"}
    hub.fill([{"id": "1", "type": "review.request", "from": "analyst/analyst-0", "payload": payload}])
    done = work("reviewer", {"do": "long"}, repository.path, env=hub.env)
    assert done.result["asked_for"] == [{"path": "a.py", "lines": 6}]
    assert hub.acknowledged == 1


def test_of_some_files_only_these_are_measured_and_nobody_else_is_told(
    work: Work, repository: Repository, hub: ListeningHub
) -> None:
    source = "def f():\n" + "    x = 1\n" * 60
    repository.commit({"a.py": source, "b.py": source})
    hub.fill([{"from": "analyst/analyst-0", "id": "1", "type": "review.request", "payload": {"paths": ["b.py"]}}])
    given = {"do": "long", "paths": ["a.py"], "file_lines": 10}
    result = work("reviewer", given, repository.path, env=hub.env).result
    assert [(f["path"], f["lines"]) for f in result["functions"]] == [("a.py", 61)]
    assert [f["path"] for f in result["files"]] == ["a.py"]
    assert (result["messages"], hub.received, hub.handed_out) == ([], [], 0)
