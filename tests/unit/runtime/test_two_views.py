"""`watch` and `get_run` show one run: at every moment at which nothing is on its way, they agree."""

from __future__ import annotations

import asyncio
from dataclasses import fields

import pytest
from pydantic import BaseModel

from poundlock import Delay, Pipeline, RunInfo, RunStatus, Stage, StateRef, Step, Workflow, WorkflowRuntime
from poundlock.testing import run_until_idle


class Looked:
    """Compares the two views of a run whenever it is asked to, and keeps what they said."""

    def __init__(self, rt):
        self.rt = rt
        self.seen = []
        self.differing = []

    async def __call__(self, run_id, label):
        stored = await self.rt.get_run(run_id)
        watched = self.rt.watch("wf", run_id)
        if watched is not None:
            others = [self.rt.registry("wf").get(run_id), *(i for i in self.rt.list_all_runs() if i.run_id == run_id)]
            for view in [watched, *others]:
                self.differing += [
                    (label, name, getattr(view, name), getattr(stored, name))
                    for name in (field.name for field in fields(RunInfo))
                    if getattr(view, name) != getattr(stored, name)
                ]
        self.seen.append((label, stored.status, watched is not None))


async def enter(runtime, wf, any_store, **options):
    rt = await runtime(store=any_store, **options)
    look = Looked(rt)

    async def hook(ctx):
        await look(ctx.run_id, "on_resume")

    async def ended(result):
        await look(result.run_id, "on_complete")

    await rt.register(wf, on_resume=hook, on_complete=ended)
    return rt, look


def asked(timeout=None, on_timeout="fail", model=None):
    wf = Workflow("wf", state=model)
    wf.look = None

    @wf.on("asked")
    @wf.step
    async def first(ctx):
        await wf.look(ctx.run_id, "in the first stage")
        return {"n": 1}

    wf.wait("answer", on="answered", correlate={"id": StateRef("id")}, timeout=timeout, on_timeout=on_timeout)

    @wf.step
    async def second(ctx):
        await wf.look(ctx.run_id, "behind the wait")
        return {"n": 2}

    @wf.step
    async def third(ctx):
        await wf.look(ctx.run_id, "in the last stage")

    return wf


@pytest.mark.parametrize("window", [0.0, 60.0], ids=["from the row", "from memory"])
@pytest.mark.parametrize("how", ["hand", "event", "buffered", "time"])
async def test_around_a_pause(runtime, any_store, how, window):
    """In the stages before and behind a wait, at the wait, in on_resume and at the end, however it is answered."""
    wf = asked(timeout=600 if how == "time" else None, on_timeout="resume")
    rt, wf.look = await enter(runtime, wf, any_store, pause_window=window)
    if how == "buffered":
        wf.look, look = Buffering(rt, wf.look), wf.look
    else:
        look = wf.look
    receipt = await rt.emit("asked", id=1)
    [run_id] = receipt.run_ids
    if how != "buffered":
        await receipt.results()
        await look(run_id, "paused")
        [wait] = (await rt.get_run(run_id)).waits
        assert wait.parked
    if how == "hand":
        await rt.resume(run_id, {"by": "me"})
    elif how == "event":
        await rt.emit("answered", id=1)
    result = await rt.wait(run_id)
    await look(run_id, "ended")
    assert result.status is RunStatus.COMPLETED
    assert look.differing == []
    labels = [label for label, _, _ in look.seen]
    assert labels[-5:] == ["on_resume", "behind the wait", "in the last stage", "on_complete", "ended"]


class Buffering:
    """Looks, and has an event come for the wait before the run is there."""

    def __init__(self, rt, look):
        self.rt = rt
        self.look = look

    async def __call__(self, run_id, label):
        if label == "in the first stage":
            await self.rt.emit("answered", id=1)
        await self.look(run_id, label)


def staged(*stages, model=None):
    return Workflow("wf", pipelines=[Pipeline("main", list(stages))], state=model)


async def test_a_running_run_is_not_shown_as_paused(runtime, any_store):
    """Behind an answered wait the run is running: neither view says that it is still paused at the wait."""
    wf = asked()
    shown = []

    async def look(run_id, label):
        shown.append(
            [wait.parked for view in (rt.watch("wf", run_id), await rt.get_run(run_id)) for wait in view.waits]
        )

    wf.look = look
    rt = await runtime(wf, store=any_store)
    receipt = await rt.emit("asked", id=1)
    await receipt.results()
    await rt.emit("answered", id=1)
    await rt.wait(receipt.run_ids[0])
    assert not any(parked for each in shown for parked in each)


@pytest.mark.parametrize("kind", ["invoke", "emit"])
@pytest.mark.parametrize("timeline", [True, False])
async def test_through_delays_jumps_and_loops(runtime, any_store, vclock, kind, timeline):
    """In every stage of a run that jumps back, sleeps and is signalled, and while it sleeps."""
    here = {}

    async def step(ctx):
        await here["look"](ctx.run_id, ctx.stage_id)
        if ctx.stage_id == "two":
            await here["rt"].signal(ctx.run_id, {"told": True})
            await here["look"](ctx.run_id, "signalled")
        return {"rounds": ctx.state.get("rounds", 0) + 1}

    def way(state):
        return "one" if state["rounds"] < 4 else Delay(seconds=60)

    wf = staged(
        Stage("one", [Step("s", step)]),
        Stage("quiet", router="two"),
        Stage("two", [Step("s", step)], router=way),
        Stage("end", [Step("s", step)]),
    )
    wf.on("go")
    rt, look = await enter(runtime, wf, any_store, timeline=timeline)
    here |= {"look": look, "rt": rt}
    vclock.autojump = False
    if kind == "emit":
        [run_id] = (await rt.emit("go")).run_ids
    else:
        run_id = "r1"
        running = asyncio.ensure_future(rt.invoke("wf", run_id=run_id))
    await run_until_idle(vclock)
    await look(run_id, "asleep")
    vclock.autojump = True
    await rt.wait(run_id)
    if kind == "invoke":
        await running
    assert look.differing == []
    assert ("asleep", "delayed", True) in look.seen
    assert [label for label, _, _ in look.seen][-2:] == ["end", "on_complete"]


@pytest.mark.parametrize("way", ["fails", "aborts"])
async def test_at_a_bad_end(runtime, any_store, way):
    """In on_complete of a run that failed or was aborted, with its error."""

    async def step(ctx):
        if way == "fails":
            raise ValueError("no")
        await rt.abort(ctx.run_id, "enough")

    rt, look = await enter(runtime, staged(Stage("one", [Step("s", step)])), any_store)
    result = await rt.run("wf")
    assert look.differing == []
    [(label, status, watched)] = look.seen
    assert (label, status, watched) == ("on_complete", result.status, True)
    assert (await rt.get_run(result.run_id)).error == result.error


class Strict(BaseModel):
    n: int = 0
    id: int = 0
    kind: int = 0


async def test_an_unfit_state(runtime, any_store):
    """A run that is paused because its state does not fit its model shows its error in both views, and then none."""

    async def nothing(run_id, label):
        return None

    plain = asked()
    plain.look = nothing
    async with WorkflowRuntime(plain, store=any_store) as old:
        receipt = await old.emit("asked", id=1, kind="many")
        await receipt.results()
    wf = asked(model=Strict)
    rt, wf.look = await enter(runtime, wf, any_store)
    [run_id] = receipt.run_ids
    await rt.emit("answered", id=1)
    await run_until_idle(rt.clock)
    await wf.look(run_id, "unfit")
    unfit = await rt.get_run(run_id)
    await rt.resume(run_id, {"kind": 3})
    await wf.look(run_id, "ended")
    assert (unfit.status, unfit.error.code) == (RunStatus.PAUSED, "STATE_INVALID")
    assert wf.look.differing == []
