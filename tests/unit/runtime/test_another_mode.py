"""A workflow is registered again with another mode, while runs of it are queued, paused, and wait for a slot."""

from __future__ import annotations

import itertools

import pytest

from poundlock import Exclusive, RunStatus, Serialized, SingletonLoop, StateRef, Transient, Verdict, Workflow

MODES = {
    "transient of 1": Transient(1),
    "transient of 3": Transient(3, holds_slot_while_paused=True),
    "no room": Transient(1, 0),
    "serialized": Serialized(),
    "singleton": SingletonLoop("drop"),
    "replace": SingletonLoop("replace"),
    "exclusive": Exclusive("reject"),
    "queue of one": Exclusive("queue_single"),
}
BEFORE = ("transient of 1", "transient of 3", "serialized")
"""Modes with a queue: what waits in it is what the next mode finds."""


def asking(mode, active):
    wf = Workflow("w", mode=mode)

    @wf.on("go")
    @wf.step
    async def first(n):
        active.append(n)
        return {"first": n}

    wf.wait("answer", on="answer", correlate={"n": StateRef("n")})
    return wf


@pytest.mark.parametrize("crash", [False, True], ids=["stop", "crash"])
@pytest.mark.parametrize(("before", "after"), [pair for pair in itertools.product(BEFORE, MODES) if pair[0] != pair[1]])
async def test_what_is_queued_runs_under_the_next_mode(stores, before, after, crash):
    """Nothing that was accepted is dropped, whatever the new mode would do with it; all run, in order, and end."""
    began = []
    rt = await stores.enter(asking(MODES[before], began))
    receipts = [await rt.emit("go", n=n) for n in range(6)]
    await stores.clock.run_until_idle()
    assert [line.verdict for receipt in receipts for line in receipt.lines].count(Verdict.QUEUED) >= 3
    await (stores.crash(rt) if crash else rt.stop())
    rt = await stores.enter(asking(MODES[after], began))
    await stores.clock.run_until_idle()
    for n in range(6):
        await rt.emit("answer", n=n)
        await stores.clock.run_until_idle()
    runs = [run_id for receipt in receipts for run_id in receipt.run_ids]
    assert {(await rt.wait(run_id)).status for run_id in runs} == {RunStatus.COMPLETED}
    assert began == sorted(began)
    assert sorted(set(began)) == list(range(6))
    assert len(began) == 6
    [(load, _)] = await rt.store.read_loads([("w", "")])
    assert load.idle
    [line] = (await rt.emit("go", n=7)).lines
    assert line.verdict is Verdict.STARTED
