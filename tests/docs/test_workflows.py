"""The workflows of the documents: they parse, their commands are commands, and the hook stands before a real push."""

import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from reconciler.cli import cli
from reconciler.cli.review.markdown import MARKER
from reconciler.core.yaml import load_documents
from tests.fakes.texts import agent_text, hub_text
from tests.source.repo import Repo, make_repo

FOLDER = Path(__file__).parents[2] / "docs" / "workflows"
DOCS = FOLDER.parent
FILES = {"hub.yaml": hub_text(), **{f"agents.d/{n}.yaml": agent_text(n) for n in ("a", "b", "c", "d", "e", "f")}}


def workflow(name: str) -> dict[str, Any]:
    documents = load_documents((FOLDER / name).read_bytes(), name)
    assert documents.problems == ()
    (value,) = documents.values
    assert isinstance(value, dict)
    return value


def scripts(value: object) -> Iterator[str]:
    """What is run, in either of the two ways to write it."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key in ("run", "script", "before_script"):
                yield "\n".join(part) if isinstance(part, list) else str(part)
            else:
                yield from scripts(part)
    elif isinstance(value, list):
        for part in value:
            yield from scripts(part)


def commands(script: str) -> Iterator[list[str]]:
    """Each call of the program, as the words that it gets."""
    for line in script.replace("\\\n", " ").splitlines():
        for part in re.split(r"\|\||&&|[;|]", line):
            if part.strip().startswith("reconciler "):
                yield shlex.split(part, comments=True)[1:]


def accept(words: list[str], group: click.Group = cli) -> None:
    """Raises click.UsageError where the command line does not take them."""
    command = group.get_command(click.Context(group), words[0])
    if command is None:
        raise click.UsageError(f"there is no command {words[0]}")
    if isinstance(command, click.Group):
        accept(words[1:], command)
    else:
        command.make_context(words[0], words[1:]).close()


@pytest.mark.parametrize("name", ["github.yml", "gitlab-ci.yml"])
def test_every_command_of_a_workflow_is_one(name: str) -> None:
    found = [words for script in scripts(workflow(name)) for words in commands(script)]
    assert found
    for words in found:
        accept(words)


def test_every_command_of_the_page_about_committing_is_one() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (DOCS / "committing.md").read_text(), re.DOTALL | re.MULTILINE)
    found = [words for block in blocks for words in commands(block)]
    assert len(found) > 5
    for words in found:
        accept(words)


def test_the_comment_that_a_workflow_looks_for_is_the_one_that_is_written() -> None:
    assert MARKER in "".join(scripts(workflow("github.yml")))


def test_a_command_that_is_none_is_found() -> None:
    for words in (["plan", "--bases", "x"], ["plans"], ["agent", "dance", "x"]):
        with pytest.raises(click.UsageError):
            accept(words)


@pytest.mark.parametrize("name", ["github.yml", "gitlab-ci.yml"])
def test_every_script_of_a_workflow_is_one_of_the_shell(name: str) -> None:
    for script in scripts(workflow(name)):
        plain = re.sub(r"\$\{\{.*?\}\}", "x", script)
        subprocess.run(["sh", "-n"], input=plain.encode(), check=True, timeout=120)


# --- the hook, before a real push -------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path) -> Repo:
    """A bare repository, set up for the hook with a program that runs this very code."""
    made = Repo(tmp_path / "bare.git", "init", "--quiet", "--bare", "--initial-branch=main")
    program = tmp_path / "reconciler"
    package = Path(__file__).parents[2]
    program.write_text(f'#!/bin/sh\nPYTHONPATH={package} exec {sys.executable} -P -m reconciler "$@"\n')
    program.chmod(0o755)
    made.git("config", "reconciler.command", str(program))
    made.git("config", "receive.advertisePushOptions", "true")
    return made


@pytest.fixture
def work(tmp_path: Path, bare: Repo) -> Repo:
    """What somebody works in; its first commit is pushed, and the hook stands before the next one."""
    made = make_repo(tmp_path / "work", FILES)
    made.git("remote", "add", "origin", str(bare.path))
    made.git("push", "--quiet", "origin", "main")
    hook = bare.path / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text((FOLDER / "pre-receive").read_text())
    hook.chmod(0o755)
    return made


def push(work: Repo, *arguments: str) -> tuple[bool, str]:
    """Whether it was accepted, and what was said."""
    done = work.run("push", *(arguments or ("origin", "main")))
    return done.returncode == 0, done.stderr.decode()


def tip(repo: Repo) -> str:
    return repo.git("rev-parse", "main")


def test_the_hook_is_a_program() -> None:
    assert (FOLDER / "pre-receive").stat().st_mode & stat.S_IXUSR


def test_a_good_commit_is_accepted_with_its_plan(work: Repo, bare: Repo) -> None:
    commit = work.commit({"agents.d/a.yaml": agent_text("a", version="2")})
    is_accepted, said = push(work)
    assert is_accepted, said
    assert re.search(r"remote: ± replace +agent/a-0 +changed in git", said)
    assert tip(bare) == commit


def test_a_bad_commit_is_refused_with_its_problems_and_leaves_nothing(work: Repo, bare: Repo) -> None:
    bare.git("config", "receive.unpackLimit", "1")
    before = tip(bare)
    bad = work.commit({"agents.d/a.yaml": agent_text("a", replicas="many")})
    is_accepted, said = push(work)
    assert not is_accepted
    assert "remote: agents.d/a.yaml:" in said
    assert "remote: refused: refs/heads/main would have problems" in said
    assert tip(bare) == before
    assert bare.run("cat-file", "-e", bad).returncode != 0
    work.commit({"agents.d/a.yaml": agent_text("a", replicas=2)})
    assert push(work)[0]


def test_what_a_guard_refuses_is_pushed_by_whoever_names_its_digest(work: Repo, bare: Repo) -> None:
    work.git("rm", "--quiet", *(f"agents.d/{n}.yaml" for n in "abcd"))
    commit = work.commit()
    is_accepted, said = push(work)
    assert not is_accepted
    assert "refused by prune-budget" in said
    digest = re.search(r"--confirm (\S+)", said)
    assert digest is not None
    assert not push(work, "-o", "confirm=1:another", "origin", "main")[0]
    assert push(work, "-o", "other=x", "-o", f"confirm={digest[1]}", "origin", "main")[0]
    assert tip(bare) == commit


def test_rewritten_history_and_a_deletion_are_refused(work: Repo, bare: Repo) -> None:
    work.commit({"agents.d/g.yaml": agent_text("g")})
    assert push(work)[0]
    before = tip(bare)
    work.git("reset", "--quiet", "--hard", "HEAD~1")
    work.commit({"agents.d/h.yaml": agent_text("h")})
    is_accepted, said = push(work, "--force", "origin", "main")
    assert not is_accepted
    assert "refused by not-a-descendant" in said
    bare.git("config", "receive.denyDeleteCurrent", "ignore")
    is_accepted, said = push(work, "origin", ":main")
    assert not is_accepted
    assert "it cannot be deleted" in said
    assert tip(bare) == before


def test_other_branches_are_nobody_s_business_and_a_new_one_that_is_followed_is_looked_at(
    work: Repo, bare: Repo
) -> None:
    work.git("switch", "--quiet", "-c", "side")
    work.commit({"agents.d/a.yaml": "kind: Agent\n"})
    assert push(work, "origin", "side")[0]
    bare.git("config", "reconciler.ref", "refs/heads/live")
    is_accepted, said = push(work, "origin", "side:live")
    assert not is_accepted
    assert "remote: agents.d/a.yaml:" in said
    assert push(work, "origin", "main:live")[0]


def test_without_the_program_nothing_is_accepted(work: Repo, bare: Repo) -> None:
    bare.git("config", "reconciler.command", "/nowhere/reconciler")
    work.commit({"agents.d/a.yaml": agent_text("a", version="2")})
    is_accepted, said = push(work)
    assert not is_accepted
    assert "could not look at it" in said
