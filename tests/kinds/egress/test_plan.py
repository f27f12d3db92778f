"""What the way out lacks: to run, its configuration, or the right set of instances."""

from dataclasses import replace

from reconciler.core.change import Action, Cause, Change, FieldChange
from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.kinds.egress.plan import EgressWork, plan
from reconciler.kinds.egress.spec import write_config
from reconciler.kinds.egress.state import EgressState
from reconciler.kinds.egress_entry import digest_providers, write_entry
from reconciler.kinds.kind import Facts
from reconciler.ports import EgressReport
from tests.fakes.clock import START
from tests.fakes.desired import desired_of
from tests.kinds.egress.test_spec import CLOUD, GPU, hub, outgoing

FACTS = Facts(now=START, boottime=0.0, boot_id="b")
DESIRED = desired_of({"hub.yaml": hub(GPU, CLOUD)})
NOTHING = desired_of({"hub.yaml": hub()})
CONFIG = write_config(DESIRED, {})
WRITER = outgoing('{"provider": "gpu", "model": "qwen3"}')
ENTRY = write_entry(WRITER, DESIRED.hub, digest_providers(DESIRED.hub))
REPORT = EgressReport(
    pid=1, epoch="e", code_version="1", config_digest=CONFIG["digest"], instances={"writer-0": ENTRY["digest"]}
)
STATE = EgressState(report=Ok(REPORT), outgoing={"writer-0": WRITER}, was_running=True)


def plan_one(state: EgressState = STATE) -> Change:
    (change,) = plan(DESIRED, state, FACTS)
    assert change.unit == "egress/egress"
    return change


def test_without_providers_there_is_nothing_to_do() -> None:
    assert plan(NOTHING, EgressState(), FACTS) == []


def test_when_the_last_provider_goes_it_is_ended() -> None:
    for state in (STATE, replace(STATE, report=Absent()), replace(STATE, report=Unavailable(reason="x"))):
        (change,) = plan(NOTHING, state, FACTS)
        assert (change.action, change.spec) == (Action.REMOVE, EgressWork(stop=True))


def test_one_that_does_not_run_is_started_with_everything() -> None:
    change = plan_one(replace(STATE, report=Absent()))
    assert (change.action, change.cause) == (Action.CREATE, Cause.CRASH)
    assert change.spec == EgressWork(start=True, config=CONFIG, put={"writer-0": ENTRY})
    assert plan_one(replace(STATE, report=Absent(), was_running=False)).cause is Cause.START


def test_one_that_does_not_answer_is_replaced() -> None:
    change = plan_one(replace(STATE, report=Unavailable(reason="GET /report failed")))
    assert (change.action, change.reason) == (Action.RESTART, "it does not answer: GET /report failed")
    assert change.spec == EgressWork(stop=True, start=True, config=CONFIG, put={"writer-0": ENTRY})


def test_one_of_other_code_is_restarted() -> None:
    change = plan_one(replace(STATE, report=Ok(replace(REPORT, next_version="2", config_digest="1:old"))))
    assert (change.action, change.cause) == (Action.RESTART, Cause.START)
    assert change.reason == "its code is version 1, this is 2"
    assert change.spec == EgressWork(stop=True, start=True, config=CONFIG, put={"writer-0": ENTRY})


def test_one_that_is_as_it_should_be_is_kept() -> None:
    change = plan_one()
    assert (change.action, change.reason, change.spec) == (Action.KEEP, "as in git", EgressWork())


def test_a_changed_configuration_is_swapped_in() -> None:
    change = plan_one(replace(STATE, report=Ok(replace(REPORT, config_digest="1:old"))))
    assert (change.action, change.cause) == (Action.UPDATE, Cause.COMMIT)
    assert change.fields == (FieldChange(path="configuration", before="1:old", after=CONFIG["digest"]),)
    assert change.spec == EgressWork(config=CONFIG)


def test_instances_that_differ_from_the_record_are_put_right() -> None:
    report = replace(REPORT, instances={"writer-0": "1:old", "stray-0": "1:s"})
    change = plan_one(replace(STATE, report=Ok(report)))
    assert (change.action, change.cause) == (Action.UPDATE, Cause.START)
    assert change.reason == "to be told token, route or work of writer-0; 1 registered instances have no record"
    assert change.spec == EgressWork(put={"writer-0": ENTRY}, remove=("stray-0",))


def test_other_work_of_an_instance_is_told() -> None:
    at_work = replace(WRITER, work=(("r1", "changelog"),), sensitivity="confidential")
    change = plan_one(replace(STATE, outgoing={"writer-0": at_work}))
    assert change.action is Action.UPDATE
    assert change.spec.put["writer-0"]["sensitivity"] == "confidential"
