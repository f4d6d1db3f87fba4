"""A workflow is taken out while an event for it is being decided, at each access to the store."""

from __future__ import annotations

import itertools

import pytest
from support_stepping import SteppedStore, begin

from poundlock import Exclusive, RunStatus, Serialized, SingletonLoop, StateRef, Transient, Verdict, Workflow

MODES = {
    "start": (Transient(), 0),
    "queue": (Serialized(), 1),
    "drop": (Transient(1, 0, holds_slot_while_paused=True), 1),
    "supersede": (Exclusive("queue_single"), 2),
    "signal": (SingletonLoop("signal"), 1),
    "replace": (SingletonLoop("replace"), 1),
}
"""What becomes of an event: (mode, how many came before it)."""


def leaving(mode):
    wf = Workflow("leaving", mode=mode)

    @wf.on("go")
    @wf.step
    async def first(n):
        return {"first": n}

    wf.wait("answer", on="answer", correlate={"n": StateRef("n")})
    return wf


def staying():
    wf = Workflow("staying")

    @wf.on("go")
    @wf.step
    async def only(n):
        return {"only": n}

    return wf


async def leave_at(stores, what, active, stop):
    """Take the workflow out while an emit is stopped at one access; returns the access, if the emit came to it."""
    clock = stores.clock
    clock.autojump = False
    mode, before = MODES[what]
    store = SteppedStore(stores.store().inner, clock, None)
    ended = []
    rt = await stores.enter(staying(), store=store)
    earlier = {run.run_id for run in (await rt.find_runs(limit=500)).items}
    await rt.register(leaving(mode), on_complete=lambda result: ended.append(result.run_id))
    for n in range(before):
        await rt.emit("go", n=n)
        await clock.run_until_idle()
    store.stop = ("emitter", *stop)
    emitting = begin("emitter", rt.emit("go", n=before))
    await clock.run_until_idle()
    going = begin("leaver", rt.deregister("leaving", active=active))
    await clock.run_until_idle()
    store.let_on()
    await clock.run_until_idle()
    said = f"{what}, {active}, stopped {stop[1]} access {stop[0]}, {store.stopped_at}"
    assert going.done(), said
    lines = {line.workflow_id: line for line in (await emitting).lines}
    assert lines["staying"].verdict is Verdict.STARTED, said
    assert (await rt.wait(lines["staying"].run_id)).status is RunStatus.COMPLETED, said
    await rt.register(leaving(mode), on_complete=lambda result: ended.append(result.run_id))
    await clock.run_until_idle()
    line = lines.get("leaving")
    for round in range(before + 1):  # each run that is there gets its turn, and comes to its end
        for n in range(before + 1):
            await rt.emit("answer", n=n, round=round)
        await clock.run_until_idle()
    found = (await rt.find_runs(workflow="leaving", limit=500)).items
    runs = [run for run in found if run.run_id not in earlier]
    assert {run.status for run in runs} <= {RunStatus.COMPLETED, RunStatus.ABORTED}, (said, runs)
    assert sorted(ended) == sorted(run.run_id for run in runs), (said, ended)
    if line is not None and line.verdict in (Verdict.STARTED, Verdict.QUEUED, Verdict.REPLACED):
        status = (await rt.get_run(line.run_id)).status
        taken_out = active == "abort" and status is RunStatus.ABORTED
        assert status is RunStatus.COMPLETED or taken_out, (said, status)
    [(load, _)] = await rt.store.read_loads([("leaving", "")])
    assert load.idle, (said, load)
    await rt.stop(drain=0)
    return store.stopped_at


@pytest.mark.parametrize("active", ["finish", "abort"])
@pytest.mark.parametrize("what", MODES)
async def test_taken_out_while_an_event_is_decided(stores, what, active):
    """The emitter gets its receipt, other workflows their runs; what was accepted runs once the workflow is back."""
    for number in itertools.count(1):
        access = await leave_at(stores, what, active, (number, "after"))
        if access is None:
            break
        if access in SteppedStore.WRITES:
            await leave_at(stores, what, active, (number, "before"))
