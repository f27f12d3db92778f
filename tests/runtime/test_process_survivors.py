"""Whatever an instance starts is dead when the instance is: daemons, orphans, strays of a dead shim."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reconciler.runtime.process_survivors import MARKER, Signs, find_survivors, kill_all, marker

from .process_world import World, eventually, is_alive, needs_root, world

__all__ = ["world"]

# Forks, leaves the session, forks again, forgets its environment, and says which process it is now.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", sys.argv[1]], {})
    os._exit(0)
os.wait()
time.sleep(float(sys.argv[2]))
"""
STAY = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
# Each child that ends is replaced by two, as far as the limit allows.
SWARM = """
import os, time
print("ready", flush=True)
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        time.sleep(0.001)
"""


def start_daemon(world: World, lifetime_s: float = 600.0) -> int:
    """Run DAEMON; returns the number of the process that it leaves."""
    world.run("python3", "-c", DAEMON, STAY, str(lifetime_s))
    eventually(lambda: world.runtime.logs("writer-0", 10).endswith("\n"))
    return int(world.runtime.logs("writer-0", 10))


def test_a_daemon_that_left_the_session_is_dead_after_stop(world: World) -> None:
    daemon = start_daemon(world)
    assert is_alive(daemon)
    world.runtime.stop("writer-0", 0.2)
    assert not is_alive(daemon)


def test_a_daemon_is_dead_when_the_program_has_ended_by_itself(world: World) -> None:
    daemon = start_daemon(world, lifetime_s=0.1)
    assert world.await_exit().exit_code == 0
    assert not is_alive(daemon)


def test_a_daemon_is_dead_after_remove(world: World) -> None:
    daemon = start_daemon(world)
    world.runtime.remove("writer-0")
    assert not is_alive(daemon)


@needs_root
def test_a_daemon_that_outlives_its_shim_is_killed_before_the_container_counts_as_exited(world: World) -> None:
    daemon = start_daemon(world)
    shim_pid = world.shim_pid()
    os.kill(shim_pid, signal.SIGKILL)
    eventually(lambda: not is_alive(shim_pid))
    assert is_alive(daemon)
    assert [summary.state for summary in world.listed()] == ["exited"]
    assert not is_alive(daemon)


def test_a_shim_that_is_stopped_by_hand_does_not_save_its_instance(world: World) -> None:
    daemon = start_daemon(world)
    os.kill(world.shim_pid(), signal.SIGSTOP)
    began_s = time.monotonic()
    world.runtime.stop("writer-0", 0.2)
    assert time.monotonic() - began_s < 120
    eventually(lambda: not is_alive(daemon))
    assert world.state().exit_code == 137


def test_the_signal_to_end_reaches_the_session_and_not_those_who_left_it(world: World) -> None:
    script = "trap 'echo group; exit 5' TERM; setsid sh -c \"trap 'echo stray' TERM; while :; do sleep 0.02; done\" & "
    world.run("/bin/sh", "-c", script + "echo ready; while :; do sleep 0.02; done")
    eventually(lambda: "ready" in world.runtime.logs("writer-0", 10))
    world.runtime.stop("writer-0", 60)
    assert world.state().exit_code == 5
    said = world.output().splitlines()
    assert "group" in said
    assert "stray" not in said


@needs_root
def test_a_swarm_that_forks_as_fast_as_it_can_is_dead_after_stop(world: World) -> None:
    world.run("python3", "-c", SWARM)
    eventually(lambda: len(world.processes()) > 40)
    began_s = time.monotonic()
    world.runtime.stop("writer-0", 0.1)
    assert time.monotonic() - began_s < 120
    assert world.processes() == set()


@pytest.fixture
def stray() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["/bin/sleep", "600"], env={MARKER: marker("feedbeef", "writer-0@1")})


def test_strays_are_told_by_their_environment_and_others_left_alone(stray: "subprocess.Popen[bytes]") -> None:
    try:
        eventually(lambda: b"sleep" in Path(f"/proc/{stray.pid}/cmdline").read_bytes())
        other = Signs(owner=marker("feedbeef", "writer-00@"), uid=None, members=set)
        assert find_survivors(other) == []
        assert kill_all(lambda: find_survivors(other), 60)
        assert stray.poll() is None
        ours = Signs(owner=marker("feedbeef", "writer-0@"), uid=None, members=set)
        assert [process.pid for process in find_survivors(ours)] == [stray.pid]
        assert kill_all(lambda: find_survivors(ours), 60)
    finally:
        stray.kill()
        assert stray.wait() == -signal.SIGKILL


def test_members_of_the_group_are_survivors_and_so_is_what_is_below_them() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", "import subprocess; subprocess.run(['/bin/sleep', '600'])"], env={}
    )
    try:
        signs = Signs(owner="nobody/nothing@", uid=None, members=lambda: {parent.pid})
        eventually(lambda: len(find_survivors(signs)) == 2)
        assert kill_all(lambda: find_survivors(signs), 60)
        assert find_survivors(signs) == []
    finally:
        parent.wait()
