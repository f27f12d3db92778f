"""A hub that is interrupted while it starts ends, whenever that is; also one that a shell has put into the background."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.flows.fleet import Fleet, eventually

MOMENTS_S = [n * 0.1 for n in range(10)]


@contextmanager
def in_background() -> Iterator[None]:
    """What is started meanwhile begins with SIGINT ignored, as behind `&` in a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def start(fleet: Fleet) -> subprocess.Popen[str]:
    """A hub that has just begun to start: it holds the lock of its data directory."""
    lock = fleet.data / "lock"
    lock.write_text("")
    with in_background():
        hub = fleet.start("run", *fleet.places, *fleet.permission)
    eventually(lambda: lock.read_text().strip() == str(hub.pid), step_s=0.005)
    return hub


def test_an_interrupt_at_any_moment_of_its_start_ends_the_hub(processes: Fleet) -> None:
    processes.commit({})
    assert processes.apply().code == 0
    for moment_s in MOMENTS_S:
        hub = start(processes)
        time.sleep(moment_s)
        hub.send_signal(signal.SIGINT)
        try:
            said, _ = hub.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            hub.kill()
            hub.communicate()
            pytest.fail(f"{moment_s:g} s into its start the hub did not end")
        assert hub.returncode == 0, said
        assert "stopped; router and agents go on" in said
