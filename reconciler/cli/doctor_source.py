"""`doctor` on a remote repository: whether it can be reached, and whether what opens and verifies it is there."""

import os
import shutil
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.settings_source import OperatorSource

Check = tuple[bool | None, str, str, str]


def check_source(source: "OperatorSource", state: "Path") -> Iterator[Check]:
    """Asks the remote once; changes nothing. `state` is the data directory."""
    yield from _files(source)
    yield from _programs(source)
    if source.origin is not None:
        yield _reach(source, state)


def _files(source: "OperatorSource") -> Iterator[Check]:
    given, verify, webhook = source.credentials, source.verify, source.webhook
    secrets = {"credentials.file": given.file, "webhook.secretFile": webhook.secret_file if webhook else None}
    others = {
        "credentials.knownHosts": given.known_hosts,
        "credentials.caFile": given.ca_file,
        "verify.allowedSigners": verify.allowed_signers,
        "verify.gpgKeys": verify.gpg_keys,
    }
    for name, path in {**secrets, **others}.items():
        if path is None:
            continue
        if not os.access(path, os.R_OK) or not os.path.isfile(path):
            yield False, f"source.{name}", f"{path} cannot be read", f"put it there, or mend source.{name}"
        elif name in secrets and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
            yield None, f"source.{name}", f"{path} can be read by others", f"chmod 600 {path}"


def _programs(source: "OperatorSource") -> Iterator[Check]:
    is_ssh = source.origin is not None and source.origin.scheme == "ssh"
    for program, package, is_needed in (
        ("ssh", "openssh-client", is_ssh),
        ("ssh-keygen", "openssh-client", source.verify.allowed_signers is not None),
        ("gpg", "gnupg", source.verify.gpg_keys is not None),
    ):
        if is_needed and shutil.which(program) is None:
            yield False, program, "not installed, and operator.yaml needs it", f"apt-get install {package}"


def _reach(source: "OperatorSource", state: "Path") -> Check:
    from reconciler.errors import SourceError
    from reconciler.home import MIRROR
    from reconciler.source.remote import open_mirror

    try:
        refs = open_mirror(source, str(state / MIRROR)).list_refs()
    except SourceError as exc:
        return False, "remote", str(exc), "see docs/operating.md, Following a remote repository"
    wanted = {"branch": f"refs/heads/{source.followed.name}", "tag": f"refs/tags/{source.followed.name}"}
    name = wanted.get(source.followed.kind)
    if name is not None and name not in refs:
        return False, "remote", f"{source.url} has no {source.followed}", "push it, or mend source.ref"
    return True, "remote", f"{source.url} answers; {source.followed} is followed", ""
