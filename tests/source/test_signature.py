"""Whose signature a commit carries, with the real ssh-keygen and gpg."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import SourceError
from reconciler.source.signature import Bad, Good, Keys, check_signature, split_commit
from tests.source.repo import Repo, make_repo
from tests.source.signing import GpgKey, SshKey, put_commit, with_signature


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo", {"hub.yaml": "a: 1\n"})


@pytest.fixture
def ssh(tmp_path: Path) -> SshKey:
    return SshKey.make(tmp_path, "ada")


@pytest.fixture(scope="module")
def rings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, GpgKey]]:
    """Key rings are slow to make. `old` was valid for a day of 2020."""
    folder = tmp_path_factory.mktemp("k")
    keys = {name: GpgKey.make(folder, name) for name in ("bea", "eve")}
    keys["old"] = GpgKey.make(folder, "old", expires="2020-01-02", at="20200101T000000")
    yield keys
    for key in keys.values():
        key.close()


def raw(repo: Repo, commit: str) -> bytes:
    return repo.run("cat-file", "commit", commit).stdout


def allowed(folder: Path, *lines: str) -> Keys:
    (folder / "signers").write_text("".join(lines))
    return Keys(allowed_signers=str(folder / "signers"))


def ring(folder: Path, *keys: GpgKey) -> Keys:
    (folder / "keys.asc").write_bytes(b"".join(k.public() for k in keys))
    return Keys(gpg_keys=str(folder / "keys.asc"))


def reason(commit: bytes, keys: Keys) -> str:
    verdict = check_signature(commit, keys)
    assert isinstance(verdict, Bad), verdict
    return verdict.reason


def test_an_allowed_signer_is_named(repo: Repo, ssh: SshKey, tmp_path: Path) -> None:
    keys = allowed(tmp_path, SshKey.make(tmp_path, "bob").line(), ssh.line('namespaces="git"'))
    assert check_signature(raw(repo, ssh.sign(repo)), keys) == Good(signer="ada@example.org")


def test_what_is_not_signed_by_an_allowed_signer_is_refused(repo: Repo, ssh: SshKey, tmp_path: Path) -> None:
    signed = raw(repo, ssh.sign(repo))
    others = allowed(tmp_path, SshKey.make(tmp_path, "bob").line())
    assert reason(signed, others) == "it is signed by a key that is not among allowedSigners"
    assert reason(raw(repo, repo.commit()), others) == "it is not signed"
    assert reason(signed, Keys(gpg_keys="/none")) == "it is signed with ssh, and the operator names no allowedSigners"
    assert 'namespace "git"' in reason(signed, allowed(tmp_path, ssh.line('namespaces="file"')))


def test_a_signature_of_another_content_is_refused(repo: Repo, ssh: SshKey, tmp_path: Path) -> None:
    signed = raw(repo, ssh.sign(repo))
    keys = allowed(tmp_path, ssh.line())
    assert "its signature is refused" in reason(signed.replace(b"Signed", b"Forged"), keys)
    assert "its signature is refused" in reason(signed.replace(b"Ada", b"Eve"), keys)


def test_a_key_that_has_expired_signs_nothing_any_more_whatever_date_the_commit_bears(
    repo: Repo, ssh: SshKey, tmp_path: Path
) -> None:
    signed = raw(repo, ssh.sign(repo))
    assert b"committer Bob <bob@example.org> 1700000060" in signed
    keys = allowed(tmp_path, ssh.line('valid-before="20240101"'))
    assert "it is signed by a key that has expired" in reason(signed, keys)
    assert isinstance(check_signature(signed, allowed(tmp_path, ssh.line('valid-before="20990101"'))), Good)
    assert isinstance(check_signature(signed, allowed(tmp_path, ssh.line('valid-after="20980101"'))), Bad)


def test_an_openpgp_key_is_named_by_its_fingerprint(repo: Repo, rings: dict[str, GpgKey], tmp_path: Path) -> None:
    commit = raw(repo, rings["bea"].sign(repo))
    verdict = check_signature(commit, ring(tmp_path, rings["eve"], rings["bea"]))
    assert isinstance(verdict, Good)
    assert len(verdict.signer) == 40
    assert "not among gpgKeys" in reason(commit, ring(tmp_path, rings["eve"]))
    assert reason(commit.replace(b"Signed", b"Forged"), ring(tmp_path, rings["bea"])) == (
        "its signature does not fit it"
    )
    assert "the operator names no gpgKeys" in reason(commit, Keys(allowed_signers="/none"))


def test_an_openpgp_key_that_has_expired_is_refused(repo: Repo, rings: dict[str, GpgKey], tmp_path: Path) -> None:
    commit = raw(repo, rings["old"].sign(repo, at="20200101T120000"))
    assert reason(commit, ring(tmp_path, rings["old"])) == "it is signed by a key that has expired"


def test_malformed_signatures_are_refused(repo: Repo, ssh: SshKey, tmp_path: Path) -> None:
    plain = raw(repo, repo.commit())
    keys = allowed(tmp_path, ssh.line())
    for signature in (
        b"",
        b"nothing",
        b"-----BEGIN SSH SIGNATURE-----",
        b"-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----",
        b"-----BEGIN SSH SIGNATURE-----\n" + b"A" * 100_000,
        b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----",
    ):
        assert isinstance(check_signature(with_signature(plain, signature), keys), Bad)


def test_two_signatures_are_one_too_many(repo: Repo, ssh: SshKey, tmp_path: Path) -> None:
    signed = raw(repo, ssh.sign(repo))
    twice = with_signature(signed, b"-----BEGIN SSH SIGNATURE-----")
    assert reason(twice, allowed(tmp_path, ssh.line())) == "its signature is malformed"


def test_what_was_signed_is_the_commit_without_the_signature(repo: Repo, ssh: SshKey) -> None:
    signed = raw(repo, ssh.sign(repo))
    payload, signatures = split_commit(signed)
    assert b"gpgsig" not in payload
    assert with_signature(payload, signatures[0]) == signed
    merge = b"tree 1\nmergetag object 2\n gpgsig inside\n\n folded\nauthor a\n\ngpgsig in the message\n"
    assert split_commit(merge)[1] == []
    assert put_commit(repo, signed) == repo.git("rev-parse", "main")


def test_keys_that_cannot_be_read_are_an_error_with_their_place(repo: Repo, ssh: SshKey, tmp_path: Path) -> None:
    signed = raw(repo, ssh.sign(repo))
    for keys in (Keys(allowed_signers=f"{tmp_path}/none"), Keys(allowed_signers=str(tmp_path))):
        with pytest.raises(SourceError, match=f"reading the keys in {tmp_path}"):
            check_signature(signed, keys)
        with pytest.raises(SourceError, match="reading the keys in"):
            keys.digest()
