"""What a person should know of the way out: providers that are away, and a ledger that cannot be written."""

from reconciler.core.condition import Finding
from reconciler.core.reading import Absent, Ok, Unavailable
from reconciler.kinds.egress.findings import find
from reconciler.kinds.egress.state import EgressState
from reconciler.ports import EgressReport


def state(**faults: str) -> EgressState:
    report = EgressReport(pid=1, epoch="e", code_version="1", config_digest="d", faults=faults)
    return EgressState(report=Ok(report), was_running=True)


def test_each_provider_that_is_away_is_a_finding_of_its_own() -> None:
    away = Finding(subject="provider/gpu", type="ProviderAway", reason="BreakerOpen", message="refused")
    full = Finding(subject="egress", type="UsageUnwritable", reason="NoSpace", message="disk full")
    assert find(state(gpu="refused", ledger="disk full")) == {"provider": (away,), "egress": (full,)}
    assert find(state()) == {"provider": (), "egress": ()}


def test_a_policy_engine_that_is_away_is_a_finding() -> None:
    report = EgressReport(pid=1, epoch="e", code_version="1", config_digest="d", policy_fault="opa: refused")
    away = Finding(subject="egress", type="PolicyFallback", reason="EngineAway", message="opa: refused")
    assert find(EgressState(report=Ok(report), was_running=True))["egress"] == (away,)


def test_of_a_process_that_does_not_answer_nothing_is_said_and_one_that_is_not_wanted_has_no_faults() -> None:
    assert find(EgressState(report=Unavailable(reason="x"), was_running=True)) == {}
    assert find(EgressState(report=Absent(), was_running=True)) == {}
    assert find(EgressState()) == {"provider": (), "egress": ()}
