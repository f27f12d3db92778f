"""A task as the scripts of the example fleet see it: input in, one JSON result out.

agentd gives the environment: HUB_TASK, HUB_TASK_DIR (with `input.json` and `parents/<task>.json`),
HUB_OUTPUT for artefacts, HUB_WORKSPACE, and HUB_URL with HUB_TOKEN_FILE for messages. The result
goes to stdout; `progress: ...` lines and, when the work cannot be done, the reason go to stderr.
"""

import http.client
import inspect
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from repository import WorkError, read_revision

MESSAGE_TIMEOUT_S = 3.0
REPLY_WAIT_S = 15
"""How long one call waits for a reply; `progress` is told between two."""
MAX_HEARD = 1000
MAX_ANSWER_BYTES = 8 * 2**20
_BATCH = 100
_UNSENT = (OSError, ValueError, http.client.HTTPException)

Result = dict[str, object]
Message = dict[str, Any]
Operation = Callable[..., Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One assignment. `parents` holds the results of the tasks it depends on, by task name."""

    name: str
    workspace: Path
    output: Path
    input: Mapping[str, Any]
    parents: Mapping[str, Any]


def perform(operations: Mapping[str, Operation]) -> int:
    """Do what the input's `do` names and print the result; returns the exit code.

    An operation takes the task and, as keyword-only arguments, the other keys of the input; a
    default says which type a key has. Its result needs `ok`, `summary` and `figures`; `do`, `task`
    and `revision` are added here.
    """
    try:
        task = _read_task(os.environ)
        name, operation = _choose(operations, task.input)
        given = {key: value for key, value in task.input.items() if key != "do"}
        _check_arguments(name, operation, given)
        head = {"do": name, "task": task.name, "revision": read_revision(task.workspace)}
        result = head | operation(task, **given)
    except (WorkError, OSError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def progress(text: str) -> None:
    """Tell the hub, through agentd, that the work goes on."""
    sys.stderr.write(f"progress: {text}\n")
    sys.stderr.flush()


def count(number: int, noun: str, plural: str = "") -> str:
    """`count(1, "file")` is `1 file`, `count(2, "file")` is `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def send(type_name: str, payload: Result, *, to: str = "", topic: str = "") -> Result:
    """Send an event to an agent or a topic, and say how it went.

    Never raises: no result depends on a message.
    """
    target = {"to": to} if to else {"topic": topic}
    envelope = {
        "id": str(uuid.uuid4()),
        "type": type_name,
        "pattern": "event",
        **target,
        "payload": payload,
    }
    note: Result = {"type": type_name, **target}
    try:
        status, answer = _call("POST", "", envelope)
    except _UNSENT as exc:
        return note | {"status": "not sent", "reason": str(exc) or type(exc).__name__}
    if status == 202:
        return note | {"status": "accepted"}
    return note | {"status": "refused", "reason": f"{status} {answer.decode(errors='replace')[:500]}"}


def raise_finding(task: Task, rule: str, path: str, line: int, message: str) -> Result:
    """Tell whoever listens that something in a file is wrong; as `send`."""
    payload: Result = {"task": task.name, "rule": rule, "path": path, "line": line, "message": message[:500]}
    return send("finding.raised", payload, topic="finding.raised")


@contextmanager
def mailbox() -> Iterator[list[Message]]:
    """What others sent to this agent, each once. It is acknowledged where the block ends well, else it comes again.

    Empty where the hub does not answer: no result depends on a message.
    """
    heard: dict[tuple[object, object], Message] = {}
    cursor = ""
    with suppress(*_UNSENT):
        while len(heard) < MAX_HEARD:
            status, answer = _call("GET", f"?wait=0&max={_BATCH}")
            batch = json.loads(answer) if status == 200 else {"messages": []}
            heard |= {(m["from"], m["id"]): m for m in batch["messages"]}
            cursor = batch.get("cursor", cursor)
            if len(batch["messages"]) < _BATCH:
                break
    yield list(heard.values())
    if heard:
        with suppress(*_UNSENT):
            _call("POST", "/ack", {"cursor": cursor})


def delegate(task: Task, agent: str, prompt: str, given: Result, *, patience_s: float = 120.0) -> Message:
    """Have another agent do a part of this task, in an instance made for it, and wait for its end.

    The hub's answer: `ok`, `task`, `state`, `result`, `reason` and more. Never raises: `ok` is False where nothing came
    of it.
    """
    id_ = str(uuid.uuid4())
    payload: Result = {"task": task.name, "agent": agent, "prompt": prompt, "input": given}
    envelope: Result = {"id": id_, "type": "delegation.request", "pattern": "request", "to": "hub", "payload": payload}
    until = time.monotonic() + patience_s
    try:
        status, answer = _call("POST", f"?wait={REPLY_WAIT_S}", envelope, wait_s=REPLY_WAIT_S)
        while status == 202:
            progress(f"waiting for {agent}")
            if time.monotonic() > until:
                return {"ok": False, "reason": f"no answer within {patience_s:g} seconds"}
            if (reply := _find_reply(id_)) is not None:
                return reply
    except _UNSENT as exc:
        return {"ok": False, "reason": str(exc) or type(exc).__name__}
    if status != 200:
        return {"ok": False, "reason": f"{status} {answer.decode(errors='replace')[:500]}"}
    reply = json.loads(answer)["payload"]
    return reply if isinstance(reply, dict) else {"ok": False, "reason": "the answer is not an object"}


def _find_reply(id_: str) -> Message | None:
    """That to a request, if it is in the mailbox. Nothing is acknowledged: what else came is for `mailbox`."""
    status, answer = _call("GET", f"?wait={REPLY_WAIT_S}&max={_BATCH}", wait_s=REPLY_WAIT_S)
    found = json.loads(answer)["messages"] if status == 200 else []
    if not found and status != 200:
        time.sleep(1.0)
    return next((m["payload"] for m in found if m.get("correlation_id") == id_), None)


def _call(method: str, path: str, content: Result | None = None, *, wait_s: float = 0.0) -> tuple[int, bytes]:
    url, token_file = os.environ.get("HUB_URL", ""), os.environ.get("HUB_TOKEN_FILE", "")
    if not url or not token_file:
        raise OSError("HUB_URL or HUB_TOKEN_FILE is not set")
    token = Path(token_file).read_text(encoding="utf-8").strip()
    hub = urlsplit(url)
    connection = http.client.HTTPConnection(hub.hostname or "", hub.port, timeout=MESSAGE_TIMEOUT_S + wait_s)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps(content).encode() if content is not None else None
    try:
        connection.request(method, f"{hub.path.rstrip('/')}/api/hub/messages{path}", body, headers)
        response = connection.getresponse()
        return response.status, response.read(MAX_ANSWER_BYTES)
    finally:
        connection.close()


def _read_task(env: Mapping[str, str]) -> Task:
    missing = [key for key in ("HUB_TASK_DIR", "HUB_WORKSPACE") if not env.get(key)]
    if missing:
        raise WorkError(f"{' and '.join(missing)} not set; agentd sets them for every executor")
    folder = Path(env["HUB_TASK_DIR"])
    given = _read_json(folder / "input.json")
    if not isinstance(given, dict):
        raise WorkError('the input is not an object; it needs at least {"do": "..."}')
    return Task(
        name=env.get("HUB_TASK", folder.name),
        workspace=Path(env["HUB_WORKSPACE"]).resolve(),
        output=Path(env.get("HUB_OUTPUT", folder / "output")),
        input=given,
        parents={f.stem: _read_json(f) for f in sorted(folder.glob("parents/*.json"))},
    )


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkError(f"{file} is missing; agentd writes it for every task") from None
    except ValueError as exc:
        raise WorkError(f"{file} is not JSON: {exc}") from exc


def _choose(operations: Mapping[str, Operation], given: Mapping[str, Any]) -> tuple[str, Operation]:
    name = given.get("do")
    if not isinstance(name, str) or name not in operations:
        raise WorkError(f"the input's 'do' is {json.dumps(name)}; it must be one of {', '.join(operations)}")
    return name, operations[name]


def _check_arguments(name: str, operation: Operation, given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(operation).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    for key, value in given.items():
        if key not in known:
            takes = ", ".join(known) or "nothing else"
            raise WorkError(f"the input has {key!r}, which '{name}' does not take; it takes {takes}")
        if not _fits(value, known[key]):
            example = json.dumps(known[key])
            raise WorkError(f"the input's {key!r} is {json.dumps(value)}; it must be like {example}")


def _fits(value: object, default: object) -> bool:
    """Same type as the default; numbers not negative; a list holds text only."""
    if isinstance(default, tuple):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(default, int):
        return type(value) is int and value >= 0
    return isinstance(value, str)
