"""The section `source` of operator.yaml."""

from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import UsageError
from reconciler.home import data_folder, followed, open_followed, read_operator
from reconciler.settings_source import OperatorSource

URL = "https://forge.example.org/fleet.git"


def problems(tmp_path: Path, source: str) -> list[str]:
    file = tmp_path / "operator.yaml"
    file.write_text(f"apiVersion: reconciler/v1\nkind: Operator\nspec:\n  source: {source}\n")
    return [str(p).partition("operator.yaml:")[2] for p in read_operator(str(file))[1]]


def test_everything_may_be_said_of_a_remote_repository(tmp_path: Path) -> None:
    text = (
        f"{{url: '{URL}', ref: 'semver:^1.2', path: fleets/a, poll: 5m, depth: 50, maxSize: 1GiB, forcePush: accept, "
        "credentials: {file: /k/token, caFile: /k/ca.pem}, "
        "verify: {mode: range, allowedSigners: /k/signers, gpgKeys: /k/keys.asc, branches: {'try/*': off}}, "
        "webhook: {forge: gitea, listen: 'tcp://10.0.0.1:8480', secretFile: /k/hook}}"
    )
    assert problems(tmp_path, text) == []
    source = read_operator(str(tmp_path / "operator.yaml"))[0].source
    assert source.origin is not None
    assert (source.origin.scheme, source.followed.kind, source.poll, source.depth) == ("https", "semver", 300.0, 50)


def test_the_defaults_are_those_of_a_directory() -> None:
    source = OperatorSource()
    assert (source.origin, source.verify.mode, source.webhook, source.force_push) == (None, "off", None, "hold")
    assert OperatorSource.model_validate({"url": URL}).followed.name == "main"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{url: 'http://forge.example.org/x'}", "4:12: spec.source.url: is http, which anybody on the way can change"),
        ("{url: 'https://a:hunter2@forge.example.org/x'}", "has a password in it; put it into the file"),
        ("{url: 'ext::sh -c x'}", "is no address of a repository; write https://host/path"),
        ("{ref: 'commit:abc'}", "write the full commit id"),
        ("{ref: '-x'}", "cannot be a branch"),
        ("{path: ../x}", "which is not a valid value here"),
        ("{path: /x}", "which is not a valid value here"),
        ("{verify: {mode: head}}", "verify names no keys; write allowedSigners"),
        ("{verify: {mode: always}}", "expected 'off', 'head', 'range' or 'merge'"),
        ("{credentials: {file: token}}", "must match ^/"),
        ("{credentials: {file: /a, command: [/b]}}", "either 'file' or 'command', not both"),
        ("{credentials: {command: [pass, show]}}", "begins with the absolute path of a program"),
        ("{webhook: {forge: github, secretFile: /k}}", "source.webhook is for a remote repository"),
        (f"{{url: '{URL}', webhook: {{forge: sourcehut, secretFile: /k}}}}", "expected 'github', 'gitlab' or 'gitea'"),
        (f"{{url: '{URL}', webhook: {{forge: github}}}}", "secretFile is missing"),
        ("{url: 'git@forge.example.org:x', credentials: {command: [/b]}}", "credentials.command is for https"),
    ],
)
def test_what_cannot_be_meant_is_a_problem_with_its_place(tmp_path: Path, source: str, said: str) -> None:
    found = problems(tmp_path, source)
    assert len(found) == 1
    assert said in found[0]
    assert "hunter2" not in found[0]


def test_what_the_command_line_names_goes_before_what_the_operator_does() -> None:
    operator = OperatorSource.model_validate({"url": URL, "ref": "stable"})
    assert followed(".", operator).url == URL
    assert followed("/srv/fleet", operator).url == "/srv/fleet"
    other = followed("ssh://git@forge.example.org/other", operator)
    assert (other.url, other.ref) == ("ssh://git@forge.example.org/other", "stable")
    with pytest.raises(UsageError, match="--source is http"):
        followed("http://forge.example.org/x", operator)


def test_data_of_a_remote_repository_is_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_folder(URL, None) == tmp_path / ".reconciler"


def test_a_plain_directory_cannot_be_followed_by_signatures(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"url": str(tmp_path), "verify": {"mode": "head", "allowedSigners": "/k"}}
    with pytest.raises(UsageError, match=r"is no repository, but source\.verify asks for signed commits"):
        open_followed(OperatorSource.model_validate(settings), tmp_path, None)
