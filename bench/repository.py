"""Repositories of many agents for the benches, with real git."""

import subprocess
from pathlib import Path

HUB = """\
apiVersion: reconciler/v1
kind: Hub
metadata: {name: bench}
spec: {loop: {resync: 30s, concurrency: 4}}
"""


def agent_text(number: int, *, note: str = "", memory: str = "64MiB") -> str:
    """A manifest of ordinary size."""
    return f"""\
apiVersion: reconciler/v1
kind: Agent
metadata: {{name: a{number:04}, labels: {{team: bench}}}}
spec:
  description: Agent number {number} {note}
  role: worker
  image: agents/base:1
  capabilities: [work.do, work.c{number}]
  executor: {{type: command, argv: [python3, /workspace/x.py, "{number}"]}}
  resources: {{cpus: 0.5, memory: {memory}, pids: 50}}
  messaging:
    sends: [{{to: a0000, types: [work.done]}}]
    subscribes: [work.asked]
  lifecycle: {{ttl: 8h, grace: 1s}}
"""


class Repository:
    """A git repository of `count` agents in `folder`."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        (folder / "agents.d").mkdir(parents=True)
        (folder / "hub.yaml").write_text(HUB)
        for number in range(count):
            self.write(number)
        subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
        self.commit()

    def write(self, number: int, *, note: str = "", memory: str = "64MiB") -> None:
        (self.folder / "agents.d" / f"a{number:04}.yaml").write_text(agent_text(number, note=note, memory=memory))

    def commit(self) -> None:
        identity = ["-c", "user.name=Bench", "-c", "user.email=bench@example.org"]
        for arguments in (["add", "-A"], [*identity, "commit", "-q", "--allow-empty", "-m", "bench"]):
            subprocess.run(["git", "-C", str(self.folder), *arguments], check=True)
