"""What `doctor` says of a remote repository, and of the files that open and verify it."""

from pathlib import Path

from reconciler.cli.doctor_source import check_source
from reconciler.settings_source import OperatorSource
from tests.source.remotes import Shared


def checks(state: Path, **source: object) -> dict[str, tuple[bool | None, str]]:
    settings = OperatorSource.model_validate(source)
    return {subject: (good, text) for good, subject, text, _ in check_source(settings, state)}


def test_a_remote_that_answers_is_well(tmp_path: Path) -> None:
    shared = Shared(tmp_path)
    shared.work.git("tag", "v1")
    shared.push({})
    for ref, shown in (("main", "main"), ("tag:v1", "tag:v1"), ("semver:^1", "semver:^1")):
        assert checks(tmp_path, url=shared.url, ref=ref)["remote"] == (
            True,
            f"{shared.url} answers; {shown} is followed",
        )
    assert checks(tmp_path, url=shared.url, ref="none")["remote"] == (False, f"{shared.url} has no none")
    shared.bare.path.rename(tmp_path / "away")
    good, text = checks(tmp_path, url=shared.url)["remote"]
    assert not good
    assert text.startswith(f"listing {shared.url}: ")
    assert not (tmp_path / "mirror").exists()


def test_a_secret_that_others_can_read_is_a_note_and_a_missing_one_a_failure(tmp_path: Path) -> None:
    token, signers = tmp_path / "token", tmp_path / "signers"
    token.write_text("x")
    token.chmod(0o644)
    signers.write_text("x")
    verify = {"mode": "head", "allowedSigners": str(signers)}
    source = {"url": str(tmp_path), "credentials": {"file": str(token)}, "verify": verify}
    assert checks(tmp_path, **source) == {"source.credentials.file": (None, f"{token} can be read by others")}
    token.chmod(0o600)
    assert checks(tmp_path, **source) == {}
    signers.unlink()
    assert checks(tmp_path, **source) == {"source.verify.allowedSigners": (False, f"{signers} cannot be read")}


def test_a_directory_has_nothing_to_be_looked_at(tmp_path: Path) -> None:
    assert checks(tmp_path) == {}
