"""User ids are stable, unique, and keep instances out of each other's files."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.core.reading import Ok
from reconciler.ports import Mount
from reconciler.runtime.process import ProcessRuntime
from reconciler.runtime.process_uids import UID_BASE, UID_COUNT, allocate_uid

from .process_world import World, eventually, make_spec, needs_root, world

__all__ = ["world"]


def test_a_name_keeps_its_number_and_gets_it_back_when_the_registry_is_lost(tmp_path: Path) -> None:
    first = allocate_uid(tmp_path / "a", UID_BASE, "feedbeef", "writer-0")
    assert allocate_uid(tmp_path / "a", UID_BASE, "feedbeef", "writer-0") == first
    assert allocate_uid(tmp_path / "b", UID_BASE, "feedbeef", "writer-0") == first
    assert UID_BASE < first < UID_BASE + UID_COUNT


def test_no_two_names_get_one_number_however_many_ask_at_once(tmp_path: Path) -> None:
    names = [f"writer-{number}" for number in range(300)]
    with ThreadPoolExecutor(8) as pool:
        uids = list(pool.map(lambda name: allocate_uid(tmp_path, UID_BASE, "feedbeef", name), names * 2))
    assert uids[:300] == uids[300:]
    assert len(set(uids)) == 300


def test_a_number_that_is_taken_goes_to_nobody_else(tmp_path: Path) -> None:
    first = allocate_uid(tmp_path, UID_BASE, "feedbeef", "writer-0")
    (tmp_path / str(first)).write_text("somebody-else")
    second = allocate_uid(tmp_path, UID_BASE, "feedbeef", "writer-0")
    assert second == first + 1
    assert (tmp_path / str(first)).read_text() == "somebody-else"


def test_an_account_of_the_machine_is_never_given_out(tmp_path: Path) -> None:
    first = allocate_uid(tmp_path / "a", UID_BASE, "feedbeef", "writer-0")
    roots_turn = UID_BASE - first
    assert allocate_uid(tmp_path / "b", roots_turn, "feedbeef", "writer-0") > 0


@needs_root
def test_an_instance_runs_with_its_own_user_and_cannot_read_another_ones_files(world: World) -> None:
    secrets = {name: make_secrets(world, name) for name in ("writer-0", "reader-0")}
    for name, other in (("writer-0", "reader-0"), ("reader-0", "writer-0")):
        theirs = (f"{secrets[other]}/agent-token", f"{world.root}/{other}/spec.json", f"{world.root}/{other}/home")
        script = 'id -u; cat "$0"; for path; do ls -l "$path/"; cat "$path"; done'
        mounts = (Mount(source=str(secrets[name]), target="/run/secrets"),)
        world.run("/bin/sh", "-c", script, "/run/secrets/agent-token", *theirs, name=name, mounts=mounts)
    for name in secrets:
        said = world.output(name)
        assert said.startswith(f"{world.runtime.uid_for(name)}\ntoken of {name}\n")
        assert said.count("token of") == 1
        assert said.count("Permission denied") >= 4
    assert world.runtime.uid_for("writer-0") != world.runtime.uid_for("reader-0")


def make_secrets(world: World, name: str) -> Path:
    """As a hub makes them: a directory that only the instance's user may enter."""
    directory = world.directory / f"secrets-{name}"
    directory.mkdir(mode=0o700)
    token = directory / "agent-token"
    token.write_text(f"token of {name}\n")
    token.chmod(0o600)
    for path in (directory, token):
        os.chown(path, world.runtime.uid_for(name), -1)
    return directory


@needs_root
def test_instances_cannot_signal_each_other_or_their_shims(world: World) -> None:
    world.run(name="reader-0")
    pids = f"{world.state('reader-0').pid} {world.shim_pid('reader-0')} {os.getpid()}"
    world.run("/bin/sh", "-c", f"for pid in {pids}; do kill -0 $pid && echo reached; done; echo done")
    assert "reached" not in world.output()


@needs_root
def test_where_no_other_user_can_enter_instances_run_without_their_own_and_the_facts_say_so(
    tmp_path: Path, world: World
) -> None:
    closed = world.directory / "closed"
    closed.mkdir(mode=0o700)
    runtime = ProcessRuntime(world.fleet, closed / "process")
    facts = runtime.facts()
    assert isinstance(facts, Ok)
    assert any("run as root, without capabilities" in sentence for sentence in facts.value.limitations)
    assert runtime.uid_for("writer-0") == 0
    runtime.close()


@needs_root
def test_what_runs_as_root_for_want_of_a_user_has_no_capabilities(world: World) -> None:
    closed = world.directory / "closed"
    closed.mkdir(mode=0o700)
    runtime = ProcessRuntime(world.fleet, closed / "process")
    container_id = runtime.create(make_spec(argv=("/bin/sh", "-c", "id -u; grep CapEff /proc/self/status")))
    runtime.start(container_id)
    eventually(lambda: "CapEff" in runtime.logs(container_id, 10))
    assert runtime.logs(container_id, 10).split() == ["0", "CapEff:", "0" * 16]
    runtime.remove(container_id)
    runtime.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="of an ordinary user")
def test_an_ordinary_users_instances_are_his_own(world: World) -> None:
    assert world.runtime.uid_for("writer-0") == os.geteuid()
