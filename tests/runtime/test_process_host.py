"""What the machine offers: agentd's code for every user, an interpreter, honest limitations."""

import os
import stat
import subprocess
from pathlib import Path

from reconciler.core.reading import Ok
from reconciler.runtime.process_host import agentd_version, choose_version, copy_agentd, find_host

from .process_world import World, make_spec, needs_root, world

__all__ = ["world"]


def test_the_copy_of_agentd_can_be_read_by_everybody_and_is_made_once(tmp_path: Path) -> None:
    lib = Path(copy_agentd(tmp_path / "root"))
    assert lib.name == agentd_version()[:16]
    for path in (lib, *lib.rglob("*")):
        wanted = 0o755 if path.is_dir() else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == wanted
    marked = lib / "marked"
    marked.touch()
    assert copy_agentd(tmp_path / "root") == str(lib)
    assert marked.exists()
    assert os.listdir(lib.parent) == [lib.name]


def test_a_copy_that_is_gone_is_made_again(world: World) -> None:
    container_id = world.run("python3", "-c", "import reconciler; print(reconciler.__file__)")
    world.await_exit()
    host = find_host(world.fleet, world.root, 0)
    subprocess.run(["rm", "-r", world.root / ".lib"], check=True)
    world.runtime.start(container_id)
    assert world.output().splitlines() == [f"{host.lib}/reconciler/__init__.py"] * 2


def test_agentd_runs_from_its_copy(world: World) -> None:
    world.run("python3", "-m", "reconciler.agentd")
    assert "HUB_AGENT" in world.output()


def test_a_pinned_version_is_used_as_long_as_it_is_there(world: World) -> None:
    host = find_host(world.fleet, world.root, 0)
    older = world.root / ".lib" / ("e" * 16) / "reconciler"
    older.mkdir(parents=True)
    (older / "__init__.py").write_text("print('the older one')\n")
    assert choose_version(host, "e" * 64).lib == str(older.parent)
    assert choose_version(host, "f" * 64) == host
    world.runtime.create(make_spec(image_id="process:" + "e" * 64, argv=("python3", "-c", "import reconciler")))
    world.runtime.start("writer-0")
    assert world.output() == "the older one\n"


def test_limitations_are_sentences_and_name_what_is_missing(world: World) -> None:
    facts = world.runtime.facts()
    assert isinstance(facts, Ok)
    text = " ".join(facts.value.limitations)
    assert "network is not isolated" in text
    assert "file system is not isolated" in text
    limits = world.runtime.normalise(make_spec())["limits"]
    assert ("CPU time is not limited" in text) == (limits["cpus"] is None)


@needs_root
def test_the_interpreter_is_one_that_an_instance_can_run(world: World) -> None:
    world.run("python3", "-c", "import os, sys; print(os.getuid(), sys.version_info >= (3, 9))")
    assert world.output() == f"{world.runtime.uid_for('writer-0')} True\n"
