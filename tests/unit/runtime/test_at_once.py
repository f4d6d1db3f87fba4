"""A coroutine that is begun by hand ends, waits, fails and is cancelled as one that is awaited."""

import asyncio

import pytest

from poundlock.runtime.at_once import Unfinished, begin


async def test_work_without_a_wait_is_done_at_once():
    """The result is there before anything is awaited."""

    async def work():
        return "done"

    assert begin(work()) == "done"


async def test_an_error_before_the_first_wait_is_raised_at_once():
    """The caller gets it where it began the work."""

    async def work():
        raise KeyError("at once")

    with pytest.raises(KeyError, match="at once"):
        begin(work())


async def test_work_that_waits_is_finished_by_awaiting_the_rest():
    """It goes through all its waits, of a future as well as of a turn of the loop, and its result is the answer."""
    first = asyncio.get_running_loop().create_future()

    async def work():
        got = await first
        await asyncio.sleep(0)  # noqa: TID251 - yields once
        return got + 1

    rest = begin(work())
    assert isinstance(rest, Unfinished)
    asyncio.get_running_loop().call_soon(first.set_result, 1)
    assert await rest == 2


async def test_an_error_after_a_wait_is_raised_by_the_rest():
    """A future that fails raises in the work, which may handle it or not."""
    failing = asyncio.get_running_loop().create_future()

    async def work():
        await failing

    rest = begin(work())
    failing.set_exception(KeyError("later"))
    with pytest.raises(KeyError, match="later"):
        await rest


async def test_a_cancellation_reaches_the_work():
    """The work sees it at its wait, and can clean up; the task that awaits the rest ends as cancelled."""
    seen = []

    async def work():
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # noqa: TID251 - yields once
            seen.append("cleaned")
            raise

    async def caller():
        rest = begin(work())
        assert isinstance(rest, Unfinished)
        await rest

    task = asyncio.ensure_future(caller())
    await asyncio.sleep(0)  # noqa: TID251 - yields once
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cleaned"]


async def test_work_may_survive_a_cancellation():
    """A cancellation that the work handles is not raised by the rest."""

    async def work():
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "survived"

    async def caller():
        return await begin(work())

    task = asyncio.ensure_future(caller())
    await asyncio.sleep(0)  # noqa: TID251 - yields once
    task.cancel()
    assert await task == "survived"
