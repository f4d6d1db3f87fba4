"""An end without a driver is announced, once, also if it was written and the store's answer was lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from poundlock import Event, Exclusive, Serialized, SingletonLoop, Workflow
from poundlock.errors import RunFinished, StoreUnavailable
from poundlock.testing import run_until_idle


def flow(gate, mode, timeout=None, *, waits=False):
    limit = {"timeout": timeout, "on_timeout": "abort"} if timeout else {}
    wf = Workflow("w", mode=mode, **limit)
    wf.on("go")
    if waits:
        wf.wait("answer", on="answered")

    @wf.step
    async def work():
        with suppress(asyncio.CancelledError):  # its slot is not free at once when its time is over
            await gate.wait()
        await gate.wait()

    return wf


CASES = {
    "superseded": (Exclusive(on_busy="queue_single"), None, False),
    "replaced": (SingletonLoop("replace"), None, True),
    "timeout": (Serialized(), "10s", False),
    "queued": (Serialized(), None, False),
    "paused": (Serialized(), None, True),
}


@pytest.mark.parametrize("written", [True, False], ids=["written", "not-written"])
@pytest.mark.parametrize("case", CASES)
async def test_an_end_without_an_answer(stores, case, written):
    """The waiter gets its result and the hooks are called once, whether or not the commit was written, and retried."""
    mode, timeout, waits = CASES[case]
    gate, calls, store = asyncio.Event(), [], stores.store()
    rt = await stores.enter(store=store)
    await rt.register(flow(gate, mode, timeout, waits=waits), on_complete=lambda result: calls.append(result.run_id))
    await rt.emit(Event("go", {}, id="1"))
    if not waits:
        await rt.emit(Event("go", {}, id="2"))
    await run_until_idle(stores.clock)
    status = "paused" if waits else "queued"
    [run_id] = [info.run_id for info in (await rt.find_runs()).items if str(info.status) == status]
    waiter = asyncio.ensure_future(rt.wait(run_id, until="end"))

    def its_end(changes):
        return any(move.run_id == run_id and move.status.terminal for move in changes.moves)

    async def act():
        if case in ("queued", "paused"):
            await rt.abort(run_id)
        elif case != "timeout":
            await rt.emit(Event("go", {}, id="3"))

    setattr(store, "hold_after" if written else "hold", its_end)
    acting = asyncio.ensure_future(act())
    if case == "timeout":
        stores.clock.advance(11)
    await store.until_held()
    store.hold = store.hold_after = None
    store.held[0].fail(StoreUnavailable("away"))
    if case == "timeout":
        await acting
    else:
        with pytest.raises(StoreUnavailable):
            await acting
        with suppress(RunFinished):
            await act()
    if written:
        await run_until_idle(stores.clock)
        assert waiter.done()
    result = await waiter
    assert result.run_id == run_id
    assert str(result.status) == "aborted"
    await run_until_idle(stores.clock)
    assert calls.count(run_id) == 1
    assert rt._core.lost_ends == {}
    gate.set()
