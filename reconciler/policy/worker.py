"""The policy worker: a child process that compiles and evaluates Rego, and that its owner may kill at any time.

Requests come in on standard input, replies go out on standard output, one at a time and in order. Each is a frame: four
bytes, the length of what follows as a big-endian unsigned integer, then that many bytes of JSON (UTF-8), at most
`MAX_FRAME_BYTES`. The end of the input ends the worker. Unasked, and first, it says `{"ready": true, "pid": …}`.

    request                                                     reply, besides "id"
    {"op": "check", "modules": {path: text}}                    {"problems": [{file, line, column, message}],
                                                                "kinds": ["message", …]}
    {"op": "probe", "kind": "message"}, after a check           {"fault": "…"} where no question has an answer, or {}
    {"op": "load", "modules": {path: text}, "data": {…}}        {"revision": "…", "kinds": ["message", …], "reads": {…}}
                                                                or {"error": "…"}: what was loaded before stays
    {"op": "decide", "kind": "message", "question": {…}}        {"revision": "…", "allow": true, "reasons": ["…"]}
    {"op": "evaluate", "path": "hub/task/limits", "question":   {"value": …, "term": "the value in Rego"}
     {…}}, a path that `load` had in its "entry_points": [...]  or {"undefined": true} or {"fault": "…"}
    decide or evaluate before a load, and anything else         {"error": "…"}

Each request carries an `id`, which its reply repeats, and may carry `deadline_s`: a little after that many seconds the
worker ends itself, so that an endless rule does not outlive an owner that died. The owner keeps the deadline proper: it
kills the worker, starts another and loads the bundle again.

`modules` and `data` are those of a `PolicyBundle`; its tests are left out of what is loaded. `kinds` are those that the
modules answer: of another kind nothing should be asked, because the answer is always a denial. `reads`, given where no
entry points are named, says by kind which values of a question can change its answer, `{"paths": [["sender", "role"],
…]}`, or why nobody can tell, `{"obstacle": "…"}` (`reads.py`). The revision of a decision is the one in the data that
was evaluated, `data.hub.revision`. An evaluation that fails, is undefined or answers in another form than
`{"allow": boolean, "reasons": [text]}` is a denial with its reason. Whatever an `error` says, it is no decision.

With `"marks": true` in the request the reply has the `marks` that were printed by modules that have some (`marks.py`),
or null where the worker could not keep them all: it keeps no others from then on, and should be ended.

Before the first request the worker empties its environment, limits its memory, forbids itself to open any file or
socket, and turns its standard streams away from the frames, because the Rego library prints to them.
"""

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reconciler.policy.operations import Operations

MAX_FRAME_BYTES = 32 * 2**20
SELF_DESTRUCT_AFTER_S = 1.0
LOG_BYTES = 2**20

_ROOT = str(Path(__file__).resolve().parents[2])
_START = "import sys; sys.path.insert(0, sys.argv[1]);from reconciler.policy.worker import main; main(int(sys.argv[2]))"
_LENGTH = struct.Struct(">I")

Reply = dict[str, object]


def command(memory_bytes: int = 256 * 2**20) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of a worker that may use `memory_bytes` above what it takes to start."""
    return [sys.executable, "-I", "-B", "-c", _START, _ROOT, str(memory_bytes)], {}


def encode_frame(message: Mapping[str, object]) -> bytes:
    """Raises ValueError, TypeError or RecursionError on what is not JSON or too large."""
    body = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"has {len(body)} bytes; a frame has at most {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def frame_size(head: bytes) -> int:
    """The length of the body after the first four bytes of a frame. Raises ValueError where it is too large."""
    (size,) = _LENGTH.unpack(head)
    if size > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes is too large")
    return int(size)


def main(memory_bytes: int) -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    # Here, so that an owner can import this module without the Rego library.
    from reconciler.policy.operations import Operations

    source, sink = _take_streams()
    operations = Operations()
    _confine(memory_bytes)
    _write(sink, {"ready": True, "pid": os.getpid()})
    while (frame := _read(source)) is not None:
        _write(sink, _answer(operations, frame))


def _take_streams() -> tuple[int, int]:
    """The frames on descriptors of their own; what the library prints goes to memory and is read from there."""
    source, sink = os.dup(0), os.dup(1)
    nothing, log = os.open(os.devnull, os.O_RDWR), os.memfd_create("log")
    for descriptor, target in ((nothing, 0), (log, 1), (nothing, 2)):
        os.dup2(descriptor, target)
    return source, sink


def _confine(memory_bytes: int) -> None:
    """No new files, and address space as it is now plus `memory_bytes`: the library reserves far more than it uses."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LOG_BYTES, LOG_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def _read(source: int) -> bytes | None:
    head = _read_exactly(source, _LENGTH.size)
    return _read_exactly(source, frame_size(head)) if head else None


def _read_exactly(source: int, size: int) -> bytes | None:
    parts: list[bytes] = []
    while size:
        part = os.read(source, min(size, 2**20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(sink: int, reply: Reply) -> None:
    rest = memoryview(encode_frame(reply))
    while rest:
        rest = rest[os.write(sink, rest) :]


def _answer(operations: "Operations", frame: bytes) -> Reply:
    try:
        request = json.loads(frame)
    except (ValueError, RecursionError):
        return {"id": None, "error": "the request is not JSON"}
    if not isinstance(request, dict):
        return {"id": None, "error": "the request is not a JSON object"}
    deadline_s = request.get("deadline_s")
    if isinstance(deadline_s, int | float) and deadline_s > 0:
        signal.setitimer(signal.ITIMER_REAL, deadline_s + SELF_DESTRUCT_AFTER_S)
    try:
        if request.get("marks") is True:
            return {"id": request.get("id"), **operations.with_marks(lambda: _serve(operations, request))}
        return {"id": request.get("id"), **_serve(operations, request)}
    except KeyError as exc:
        return {"id": request.get("id"), "error": f"the request has no {exc}"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _serve(operations: "Operations", request: Mapping[str, Any]) -> Reply:
    match request.get("op"):
        case "decide":
            return operations.decide(request["kind"], request["question"])
        case "load":
            entry_points = request.get("entry_points", ())
            return operations.load(request["modules"], request["data"], entry_points)
        case "check":
            return operations.check(request["modules"])
        case "probe":
            return operations.probe(request["kind"])
        case "evaluate":
            return operations.evaluate(request["path"], request["question"])
        case unknown:
            return {"error": f"there is no operation {unknown!r}"}
