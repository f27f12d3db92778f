"""A tag that is followed must be signed by a key that the operator trusts, under its own name and for its own commit."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.settings_source import VerifyMode
from reconciler.source.remote import RemoteRepository
from reconciler.source.signature import Keys, split_tag
from reconciler.source.signed import Signatures
from tests.source.remotes import NEVER_S, Shared, head_of, mirror_of
from tests.source.signing import GpgKey, SshKey


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path)


@pytest.fixture
def key(tmp_path: Path) -> SshKey:
    key = SshKey.make(tmp_path, "ada")
    (tmp_path / "signers").write_text(key.line())
    return key


def sign_tag(shared: Shared, key: SshKey, name: str, *target: str) -> None:
    how = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={key.path}")
    shared.work.git(*how, "tag", "--force", "-s", "-m", f"Release {name}", name, *target)
    shared.push({})


def fault(shared: Shared, ref: str, mode: VerifyMode = "head", since: str = "") -> str | None:
    """What is wrong with what is followed, by the keys in `signers`, or in `keys.asc` where that is there."""
    folder = shared.bare.path.parent
    gpg = folder / "keys.asc"
    keys = Keys(allowed_signers=str(folder / "signers"), gpg_keys=str(gpg) if gpg.exists() else None)
    source = RemoteRepository(mirror_of(folder, shared.url, ref), NEVER_S, Signatures(mode, keys))
    try:
        return source.unverified(since, head_of(source).id)
    finally:
        source.close()


@pytest.mark.parametrize("ref", ["tag:v1.2.0", "semver:^1.0"])
def test_a_signed_tag_stands_for_its_commit_and_an_unsigned_one_for_none(shared: Shared, key: SshKey, ref: str) -> None:
    shared.work.git("tag", "v1.1.0")
    sign_tag(shared, key, "v1.2.0")
    assert fault(shared, ref) is None
    shared.work.git("tag", "--force", "v1.2.0")
    shared.push({})
    assert fault(shared, ref) == "tag 'v1.2.0' is refused: it is not signed; make it with git tag -s"
    shared.work.git("tag", "--force", "-a", "-m", "annotated", "v1.2.0")
    shared.push({})
    assert fault(shared, ref) == "tag 'v1.2.0' is refused: it is not signed"


def test_a_signed_commit_does_not_stand_for_its_tag(shared: Shared, key: SshKey) -> None:
    key.sign(shared.work)
    shared.work.git("tag", "v1")
    shared.push({})
    assert fault(shared, "tag:v1") == "tag 'v1' is refused: it is not signed; make it with git tag -s"
    assert fault(shared, "main") is None


def test_by_range_the_tag_and_each_new_commit_count(shared: Shared, key: SshKey) -> None:
    first = shared.work.git("rev-parse", "HEAD")
    unsigned = shared.push({"hub.yaml": "a: 2\n"})
    sign_tag(shared, key, "v1")
    assert fault(shared, "tag:v1") is None
    assert f"commit {unsigned[:12]}" in (fault(shared, "tag:v1", "range", first) or "")
    signed = key.sign(shared.work)
    sign_tag(shared, key, "v1")
    assert fault(shared, "tag:v1", "range", unsigned) is None
    assert signed == shared.work.git("rev-parse", "v1^{commit}")


def test_a_signed_tag_under_another_name_is_refused(shared: Shared, key: SshKey) -> None:
    sign_tag(shared, key, "v1.0.0")
    old = shared.work.git("rev-parse", "v1.0.0")
    shared.push({"hub.yaml": "a: 2\n"})
    shared.work.git("update-ref", "refs/tags/v9.0.0", old)
    shared.push({})
    said = "tag 'v9.0.0' is refused: it says that it is another one, or of another commit"
    assert fault(shared, "tag:v9.0.0") == said
    assert fault(shared, "semver:>=1.0.0") == said


def test_a_tag_of_a_tag_is_refused(shared: Shared, key: SshKey) -> None:
    sign_tag(shared, key, "inner")
    sign_tag(shared, key, "outer", "inner")
    assert "another one, or of another commit" in (fault(shared, "tag:outer") or "")


def _of_somebody_else(shared: Shared, key: SshKey) -> str:
    sign_tag(shared, SshKey.make(shared.bare.path.parent, "eve"), "v1")
    return "it is signed by a key that is not among allowedSigners"


def _of_a_key_that_has_expired(shared: Shared, key: SshKey) -> str:
    (shared.bare.path.parent / "signers").write_text(key.line('valid-before="20200101"'))
    sign_tag(shared, key, "v1")
    return "it is signed by a key that has expired"


def _changed_afterwards(shared: Shared, key: SshKey) -> str:
    sign_tag(shared, key, "v1")
    text = shared.work.run("cat-file", "tag", "v1").stdout.replace(b"Release", b"Rebuilt")
    made = shared.work.git("hash-object", "-t", "tag", "-w", "--stdin", stdin=text)
    shared.work.git("update-ref", "refs/tags/v1", made)
    shared.push({})
    return "its signature is refused: "


@pytest.mark.parametrize("spoil", [_of_somebody_else, _of_a_key_that_has_expired, _changed_afterwards])
def test_a_tag_is_refused_for_what_a_commit_would_be(
    shared: Shared, key: SshKey, spoil: Callable[[Shared, SshKey], str]
) -> None:
    said = spoil(shared, key)
    assert (fault(shared, "tag:v1") or "").startswith(f"tag 'v1' is refused: {said}")


def test_a_tag_may_be_signed_with_openpgp(shared: Shared, key: SshKey, tmp_path: Path) -> None:
    gpg = GpgKey.make(tmp_path, "ring")
    try:
        (tmp_path / "keys.asc").write_bytes(gpg.public())
        shared.work.git("tag", "-a", "-m", "Release v1", "v1")
        plain = shared.work.run("cat-file", "tag", "v1").stdout
        signed = plain + gpg.gpg("--armor", "--detach-sign", stdin=plain)
        made = shared.work.git("hash-object", "-t", "tag", "-w", "--stdin", stdin=signed)
        shared.work.git("update-ref", "refs/tags/v1", made)
        shared.push({})
        assert fault(shared, "tag:v1") is None
    finally:
        gpg.close()


def test_the_signature_of_a_tag_is_what_its_last_beginning_begins() -> None:
    begin = b"-----BEGIN SSH SIGNATURE-----\n"
    assert split_tag(b"tag v1\n\nhello\n") == (b"tag v1\n\nhello\n", b"")
    assert split_tag(b"a\n" + begin + b"x\n" + begin + b"y\n") == (b"a\n" + begin + b"x\n", begin + b"y\n")
    assert split_tag(b"a " + begin) == (b"a " + begin, b"")
