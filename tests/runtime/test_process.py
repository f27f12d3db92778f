"""What is special about containers that are processes; the rest is in the contract."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.errors import RuntimeRefusedError
from reconciler.ports import Limits, Mount
from reconciler.runtime.process import ProcessRuntime

from .process_world import World, eventually, make_spec, world

__all__ = ["world"]


def test_a_program_that_is_not_there_is_refused_by_name(world: World) -> None:
    container_id = world.runtime.create(make_spec(argv=("no-such-program", "x")))
    with pytest.raises(RuntimeRefusedError, match=r"writer-0.*'no-such-program': No such file or directory"):
        world.runtime.start(container_id)
    assert world.state().state == "created"


def test_a_program_that_is_no_program_is_refused(world: World) -> None:
    (world.directory / "notes.txt").write_text("not a program")
    mounts = (Mount(source=str(world.directory), target="/opt"),)
    container_id = world.runtime.create(make_spec(argv=("/opt/notes.txt",), mounts=mounts))
    with pytest.raises(RuntimeRefusedError, match="Permission denied"):
        world.runtime.start(container_id)


def test_a_working_directory_that_is_not_there_is_refused(world: World) -> None:
    container_id = world.runtime.create(make_spec(working_dir="/no/such/place"))
    with pytest.raises(RuntimeRefusedError, match=r"cannot enter '/no/such/place': No such file or directory"):
        world.runtime.start(container_id)


def test_an_argument_that_cannot_be_passed_is_refused(world: World) -> None:
    container_id = world.runtime.create(make_spec(argv=("/bin/echo", "a\0b")))
    with pytest.raises(RuntimeRefusedError, match="NUL"):
        world.runtime.start(container_id)


def test_a_mount_whose_source_is_not_there_is_refused(world: World) -> None:
    with pytest.raises(RuntimeRefusedError, match="/no/such/place does not exist"):
        world.runtime.create(make_spec(mounts=(Mount(source="/no/such/place", target="/run/hub"),)))
    assert world.listed() == []


@pytest.mark.parametrize("name", ["../elsewhere", ".hidden", "", "a/b", "a@b"])
def test_a_name_that_is_no_file_name_is_refused_and_never_looked_for(world: World, name: str) -> None:
    with pytest.raises(RuntimeRefusedError):
        world.runtime.create(make_spec(name=name))
    if "@" not in name:
        assert world.runtime.inspect(name) == Absent()
    world.runtime.stop(name, 0)
    world.runtime.remove(name)


def test_an_image_of_another_runtime_is_refused(world: World) -> None:
    with pytest.raises(RuntimeRefusedError, match="another runtime's image"):
        world.runtime.create(make_spec(image_id="sha256:" + "1" * 64))


def test_every_reference_resolves_to_the_version_of_agentd(world: World) -> None:
    first = world.runtime.resolve_image("agents/base:1")
    assert first == world.runtime.resolve_image("anything:2")
    assert isinstance(first, Ok)
    world.runtime.create(make_spec(image_id=first.value))


def test_output_is_kept_up_to_two_files_of_the_cap(world: World) -> None:
    runtime = ProcessRuntime(world.fleet, world.root, log_bytes=100_000)
    container_id = runtime.create(make_spec(argv=("/bin/sh", "-c", "seq 1 100000; echo last")))
    runtime.start(container_id)
    world.await_exit()
    sizes = [(world.root / "writer-0" / name).stat().st_size for name in ("log", "log.1")]
    assert all(size <= 100_000 for size in sizes)
    assert sum(sizes) > 50_000
    lines = runtime.logs(container_id, 1000).splitlines()
    assert (lines[-2:], len(lines)) == (["100000", "last"], 1000)
    runtime.close()


def test_home_and_tmp_are_private_and_empty_at_each_start(world: World) -> None:
    script = 'ls -A "$HOME" "$TMPDIR" . && touch "$HOME/x" "$TMPDIR/y" && stat -c %a "$HOME" "$TMPDIR"'
    container_id = world.run("/bin/sh", "-c", script)
    first = world.output()
    assert first.split()[-2:] == ["700", "700"]
    assert "x" not in first.split()
    world.runtime.start(container_id)
    assert world.output() == first * 2


def test_paths_of_mounts_become_paths_of_this_machine(world: World) -> None:
    hub = world.directory / "hub"
    hub.mkdir()
    (hub / "note").write_text("hello\n")
    world.run(
        "/bin/sh",
        "-c",
        'cat "$1" && echo "$HUB_SOCKET"',
        "sh",
        "/run/hub/note",
        env={"HUB_SOCKET": "/run/hub/hub.sock"},
        mounts=(Mount(source=str(hub), target="/run/hub"),),
    )
    assert world.output() == f"hello\n{hub}/hub.sock\n"


def test_a_changed_spec_file_is_drift(world: World) -> None:
    spec = make_spec(env={"LOG_LEVEL": "info"})
    world.runtime.create(spec)
    file = world.root / "writer-0" / "spec.json"
    content = json.loads(file.read_text())
    content["spec"]["env"]["LOG_LEVEL"] = "debug"
    file.write_text(json.dumps(content))
    changed = replace(spec, env={"LOG_LEVEL": "debug"})
    assert world.state().fields == world.runtime.normalise(changed) != world.runtime.normalise(spec)


@pytest.mark.parametrize("damage", [lambda file: file.write_text("{"), Path.unlink], ids=["garbled", "gone"])
def test_a_damaged_container_is_listed_differs_from_any_spec_and_can_be_removed(
    world: World, damage: Callable[[Path], object]
) -> None:
    container_id = world.run()
    damage(world.root / "writer-0" / "spec.json")
    [summary] = world.listed()
    assert (summary.name, summary.state, summary.labels) == ("writer-0", "running", {})
    assert world.state().fields == {}
    with pytest.raises(RuntimeRefusedError, match="damaged"):
        world.runtime.start(container_id)
    world.runtime.remove(summary.id)
    assert world.listed() == []
    assert world.processes() == set()


def test_a_container_of_another_fleet_in_the_same_directory_is_not_touched(world: World) -> None:
    container_id = world.run()
    stranger = ProcessRuntime("feedbeef", world.root)
    assert stranger.list() == Ok([])
    assert stranger.inspect("writer-0") == Absent()
    stranger.remove(container_id)
    assert world.state().state == "running"
    stranger.close()


def test_an_id_of_a_container_that_was_replaced_means_nobody(world: World) -> None:
    old = world.run()
    world.runtime.remove(old)
    world.run()
    world.runtime.stop(old, 0)
    world.runtime.remove(old)
    assert world.state().state == "running"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_directory_that_cannot_be_read_is_unavailable_not_empty(world: World) -> None:
    world.runtime.create(make_spec())
    world.root.chmod(0)
    assert isinstance(world.runtime.list(), Unavailable)
    world.root.chmod(0o711)


def test_a_file_in_place_of_the_directory_is_unavailable_not_empty(world: World) -> None:
    file = world.directory / "file"
    file.touch()
    assert isinstance(ProcessRuntime(world.fleet, file).list(), Unavailable)


def test_a_thousand_containers_are_listed_at_once(world: World) -> None:
    for number in range(1000):
        world.runtime.create(make_spec(name=f"writer-{number}", env={"HUB_CONFIG": "x" * 1000}))
    running = [f"writer-{number}" for number in range(5)]
    for name in running:
        world.runtime.start(name)
    found = world.listed()
    assert len(found) == 1000
    assert sorted(s.name for s in found if s.state == "running") == sorted(running)


def test_limits_of_a_container_that_does_not_run_hold_from_the_next_start(world: World) -> None:
    container_id = world.runtime.create(make_spec())
    limits = Limits(cpus=0.5, memory_bytes=128 * 2**20, pids=20)
    world.runtime.update(container_id, limits)
    world.runtime.start(container_id)
    assert world.state().fields == world.runtime.normalise(make_spec(limits=limits))


def test_the_deadline_of_the_grace_is_not_waited_for(world: World) -> None:
    container_id = world.run()
    began_s = time.monotonic()
    world.runtime.stop(container_id, 600)
    assert time.monotonic() - began_s < 300
    eventually(lambda: world.processes() == set())
