"""The worker process: its protocol byte by byte, and what it cannot do."""

import json
import os
import resource
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.policy.worker import MAX_FRAME_BYTES, command, encode_frame, frame_size
from tests.policy.example import message_bundle, message_question, module

BUNDLE = message_bundle('decision := {"allow": input.message.size_bytes < 10, "reasons": ["size"]}')
LOAD = {"op": "load", "modules": BUNDLE.modules, "data": BUNDLE.data}


class Pipes:
    """A worker on two pipes, as an owner that is not in Python would have it."""

    def __init__(self) -> None:
        argv, env = command()
        self.process = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.ready = self.receive()

    def send(self, content: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(content)
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        reply = json.loads(self.process.stdout.read(frame_size(self.process.stdout.read(4))))
        assert isinstance(reply, dict)
        return reply

    def ask(self, **request: object) -> dict[str, Any]:
        self.send(encode_frame(request))
        return self.receive()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def worker() -> Iterator[Pipes]:
    pipes = Pipes()
    yield pipes
    pipes.close()


def test_it_says_first_that_it_is_ready(worker: Pipes) -> None:
    assert worker.ready == {"ready": True, "pid": worker.process.pid}


def test_a_bundle_is_loaded_and_decides_with_its_revision(worker: Pipes) -> None:
    assert worker.ask(id=1, **LOAD) == {
        "id": 1,
        "revision": BUNDLE.digest,
        "kinds": ["message"],
        "reads": {"message": {"paths": [["message", "size_bytes"]]}},
    }
    question = message_question(message={"size_bytes": 5})
    assert worker.ask(id=2, op="decide", kind="message", question=question, deadline_s=1) == {
        "id": 2,
        "revision": BUNDLE.digest,
        "allow": True,
        "reasons": ["size"],
    }


def test_nothing_is_decided_before_a_load(worker: Pipes) -> None:
    assert worker.ask(id=1, op="decide", kind="message", question={}) == {"id": 1, "error": "nothing is loaded"}
    assert worker.ask(id=2, op="evaluate", path="a/b", question={}) == {"id": 2, "error": "nothing is loaded"}


def test_a_bundle_that_does_not_compile_leaves_the_last_one(worker: Pipes) -> None:
    worker.ask(id=1, **LOAD)
    broken = worker.ask(id=2, op="load", modules={"a.rego": "package"}, data={"hub": {"revision": "x"}})
    assert "do not compile" in broken["error"]
    assert worker.ask(id=3, op="load", modules={}, data={}) == {"id": 3, "error": "the data has no hub.revision"}
    assert worker.ask(id=4, op="decide", kind="message", question={})["revision"] == BUNDLE.digest


def test_a_kind_without_a_policy_is_denied(worker: Pipes) -> None:
    worker.ask(id=1, **LOAD)
    reply = worker.ask(id=2, op="decide", kind="task", question={})
    assert (reply["allow"], reply["reasons"]) == (False, ["no policy defines data.hub.task.decision"])


def test_an_entry_point_is_evaluated_to_a_value_and_to_rego(worker: Pipes) -> None:
    modules = {"a.rego": module('x := {"s": {1, "q"}, "n": null, "i": input.i}\ny if false\nz := 1 / 0', "a")}
    paths = ["a/x", "a/y", "a/z"]
    worker.ask(id=1, op="load", modules=modules, data={"hub": {"revision": "r"}}, entry_points=paths)
    reply = worker.ask(id=2, op="evaluate", path="a/x", question={"i": 'a"b\n'})
    assert reply["value"] == {"s": ["q", 1], "n": None, "i": 'a"b\n'}
    assert reply["term"] == r'{"s": {1, "q"}, "n": null, "i": "a\"b\n"}'
    assert worker.ask(id=3, op="evaluate", path="a/y", question={}) == {"id": 3, "undefined": True}
    assert "fault" in worker.ask(id=4, op="evaluate", path="a/z", question={})


def test_what_it_does_not_understand_is_an_error_and_not_the_end(worker: Pipes) -> None:
    worker.send(struct.pack(">I", 3) + b"{]}")
    assert worker.receive() == {"id": None, "error": "the request is not JSON"}
    worker.send(struct.pack(">I", 2) + b"[]")
    assert worker.receive() == {"id": None, "error": "the request is not a JSON object"}
    assert worker.ask(id=1, op="fly") == {"id": 1, "error": "there is no operation 'fly'"}
    assert worker.ask(id=2, op="check") == {"id": 2, "error": "the request has no 'modules'"}


def test_it_ends_with_its_input(worker: Pipes) -> None:
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert worker.process.wait(60) == 0


def test_it_ends_itself_when_its_owner_forgets_the_deadline(worker: Pipes) -> None:
    endless = "x if count([1 | some a in r; some b in r; some c in r; a + b + c < 0]) > 0\nr := numbers.range(1, 9999)"
    data = {"hub": {"revision": "r"}}
    worker.ask(id=1, op="load", modules={"a.rego": module(endless, "a")}, data=data, entry_points=["a/x"])
    worker.send(encode_frame({"id": 2, "op": "evaluate", "path": "a/x", "question": {}, "deadline_s": 0.01}))
    assert worker.process.wait(60) == -signal.SIGALRM


def test_an_interrupt_from_the_terminal_does_not_end_it(worker: Pipes) -> None:
    os.kill(worker.process.pid, signal.SIGINT)
    assert "revision" in worker.ask(id=1, **LOAD)


def test_its_environment_is_empty(worker: Pipes) -> None:
    assert Path(f"/proc/{worker.process.pid}/environ").read_bytes() == b""
    # Unchecked Rego, straight into the worker: even so it sees nothing.
    modules = {"a.rego": module("x := opa.runtime().env", "a")}
    worker.ask(id=1, op="load", modules=modules, data={"hub": {"revision": "r"}}, entry_points=["a/x"])
    assert worker.ask(id=2, op="evaluate", path="a/x", question={})["value"] == {}


def test_it_can_open_no_file_and_no_socket(worker: Pipes) -> None:
    open_files, _ = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
    assert open_files == 3
    assert {int(name) for name in os.listdir(f"/proc/{worker.process.pid}/fd")} >= {0, 1, 2}
    assert resource.prlimit(worker.process.pid, resource.RLIMIT_CORE) == (0, 0)


def test_time_zones_are_known_all_the_same(worker: Pipes) -> None:
    modules = {"a.rego": module('x := time.clock([1763712000000000000, "Asia/Tokyo"])', "a")}
    worker.ask(id=1, op="load", modules=modules, data={"hub": {"revision": "r"}}, entry_points=["a/x"])
    assert worker.ask(id=2, op="evaluate", path="a/x", question={})["value"] == [17, 0, 0]


def test_frames_have_a_largest_size() -> None:
    with pytest.raises(ValueError, match="too large"):
        frame_size(struct.pack(">I", MAX_FRAME_BYTES + 1))
    with pytest.raises(ValueError, match="at most"):
        encode_frame({"a": "x" * MAX_FRAME_BYTES})
    with pytest.raises(ValueError, match="JSON"):
        encode_frame({"a": float("nan")})
