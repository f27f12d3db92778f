"""Log lines of the hub: one JSON object each, of the documented schema, which the configuration of Fluent Bit reads."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.log_view import LogView
from reconciler.core.trace import trace_of
from reconciler.core.yaml import load_documents
from reconciler.kinds import KINDS
from reconciler.logs import ABOUT, JsonLines
from reconciler.loop.run import Loop
from tests.fakes.fixtures import fleet
from tests.fakes.fleet import FLEET, FakeFleet
from tests.fakes.texts import agent_text, hub_text, task_text

__all__ = ["fleet"]

DOCS = Path(__file__).parents[1] / "docs"
ALWAYS = {"time", "level", "msg", "process", "logger"}
FIELDS = ALWAYS | set(ABOUT) | {"error"}
LOG = logging.getLogger("reconciler")


@contextmanager
def captured() -> Iterator[io.StringIO]:
    """What the hub's loggers would write."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines("hub"))
    before, propagates = LOG.level, LOG.propagate
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    try:
        yield stream
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(before)
        LOG.propagate = propagates


def sections(name: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Of a file in the classic form of Fluent Bit."""
    for title, body in re.findall(
        r"^\[(\w+)\]\n((?:[ #].*\n|\n)*)", (DOCS / "monitoring" / name).read_text(), re.MULTILINE
    ):
        pairs = (
            line.split(None, 1) for line in body.splitlines() if line.strip() and not line.lstrip().startswith("#")
        )
        yield title, {key.lower(): value for key, value in pairs}


def parse(line: str) -> dict[str, Any]:
    """As the parser of `parsers.conf` does; fails where it would pass the line on as it is."""
    ((_, parser),) = sections("parsers.conf")
    assert parser["format"] == "json"
    found: dict[str, Any] = json.loads(line)
    assert isinstance(found, dict)
    stamp = datetime.strptime(found[parser["time_key"]], parser["time_format"].replace(".%L", ".%f"))
    assert stamp.utcoffset() == timedelta(0)
    return found


def check(line: str) -> dict[str, Any]:
    found = parse(line)
    assert found.keys() >= ALWAYS
    assert found.keys() <= FIELDS
    assert all(isinstance(value, str) for value in found.values())
    return found


def test_the_configuration_reads_what_the_schema_has() -> None:
    found = dict(sections("fluent-bit.conf"))
    (name,) = (parser["name"] for _, parser in sections("parsers.conf"))
    assert found["INPUT"]["parser"] == name
    assert found["SERVICE"]["parsers_file"] == "parsers.conf"
    assert found["OUTPUT"]["match"] == found["INPUT"]["tag"]
    labels = re.findall(r"\$(\w+)", found["OUTPUT"]["label_keys"])
    metadata = dict(part.split("=$") for part in found["OUTPUT"]["structured_metadata"].split(","))
    assert set(labels) <= ALWAYS | {"fleet"}
    assert set(metadata) == set(metadata.values()) == {"agent", "instance", "task", "run", "revision", "trace"}
    assert {Path(p).name for p in found["INPUT"]["path"].split(",")} == {"hub.log", "router.log", "egress.log"}
    (loki,) = load_documents((DOCS / "monitoring" / "loki.yaml").read_bytes(), "loki.yaml").values
    assert str(loki["server"]["http_listen_port"]) == found["OUTPUT"]["port"]
    assert loki["limits_config"]["allow_structured_metadata"] is True


def test_the_documents_list_the_schema() -> None:
    section = (DOCS / "operating.md").read_text().split("\n## Logs\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == FIELDS


def test_changes_say_which_agent_task_run_revision_and_trace_they_are_of(fleet: FakeFleet) -> None:
    view = LogView()
    fleet.loop = Loop(fleet.world, KINDS, report=view.on_done)
    view.follow(FLEET, lambda: fleet.loop.revisions.applied)
    commit = fleet.commit({"agents.d/a.yaml": agent_text(), "tasks.d/t.yaml": task_text("job")})
    with captured() as stream:
        fleet.settle()
    lines = [check(line) for line in stream.getvalue().splitlines()]
    made = next(line for line in lines if line.get("action") == "create" and line.get("agent") == "writer")
    assert (made["instance"], made["outcome"], made["revision"], made["fleet"]) == (
        "writer-0",
        "applied",
        commit,
        FLEET,
    )
    sent = next(line for line in lines if line.get("action") == "dispatch")
    run = fleet.task("job")
    assert (sent["task"], sent["run"], sent["trace"]) == ("job", run.run, trace_of(run.run))
    assert (sent["agent"], sent["instance"], sent["revision"]) == ("writer", "writer-0", commit)


def test_conditions_are_told_when_they_begin_and_when_they_end(fleet: FakeFleet) -> None:
    view = LogView()
    fleet.commit({"agents.d/a.yaml": agent_text()})
    fleet.settle()
    with captured() as stream:
        fleet.source.fail("gone")
        for _ in range(3):
            view.on_pass(fleet.run())
        fleet.source.fail(None)
        view.on_pass(fleet.run())
    told = [
        (line["level"], line["msg"].split(":")[0])
        for line in map(check, stream.getvalue().splitlines())
        if line.get("condition") == "SourceUnavailable"
    ]
    assert told == [("warning", "SourceUnavailable of hub"), ("info", "SourceUnavailable of hub is over")]


@pytest.mark.parametrize("text", ["two\nlines", 'a "quote"', "\x1b[31m", "\ud800", "%s"])
def test_whatever_is_said_is_one_line(text: str) -> None:
    with captured() as stream:
        LOG.warning("%s", text, extra={"agent": text})
    (line,) = stream.getvalue().splitlines()
    assert check(line)["msg"] == check(line)["agent"] == text


def test_a_fault_says_where_it_was() -> None:
    with captured() as stream:
        try:
            raise ValueError("odd")
        except ValueError:
            LOG.exception("a pass failed")
    found = check(stream.getvalue())
    assert (found["msg"], found["level"]) == ("a pass failed", "error")
    assert found["error"].endswith("ValueError: odd")


@pytest.fixture
def short_folder() -> Iterator[str]:
    """For sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o711)
        yield folder


@pytest.mark.slow
def test_each_line_of_a_real_hub_and_its_router_can_be_read(
    tmp_path: Path, short_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "hub.yaml").write_text(hub_text())
    monkeypatch.setenv("RECONCILER_RUN", short_folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    places = ("--source", str(tmp_path / "source"), "--data", str(tmp_path / "data"))
    argv = [
        sys.executable,
        "-P",
        "-m",
        "reconciler",
        "run",
        "--once",
        "--log",
        "json",
        "--allow-process-runtime",
        *places,
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    hub = [check(line) for line in done.stdout.splitlines()]
    assert {line["process"] for line in hub} == {"hub"}
    assert "converged" in [line["msg"] for line in hub]
    router = [check(line) for line in (tmp_path / "data" / "log" / "router.log").read_text().splitlines()]
    assert {line["process"] for line in router} == {"router"}
    assert {line["fleet"] for line in router} == {hub[-1]["fleet"]}
    assert done.stderr == ""
