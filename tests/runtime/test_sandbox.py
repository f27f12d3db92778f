import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.core.reading import Ok
from reconciler.ports import Limits, Mount
from reconciler.runtime.sandbox import EngineFeatures, create_body, limits_body, tmpfs
from tests.contract.runtimes import (
    RuntimeUnderTest,
    eventually,
    make_fake_runtime,
    make_spec,
    refuse_to_run,
)

LIMITS = Limits(cpus=0.3, memory_bytes=2**26, pids=50)

PROBE = r"""
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Connect to the unix socket named by the argument, '@' for abstract ones, and print what comes. */
int main(int argc, char **argv) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    char answer[64];
    if (argc != 2) return 64;
    strncpy(to.sun_path, argv[1], sizeof to.sun_path - 1);
    socklen_t size = offsetof(struct sockaddr_un, sun_path) + strlen(argv[1]);
    if (to.sun_path[0] == '@') to.sun_path[0] = 0;
    int link = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(link, (struct sockaddr *)&to, size)) { perror("connect"); return 1; }
    ssize_t got = read(link, answer, sizeof answer);
    return got > 0 && write(1, answer, got) == got ? 0 : 2;
}
"""


# --- the body -------------------------------------------------------------------------------------


def test_limits_that_the_engine_lacks_are_not_sent() -> None:
    assert limits_body(LIMITS, EngineFeatures()) == {
        "NanoCpus": 300_000_000,
        "Memory": 2**26,
        "MemorySwap": 2**26,
        "PidsLimit": 50,
    }
    assert limits_body(LIMITS, EngineFeatures(swap=False, pids=False)) == {
        "NanoCpus": 300_000_000,
        "Memory": 2**26,
    }
    assert limits_body(LIMITS, EngineFeatures(memory=False, cpus=False)) == {"PidsLimit": 50}


def test_no_disk_at_all_is_not_unlimited_disk(tmp_path: Path) -> None:
    spec = make_spec(make_fake_runtime(tmp_path), disk_bytes=0)
    assert all("size=4096" in options for options in tmpfs(spec).values())


def test_the_fleets_label_cannot_be_set_by_a_spec(tmp_path: Path) -> None:
    spec = make_spec(make_fake_runtime(tmp_path), labels={"io.reconciler.fleet": "another"})
    assert create_body(spec, "0badcafe", EngineFeatures())["Labels"] == {"io.reconciler.fleet": "0badcafe"}


# --- the proof ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a static program `probe` that connects to a unix socket."""
    directory = tmp_path_factory.mktemp("probe")
    source = directory / "probe.c"
    source.write_text(PROBE)
    compiler = shutil.which("cc")
    if compiler is None:
        refuse_to_run("no C compiler (Debian package gcc)")
    command = [str(compiler), "-static", "-O1", "-Wall", "-o", str(directory / "probe"), str(source)]
    subprocess.run(command, check=True, timeout=60)
    directory.chmod(0o755)
    return directory


@contextmanager
def greeter(server: socket.socket) -> Iterator[None]:
    """Answer `hello` to whoever connects."""

    def greet() -> None:
        while True:
            try:
                link, _ = server.accept()
            except OSError:
                return  # closed
            with link:
                link.sendall(b"hello\n")

    thread = threading.Thread(target=greet)
    thread.start()
    yield
    server.shutdown(socket.SHUT_RDWR)
    thread.join()
    server.close()


@contextmanager
def unix_greeter(path: str) -> Iterator[None]:
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    with greeter(server):
        yield


@contextmanager
def tcp_greeter() -> Iterator[int]:
    server = socket.create_server(("0.0.0.0", 0))
    with greeter(server):
        yield server.getsockname()[1]


def run_to_its_end(under: RuntimeUnderTest, script: str, *mounts: Mount) -> str:
    """The output of a shell script that runs in a container of its own."""
    spec = make_spec(under, argv=("/bin/sh", "-c", script), mounts=mounts)
    container_id = under.runtime.create(spec)
    under.runtime.start(container_id)

    def has_ended() -> bool:
        reading = under.runtime.inspect(spec.name)
        return isinstance(reading, Ok) and reading.value.state == "exited"

    eventually(has_ended)
    output = under.runtime.logs(container_id, 1000)
    under.runtime.remove(container_id)
    return output


def verdicts(output: str) -> dict[str, str]:
    """`what: outcome` lines."""
    return {what: outcome for what, _, outcome in (x.partition(": ") for x in output.splitlines())}


@pytest.mark.engine
def test_it_reaches_its_own_socket_and_nothing_else(under: RuntimeUnderTest, probe: Path, tmp_path: Path) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    for directory in (own, foreign):
        directory.mkdir()
    abstract = f"reconciler-test-{own.stat().st_ino}"
    script = f"""
        try() {{ what="$1"; shift; if "$@" >/dev/null 2>&1; then echo "$what: ok"; else echo "$what: no"; fi; }}
        try own /probe/probe /run/hub/hub.sock
        try foreign /probe/probe {foreign}/hub.sock
        try abstract /probe/probe @{abstract}
        try engine /probe/probe /var/run/docker.sock
        try loopback nc -w 1 127.0.0.1 $PORT
        try bridge nc -w 1 172.17.0.1 $PORT
        echo "said: $(/probe/probe /run/hub/hub.sock)"
        echo "interfaces: $(grep -c : /proc/net/dev)"
        echo "routes: $(grep -vc Iface /proc/net/route)"
    """
    with (
        unix_greeter(str(own / "hub.sock")),
        unix_greeter(str(foreign / "hub.sock")),
        unix_greeter(f"\0{abstract}"),
        tcp_greeter() as port,
    ):
        assert subprocess.check_output([probe / "probe", f"@{abstract}"]) == b"hello\n"
        socket.create_connection(("127.0.0.1", port)).close()
        (own / "hub.sock").chmod(0o600)
        shutil.chown(own / "hub.sock", 1000, 1000)
        output = run_to_its_end(
            under,
            script.replace("$PORT", str(port)),
            Mount(source=str(own), target="/run/hub"),
            Mount(source=str(probe), target="/probe"),
        )
    found = verdicts(output)
    assert found.pop("own") == "ok"
    assert (found.pop("said"), found.pop("interfaces"), found.pop("routes")) == ("hello", "1", "0")
    assert found == dict.fromkeys(("foreign", "abstract", "engine", "loopback", "bridge"), "no")


@pytest.mark.engine
def test_it_has_no_rights_and_nothing_to_write_to_but_its_own(under: RuntimeUnderTest, tmp_path: Path) -> None:
    shared, writable = tmp_path / "shared", tmp_path / "writable"
    for directory in (shared, writable):
        directory.mkdir()
        directory.chmod(0o777)
    (shared / "file").write_text("x")
    (shared / "file").chmod(0o666)
    script = r"""
        try() { what="$1"; shift; if "$@" 2>/dev/null; then echo "$what: ok"; else echo "$what: no"; fi; }
        for place in / /bin /etc /dev /proc/sys /sys /run /run/hub /work /tmp $HOME; do
            try "write $place" touch $place/x
        done
        try "remove shared" rm -f /run/hub/file
        echo "uid: $(id -u) $(id -g) $(id -G)"
        for key in CapEff CapBnd CapAmb NoNewPrivs Seccomp; do
            echo "$key: $(grep $key: /proc/self/status | grep -o '[0-9a-f]*$')"
        done
        echo "core: $(ulimit -c) $(ulimit -Hc)"
        echo "files: $(ulimit -n) $(ulimit -Hn)"
        echo "home: $HOME"
        echo "image: $FROM_IMAGE"
        printf '#!/bin/sh\necho ran\n' > /tmp/tool && chmod 755 /tmp/tool && echo "tool: $(/tmp/tool)"
        try "big file" dd if=/dev/zero of=/tmp/big bs=1M count=17
        try "bigger file" dd if=/dev/zero of=$HOME/big bs=1M count=17
        echo "first: $(cat /proc/1/comm)"
    """
    found = verdicts(
        run_to_its_end(
            under,
            script,
            Mount(source=str(shared), target="/run/hub"),
            Mount(source=str(writable), target="/work", read_only=False),
        )
    )
    written = {what for what, outcome in found.items() if outcome == "ok"}
    assert written == {"write /tmp", "write /home/agent", "write /work"}
    assert found["remove shared"] == "no"
    assert found["uid"] == "1000 1000 1000"
    assert {found["CapEff"], found["CapBnd"], found["CapAmb"]} == {"0" * 16}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert (found["core"], found["files"]) == ("0 0", "1024 4096")
    assert (found["home"], found["image"]) == ("/home/agent", "1")
    assert found["tool"] == "ran"
    assert (found["big file"], found["bigger file"]) == ("no", "no")
    assert "init" in found["first"]
    assert (writable / "x").stat().st_uid == 1000


@pytest.mark.engine
def test_what_is_mounted_below_a_shared_directory_is_not_shared(under: RuntimeUnderTest, tmp_path: Path) -> None:
    below = tmp_path / "shared" / "below"
    below.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "none", below], stderr=-3, check=False).returncode:
        pytest.skip("may not mount")
    try:
        (below / "secret").write_text("x")
        output = run_to_its_end(under, "ls /run/hub/below", Mount(source=str(tmp_path / "shared"), target="/run/hub"))
    finally:
        subprocess.run(["umount", below], check=True)
    assert "secret" not in output


@pytest.mark.engine
def test_processes_and_memory_are_bounded(under: RuntimeUnderTest) -> None:
    forks = "i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i+1)); done; echo all"
    assert "all" not in run_to_its_end(under, forks)
    eats = "dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?"
    assert "137" in run_to_its_end(under, eats).split()
