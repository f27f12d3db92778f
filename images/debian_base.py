"""A small base image from Debian packages, for machines that cannot pull one: Python and git.

In: a running engine, `debootstrap` and the Debian mirror that this machine's apt uses. Out: the
image `IMAGE`, labelled with the digest of this file, which is its recipe. Needs root. Everything is
unpacked in a temporary directory and in a mount namespace of its own, so that an interrupted build
leaves no mounts behind.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker

SUITE = "bookworm"
REPOSITORY = "agents/debian-base"
IMAGE = f"{REPOSITORY}:{SUITE}"
LABEL = "agents.recipe"

# git brings all of Perl for a few subcommands that agents do not use; Debian needs perl-base.
DROPPED = ("perl", "liberror-perl", "git-man", "perl-modules-*", "libperl5*")
PURGE = (
    "dpkg --purge --force-depends $(dpkg-query -W -f '${db:Status-Abbrev}${Package}\\n' "
    + " ".join(f"'{pattern}'" for pattern in DROPPED)
    + " | sed -n 's/^ii *//p')"
)
EMPTIED = (
    "var/cache/apt",
    "var/cache/debconf",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/info",
    "tmp",
)
OF_THIS_HOST = ("etc/resolv.conf", "etc/hostname")


class ImageError(Exception):
    """An image cannot be made; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """`url` None: debootstrap chooses. `trusted`: apt does not check its signatures either."""

    url: str | None = None
    trusted: bool = False


def recipe_digest() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def make_base(client: docker.DockerClient, log_path: Path, say: Callable[[str], None]) -> None:
    """Makes `IMAGE` anew. Raises ImageError."""
    check_able()
    parent = os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108 - /tmp is often too small
    with tempfile.TemporaryDirectory(prefix="debian-base-", dir=parent) as folder:
        root = Path(folder) / "root"
        bootstrap(root, find_mirror(Path("/etc/apt")), log_path, say)
        say("base: removing documentation, translations and Perl")
        trim(root, log_path)
        say("base: importing into the engine")
        import_root(client, root)


def check_able() -> None:
    if not shutil.which("debootstrap"):
        raise ImageError("debootstrap is missing; Debian, Ubuntu: apt-get install debootstrap debian-archive-keyring")
    if os.geteuid() != 0:
        raise ImageError("making the base from Debian packages needs root: sudo make image")


def find_mirror(apt: Path) -> Mirror:
    """The first main archive of Debian among apt's sources below `apt`, if there is one."""
    for entry in apt_entries(apt):
        url = entry.get("uri", "").rstrip("/")
        if re.match(r"(https?|file):/", url) and url.endswith("/debian") and "main" in entry["components"].split():
            return Mirror(url=url, trusted=entry["trusted"] == "yes")
    return Mirror()


def apt_entries(apt: Path) -> Iterator[Mapping[str, str]]:
    """`uri`, `components` and `trusted` of each enabled binary source, in both formats."""
    folder = apt / "sources.list.d"
    for path in [apt / "sources.list", *sorted(folder.glob("*.list"))]:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        for line in lines:
            if found := re.match(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+\S+\s+(.*)", line):
                trusted = "yes" if "trusted=yes" in (found[1] or "") else "no"
                yield {"uri": found[2], "components": found[3], "trusted": trusted}
    for path in sorted(folder.glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            field = {k.lower(): v.strip() for k, v in re.findall(r"(?m)^([A-Za-z-]+):(.*)$", stanza)}
            if "deb" in field.get("types", "").split() and field.get("enabled", "yes").lower() != "no":
                for uri in field.get("uris", "").split():
                    trusted = field.get("trusted", "no").lower()
                    yield {
                        "uri": uri,
                        "components": field.get("components", ""),
                        "trusted": trusted,
                    }


def bootstrap(root: Path, mirror: Mirror, log_path: Path, say: Callable[[str], None]) -> None:
    own_mounts = ["unshare", "--mount"]
    allowed = subprocess.run([*own_mounts, "true"], capture_output=True, check=False).returncode == 0
    argv = own_mounts if allowed else []
    argv += ["debootstrap", "--variant=minbase", "--include=python3,git"]
    argv += [
        "--exclude=ca-certificates",
        "--no-check-gpg" if mirror.trusted else "--force-check-gpg",
    ]
    argv += [SUITE, str(root), *([mirror.url] if mirror.url else [])]
    log_path.parent.mkdir(parents=True, exist_ok=True)
    step = ""
    with (
        log_path.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            argv,
            env={**os.environ, **proxies()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        for line in process.stdout or ():
            log.write(line)
            word = line.split()[1] if line.startswith("I: ") and " " in line[3:] else ""
            if word in ("Retrieving", "Extracting", "Unpacking", "Configuring") and word != step:
                step = word
                say(f"base: {word.lower()} Debian packages")
    if process.returncode:
        raise ImageError(f"debootstrap failed:\n{explain_log(log_path, root)}")


def proxies() -> Mapping[str, str]:
    """The proxy that apt uses, which debootstrap takes from the environment."""
    with contextlib.suppress(OSError):
        argv = ["apt-config", "shell", "http_proxy", "Acquire::http::Proxy"]
        text = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        if found := re.match(r"http_proxy='(http.*)'", text):
            return {"http_proxy": found[1]}
    return {}


def explain_log(log_path: Path, root: Path) -> str:
    said = log_path.read_text(encoding="utf-8").splitlines()
    inner = root / "debootstrap/debootstrap.log"
    if inner.is_file():
        said += inner.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    advice = f"check that apt's Debian mirror answers: apt-get update; all of the log: {log_path}"
    if any("keyring" in line for line in said):
        advice = "the archive's key is missing: apt-get install debian-archive-keyring"
    return "\n".join(f"  {line}" for line in [*said[-10:], advice])


def trim(root: Path, log_path: Path) -> None:
    """Takes out what an agent never uses; licences and a true record of packages stay."""
    with log_path.open("a", encoding="utf-8") as log:
        argv = ["chroot", str(root), "sh", "-c", PURGE]
        done = subprocess.run(argv, stdout=log, stderr=log, env={"PATH": os.defpath + ":/usr/sbin:/sbin"}, check=False)
    if done.returncode:
        raise ImageError(f"cannot remove unneeded packages; see {log_path}")
    for name in EMPTIED:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for name in OF_THIS_HOST:
        (root / name).unlink(missing_ok=True)
    for path in (root / "usr/share/doc").rglob("*"):
        if path.is_symlink() or (path.is_file() and path.name != "copyright"):
            path.unlink()
    for path in (p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
        mode = path.stat().st_mode
        if mode & 0o6000:
            path.chmod(mode & 0o1777)


def import_root(client: docker.DockerClient, root: Path) -> None:
    argv = [
        "tar",
        "-C",
        str(root),
        "--numeric-owner",
        "--exclude=./dev/*",
        "--exclude=./proc/*",
        "--exclude=./sys/*",
    ]
    with subprocess.Popen([*argv, "-c", "."], stdout=subprocess.PIPE) as tar:
        client.api.import_image_from_stream(
            tar.stdout,
            repository=REPOSITORY,
            tag=SUITE,
            changes=[f"LABEL {LABEL}={recipe_digest()}"],
        )
    if tar.returncode:
        raise ImageError(f"tar failed with {tar.returncode} while importing the base")
