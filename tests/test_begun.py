"""Begun: work goes on while something is waited for, and nothing of the waiting is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.begun import Begun


async def test_it_runs_up_to_what_it_waits_for_and_on_when_awaited() -> None:
    steps: list[str] = []

    async def asking() -> str:
        steps.append("asked")
        await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        steps.append("answered")
        return "yes"

    with Begun(asking()) as begun:
        steps.append("meanwhile")
        known_at_once = begun.ended
        assert await begun == "yes"

    assert not known_at_once
    assert steps == ["asked", "meanwhile", "answered"]


async def test_what_waits_for_nothing_has_ended_at_once() -> None:
    async def known() -> int:
        return 4

    with Begun(known()) as begun:
        assert begun.ended
        assert await begun == 4
        assert await begun == 4


async def test_an_answer_that_comes_before_it_is_awaited_is_not_lost() -> None:
    coming: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def asking() -> str:
        return await coming

    with Begun(asking()) as begun:
        coming.set_result("early")
        await asyncio.sleep(0)
        assert await begun == "early"


async def test_a_fault_is_raised_to_whom_it_hits() -> None:
    async def at_once() -> None:
        raise ValueError("at once")

    async def later() -> None:
        await asyncio.sleep(0)
        raise ValueError("later")

    with pytest.raises(ValueError, match="at once"):
        Begun(at_once())
    with Begun(later()) as begun, pytest.raises(ValueError, match="later"):
        await begun


async def test_a_fault_of_what_it_waits_for_reaches_the_coroutine_first() -> None:
    coming: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def asking() -> str:
        try:
            return await coming
        except OSError:
            await asyncio.sleep(0)
            return "mended"

    with Begun(asking()) as begun:
        coming.set_exception(OSError("gone"))
        assert await begun == "mended"


async def test_a_cancellation_reaches_the_coroutine_and_its_task() -> None:
    ended: list[str] = []

    async def asking() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cleaned up")

    async def caller() -> None:
        with Begun(asking()) as begun:
            await begun

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cleaned up"]


async def test_a_timeout_within_it_and_one_around_it_both_hold() -> None:
    async def bounded() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            return "gave up"
        return "slept"

    with Begun(bounded()) as begun:
        assert await begun == "gave up"
    with Begun(asyncio.sleep(60)) as endless, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await endless


async def test_what_is_not_awaited_is_ended_with_its_block() -> None:
    held: list[str] = []

    @asynccontextmanager
    async def holding() -> AsyncIterator[None]:
        held.append("held")
        try:
            yield
        finally:
            held.clear()

    async def asking() -> None:
        async with holding():
            await asyncio.sleep(60)

    with Begun(asking()):
        assert held == ["held"]

    assert held == []


async def test_what_is_not_awaited_is_told_so_as_a_cancelled_task_is() -> None:
    told: list[str] = []

    async def tidying() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                told.append("stayed")

    with Begun(tidying()):
        pass
    with Begun(stubborn()):
        pass

    assert told == ["cancelled", "stayed"]


async def test_what_has_failed_is_not_ended_again() -> None:
    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("once")

    with Begun(failing()) as begun, pytest.raises(ValueError, match="once"):
        await begun
