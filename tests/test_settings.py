"""`hub.yaml` and `operator.yaml` as models, and the rule that the repository can only narrow the operator."""

from typing import Any

import pytest
from pydantic import ValidationError

from reconciler.settings import (
    AgentPlane,
    Hub,
    HubSpec,
    Maxima,
    Operator,
    OperatorRuntime,
    OperatorSpec,
    check_narrowing,
    permits_image,
)


@pytest.mark.parametrize(
    ("patterns", "reference", "is_permitted"),
    [
        (["agents/*"], "agents/base:1", True),
        (["agents/*"], "agents/base", True),
        (["agents/*"], "docker.io/agents/base:1", False),
        (["agents/*"], "evil/agents/base", False),
        (["agents/base"], "agents/base:1", True),
        (["agents/base"], "agents/base@sha256:0123", True),
        (["agents/base"], "agents/base:1@sha256:0123", True),
        (["agents/base:1"], "agents/base:2", False),
        (["agents/base"], "agents/baseline:1", False),
        (["localhost:5000/agents/*"], "localhost:5000/agents/base", True),
        (["localhost"], "localhost:5000/agents/base", False),
        ([], "agents/base", False),
        (["x", "agents/*"], "agents/base", True),
    ],
)
def test_an_image_is_permitted_by_its_name_with_or_without_its_tag(
    patterns: list[str], reference: str, is_permitted: bool
) -> None:
    assert permits_image(tuple(patterns), reference) is is_permitted


def test_defaults_are_those_of_the_contracts() -> None:
    hub, operator = HubSpec(), OperatorSpec()
    assert (hub.loop.resync, hub.loop.concurrency, hub.loop.stalled_after) == (30.0, 4, 5)
    assert (hub.loop.prune_budget.count, hub.loop.prune_budget.percent) == (3, 20)
    assert (hub.router.lease, hub.router.ttl, hub.router.max_body) == (30.0, 600.0, 2**20)
    assert (hub.orchestrator.retry.max_attempts, hub.orchestrator.max_parallel_tasks) == (3, 5)
    assert (operator.maxima.agents, operator.maxima.cpus, operator.maxima.memory) == (1000, 4.0, 8 * 2**30)
    assert operator.runtime.allow == ("docker",)
    assert not operator.runtime.process_runtime


def test_a_hub_that_asks_for_what_it_may_is_narrow_enough() -> None:
    assert check_narrowing(HubSpec(), OperatorSpec(), "hub.yaml") == []
    wide = OperatorSpec(runtime=OperatorRuntime.model_validate({"processRuntime": True, "imageAllow": ["*"]}))
    hub = HubSpec.model_validate({"runtime": {"prefer": "process", "images": ["tools/*", "agents/base"]}})
    assert check_narrowing(hub, wide, "hub.yaml") == []


def test_each_place_where_it_asks_for_more_is_a_problem_of_its_own() -> None:
    hub = HubSpec.model_validate(
        {"runtime": {"prefer": "process", "images": ["agents/base", "*"]}, "orchestrator": {"maxParallelTasks": 50}}
    )
    operator = OperatorSpec(maxima=Maxima.model_validate({"maxParallelTasks": 10}))
    found = check_narrowing(hub, operator, "hub.yaml")
    assert [tuple(path) for path, _ in found] == [
        ("spec", "orchestrator", "maxParallelTasks"),
        ("spec", "runtime", "images"),
        ("spec", "runtime", "prefer"),
    ]
    assert all("ask the operator" in problem.message for _, problem in found)


@pytest.mark.parametrize(
    ("policy", "engines"),
    [
        ({}, ("embedded", "builtin")),
        ({"opa": None}, ("embedded", "builtin")),
        ({"opa": {}}, ("opa", "embedded", "builtin")),
        ({"opa": {}, "engines": ["embedded"]}, ("embedded",)),
        ({"opa": {"managed": True}, "engines": ["opa", "builtin"]}, ("opa", "builtin")),
    ],
)
def test_opa_is_asked_first_where_there_is_a_section_for_it(
    policy: dict[str, object], engines: tuple[str, ...]
) -> None:
    assert HubSpec.model_validate({"policy": policy}).policy.engines == engines


def test_opa_has_the_defaults_of_the_contracts() -> None:
    opa = HubSpec.model_validate({"policy": {"opa": {}}}).policy.opa
    assert opa is not None
    assert (opa.address, opa.timeout, opa.managed) == ("http://127.0.0.1:8181", 0.05, False)
    assert (opa.breaker.failures, opa.breaker.half_open_after) == (5, 2.0)
    managed = HubSpec.model_validate({"policy": {"opa": {"managed": True}}}).policy.opa
    assert managed is not None
    assert managed.address is None


def test_opa_is_asked_elsewhere_only_where_the_operator_says_so() -> None:
    def problems(url: str) -> list[tuple[str, ...]]:
        hub = HubSpec.model_validate({"policy": {"opa": {"url": url}}})
        return [tuple(path) for path, _ in check_narrowing(hub, operator, "hub.yaml")]

    operator = OperatorSpec.model_validate({"policy": {"opaUrls": ["http://opa.internal:8181"]}})
    assert problems("http://127.0.0.1:1") == problems("http://[::1]:1") == problems("unix:///run/opa.sock") == []
    assert problems("http://opa.internal:8181/") == []
    assert problems("http://opa.internal:8182") == [("spec", "policy", "opa", "url")]


@pytest.mark.parametrize(
    "value",
    [
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"policy": {"opaUrls": ["opa.internal"]}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"policy": {"opaBinary": "opa"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"secrets": {"provider": "vault"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"secrets": {"path": "secrets"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"secrets": {"provider": "command"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"secrets": {"provider": "command", "path": "x"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"secrets": {"provider": "env", "path": "A-"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"secrets": {"timeout": "2m"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"maxima": {"agents": 0}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"maxima": {"agents": "10"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"runtime": {"processRuntime": "yes"}}},
        {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"runtime": {"allow": ["podman"]}}},
        {"apiVersion": "reconciler/v1", "kind": "Hub"},
        {"kind": "Operator"},
    ],
)
def test_an_operator_file_that_is_none_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Operator.model_validate(value)


def plane_of(**section: object) -> AgentPlane:
    return OperatorSpec.model_validate({"agentPlane": section}).agent_plane


def test_no_agent_comes_in_over_the_network_unless_the_operator_says_which_and_where() -> None:
    assert (OperatorSpec().agent_plane.listens_at, OperatorSpec().agent_plane.address_of("far")) == (None, "")
    assert plane_of(listen="tcp://10.0.0.1:8421").address_of("far") == ""
    plane = plane_of(listen="tcp://10.0.0.1:8421", agents=["far", "edge-*"])
    assert [plane.address_of(agent) for agent in ("far", "edge-1", "farther", "near")] == [
        "10.0.0.1:8421",
        "10.0.0.1:8421",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("listen", "advertise", "address"),
    [
        ("tcp://[::1]:8421", None, "[::1]:8421"),
        ("tcp://10.0.0.1:8421", "Hub.example.org:443", "hub.example.org:443"),
        ("tcp://0.0.0.0:8421", "10.0.0.1:8421", "10.0.0.1:8421"),
        ("tcp://[::]:8421", "[2001:db8::1]:8421", "[2001:db8::1]:8421"),
    ],
)
def test_agents_are_told_what_is_listened_on_or_what_the_operator_says(
    listen: str, advertise: str | None, address: str
) -> None:
    assert plane_of(listen=listen, advertise=advertise, agents=["*"]).address_of("far") == address


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"listen": "10.0.0.1:8421"}, r"such as tcp://10\.0\.0\.1:8421"),
        ({"listen": "tcp://10.0.0.1"}, "no host and port"),
        ({"listen": "tcp://10.0.0.1:0"}, "port 0"),
        ({"listen": "tcp://hub:8421"}, "write an IP address of this host"),
        ({"listen": "tcp://0.0.0.0:8421"}, "advertise says which one agents call"),
        ({"listen": "tcp://0.0.0.0:8421", "advertise": "0.0.0.0:8421"}, "nobody can call"),
        ({"listen": "tcp://10.0.0.1:8421", "advertise": "hub"}, "no host and port"),
        ({"agents": ["far"]}, "does not say where to listen"),
        ({"advertise": "hub:8421"}, "does not say where to listen"),
        ({"listen": 8421}, "not text"),
        ({"port": 8421}, "port"),
    ],
)
def test_a_way_in_over_the_network_that_cannot_be_is_refused_with_what_to_write(
    section: dict[str, object], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        plane_of(**section)


@pytest.mark.parametrize(
    "section",
    [{"agentPlane": {}}, {"router": {"agentPlane": {}}}, {"router": {"listen": "tcp://10.0.0.1:1"}}],
)
def test_the_repository_has_no_say_in_the_way_in_over_the_network(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HubSpec.model_validate(section)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../b", ".git", "a//b", "a/", "", "a b", "a\nb", "~"])
def test_paths_stay_within_the_repository(path: str) -> None:
    with pytest.raises(ValidationError):
        HubSpec.model_validate({"paths": {"agents": path}})


@pytest.mark.parametrize("path", ["agents.d", "fleet/agents", "a.b-c_d"])
def test_paths_that_are_fine(path: str) -> None:
    assert HubSpec.model_validate({"paths": {"agents": path}}).paths.agents == path


@pytest.mark.parametrize(
    ("section", "key", "value", "why"),
    [
        ("loop", ("drift", "router"), "report", 'is "report"; what the router knows is how tokens are issued'),
        ("runtime", ("network",), "egress", 'is "egress"; agents reach the hub, and models through its relay'),
        ("orchestrator", ("sandboxRequired",), False, "is false; there is no sandbox but the strict one"),
        ("orchestrator", ("auditAllActions",), 1, "is 1; what is done is always recorded; write true"),
    ],
)
def test_a_key_with_one_value_is_not_passed_over(section: str, key: tuple[str, ...], value: object, why: str) -> None:
    inner = {key[-1]: value} if len(key) == 1 else {key[0]: {key[1]: value}}
    with pytest.raises(ValidationError) as raised:
        HubSpec.model_validate({section: inner})
    assert why in str(raised.value)
    (error,) = raised.value.errors()
    assert error["loc"] == (section, *key)


def test_settings_cannot_be_changed() -> None:
    hub = Hub.model_validate({"apiVersion": "reconciler/v1", "kind": "Hub", "metadata": {"name": "x"}})
    with pytest.raises(ValidationError):
        hub.spec.loop.concurrency = 9  # type: ignore[misc]


# --- alerts -----------------------------------------------------------------------------------------------------------

SECRET_URL = "https://hooks.example.org/T0/whsec-planted"


def test_a_sink_is_a_webhook_or_a_command() -> None:
    sinks = {
        "pager": {"webhook": {"url": SECRET_URL, "keyFile": "/etc/key"}, "heartbeat": "1m"},
        "mail": {"command": {"argv": ["/usr/bin/notify", "--mail"]}, "timeout": "5s"},
    }
    spec = OperatorSpec.model_validate({"sinks": sinks})
    assert spec.sinks["pager"].heartbeat == 60.0
    assert spec.sinks["mail"].command is not None
    assert spec.sinks["mail"].command.argv == ("/usr/bin/notify", "--mail")
    assert "planted" not in repr(spec)


@pytest.mark.parametrize(
    ("sink", "why"),
    [
        ({}, "one of 'webhook', 'command', 'smtp' and 'apprise'"),
        (
            {"webhook": {"url": SECRET_URL}, "command": {"argv": ["/x"]}},
            "one of 'webhook', 'command', 'smtp' and 'apprise'",
        ),
        ({"webhook": {"url": "ftp://planted"}}, "is no URL"),
        ({"webhook": {"url": "https://user:planted@example.org/"}}, "is no URL"),
        ({"webhook": {"url": "https://example.org/a b"}}, "is no URL"),
        ({"webhook": {"url": SECRET_URL, "keyFile": "relative"}}, "keyFile"),
        ({"command": {"argv": ["notify"]}}, "absolute path"),
        ({"command": {"argv": []}}, "argv"),
        ({"command": {"argv": ["/x"]}, "timeout": "10m"}, "timeout"),
    ],
)
def test_a_sink_that_cannot_be_is_refused(sink: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        OperatorSpec.model_validate({"sinks": {"x": sink}})


def test_the_log_is_not_to_be_defined() -> None:
    with pytest.raises(ValidationError, match="without being defined"):
        OperatorSpec.model_validate({"sinks": {"log": {"command": {"argv": ["/x"]}}}})


def test_only_the_log_and_what_the_operator_defines_may_be_named() -> None:
    operator = OperatorSpec.model_validate({"sinks": {"mail": {"command": {"argv": ["/x"]}}}})
    assert check_narrowing(HubSpec.model_validate({"alerts": {"sinks": ["log", "mail"]}}), operator, "hub.yaml") == []
    ((path, problem),) = check_narrowing(
        HubSpec.model_validate({"alerts": {"sinks": ["sms", "mail"]}}), operator, "hub.yaml"
    )
    assert tuple(path) == ("spec", "alerts", "sinks")
    assert problem.message.startswith("alerts.sinks is sms, but the operator allows log mail")


def test_the_audit_log_is_anchored_by_default_and_the_operator_says_how() -> None:
    default = OperatorSpec().audit
    assert (default.checkpoint_every.rows, default.checkpoint_every.seconds, default.notes, default.push) == (
        1000,
        60,
        True,
        None,
    )
    written = OperatorSpec.model_validate(
        {"audit": {"checkpointEvery": {"rows": 5}, "keyDirectory": "/etc/keys", "push": {"url": "file:///notes.git"}}}
    ).audit
    assert (written.checkpoint_every.rows, written.checkpoint_every.seconds) == (5, 60)
    assert written.push is not None


@pytest.mark.parametrize(
    ("audit", "why"),
    [
        ({"checkpointEvery": {"rows": 0}}, "rows"),
        ({"keyDirectory": "keys"}, "keyDirectory"),
        ({"renewNotes": "0s"}, "renewNotes"),
        ({"push": {"url": "/srv/notes.git"}}, "is no address of a repository"),
        ({"push": {"url": "https://u:planted@example.org/x"}}, "has a password in it"),
        ({"push": {"url": "file:///notes.git"}, "notes": False}, "audit.notes is false"),
    ],
)
def test_an_anchor_that_cannot_be_is_refused(audit: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        OperatorSpec.model_validate({"audit": audit})


def test_the_sink_of_checkpoints_is_one_that_is_defined() -> None:
    with pytest.raises(ValidationError, match=r"audit.sink is 'vault', which sinks does not define; it has: pager"):
        OperatorSpec.model_validate({"audit": {"sink": "vault"}, "sinks": {"pager": {"command": {"argv": ["/bin/x"]}}}})


def api_http(**given: str) -> dict[str, Any]:
    return {"apiVersion": "reconciler/v1", "kind": "Operator", "spec": {"api": {"http": given}}}


TLS = {"certificateFile": "/etc/hub.crt", "keyFile": "/etc/hub.key"}


@pytest.mark.parametrize(
    "given",
    [
        {"tokenFile": "/etc/tokens"},
        {"tokenFile": "/etc/tokens", "listen": "tcp://[::1]:8490"},
        {"tokenFile": "/etc/tokens", "listen": "tcp://127.8.8.8:8490"},
        {"tokenFile": "/etc/tokens", "listen": "tcp://0.0.0.0:8490", **TLS},
    ],
)
def test_the_operator_s_port_is_of_this_host_alone_or_has_tls(given: dict[str, str]) -> None:
    found = Operator.model_validate(api_http(**given)).spec.api.http
    assert found is not None
    assert found.listens_at.port == 8490


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokenFile": "/etc/tokens", "listen": "tcp://0.0.0.0:8490"}, "without TLS; write certificateFile"),
        ({"tokenFile": "/etc/tokens", "listen": "tcp://10.0.0.1:8490"}, "listens at 10.0.0.1:8490, which is not of"),
        ({"tokenFile": "/etc/tokens", "listen": "tcp://[::]:8490"}, "without TLS"),
        ({"tokenFile": "/etc/tokens", "certificateFile": "/etc/hub.crt"}, "TLS needs both"),
        ({"tokenFile": "tokens"}, "tokenFile"),
        ({"listen": "tcp://127.0.0.1:8490"}, "tokenFile"),
        ({"tokenFile": "/etc/tokens", "listen": "tcp://hub:8490"}, "write an IP address"),
    ],
)
def test_a_port_that_others_could_listen_in_on_is_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Operator.model_validate(api_http(**given))
