"""`ReapStuck` drives again what is stuck, and nothing else; the commands of operators are public."""

from __future__ import annotations

import pytest
from support_operators import Gate, begun, two_stages, waiting

from poundlock import Delay, InvalidDefinition, RunStatus, Serialized, Workflow
from poundlock.runtime.commands import Pause, PauseWorkflow, ReapStuck, Unpause, UnpauseWorkflow
from poundlock.testing import run_until_idle


async def test_what_is_driven_or_waits_is_left_alone(stores):
    """A run that is driven, paused, paused by an operator, delayed, or queued behind another one is unchanged."""
    gate = Gate()
    busy = two_stages(gate)
    later = Workflow("later")
    later.on("later")
    later.step(lambda: Delay(1000), id="first")
    later.step(lambda: None, id="second")
    rt = await stores.enter(later)
    await rt.register(busy, Serialized())
    driven, queued = await begun(rt), await begun(rt)
    await gate.begun.wait()
    delayed = (await rt.emit("later")).run_ids[0]
    held = (await rt.emit("later")).run_ids[0]
    await run_until_idle(stores.clock)
    await rt.pause(held)
    before = [await rt.get_run(run_id) for run_id in (driven, queued, delayed, held)]
    assert [str(info.status) for info in before] == ["running", "queued", "delayed", "paused"]
    assert await rt.dispatch(ReapStuck()) == 0
    await run_until_idle(stores.clock)
    assert [await rt.get_run(info.run_id) for info in before] == before
    gate.open.set()
    for run_id in (driven, queued):
        assert (await rt.wait(run_id)).metadata["attempt"] == 1


async def test_a_run_that_nothing_drives(stores):
    """A run that is running in the store without a task here is driven again from its last boundary."""
    gate, ran = Gate(), []
    rt = await stores.enter(two_stages(gate, ran))
    run_id = await begun(rt)
    await gate.begun.wait()
    live = rt._core.runs.live(run_id)
    rt._core.runs.drop(run_id)  # as a bug of ours would
    gate.open.set()
    await run_until_idle(stores.clock)
    assert live.task.done()
    await rt.recover()
    assert (await rt.wait(run_id)).status is RunStatus.COMPLETED


async def test_queued_runs_with_a_free_slot(stores):
    """Queued runs that nothing has promoted, because the process that unpaused them died, start in their slots."""
    gate = Gate()
    gate.open.set()
    rt = await stores.enter()
    await rt.register(two_stages(gate), Serialized())
    await rt.pause_workflow("w")
    runs = [await begun(rt) for _ in range(3)]
    rt._core.unpaused = lambda: None
    await rt.unpause_workflow("w")
    await run_until_idle(stores.clock)
    assert {str((await rt.get_run(run_id)).status) for run_id in runs} == {"queued"}
    await rt.dispatch(ReapStuck())
    for run_id in runs:
        assert (await rt.wait(run_id)).status is RunStatus.COMPLETED


async def test_commands_say_who_it_was(stores):
    """`dispatch` carries out the commands of operators; `by` says who has paused, in lists and timelines."""
    rt = await stores.enter(waiting())
    run_id = await begun(rt)
    await rt.wait(run_id, until="rest")
    await rt.dispatch(Pause(run_id, "audit", by="Ada"))
    await rt.dispatch(PauseWorkflow("w", "reject", "audit", by="Bob"))
    assert [pause.by for pause in (await rt.get_run(run_id)).paused_by] == ["Ada", "Bob"]
    await rt.dispatch(Unpause(run_id, by="Eve"))
    await rt.dispatch(UnpauseWorkflow("w"))
    entries = [
        (entry.type, entry.payload["by"]) for entry in (await rt.timeline(run_id)).entries if "paused" in entry.type
    ]
    assert entries == [("run:paused", "Ada"), ("run:unpaused", "Eve")]
    with pytest.raises(InvalidDefinition):
        await rt.dispatch(Pause(run_id, by=7))
