"""Coroutines without a task: they start at once, and go on inside the call that sets what they wait for."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from reconciler.router.eager import Eager, Ticket


def run(scenario: Callable[[asyncio.AbstractEventLoop], Awaitable[None]]) -> None:
    async def main() -> None:
        await scenario(asyncio.get_running_loop())

    asyncio.run(main())


def test_what_need_not_wait_is_done_at_once() -> None:
    async def answer() -> int:
        return 7

    results: list[int | None] = []
    assert Eager(answer(), results.append).is_done
    assert results == [7]


def test_it_goes_on_inside_the_call_that_settles_its_ticket() -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        first, second = Ticket(loop), Ticket(loop)
        seen: list[bool] = []

        async def work() -> str:
            seen.append(await first)
            seen.append(await second)
            return "done"

        results: list[str | None] = []
        running = Eager(work(), results.append)
        assert (seen, running.is_done) == ([], False)
        first.settle(True)
        assert (seen, running.is_done) == ([True], False)
        second.settle(False)
        assert (seen, results, running.is_done) == ([True, False], ["done"], True)

    run(scenario)


def test_a_ticket_that_was_settled_before_is_not_waited_for() -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        ticket = Ticket(loop)
        ticket.settle(True)
        results: list[bool | None] = []

        async def work() -> bool:
            return await ticket

        assert Eager(work(), results.append).is_done
        assert results == [True]

    run(scenario)


def test_futures_of_asyncio_and_their_exceptions_reach_it_too() -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        good: asyncio.Future[int] = loop.create_future()
        bad: asyncio.Future[int] = loop.create_future()

        async def work() -> tuple[int, str]:
            number = await good
            try:
                await bad
            except ValueError as error:
                return number, str(error)
            return number, ""

        results: list[tuple[int, str] | None] = []
        running = Eager(work(), results.append)
        good.set_result(3)
        loop.call_soon(bad.set_exception, ValueError("why"))
        await running.ended()
        assert results == [(3, "why")]

    run(scenario)


@pytest.mark.parametrize("kind", [Ticket, lambda loop: loop.create_future()])
def test_cancelling_runs_its_last_words_and_gives_no_result(
    kind: Callable[[asyncio.AbstractEventLoop], "asyncio.Future[bool]"],
) -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        waited = kind(loop)
        said: list[str] = []

        async def work() -> bool:
            try:
                return await waited
            finally:
                said.append("gave it back")

        results: list[bool | None] = []
        running = Eager(work(), results.append)
        running.cancel()
        await running.ended()
        running.cancel()
        assert (said, results) == (["gave it back"], [None])
        if isinstance(waited, Ticket):
            waited.settle(True)
        assert waited.cancelled()

    run(scenario)


def test_a_caller_that_is_gone_gets_no_result() -> None:
    async def work() -> int:
        raise ConnectionError("gone")

    results: list[int | None] = []
    Eager(work(), results.append)
    assert results == [None]


def test_a_mistake_in_it_ends_it_and_is_not_hidden() -> None:
    async def work() -> int:
        raise ZeroDivisionError

    results: list[int | None] = []
    with pytest.raises(ZeroDivisionError):
        Eager(work(), results.append)
    assert results == [None]


def test_a_task_may_wait_for_a_ticket_too() -> None:
    async def scenario(loop: asyncio.AbstractEventLoop) -> None:
        ticket = Ticket(loop)
        loop.call_soon(ticket.settle, True)
        assert await asyncio.wait_for(asyncio.shield(ticket), 5)

    run(scenario)
