"""Makes `.venv` with the pinned packages and this project in it, where that is not so already.

In: the lock files beside this script, and the Python that runs it (`.ci/setup` chooses it). Out:
`.venv`, with the project itself as a path entry and a `reconciler` command, so that no build tool
is needed. A stamp in `.venv`, written last, says what is installed; an interrupted run is finished
by the next one. `--dev` adds what tests and checks need, `--base` says that this is not the Python
of `.venv` but one chosen to make it.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections import deque
from pathlib import Path
from typing import NoReturn

CI = Path(__file__).resolve().parent
ROOT = CI.parent
VENV = ROOT / ".venv"
LOCK_BY_STAGE = {"run": CI / "requirements.lock", "dev": CI / "requirements-dev.lock"}
OLDEST_GIT = (2, 39)

COMMAND = """\
#!/bin/sh
'''exec' '{python}' "$0" "$@"
' '''
import sys

from reconciler.cli import main

sys.exit(main())
"""
NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|name resolution|Connect(ion)?Timeout|ReadTimeout"
    r"|ProxyError|SSLError|CERTIFICATE_VERIFY|Connection (refused|reset)|unreachable|timed out"
    r"|HTTP error 5\d\d"
)
RETRY = "WARNING: Retrying"
NETWORK_HELP = (
    "The package index cannot be reached. Check the network; behind a proxy set HTTPS_PROXY, for a\n"
    "mirror PIP_INDEX_URL, for a certificate authority of your own PIP_CERT.\n"
    "Then run it again: make setup\n"
    "A .venv that is already set up works without a network."
)
DIGEST_HELP = (
    "A download differs from what the lock file promises: it was damaged or altered on its way,\n"
    "or the lock file was edited by hand. Run it again: make setup. If it stays: make lock"
)
WHEEL_HELP = (
    "Either the package index cannot be reached, then check the network and PIP_INDEX_URL; or it\n"
    "has no package for this Python or machine: 3.11, 3.12 and 3.13 on Linux are known to work,\n"
    "PYTHON=python3.12 make setup"
)


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--dev", action="store_true")
    options.add_argument("--base", action="store_true")
    args = options.parse_args()
    check_git()
    with open(__file__, "rb") as this_file:  # locked, so that two set-ups do not meet
        wait_for_turn(this_file.fileno())
        stage = "dev" if args.dev else "run"
        key = stamp_key()
        if is_current(stage, key):
            return 0
        if not has_this_python(key):
            make_venv(args.base)
        forget_content(key)
        install(stage)
        link_project()
        for done in ("run", stage):
            stamp_path(done).write_text(key, encoding="utf-8")
    return 0


def check_git() -> None:
    """Ends the program with advice when git is missing or too old."""
    advice = "Debian, Ubuntu: apt-get install git; then run it again: make setup"
    if not shutil.which("git"):
        fail("git is missing", advice)
    text = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)\.(\d+)", text)
    if not found or (int(found[1]), int(found[2])) < OLDEST_GIT:
        oldest = ".".join(map(str, OLDEST_GIT))
        fail(f"git {oldest} or newer is needed, this one says: {text.strip() or 'nothing'}", advice)


def wait_for_turn(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another set-up of this directory to finish")
        fcntl.flock(fd, fcntl.LOCK_EX)


def stamp_key() -> str:
    """Python, place and content of `.venv`, a line each; the first two cannot change in place."""
    content = hashlib.sha256()
    for path in (*LOCK_BY_STAGE.values(), Path(__file__)):
        content.update(hashlib.sha256(path.read_bytes()).digest())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{version} {sys.base_prefix}\n{ROOT}\n{content.hexdigest()}\n"


def stamp_path(stage: str) -> Path:
    return VENV / f".installed-{stage}"


def is_current(stage: str, key: str) -> bool:
    return read_stamp(stage) == key and (VENV / "bin/python").exists() and (VENV / "bin/reconciler").exists()


def read_stamp(stage: str) -> str:
    try:
        return stamp_path(stage).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def has_this_python(key: str) -> bool:
    """Whether `.venv` was made here by this Python, so that packages can be changed in place."""
    return read_stamp("run").splitlines()[:2] == key.splitlines()[:2] and (VENV / "bin/python").exists()


def forget_content(key: str) -> None:
    """Before packages change: what was installed is no longer true, whichever lock file comes back."""
    stamp_path("dev").unlink(missing_ok=True)
    stamp_path("run").write_text("\n".join(key.splitlines()[:2]), encoding="utf-8")


def make_venv(is_base: bool) -> None:
    if VENV.is_symlink():  # clearing it would empty what others may use
        fail(f".venv is a link to {os.readlink(VENV)}, which is not replaced from here", "rm .venv; make setup")
    if not is_base:  # we run inside what is to be replaced: go on as the Python that made it
        base = shutil.which(
            f"python{sys.version_info.major}.{sys.version_info.minor}",
            path=f"{sys.base_prefix}/bin",
        )
        if not base:
            fail(
                f".venv was moved or is damaged, and {sys.base_prefix} has no Python to mend it",
                "rm -rf .venv",
            )
        os.execv(base, [base, __file__, "--base", *sys.argv[1:]])  # noqa: S606
    say(f"making .venv with Python {sys.version.split()[0]} ({sys.executable})")
    with Progress("making .venv"):
        try:
            venv.EnvBuilder(clear=True, symlinks=True, with_pip=True).create(VENV)
        except (OSError, subprocess.CalledProcessError) as error:
            fail(f"could not make .venv: {error}", "Debian, Ubuntu: apt-get install python3-venv")


def install(stage: str) -> None:
    """Installs the stage's lock file with pip, wheels only, each checked against its digest."""
    lock = LOCK_BY_STAGE[stage]
    total = lock.read_text(encoding="utf-8").count("==")
    name = lock.relative_to(ROOT)
    say(f"installing {total} pinned packages ({name})")
    options = [
        "--require-hashes",
        "--only-binary=:all:",
        "--no-deps",
        "--disable-pip-version-check",
        "--no-input",
    ]
    argv = [
        str(VENV / "bin/python"),
        "-m",
        "pip",
        "install",
        *options,
        "--progress-bar=off",
        "-r",
        str(lock),
    ]
    last_lines: deque[str] = deque(maxlen=40)
    seen = 0
    with (
        Progress(f"looking up {total} packages") as progress,
        subprocess.Popen(
            argv,
            env={**os.environ, "PIP_USER": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as pip,
    ):
        for line in pip.stdout or ():
            if line.startswith(RETRY) and last_lines and last_lines[-1].startswith(RETRY):
                last_lines.pop()
            last_lines.append(line.rstrip())
            if line.startswith(("Collecting ", "Requirement already satisfied")):
                seen += 1
                progress.what = f"{seen} of {total} packages looked up"
            elif line.startswith("Installing collected"):
                progress.what = "unpacking the packages"
    if pip.returncode:
        explain(f"could not install the pinned packages ({name})", last_lines)


def explain(what: str, last_lines: deque[str]) -> NoReturn:
    """Ends the program with the end of pip's output and what to do about it."""
    said = "\n".join(last_lines)
    if "DO NOT MATCH THE HASHES" in said:
        advice = DIGEST_HELP
    elif NETWORK.search(said):
        advice = NETWORK_HELP
    elif "No matching distribution" in said:
        advice = WHEEL_HELP
    else:
        advice = "Run it again: make setup"
    end = [f"  {line[:200]}" for line in list(last_lines)[-12:] if line]
    fail(f"{what}; pip said:", *end, *advice.splitlines())


def link_project() -> None:
    """Puts this directory on the environment's path, and a `reconciler` command into it."""
    # asked of the new environment: this script may run in the Python that made it
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(VENV), "platbase": str(VENV)}))
    (site / "reconciler-checkout.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    command = VENV / "bin/reconciler"
    command.write_text(COMMAND.format(python=VENV / "bin/python"), encoding="utf-8")
    command.chmod(0o755)


class Progress:
    """Says every few seconds what is being done: in place on a terminal, else a line each."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._in_place = sys.stderr.isatty()
        self._started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1 if self._in_place else 5):
            line = f"setup: {self.what}, {time.monotonic() - self._started:.0f} s"
            sys.stderr.write(f"\r\033[K{line}" if self._in_place else f"{line}\n")
            sys.stderr.flush()
        if self._in_place:
            sys.stderr.write("\r\033[K")


def say(text: str) -> None:
    sys.stderr.write(f"setup: {text}\n")


def fail(problem: str, *advice: str) -> NoReturn:
    say(problem)
    for line in advice:
        sys.stderr.write(f"       {line}\n")
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
