"""`--as` and `--reason`: who a command says its caller is, best named first."""

import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from reconciler.cli import cli
from reconciler.cli.caller import NAME_VARIABLE, check_reason, find_caller, with_caller
from reconciler.core.caller import Caller
from reconciler.errors import UsageError
from reconciler.settings import OperatorAudit, OperatorSpec

UID = f"uid:{os.getuid()}"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One whose configuration is all that git finds."""
    for name, value in {"HOME": str(tmp_path / "nobody"), "XDG_CONFIG_HOME": str(tmp_path / "nobody")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv(NAME_VARIABLE, raising=False)
    made = tmp_path / "repo"
    subprocess.run(["git", "init", "-q", str(made)], check=True)
    return made


def configure(repository: Path, **said: str) -> None:
    for key, value in said.items():
        subprocess.run(["git", "-C", str(repository), "config", f"user.{key}", value], check=True)


def test_the_name_given_comes_first_then_the_variable_then_git(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(repository, name="Ada", email="ada@example.org")
    assert str(find_caller(str(repository))) == f"{UID} (Ada <ada@example.org>)"
    monkeypatch.setenv(NAME_VARIABLE, "bob")
    assert str(find_caller(str(repository))) == f"{UID} (bob)"
    assert str(find_caller(str(repository), "carol", "why")) == f"{UID} (carol)"


def test_git_may_know_half_of_it(repository: Path) -> None:
    configure(repository, email="ada@example.org")
    assert find_caller(str(repository)).name == "ada@example.org"


def test_the_login_stands_in_where_git_says_nothing_or_nothing_usable(repository: Path) -> None:
    login = pwd.getpwuid(os.getuid()).pw_name
    assert find_caller(str(repository)).name == login
    configure(repository, name="x" * 101)
    assert find_caller(str(repository)).name == login


def test_a_remote_source_is_no_place_to_ask_git_in(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(repository, name="Ada")
    monkeypatch.chdir(repository)
    assert find_caller("https://example.org/fleet.git").name == "Ada"


@pytest.mark.parametrize(("name", "reason"), [("a\nb", ""), ("x" * 101, ""), ("a", "b\x07")])
def test_what_cannot_stand_in_the_log_is_refused_before_anybody_is_asked(
    repository: Path, name: str, reason: str
) -> None:
    with pytest.raises(UsageError, match="see --as, RECONCILER_OPERATOR and --reason"):
        find_caller(str(repository), name, reason)


def test_it_goes_into_the_query() -> None:
    caller = Caller(proven="uid:0", name="A&B", reason="50 %")
    assert with_caller("/api/v1/down", caller) == "/api/v1/down?as=A%26B&reason=50+%25"
    assert with_caller("/api/v1/down?now=1", Caller(proven="uid:0", name="a")) == "/api/v1/down?now=1&as=a"
    assert with_caller("/api/v1/down", Caller(proven="uid:0")) == "/api/v1/down"


def test_without_a_hub_the_reason_is_required_all_the_same() -> None:
    operator = OperatorSpec(audit=OperatorAudit.model_validate({"reasonRequired": True}))
    with pytest.raises(UsageError, match=r"audit\.reasonRequired.*--reason TEXT"):
        check_reason(Caller(proven="uid:0", name="a"), operator)
    check_reason(Caller(proven="uid:0", reason="why"), operator)
    check_reason(Caller(proven="uid:0"), OperatorSpec())


def commands_of(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Each command with its path, such as `agent drain`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def test_no_command_has_an_argument_that_an_option_takes_away() -> None:
    found = dict(commands_of(cli))
    names = {path: [p.name for p in command.params] for path, command in found.items()}
    assert "agent drain" in names
    assert {path: n for path, n in names.items() if len(set(n)) != len(n)} == {}
