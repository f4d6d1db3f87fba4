"""Running a run again from one of its stages, in place or as a new run: the state is as it was there."""

from __future__ import annotations

import pytest
from pydantic import BaseModel
from support import Stores, until_crash

from poundlock import (
    InvalidDefinition,
    Jump,
    NotMendable,
    NotRegistered,
    RunNotFinished,
    RunNotFound,
    Serialized,
    StageGone,
    StateInvalid,
    Workflow,
    WorkflowRuntime,
)
from poundlock.runtime.commands import Fork
from poundlock.stores import MemoryStore
from poundlock.testing import run_until_idle


def counting(calls, *, gate=False, **options):
    """A workflow of three stages that count up `n`, with a wait before the last one if it has a gate."""
    wf = Workflow("count", **options)
    wf.on("begin")

    @wf.step
    async def one(state):
        calls.append("one")
        return {"n": 1, "only_one": {"deep": True}}

    @wf.step
    async def two(state):
        calls.append("two")
        return {"n": state["n"] + 1}

    if gate:
        wf.wait("gate", on="go")

    @wf.step
    async def three(state):
        calls.append("three")
        return {"n": state["n"] + 1, "extra": state.get("given")}

    return wf


async def completed(rt, **fields):
    [result] = await (await rt.emit("begin", **fields)).results()
    assert result.status == "completed", result.error
    return result.run_id


# ------------------------------------------------------------------------------------------------------------- rerun
@pytest.mark.parametrize("restart", [False, True])
async def test_the_state_is_as_it_was(stores, restart):
    """A rerun restores the state at the latest start of its stage, merges the patch, and runs all from there on."""
    calls = []
    rt = await stores.enter(counting(calls))
    run_id = await completed(rt)
    if restart:
        await rt.stop()
        rt = await stores.enter(counting(calls))
    info = await rt.rerun(run_id, "two", {"given": "patched"}, by="Ada", reason="once more")
    assert (info.run_id, info.attempt) == (run_id, 2)
    result = await rt.wait(run_id)
    assert dict(result.state) == {"n": 3, "only_one": {"deep": True}, "given": "patched", "extra": "patched"}
    assert calls == ["one", "two", "three", "two", "three"]
    timeline = await rt.timeline(run_id)
    assert (timeline.path(), timeline.state_at()) == (["one", "two", "three", "two", "three"], dict(result.state))
    [entry] = [entry for entry in timeline.entries if entry.type == "run:rerun"]
    assert (entry.payload["by"], entry.payload["stage"], entry.payload["earlier"]["status"]) == (
        "Ada",
        "two",
        "completed",
    )


async def test_a_loop_goes_back_to_its_last_round(stores):
    """Of several visits of a stage the latest one counts, those of earlier attempts too."""
    wf, seen = Workflow("loop"), []
    wf.on("begin")

    @wf.step
    async def turn(state):
        seen.append(state.get("n", 0))
        n = state.get("n", 0) + 1
        return Jump("turn", patch={"n": n}) if n < 3 else {"n": n}

    rt = await stores.enter(wf)
    run_id = await completed(rt)
    await rt.rerun(run_id, "turn")
    await rt.wait(run_id)
    assert seen == [0, 1, 2, 2]
    await rt.rerun(run_id, "turn", {"n": 0})
    assert (await rt.wait(run_id)).state["n"] == 3
    assert seen == [0, 1, 2, 2, 0, 1, 2]


async def test_new_keys_for_a_new_visit(stores):
    """What a rerun does is done anew, so its idempotency keys are others than those of the first time."""
    keys, wf = [], Workflow("keys")
    wf.on("begin")

    @wf.step
    async def work(ctx):
        keys.append(ctx.idempotency_key)

    rt = await stores.enter(wf)
    run_id = await completed(rt)
    await rt.rerun(run_id, "work")
    await rt.wait(run_id)
    assert len(set(keys)) == 2


async def test_only_from_a_stage_that_it_had_entered(stores):
    """A stage that the run never came to is refused with those it entered; an unknown one with near matches."""
    wf = Workflow("branch")
    wf.on("begin")

    @wf.step
    async def first():
        return Jump("last")

    @wf.step
    async def middle(): ...

    @wf.step
    async def last(): ...

    rt = await stores.enter(wf)
    run_id = await completed(rt)
    with pytest.raises(
        NotMendable, match=r"has not entered stage 'middle' on its way \(it entered first, last\)"
    ) as no:
        await rt.rerun(run_id, "middle")
    assert no.value.fields["entered"] == ["first", "last"]
    with pytest.raises(StageGone, match="did you mean 'middle'"):
        await rt.rerun(run_id, "midle")
    with pytest.raises(RunNotFound):
        await rt.rerun("nothing", "first")
    assert (await rt.get_run(run_id)).attempt == 1


async def test_a_run_that_goes_on_is_refused(stores):
    """A rerun while the run is not over is refused, and says how it could be over, or forked."""
    rt = await stores.enter(counting([], gate=True))
    [line] = (await rt.emit("begin")).lines
    await rt.wait(line.run_id, until="rest")
    with pytest.raises(RunNotFinished, match="fork it"):
        await rt.rerun(line.run_id, "two")


async def test_without_a_timeline_only_the_beginning_is_known(stores):
    """Without a timeline nobody knows when stages were entered: only the first one can be run again."""
    calls = []
    rt = await stores.enter(counting(calls), timeline=False)
    run_id = await completed(rt)
    with pytest.raises(NotMendable, match="has kept no timeline"):
        await rt.rerun(run_id, "two")
    await rt.rerun(run_id, "one")
    assert (await rt.wait(run_id)).status == "completed"
    forked = await rt.fork(run_id, "one")
    assert (await rt.wait(forked.run_id)).state["n"] == 3
    assert calls == ["one", "two", "three"] * 3


async def test_outputs_are_those_of_the_stages_before(stores):
    """Outputs of stages that are run again are gone until they have come to something; those before them stay."""
    seen = []
    wf = Workflow("outputs", keep_outputs=True)
    wf.on("begin")

    @wf.step
    async def one():
        return {"n": 1}

    @wf.step
    async def two(ctx):
        seen.append((ctx.optional("one"), ctx.optional("three")))
        return {"n": 2}

    @wf.step
    async def three():
        return {"n": 3}

    rt = await stores.enter(wf)
    run_id = await completed(rt)
    await rt.rerun(run_id, "two")
    await rt.wait(run_id)
    forked = await rt.fork(run_id, "two")
    await rt.wait(forked.run_id)
    assert seen == [({"n": 1}, None)] * 3


async def test_a_run_in_a_busy_mode_keeps_the_others_in_place(stores):
    """A mended run counts in the load of its mode once it is claimed, and gives its slot back at its end."""
    calls = []
    rt = await stores.enter(counting(calls, mode=Serialized()))
    run_id = await completed(rt)
    await rt.rerun(run_id, "two")
    assert (await rt.wait(run_id)).status == "completed"
    await completed(rt)
    [(load, _)] = await rt._core.store.read_loads([("count", "")])
    assert (load.active, load.queued) == (0, 0)


# -------------------------------------------------------------------------------------------------------------- forks
async def test_a_fork_is_a_new_run(stores):
    """A fork begins at the stage with the state it had there; the other run is unchanged, and only named."""
    calls = []
    rt = await stores.enter(counting(calls))
    run_id = await completed(rt)
    before = await rt.timeline(run_id)
    info = await rt.fork(run_id, "two", {"given": 7}, by="Ada", reason="what if")
    assert (info.parent_id, info.lineage, info.attempt) == (None, (run_id,), 1)
    result = await rt.wait(info.run_id)
    assert dict(result.state) == {"n": 3, "only_one": {"deep": True}, "given": 7, "extra": 7}
    assert calls == ["one", "two", "three", "two", "three"]
    assert (await rt.timeline(run_id)).entries == before.entries
    timeline = await rt.timeline(info.run_id)
    [entry] = [entry for entry in timeline.entries if entry.type == "run:fork"]
    assert (entry.payload["by"], entry.payload["reason"], entry.payload["from"]["run_id"]) == ("Ada", "what if", run_id)
    again = await rt.fork(info.run_id, "three")
    assert again.lineage == (run_id, info.run_id)
    assert (await rt.wait(again.run_id)).state["n"] == 3


async def test_an_entry_of_the_timeline_names_the_stage_it_belongs_to(stores):
    """Each entry leads to a stage: the one it is in; behind its end the next one; at a pause the one that led there."""
    calls = []
    rt = await stores.enter(counting(calls, gate=True))
    [line] = (await rt.emit("begin")).lines
    await rt.wait(line.run_id, until="rest")
    await rt.emit("go")
    await rt.wait(line.run_id)
    timeline = await rt.timeline(line.run_id)
    expected = {}
    for entry in timeline.entries:
        stage = entry.path.split("/")[1] if "/" in entry.path else None
        if entry.type == "stage:success":
            stage = {"one": "two", "two": "gate", "gate": "gate", "three": "three"}[stage]
        if stage is None:
            stage = "one" if entry.seq < 3 else "three" if entry.type == "pipeline:success" else "gate"
        expected[entry.seq] = stage
    found = {}
    for seq in expected:
        info = await rt.fork(line.run_id, seq)
        [entry] = [entry for entry in (await rt.timeline(info.run_id)).entries if entry.type == "run:fork"]
        found[seq] = entry.payload["from"]["stage"]
    assert found == expected


def fussy(**options):
    """A stage that fails as long as `n` is 7, and one behind it."""
    wf = Workflow("fussy", **options)
    wf.on("begin")

    @wf.step
    async def check(n):
        if n == 7:
            raise ValueError("seven")
        return {"checked": n}

    @wf.step
    async def done():
        return {"done": True}

    return wf


@pytest.mark.parametrize("restart", [False, True])
async def test_a_stage_that_was_retried_began_with_the_patch_of_the_retry(stores, restart):
    """A retry enters its stage again: to rerun or fork from there does not bring back what the patch has mended."""
    rt = await stores.enter(fussy())
    [failed] = await (await rt.emit("begin", n=7)).results()
    await rt.retry(failed.run_id, patch={"n": 1})
    assert (await rt.wait(failed.run_id)).status == "completed"
    if restart:
        await rt.stop()
        rt = await stores.enter(fussy())
    run_id = failed.run_id
    timeline = await rt.timeline(run_id)
    assert timeline.state_at("check") == {"n": 1}
    assert (await rt.compare(run_id, run_id, attempt_a=1)).differs_at == "check"
    forked = await rt.fork(run_id, "check")
    assert dict((await rt.wait(forked.run_id)).state) == {"n": 1, "checked": 1, "done": True}
    await rt.rerun(run_id, "check")
    again = await rt.wait(run_id)
    assert (again.status, again.state["n"]) == ("completed", 1)


async def test_entries_before_and_behind_a_retry_lead_to_the_state_of_their_own_attempt(stores):
    """An entry of the first attempt leads to the state before the patch; from the retry on, to that behind it."""
    rt = await stores.enter(fussy())
    [failed] = await (await rt.emit("begin", n=7)).results()
    await rt.retry(failed.run_id, patch={"n": 1})
    await rt.wait(failed.run_id)
    timeline = await rt.timeline(failed.run_id)
    retried = timeline.types().index("run:retry") + 1
    ends = {}
    for entry in timeline.entries:
        info = await rt.fork(failed.run_id, entry.seq)
        ends[entry.seq] = (await rt.wait(info.run_id)).status
    assert ends == {seq: "failed" if seq < retried else "completed" for seq in ends}


async def test_a_fork_of_a_run_that_is_doing_something(stores):
    """A running and a paused run can be forked; the fork waits at its own wait, and an event answers both."""
    calls = []
    rt = await stores.enter(counting(calls, gate=True))
    [line] = (await rt.emit("begin")).lines
    await rt.wait(line.run_id, until="rest")
    paused = await rt.fork(line.run_id, "gate")
    assert (await rt.wait(paused.run_id, until="rest")).status == "paused"
    receipt = await rt.emit("go")
    assert {each.run_id for each in receipt.lines} == {line.run_id, paused.run_id}
    assert {result.status for result in await receipt.results()} == {"completed"}


async def test_points_that_do_not_exist_are_refused(stores):
    """Numbers outside of the timeline, unknown stages and other things are refused; nothing is created."""
    rt = await stores.enter(counting([]))
    run_id = await completed(rt)
    last = len(await rt.timeline(run_id))
    for at in (0, last + 1, -1):
        with pytest.raises(NotMendable, match=f"it has entries 1 to {last}"):
            await rt.fork(run_id, at)
    with pytest.raises(StageGone):
        await rt.fork(run_id, "four")
    for at in (None, True, 1.5):
        with pytest.raises(InvalidDefinition, match="name a stage, or the number"):
            await rt.fork(run_id, at)
    with pytest.raises(RunNotFound):
        await rt.fork("nothing", "one")
    await rt.deregister("count")
    with pytest.raises(NotRegistered):
        await rt.fork(run_id, "one")
    assert len((await rt.find_runs()).items) == 1


class Sum(BaseModel):
    """A state with a model."""

    n: int = 0


async def test_a_fork_is_judged_by_the_model(stores):
    """A patch that does not fit is refused, and no run is created."""
    wf = Workflow("typed", state=Sum)
    wf.on("begin")

    @wf.step
    async def work(n):
        return {"n": n + 1}

    rt = await stores.enter(wf)
    run_id = await completed(rt)
    with pytest.raises(StateInvalid):
        await rt.fork(run_id, "work", {"n": "many"})
    assert len((await rt.find_runs()).items) == 1
    info = await rt.fork(run_id, "work", {"n": 5})
    assert (await rt.wait(info.run_id)).state == Sum(n=6)


async def test_a_fork_belongs_to_the_definition_of_now(stores):
    """Where the workflow has changed, even a pinned one, a fork goes on under the new definition, with a new state."""

    def workflow(more, **options):
        wf = Workflow("moving", **options)
        wf.on("begin")

        @wf.step
        async def first():
            return {"first": True}

        @wf.step
        async def second(state):
            return {"second": state.get("moved")}

        if more:
            wf.step(lambda: None, id="third")
        return wf

    rt = await stores.enter(workflow(False))
    run_id = await completed(rt)
    await rt.deregister("moving")
    await rt.register(workflow(True, migrate=lambda state, _: {**state, "moved": 1}))
    info = await rt.fork(run_id, "second")
    assert (await rt.wait(info.run_id)).state["second"] == 1
    await rt.deregister("moving")
    await rt.register(workflow(True, on_change="pinned"))
    info = await rt.fork(run_id, "second")
    assert (await rt.wait(info.run_id)).status == "completed"


async def test_a_fork_outlives_its_source(vclock):
    """Where old runs are deleted, a fork has all that it needs: state and event are its own."""
    calls = []
    async with WorkflowRuntime(counting(calls, gate=True), store=MemoryStore(keep=1), clock=vclock) as rt:
        [line] = (await rt.emit("begin", given="from the event")).lines
        await rt.wait(line.run_id, until="rest")
        await rt.abort(line.run_id)
        info = await rt.fork(line.run_id, "two")
        await rt.wait(info.run_id, until="rest")
        for _ in range(3):
            [other] = (await rt.emit("begin")).lines
            await rt.wait(other.run_id, until="rest")
            await rt.abort(other.run_id)
        with pytest.raises(RunNotFound):
            await rt.get_run(line.run_id)
        result = await rt.resume(info.run_id)
        assert (result.status, result.state["extra"]) == ("completed", "from the event")


async def test_a_step_may_wait_for_the_run_it_was_forked_from(stores):
    """The lineage of a fork are no runs above it: waiting for one of them is no deadlock."""
    wf = Workflow("asks")
    wf.on("begin")
    rt = await stores.enter()

    @wf.step
    async def first(ctx):
        return {"source": ctx.run_id}

    @wf.step
    async def second(ctx, state):
        if state["source"] == ctx.run_id:
            return None
        return {"was": str((await rt.wait(state["source"])).status)}

    await rt.register(wf)
    run_id = await completed(rt)
    info = await rt.fork(run_id, "second")
    assert (await rt.wait(info.run_id)).state["was"] == "completed"


async def test_where_its_workflow_is_unknown_a_fork_waits_for_it(stores):
    """Made by another process, a fork is `ready` until a runtime has its workflow; that one judges it."""
    calls = []
    rt = await stores.enter(counting(calls))
    run_id = await completed(rt)
    await rt.deregister("count")
    info = await rt.dispatch(Fork(run_id, "three", {"given": 1}, elsewhere=True))
    await run_until_idle(stores.clock)
    assert (await rt.get_run(info.run_id)).status == "ready"
    await rt.register(counting(calls))
    assert (await rt.wait(info.run_id)).state["extra"] == 1


# ------------------------------------------------------------------------------------------------------------- crashes
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("what", ["rerun", "fork"])
async def test_a_crash_at_any_commit(stores: Stores, where, what):
    """Whichever commit the process dies at: it is as if it had not been asked for, or it is carried out once."""
    number = 0
    while True:
        number += 1
        calls = []
        rt = await stores.enter(counting(calls))
        run_id = await completed(rt, id=f"n-{number}")
        await rt.stop()
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(counting(calls), store=store)

        async def work(rt=rt, run_id=run_id):
            info = await (rt.rerun(run_id, "two") if what == "rerun" else rt.fork(run_id, "two"))
            await rt.wait(info.run_id)

        over = await until_crash(store, work())
        await stores.crash(rt)
        rt = await stores.enter(counting(calls))
        await run_until_idle(stores.clock)
        runs = [run for run in (await rt.find_runs(limit=500)).items if run_id in (run.run_id, *run.lineage)]
        assert {run.status for run in runs} == {"completed"}
        mended = sum(run.attempt > 1 or bool(run.lineage) for run in runs)
        assert mended <= 1, number
        for run in runs:
            assert (await rt.get_run(run.run_id, state=True)).state["n"] == 3
        assert calls.count("one") == 1
        await rt.stop()
        if over:
            assert (mended, number > 3) == (1, True)
            return
