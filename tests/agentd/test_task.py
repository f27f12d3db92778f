from __future__ import annotations

import io
import os
from pathlib import Path

from reconciler.agentd.artefacts import Collection
from reconciler.agentd.assignment import Assignment, Ref
from reconciler.agentd.config import Config, ExecutorSpec
from reconciler.agentd.groups import ProcessGroups
from reconciler.agentd.log import Log
from reconciler.agentd.outcome import Completed, Failed, Outcome
from reconciler.agentd.process import Halt
from reconciler.agentd.task import Bench, perform

REF = Ref(task="demo", run="r-1", generation=1)


def run(tmp_path: Path, script: str, scratch: str = "", **fields: object) -> Outcome:
    config = Config(
        agent="demo",
        instance="demo-0",
        socket_path="/nowhere",
        token_file="/nowhere",
        version="1",
        capabilities=(),
        executor=ExecutorSpec(argv=("sh", "-c", script)),
        base_env={"PATH": os.environ["PATH"]},
        scratch=scratch or str(tmp_path),
    )
    log = Log(instance="demo-0", stream=io.StringIO())
    groups = ProcessGroups(is_reaper=False)
    bench = Bench(config=config, groups=groups, hub_url="http://127.0.0.1:1", llm_url="http://127.0.0.1:2/llm", log=log)
    halt = Halt()
    assignment = Assignment(ref=REF, **fields)  # type: ignore[arg-type]
    outcome = perform(assignment, bench, halt, lambda: None, lambda _: None)
    halt.close()
    return outcome


def test_success_has_result_and_artefacts(tmp_path: Path) -> None:
    outcome = run(tmp_path, 'echo 1 > "$HUB_OUTPUT/a.txt"; echo [1]', artefacts=("*.txt",))
    assert isinstance(outcome, Completed)
    assert outcome.result == [1]
    assert [a.content for a in outcome.artefacts.artefacts] == [b"1\n"]


def test_an_artefact_that_is_a_link_is_refused(tmp_path: Path) -> None:
    outcome = run(tmp_path, 'ln -s /etc/passwd "$HUB_OUTPUT/a.txt"', artefacts=("*.txt",))
    assert isinstance(outcome, Completed)
    assert outcome.artefacts == Collection(left_out=("a.txt",))


def test_artefacts_beyond_the_limit_fail_the_task(tmp_path: Path) -> None:
    outcome = run(tmp_path, 'seq 999 > "$HUB_OUTPUT/a.txt"', artefacts=("*",), max_size_bytes=100)
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.exit_code) == ("too_large", 0)


def test_without_a_workspace_it_runs_in_the_task_directory(tmp_path: Path) -> None:
    outcome = run(tmp_path, 'test "$PWD" = "$HUB_TASK_DIR" && ls')
    assert isinstance(outcome, Completed)
    assert outcome.result == "input.json\nparents\nprompt.txt\n"


def test_the_scratch_directory_goes_also_when_the_task_locked_it(tmp_path: Path) -> None:
    run(
        tmp_path,
        'mkdir -p "$HUB_OUTPUT/a/b"; ln -s / "$HUB_OUTPUT/a/root"; chmod -R 0 "$HUB_OUTPUT/a"',
    )
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_directory_that_cannot_be_made_is_a_spawn_failure(tmp_path: Path) -> None:
    outcome = run(tmp_path, "true", scratch=str(tmp_path / "missing"))
    assert isinstance(outcome, Failed)
    assert outcome.reason == "spawn"
