"""Whoever follows a run, from whenever on and however interrupted: each entry comes once, and none is missing."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from poundlock import StepContext, Terminate, Workflow, WorkflowRuntime
from poundlock.stores.sqlite import SqliteStore
from poundlock.testing import VirtualClock, run_until_idle

moves = st.lists(
    st.one_of(
        st.tuples(st.just("follow"), st.integers(0, 30)),
        st.tuples(st.just("interrupt"), st.integers(0, 5)),
        st.tuples(st.just("close"), st.integers(0, 5)),
        st.tuples(st.just("take"), st.integers(0, 5)),
        st.tuples(st.just("round"), st.integers(1, 4)),
        st.tuples(st.just("idle"), st.just(0)),
    ),
    max_size=25,
)


class Pupil:
    """A follower that is read by one task after another, and what it got."""

    def __init__(self, rt, run_id, after):
        self.after = after
        self.follower = rt.follow(run_id, after)
        self.got = []
        self.closed = False
        self.task = None

    def read(self):
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._read())

    async def _read(self):
        async for entry in self.follower:
            if not entry.live:
                self.got.append(entry)


async def play(moves, store):
    rounds = asyncio.Queue()
    wf = Workflow("w")
    wf.on("begin")

    @wf.step(then="go")
    async def go(ctx: StepContext, n: int = 0):
        ctx.progress(n)
        if await rounds.get() == "end":
            return Terminate("done")
        return {"n": n + 1}

    async with VirtualClock() as clock, WorkflowRuntime(wf, store=store, clock=clock) as rt:
        run_id = (await rt.emit("begin")).run_ids[0]
        pupils = []
        for move, number in moves:
            pupil = pupils[number % len(pupils)] if pupils else None
            if move == "follow":
                pupils.append(Pupil(rt, run_id, number))
                pupils[-1].read()
            elif move == "round":
                for _ in range(number):
                    rounds.put_nowait("on")
            elif move == "idle":
                await run_until_idle(clock)
            elif pupil is None:
                continue
            elif move == "interrupt":
                pupil.task.cancel()
            elif move == "close":
                await pupil.follower.aclose()
                pupil.closed = True
            else:
                pupil.read()
        for pupil in pupils:
            await asyncio.wait([pupil.task]) if pupil.task.cancelling() else None
            pupil.read()
        rounds.put_nowait("end")
        assert (await rt.wait(run_id)).result == "done"
        whole = list((await rt.timeline(run_id)).entries)
        for pupil in pupils:
            await asyncio.wait([pupil.task])
            assert pupil.got == whole[pupil.after :][: len(pupil.got) if pupil.closed else None]
        assert not rt._core.watching.feeds
        assert not rt._core.waiters._end


@given(moves)
@settings(max_examples=60)
def test_in_memory(moves):
    """With commits that are durable at once."""
    asyncio.run(play(moves, None))


@given(moves)
@settings(max_examples=25)
def test_in_a_file(tmp_path_factory, moves):
    """With commits that take their time."""
    path = tmp_path_factory.mktemp("runs") / "runs.db"
    asyncio.run(play(moves, SqliteStore(path, synchronous="OFF")))
