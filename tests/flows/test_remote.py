"""A hub that follows a repository elsewhere: pushes, forced pushes, an absence, and signatures."""

import hmac
import http.client
import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flows.fleet import HUB, Fleet, agent_text, eventually, make_fleet
from tests.router.fleet import free_port


class RemoteFleet(Fleet):
    """`repository` is where somebody works and pushes from; the hub sees only `shared`."""

    @property
    def shared(self) -> Path:
        return self.folder / "shared.git"

    @property
    def url(self) -> str:
        return f"file://{self.shared}"

    @property
    def operator(self) -> Path:
        """Where the hub looks for it by itself."""
        return self.folder / "config/reconciler/operator.yaml"

    @property
    def cwd(self) -> Path:
        """No repository."""
        return self.folder

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "XDG_CONFIG_HOME": str(self.folder / "config")}

    @property
    def places(self) -> tuple[str, ...]:
        return ("--data", str(self.data))

    def push(self, *agents: str, value: int = 0) -> str:
        """Commit a fleet of these agents and push it, with force."""
        argv = f'[python3, "-c", "print({value})"]'
        commit = self.commit({f"agents.d/{name}.yaml": agent_text(name, argv=argv) for name in agents})
        self.git("push", "-q", "--force", str(self.shared), "HEAD:main")
        return commit

    def push_signed(self, *agents: str) -> str:
        """The same, signed with the key that the repository is set to."""
        self.push(*agents)
        self.git("-c", "commit.gpgsign=true", "commit", "-q", "--amend", "--allow-empty", "--no-edit", "-S")
        self.git("push", "-q", "--force", str(self.shared), "HEAD:main")
        return self.git("rev-parse", "HEAD").strip()

    def set_source(self, **source: object) -> None:
        self.operator.parent.mkdir(parents=True, exist_ok=True)
        document = {"apiVersion": "reconciler/v1", "kind": "Operator"}
        self.operator.write_text(json.dumps({**document, "spec": {"source": {"url": self.url, **source}}}))

    def conditions(self) -> dict[str, str]:
        """Messages of what is true of the hub now, by type."""
        listed = json.loads(self.call("get", "conditions", *self.places, "-o", "json").out)
        found: list[dict[str, Any]] = listed if isinstance(listed, list) else listed["conditions"]
        return {c["type"]: c["message"] for c in found if c.get("status", True)}

    def in_force(self) -> str:
        revision: str = self.state()["revision"]
        return revision


@pytest.fixture
def remote() -> Iterator[RemoteFleet]:
    made = make_fleet("process")
    fleet = RemoteFleet(folder=made.folder, runtime="process")
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(fleet.shared)], check=True)
    fleet.set_source()
    yield fleet
    fleet.destroy()


def test_apply_brings_what_was_pushed_into_force(remote: RemoteFleet) -> None:
    first = remote.push("a")
    answer = remote.apply()
    assert answer.code == 0, answer
    assert remote.in_force() == first
    second = remote.push("a", "b")
    assert remote.apply().code == 0
    assert remote.in_force() == second
    assert {i["name"] for i in remote.state()["instances"]} == {"a-0", "b-0"}


def test_a_remote_that_is_away_leaves_what_is_in_force(remote: RemoteFleet) -> None:
    first = remote.push("a")
    assert remote.apply().code == 0
    remote.shared.rename(remote.folder / "away")
    answer = remote.apply()
    assert (answer.code, remote.in_force()) == (2, first), answer
    assert "SourceUnavailable" in remote.conditions()
    (remote.folder / "away").rename(remote.shared)
    assert remote.apply().code == 0
    assert "SourceUnavailable" not in remote.conditions()


def test_a_forced_push_is_held_until_it_is_confirmed(remote: RemoteFleet) -> None:
    remote.push("a")
    good = remote.push("a", "b")
    assert remote.apply().code == 0
    remote.git("reset", "-q", "--hard", "HEAD~1")
    rewritten = remote.push("a", "b", value=1)
    held = remote.apply()
    assert (held.code, remote.in_force()) == (3, good), held
    assert (
        f"{rewritten[:12]}, by Tester <t@example.org>, does not descend from {good[:12]}"
        in (remote.conditions()["HistoryRewritten"])
    )
    remote.set_source(forcePush="accept")
    assert remote.apply().code == 0
    assert remote.in_force() == rewritten
    with sqlite3.connect(f"file:{remote.data}/state.db?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT reason FROM audit WHERE action = 'HistoryRewritten' ORDER BY seq").fetchall()
    connection.close()
    assert [reason.partition(":")[0] for (reason,) in rows][:1] == ["now true"]


def test_a_webhook_brings_a_push_into_force_long_before_the_next_poll(remote: RemoteFleet) -> None:
    port = free_port()
    (remote.folder / "secret").write_text("correct horse")
    webhook = {"forge": "github", "listen": f"tcp://127.0.0.1:{port}", "secretFile": str(remote.folder / "secret")}
    remote.set_source(poll="1h", webhook=webhook)
    remote.push("a")
    hub = remote.start("run", *remote.places, *remote.permission)
    try:
        eventually(lambda: remote.call("status", *remote.places).code == 0 and remote.in_force() != "")
        pushed = remote.push("a", value=1)
        body = b"{}"
        signature = "sha256=" + hmac.new(b"correct horse", body, "sha256").hexdigest()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/webhooks/github", body, {"X-Hub-Signature-256": signature})
        assert connection.getresponse().status == 202
        connection.close()
        eventually(lambda: remote.in_force() == pushed)
    finally:
        hub.send_signal(signal.SIGINT)
        hub.communicate(timeout=180)


def test_an_unsigned_commit_leaves_the_last_signed_one_in_force(remote: RemoteFleet) -> None:
    key = remote.folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (remote.folder / "signers").write_text(f"t@example.org {key.with_suffix('.pub').read_text()}")
    remote.set_source(verify={"mode": "range", "allowedSigners": str(remote.folder / "signers")})
    for name, value in (("gpg.format", "ssh"), ("user.signingkey", str(key))):
        remote.git("config", name, value)
    signed = remote.push_signed("a")
    assert remote.apply().code == 0
    unsigned = remote.push("a", "evil")
    remote.push_signed("a", "evil")
    refused = remote.apply()
    assert (refused.code, remote.in_force()) == (2, signed), refused
    said = remote.conditions()["SourceUnverified"]
    assert f"commit {unsigned[:12]} ('change', by Tester <t@example.org>) is refused: it is not signed" in said


def test_what_a_repository_asks_beyond_the_operator_is_refused(remote: RemoteFleet) -> None:
    first = remote.push("a")
    assert remote.apply().code == 0
    hub = HUB.replace("spec:", "spec:\n  source: {ref: evil, verify: {mode: off}}\n  runtime: {images: ['*']}")
    remote.commit({"agents.d/a.yaml": agent_text("a")})
    (remote.repository / "hub.yaml").write_text(hub)
    remote.git("commit", "-q", "-a", "-m", "more")
    remote.git("push", "-q", str(remote.shared), "HEAD:main")
    answer = remote.apply()
    assert (answer.code, remote.in_force()) == (1, first), answer
    assert "unknown key 'source'" in remote.conditions()["ConfigInvalid"]


def test_the_newest_version_of_one_directory_is_followed_and_its_inbox_is_beside_the_data(remote: RemoteFleet) -> None:
    remote.set_source(ref="semver:^1", path="fleets/one")
    remote.commit({"agents.d/other.yaml": agent_text("other")})
    for version, name in (("v1.0.0", "a"), ("v1.10.0", "b"), ("v2.0.0", "c")):
        for file, text in (("hub.yaml", HUB), (f"agents.d/{name}.yaml", agent_text(name))):
            place = remote.repository / "fleets/one" / file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        remote.git("add", "-A")
        remote.git("commit", "-q", "-m", version)
        remote.git("tag", version)
    remote.git("push", "-q", "--tags", str(remote.shared), "HEAD:main")
    assert remote.apply().code == 0
    assert remote.in_force() == remote.git("rev-parse", "v1.10.0").strip()
    assert {i["name"] for i in remote.state()["instances"]} == {"a-0", "b-0"}
    assert (remote.folder / "inbox").is_dir()


def test_a_hub_that_was_killed_comes_back_without_its_remote_and_takes_the_next_push(remote: RemoteFleet) -> None:
    first = remote.push("a")
    assert remote.apply().code == 0
    before = {i["name"]: i["container_id"] for i in remote.state()["instances"]}
    hub = remote.start("run", *remote.places, *remote.permission)
    remote.set_source(poll="200ms")
    try:
        eventually(lambda: (remote.run / "api.sock").exists())
    finally:
        hub.kill()
        hub.communicate(timeout=180)
    away = remote.shared.rename(remote.folder / "away")
    hub = remote.start("run", *remote.places, *remote.permission)
    try:
        eventually(lambda: "SourceUnavailable" in remote.conditions())
        assert remote.in_force() == first
        away.rename(remote.shared)
        second = remote.push("a", "b")
        eventually(lambda: remote.in_force() == second and len(remote.state()["instances"]) == 2)
        assert {i["name"]: i["container_id"] for i in remote.state()["instances"]}["a-0"] == before["a-0"]
    finally:
        hub.send_signal(signal.SIGINT)
        hub.communicate(timeout=180)
