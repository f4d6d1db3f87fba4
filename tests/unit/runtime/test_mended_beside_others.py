"""Runs that were mended, with what else may happen to a run: signals, followers, pending hooks, damaged rows."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from poundlock import Workflow
from poundlock.errors import RunDamaged
from poundlock.ports import Claims
from poundlock.runtime.commands import Retry
from poundlock.testing import run_until_idle


class Shop:
    """A workflow of three stages; `charge` fails until it is mended."""

    def __init__(self):
        self.broken = True

    def workflow(self):
        wf = Workflow("shop")
        wf.on("order")

        @wf.step
        async def reserve():
            return {"reserved": True}

        @wf.step
        async def charge():
            if self.broken:
                raise ValueError("no card")
            return {"charged": True}

        @wf.step
        async def send():
            return {"sent": True}

        return wf


async def failed(rt, **fields):
    [result] = await (await rt.emit("order", **fields)).results()
    assert result.status == "failed"
    return result.run_id


async def nothing_to_claim(*_args):
    """Stands for a claim that comes too late."""
    return Claims()


async def test_a_signal_right_behind_the_retry_counts_once(stores):
    """A signal for a run that is not claimed yet is taken in at its next boundary, also after a crash."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    shop.broken = False
    rt.store.claim = nothing_to_claim
    rt.store.hold_after = lambda changes: any(move.status == "ready" for move in changes.moves)
    retrying = asyncio.create_task(rt.retry(run_id))
    await rt.store.until_held()
    await rt.signal(run_id, {"noted": True})
    await stores.crash(rt)
    retrying.cancel()
    rt = await stores.enter(shop.workflow())
    result = await rt.wait(run_id)
    assert (result.status, result.state["noted"], result.state["sent"]) == ("completed", True, True)
    assert (await rt.timeline(run_id)).types().count("state:signal") == 1


async def test_a_follower_sees_the_next_attempt(stores):
    """Who follows a run that goes on again gets the entry of its retry, and all to its next end."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    last = len(await rt.timeline(run_id))
    shop.broken = False
    await rt.retry(run_id, reason="again")
    seen = [entry.type async for entry in rt.follow(run_id, after=last)]
    assert (seen[0], seen[-1]) == ("run:retry", "pipeline:success")


async def test_hooks_that_were_pending_are_those_of_the_next_end(stores):
    """A run that is retried after a crash, before its hooks were called, has them called at its next end."""
    shop, seen = Shop(), []

    async def on_complete(result):
        seen.append((str(result.status), result.metadata["attempt"]))

    rt = await stores.enter()
    blocked = asyncio.Event()

    async def slowly(result):
        await blocked.wait()

    await rt.register(shop.workflow(), on_complete=slowly)
    [line] = (await rt.emit("order")).lines
    await run_until_idle(stores.clock)
    await stores.crash(rt)
    shop.broken = False
    rt = await stores.enter()
    await rt.dispatch(Retry(line.run_id, elsewhere=True))
    await rt.register(shop.workflow(), on_complete=on_complete)
    await rt.wait(line.run_id)
    await run_until_idle(stores.clock)
    assert seen == [("completed", 2)]


async def test_a_damaged_log_is_refused(stores):
    """A run whose log cannot be read is not mended: nothing is changed, and other runs are mended."""
    if stores.kind != "sqlite":
        return
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    bad, good = await failed(rt, n=1), await failed(rt, n=2)
    await rt.stop()
    with sqlite3.connect(stores.path) as file:
        [(run,)] = file.execute("SELECT run FROM runs WHERE run_id = ?", (bad,)).fetchall()
        file.execute("UPDATE log SET text = '[[1,' WHERE run = ? AND version = 2", (run,))
    file.close()
    shop.broken = False
    rt = await stores.enter(shop.workflow())
    with pytest.raises(RunDamaged, match="line 1"):
        await rt.retry(bad)
    assert (await rt.store.load(bad)).head.status == "failed"
    await rt.retry(good)
    assert (await rt.wait(good)).status == "completed"


async def test_a_run_is_retried_as_often_as_it_fails(stores):
    """Attempts grow, the timeline keeps all of them, and each end is told by its own entry."""
    shop = Shop()
    rt = await stores.enter(shop.workflow())
    run_id = await failed(rt)
    for attempt in range(2, 6):
        info = await rt.retry(run_id)
        assert info.attempt == attempt
        assert (await rt.wait(run_id)).status == "failed"
    entries = [entry for entry in (await rt.timeline(run_id)).entries if entry.type == "run:retry"]
    assert [entry.payload["earlier"]["attempt"] for entry in entries] == [1, 2, 3, 4]
    assert (await rt.timeline(run_id)).path() == ["reserve", "charge"]
