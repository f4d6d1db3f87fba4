"""Runs whose steps retry, poll and go through elements come to the same end, wherever their process dies or stops.

Any mix of such steps, waits short and long, durabilities and interruptions: the run is completed in the end with the
state of an undisturbed one, attempts have the numbers that follow each other, and nothing of a visit is left behind.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from support import Stores

from poundlock import Pending, Retry, RetryAfter, StepContext, Workflow
from poundlock.testing import VirtualClock

KINDS = ("plain", "retry", "poll", "each", "each with retry")
STEPS = st.tuples(st.sampled_from(KINDS), st.sampled_from([0, 5, 90, 7200]), st.integers(0, 3))
STAGES = st.lists(st.lists(STEPS, min_size=1, max_size=3), min_size=1, max_size=3)
INTERRUPTIONS = st.lists(
    st.tuples(st.sampled_from([0.5, 3, 50, 100, 4000, 8000]), st.sampled_from(["crash", "stop"])), max_size=5
)
ITEMS = list(range(7))


class Made:
    """A workflow of such stages, and what its steps have seen."""

    def __init__(self, stages, level):
        self.stages = stages
        self.level = level
        self.attempts = {}
        self.checks = {}
        self.jobs = set()

    def workflow(self):
        wf = Workflow("w", durability=self.level)
        wf.on("begin")
        for place, steps in enumerate(self.stages):
            for number, (kind, delay, times) in enumerate(steps):
                self._add(wf, f"stage{place}", f"s{place}_{number}", kind, delay, times)
        return wf

    def _add(self, wf, stage, name, kind, delay, times):
        async def plain():
            return {name: 1}

        async def retried(ctx: StepContext):
            self.attempts.setdefault(name, []).append(ctx.attempt)
            if ctx.attempt <= times:
                raise RetryAfter(delay)
            return {name: 1}

        async def check(job):
            self.jobs.add(str(job))
            self.checks[name] = self.checks.get(name, 0) + 1
            return Pending() if self.checks[name] <= times else {name: 1}

        async def element(item, ctx: StepContext):
            if kind == "each with retry" and item % 3 == 0 and ctx.attempt <= times:
                raise RetryAfter(delay)
            return item * 2

        async def submit():
            return [name]

        if kind == "plain":
            wf.step(plain, id=name, stage=stage)
        elif kind == "retry":
            wf.step(retried, id=name, stage=stage, retry=Retry(4))
        elif kind == "poll":
            wf.step(submit, id=name, stage=stage, poll=check, every=max(1, delay))
        else:
            retry = Retry(4) if kind == "each with retry" else None
            wf.step(element, id=name, stage=stage, each="items", limit=2, retry=retry)

    def expected(self):
        state = {"items": ITEMS}
        for place, steps in enumerate(self.stages):
            for number, (kind, _, _) in enumerate(steps):
                state[f"s{place}_{number}"] = [item * 2 for item in ITEMS] if kind.startswith("each") else 1
        return state


async def check(made, kind, interruptions):
    clock = VirtualClock(autojump=False)
    with tempfile.TemporaryDirectory() as folder:
        place = Stores(kind, Path(folder), clock)
        try:
            rt = await place.enter(made.workflow())
            [run_id] = (await rt.emit("begin", {"items": ITEMS})).run_ids
            for seconds, how in interruptions:
                await clock.run_for(seconds)
                if how == "crash":
                    await place.crash(rt)
                else:
                    stopping = asyncio.create_task(rt.stop(drain=1))
                    await clock.run_for(20)
                    await stopping
                rt = await place.enter(made.workflow())
            clock.autojump = True
            result = await rt.wait(run_id)
            assert (result.status, dict(result.state)) == ("completed", made.expected())
            assert (await rt.store.load(run_id)).waits == ()
        finally:
            await place.close()
            clock.close()
    for numbers in made.attempts.values():
        if made.level == "stage":
            assert numbers == sorted(numbers), numbers
        assert max(numbers) <= 4


@settings(max_examples=40)
@given(
    stages=STAGES,
    level=st.sampled_from(["stage", "step", "async", "exit"]),
    kind=st.sampled_from(["memory", "sqlite"]),
    interruptions=INTERRUPTIONS,
)
def test_the_end_is_that_of_an_undisturbed_run(stages, level, kind, interruptions):
    """Wherever the process dies or stops, the run comes to the same state, and leaves nothing of its stages behind."""
    asyncio.run(check(Made(stages, level), kind, interruptions))
