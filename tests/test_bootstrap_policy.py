"""Which engines are put together for a hub, and how OPA is asked."""

from pathlib import Path

import pytest

from reconciler.bootstrap import CheckWatch, build_policy, opa_settings, policy_order
from reconciler.core.address import TcpAddress, UnixAddress
from reconciler.errors import CheckStoppedError
from reconciler.policy.opa import OpaEngine, OpaSettings
from reconciler.policy.opa_process import NO_PROGRAM
from reconciler.settings import HubSpec, OperatorSpec
from tests.policy.example import message_bundle, message_question

OPERATOR = OperatorSpec()


def hub(**policy: object) -> HubSpec:
    return HubSpec.model_validate({"policy": policy})


@pytest.mark.parametrize(
    ("engines", "without"),
    [
        (["opa", "embedded", "builtin"], ("embedded", "builtin")),
        (["opa", "builtin"], ("embedded", "builtin")),
        (["embedded", "opa", "builtin"], ("embedded", "builtin")),
        (["opa"], ("embedded",)),
        (["builtin"], ("builtin",)),
    ],
)
def test_for_policies_that_are_not_in_force_the_embedded_engine_stands_in_for_opa(
    engines: list[str], without: tuple[str, ...]
) -> None:
    spec = hub(engines=engines, opa={})
    assert policy_order(spec, OPERATOR).engines == without
    assert policy_order(spec, OPERATOR, has_opa=True).engines == tuple(engines)


def test_a_hub_that_lists_opa_before_builtin_is_still_judged_by_rego() -> None:
    chain = build_policy(hub(engines=["opa", "builtin"], opa={}), OPERATOR)
    try:
        chain.activate(message_bundle('decision := {"allow": false, "reasons": ["no"]}'))
        decision = chain.decide("message", message_question())
    finally:
        chain.close()
    assert (decision.allow, decision.engine, decision.reasons) == (False, "embedded", ("no",))


def test_with_an_opa_it_is_in_the_chain() -> None:
    chain = build_policy(hub(opa={}), OPERATOR, opa=OpaEngine())
    assert chain.answering == "opa"
    chain.close()


def test_how_opa_is_asked_comes_from_hub_yaml(tmp_path: Path) -> None:
    assert opa_settings(hub(), OPERATOR, tmp_path) is None
    spec = hub(opa={"url": "http://[::1]:9", "timeout": "20ms", "breaker": {"failures": 2, "halfOpenAfter": "1s"}})
    assert opa_settings(spec, OPERATOR, tmp_path) == OpaSettings(
        address=TcpAddress(host="::1", port=9), timeout_s=0.02, failures=2, half_open_after_s=1.0
    )


def test_a_managed_opa_is_on_the_hubs_own_socket_and_needs_a_program(tmp_path: Path) -> None:
    managed = hub(opa={"managed": True})
    for program, missing in (("/bin/true", ""), ("/nowhere/opa", NO_PROGRAM)):
        operator = OperatorSpec.model_validate({"policy": {"opaBinary": program}})
        found = opa_settings(managed, operator, tmp_path)
        assert found == OpaSettings(address=UnixAddress(path=f"{tmp_path}/opa/opa.sock"), missing=missing)


def test_a_check_that_goes_on_is_told_each_second_and_can_be_stopped() -> None:
    told: list[str] = []
    watch = CheckWatch(told.append)
    for seconds in (0.1, 0.9, 1.0, 1.1, 2.05, 0.2, 1.3):
        watch.attend(seconds)
    assert told == [f"checking policies for {n}s …" for n in (1, 2, 1)]
    watch.stop()
    with pytest.raises(CheckStoppedError):
        watch.attend(0.1)
