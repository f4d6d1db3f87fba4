"""What a retry keeps of the stage that failed: steps, elements, jobs, children, records of durable functions."""

from __future__ import annotations

import pytest

from poundlock import (
    NotMendable,
    Pending,
    Pipeline,
    Retry,
    Stage,
    Step,
    Terminate,
    Trigger,
    Workflow,
    workflow,
)
from poundlock.testing import run_until_idle


def one_stage(*steps, **options):
    """A workflow of one stage."""
    stages = [Stage("work", list(steps))]
    return Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)], **options)


async def begin(rt, **payload):
    [result] = await (await rt.emit("begin", payload)).results()
    assert result.status == "failed"
    return result.run_id


class Broken:
    """Something that fails as long as it is broken, and notes its calls."""

    def __init__(self):
        self.broken = True
        self.calls = []

    def check(self, name):
        self.calls.append(name)
        if self.broken:
            raise ValueError(f"{name} is broken")


# ------------------------------------------------------------------------------------------------------ steps, elements
@pytest.mark.parametrize(("durability", "again"), [("step", 1), ("stage", 2)])
async def test_a_step_beside_the_failed_one(stores, durability, again):
    """With durability "step" a step that had finished is not called again; else the whole stage runs again."""
    thing = Broken()
    fails = Broken()

    async def done():
        thing.calls.append("done")
        return {"done": thing.calls.count("done")}

    async def failing(ctx):
        await ctx.sleep(1)  # its sibling is kept by then
        fails.check("failing")
        return {"failing": True}

    rt = await stores.enter(one_stage(Step("a", done), Step("b", failing), durability=durability))
    run_id = await begin(rt)
    fails.broken = False
    await rt.retry(run_id)
    result = await rt.wait(run_id)
    assert (result.status, dict(result.state)) == ("completed", {"done": again, "failing": True})
    assert thing.calls.count("done") == again


@pytest.mark.parametrize("timeline", [True, False])
async def test_elements_that_are_done(stores, timeline):
    """Elements whose results were kept are not worked on again; the one that failed is."""
    thing = Broken()

    async def work(item):
        if item == 3:
            thing.check(item)
        else:
            thing.calls.append(item)
        return item * 10

    rt = await stores.enter(
        one_stage(Step("s", work, each="items", into="out", limit=1), durability="step"), timeline=timeline
    )
    run_id = await begin(rt, items=[1, 2, 3, 4])
    await rt.stop()
    rt = await stores.enter(
        one_stage(Step("s", work, each="items", into="out", limit=1), durability="step"), timeline=timeline
    )
    thing.broken = False
    await rt.retry(run_id)
    result = await rt.wait(run_id)
    assert (result.state["out"], thing.calls) == ([10, 20, 30, 40], [1, 2, 3, 3, 4])


async def test_attempts_count_anew(stores):
    """Attempts that were kept, in memory or over a park, count no more: the step has all of them again."""
    calls = []

    async def work(ctx):
        calls.append(ctx.attempt)
        if len(calls) < 4:
            raise ValueError("no")
        return {"ok": True}

    rt = await stores.enter(one_stage(Step("s", work, retry=Retry(2, backoff=3600)), durability="step"))
    [line] = (await rt.emit("begin")).lines
    assert (await rt.wait(line.run_id)).status == "failed"
    await rt.retry(line.run_id)
    assert (await rt.wait(line.run_id)).status == "completed"
    assert calls == [1, 2, 1, 2]


# ----------------------------------------------------------------------------------------------------------------- jobs
class Job:
    """Something slow that is polled; notes what was begun and asked for."""

    def __init__(self, checks):
        self.checks = checks
        self.begun = 0
        self.asked = 0

    async def submit(self):
        self.begun += 1
        return {"id": self.begun}

    async def check(self, job):
        self.asked += 1
        return Pending() if self.asked < self.checks else {"job": job["id"]}


async def test_a_job_beside_the_failed_step_goes_on(stores):
    """What another step of the stage had begun is asked for further, with its whole time again; it is begun once."""
    job, fails = Job(3), Broken()

    async def failing(ctx):
        await ctx.sleep(90)
        fails.check("failing")

    rt = await stores.enter(
        one_stage(
            Step("slow", job.submit, poll=job.check, every=60, max_wait=150), Step("b", failing), durability="step"
        )
    )
    [line] = (await rt.emit("begin")).lines
    assert (await rt.wait(line.run_id)).status == "failed"
    assert (job.begun, job.asked) == (1, 1)
    await run_until_idle(stores.clock)
    fails.broken = False
    await rt.retry(line.run_id)
    result = await rt.wait(line.run_id)
    assert (result.status, result.state["job"], job.begun) == ("completed", 1, 1)


async def test_a_job_that_took_too_long_is_begun_again(stores):
    """The failed step's own job is no more: the retry begins another one."""
    job = Job(5)
    rt = await stores.enter(one_stage(Step("slow", job.submit, poll=job.check, every=60, max_wait=130)))
    [line] = (await rt.emit("begin")).lines
    result = await rt.wait(line.run_id)
    assert (result.error.code, job.begun) == ("STEP_TIMEOUT", 1)
    job.checks = job.asked + 1
    await rt.retry(line.run_id)
    result = await rt.wait(line.run_id)
    assert (result.status, result.state["job"]) == ("completed", 2)


# ------------------------------------------------------------------------------------------------------------- children
def forking(thing, calls, **options):
    """A workflow that forks two children: one works at once, the other fails while `thing` is broken."""
    wf = Workflow("parent")
    wf.on("begin")

    @wf.step
    async def first():
        calls.append("first")

    good = wf.pipeline("good")

    @good.step
    async def works():
        calls.append("works")
        return Terminate("good")

    bad = wf.pipeline("bad")

    @bad.step
    async def fails(ctx):
        await ctx.sleep(5)
        thing.check("fails")
        return Terminate("bad")

    wf.fork(good, bad, into="both", **options)

    @wf.step
    async def end():
        calls.append("end")

    return wf


@pytest.mark.parametrize("timeline", [True, False])
async def test_children_that_are_completed_are_kept(stores, timeline):
    """A retry of the parent starts those children anew that were not completed; the results of the others stay."""
    thing, calls = Broken(), []
    rt = await stores.enter(forking(thing, calls), timeline=timeline)
    run_id = await begin(rt)
    before = {run.run_id for run in (await rt.find_runs(limit=50)).items if run.parent_id == run_id}
    thing.broken = False
    await rt.retry(run_id)
    result = await rt.wait(run_id)
    assert (result.status, result.state["both"]) == ("completed", {"good": "good", "bad": "bad"})
    assert (calls, thing.calls) == (["first", "works", "end"], ["fails", "fails"])
    after = {run.run_id for run in (await rt.find_runs(limit=50)).items if run.parent_id == run_id}
    assert (len(before), len(after)) == (2, 3)


async def test_a_child_is_mended_by_its_parent(stores):
    """A child has given its result to its parent, so it is not retried itself; it can be forked."""
    thing, calls = Broken(), []
    rt = await stores.enter(forking(thing, calls))
    run_id = await begin(rt)
    [child] = [run for run in (await rt.find_runs(limit=50)).items if run.pipeline_id == "bad"]
    for mend in (rt.retry(child.run_id), rt.rerun(child.run_id, "fails")):
        with pytest.raises(NotMendable, match=f"is a child of run '{run_id}'"):
            await mend
    thing.broken = False
    forked = await rt.fork(child.run_id, "fails")
    assert (forked.parent_id, forked.lineage) == (None, (run_id, child.run_id))
    result = await rt.wait(forked.run_id)
    assert (result.status, result.result) == ("completed", "bad")
    assert (await rt.get_run(run_id)).status == "failed"


async def test_a_rerun_begins_its_stage_clean(stores):
    """A rerun keeps nothing of the former visit: all children are started anew."""
    thing, calls = Broken(), []
    rt = await stores.enter(forking(thing, calls))
    run_id = await begin(rt)
    thing.broken = False
    await rt.rerun(run_id, "both")
    assert (await rt.wait(run_id)).status == "completed"
    assert calls == ["first", "works", "works", "end"]


# ---------------------------------------------------------------------------------------------------- durable functions
async def test_a_durable_function_goes_on_with_its_record(stores):
    """What is on record is not done again; the operation that the function failed with is tried again."""
    thing, calls = Broken(), []

    async def good():
        calls.append("good")
        return len(calls)

    async def bad():
        thing.check("bad")
        return "mended"

    @workflow("durable", on="begin")
    async def durable(step):
        one = await step.run(good)
        await step.sleep(3600)
        two = await step.run(bad, key="bad")
        return [one, two]

    rt = await stores.enter(durable)
    [line] = (await rt.emit("begin")).lines
    result = await rt.wait(line.run_id)
    assert (result.status, result.error.step) == ("failed", "bad")
    now = stores.clock.now()
    await rt.stop()
    rt = await stores.enter(durable)
    thing.broken = False
    await rt.retry(line.run_id)
    result = await rt.wait(line.run_id)
    assert (result.status, result.result, calls) == ("completed", [1, "mended"], ["good"])
    assert stores.clock.now() - now < 3600, "its sleep is on record"


async def test_what_was_given_up_beside_the_failure_is_tried_again(stores):
    """Operations that a gather gave up because another one had failed are not left out by the retry."""
    thing = Broken()

    async def bad():
        thing.check("bad")
        return "mended"

    @workflow("together", on="begin")
    async def together(step):
        async def slow():
            await step.sleep(3600, key="slow")
            return "slow"

        return await step.gather(slow(), step.run(bad, key="bad"))

    rt = await stores.enter(together)
    [line] = (await rt.emit("begin")).lines
    assert (await rt.wait(line.run_id)).status == "failed"
    thing.broken = False
    await rt.retry(line.run_id)
    result = await rt.wait(line.run_id)
    assert (result.status, result.result) == ("completed", ["slow", "mended"])


async def test_a_rerun_calls_a_durable_function_from_its_top(stores):
    """A rerun of a durable function has an empty record: everything is done again."""
    calls = []

    async def good():
        calls.append("good")
        return len(calls)

    @workflow("again", on="begin")
    async def again(step):
        return await step.run(good)

    rt = await stores.enter(again)
    [result] = await (await rt.emit("begin")).results()
    assert result.result == 1
    [stage] = (await rt.timeline(result.run_id)).path()
    await rt.rerun(result.run_id, stage)
    assert (await rt.wait(result.run_id)).result == 2


# --------------------------------------------------------------------------------------------------- why, and failures
async def test_the_reason_of_the_resume_is_kept(stores):
    """A stage behind a wait that failed sees the event that led to it, also in its retry."""
    thing, seen = Broken(), []
    wf = Workflow("waits")

    @wf.on("begin")
    @wf.step
    async def first():
        return {}

    wf.wait("gate", on="go")

    @wf.step
    async def last(ctx):
        seen.append((ctx.resume.reason, ctx.resume.event.payload["by"]))
        thing.check("last")

    rt = await stores.enter(wf)
    [line] = (await rt.emit("begin")).lines
    await rt.wait(line.run_id, until="rest")
    await rt.emit("go", by="Ada")
    assert (await rt.wait(line.run_id)).status == "failed"
    thing.broken = False
    await rt.retry(line.run_id)
    assert (await rt.wait(line.run_id)).status == "completed"
    assert seen == [("event", "Ada")] * 2


async def test_a_stage_that_handles_a_failure_sees_it_again(stores):
    """A failure on the failure's way: its retry enters that stage again, with the failure that led there."""
    thing, seen = Broken(), []
    wf = Workflow("handled", on_failure="clean")

    @wf.on("begin")
    @wf.step
    async def work():
        raise ValueError("the first one")

    @wf.aside
    async def clean(failure):
        seen.append((failure.message, failure.stage))
        thing.check("clean")

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    thing.broken = False
    await rt.retry(run_id)
    assert (await rt.wait(run_id)).status == "completed"
    assert seen == [("the first one", "work")] * 2


async def test_sums_of_calls_go_on(stores):
    """What steps have recorded with `ctx.record_call` is summed over all attempts of a run."""
    thing = Broken()
    wf = Workflow("calls")

    @wf.on("begin")
    @wf.step
    async def work(ctx):
        ctx.record_call(model="m", input_tokens=10)
        thing.check("work")

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    thing.broken = False
    await rt.retry(run_id)
    assert (await rt.wait(run_id)).metadata["calls"]["input_tokens"] == 20
