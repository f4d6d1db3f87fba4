"""What looks for due work leaves nothing behind when the runtime has stopped."""

from __future__ import annotations

import asyncio

from poundlock import Trigger, Workflow
from poundlock.testing import run_until_idle


async def test_a_stop_during_an_emit_leaves_no_timer(stores):
    """An event whose hold is committed while the runtime stops sets no timer any more: it would outlive the runtime."""
    wf = Workflow("w", triggers={"t": Trigger("e", delay="30d")})
    wf.step(lambda: None, id="take")
    stores.clock.autojump = False
    rt = await stores.enter(wf)
    before = stores.clock.pending
    rt.store.hold_after = lambda changes: changes.receipt is not None
    emitting = asyncio.create_task(rt.emit("e", n=1))
    [held] = await rt.store.until_held()
    stopping = asyncio.create_task(rt.stop(drain=0))
    await run_until_idle(stores.clock)
    rt.store.hold_after = None
    held.release()
    assert (await emitting).lines[0].verdict == "delayed"
    await stopping
    assert stores.clock.pending <= before
