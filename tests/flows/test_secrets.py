"""Secrets through the whole program: an agent reads its own, a new value reaches it, and no value is anywhere else.

Values are planted, then everything that the hub leaves behind or says is searched for them.
"""

import gzip
import hashlib
import json
import os
import secrets
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.fleet import Fleet, agent_text, eventually, files_below, task_text
from tests.flows.test_hub import containers

READ = "import hashlib, os, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest(), end=' ')"
LIST = "print(*sorted(f for f in os.listdir(os.path.dirname(sys.argv[1])) if f[0] != '.'))"


def reader(name: str, secret: str) -> str:
    """An agent that says the digest of its secret, and which files are beside it."""
    argv = json.dumps(["python3", "-c", f"{READ}; {LIST}", f"/run/secrets/{secret}"])
    return agent_text(name, argv=argv, more=f"  secrets: [{secret}]\n")


def said(fleet: Fleet, task: str) -> str:
    answer = fleet.call("task", "show", task, *fleet.places, "-o", "json")
    assert answer.code == 0, answer
    return str(json.loads(answer.out)["result"]).strip()


def phases(fleet: Fleet) -> dict[str, str]:
    return {i["name"]: i["phase"] for i in fleet.state()["instances"]}


def digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def secret_file(fleet: Fleet, instance: str, name: str) -> Path:
    return fleet.run / "secrets" / instance / name


class Vault:
    """The operator's directory of secrets, the file that names it, and every value that was ever in it."""

    def __init__(self, fleet: Fleet) -> None:
        self.folder = fleet.folder / "vault"
        self.folder.mkdir(mode=0o700)
        self.values: list[bytes] = []
        self.operator = fleet.folder / "operator.yaml"
        self.operator.write_text(
            f"apiVersion: reconciler/v1\nkind: Operator\nspec: {{secrets: {{provider: file, path: {self.folder}}}}}\n"
        )

    def plant(self, name: str) -> bytes:
        value = f"planted-{secrets.token_hex(16)}".encode()
        self.values.append(value)
        draft = self.folder / ".new"
        draft.write_bytes(value)
        draft.rename(self.folder / name)
        return value


@pytest.fixture
def vault(fleet: Fleet) -> Vault:
    return Vault(fleet)


def everything(fleet: Fleet) -> Iterator[tuple[str, bytes]]:
    """What a hub leaves behind and says, by where it is found; but for the instances' own directories of secrets."""
    for path, content in files_below(fleet.data, fleet.run):
        if path.parent.parent != fleet.run / "secrets":
            yield str(path), content
            if path.suffix == ".gz":
                yield f"{path} unpacked", gzip.decompress(content)
    for command in (
        ("status",),
        ("get", "agents"),
        ("get", "conditions"),
        ("get", "units"),
        ("describe", "agent", "a"),
        ("plan", str(fleet.repository)),
        ("task", "list"),
        ("task", "show", "t"),
        ("audit", "show", "-n", "1000"),
    ):
        answer = fleet.call(*command, *(() if command[0] == "plan" else fleet.places), "-o", "json")
        assert answer.out, (command, answer)
        yield " ".join(command), (answer.out + answer.err).encode()
    if fleet.runtime == "docker":
        ids = list(containers(fleet).values())
        asked: list[tuple[str, ...]] = [("inspect", *ids), *(("logs", i) for i in ids)]
        for words in asked:
            done = subprocess.run(["docker", *words], check=True, capture_output=True)
            yield " ".join(words), done.stdout + done.stderr


def test_agents_read_their_own_secrets_new_values_reach_them_and_no_value_is_anywhere_else(
    fleet: Fleet, vault: Vault
) -> None:
    one, two = vault.plant("one"), vault.plant("two")
    agents = {"agents.d/a.yaml": reader("a", "one"), "agents.d/b.yaml": reader("b", "two")}
    agents["agents.d/c.yaml"] = reader("c", "three")
    fleet.commit({**agents, "tasks.d/t.yaml": task_text("t", "a"), "tasks.d/u.yaml": task_text("u", "b")})
    hub = fleet.start("run", *fleet.places, *fleet.permission, "--operator", str(vault.operator))
    try:
        eventually(
            lambda: (
                (fleet.data / "state.db").exists()
                and [t["state"] for t in fleet.state()["tasks"]] == ["succeeded", "succeeded"]
            )
        )
        assert said(fleet, "t") == f"{digest(one)} agent-token one"
        assert said(fleet, "u") == f"{digest(two)} agent-token two"
        missing = "secret three of agent c: its provider does not have it"
        assert missing in fleet.call("get", "units", *fleet.places, "-o", "json").out
        before = containers(fleet)
        assert sorted(before) == ["a-0", "b-0"]
        file = secret_file(fleet, "a-0", "one")
        assert stat.S_IMODE(file.stat().st_mode) == 0o400
        assert file.stat().st_uid == (file.parent.stat().st_uid if os.geteuid() == 0 else os.geteuid())
        another = vault.plant("one")
        eventually(lambda: file.read_bytes() == another)
        fleet.commit({**agents, "tasks.d/v.yaml": task_text("v", "a")})
        eventually(lambda: any(t["name"] == "v" and t["state"] == "succeeded" for t in fleet.state()["tasks"]))
        assert said(fleet, "v") == f"{digest(another)} agent-token one"
        assert containers(fleet) == before
        vault.plant("three")
        eventually(lambda: phases(fleet) == {"a-0": "executing", "b-0": "executing", "c-0": "executing"})
        found = dict(everything(fleet))
    finally:
        hub.terminate()
        out, err = hub.communicate(timeout=180)
    found["what the hub said"] = (out + err).encode()
    assert "secret one has another value now" in out
    assert not [place for place, content in found.items() for value in vault.values if value in content]
    assert [place for place, content in found.items() if digest(one).encode() in content], "nothing was searched"
    down = fleet.call("down", "--now", *fleet.places)
    assert down.code == 0, down
    assert not list(fleet.run.glob("secrets/*"))
