"""What `doctor` says of OPA: whether there is a program, and whether `hub.yaml` needs it."""

import sys
from pathlib import Path

import pytest

from reconciler.cli.doctor import _engine, _mend_engine, _opa
from reconciler.policy.opa_process import PROGRAM_VARIABLE
from reconciler.settings import HubSpec, OperatorSpec

MANAGED = {"opa": {"managed": True}}


@pytest.mark.parametrize(
    ("policy", "good", "said"),
    [
        (None, None, "not installed, and hub.yaml asks none; the embedded engine answers policies"),
        ({}, None, "not installed, and hub.yaml asks none; the embedded engine answers policies"),
        ({"opa": {}}, None, "no program here; asked at http://127.0.0.1:8181"),
        ({**MANAGED, "engines": ["embedded"]}, None, "not installed, and hub.yaml asks none; the embedded engine"),
        (MANAGED, None, "hub.yaml wants the hub to run it, and there is no program; the next engine answers"),
    ],
)
def test_without_a_program(
    policy: dict[str, object] | None, good: bool | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(PROGRAM_VARIABLE, raising=False)
    found = _opa(OperatorSpec(), None if policy is None else HubSpec.model_validate({"policy": policy}))
    assert found[:2] == (good, "opa")
    assert found[2].startswith(said)
    assert bool(found[3]) is (policy == MANAGED)


@pytest.mark.parametrize(
    ("policy", "use"),
    [
        ({}, "hub.yaml asks none"),
        (MANAGED, "the hub runs it"),
        ({"opa": {"url": "unix:///run/opa.sock"}}, "asked at unix:///run/opa.sock"),
    ],
)
def test_with_a_program(policy: dict[str, object], use: str, tmp_path: Path) -> None:
    program = tmp_path / "opa"
    program.write_text(f"#!{sys.executable}\nprint('Version: 1.22.0')\n")
    program.chmod(0o700)
    operator = OperatorSpec.model_validate({"policy": {"opaBinary": str(program)}})
    found = _opa(operator, HubSpec.model_validate({"policy": policy}))
    assert found == (True, "opa", f"1.22 at {program}; {use}", "")


def test_an_engine_that_may_not_be_asked_is_not_to_be_installed() -> None:
    said = "the engine at unix:///run/docker.sock does not answer: Permission denied"
    assert _mend_engine(said) == "usermod -aG docker YOU as root and log in again"


def test_where_no_engine_is_installed_it_is_to_be_and_else_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    (found,) = _engine()
    assert found[2] == f"the engine at unix://{tmp_path}/none.sock does not answer: No such file or directory"
    assert found[3] == "apt-get install docker.io, or run with --allow-process-runtime"
    (tmp_path / "dockerd").touch(mode=0o755)
    assert next(iter(_engine()))[3].startswith("start it: systemctl start docker")
