"""`plan --base --head --live` on real repositories: what is compared, in which format, and how it ends."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reconciler.cli.plan import plan_command
from reconciler.errors import ForeignFleetError, ReconcilerError, SourceError, UsageError
from reconciler.loop.export import write_export
from reconciler.loop.recorded import read_record
from tests.fakes.fleet import FLEET, FakeFleet
from tests.fakes.texts import agent_text, hub_text, task_text
from tests.source.repo import Repo, make_repo

FILES = {"hub.yaml": hub_text(), "agents.d/a.yaml": agent_text(), "agents.d/b.yaml": agent_text("reader")}
DENY = """package hub.admission

import rego.v1

decision := {"allow": false, "reasons": ["no agent is called late"]} if input.name == "late"

else := {"allow": true}
"""


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return make_repo(tmp_path / "repo", FILES)


def plan(repo: Repo, *arguments: str) -> Result:
    return CliRunner().invoke(
        plan_command, [str(repo.path), *arguments], standalone_mode=False, catch_exceptions=False, color=False
    )


def as_json(repo: Repo, *arguments: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(plan(repo, "-o", "json", *arguments).stdout)
    return value


def error(repo: Repo, *arguments: str) -> ReconcilerError:
    with pytest.raises(ReconcilerError) as caught:
        plan(repo, *arguments)
    return caught.value


def units(value: dict[str, Any]) -> dict[str, str]:
    return {f"{c['kind']}/{c.get('instance', c['name'])}": c["action"] for c in value["changes"]}


def test_two_revisions_are_compared_without_a_record_a_hub_or_an_engine(repo: Repo) -> None:
    repo.commit({"agents.d/a.yaml": agent_text(version="2"), "agents.d/c.yaml": agent_text("new")})
    repo.commit({"agents.d/late.yaml": agent_text("late")})
    value = as_json(repo, "--base", "HEAD~2", "--head", "HEAD~1")
    assert (value["compared_with"], value["base"]) == ("base", repo.git("rev-parse", "HEAD~2"))
    assert value["revision"] == repo.git("rev-parse", "HEAD~1")
    assert units(value) == {"router/router": "update", "agent/writer-0": "replace", "agent/new-0": "create"}


def test_a_request_merged_into_its_base_is_compared_with_the_base_as_it_is_now(repo: Repo) -> None:
    repo.git("switch", "--quiet", "-c", "request")
    repo.commit({"agents.d/a.yaml": agent_text(version="2")})
    repo.git("switch", "--quiet", "main")
    repo.commit({"agents.d/c.yaml": agent_text("new")})
    repo.git("merge", "--quiet", "--no-edit", "request")
    repo.git("checkout", "--quiet", "--detach")
    value = as_json(repo, "--base", "HEAD^1", "--head", "HEAD")
    assert units(value) == {"router/router": "update", "agent/writer-0": "replace"}
    assert (value["refused"], value["unsettled"]) == ([], "")


@pytest.mark.parametrize("output", ["table", "json", "markdown", "github", "sarif"])
def test_the_exit_code_is_the_same_in_each_format(repo: Repo, output: str) -> None:
    codes = [plan(repo, "--base", "main", "--head", "main", "-o", output).return_value]
    repo.commit({"agents.d/a.yaml": agent_text(version="2")})
    codes.append(plan(repo, "--base", "HEAD~1", "--head", "HEAD", "-o", output).return_value)
    repo.git("rm", "--quiet", "-r", "agents.d")
    repo.commit()
    codes.append(plan(repo, "--base", "HEAD~1", "--head", "HEAD", "-o", output).return_value)
    repo.commit({"agents.d/a.yaml": "kind: Agent\n"})
    codes.append(plan(repo, "--base", "HEAD~1", "--head", "HEAD", "-o", output).return_value)
    assert codes == [0, 2, 3, 1]


def test_files_are_written_beside_what_is_printed(repo: Repo, tmp_path: Path) -> None:
    repo.commit({"agents.d/a.yaml": agent_text(version="2")})
    files = [tmp_path / f"plan{suffix}" for suffix in (".md", ".json", ".sarif", ".txt")]
    answer = plan(repo, "--base", "HEAD~1", *(f"--write={file}" for file in files))
    texts = [file.read_text() for file in files]
    assert answer.stdout == texts[3]
    assert texts[0].startswith("<!-- reconciler-plan -->\n")
    assert [json.loads(text).get("version", "") for text in texts[1:3]] == ["", "2.1.0"]
    assert "must end in one of .md" in str(error(repo, "--write", "plan.pdf"))
    assert "cannot be written" in str(error(repo, "--write", str(tmp_path / "none" / "plan.md")))


def test_the_files_as_they_are_can_be_compared_with_a_revision(repo: Repo) -> None:
    repo.write("agents.d/a.yaml", agent_text(version="2"))
    value = as_json(repo, "--base", "HEAD", "--worktree")
    assert units(value)["agent/writer-0"] == "replace"
    assert value["revision"].startswith("worktree:")


def test_a_rename_and_changed_settings_are_shown(repo: Repo) -> None:
    repo.git("rm", "--quiet", "agents.d/b.yaml")
    repo.commit({"agents.d/c.yaml": agent_text("critic"), "hub.yaml": hub_text(loop={"concurrency": 2})})
    value = as_json(repo, "--base", "HEAD~1")
    assert value["moves"] == [{"kind": "agent", "before": "reader", "after": "critic"}]
    assert value["settings"] == [{"path": "loop.concurrency", "before": 1, "after": 2}]
    assert "agent/reader → agent/critic" in plan(repo, "--base", "HEAD~1").stdout


def test_a_rename_is_shown_by_a_plan_against_the_record_too(fleet: FakeFleet, repo: Repo) -> None:
    repo.git("rm", "--quiet", "agents.d/b.yaml")
    repo.commit({"agents.d/c.yaml": agent_text("critic")})
    shown = plan(repo, "--data", str(fleet.folder)).stdout
    assert "→ move      agent/reader → agent/critic the same spec under another name" in shown
    assert "reader-0" not in shown


def test_admission_is_asked_of_base_and_head(repo: Repo) -> None:
    repo.commit({"policies/admission.rego": DENY})
    repo.commit({"policies/admission.rego": DENY.replace("false", "true"), "agents.d/l.yaml": agent_text("late")})
    answer = plan(repo, "--base", "HEAD~1", "-o", "json")
    value = json.loads(answer.stdout)
    assert answer.return_value == 3
    assert [r["guard"] for r in value["refused"]] == ["admission"]
    (verdict,) = value["admission"]
    assert (verdict["name"], verdict["file"], verdict["head"]["allow"]) == ("late", "agents.d/l.yaml", True)
    assert (verdict["base"]["allow"], verdict["base"]["reasons"]) == (False, ["no agent is called late"])
    repo.git("checkout", "--quiet", "HEAD~1", "--", "policies")
    repo.commit()
    denied = plan(repo, "--base", "HEAD~2")
    assert (denied.return_value, denied.stdout) == (1, "")
    assert "agents.d/l.yaml:1:1: admission denied" in denied.stderr


def test_policies_of_the_base_that_cannot_be_loaded_do_not_keep_their_repair_out(repo: Repo) -> None:
    repo.commit({"policies/admission.rego": DENY.replace('"late"', "some")})
    repo.commit({"policies/admission.rego": DENY, "agents.d/n.yaml": agent_text("new")})
    value = as_json(repo, "--base", "HEAD~1")
    assert value["problems"] == []
    assert value["notes"][0].startswith("the policies of the base cannot be asked for admission")
    assert [a["base"] for a in value["admission"]] == [None]


def test_a_refused_plan_is_confirmed_by_its_digest(repo: Repo) -> None:
    repo.git("rm", "--quiet", "-r", "agents.d")
    repo.commit()
    (refusal,) = as_json(repo, "--base", "HEAD~1")["refused"]
    assert refusal["guard"] == "empty-set"
    assert plan(repo, "--base", "HEAD~1", "--confirm", refusal["confirm"]).return_value == 2
    assert plan(repo, "--base", "HEAD~1", "--confirm", "1:another").return_value == 3


def test_a_base_that_is_no_ancestor_is_refused_as_a_hub_would(repo: Repo) -> None:
    repo.git("switch", "--quiet", "-c", "side")
    repo.commit({"agents.d/a.yaml": agent_text(version="2")})
    repo.git("switch", "--quiet", "main")
    repo.commit({"agents.d/c.yaml": agent_text("new")})
    answer = plan(repo, "--base", "side", "--head", "main")
    assert answer.return_value == 3
    assert "refused by not-a-descendant" in answer.stdout


def test_a_history_that_is_cut_off_is_said_to_be_so(repo: Repo, tmp_path: Path) -> None:
    repo.commit({"agents.d/a.yaml": agent_text(version="2")})
    repo.commit({"agents.d/a.yaml": agent_text(version="3")})
    repo.git("clone", "--quiet", "--depth=1", f"file://{repo.path}", str(tmp_path / "shallow"))
    base = repo.git("rev-parse", "HEAD~1")
    shallow = Repo(tmp_path / "shallow")
    assert isinstance(error(shallow, "--base", base, "--head", "HEAD"), UsageError)
    shallow.git("fetch", "--quiet", "--depth=1", "origin", base)
    found = error(shallow, "--base", base, "--head", "HEAD")
    assert isinstance(found, SourceError)
    assert "git fetch --unshallow" in str(found)


def test_a_broken_base_does_not_keep_the_fix_from_being_planned(repo: Repo) -> None:
    repo.commit({"agents.d/a.yaml": "kind: Agent\n"})
    repo.commit({"agents.d/a.yaml": agent_text(version="2")})
    value = as_json(repo, "--base", "HEAD~1")
    assert (value["compared_with"], value["problems"]) == ("nothing", [])
    assert "is not valid itself" in value["notes"][0]


@pytest.mark.parametrize("name", ["nowhere", "0" * 40, "HEAD~9", "main^{tree}", "--exec=x", "..", ""])
def test_an_unknown_revision_is_an_error_that_names_it(repo: Repo, name: str) -> None:
    for option in ("--base", "--head"):
        found = error(repo, f"{option}={name}")
        assert isinstance(found, UsageError | SourceError)
        assert f"{name!a}" in str(found)


def test_a_head_without_hub_yaml_is_a_problem(repo: Repo) -> None:
    repo.git("rm", "--quiet", "hub.yaml")
    repo.commit()
    answer = plan(repo, "--base", "HEAD~1")
    assert (answer.return_value, answer.stdout) == (1, "")
    assert answer.stderr.startswith("hub.yaml: is missing; a repository needs one")


def test_options_that_exclude_each_other_are_refused(repo: Repo, tmp_path: Path) -> None:
    assert "use one of them" in str(error(repo, "--head", "main", "--worktree"))
    assert "goes with --live" in str(error(repo, "--token-file", "x"))
    plain = Repo(tmp_path / "plain")
    plain.write("hub.yaml", hub_text())
    assert "is no git repository, so it has no revision" in str(error(plain, "--head", "main"))


# --- compared with what a hub exported --------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path, repo: Repo) -> Iterator[FakeFleet]:
    """A fleet that has carried out the first commit of the repository."""
    (tmp_path / "state").mkdir()
    made = FakeFleet(tmp_path / "state")
    made.store.set_meta("fleet", FLEET)
    made.commit(FILES)
    made.settle()
    made.store.set_meta("applied_revision", repo.git("rev-parse", "HEAD"))
    yield made
    made.end_hub()


def exported(fleet: FakeFleet, tmp_path: Path) -> str:
    file = tmp_path / "live.json"
    file.write_text(json.dumps(write_export(read_record(fleet.store), fleet.clock.now(), "0.1.0")))
    return str(file)


def test_an_export_is_compared_with_in_place_of_the_base(fleet: FakeFleet, repo: Repo, tmp_path: Path) -> None:
    live = exported(fleet, tmp_path)
    assert plan(repo, "--live", live).return_value == 0
    repo.commit({"agents.d/c.yaml": agent_text("new"), "hub.yaml": hub_text(loop={"concurrency": 2})})
    value = as_json(repo, "--live", live)
    assert (value["compared_with"], value["fleet"], value["notes"]) == ("export", FLEET, [])
    assert units(value) == {"router/router": "update", "agent/new-0": "create"}
    assert [s["path"] for s in value["settings"]] == ["loop.concurrency"]
    assert f"compared with fleet {FLEET} as of 2026-" in plan(repo, "--live", live).stdout


def test_a_fleet_that_is_not_at_the_base_is_told(fleet: FakeFleet, repo: Repo, tmp_path: Path) -> None:
    repo.commit({"tasks.d/t.yaml": task_text()})
    repo.commit({"agents.d/c.yaml": agent_text("new")})
    value = as_json(repo, "--live", exported(fleet, tmp_path), "--base", "HEAD~1")
    assert value["notes"][0].startswith("the fleet is at ")
    assert units(value)["task/changelog"] == "create"


def test_an_export_of_another_fleet_is_an_error(fleet: FakeFleet, repo: Repo, tmp_path: Path) -> None:
    live = exported(fleet, tmp_path)
    other = make_repo(tmp_path / "other", {"hub.yaml": hub_text(), "agents.d/z.yaml": agent_text("z")})
    found = error(other, "--live", live)
    assert isinstance(found, ForeignFleetError)
    assert f"is of fleet {FLEET}" in str(found)
    home = tmp_path / "home"
    home.mkdir()
    (home / "fleet.json").write_text(json.dumps({"fleet": "ffffffff", "key": "00"}))
    assert "holds fleet ffffffff" in str(error(repo, "--live", live, "--data", str(home)))


def test_a_damaged_export_is_a_problem_at_the_file(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "live.json").write_text("{")
    answer = plan(repo, "--live", str(tmp_path / "live.json"))
    assert answer.return_value == 1
    assert "live.json: is damaged, or no export" in answer.stderr


def test_what_is_recorded_is_exported_and_compared_with(fleet: FakeFleet, repo: Repo, tmp_path: Path) -> None:
    target = tmp_path / "live.json"
    answer = plan(repo, "--data", str(fleet.folder), "--export", str(target))
    assert (answer.return_value, answer.stdout) == (0, f"wrote {target}: 2 instances of fleet {FLEET}\n")
    assert as_json(repo, "--live", str(target))["compared_with"] == "export"
    printed = json.loads(plan(repo, "--data", str(fleet.folder), "--export", "-").stdout)
    assert printed["metadata"]["fleet"] == FLEET
    assert "there is no record of a fleet" in str(error(repo, "--export", "-"))
