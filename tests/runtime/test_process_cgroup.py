"""Which cgroups may be used, and what is written to them, on trees made by hand."""

from pathlib import Path

import pytest

from reconciler.ports import Limits
from reconciler.runtime.process_cgroup import Cgroups, choose_cgroups

LIMITS = Limits(cpus=0.5, memory_bytes=64 * 2**20, pids=20)


def mounts(tmp_path: Path, **kind_by_directory: str) -> str:
    """Lines of a mount table; a kind is `cgroup2`, or the controllers of a version 1 hierarchy."""
    lines = ["22 1 254:0 / / rw,relatime - ext4 /dev/vda rw"]
    for number, (directory, kind) in enumerate(kind_by_directory.items()):
        (tmp_path / directory).mkdir(exist_ok=True)
        kernel = "cgroup2 cgroup2 rw" if kind == "cgroup2" else f"cgroup cgroup rw,{kind}"
        lines.append(f"{30 + number} 22 0:{number} / {tmp_path / directory} rw,relatime shared:9 - {kernel}")
    return "\n".join(lines) + "\n"


def test_hierarchies_in_which_nobody_confines_the_hub_are_used(tmp_path: Path) -> None:
    table = mounts(tmp_path, cpu="cpu,cpuacct", memory="memory", pids="pids", unified="cgroup2")
    found = choose_cgroups("feedbeef", table, "4:memory:/\n3:pids:/\n1:cpu,cpuacct:/\n0::/\n")
    assert found.enforced == {"cpus", "memory_bytes", "pids"}
    assert found.groups("writer-0") == [
        tmp_path / controller / "reconciler-feedbeef" / "writer-0" for controller in ("cpu", "memory", "pids")
    ]


def test_a_hierarchy_in_which_something_else_confines_the_hub_is_left_alone(tmp_path: Path) -> None:
    table = mounts(tmp_path, cpu="cpu", memory="memory", pids="pids")
    found = choose_cgroups("feedbeef", table, "4:memory:/platform/job\n3:pids:/\n1:cpu:/system.slice\n")
    assert found.enforced == {"pids"}


def test_version_2_is_used_as_far_as_its_controllers_can_be_enabled(tmp_path: Path) -> None:
    table = mounts(tmp_path, unified="cgroup2")
    directory = tmp_path / "unified" / "reconciler-feedbeef"
    directory.mkdir()
    (directory / "cgroup.subtree_control").write_text("memory pids\n")
    control = FixedControl(directory / "cgroup.subtree_control")
    assert choose_cgroups("feedbeef", table, "0::/\n").enforced <= {"cpus", "memory_bytes", "pids"}
    control.check()


def test_a_group_that_is_not_delegated_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "unified" / "user.slice" / "session").mkdir(parents=True)
    table = mounts(tmp_path, unified="cgroup2")
    assert choose_cgroups("feedbeef", table, "0::/user.slice/session\n").enforced == set()
    assert not list(tmp_path.rglob("reconciler-*"))


@pytest.mark.parametrize(("table", "membership"), [("", ""), ("garbage\n", "garbage\n"), ("a - b c\n", ":::\n")])
def test_a_machine_without_cgroups_has_none(table: str, membership: str) -> None:
    assert choose_cgroups("feedbeef", table, membership).enforced == set()


class FixedControl:
    """A plain file cannot refuse a controller; this only says that we wrote to the fleet's own."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def check(self) -> None:
        assert self._file.read_text() == "+pids"


def make_tree(tmp_path: Path, *files: str) -> Path:
    group = tmp_path / "writer-0"
    group.mkdir()
    for name in files:
        (group / name).write_text("")
    return group


def test_version_1_limits_are_written_and_read_back(tmp_path: Path) -> None:
    memory = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    group = make_tree(tmp_path, *memory)
    cgroups = Cgroups(dict.fromkeys(("cpus", "memory_bytes", "pids"), tmp_path), unified=False)
    cgroups.apply("writer-0", LIMITS)
    assert {file.name: file.read_text() for file in group.iterdir()} == {
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
        "memory.limit_in_bytes": "67108864",
        "memory.memsw.limit_in_bytes": "67108864",
        "pids.max": "20",
    }
    assert cgroups.read("writer-0") == {"cpus": 0.5, "memory_bytes": 64 * 2**20, "pids": 20}


def test_version_2_limits_are_written_and_read_back(tmp_path: Path) -> None:
    group = make_tree(tmp_path, "memory.swap.max")
    cgroups = Cgroups(dict.fromkeys(("cpus", "memory_bytes", "pids"), tmp_path), unified=True)
    cgroups.apply("writer-0", LIMITS)
    assert {file.name: file.read_text() for file in group.iterdir()} == {
        "cpu.max": "50000 100000",
        "memory.max": "67108864",
        "memory.swap.max": "0",
        "pids.max": "20",
    }
    assert cgroups.read("writer-0") == {"cpus": 0.5, "memory_bytes": 64 * 2**20, "pids": 20}


def test_no_limit_reads_as_none(tmp_path: Path) -> None:
    group = make_tree(tmp_path)
    cgroups = Cgroups(dict.fromkeys(("cpus", "memory_bytes", "pids"), tmp_path), unified=True)
    for name, content in (("cpu.max", "max 100000\n"), ("memory.max", "max\n"), ("pids.max", "max\n")):
        (group / name).write_text(content)
    assert cgroups.read("writer-0") == {"cpus": None, "memory_bytes": None, "pids": None}


@pytest.mark.parametrize(
    ("unified", "file", "content", "expected"),
    [
        (True, "memory.events", "low 0\noom 1\noom_kill 1\n", True),
        (True, "memory.events", "low 0\noom 0\noom_kill 0\n", False),
        (False, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", True),
        (False, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", False),
    ],
)
def test_a_kill_for_want_of_memory_is_told_by_the_kernels_count(
    tmp_path: Path, unified: bool, file: str, content: str, expected: bool
) -> None:
    (make_tree(tmp_path) / file).write_text(content)
    assert Cgroups({"memory_bytes": tmp_path}, unified=unified).is_out_of_memory("writer-0") is expected


def test_memory_in_use_does_not_count_what_can_be_dropped(tmp_path: Path) -> None:
    group = make_tree(tmp_path)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.stat").write_text("anon 700\ninactive_file 300\n")
    assert Cgroups({"memory_bytes": tmp_path}, unified=True).memory_in_use_bytes("writer-0") == 700


def test_without_cgroups_nothing_is_written_and_nothing_known(tmp_path: Path) -> None:
    cgroups = Cgroups({}, unified=False)
    cgroups.prepare("writer-0", LIMITS)
    assert (cgroups.read("writer-0"), cgroups.members("writer-0"), cgroups.groups("writer-0")) == ({}, set(), [])
    assert not cgroups.is_out_of_memory("writer-0")
    cgroups.remove("writer-0")
    cgroups.remove_empty()
