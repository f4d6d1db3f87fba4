"""What is kept no longer is deleted beside the work, however much of it there is."""

from __future__ import annotations

import asyncio

from poundlock import Event, Retention, RunStatus, Workflow, WorkflowRuntime
from poundlock.clock import SystemClock
from poundlock.model.changes import Changes, RunCreate, RunMove
from poundlock.model.runs import LogRow, RunIdentity, StoredEvent
from poundlock.stores.sqlite import SqliteStore


async def many_ended(store, count, at):
    """Write so many ended runs, quickly."""
    for start in range(0, count, 1000):
        creates = []
        for number in range(start, min(start + 1000, count)):
            run_id = f"old-{number:06}"
            identity = RunIdentity(run_id, "orders", None, "main", "h", None, None, 0, None, (), at, run_id)
            event = StoredEvent(run_id, Event("orders.placed", {}, id=run_id, time=at, source="/t"), "{}")
            log = LogRow(1, 1, '[[0,"pipeline","run:end","main",null,{"n":1}]]')
            move = RunMove(
                run_id,
                0,
                1,
                None,
                RunStatus.COMPLETED,
                None,
                1,
                None,
                1,
                None,
                None,
                slot=False,
                updated_at=at,
                log=log,
            )
            creates.append(RunCreate(identity, move, event))
        await store.commit(Changes(creates=tuple(creates), now=at))


async def test_a_hundred_thousand_ended_runs_go_in_small_transactions(tmp_path):
    """No transaction deletes more than a bounded number of rows, and other commits come in between."""
    count = 100_000
    wf = Workflow("orders", retention=Retention(ended_runs="1d"))

    @wf.step
    def reserve():
        return {"reserved": True}

    store = SqliteStore(tmp_path / "runs.db", synchronous="OFF")
    async with WorkflowRuntime(wf, store=store) as rt:
        await many_ended(store, count, SystemClock().now() - 2 * 86_400)
        deleted = []
        writer = store._writer
        transact = writer._transact

        def counting(jobs, apply):
            before = writer._connection.total_changes
            effects = transact(jobs, apply)
            deleted.append(writer._connection.total_changes - before)
            return effects

        writer._transact = counting
        deleting = asyncio.create_task(rt.vacuum())
        young = []
        while not deleting.done():
            young.append((await rt.run("orders")).run_id)
        done = await deleting
        assert (done.runs, done.done) == (count, True)
        assert len(deleted) > count / 100
        assert max(deleted) < 1500
        assert len(young) > 10
        assert (await store.stats())["completed"] == len(young)
        assert (await store.stats()).get("events", 0) == len(young)
