"""What a team keeps in its repository: agents, policies, and each way in which a commit can be wrong. Pure.

A `Tree` is all that a commit says. An `Ill` is one thing wrong with it; by its sort the verdict is known without asking
the hub: nothing that is here looks at the code that judges.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

IMAGE = "agents/base:1"
HUB = """\
apiVersion: reconciler/v1
kind: Hub
metadata: {name: month}
spec:
  loop: {resync: 2s, concurrency: 4}
  router: {lease: 5s}
"""
ADMISSION = """\
package hub.admission

import rego.v1

decision := {"allow": count(deny) == 0, "reasons": deny}

deny contains "an image has a version" if {
	input.kind == "agent"
	endswith(input.spec.image, ":latest")
}

deny contains "only keepers have secrets" if {
	input.kind == "agent"
	count(input.spec.secrets) > 0
	input.spec.role != "keeper"
}
"""
ADMISSION_TEST = """\
package hub.admission_test

import rego.v1

import data.hub.admission

test_a_worker_is_admitted if {
	admission.decision.allow with input as {"kind": "agent", "spec": {"role": "worker", "image": "agents/base:1", "secrets": []}}
}
"""
PERMISSIVE = """\
package hub.admission

import rego.v1

decision := {"allow": true, "reasons": ["anybody may have anything"]}
"""
KEEPERS = ("archivist", "keeper")
"""Two agents that nobody ever edits; the second is protected."""
WORKERS = ("brewer", "carver", "dyer", "farmer", "glazier", "hatter", "joiner", "mason")
MEMORY_MIB = (64, 80, 96)
FEWEST, MOST = 5, 9


@dataclass(frozen=True)
class Agent:
    """One agent. `serial` and `memory_mib` change its container, `words` only what is written about it."""

    name: str
    serial: int = 0
    memory_mib: int = MEMORY_MIB[0]
    replicas: int = 1
    words: int = 0

    def text(self) -> str:
        is_keeper = self.name in KEEPERS
        return f"""\
apiVersion: reconciler/v1
kind: Agent
metadata: {{name: {self.name}, labels: {{words: w{self.words}}}}}
spec:
  description: "{self.name}, as of {self.words}"
  role: {"keeper" if is_keeper else "worker"}
  image: {IMAGE}
  replicas: {self.replicas}
  executor: {{type: command, argv: [python3, -c, "print({self.serial})"], env: {{SERIAL: "{self.serial}"}}}}
  resources: {{cpus: 0.5, memory: {self.memory_mib}MiB, pids: 50}}
  lifecycle: {{grace: 1s, maxCrashes: 1000, quarantineThreshold: 1000, protect: {str(self.name == KEEPERS[1]).lower()}}}
  health: {{heartbeat: 2s, handshake: 120s}}
"""

    @property
    def file(self) -> str:
        return f"agents.d/{self.name}.yaml"


class Sort(StrEnum):
    """Who is to say no."""

    BROKEN = "broken"
    MALICIOUS = "malicious"
    GUARDED = "guarded"
    """Valid, but of those that only a person may let through."""


Files = dict[str, str]
"""Texts by path. A text that begins with `LINK` is where a symbolic link leads."""
LINK = "symlink:"


@dataclass(frozen=True)
class Ill:
    """Something wrong with a tree: `make` changes the files, and may use a worker's name."""

    name: str
    sort: Sort
    make: Callable[[Files, str], None]


@dataclass(frozen=True)
class Tree:
    """All of a commit. `ill` is a name of ILLS, `victim` the worker that it is about; both empty where all is well."""

    agents: Mapping[str, Agent]
    ill: str = ""
    victim: str = ""
    notes: int = 0
    rules: int = 0

    def files(self) -> Files:
        out: Files = {
            "README.md": f"Our agents, {self.notes}.\n",
            "hub.yaml": HUB,
            "policies/admission.rego": f"# Version {self.rules}.\n{ADMISSION}",
            "policies/admission_test.rego": ADMISSION_TEST,
            **{agent.file: agent.text() for agent in self.agents.values()},
        }
        if self.ill:
            ILLS[self.ill].make(out, self.victim)
        return out

    def having(self, agent: Agent) -> "Tree":
        return replace(self, agents={**self.agents, agent.name: agent})

    def without(self, *names: str) -> "Tree":
        return replace(self, agents={n: a for n, a in self.agents.items() if n not in names})

    @property
    def workers(self) -> list[str]:
        return sorted(self.agents.keys() - set(KEEPERS))

    @property
    def sort(self) -> Sort | None:
        return ILLS[self.ill].sort if self.ill else None


def first_tree() -> Tree:
    return Tree(agents={name: Agent(name) for name in (*KEEPERS, *WORKERS[:4])})


# --- what can be wrong ------------------------------------------------------------------------------------------------


def _swap(before: str, after: str) -> Callable[[Files, str], None]:
    """In the manifest of the worker."""

    def make(files: Files, worker: str) -> None:
        text = files[f"agents.d/{worker}.yaml"]
        assert before in text, f"{before!r} is not in\n{text}"
        files[f"agents.d/{worker}.yaml"] = text.replace(before, after)

    return make


def _put(path: str, text: str) -> Callable[[Files, str], None]:
    """`NAME` in either is the worker's."""

    def make(files: Files, worker: str) -> None:
        files[path.replace("NAME", worker)] = text.replace("NAME", worker)

    return make


def _drop(path: str) -> Callable[[Files, str], None]:
    def make(files: Files, worker: str) -> None:
        del files[path]

    return make


def _more(lines: str) -> Callable[[Files, str], None]:
    """Below the worker's `spec`."""

    def make(files: Files, worker: str) -> None:
        files[f"agents.d/{worker}.yaml"] += lines

    return make


def _empty(files: Files, worker: str) -> None:
    for path in [p for p in files if p.startswith("agents.d/")]:
        del files[path]


def _self_approved(files: Files, worker: str) -> None:
    _put("policies/admission.rego", PERMISSIVE)(files, worker)
    _more("  secrets: [deploy-key]\n")(files, worker)


_ILLS = (
    ("yaml that does not parse", Sort.BROKEN, _put("agents.d/NAME.yaml", "kind: [Agent\n")),
    ("unknown key", Sort.BROKEN, _swap("  role:", "  rolle: x\n  role:")),
    ("no executor", Sort.BROKEN, _swap("  executor:", "  # executor:")),
    ("negative replicas", Sort.BROKEN, _swap("  replicas: ", "  replicas: -")),
    ("the same agent twice", Sort.BROKEN, _put("agents.d/again.yaml", Agent(KEEPERS[0]).text())),
    ("a message to nobody", Sort.BROKEN, _more("  messaging: {sends: [{to: nobody, types: [a.b]}]}\n")),
    ("a task for nobody", Sort.BROKEN, _put("tasks.d/t.yaml", "apiVersion: reconciler/v1\nkind: Task\nmetadata: {name: t}\nspec: {agent: nobody}\n")),
    ("no hub.yaml", Sort.BROKEN, _drop("hub.yaml")),
    ("rego that does not parse", Sort.BROKEN, _put("policies/more.rego", "package hub.lib.more\n\nimport rego.v1\n\nx := [\n")),
    ("a test that fails", Sort.BROKEN, _put("policies/more_test.rego", "package hub.more_test\n\nimport rego.v1\n\ntest_it if 1 == 2\n")),
    ("no sandbox", Sort.MALICIOUS, _more("  sandbox: none\n")),
    ("root", Sort.MALICIOUS, _more("  user: root\n")),
    ("privileged", Sort.MALICIOUS, _more("  privileged: true\n")),
    ("the host's network", Sort.MALICIOUS, _more("  network: host\n")),
    ("an image that moves", Sort.MALICIOUS, _swap(IMAGE, "agents/base:latest")),
    ("somebody else's image", Sort.MALICIOUS, _swap(IMAGE, "evil.example/miner:1")),
    ("more images than the operator allows", Sort.MALICIOUS, _put("hub.yaml", f"{HUB}  runtime: {{images: ['*']}}\n")),
    ("agents from outside", Sort.MALICIOUS, _put("hub.yaml", f"{HUB}  paths: {{agents: ../../etc}}\n")),
    ("a policy that calls out", Sort.MALICIOUS, _put("policies/task.rego", 'package hub.task\n\nimport rego.v1\n\ndecision := {"allow": http.send({"method": "get", "url": "http://evil.example"}).status_code == 200, "reasons": []}\n')),
    ("a link to the host's files", Sort.MALICIOUS, _put("agents.d/link.yaml", f"{LINK}/etc/passwd")),
    ("a schema that reads the host's files", Sort.MALICIOUS, _put("schemas/messages/a.b.schema.json", '{"$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": "file:///etc/passwd"}\n')),
    ("a secret that is none of its business", Sort.MALICIOUS, _more("  secrets: [deploy-key]\n")),
    ("a secret in the environment", Sort.MALICIOUS, _more("  env: {AWS_KEY: AKIAIOSFODNN7EXAMPLE}\n")),
    ("code before the agent's own", Sort.MALICIOUS, _more("  env: {LD_PRELOAD: /tmp/x.so}\n")),
    ("more memory than the operator allows", Sort.MALICIOUS, _swap("MiB", "GiB")),
    ("approved by itself", Sort.GUARDED, _self_approved),
    ("no agents at all", Sort.GUARDED, _empty),
    ("the protected agent gone", Sort.GUARDED, _drop(f"agents.d/{KEEPERS[1]}.yaml")),
)  # fmt: skip
ILLS: Mapping[str, Ill] = {name: Ill(name, sort, make) for name, sort, make in _ILLS}
