"""A run comes to rest, whatever its step does and whatever is asked meanwhile.

A step does a random sequence of nasty things (raises anything, cancels itself, takes it back, swallows cancellations,
hangs) in any kind of stage, under any request (none, abort, stop, time-out, failing sibling). The outcome is the
request's where the step was still at it, else the step's own; nobody waits for ever, and the slot is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_nasty import RAISES, throw

from poundlock import (
    Pipeline,
    Retry,
    RunFinished,
    RunStatus,
    Serialized,
    Stage,
    Step,
    Trigger,
    Workflow,
    WorkflowRuntime,
)
from poundlock.stores import MemoryStore
from poundlock.testing import VirtualClock

ACTS = st.lists(
    st.one_of(
        st.sampled_from(["cancel", "uncancel", "await", "swallow"]),
        st.sampled_from(sorted(RAISES)).map(lambda n: f"raise {n}"),
    ),
    max_size=4,
)
ENDS = st.sampled_from(["returns", "hangs", "is deaf"])
SHAPES = {
    "plain": {},
    "with retry": {"retry": Retry(2, backoff=0, on=(BaseException,))},
    "with time-out": {"timeout": 1000},
    "both": {"retry": Retry(2, backoff=0, on=(BaseException,)), "timeout": 1000},
    "per element": {"each": "items"},
    "per element, with retry": {"each": "items", "retry": Retry(2, backoff=0, on=(BaseException,))},
}
REQUESTS = ["none", "abort", "stop", "time-out", "stage's time-out", "sibling"]
HOURS = 3600 * 24


class Script:
    """A step that follows a script, and tells when it is at its end."""

    def __init__(self, acts, end):
        self.acts, self.end = acts, end
        self.at_end, self.left, self.let_go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self):
        try:
            return await self._follow()
        finally:
            self.left.set()

    async def _follow(self):
        swallowing = False
        for act in self.acts:
            task = asyncio.current_task()
            if act == "cancel":
                task.cancel()
            elif act == "uncancel":
                task.uncancel()
            elif act == "swallow":
                swallowing = True
            elif act == "await":
                try:
                    await asyncio.sleep(0)  # noqa: TID251 - a cancellation of its own is delivered here
                except asyncio.CancelledError:
                    if not swallowing:
                        raise
            else:
                throw(act.removeprefix("raise "))
        if self.end == "hangs":
            await asyncio.sleep(0)  # noqa: TID251 - a cancellation of its own is delivered here, and ends it
            self.at_end.set()
            await self.let_go.wait()
        elif self.end == "is deaf":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # noqa: TID251 - a cancellation of its own is delivered here
            self.at_end.set()
            while not self.let_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.let_go.wait()
        return {"fine": True}


def workflow(work, shape, request, fails):
    options = dict(SHAPES[shape])
    if request == "time-out":
        options["timeout"] = 5
    steps = [Step("work", work, **options), *([Step("other", fails)] if request == "sibling" else [])]
    stage = Stage("one", steps, timeout=5 if request == "stage's time-out" else None)
    return Workflow("wf", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", [stage])], mode=Serialized())


async def good():
    return {"fine": True}


async def tried(acts, end, shape, request, store, clock):
    """Run the script under the request; raises if anything is not as it should be."""
    work, ready = Script(acts, end), asyncio.Event()

    async def fails():
        await ready.wait()
        raise ValueError("the sibling's reason")

    async def act():
        return await (work() if not over.is_set() else good())

    over = asyncio.Event()
    stopped = False
    async with WorkflowRuntime(workflow(act, shape, request, fails), store=store, clock=clock) as rt:
        run_id = (await rt.emit("go", items=["the only one"])).run_ids[0]
        waiting = asyncio.ensure_future(rt.wait(run_id, HOURS))
        places = [asyncio.ensure_future(event.wait()) for event in (work.at_end, work.left)]
        await asyncio.wait([waiting, *places], return_when=asyncio.FIRST_COMPLETED)
        held = work.at_end.is_set() and not work.left.is_set()  # nothing but the request can end the run
        for place in places:
            place.cancel()
        over.set()
        ready.set()
        if request == "abort" and held:
            with contextlib.suppress(RunFinished):
                await rt.abort(run_id)
        elif request == "stop" and held:
            stopped = True
            await rt.stop(drain=0)
        elif request == "none" and held:
            work.let_go.set()
        result = None if stopped else await waiting
        if stopped:
            await asyncio.wait([waiting])
            assert waiting.exception() is not None
        elif held and request == "abort":
            assert result.status is RunStatus.ABORTED
        elif held and "time-out" in request:
            expected = "StepTimeout"
            # Where Retry tries once more, the second attempt is a good one.
            if request == "time-out" and "retry" in SHAPES[shape]:
                assert result.status is RunStatus.COMPLETED or result.error.type == expected
            else:
                assert result.error.type == expected
        elif held and request == "sibling":
            assert (result.error.step, result.error.message) == ("other", "the sibling's reason")
        else:
            assert result.status in (RunStatus.COMPLETED, RunStatus.FAILED)
            if result.status is RunStatus.FAILED and request != "sibling":
                assert result.error.stage == "one"
        if not stopped and request != "sibling":  # the slot is free
            following = (await rt.emit("go", items=["the only one"])).run_ids[0]
            assert (await rt.wait(following, HOURS)).status is RunStatus.COMPLETED
    work.let_go.set()
    if stopped:
        async with WorkflowRuntime(workflow(good, "plain", "none", fails), store=store, clock=clock) as rt:
            assert (await rt.wait(run_id, HOURS)).status is RunStatus.COMPLETED
    await clock.run_until_idle()


def in_memory():
    return contextlib.nullcontext(MemoryStore())


@contextlib.contextmanager
def in_sqlite():
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/runs.db"


@pytest.mark.parametrize(("place", "examples"), [(in_memory, 100), (in_sqlite, 25)], ids=["memory", "sqlite"])
@pytest.mark.parametrize("request_", REQUESTS)
def test_a_run_comes_to_rest_with_the_outcome_that_was_asked_for(request_, place, examples):
    """Whatever the step does: the request's outcome where it was still at it, else its own; and the slot is free."""

    @settings(max_examples=examples)
    @given(acts=ACTS, end=ENDS, shape=st.sampled_from(sorted(SHAPES)))
    def check(acts, end, shape):
        async def main():
            async with VirtualClock() as clock:
                await tried(acts, end, shape, request_, store, clock)

        with place() as store:
            asyncio.run(main())

    check()
