"""A process that works for ever stays as large as it is: what it keeps of the past is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from typing import Annotated

import pytest

from poundlock import Delay, Event, Pause, Pipeline, Service, Stage, Step, Trigger, Use, Wait, Workflow, WorkflowRuntime
from poundlock.bus import local
from poundlock.errors import RunNotFound
from poundlock.model.modes import Exclusive
from poundlock.runtime.dispatch import DispatchIndex
from poundlock.stores import MemoryStore
from poundlock.stores.sqlite import SqliteStore

DAY = 86_400.0


def made():
    """Return an instance of a service."""
    return []


def workflows():
    """Workflows that between them use everything a run can leave something behind in."""
    orders = Workflow("orders", services=[Service("mail", made, scope="run"), Service("log", made, scope="workflow")])

    @orders.on("order.placed")
    @orders.step
    async def reserve(number: int, mail: Annotated[list, Use("mail")], log: Annotated[list, Use("log")]):
        mail.append(number)
        log[:] = mail
        return {"reserved": number}

    @orders.step
    def pack(number: int):
        return {"packed": number}

    asked = Workflow(
        "asked",
        triggers={"ask": Trigger("asked")},
        pipelines=[
            Pipeline(
                "main",
                [
                    Stage("ask", router=lambda state: Pause(Wait(f"reply.{state['number']}", timeout=30 * DAY))),
                    Stage("then", router=Delay(60)),
                    Stage("late", [Step("late", lambda number: {"late": number})]),
                ],
            )
        ],
    )
    busy = Workflow("busy", mode=Exclusive("queue_single"))

    @busy.on("busy")
    @busy.step
    async def work():
        await asyncio.get_running_loop().create_future()

    return orders, asked, busy


async def one(rt, number):
    """Do everything once, and leave nothing unfinished but the one run that is always busy."""
    [order] = await (await rt.emit("order.placed", number=number)).results()
    assert order.status == "completed"
    [asked] = await (await rt.emit("asked", number=number)).results()
    await rt.emit(Event("order.placed", {"number": 0}, id="again and again"))
    await rt.emit(f"nobody.{number % 50}")
    await rt.emit(f"reply.{number}")
    await rt.signal(asked.run_id, {"seen": True})
    await rt.wait(asked.run_id)
    await rt.emit("busy")
    assert (await rt.run("orders", number=number)).ok
    await rt.invoke("orders", event=Event("order.placed", {"number": number}), idempotency_key=str(number))
    aborted = await rt.run("asked", number=number)
    await rt.abort(aborted.run_id)
    assert (await rt.wait(aborted.run_id)).status == "aborted"


def objects():
    """How many containers there are; numbers and texts have no place but in one of them."""
    gc.collect()
    return len(gc.get_objects()) + sum(len(each) for each in gc.get_objects() if type(each) in (dict, set, list))


@pytest.mark.parametrize(("kind", "rounds"), [("memory", 250), ("sqlite", 60)])
async def test_a_process_that_works_for_ever_does_not_grow(kind, rounds, vclock, tmp_path, monkeypatch):
    """After thousands of events and runs of every kind a process has no more objects than after half of them."""
    monkeypatch.setattr(DispatchIndex, "CACHED_TYPES", 50)
    monkeypatch.setattr(local, "_KNOWN_TYPES", 50)
    path = tmp_path / "runs.db"
    store = MemoryStore(keep=100) if kind == "memory" else SqliteStore(path, synchronous="OFF", clock=vclock)
    async with WorkflowRuntime(*workflows(), store=store, clock=vclock) as rt:
        for number in range(rounds):
            await one(rt, number)
            vclock.advance(DAY / 20)
        before = objects()
        for number in range(rounds, 2 * rounds):
            await one(rt, number)
            vclock.advance(DAY / 20)
        assert objects() - before < 300


async def test_a_run_that_was_left_behind_may_be_forgotten(runtime, vclock, caplog):
    """A step that comes back after its aborted run is no longer kept finds nobody to tell, and harms nobody."""
    deaf, began = asyncio.Event(), asyncio.Event()
    wf = Workflow("deaf")

    @wf.step
    async def step():
        began.set()
        while not deaf.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await deaf.wait()

    quick = Workflow("quick")

    @quick.step
    def nothing():
        pass

    rt = await runtime(wf, quick, store=MemoryStore(keep=2), abort_grace=1)
    running = asyncio.create_task(rt.run("deaf"))
    await began.wait()
    [info] = rt.list_all_runs()
    await rt.abort(info.run_id)
    assert (await running).status == "aborted"
    for _ in range(5):
        await rt.run("quick")
    with pytest.raises(RunNotFound):
        await rt.get_run(info.run_id)
    deaf.set()
    await vclock.run_until_idle()
    assert rt.list_all_runs() == []
    assert "cannot go on" not in caplog.text


async def test_the_size_of_a_durable_store_is_told(vclock, tmp_path, caplog):
    """`statistics` and the log at the next start tell a file's size and growth; in memory there is none."""
    caplog.set_level(logging.INFO, "poundlock.stores")
    path = tmp_path / "runs.db"
    wf = Workflow("wf")

    @wf.step
    def write():
        return {"text": "x" * 1000}

    async with WorkflowRuntime(wf, store=f"sqlite:///{path}", clock=vclock) as rt:
        before = rt.statistics()["store:bytes"]
        for _ in range(100):
            await rt.run("wf")
        figures = rt.statistics()
        assert figures["store:bytes"] - before > 100_000
        assert figures["store:bytes:grown"] == figures["store:bytes"] - before
        stats = await rt.store.stats()
        assert (stats["bytes"], stats["completed"]) == (rt.store.size, 100)
    assert "is new" in caplog.text
    vclock.advance(hours=2)
    async with WorkflowRuntime(wf, store=f"sqlite:///{path}", clock=vclock) as rt:
        assert "+0.2 MB since it was opened 2.0 hours ago" in caplog.text
    async with WorkflowRuntime(wf, clock=vclock) as rt:
        assert "store:bytes" not in rt.statistics()
