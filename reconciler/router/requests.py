"""Requests that wait for their reply: who was asked, by whom, until when, and whether it was answered. Pure.

A request is remembered for a while after its time, so that a late reply is told that it is late.
"""

import asyncio

import msgspec

from reconciler.router.registry import Instance

_REMEMBERED_S = 60.0


class Request(msgspec.Struct, eq=False):
    """One request delivered to `responder`. `waiter` is where the requester waits, if it does; None means too late."""

    id: str
    requester: Instance
    responder: Instance
    deadline: float
    is_answered: bool = False
    is_counted: bool = True
    waiter: asyncio.Future[bytes | None] | None = None


class Requests:
    """By responder and id. Different requesters may use the same id."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], list[Request]] = {}

    def __len__(self) -> int:
        return sum(len(requests) for requests in self._open.values())

    def open(self, request: Request) -> None:
        """From now on a reply to it is taken."""
        self._open.setdefault((request.responder.name, request.id), []).append(request)
        request.responder.outstanding += 1

    def find(self, responder: Instance, id_: str, to: str | None) -> Request | None:
        """The request that a reply belongs to; `to` chooses by requester (agent or agent/instance) when it is given."""
        found = [
            r
            for r in self._open.get((responder.name, id_), ())
            if r.responder is responder and (to is None or to in (r.requester.agent, r.requester.address))
        ]
        unanswered = [r for r in found if not r.is_answered]
        return next(iter(unanswered or found), None)

    def of_requester(self, requester: Instance, id_: str) -> Request | None:
        """The open request that this sender made under this id. Walks all; for repeated requests only."""
        for (_, request_id), requests in self._open.items():
            for request in requests if request_id == id_ else ():
                if request.requester is requester and not request.is_answered:
                    return request
        return None

    def answer(self, request: Request) -> None:
        """A reply was accepted; no other will be."""
        request.is_answered = True
        self._uncount(request)

    def take_back(self, request: Request) -> None:
        """The reply could not be delivered after all; another may come."""
        request.is_answered = False

    def sweep(self, now: float) -> None:
        """Tell requesters whose time is over, and forget what is long over."""
        for key, requests in list(self._open.items()):
            for request in requests:
                if request.deadline <= now:
                    self._give_up(request)
            kept = [r for r in requests if r.deadline + _REMEMBERED_S > now]
            if kept:
                self._open[key] = kept
            else:
                del self._open[key]

    def drop(self, instance: Instance) -> None:
        """Forget all from and to an instance that is removed."""
        for key, requests in list(self._open.items()):
            gone = [r for r in requests if instance in (r.requester, r.responder)]
            for request in gone:
                self._give_up(request)
            if len(gone) == len(requests):
                del self._open[key]
            elif gone:
                self._open[key] = [r for r in requests if r not in gone]

    def give_up_all(self) -> None:
        """Wake all requesters that wait; nothing is forgotten."""
        for requests in self._open.values():
            for request in requests:
                self._wake(request)

    def _give_up(self, request: Request) -> None:
        self._uncount(request)
        self._wake(request)

    def _wake(self, request: Request) -> None:
        if request.waiter is not None and not request.waiter.done():
            request.waiter.set_result(None)

    def _uncount(self, request: Request) -> None:
        if request.is_counted:
            request.is_counted = False
            request.responder.outstanding -= 1
