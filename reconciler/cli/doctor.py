"""`doctor`: what this machine offers and lacks, and the command that mends each lack."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from reconciler.cli.options import data_option, operator_option, source_option

if TYPE_CHECKING:
    from reconciler.home import Home
    from reconciler.settings import HubSpec, OperatorSpec


@click.command(name="doctor")
@source_option
@data_option
@operator_option
def doctor_command(source: str, data: str | None, operator: str | None) -> int:
    """Say what this machine offers and lacks."""
    failed = False
    for good, subject, text, mend in _checks(source, data, operator):
        failed |= good is False
        mark = {True: "ok  ", False: "FAIL", None: "note"}[good]
        click.echo(f"{mark} {subject:<16} {text}")
        if mend:
            click.echo(f"     {'':<16} → {mend}")
    return 1 if failed else 0


Check = tuple[bool | None, str, str, str]


def _checks(source: str, data: str | None, operator: str | None) -> Iterator[Check]:
    yield True, "python", f"{sys.version.split()[0]} ({sys.executable})", ""
    yield _git()
    yield from _engine()
    yield from _files(source, data, operator)


def _git() -> Check:
    git = shutil.which("git")
    if git is None:
        return False, "git", "not installed", "apt-get install git"
    version = subprocess.run([git, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return True, "git", version, ""


def _engine() -> Iterator[Check]:
    from reconciler.bootstrap import say_engine_away
    from reconciler.core.reading import Ok
    from reconciler.runtime.docker import DockerRuntime

    facts = DockerRuntime("doctor").facts()
    if not isinstance(facts, Ok):
        reason = say_engine_away(facts)
        yield None, "container engine", reason, f"{_mend_engine(reason)}, or run with --allow-process-runtime"
        return
    yield True, "container engine", f"{facts.value.name} {facts.value.version}", ""
    for limitation in facts.value.limitations:
        yield None, "", limitation, ""


def _mend_engine(reason: str) -> str:
    """What makes an engine answer that does not, by what the operating system said."""
    if "Permission denied" in reason:
        return "usermod -aG docker YOU as root and log in again"
    if shutil.which("dockerd") is not None:
        return "start it: systemctl start docker"
    return "apt-get install docker.io"


def _files(source: str, data: str | None, operator: str | None) -> Iterator[Check]:
    from reconciler.cli.doctor_source import check_source
    from reconciler.cli.revisions import load_revision
    from reconciler.errors import ReconcilerError
    from reconciler.home import MIRROR, data_folder, followed, is_locked, open_home, read_operator

    spec, problems = read_operator(operator)
    yield not problems, "operator.yaml", "; ".join(str(p) for p in problems) or "read, or safe defaults", ""
    try:
        state = data_folder(source, data)
        tracked = followed(source, spec.source)
        yield from check_source(tracked, state)
        if tracked.origin is not None:
            source = str(state / MIRROR)
            if tracked.path is not None or not os.path.isdir(source):
                why = f"{tracked.path} of it is followed" if tracked.path is not None else "not fetched yet"
                yield None, "repository", f"{why}; its content was not looked at", ""
                return
        desired, found = load_revision(source, spec, worktree=False)
        if found:
            yield False, "repository", f"{len(found)} problems; first: {found[0]}", f"reconciler validate {source}"
        elif desired is not None:
            yield True, "repository", f"valid at revision {desired.revision.id[:12]}", ""
        home = open_home(state, create=False)
        text = f"{state}: fleet {home.fleet}, hub {'running' if is_locked(state) else 'not running'}" if home else "new"
        yield True, "data", text, ""
        yield _opa(spec, desired.hub if desired is not None else None)
        if home is not None:
            yield from _policy(home)
    except ReconcilerError as exc:
        yield False, "repository", str(exc), ""


def _opa(operator: "OperatorSpec", hub: "HubSpec | None") -> Check:
    """The program, and whether `hub.yaml` needs it."""
    from reconciler.policy.opa_process import find_program, read_version

    opa = hub.policy.opa if hub is not None and "opa" in hub.policy.engines else None
    program = find_program(operator.policy.opa_binary)
    version = read_version(program) if program else None
    if program and version:
        use = "the hub runs it" if opa and opa.managed else f"asked at {opa.address}" if opa else "hub.yaml asks none"
        return True, "opa", f"{version[0]}.{version[1]} at {program}; {use}", ""
    if opa is not None and opa.managed:
        mend = "install OPA 1.0 or newer (docs/policies.md), or take policy.opa out of hub.yaml"
        return None, "opa", "hub.yaml wants the hub to run it, and there is no program; the next engine answers", mend
    if opa is not None:
        return None, "opa", f"no program here; asked at {opa.address}", ""
    return None, "opa", "not installed, and hub.yaml asks none; the embedded engine answers policies", ""


def _policy(home: "Home") -> Iterator[Check]:
    """Which engine answers the router that runs."""
    from reconciler.core.reading import Ok
    from reconciler.router.client import RouterLink

    report = RouterLink(home.fleet, home.run, home.state).report()
    if not isinstance(report, Ok):
        return
    engine, fault = report.value.policy_engine, report.value.policy_fault
    text = f"{engine} answers the router at revision {report.value.policy_revision}"
    yield None if fault else True, "policy", f"{text}; {fault}" if fault else text, ""
