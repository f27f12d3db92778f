"""Which commits must be signed by each mode, and that a change of keys is noticed."""

from pathlib import Path

import pytest

from reconciler.errors import SourceError
from reconciler.settings_source import Verify, VerifyMode
from reconciler.source.repository import LocalRepository
from reconciler.source.signature import Keys
from reconciler.source.signed import Signatures, open_signatures
from tests.source.repo import Repo, make_repo
from tests.source.signing import SshKey


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo", {"hub.yaml": "a: 1\n"})


@pytest.fixture
def key(tmp_path: Path) -> SshKey:
    key = SshKey.make(tmp_path, "ada")
    (tmp_path / "signers").write_text(key.line())
    return key


def fault(repo: Repo, mode: VerifyMode, since: str, revision: str) -> str | None:
    keys = Keys(allowed_signers=str(repo.path.parent / "signers"))
    source = LocalRepository(str(repo.path), "main", signatures=Signatures(mode, keys))
    try:
        return source.unverified(since, revision)
    finally:
        source.close()


def test_by_head_only_the_newest_commit_counts(repo: Repo, key: SshKey) -> None:
    first = repo.git("rev-parse", "HEAD")
    repo.commit(message="Unsigned")
    signed = key.sign(repo)
    assert fault(repo, "head", first, signed) is None
    unsigned = repo.commit(message="Careless")
    said = fault(repo, "head", first, unsigned)
    assert said == f"commit {unsigned[:12]} ('Careless', by Ada <ada@example.org>) is refused: it is not signed"


def test_by_range_each_new_commit_counts_and_the_oldest_fault_is_told(repo: Repo, key: SshKey) -> None:
    first = key.sign(repo)
    second, third = key.sign(repo), key.sign(repo)
    assert fault(repo, "range", first, third) is None
    bad = repo.commit(message="Bad")
    repo.commit(message="Worse")
    last = key.sign(repo)
    assert f"commit {bad[:12]} ('Bad'" in (fault(repo, "range", second, last) or "")
    assert fault(repo, "range", last, last) is None
    assert fault(repo, "range", "", last) is None


def test_by_merge_only_the_first_parents_count(repo: Repo, key: SshKey) -> None:
    base = key.sign(repo)
    repo.git("checkout", "--quiet", "-b", "topic")
    unsigned = repo.commit(message="On the branch")
    repo.git("checkout", "--quiet", "main")
    merged = key.sign(repo, "merge", "--quiet", "--no-ff", "-m", "Merge", "topic")
    assert fault(repo, "merge", base, merged) is None
    assert f"commit {unsigned[:12]}" in (fault(repo, "range", base, merged) or "")
    direct = repo.commit(message="Straight to main")
    last = key.sign(repo)
    assert f"commit {direct[:12]}" in (fault(repo, "merge", base, last) or "")


def test_what_is_new_cannot_be_told_without_what_was(repo: Repo, key: SshKey) -> None:
    with pytest.raises(SourceError, match="listing the commits after 111111111111"):
        fault(repo, "range", "1" * 40, key.sign(repo))


def test_a_key_that_is_taken_away_signs_nothing_more(repo: Repo, key: SshKey, tmp_path: Path) -> None:
    signed = key.sign(repo)
    signatures = Signatures("head", Keys(allowed_signers=str(tmp_path / "signers")))
    source = LocalRepository(str(repo.path), "main", signatures=signatures)
    assert source.unverified("", signed) is None
    (tmp_path / "signers").write_text(SshKey.make(tmp_path, "bob").line())
    assert "not among allowedSigners" in (source.unverified("", signed) or "")
    source.close()


def test_a_branch_may_have_a_mode_of_its_own() -> None:
    verify = Verify.model_validate(
        {"mode": "head", "allowedSigners": "/signers", "branches": {"try/*": "off", "main": "range"}}
    )
    assert [verify.mode_of(r) for r in ("main", "try/x", "tag:v1")] == ["range", "off", "head"]
    assert open_signatures(verify, "try/x") is None
    assert open_signatures(verify, "main") is not None
