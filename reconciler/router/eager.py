"""Coroutines that start at once and go on where what they wait for happens, without a task of asyncio's.

A task costs a turn of the event loop at its start and one after each wait. `Eager` spends none: it runs the coroutine
up to its first wait, and goes on from there in the very call that sets the result. Inside it there is no current
task, so that what needs one (`asyncio.timeout`) wants a task of its own.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Ticket(asyncio.Future[_T]):
    """A future whose waiter, where it is `Eager`, goes on inside `settle` and not in a later turn of the loop."""

    __slots__ = ("resume",)

    resume: Callable[[], None] | None

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.resume = None

    def settle(self, result: _T) -> None:
        """Set the result; one that was cancelled stays so."""
        if self.done():
            return
        self.set_result(result)
        if self.resume is not None:
            self.resume()


class Eager(Generic[_T]):
    """`coroutine` under way. `finish` gets its result; None where it was cancelled, or the caller went away.

    `finish` may be called before the constructor returns.
    """

    __slots__ = ("_coroutine", "_ended", "_finish", "_waits_for", "is_done")

    def __init__(self, coroutine: Coroutine[Any, None, _T], finish: Callable[[_T | None], None]) -> None:
        self._coroutine = coroutine
        self._finish = finish
        self._waits_for: asyncio.Future[Any] | None = None
        self._ended: asyncio.Future[None] | None = None
        self.is_done = False
        self._step()

    def cancel(self) -> None:
        """Raise CancelledError where the coroutine waits."""
        waits_for = self._waits_for
        if self.is_done or waits_for is None:
            return
        waits_for.cancel()
        if isinstance(waits_for, Ticket):
            self._step()

    def ended(self) -> "asyncio.Future[None]":
        """A future that is set when the coroutine has ended."""
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
            if self.is_done:
                self._ended.set_result(None)
        return self._ended

    def _step(self) -> None:
        """On to the next wait, or to the end."""
        try:
            waits_for = self._coroutine.send(None)
        except StopIteration as end:
            self._end(end.value)
            return
        except (ConnectionError, asyncio.CancelledError):
            self._end(None)
            return
        except BaseException:
            self._end(None)
            raise
        self._waits_for = waits_for
        if type(waits_for) is Ticket:
            waits_for.resume = self._step
        else:
            waits_for._asyncio_future_blocking = False  # as a task does, so that another `await` of it may follow
            waits_for.add_done_callback(self._wake)

    def _wake(self, _: "asyncio.Future[Any]") -> None:
        self._step()

    def _end(self, result: _T | None) -> None:
        self.is_done = True
        self._waits_for = None
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        self._finish(result)
