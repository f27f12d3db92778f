"""The scratch directory of one run: made with the task's files in it, removed at the end.

<scratch>/agentd-<instance>-xxxx/task/    HUB_TASK_DIR: input.json prompt.txt parents/*.json
<scratch>/agentd-<instance>-xxxx/output/  HUB_OUTPUT: the artefacts
<scratch>/agentd-<instance>-xxxx/home/    what a program keeps for itself while it runs
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.agentd.assignment import Assignment
from reconciler.agentd.prompt import build_prompt


@dataclass(frozen=True)
class Scratch:
    """Absolute paths. What models are asked is in `question_path`, see `prompt.py`."""

    task_dir: str
    output_dir: str
    home_dir: str
    input_path: str
    question_path: str


@contextlib.contextmanager
def make_scratch(parent: str, instance: str, assignment: Assignment) -> Iterator[Scratch]:
    """The directory as long as the block runs. Raises OSError when it cannot be made."""
    root = tempfile.mkdtemp(prefix=f"agentd-{instance}-", dir=parent)
    try:
        yield _fill(root, assignment)
    finally:
        _remove(root)


def _fill(root: str, assignment: Assignment) -> Scratch:
    task_dir, output_dir = os.path.join(root, "task"), os.path.join(root, "output")
    parents_dir, home_dir = os.path.join(task_dir, "parents"), os.path.join(root, "home")
    for directory in (task_dir, output_dir, home_dir, parents_dir):
        os.mkdir(directory, 0o700)
    input_path = os.path.join(task_dir, "input.json")
    _write_json(input_path, assignment.input)
    for name, result in assignment.parents.items():
        _write_json(os.path.join(parents_dir, f"{name}.json"), result)
    question_path = os.path.join(home_dir, "question.md")
    _write_text(os.path.join(task_dir, "prompt.txt"), assignment.prompt)
    _write_text(question_path, build_prompt(assignment))
    return Scratch(
        task_dir=task_dir,
        output_dir=output_dir,
        home_dir=home_dir,
        input_path=input_path,
        question_path=question_path,
    )


def _write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", errors="replace", newline="") as file:
        file.write(text)


def _write_json(path: str, value: object) -> None:
    with open(path, "w", encoding="utf-8", errors="replace") as file:
        json.dump(value, file, ensure_ascii=False)


def _remove(root: str) -> None:
    """Where that fails, directories that the task made unreadable are opened first."""
    with contextlib.suppress(OSError):
        shutil.rmtree(root)
        return
    _open(root)
    for folder, folders, _files in os.walk(root):
        for name in folders:
            _open(os.path.join(folder, name))
    shutil.rmtree(root, ignore_errors=True)


def _open(directory: str) -> None:
    if not os.path.islink(directory):
        with contextlib.suppress(OSError):
            os.chmod(directory, 0o700)
