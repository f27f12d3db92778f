"""Builds the agents' images, `agents/base:1` and `agents/checker:1`, where they are not current.

In: the Dockerfiles beside this script, agentd's sources, the lock files, and a base image: the one
that `--base` names, else `python:3.12-slim` if it is here or can be pulled, else one made from
Debian packages. Out: the tags on the engine, each labelled with the digest of all that went into
it; equal digest, nothing to do. Images that a tag leaves behind stay, because running fleets may be
pinned to them. `--if-engine` does without an engine, and says nothing when all is current;
`--fresh` builds base and images anew; `--claude` also builds `agents/claude:1`, which needs npm
and its registry.
"""

import argparse
import fcntl
import hashlib
import io
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import debian_base
import docker
import docker.errors
import requests
from debian_base import LABEL, ImageError

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build/images"
AGENT = "agents/base:1"
CHECKER = "agents/checker:1"
CLAUDE = "agents/claude:1"
DEFAULT_BASE = "python:3.12-slim"
CHECKER_LOCK = ROOT / "images/checker/requirements.lock"
MANYLINUX = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
PULL_SILENCE_S = 15
STARTED = time.monotonic()

NO_ENGINE = (
    "Start one (Debian: apt-get install docker.io, then systemctl start docker, or run dockerd)\n"
    "or say where it is (DOCKER_HOST). Permission denied: sudo, or membership in the group docker."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """`name` for people, `id` for building."""

    name: str
    id: str


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--base", help=f"the image to build on (default {DEFAULT_BASE}, else Debian packages)")
    options.add_argument("--fresh", action="store_true", help="build everything anew")
    options.add_argument("--if-engine", action="store_true", help="do nothing when no engine answers")
    options.add_argument("--claude", action="store_true", help=f"build {CLAUDE} too, with the Claude Code CLI")
    args = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary directories go
    try:
        client = docker.from_env(timeout=10)
    except docker.errors.DockerException as error:
        if args.if_engine:
            say("no container engine answers, so no image is built")
            return 0
        fail(f"no container engine answers: {error}", NO_ENGINE)
    client.api.timeout = 900
    try:
        with open(__file__, "rb") as this_file:  # locked, so that two builds do not meet
            fcntl.flock(this_file, fcntl.LOCK_EX)
            build_agent(client, args.base, fresh=args.fresh, quiet=args.if_engine)
            build_checker(client, fresh=args.fresh, quiet=args.if_engine)
            if args.claude:
                build_claude(client, fresh=args.fresh, quiet=args.if_engine)
    except ImageError as error:
        fail(str(error))
    except (docker.errors.DockerException, requests.RequestException) as error:
        fail(f"the engine failed: {error}")
    except KeyboardInterrupt:
        fail("interrupted")
    return 0


def build_agent(client: docker.DockerClient, wanted_base: str | None, *, fresh: bool, quiet: bool) -> None:
    dockerfile = "images/agent/Dockerfile"
    agentd = sorted(p for p in (ROOT / "reconciler/agentd").rglob("*.py"))
    files = [ROOT / dockerfile, ROOT / "reconciler/__init__.py", *agentd]
    context = pack({str(p.relative_to(ROOT)): p for p in files})
    base = None if fresh else find_local_base(client, wanted_base)
    if base and is_current(client, AGENT, inputs_digest(base.id, context), quiet):
        return
    base = base or get_base(client, wanted_base, fresh=fresh)
    offline = base.name == debian_base.IMAGE
    build(
        client,
        AGENT,
        dockerfile,
        base,
        io.BytesIO(context),
        inputs_digest(base.id, context),
        fresh=fresh,
        offline=offline,
    )


def build_checker(client: docker.DockerClient, *, fresh: bool, quiet: bool) -> None:
    dockerfile = "images/checker/Dockerfile"
    parent = Base(name=AGENT, id=image_id(client, AGENT) or "")
    sources = pack({dockerfile: ROOT / dockerfile, CHECKER_LOCK.name: CHECKER_LOCK})
    digest = inputs_digest(parent.id, sources)
    if not fresh and is_current(client, CHECKER, digest, quiet):
        return
    site = unpack_checker_packages(client, parent)
    packages = [p for p in sorted(site.rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    context = pack({str(p.relative_to(ROOT)): p for p in [ROOT / dockerfile, *packages]})
    build(client, CHECKER, dockerfile, parent, io.BytesIO(context), digest, fresh=fresh, offline=True)


def build_claude(client: docker.DockerClient, *, fresh: bool, quiet: bool) -> None:
    dockerfile = "images/claude/Dockerfile"
    parent = Base(name=AGENT, id=image_id(client, AGENT) or "")
    inputs = (dockerfile, "images/claude/package-lock.json")
    digest = inputs_digest(parent.id, pack({name: ROOT / name for name in inputs}))
    if not fresh and is_current(client, CLAUDE, digest, quiet):
        return
    program = fetch_claude()
    files = {dockerfile: ROOT / dockerfile, "claude": program, "LICENSE.md": program.parent / "LICENSE.md"}
    with tempfile.TemporaryFile(dir=WORK) as context:  # hundreds of megabytes
        write_tar(context, files)
        context.seek(0)
        build(client, CLAUDE, dockerfile, parent, context, digest, fresh=fresh, offline=True)


def fetch_claude() -> Path:
    """The pinned program, downloaded where it is not here yet. Raises ImageError."""
    say(f"{CLAUDE}: fetching the Claude Code CLI")
    done = subprocess.run(
        [ROOT / "images/claude/fetch"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ImageError(f"cannot fetch the Claude Code CLI:\n{done.stderr.rstrip()}")
    return Path(done.stdout.strip())


def find_local_base(client: docker.DockerClient, wanted: str | None) -> Base | None:
    """The base that needs no download and no work, if there is one."""
    for name in (wanted,) if wanted else (DEFAULT_BASE, debian_base.IMAGE):
        found = image_id(client, name)
        recipe = debian_base.recipe_digest() if name == debian_base.IMAGE else None
        if found and (recipe is None or label_of(client, name) == recipe):
            return Base(name=name, id=found)
    return None


def get_base(client: docker.DockerClient, wanted: str | None, *, fresh: bool) -> Base:
    """Pulls the base, or makes it from Debian packages if nobody named one. Raises ImageError."""
    name = wanted or DEFAULT_BASE
    if name != debian_base.IMAGE:
        why_not = pull(name)
        found = image_id(client, name)
        if found and (fresh or not why_not):
            return Base(name=name, id=found)
        if wanted:
            raise ImageError(f"cannot pull {name}: {why_not}\nUse docker load for a saved one, or leave BASE out.")
        say(f"base: cannot pull {name}: {why_not}")
        say(f"base: making {debian_base.IMAGE} from Debian packages instead")
    debian_base.make_base(client, WORK / "debootstrap.log", say)
    made = image_id(client, debian_base.IMAGE) or ""
    say(f"{debian_base.IMAGE} is made, {size_mb(client, debian_base.IMAGE)} MB")
    return Base(name=debian_base.IMAGE, id=made)


def pull(name: str) -> str:
    """Pulls; returns why not, or an empty text. Gives up after `PULL_SILENCE_S` without a word."""
    say(f"base: pulling {name}")
    repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    try:
        client = docker.from_env(timeout=PULL_SILENCE_S)
        for event in client.api.pull(repository, tag=tag, stream=True, decode=True):
            if "error" in event:
                return str(event["error"])
    except (docker.errors.DockerException, requests.RequestException) as error:
        return str(getattr(error, "explanation", None) or error)
    return ""


def unpack_checker_packages(client: docker.DockerClient, parent: Base) -> Path:
    """The checker's packages for the parent's Python and machine; downloaded when they changed."""
    ask = "import platform, sys; print('%d.%d' % sys.version_info[:2], platform.machine())"
    said = client.containers.run(parent.id, ["python3", "-c", ask], network_mode="none", remove=True).decode()
    version, machine = said.split()
    key = hashlib.sha256(CHECKER_LOCK.read_bytes() + said.encode()).hexdigest()
    site, stamp = WORK / "checker/site", WORK / "checker/stamp"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == key:
        return site
    say(f"{CHECKER}: downloading its packages for Python {version} on {machine}")
    stamp.unlink(missing_ok=True)
    shutil.rmtree(site, ignore_errors=True)
    argv = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
    argv += [
        "--require-hashes",
        "--no-deps",
        "--only-binary=:all:",
        "--no-compile",
        "-r",
        str(CHECKER_LOCK),
    ]
    argv += ["--target", str(site), "--implementation", "cp", "--python-version", version]
    argv += [f"--platform={tag}_{machine}" for tag in MANYLINUX]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join(f"  {line}" for line in done.stderr.splitlines()[-8:])
        raise ImageError(f"cannot download the packages of {CHECKER}; check the network. pip said:\n{said}")
    stamp.write_text(key, encoding="utf-8")
    return site


def build(
    client: docker.DockerClient,
    tag: str,
    dockerfile: str,
    base: Base,
    context: IO[bytes],
    digest: str,
    *,
    fresh: bool,
    offline: bool,
) -> None:
    """Builds with the classic builder, which every engine has. Raises ImageError."""
    say(f"{tag}: building on {base.name}")
    started = time.monotonic()
    said: deque[str] = deque(maxlen=15)
    events = client.api.build(
        fileobj=context,
        custom_context=True,
        dockerfile=dockerfile,
        tag=tag,
        buildargs={"BASE": base.id},
        labels={LABEL: digest},
        network_mode="none" if offline else None,
        nocache=fresh,
        rm=True,
        forcerm=True,
        decode=True,
    )
    for event in events:
        line = str(event.get("stream") or event.get("error") or "").rstrip()
        if line:
            said.append(line)
        if line.startswith("Step ") and (" RUN " in line or " COPY " in line):
            say(f"{tag}: {line[:70]}")
        if "error" in event:
            raise ImageError(f"cannot build {tag}:\n" + "\n".join(f"  {text[:200]}" for text in said))
    say(f"{tag} is built in {time.monotonic() - started:.1f} s, {size_mb(client, tag)} MB")


def is_current(client: docker.DockerClient, tag: str, digest: str, quiet: bool) -> bool:
    if label_of(client, tag) != digest:
        return False
    if not quiet:
        say(f"{tag} is current, {size_mb(client, tag)} MB")
    return True


def image_id(client: docker.DockerClient, name: str) -> str | None:
    try:
        return str(client.api.inspect_image(name)["Id"])
    except docker.errors.ImageNotFound:
        return None


def label_of(client: docker.DockerClient, name: str) -> str | None:
    """The digest of what `name` was built from; None where there is no such image or label."""
    try:
        labels: Mapping[str, str] = client.api.inspect_image(name)["Config"].get("Labels") or {}
    except docker.errors.ImageNotFound:
        return None
    return labels.get(LABEL)


def size_mb(client: docker.DockerClient, name: str) -> int:
    size_bytes: int = client.api.inspect_image(name)["Size"]
    return round(size_bytes / 1e6)


def inputs_digest(base_id: str, context: bytes) -> str:
    return hashlib.sha256(base_id.encode() + context).hexdigest()


def pack(path_by_name: Mapping[str, Path]) -> bytes:
    """A tar file of the given files; equal names and contents give equal bytes."""
    out = io.BytesIO()
    write_tar(out, path_by_name)
    return out.getvalue()


def write_tar(out: IO[bytes], path_by_name: Mapping[str, Path]) -> None:
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, path in sorted(path_by_name.items()):
            entry = tarfile.TarInfo(name)
            status = path.stat()
            entry.size, entry.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
            with path.open("rb") as content:
                tar.addfile(entry, content)


def say(text: str) -> None:
    sys.stderr.write(f"images: {time.monotonic() - STARTED:5.1f} s  {text}\n")
    sys.stderr.flush()


def fail(problem: str, *advice: str) -> NoReturn:
    lines: Sequence[str] = "\n".join((problem, *advice)).splitlines()
    sys.stderr.write("images: " + "\n        ".join(lines) + "\n")
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
