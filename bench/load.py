"""The load generator: a process of its own that speaks HTTP over unix sockets, from bytes built beforehand.

`python -m bench.load` reads one `Job` as JSON from standard input and writes one `Load` as JSON to standard output.

Senders are connections with one message under way each. Without a `rate` each sends the next message when the last
is answered; with one, messages become due evenly, wait for a free connection, and their times count from when they
were due, so that a slow server cannot hide by slowing its load down. Receivers poll and acknowledge by the next poll.
"""

import os
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path

import msgspec

ID_DIGITS = 12
ID = b"#" * ID_DIGITS
"""Stands in a message where its number goes."""

_GRACE_S = 5.0
_READ_BYTES = 256 * 1024
_PAUSE_S = 0.001
_BACKLOG = 500_000


class Sender(msgspec.Struct):
    """One connection that sends. `request` is a whole HTTP request with `ID` in it, once."""

    path: str
    request: str


class Receiver(msgspec.Struct):
    """One connection that polls. The cursor of the last answer goes between `before` and `after`."""

    path: str
    before: str
    after: str


class Job(msgspec.Struct):
    """`first` is the number of the first message; `rate` is messages per second, None for as many as are answered.

    `warm_s` is how long traffic flows before anything is counted; `server` is the process that is under load.
    `copies` is how many of the receivers get each message.
    """

    server: int
    senders: list[Sender]
    seconds: float
    receivers: list[Receiver] = []
    first: int = 0
    rate: float | None = None
    warm_s: float = 0.5
    copies: int = 1


class Load(msgspec.Struct):
    """What came of it, in the counted time. Latencies are milliseconds, sorted.

    `acknowledged` counts messages that were delivered by a poll and acknowledged by a later one that was answered;
    `unfinished` are those that were accepted and not acknowledged, a while after the last one was sent.
    `server_busy`, `children_busy` and `own_busy` are processor seconds per second, of the server, of the processes that
    it started before, and of the generator.
    """

    seconds: float
    answered: int
    refused: int
    acknowledged: int
    answer_ms: list[float]
    delivery_ms: list[float]
    server_busy: float
    children_busy: float
    own_busy: float
    unfinished: int


class _Line:
    """One connection, and the answer that it is reading."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self._part = b""

    def read(self) -> tuple[bytes, bytes] | None:
        """Head and body of the answer once it is whole."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionError("the server closed the connection")
        if self._part:
            data = self._part + data
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            head = data[:end].lower()
            at = head.find(b"content-length: ") + 16
            stop = head.find(b"\r", at)
            if len(data) - end - 4 >= int(head[at:stop] if stop > 0 else head[at:]):
                self._part = b""
                return head, data[end + 4 :]
        self._part = data
        return None


class _SenderLine(_Line):
    def __init__(self, sender: Sender) -> None:
        super().__init__(sender.path)
        before, _, after = sender.request.encode().partition(ID)
        self._before, self._after = before, after
        self.due = 0.0

    def send(self, number: int, due: float) -> None:
        self.due = due
        self.socket.send(b"%b%0*d%b" % (self._before, ID_DIGITS, number, self._after))


class _ReceiverLine(_Line):
    def __init__(self, receiver: Receiver) -> None:
        super().__init__(receiver.path)
        self._before, self._after = receiver.before.encode(), receiver.after.encode()
        self.held = 0

    def poll(self, cursor: bytes) -> None:
        self.socket.send(self._before + cursor + self._after)


class _Run:
    """One job under way."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._poller = select.epoll()
        self._senders = {line.socket.fileno(): line for line in map(_SenderLine, job.senders)}
        self._receivers = {line.socket.fileno(): line for line in map(_ReceiverLine, job.receivers)}
        self._free = deque(self._senders.values())
        self._number = job.first
        self._due_by_number: dict[int, float] = {}
        self._is_open = True
        self._is_counting = False
        self._accepted = self._taken = 0
        self._answered = self._refused = self._acknowledged = 0
        self._answer_s: list[float] = []
        self._delivery_s: list[float] = []

    def run(self) -> Load:
        for descriptor in (*self._senders, *self._receivers):
            self._poller.register(descriptor, select.EPOLLIN)
        for receiver in self._receivers.values():
            receiver.poll(b"-.0")
        start = time.perf_counter()
        counted_from = start + self._job.warm_s
        end = counted_from + self._job.seconds
        self._pump(start, counted_from)
        self._is_counting = True
        pids = [self._job.server, *list_children(self._job.server)]
        began, own, used = time.perf_counter(), time.process_time(), [cpu_s(pid) for pid in pids]
        self._pump(start, end)
        seconds = time.perf_counter() - began
        own = time.process_time() - own
        server, *children = (cpu_s(pid) - before for pid, before in zip(pids, used, strict=True))
        self._is_counting = self._is_open = False
        self._drain(end + _GRACE_S)
        return Load(
            seconds=seconds,
            answered=self._answered,
            refused=self._refused,
            acknowledged=self._acknowledged,
            answer_ms=sorted(s * 1000 for s in self._answer_s),
            delivery_ms=sorted(s * 1000 for s in self._delivery_s),
            server_busy=server / seconds,
            children_busy=sum(children) / seconds,
            own_busy=own / seconds,
            unfinished=self._accepted * self._job.copies - self._taken if self._receivers else 0,
        )

    def _pump(self, start: float, until: float) -> None:
        """Send and read until then."""
        rate = self._job.rate
        while (now := time.perf_counter()) < until:
            if rate is None:
                while self._free:
                    self._send(now)
                self._turn(0.01)
                continue
            due = min(int((now - start) * rate), _BACKLOG + self._number - self._job.first)
            while self._free and self._number - self._job.first < due:
                self._send(start + (self._number - self._job.first) / rate)
            self._turn(_PAUSE_S)

    def _drain(self, until: float) -> None:
        """Wait for what is under way."""
        while time.perf_counter() < until and (
            len(self._free) < len(self._senders)
            or (self._receivers and self._taken < self._accepted * self._job.copies)
        ):
            self._turn(0.01)

    def _send(self, due: float) -> None:
        line = self._free.popleft()
        if self._receivers:
            self._due_by_number[self._number] = due
        line.send(self._number, due)
        self._number += 1

    def _turn(self, timeout_s: float) -> int:
        events = self._poller.poll(timeout_s)
        for descriptor, _ in events:
            sender = self._senders.get(descriptor)
            if sender is not None:
                self._take_answer(sender)
            else:
                self._take_messages(self._receivers[descriptor])
        return len(events)

    def _take_answer(self, line: _SenderLine) -> None:
        answer = line.read()
        if answer is None:
            return
        is_accepted = answer[0].startswith(b"http/1.1 2")
        self._accepted += is_accepted
        if self._is_counting:
            self._answered += is_accepted
            self._refused += not is_accepted
            self._answer_s.append(time.perf_counter() - line.due)
        if self._is_open and self._job.rate is None:
            now = time.perf_counter()
            if self._receivers:
                self._due_by_number[self._number] = now
            line.send(self._number, now)
            self._number += 1
        else:
            self._free.append(line)

    def _take_messages(self, line: _ReceiverLine) -> None:
        answer = line.read()
        if answer is None:
            return
        head, body = answer
        if not head.startswith(b"http/1.1 200"):
            raise ConnectionError(f"a poll was refused: {body[:500].decode(errors='replace')}")
        self._taken += line.held
        if self._is_counting:
            self._acknowledged += line.held
        now = time.perf_counter()
        parts = body.split(b'{"id":"')
        line.held = len(parts) - 1
        for part in parts[1:]:
            number = int(part[:ID_DIGITS])
            due = self._due_by_number.pop(number) if self._job.copies == 1 else self._due_by_number[number]
            if self._is_counting:
                self._delivery_s.append(now - due)
        line.poll(body[body.rfind(b'"cursor":"') + 10 : -2])


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far, all threads, in user and kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def list_children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(_Run(job).run()))


if __name__ == "__main__":
    main()
