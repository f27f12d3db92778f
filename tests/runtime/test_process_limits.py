"""Limits hold, can be changed in place, and what the kernel enforces is what is compared."""

import os
from pathlib import Path

import pytest

from reconciler.errors import RuntimeRefusedError
from reconciler.ports import Limits
from reconciler.runtime.process_cgroup import find_cgroups

from .process_world import World, eventually, make_spec, needs_root, world

__all__ = ["world"]

LIMITS = Limits(cpus=1.0, memory_bytes=64 * 2**20, pids=20)
ALLOCATE = "import sys\ntry:\n    x = bytearray(200 << 20)\nexcept MemoryError:\n    sys.exit(9)\n"
FORK = """
import os, time
count = 0
try:
    while count < 100:
        if os.fork() == 0:
            time.sleep(600)
        count += 1
except OSError as error:
    print(count, error.strerror, flush=True)
"""


def has_cgroup(limit: str) -> bool:
    return limit in find_cgroups("00000000").enforced


def test_memory_beyond_the_limit_is_refused_or_the_program_killed(world: World) -> None:
    world.run("python3", "-c", ALLOCATE, limits=LIMITS)
    state = world.await_exit()
    assert (state.exit_code, state.oom_killed) in ((9, False), (137, True))


@needs_root
def test_processes_beyond_the_limit_are_refused(world: World) -> None:
    world.run("python3", "-c", FORK, limits=LIMITS)
    count, _, reason = world.output().partition(" ")
    assert int(count) == 19
    assert reason == "Resource temporarily unavailable\n"


def test_files_have_their_limits(world: World) -> None:
    script = "ulimit -n; ulimit -c; ulimit -f; head -c 70000000 /dev/zero > $TMPDIR/big; stat -c %s $TMPDIR/big"
    world.run("/bin/sh", "-c", script)
    lines = world.output().splitlines()
    assert lines[:3] == ["1024", "0", str(64 * 2**20 // 512)]
    assert lines[-1] == str(64 * 2**20)


def test_no_privileges_are_left_or_can_be_gained(world: World) -> None:
    world.run("/bin/cat", "/proc/self/status")
    status = dict(line.split(":\t", 1) for line in world.output().splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert status["Groups"].strip() in ("", str(os.getgid()), status["Gid"].split()[0]) or os.geteuid()
    if os.geteuid() == 0:
        assert {status[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}


def test_only_standard_streams_are_open(world: World) -> None:
    world.run("/bin/ls", "/proc/self/fd")
    assert world.output().split() == ["0", "1", "2", "3"]


def test_signals_are_as_in_a_fresh_process(world: World) -> None:
    """glibc keeps 32 and 33 to itself, so nothing that uses it can change what it inherited of these."""
    world.run("/bin/grep", "^Sig[BI]", "/proc/self/status")
    masks = [int(line.split()[1], 16) for line in world.output().splitlines()]
    kept = 1 << 31 | 1 << 32
    assert [mask & ~kept for mask in masks] == [0, 0]


@pytest.mark.skipif(not has_cgroup("cpus"), reason="no cgroup may be used here")
def test_limits_in_a_cgroup_are_read_back_and_a_change_by_hand_is_drift_that_update_repairs(world: World) -> None:
    container_id = world.run()
    wanted = world.runtime.normalise(make_spec())
    assert world.state().fields == wanted
    [quota] = [path for path in cgroup_files(world) if path.name in ("cpu.cfs_quota_us", "cpu.max")]
    quota.write_text("50000")
    assert world.state().fields["limits"] == {**wanted["limits"], "cpus": 0.5}
    world.runtime.update(container_id, make_spec().limits)
    assert world.state().fields == wanted


@pytest.mark.skipif(not has_cgroup("cpus"), reason="no cgroup may be used here")
def test_cgroups_are_gone_with_the_container(world: World) -> None:
    container_id = world.run()
    groups = {path.parent for path in cgroup_files(world)}
    assert all(group.is_dir() for group in groups)
    world.runtime.remove(container_id)
    assert not any(group.exists() or group.parent.exists() for group in groups)


@pytest.mark.parametrize("memory_mib", [128, 512])
def test_memory_is_changed_in_place_on_every_process_or_refused_without_effect(world: World, memory_mib: int) -> None:
    container_id = world.run("/bin/sh", "-c", "sleep 600 & sleep 600")
    eventually(lambda: len(world.processes()) == 4)
    before = world.state()
    limits = Limits(cpus=0.5, memory_bytes=memory_mib * 2**20, pids=60)
    try:
        world.runtime.update(container_id, limits)
    except RuntimeRefusedError:
        assert world.state() == before
        return
    assert world.state().fields["limits"] == world.runtime.normalise(make_spec(limits=limits))["limits"]
    if not has_cgroup("memory_bytes"):
        instance = world.processes() - {world.shim_pid()}
        assert {data_limit(pid) for pid in instance} == {limits.memory_bytes}


def cgroup_files(world: World) -> list[Path]:
    """All files of the instance's groups."""
    groups = find_cgroups(world.fleet).groups("writer-0")
    return [path for group in groups for path in group.iterdir()]


def data_limit(pid: int) -> int:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Max data size")).split()[-2])
