"""From a manifest to a container: what it carries, and what of the host it sees."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.identity.seal import AGENT_LABEL, FLEET_LABEL, HOME_LABEL, INSTANCE_LABEL, SEAL_LABEL, is_sealed
from reconciler.kinds.agent.container import build_container, hello_of
from reconciler.ports import ContainerSpec, Mount
from reconciler.settings import AgentPlane
from tests.fakes.fleet import FLEET, SEAL_KEY
from tests.kinds.agent.build import PLACES, manifest_of


def container(ordinal: int = 0, **spec: Any) -> ContainerSpec:
    return build_container("writer", ordinal, manifest_of(**spec).spec, PLACES, image_id="sha256:x", uid=1234)


def test_the_labels_say_whose_it_is_and_prove_it() -> None:
    labels = container(1).labels
    assert {k: v for k, v in labels.items() if k != SEAL_LABEL} == {
        FLEET_LABEL: FLEET,
        AGENT_LABEL: "writer",
        INSTANCE_LABEL: "writer-1",
        HOME_LABEL: "/var/x",
    }
    assert is_sealed(SEAL_KEY, FLEET, "writer-1", labels[SEAL_LABEL])
    assert not is_sealed(SEAL_KEY, FLEET, "writer-0", labels[SEAL_LABEL])
    assert not is_sealed(b"x" * 32, FLEET, "writer-1", labels[SEAL_LABEL])


def test_the_environment_is_the_authors_and_the_hubs_where_the_hubs_wins() -> None:
    env = container(env={"A": "1"}, executor={"type": "command", "argv": ["x", "y"], "env": {"B": "2"}}).env
    config = json.loads(env["HUB_CONFIG"])
    assert {k: v for k, v in env.items() if k != "HUB_CONFIG"} == {
        "A": "1",
        "HUB_SOCKET": "/run/hub/hub.sock",
        "HUB_TOKEN_FILE": "/run/secrets/agent-token",
        "HUB_AGENT": "writer",
        "HUB_INSTANCE": "writer-0",
    }
    assert config["executor"] == {
        "type": "command",
        "argv": ["x", "y"],
        "env": {"A": "1", "B": "2"},
        "timeouts": {"firstOutput": 60.0, "progress": 300.0},
    }
    assert (config["version"], config["capabilities"], config["max_parallel"]) == ("1", ["docs.write"], 1)
    assert (config["heartbeat_s"], config["grace_s"], config["ttl_s"]) == (10.0, 30.0, 28800.0)


@pytest.mark.parametrize(
    ("workspace", "mounts"),
    [
        (None, []),
        ({"source": "repository"}, [Mount(source="/var/x/workspaces/full", target="/workspaces")]),
        ({"source": "repository", "history": False}, [Mount(source="/var/x/workspaces/tree", target="/workspaces")]),
        (
            {"source": "repository", "writable": True},
            [Mount(source="/var/x/instances/writer-0/workspace", target="/workspace", read_only=False)],
        ),
        (
            {"source": "volume", "writable": True},
            [Mount(source="/var/x/instances/writer-0/workspace", target="/workspace", read_only=False)],
        ),
    ],
)
def test_it_sees_its_own_socket_and_token_and_its_workspace_only(
    workspace: dict[str, Any] | None, mounts: list[Mount]
) -> None:
    assert list(container(workspace=workspace).mounts) == [
        Mount(source="/run/reconciler/x/hub/writer-0", target="/run/hub"),
        Mount(source="/run/reconciler/x/secrets/writer-0", target="/run/secrets"),
        *mounts,
    ]


def test_where_the_operator_wants_it_over_the_network_it_has_an_address_and_a_certificate_and_no_socket() -> None:
    plane = AgentPlane.model_validate({"listen": "tcp://10.0.0.1:8421", "agents": ["writer"]})
    places = replace(PLACES, plane=plane)
    far = build_container("writer", 0, manifest_of().spec, places, image_id="sha256:x", uid=1234)
    near = build_container("editor", 0, manifest_of("editor").spec, places, image_id="sha256:x", uid=1234)
    assert (far.env["HUB_ADDRESS"], far.env["HUB_CA_FILE"]) == ("10.0.0.1:8421", "/run/secrets/hub-ca.pem")
    assert "HUB_SOCKET" not in far.env
    assert list(far.mounts) == [Mount(source="/run/reconciler/x/secrets/writer-0", target="/run/secrets")]
    assert (near.env["HUB_SOCKET"], "HUB_ADDRESS" in near.env, len(near.mounts)) == ("/run/hub/hub.sock", False, 2)


def test_limits_and_the_rest_are_those_of_the_manifest() -> None:
    spec = container(resources={"cpus": 2, "memory": "64MiB", "disk": "2GiB", "pids": 50}, lifecycle={"grace": "5s"})
    assert (spec.limits.cpus, spec.limits.memory_bytes, spec.limits.pids) == (2.0, 64 * 2**20, 50)
    assert (spec.disk_bytes, spec.grace_s, spec.uid, spec.image_id) == (2 * 2**30, 5.0, 1234, "sha256:x")
    assert (spec.name, spec.argv) == ("writer-0", ("python3", "-m", "reconciler.agentd"))


def test_the_same_manifest_gives_the_same_container() -> None:
    assert container(env={"A": "1", "B": "2"}) == container(env={"B": "2", "A": "1"})


def test_what_the_handshake_must_say() -> None:
    spec = manifest_of(capabilities=["b", "a"], version="7").spec
    assert hello_of(spec) == {"version": "7", "capabilities": ["a", "b"], "executor": "command"}


def test_places_of_an_instance() -> None:
    assert PLACES.hub("a-0") == Path("/run/reconciler/x/hub/a-0")
    assert PLACES.secrets("a-0") == Path("/run/reconciler/x/secrets/a-0")
    assert PLACES.own_workspace("a-0") == Path("/var/x/instances/a-0/workspace")
