"""Events that a run's wait refused when it used them are dead letters, and can be offered to that run again."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from support import until_crash

from poundlock import Event, Workflow
from poundlock.testing import run_until_idle


class Gate:
    """A workflow whose wait takes an event in only while nothing is broken; earlier ones are buffered."""

    def __init__(self):
        self.broken = True
        self.reached, self.through = asyncio.Event(), asyncio.Event()

    def patch(self, event):
        if self.broken:
            raise ValueError("it is broken")
        return {"by": event.payload["by"]}

    def workflow(self):
        wf = Workflow("gate")
        wf.on("begin")

        @wf.step
        async def first():
            self.reached.set()
            await self.through.wait()

        wf.wait("gate", on="answer", patch=self.patch)

        @wf.step
        async def last(state):
            return {"end": state["by"]}

        return wf


async def refused(rt, gate):
    """Begin a run, have it refuse an event that came before it was paused, and return its id and the letter."""
    [line] = (await rt.emit("begin")).lines
    await gate.reached.wait()
    receipt = await rt.emit(Event("answer", {"by": "Ada"}, id="answer-1"))
    assert [line.verdict for line in receipt.lines] == ["buffered"]
    gate.through.set()
    assert (await rt.wait(line.run_id, until="rest")).status == "paused"
    [letter] = await rt.dead_letters()
    return line.run_id, letter


async def test_it_keeps_the_event_and_the_reason(stores, caplog):
    """The letter has the whole event, the run, the wait and the error; it is logged, and counted."""
    gate = Gate()
    rt = await stores.enter(gate.workflow())
    run_id, letter = await refused(rt, gate)
    assert (letter.run_id, letter.wait, letter.error) == (run_id, "gate", "ValueError: it is broken")
    assert (letter.event.type, letter.event.id, dict(letter.event.payload)) == ("answer", "answer-1", {"by": "Ada"})
    assert letter.to_dict()["wait"] == "gate"
    assert rt.statistics()["dead_letters"] == 1
    assert "is a dead letter: a wait of run" in caplog.text
    assert "wait:refused" in (await rt.timeline(run_id)).types()


@pytest.mark.parametrize("restart", [False, True])
async def test_a_replay_offers_it_to_that_run_again(stores, restart):
    """Deduplication does not hold it up, no other run gets it, and afterwards the letter is gone."""
    gate = Gate()
    rt = await stores.enter(gate.workflow())
    run_id, letter = await refused(rt, gate)
    if restart:
        await stores.crash(rt)
        rt = await stores.enter(gate.workflow())
    [other] = (await rt.emit("begin")).lines
    await rt.wait(other.run_id, until="rest")
    gate.broken = False
    await rt.replay(letter.id)
    result = await rt.wait(run_id)
    assert (result.status, result.state["end"]) == ("completed", "Ada")
    await run_until_idle(stores.clock)
    assert await rt.dead_letters() == []
    assert (await rt.get_run(other.run_id)).status == "paused"
    again = await rt.emit(Event("answer", {"by": "Ada"}, id="answer-1"))
    assert {line.verdict for line in again.lines} == {"duplicate"}


async def test_what_is_still_refused_is_a_dead_letter_again(stores):
    """The same letter, with its wait, so that it can be replayed once more."""
    gate = Gate()
    rt = await stores.enter(gate.workflow())
    run_id, letter = await refused(rt, gate)
    await rt.replay(letter.id)
    await run_until_idle(stores.clock)
    [back] = await rt.dead_letters()
    assert (back.id, back.wait, back.attempts) == (letter.id, "gate", 1)
    assert "it is broken" in back.error
    gate.broken = False
    await rt.replay(letter.id)
    assert (await rt.wait(run_id)).status == "completed"


async def test_a_run_that_does_not_wait_any_more(stores):
    """A letter of a run that has ended stays one when it is replayed: it is not lost."""
    gate = Gate()
    rt = await stores.enter(gate.workflow())
    run_id, letter = await refused(rt, gate)
    await rt.resume(run_id, {"by": "Eve"})
    await rt.replay(letter.id)
    await run_until_idle(stores.clock)
    [back] = await rt.dead_letters()
    assert (back.id, f"run '{run_id}' does not wait for this event now" in back.error) == (letter.id, True)


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_crash_at_any_commit(stores, where):
    """Whichever commit the process dies at, there is one letter for the refused event, and the run waits."""
    number = 0
    while True:
        number += 1
        gate = Gate()
        gate.through.set()
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(gate.workflow(), store=store)

        async def work(rt=rt, number=number):
            await rt.invoke("gate", run_id=f"run-{number}", until="accepted")
            await rt.emit(Event("answer", {"by": "Ada"}, id=f"answer-{number}"))
            await run_until_idle(stores.clock)

        over = await until_crash(store, work())
        await stores.crash(rt)
        rt = await stores.enter(gate.workflow())
        await run_until_idle(stores.clock)
        letters = [letter for letter in await rt.dead_letters() if letter.run_id == f"run-{number}"]
        assert len(letters) <= 1, number
        if letters:
            gate.broken = False
            await rt.replay(letters[0].id)
            assert (await rt.wait(f"run-{number}")).state["end"] == "Ada"
        await rt.stop()
        if over:
            return


async def test_it_survives_in_the_file(stores):
    """In SQLite the letter is a row of the outbox, written with the pause."""
    if stores.kind != "sqlite":
        return
    gate = Gate()
    rt = await stores.enter(gate.workflow())
    await refused(rt, gate)
    await rt.stop()
    with closing(sqlite3.connect(stores.path)) as file, file:
        [(error, dead_at)] = file.execute("SELECT error, dead_at FROM outbox").fetchall()
    assert '"wait":"gate"' in error
    assert dead_at is not None
