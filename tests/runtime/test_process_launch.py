"""What a shim is told: paths, environment, limits."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ports import Mount
from reconciler.runtime.process_cgroup import Cgroups
from reconciler.runtime.process_host import Host
from reconciler.runtime.process_launch import build_launch, encode_launch, rewrite
from reconciler.runtime.process_record import Record
from reconciler.runtime.shim import Launch

from .process_world import make_spec

HOST = Host(
    has_own_uids=True,
    interpreter="/opt/py/bin/python3",
    lib="/srv/lib",
    shim="/srv/lib/shim.pyc",
    cgroups=Cgroups({}, unified=False),
)
MOUNTS = (
    Mount(source="/srv/hub/writer-0", target="/run/hub"),
    Mount(source="/srv/deep", target="/run/hub/deep"),
    Mount(source="/tmp/state/secrets", target="/run/secrets/"),
)


def launch_of(host: Host = HOST, uid: int | None = 7, **changes: object) -> Launch:
    record = Record(id="writer-0@1", fleet="feedbeef", uid=uid, spec=make_spec(**{"mounts": MOUNTS, **changes}))
    return Launch(build_launch(record, "/srv/process/writer-0", host, "token", 1000))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/run/hub", "/srv/hub/writer-0"),
        ("/run/hub/hub.sock", "/srv/hub/writer-0/hub.sock"),
        ("/run/hub/deep/x", "/srv/deep/x"),
        ("/run/hubcap", "/run/hubcap"),
        ("/run/secrets/agent-token", "/tmp/state/secrets/agent-token"),
        ("/tmp/x", "/srv/process/writer-0/tmp/x"),
        ("/tmp/state/secrets/x", "/tmp/state/secrets/x"),
        ("/home/agent/.config", "/srv/process/writer-0/home/.config"),
        ("see /run/hub", "see /run/hub"),
        ("", ""),
    ],
)
def test_a_path_below_a_mount_becomes_the_path_below_its_source(before: str, after: str) -> None:
    launch = launch_of(argv=("/bin/echo", before), env={"WHERE": before})
    assert (launch.argv[1], launch.env["WHERE"]) == (after, after)


def test_texts_inside_a_json_value_are_rewritten_too() -> None:
    config = {"scratch": "/tmp", "executor": {"argv": ["cat", "/run/hub/x"]}, "n": 1.5, "note": "é /tmp"}
    env = {"HUB_CONFIG": json.dumps(config), "OTHER": '{"a": 1}', "BROKEN": '{"/tmp'}
    launch = launch_of(env=env)
    assert json.loads(launch.env["HUB_CONFIG"]) == {
        "scratch": "/srv/process/writer-0/tmp",
        "executor": {"argv": ["cat", "/srv/hub/writer-0/x"]},
        "n": 1.5,
        "note": "é /tmp",
    }
    assert (launch.env["OTHER"], launch.env["BROKEN"]) == ('{"a": 1}', '{"/tmp')


def test_the_environment_is_what_the_spec_says_and_what_a_sandbox_gives() -> None:
    launch = launch_of(env={"LOG_LEVEL": "info", "EMPTY": "", "PYTHONPATH": "/opt"})
    assert launch.env == {
        "PATH": "/opt/py/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/srv/process/writer-0/home",
        "TMPDIR": "/srv/process/writer-0/tmp",
        "LANG": "C.UTF-8",
        "LOG_LEVEL": "info",
        "EMPTY": "",
        "PYTHONPATH": "/srv/lib:/opt",
        "RECONCILER_CONTAINER": "feedbeef/writer-0@1",
    }


def test_python3_is_the_interpreter_that_the_user_can_run() -> None:
    assert launch_of(argv=("python3", "-m", "reconciler.agentd")).argv[0] == "/opt/py/bin/python3"
    assert launch_of(argv=("/usr/bin/python3",)).argv[0] == "/usr/bin/python3"
    assert launch_of(argv=("env", "python3")).argv == ["env", "python3"]


def test_the_working_directory_is_a_path_of_this_machine() -> None:
    assert launch_of().cwd == "/srv/process/writer-0/tmp"
    assert launch_of(working_dir="/run/hub").cwd == "/srv/hub/writer-0"


def test_resource_limits_stand_in_for_cgroups_that_may_not_be_used() -> None:
    limits = {limit[0]: limit[1:] for limit in launch_of().limits}
    assert limits["RLIMIT_CORE"] == ["0", "0"]
    assert limits["RLIMIT_NOFILE"] == ["1024", "4096"]
    assert limits["RLIMIT_FSIZE"] == [str(64 * 2**20)] * 2
    assert limits["RLIMIT_DATA"] == [str(256 * 2**20)] * 2
    assert limits["RLIMIT_NPROC"] == ["50", "50"]


def test_limits_that_a_cgroup_enforces_are_not_set_twice() -> None:
    groups = Cgroups({"memory_bytes": Path("/m"), "pids": Path("/p"), "cpus": Path("/p")}, unified=False)
    launch = launch_of(replace(HOST, cgroups=groups))
    assert {limit[0] for limit in launch.limits} == {"RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_FSIZE"}
    assert launch.groups == ["/m/writer-0", "/p/writer-0"]


def test_processes_of_a_shared_user_are_not_counted_against_one_instance() -> None:
    launch = launch_of(replace(HOST, has_own_uids=False), uid=None)
    assert "RLIMIT_NPROC" not in {limit[0] for limit in launch.limits}
    assert launch.uid is None


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(ValueError, match="no program"):
        launch_of(argv=())


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), min_size=1))
def test_the_shim_reads_back_every_argument(argv: list[str]) -> None:
    fields = [("token", "t"), ("cwd", "/"), ("log_bytes", "1"), *(("arg", argument) for argument in argv)]
    assert Launch(encode_launch(fields)).argv == argv


@given(st.text(), st.dictionaries(st.text(min_size=1), st.text()))
def test_what_is_below_no_target_stays_as_it_is(text: str, sources: dict[str, str]) -> None:
    if not any(text == target or text.startswith(target.rstrip("/") + "/") for target in sources):
        assert rewrite(text, sources) == text
