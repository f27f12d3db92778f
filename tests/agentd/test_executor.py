from __future__ import annotations

import pytest

from reconciler.agentd.executor import parse_result, place


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("/workspace", "/workspaces/abc"),
        ("/workspace/bin/x.py", "/workspaces/abc/bin/x.py"),
        ("/workspaces/abc", "/workspaces/abc"),
        ("/workspace2", "/workspace2"),
        ("--dir=/workspace", "--dir=/workspace"),
        ("", ""),
    ],
)
def test_a_leading_workspace_is_replaced(text: str, placed: str) -> None:
    assert place(text, "/workspaces/abc") == placed
    assert place(text, "") == text


@pytest.mark.parametrize(
    ("stdout", "result"),
    [
        ('{"a": 1}\n', {"a": 1}),
        ("null", None),
        ("42", 42),
        ("", ""),
        ("hello\n", "hello\n"),
        ("NaN", "NaN"),
        ("[1e999]", "[1e999]"),
        ("[" * 61 + "]" * 61, "[" * 61 + "]" * 61),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_stdout_is_json_where_others_can_read_it_else_text(stdout: str, result: object) -> None:
    assert parse_result(stdout) == result
