"""What one stopped subscriber costs the others: their delivery times with it and without it, in turns.

It is connected, has asked, reads nothing, and its mailbox is full.
"""

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

from bench.figure import Figure
from bench.load import Receiver, Sender
from bench.router import SUBSCRIBERS, TOPIC, Mode, Router, register, socket_path
from bench.servers import PAYLOAD, TYPE, Server, poll, request

MAILBOX_MESSAGES = 100
TURNS, TURN_S, RATE = 3, 3.0, 40.0
STOPPED = f"q{SUBSCRIBERS - 1}"


def measure_stopped(router: Router) -> Figure:
    """p99 of a topic's delivery to the others, in ms; of each the best turn."""
    router.use(Mode(engine="builtin"), mailbox_messages=MAILBOX_MESSAGES)
    server = _subscribe_others(router)
    without, beside = [], []
    for _ in range(TURNS):
        without.append(_delivery_p99(server))
        with _stopped_subscriber(router):
            beside.append(_delivery_p99(server))
    return Figure(
        name="route: one of 100 subscribers stopped, p99",
        value=min(beside),
        unit="ms",
        reference="without it",
        reference_value=min(without),
        budget=1.2,
        by_ratio=True,
    )


def _subscribe_others(router: Router) -> Server:
    tokens = {f"q{n}": register(router.link, f"q{n}") for n in range(SUBSCRIBERS - 1)}
    return Server(
        pid=router.server.pid,
        senders=[Sender(socket_path(router.run, "s0"), request(router.tokens["s0"], topic=TOPIC))],
        receivers=[Receiver(socket_path(router.run, name), *poll(token)) for name, token in tokens.items()],
        copies=len(tokens),
    )


def _delivery_p99(server: Server) -> float:
    load = server.load(seconds=TURN_S, at=RATE)
    assert not load.unfinished, f"{load.unfinished} copies were not delivered"
    return load.delivery_ms[int(len(load.delivery_ms) * 0.99)]


@contextmanager
def _stopped_subscriber(router: Router) -> Iterator[None]:
    """It gets nothing of what is sent meanwhile."""
    token = register(router.link, STOPPED)
    since = router.last_row()
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as link:
            link.connect(socket_path(router.run, STOPPED))
            link.sendall("-.0".join(poll(token, 50)).encode())
            while router.report().instances[f"{STOPPED}-0"].mailbox_messages < MAILBOX_MESSAGES:
                message = {"type": TYPE, "pattern": "event", "payload": PAYLOAD}
                router.link.send({"instance": f"{STOPPED}-0", "message": message})
            yield
        found = router.query(
            "SELECT count(*) FROM message_log WHERE seq > ? AND recipient = ? AND delivered LIKE ?",
            since,
            f"topic:{TOPIC}",
            f"%{STOPPED}-0%",
        )
        assert found[0][0] == 0, f"{found[0][0]} messages went to the full mailbox"
    finally:
        router.link.remove_instance(f"{STOPPED}-0")
