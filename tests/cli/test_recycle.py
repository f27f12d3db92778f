"""`recycle` on the process runtime: it ends what a lost data directory left, once that is confirmed, and nothing else."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from reconciler.cli.recycle import recycle_command
from reconciler.identity.seal import HOME_LABEL
from reconciler.runtime.process import ProcessRuntime
from tests.runtime.process_world import MEMORY, is_alive, make_spec, needs_root

LOST, OTHER = "aaaa1111", "bbbb2222"


@dataclass
class Host:
    """A machine without a container engine, and the process runtime's fleets on it by id."""

    base: Path
    runtimes: dict[str, ProcessRuntime] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.base / "data"

    def process_root(self, fleet: str) -> Path:
        return self.base / "run" / fleet / "process"

    def start(self, fleet: str, name: str, data: Path) -> int:
        """Start an instance that was made from a data directory; the pid of its shim."""
        runtime = self.runtimes.setdefault(fleet, ProcessRuntime(fleet, self.process_root(fleet)))
        runtime.start(runtime.create(make_spec(name=name, labels={HOME_LABEL: str(data)})))
        return int((self.process_root(fleet) / name / "shim.pid").read_text().split()[0])

    def recycle(self, *arguments: str) -> Result:
        env = {"RECONCILER_RUN": str(self.base / "run"), "DOCKER_HOST": f"unix://{self.base}/no-engine.sock"}
        return CliRunner(env=env).invoke(
            recycle_command, ["--data", str(self.data), *arguments], standalone_mode=False, catch_exceptions=False
        )


@pytest.fixture
def host() -> Iterator[Host]:
    base = Path(tempfile.mkdtemp(prefix="rc-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    base.chmod(0o711)
    made = Host(base)
    yield made
    for fleet, runtime in made.runtimes.items():
        for name in ("writer-0", "reader-0"):
            if (made.process_root(fleet) / name).exists():
                runtime.remove(name)
        runtime.close()
    shutil.rmtree(base)


def test_what_runs_of_a_lost_fleet_is_listed_and_ended_once_confirmed(host: Host) -> None:
    pids = [host.start(LOST, name, host.data) for name in ("writer-0", "reader-0")]
    wrong = f"error: no lost fleet {OTHER} was made from {host.data}; nothing was removed\n"
    for arguments, said in (((), ""), (("--confirm", OTHER), wrong)):
        listed = host.recycle(*arguments)
        assert listed.return_value == 3
        assert listed.stdout == (
            f"fleet {LOST}: 2 instances (reader-0, writer-0)\nremove them with: reconciler recycle --confirm {LOST}\n"
        )
        assert listed.stderr == said
        assert all(is_alive(pid) for pid in pids)
    assert host.recycle("--confirm", LOST).return_value == 0
    assert not any(is_alive(pid) for pid in pids)
    assert list((host.base / "run").iterdir()) == []


def test_fleets_of_other_data_directories_and_the_one_at_work_are_left_alone(host: Host) -> None:
    pids = [host.start(OTHER, "writer-0", host.base / "elsewhere"), host.start(LOST, "writer-0", host.data)]
    host.data.mkdir()
    (host.data / "fleet.json").write_text(json.dumps({"fleet": LOST, "key": "00"}))
    for fleet in (LOST, OTHER):
        answer = host.recycle("--confirm", fleet)
        assert answer.return_value == 1
        assert "error: containers cannot be looked for" in answer.stderr
    assert all(is_alive(pid) for pid in pids)


def test_an_instance_of_a_lost_fleet_whose_record_is_damaged_is_ended_too(host: Host) -> None:
    pids = [host.start(LOST, name, host.data) for name in ("writer-0", "reader-0")]
    (host.process_root(LOST) / "reader-0" / "spec.json").write_text("{")
    assert host.recycle("--confirm", LOST).return_value == 0
    assert not any(is_alive(pid) for pid in pids)


@needs_root
def test_the_run_time_directory_of_another_user_proves_nothing(host: Host) -> None:
    pid = host.start(LOST, "writer-0", host.data)
    os.chown(host.process_root(LOST), 12345, 12345)
    assert host.recycle("--confirm", LOST).return_value == 1
    assert is_alive(pid)
