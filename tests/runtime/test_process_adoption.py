"""A hub that dies at any moment leaves what the next one needs, and nothing that it does not find."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.reading import Ok
from reconciler.runtime.process import ProcessRuntime
from reconciler.runtime.process_record import observe
from reconciler.runtime.shim import read_boot_id

from .process_world import REPOSITORY, World, eventually, is_alive, make_spec, world

__all__ = ["world"]

SEARCH_PATH = os.pathsep.join([str(REPOSITORY), *sys.path])
HUB = """
import sys
from pathlib import Path
from reconciler.runtime.process import ProcessRuntime
from tests.runtime.process_world import make_spec
runtime = ProcessRuntime(sys.argv[1], Path(sys.argv[2]))
container_id = runtime.create(make_spec())
runtime.start(container_id)
if "remove" in sys.argv:
    runtime.remove(container_id)
print(container_id)
"""


def run_hub(world: World, *what: str, crash_at: str = "") -> str:
    """A hub in a process of its own: creates, starts, perhaps removes; its output is the id."""
    done = subprocess.run(
        [sys.executable, "-c", HUB, world.fleet, str(world.root), *what],
        env={**os.environ, "PYTHONPATH": SEARCH_PATH, "RECONCILER_CRASH_AT": crash_at},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if crash_at else 0)
    return done.stdout.strip()


def test_a_second_runtime_finds_and_ends_what_the_first_started(world: World) -> None:
    container_id = world.run()
    second = world.adopt()
    assert second.inspect("writer-0") == world.runtime.inspect("writer-0")
    second.start(container_id)
    second.stop(container_id, 60)
    assert world.state().exit_code == 143


def test_containers_outlive_the_process_that_started_them(world: World) -> None:
    container_id = run_hub(world)
    state = world.state()
    assert (state.id, state.state) == (container_id, "running")
    assert is_alive(state.pid)
    world.runtime.stop(container_id, 60)
    assert not is_alive(state.pid)


def test_the_exit_of_a_program_is_known_though_no_hub_was_there(world: World) -> None:
    code = HUB.replace("make_spec()", "make_spec(argv=('/bin/sh', '-c', 'sleep 0.2; exit 7'))")
    subprocess.run(
        [sys.executable, "-c", code, world.fleet, str(world.root)],
        env={**os.environ, "PYTHONPATH": SEARCH_PATH},
        stdout=subprocess.DEVNULL,
        timeout=120,
        check=True,
    )
    assert world.await_exit().exit_code == 7


@pytest.mark.parametrize(
    "point",
    ["process.create.made", "process.start.written", "process.start.spawned", "process.start.answered"],
)
def test_after_a_kill_while_starting_the_next_hub_can_start_it_once(world: World, point: str) -> None:
    run_hub(world, crash_at=point)
    [summary] = world.listed()
    world.runtime.start(summary.id)
    assert world.state().state == "running"
    found = world.processes()
    assert found == {world.shim_pid(), world.state().pid}
    assert not (world.root / "writer-0" / "launch").exists()


@pytest.mark.parametrize("point", ["process.start.written", "process.start.spawned", "process.start.answered"])
def test_after_a_kill_while_starting_the_next_hub_can_stop_it_for_good(world: World, point: str) -> None:
    for _ in range(3):
        run_hub(world, crash_at=point)
        world.runtime.stop("writer-0", 0)
        assert world.state().state in ("created", "exited")
        eventually(lambda: world.processes() == set())
        assert world.state().state in ("created", "exited")
        world.runtime.remove("writer-0")


@pytest.mark.parametrize("point", ["process.remove.ended", "process.remove.renamed"])
def test_after_a_kill_while_removing_the_name_can_be_used_again(world: World, point: str) -> None:
    run_hub(world, "remove", crash_at=point)
    world.runtime.remove("writer-0")
    assert world.listed() == []
    world.run()
    assert [name for name in os.listdir(world.root) if name.startswith(".gone")] == []


def test_a_killed_shim_takes_the_program_with_it_and_is_noticed(world: World) -> None:
    world.run()
    pid = world.state().pid
    os.kill(world.shim_pid(), signal.SIGKILL)
    eventually(lambda: not is_alive(pid))
    assert [s.state for s in world.listed()] == ["exited"]
    state = world.state()
    assert (state.state, state.exit_code, state.pid) == ("exited", 137, 0)


def test_a_killed_shim_is_told_as_an_event(world: World) -> None:
    world.run()
    os.kill(world.shim_pid(), signal.SIGKILL)
    eventually(lambda: world.state().state == "exited")
    journal = (world.root / ".events").read_text().split()
    assert journal[2::3] == ["create", "start", "die"]


def test_a_container_whose_shim_was_killed_can_be_started_again(world: World) -> None:
    container_id = world.run()
    shim_pid = world.shim_pid()
    os.kill(shim_pid, signal.SIGKILL)
    eventually(lambda: not is_alive(shim_pid))
    world.runtime.start(container_id)
    assert world.state().state == "running"
    assert world.processes() == {world.shim_pid(), world.state().pid}


def test_a_process_that_has_the_number_of_the_shim_is_not_touched(world: World) -> None:
    container_id = world.run()
    real = world.shim_pid()
    stranger = subprocess.Popen(["/bin/sleep", "600"])
    try:
        write_shim_file(world.root / "writer-0", pid=stranger.pid)
        assert world.state().state == "exited"
        world.runtime.stop(container_id, 1)
        world.runtime.remove(container_id)
        assert stranger.poll() is None
        eventually(lambda: not is_alive(real))
    finally:
        stranger.kill()
        stranger.wait()


def test_a_shim_of_another_boot_is_dead(world: World) -> None:
    world.runtime.create(make_spec())
    sleeper = subprocess.Popen(["/bin/sleep", "600"])
    try:
        directory = world.root / "writer-0"
        start = int(Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[19])
        (directory / "shim.pid").write_text(f"{sleeper.pid} {start} {read_boot_id()} token\n")
        assert observe(str(directory), read_boot_id()).phase == "running"
        (directory / "shim.pid").write_text(f"{sleeper.pid} {start} another-boot token\n")
        assert world.state().state == "exited"
        world.runtime.stop("writer-0", 0)
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_torn_state_file_is_no_state(world: World) -> None:
    world.run()
    (world.root / "writer-0" / "state.json").write_text("")
    assert world.state().state == "running"
    world.runtime.stop("writer-0", 60)
    assert world.state().exit_code == 143


def test_two_hubs_that_start_the_same_container_start_it_once(world: World) -> None:
    container_id = world.runtime.create(make_spec())
    code = "\n".join([*HUB.splitlines()[:6], "runtime.start(sys.argv[3])"])
    hubs = [
        subprocess.Popen(
            [sys.executable, "-c", code, world.fleet, str(world.root), container_id],
            env={**os.environ, "PYTHONPATH": SEARCH_PATH},
        )
        for _ in range(2)
    ]
    assert [hub.wait(60) for hub in hubs] == [0, 0]
    assert world.processes() == {world.shim_pid(), world.state().pid}


def write_shim_file(directory: Path, *, pid: int) -> None:
    """As if the shim had ended, and its number had been given to `pid`."""
    _, start, boot_id, token = (directory / "shim.pid").read_text().split()
    (directory / "shim.pid").write_text(f"{pid} {int(start) - 1000} {boot_id} {token}\n")
    run = json.loads((directory / "state.json").read_text())
    assert run["token"] == token


def test_a_runtime_does_nothing_before_it_is_asked_to(world: World) -> None:
    runtime = ProcessRuntime(world.fleet, world.directory / "elsewhere")
    assert runtime.list() == Ok([])
    runtime.close()
    assert not (world.directory / "elsewhere").exists()
