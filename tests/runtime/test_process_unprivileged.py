"""The whole life of containers under a hub that is an ordinary user."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest

from .process_world import REPOSITORY

NOBODY = 65534
LIFE = """
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path
from reconciler.core.reading import Ok
from reconciler.errors import RuntimeRefusedError
from reconciler.ports import ContainerSpec, Limits
from reconciler.runtime.process import ProcessRuntime
from reconciler.runtime.shim import read_process

def is_dead(pid):
    process = read_process(pid)
    return process is None or process.ended

def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

root = Path(os.environ["HOME"], "run", "process")
runtime = ProcessRuntime("feedbeef", root)
state = lambda: runtime.inspect("writer-0").value
limits = Limits(cpus=1.0, memory_bytes=256 * 2**20, pids=50)
daemon = "import os, time; os.fork() and os._exit(0); os.setsid(); print(os.getuid(), os.getpid(), flush=True)"
daemon += "; time.sleep(600)"
argv = ("/bin/sh", "-c", 'python3 -c "$0"; sleep 600', daemon)
spec = ContainerSpec(name="writer-0", image="x", image_id=runtime.resolve_image("x").value, argv=argv, env={},
                     labels={}, limits=limits, mounts=(), disk_bytes=0, grace_s=1.0)

limitations = " ".join(runtime.facts().value.limitations)
assert "all instances run as its own user" in limitations, limitations
assert runtime.uid_for("writer-0") == os.getuid() != 0

container_id = runtime.create(spec)
runtime.start(container_id)
assert state().state == "running" and state().fields == runtime.normalise(spec)
wait_for(lambda: runtime.logs(container_id, 1).endswith("\\n"))
uid, stray = map(int, runtime.logs(container_id, 1).split())
assert uid == os.getuid()

lower = replace(limits, memory_bytes=128 * 2**20)
runtime.update(container_id, lower)
assert state().fields == runtime.normalise(replace(spec, limits=lower))
try:
    runtime.update(container_id, limits)
except RuntimeRefusedError as error:
    assert state().fields == runtime.normalise(replace(spec, limits=lower))

if hub := os.fork():
    assert os.waitpid(hub, 0)[1] == signal.SIGKILL
else:
    runtime.stop(container_id, 0.1)
    runtime.start(container_id)
    os.kill(os.getpid(), signal.SIGKILL)
assert is_dead(stray)

adopted = ProcessRuntime("feedbeef", root)
assert [summary.state for summary in adopted.list().value] == ["running"]
wait_for(lambda: len(adopted.logs(container_id, 2).splitlines()) == 2)
stray = int(adopted.logs(container_id, 1).split()[1])
os.kill(int((root / "writer-0" / "shim.pid").read_text().split()[0]), signal.SIGKILL)
wait_for(lambda: adopted.list().value[0].state == "exited")
assert is_dead(stray)
adopted.remove(container_id)
assert adopted.list() == Ok([])
print("lived")
"""


def find_python() -> str:
    """One that an ordinary user can run, of a version that the installed packages are made for."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        try:
            subprocess.run([candidate, "-c", "import msgspec, reconciler"], **as_nobody(), check=True, timeout=120)
        except (OSError, subprocess.SubprocessError):
            continue
        return candidate
    pytest.skip("no Python here that another user can run with this project's packages")


def as_nobody() -> dict[str, object]:
    packages = Path(msgspec.__file__).parents[1]
    options: dict[str, object] = {"env": {"PYTHONPATH": f"{REPOSITORY}:{packages}", "PATH": os.environ["PATH"]}}
    if os.geteuid() == 0:
        options |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return {**options, "cwd": "/", "stderr": subprocess.STDOUT, "stdout": subprocess.PIPE, "text": True}


def test_an_ordinary_user_can_run_end_and_adopt_containers() -> None:
    python = find_python()
    options = as_nobody()
    with tempfile.TemporaryDirectory(prefix="reconciler-test-") as home:
        if os.geteuid() == 0:
            os.chown(home, NOBODY, NOBODY)
        environment = {**options.pop("env"), "HOME": home}
        done = subprocess.run([python, "-W", "error", "-c", LIFE], **options, env=environment, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("lived\n", 0)
