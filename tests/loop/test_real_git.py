"""The pass over a real repository that somebody is hostile, careless or in a hurry with; the engine is a fake."""

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core.reading import Ok, Reading
from reconciler.loop.run import CONFIRMED, PassReport
from reconciler.ports import Revision
from reconciler.settings import OperatorSpec
from reconciler.source.repository import LocalRepository
from tests.fakes.fleet import FakeFleet, told
from tests.fakes.texts import agent_text, hub_text
from tests.source.repo import Repo, bytes_read, make_repo

HOOKS = ("post-checkout", "post-index-change", "reference-transaction", "fsmonitor-watchman")


class Busy(LocalRepository):
    """A repository in which something happens between two looks of the hub."""

    meanwhile: Callable[[], object] | None = None

    def head(self) -> Reading[Revision]:
        found = super().head()
        if self.meanwhile is not None and isinstance(found, Ok):
            happens, self.meanwhile = self.meanwhile, None
            happens()
        return found


@dataclass
class Site:
    """A fleet and the repository that it follows."""

    repo: Repo
    source: Busy
    fleet: FakeFleet

    def commit(self, *agents: str, files: dict[str, str | bytes] | None = None, **spec: object) -> str:
        """A commit with exactly these agents, and other files."""
        for path in (self.repo.path / "agents.d").glob("*"):
            path.unlink()
        manifests = {f"agents.d/{name}.yaml": agent_text(name, **spec) for name in agents}
        return self.repo.commit({"hub.yaml": hub_text(), **manifests, **(files or {})})

    def commit_raw(self, *entries: str) -> str:
        """A commit whose folder of agents has these entries of `git mktree`."""
        folder = self.repo.hash_tree(*entries)
        hub = self.repo.blob(hub_text().encode())
        return self.repo.commit_tree(
            self.repo.hash_tree(f"100644 blob {hub}\thub.yaml", f"040000 tree {folder}\tagents.d")
        )

    def blob(self, name: str) -> str:
        return self.repo.blob(agent_text(name).encode())

    def problems(self) -> list[str]:
        """What is wrong with the newest revision; the fleet is as it was."""
        before = self.fleet.containers()
        report = self.fleet.run()
        assert "ConfigInvalid" in told(report), report
        assert self.fleet.containers() == before
        return [str(p) for p in report.problems]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    repo = make_repo(tmp_path / "repo", {"hub.yaml": hub_text()})
    (tmp_path / "data").mkdir()
    fleet = FakeFleet(tmp_path / "data", OperatorSpec())
    source = Busy(str(repo.path), "main")
    fleet.source = source  # type: ignore[assignment]
    fleet.restart()
    yield Site(repo, source, fleet)
    fleet.end_hub()
    source.close()


def instances(report: PassReport) -> set[str]:
    return {c.instance or "" for c in report.plan.changes if c.kind == "agent"}


def test_a_branch_that_moves_during_the_pass_is_read_as_it_was_and_then_as_it_is(site: Site) -> None:
    first = site.commit("a")
    site.source.meanwhile = lambda: site.commit("b")
    report = site.fleet.run()
    assert (report.revision, instances(report)) == (first, {"a-0"})
    site.fleet.settle()
    assert site.fleet.containers() == {"b-0": "running"}


def test_a_branch_that_is_forced_back_during_the_pass_mixes_nothing(site: Site) -> None:
    first = site.commit("a")
    site.fleet.settle()
    second = site.commit("a", "b")
    site.source.meanwhile = lambda: site.repo.git("reset", "--quiet", "--hard", first)
    assert site.fleet.run().revision == second
    report = site.fleet.run()
    assert [r.guard for r in report.plan.refused] == ["not-a-descendant"]
    assert {"HistoryRewritten", "PlanRefused"} <= set(told(report))
    site.fleet.store.set_meta(CONFIRMED, report.plan.refused[0].confirm)
    site.fleet.settle()
    assert site.fleet.containers() == {"a-0": "running"}


def test_a_branch_that_is_gone_leaves_what_is_in_force(site: Site) -> None:
    site.commit("a")
    site.fleet.settle()
    site.repo.git("branch", "--quiet", "-m", "main", "elsewhere")
    report = site.fleet.run()
    assert "SourceUnavailable" in told(report)
    assert site.fleet.containers() == {"a-0": "running"}
    site.repo.git("branch", "--quiet", "-m", "elsewhere", "main")
    assert site.fleet.settle().conditions == ()


def test_a_file_of_two_gigabytes_is_refused_by_its_size_and_never_read(site: Site) -> None:
    site.commit("a")
    site.fleet.settle()
    huge = "ab" * 20
    loose = site.repo.path / ".git/objects" / huge[:2] / huge[2:]
    loose.parent.mkdir(exist_ok=True)
    compress = zlib.compressobj()
    loose.write_bytes(compress.compress(b"blob %d\0" % (2 * 2**30) + bytes(2**20)) + compress.flush(zlib.Z_SYNC_FLUSH))
    site.commit_raw(f"100644 blob {site.blob('a')}\ta.yaml", f"100644 blob {huge}\thuge.yaml")
    before = bytes_read()
    (problem,) = site.problems()
    assert problem.startswith("agents.d/huge.yaml")
    assert "2147483648 bytes" in problem
    assert bytes_read() - before < 8 * 2**20


def test_names_that_lead_elsewhere_or_do_not_print_are_problems_at_their_place(site: Site) -> None:
    site.commit("a")
    site.fleet.settle()
    evil = site.repo.hash_tree(f"100644 blob {site.blob('evil')}\tevil.yaml")
    site.commit_raw(
        f"100644 blob {site.blob('a')}\ta.yaml",
        f'100644 blob {site.blob("b")}\t"two\\nlines.yaml"',
        f'100644 blob {site.blob("c")}\t"right\\342\\200\\256left.yaml"',
        f'100644 blob {site.blob("d")}\t"latin-\\351.yaml"',
        f"040000 tree {evil}\t..",
        f"040000 tree {evil}\t.git",
    )
    problems = site.problems()
    assert len(problems) == 5, problems
    assert all(text.isprintable() for text in problems)
    assert not (site.fleet.folder.parent / "evil.yaml").exists()


def test_twins_by_case_are_two_files_and_their_resources_must_differ(site: Site) -> None:
    site.commit_raw(f"100644 blob {site.blob('a')}\tA.yaml", f"100644 blob {site.blob('b')}\ta.yaml")
    site.fleet.settle()
    assert site.fleet.containers() == {"a-0": "running", "b-0": "running"}
    site.commit_raw(f"100644 blob {site.blob('a')}\tA.yaml", f"100644 blob {site.blob('a')}\ta.yaml")
    assert any("agents.d/a.yaml" in text and "agents.d/A.yaml" in text for text in site.problems())


def test_names_in_any_script_are_files_like_others(site: Site) -> None:
    site.commit_raw(f"100644 blob {site.blob('a')}\tgrüß dich 漢字.yaml")
    site.fleet.settle()
    assert site.fleet.containers() == {"a-0": "running"}


def test_nothing_that_a_repository_asks_git_to_run_is_run_by_any_pass(site: Site, tmp_path: Path) -> None:
    marker, program = tmp_path / "marker", tmp_path / "evil"
    program.write_text(f"#!/bin/sh\ntouch {marker}\n")
    program.chmod(0o755)
    head = make_repo(tmp_path / "inner", {"x": "1"}).git("rev-parse", "HEAD")
    modules = f'[submodule "m"]\n\tpath = agents.d/m\n\turl = ext::{program}\n\tupdate = !{program}\n'
    files: dict[str, str | bytes] = {".gitattributes": "* filter=evil diff=evil\n", ".gitmodules": modules}
    for hook in HOOKS:
        (site.repo.path / ".git/hooks" / hook).write_text(program.read_text())
        (site.repo.path / ".git/hooks" / hook).chmod(0o755)
    site.commit("a", files=files, workspace={"source": "repository", "writable": True})
    site.repo.git("update-index", "--add", "--cacheinfo", f"160000,{head},vendor/m")
    site.repo.git("commit", "--quiet", "-m", "A submodule")
    marker.unlink(missing_ok=True)
    with (site.repo.path / ".git/config").open("a") as config:
        config.write(
            f'[core]\n\tfsmonitor = "{program}"\n\thooksPath = "{site.repo.path}/.git/hooks"\n'
            f'[filter "evil"]\n\tsmudge = "{program}"\n\tclean = "{program}"\n[protocol "ext"]\n\tallow = always\n'
            f'[submodule "m"]\n\turl = "ext::{program}"\n\tactive = true\n'
        )
    site.fleet.settle()
    workspace = site.fleet.folder / "instances/a-0/workspace"
    assert (workspace / "hub.yaml").exists()
    assert os.listdir(workspace / "vendor/m") == []
    assert not marker.exists()
    site.repo.run("status")
    assert marker.exists(), "control: plain git walks into it"
