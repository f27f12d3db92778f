"""Speaking to servers: what they are shown, what they can make happen, and what is said of them."""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from reconciler.core.origin import parse_origin
from reconciler.errors import SourceError
from reconciler.settings_source import Credentials
from reconciler.source.transfer import Remote
from tests.source.remotes import Shared, await_that
from tests.source.repo import Repo
from tests.source.servers import PASSWORD, USER, GitServer, make_ssh


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path)


@pytest.fixture
def server(shared: Shared, tmp_path: Path) -> Iterator[GitServer]:
    made = GitServer(tmp_path / "server", shared.bare.path.parent)
    yield made
    made.close()


@pytest.fixture
def git_dir(tmp_path: Path) -> str:
    return str(Repo(tmp_path / "ours", "init", "--quiet", "--bare").path)


def remote_of(server: GitServer, **credentials: object) -> Remote:
    given = Credentials.model_validate({"caFile": server.ca_file, **credentials})
    return Remote(origin=parse_origin(server.url("shared.git")), credentials=given)


def test_a_password_is_read_from_its_file_each_time(server: GitServer, git_dir: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    remote = remote_of(server, file=str(file))
    with pytest.raises(SourceError, match=f"reading source.credentials.file {file}: No such file"):
        remote.list_refs(git_dir)
    file.write_text(f"{USER}:{PASSWORD}\n")
    remote.fetch(git_dir, ["+refs/heads/main:refs/remote/tip"])
    assert list(remote.list_refs(git_dir, "refs/heads/*")) == ["refs/heads/main"]
    file.write_text(f"{USER}:wrong-{PASSWORD}")
    with pytest.raises(SourceError, match="listing https://127") as caught:
        remote.list_refs(git_dir)
    assert PASSWORD not in str(caught.value)
    assert server.seen[-1] in ("", f"{USER}:wrong-{PASSWORD}")


def test_a_program_may_print_the_password(server: GitServer, git_dir: str, tmp_path: Path) -> None:
    program = tmp_path / "ask"
    program.write_text(f"#!/bin/sh\necho {USER}:{PASSWORD}\n")
    program.chmod(0o755)
    assert remote_of(server, command=[str(program)]).list_refs(git_dir, "refs/heads/*")
    with pytest.raises(SourceError, match="it ended with 1"):
        remote_of(server, command=["/bin/false"]).list_refs(git_dir)


def test_a_token_alone_is_a_password(server: GitServer, git_dir: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("glpat-123")
    with pytest.raises(SourceError):
        remote_of(server, file=str(tmp_path / "token")).list_refs(git_dir)
    assert "git:glpat-123" in server.seen


def test_a_secret_is_neither_on_a_command_line_nor_in_an_environment(
    server: GitServer, git_dir: str, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(f"{USER}:{PASSWORD}")
    found: list[Path] = []
    looked: list[Path] = []

    def look() -> None:
        for file in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
            with suppress(OSError):
                content = file.read_bytes()
                looked.extend([file] if b"git-remote-https" in content else [])
                found.extend([file] if PASSWORD.encode() in content else [])

    server.before_answer = look
    remote_of(server, file=str(tmp_path / "password")).list_refs(git_dir)
    assert f"{USER}:{PASSWORD}" in server.seen
    assert looked != []
    assert found == []


def test_redirects_are_not_followed(server: GitServer, git_dir: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{USER}:{PASSWORD}")
    server.answer = 302
    with pytest.raises(SourceError, match="listing https://127"):
        remote_of(server, file=str(tmp_path / "password")).list_refs(git_dir)
    assert all(not seen for seen in server.seen)


def test_a_server_that_nobody_vouches_for_is_not_spoken_to(server: GitServer, git_dir: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(f"{USER}:{PASSWORD}")
    remote = remote_of(server, file=str(tmp_path / "password"))
    remote.credentials = Credentials(file=str(tmp_path / "password"))
    with pytest.raises(SourceError, match="certificate"):
        remote.list_refs(git_dir)
    assert server.seen == []


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff\xfe", b"a\0b"])
def test_what_is_no_secret_is_refused_and_not_shown(
    server: GitServer, git_dir: str, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "password").write_bytes(content)
    with pytest.raises(SourceError, match="it is one line, a token or user:password"):
        remote_of(server, file=str(tmp_path / "password")).list_refs(git_dir)


def test_ssh_gets_the_operators_key_and_known_hosts_and_nobody_elses(shared: Shared, tmp_path: Path) -> None:
    remote = Remote(
        origin=parse_origin(f"ssh://git@forge.example.org:2222{shared.bare.path}"),
        credentials=Credentials.model_validate({"file": "/keys/a b", "knownHosts": "/keys/hosts"}),
        ssh=str(make_ssh(tmp_path)),
    )
    git_dir = str(Repo(tmp_path / "ours", "init", "--quiet", "--bare").path)
    remote.fetch(git_dir, ["+refs/heads/main:refs/remote/tip"])
    said = (tmp_path / "arguments").read_text().split("\n")
    for wanted in (
        "IdentityFile=/keys/a b",
        "UserKnownHostsFile=/keys/hosts",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=yes",
        "IdentityAgent=none",
        "BatchMode=yes",
        "git@forge.example.org",
    ):
        assert wanted in said, said
    assert said[:2] == ["-F", "/dev/null"]


def test_only_the_transport_of_the_address_is_allowed(shared: Shared, tmp_path: Path) -> None:
    git_dir = str(Repo(tmp_path / "ours", "init", "--quiet", "--bare").path)
    Repo(Path(git_dir)).git("config", "url.ext::sh -c 'touch ran' .insteadOf", "file://")
    with pytest.raises(SourceError, match="transport 'ext' not allowed"):
        Remote(origin=parse_origin(shared.url)).list_refs(git_dir)


def test_what_is_under_way_is_ended_with_all_its_processes(shared: Shared, tmp_path: Path) -> None:
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 3600\n")
    program.chmod(0o755)
    remote = Remote(origin=parse_origin("ssh://forge.example.org/x"), ssh=str(program))
    git_dir = str(shared.bare.path)
    said: list[str] = []

    def ask() -> None:
        try:
            remote.list_refs(git_dir)
        except SourceError as exc:
            said.append(str(exc))

    thread = threading.Thread(target=ask)
    thread.start()
    await_that(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    remote.stop()
    thread.join(120)
    assert said[0].startswith("listing ssh://forge.example.org/x")
    pid = int((tmp_path / "pid").read_text())
    await_that(lambda: not os.path.exists(f"/proc/{pid}") or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])
