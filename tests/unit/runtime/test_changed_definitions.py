"""Definitions that change while runs are under way: those go on, fail, wait for their own, or are paused."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel
from support import Stores

from poundlock import (
    DefinitionChanged,
    Delay,
    InvalidDefinition,
    Jump,
    NotPaused,
    Pause,
    Pipeline,
    RunStatus,
    Serialized,
    Stage,
    StageGone,
    Step,
    Trigger,
    Wait,
    Workflow,
)

COMPLETED, PAUSED, FAILED, ABORTED = RunStatus.COMPLETED, RunStatus.PAUSED, RunStatus.FAILED, RunStatus.ABORTED


def deployed(*, last="finish", pipeline="main", wait=None, more=(), model=None, **options):
    """One version of a workflow: a wait, then a stage whose id may change."""
    ran = []

    async def begin():
        ran.append("begin")

    async def finish(ctx):
        ran.append(ctx.stage_id)
        return {"done": True}

    stages = [
        Stage("begin", [Step("begin", begin)], router=Pause(wait or Wait("ok", id="gate"))),
        Stage(last, [Step("finish", finish)]),
        *(Stage(name, [Step("finish", finish)], aside=True) for name in more),
    ]
    wf = Workflow("w", triggers={"go": Trigger("go")}, pipelines=[Pipeline(pipeline, stages)], state=model, **options)
    return wf, ran


async def paused(stores, wf, **payload):
    """A run of this version that is paused at its wait."""
    rt = await stores.enter(wf)
    [run] = await (await rt.emit("go", n=1, **payload)).results(60)
    assert run.status is PAUSED
    return rt, run.run_id


async def replaced(stores, rt, wf):
    """The same store, under another version."""
    await rt.stop()
    return await stores.enter(wf)


async def at_rest(stores, rt, run_id):
    await stores.clock.run_until_idle()
    return await rt.get_run(run_id)


# ------------------------------------------------------------------------------------------------ stages that are gone
async def test_the_next_stage_is_gone(stores, caplog):
    """An event for a wait whose next stage is gone pauses the run with the reason; it counts once the stage is back."""
    rt, run_id = await paused(stores, deployed()[0])
    wf, ran = deployed(last="other")
    rt = await replaced(stores, rt, wf)
    await rt.emit("ok", by="ada")
    info = await at_rest(stores, rt, run_id)
    assert (info.status, info.error.code, info.wake_at) == (PAUSED, "STAGE_GONE", None)
    assert "'finish'" in info.error.message
    assert [wait.id for wait in info.waits if wait.parked] == ["gate"]
    assert run_id in caplog.text
    [line] = [line for line in (await rt.emit("ok", by="grace")).lines if line.run_id == run_id]
    assert str(line.verdict) == "buffered"
    wf, ran = deployed()
    rt = await replaced(stores, rt, wf)
    result = await rt.wait(run_id, 60)
    assert (result.status, result.state["by"], ran) == (COMPLETED, "ada", ["finish"])


async def test_another_way_out_of_a_wait_is_still_there(stores):
    """Only the stage that an event leads to has to exist."""
    ways = Wait({"yes": "finish", "no": "stop"}, id="gate")
    rt, run_id = await paused(stores, deployed(wait=ways, more=["stop"])[0])
    wf, ran = deployed(wait=Wait({"yes": "finish", "no": "finish"}, id="gate"))
    rt = await replaced(stores, rt, wf)
    await rt.emit("no")
    assert (await at_rest(stores, rt, run_id)).error.code == "STAGE_GONE"
    with pytest.raises(StageGone):
        await rt.resume(run_id, event="no")
    assert (await rt.resume(run_id, event="yes")).status is COMPLETED
    assert ran == ["finish"]


async def test_the_stage_after_a_timeout_is_gone(stores):
    """A wait that ends after its `on_timeout` stage is gone pauses the run, and no time wakes it again."""
    rt, run_id = await paused(stores, deployed(wait=Wait("ok", timeout=60, on_timeout="late"), more=["late"])[0])
    wf, ran = deployed(wait=Wait("ok", timeout=60, on_timeout="resume"))
    rt = await replaced(stores, rt, wf)
    stores.clock.advance(61)
    info = await at_rest(stores, rt, run_id)
    assert (info.status, info.error.code, info.wake_at) == (PAUSED, "STAGE_GONE", None)
    stores.clock.advance(days=2)
    assert (await at_rest(stores, rt, run_id)) == info
    assert ran == []


async def test_an_answer_by_hand_is_refused(stores):
    """`resume` to a stage that is gone raises StageGone and changes nothing; `abort` ends the run."""
    rt, run_id = await paused(stores, deployed()[0])
    rt = await replaced(stores, rt, deployed(last="other")[0])
    before = await rt.get_run(run_id)
    with pytest.raises(StageGone) as refused:
        await rt.resume(run_id)
    assert refused.value.fields["stage"] == "finish"
    assert await rt.get_run(run_id) == before
    await rt.abort(run_id)
    assert (await rt.get_run(run_id)).status is ABORTED


async def test_an_answer_that_nobody_could_check(stores):
    """An answer taken by a process without the workflow is refused when the stage is gone; the run stays paused."""
    rt, run_id = await paused(stores, deployed()[0])
    await rt.stop()
    rt = await stores.enter()
    await rt.resume(run_id, {"by": "ada"})
    rt = await replaced(stores, rt, deployed(last="other")[0])
    info = await at_rest(stores, rt, run_id)
    assert (info.status, info.error.code) == (PAUSED, "STAGE_GONE")
    assert "wait:refused" in (await rt.timeline(run_id)).types()
    rt = await replaced(stores, rt, deployed()[0])
    assert (await rt.resume(run_id, {"by": "eve"})).state["by"] == "eve"


@pytest.mark.parametrize("gone", ["stage", "pipeline"])
async def test_a_run_that_was_in_a_stage(stores, gone):
    """A run that a crash left in a stage that is gone is paused; `abort` ends it, the old definition has it go on."""
    inside = asyncio.Event()

    def version(stage="two", pipeline="main", *, hold=False):
        async def work():
            if hold:
                inside.set()
                await asyncio.Event().wait()
            return {"done": True}

        stages = [Stage("one", [Step("one", lambda: {"one": 1}, executor="inline")]), Stage(stage, [Step("s", work)])]
        return Workflow("w", triggers={"go": Trigger("go")}, pipelines=[Pipeline(pipeline, stages)])

    rt = await stores.enter(version(hold=True))
    first, second = (await rt.emit("go")).run_ids + (await rt.emit("go")).run_ids
    await inside.wait()
    await stores.clock.run_until_idle()
    await stores.crash(rt)
    rt = await stores.enter(version(**{gone: "other"}))
    for run_id in (first, second):
        info = await at_rest(stores, rt, run_id)
        assert (info.status, info.error.code) == (PAUSED, "STAGE_GONE")
    with pytest.raises(StageGone):
        await rt.resume(first)
    await rt.abort(first)
    rt = await replaced(stores, rt, version())
    result = await rt.wait(second, 60)
    assert (result.status, result.state["done"]) == (COMPLETED, True)
    assert (await rt.get_run(first)).status is ABORTED


async def test_the_stage_after_a_delay_is_gone(stores):
    """A run whose delay ends after its next stage is gone is paused, and goes on as after the delay once it is back."""
    ran = []

    def version(last):
        async def finish(ctx):
            ran.append(ctx.resume.reason)

        stages = [Stage("begin", router=Delay(60)), Stage(last, [Step("s", finish)])]
        return Workflow("w", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", stages)])

    stores.clock.autojump = False  # else the delay may be over before this runtime has stopped
    rt = await stores.enter(version("finish"))
    [run_id] = (await rt.emit("go")).run_ids
    while (await rt.get_run(run_id)).status is not RunStatus.DELAYED:
        await asyncio.to_thread(lambda: None)
    rt = await replaced(stores, rt, version("other"))
    stores.clock.advance(61)
    info = await at_rest(stores, rt, run_id)
    assert (info.status, info.error.code, info.wake_at) == (PAUSED, "STAGE_GONE", None)
    rt = await replaced(stores, rt, version("finish"))
    assert (await rt.wait(run_id, 60)).status is COMPLETED
    assert ran == ["delay"]


async def test_a_pipeline_that_is_gone_keeps_the_waits_of_its_runs(stores):
    """Events for a run whose pipeline is gone are buffered, and used once it is back."""
    rt, run_id = await paused(stores, deployed()[0])
    rt = await replaced(stores, rt, deployed(pipeline="other")[0])
    await rt.emit("ok", by="ada")
    info = await at_rest(stores, rt, run_id)
    assert (info.status, info.error.code) == (PAUSED, "STAGE_GONE")
    rt = await replaced(stores, rt, deployed()[0])
    assert (await rt.wait(run_id, 60)).state["by"] == "ada"


async def test_a_signal_for_a_run_that_cannot_go_on(stores):
    """It is taken in when the run goes on."""
    rt, run_id = await paused(stores, deployed()[0])
    rt = await replaced(stores, rt, deployed(last="other")[0])
    await rt.signal(run_id, {"n": 7})
    await rt.emit("ok")
    assert (await at_rest(stores, rt, run_id)).error.code == "STAGE_GONE"
    rt = await replaced(stores, rt, deployed()[0])
    assert (await rt.wait(run_id, 60)).state["n"] == 7


async def test_its_slot_is_kept_in_order(stores):
    """A run that cannot go on keeps the slot of a serialized workflow until somebody ends it."""
    wf, _ = deployed(mode=Serialized())
    rt, run_id = await paused(stores, wf)
    [second] = (await rt.emit("go", n=2)).run_ids
    rt = await replaced(stores, rt, deployed(last="other", mode=Serialized())[0])
    await rt.emit("ok")
    assert (await at_rest(stores, rt, run_id)).error.code == "STAGE_GONE"
    assert (await rt.get_run(second)).status is RunStatus.QUEUED
    await rt.abort(run_id)
    assert (await at_rest(stores, rt, second)).status is COMPLETED  # the event was for both


# ----------------------------------------------------------------------------------------------------- fail and pinned
@pytest.mark.parametrize("by", ["event", "hand", "time"])
async def test_fail_ends_the_run_when_it_goes_on(stores, by):
    """With on_change="fail", a run of another definition fails when it is driven, and not before."""
    wait = Wait("ok", id="gate", timeout=60, on_timeout="resume")
    rt, run_id = await paused(stores, deployed(wait=wait)[0])
    wf, ran = deployed(wait=wait, more=["new"], on_change="fail")
    rt = await replaced(stores, rt, wf)
    assert (await at_rest(stores, rt, run_id)).status is PAUSED
    if by == "event":
        await rt.emit("ok")
    elif by == "hand":
        await rt.resume(run_id)
    else:
        stores.clock.advance(61)
    info = await at_rest(stores, rt, run_id)
    assert (info.status, info.error.code, ran) == (FAILED, "DEFINITION_CHANGED", [])


async def test_fail_leaves_runs_of_the_same_definition_alone(stores):
    """The definition is known by its hash, not by the object."""
    rt, run_id = await paused(stores, deployed(on_change="fail")[0])
    rt = await replaced(stores, rt, deployed(on_change="fail")[0])
    assert (await rt.resume(run_id)).status is COMPLETED


@pytest.mark.parametrize("by", ["event", "time"])
async def test_pinned_waits_for_its_own_definition(stores, by):
    """With on_change="pinned", a run is left alone until its own definition is registered; then it goes on."""
    wait = Wait("ok", id="gate", timeout=60, on_timeout="resume")
    rt, run_id = await paused(stores, deployed(wait=wait)[0])
    rt = await replaced(stores, rt, deployed(wait=wait, more=["new"], on_change="pinned")[0])
    if by == "event":
        await rt.emit("ok")
    else:
        stores.clock.advance(61)
    info = await at_rest(stores, rt, run_id)
    assert (info.status, info.error.code, info.wake_at) == (PAUSED, "DEFINITION_CHANGED", None)
    with pytest.raises(DefinitionChanged) as refused:
        await rt.resume(run_id)
    assert refused.value.fields["definition_hash"] == deployed(wait=wait)[0].definition.hash
    rt = await replaced(stores, rt, deployed(wait=wait, more=["newer"], on_change="pinned")[0])
    assert await at_rest(stores, rt, run_id) == info
    wf, ran = deployed(wait=wait, on_change="pinned")
    rt = await replaced(stores, rt, wf)
    assert (await rt.wait(run_id, 60)).status is COMPLETED
    assert ran == ["finish"]


async def test_a_pinned_run_can_be_aborted(stores):
    """An abort needs no definition."""
    rt, run_id = await paused(stores, deployed()[0])
    rt = await replaced(stores, rt, deployed(more=["new"], on_change="pinned")[0])
    await rt.emit("ok")
    await at_rest(stores, rt, run_id)
    await rt.abort(run_id)
    assert (await rt.get_run(run_id)).status is ABORTED
    with pytest.raises(Exception, match="aborted") as refused:
        await rt.resume(run_id)
    assert not isinstance(refused.value, NotPaused)


# ----------------------------------------------------------------------------------------------------------- migration
class Before(BaseModel):
    n: int = 0
    done: bool = False


class After(BaseModel):
    count: int
    done: bool = False


class Later(BaseModel):
    total: int
    done: bool = False


def migrating(model, function, **options):
    calls = []

    def migrate(state, definition_hash):
        calls.append((dict(state), definition_hash))
        return function(state)

    wf, ran = deployed(model=model, migrate=migrate, **options)
    return wf, ran, calls


def renamed(state):
    return {"count": state.pop("n"), **state}


@pytest.mark.parametrize("by", ["event", "hand"])
async def test_migrate_brings_an_older_state_up_to_date(stores, by):
    """It is called with the state as data and the hash of its definition; the change is in the log."""
    old, _ = deployed(model=Before)
    rt, run_id = await paused(stores, old)
    wf, _, calls = migrating(After, renamed)
    rt = await replaced(stores, rt, wf)
    if by == "event":
        await rt.emit("ok")
        result = await rt.wait(run_id, 60)
    else:
        result = await rt.resume(run_id)
    assert (result.status, result.state) == (COMPLETED, After(count=1, done=True))
    assert set(map(str, calls)) == {str(({"n": 1}, old.definition.hash))}
    timeline = await rt.timeline(run_id)
    assert timeline.types().count("state:migrated") == 1
    assert timeline.state_at(timeline.entries[-1].seq) == {"count": 1, "done": True}


async def test_a_migrated_state_is_not_migrated_again(stores):
    """After the commit, neither a crash nor a restart calls it again; the next version gets the hash of the last."""
    rt, run_id = await paused(stores, deployed(model=Before)[0])
    second = Pause(Wait("more", id="second"))

    def version(model, function):
        calls = []

        def migrate(state, definition_hash):
            calls.append(definition_hash)
            return function(state)

        stages = [
            Stage("begin", router=Pause(Wait("ok", id="gate"))),
            Stage("finish", router=second),
            Stage("end", [Step("end", lambda: {"done": True}, executor="inline")]),
        ]
        pipelines = [Pipeline("main", stages)]
        return Workflow("w", triggers={"go": Trigger("go")}, pipelines=pipelines, state=model, migrate=migrate), calls

    wf, calls = version(After, renamed)
    rt = await replaced(stores, rt, wf)
    await rt.emit("ok")
    assert (await at_rest(stores, rt, run_id)).error is None
    assert len(calls) == 1
    await stores.crash(rt)
    again, calls = version(After, renamed)
    rt = await stores.enter(again)
    await rt.signal(run_id, {"count": 5})
    assert [wait.id for wait in (await rt.get_run(run_id)).waits if wait.parked] == ["second"]
    assert calls == []
    latest, calls = version(Later, lambda state: {"total": state["count"]})
    rt = await replaced(stores, rt, latest)
    await rt.emit("more")
    result = await rt.wait(run_id, 60)
    assert (result.status, result.state.total) == (COMPLETED, 1)
    assert set(calls) == {wf.definition.hash}


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_crash_at_every_commit_of_a_migrated_run(store_kind, tmp_path, vclock, where):
    """Whichever commit the process dies at, the run ends with the migrated state, and it was migrated once."""

    async def worked(rt, run_id):
        """Have the run end: the commit to die at may be one behind the answer to `resume`."""
        await rt.resume(run_id)
        await rt.wait(run_id)

    async def once(name, crash):
        (tmp_path / name).mkdir()
        place = Stores(store_kind, tmp_path / name, vclock)
        try:
            rt, run_id = await paused(place, deployed(model=Before)[0])
            await rt.stop()
            store = place.store()
            store.crash = crash
            entering = asyncio.create_task(place.enter(migrating(After, renamed)[0], store=store))
            crashed = asyncio.create_task(store.crashed.wait())
            await asyncio.wait([entering, crashed], return_when=asyncio.FIRST_COMPLETED)
            rt = await entering
            working = asyncio.create_task(worked(rt, run_id))
            await asyncio.wait([working, crashed], return_when=asyncio.FIRST_COMPLETED)
            if store.dead:
                working.cancel()
                await asyncio.wait([working])
                await place.crash(rt)
                rt = await place.enter(migrating(After, renamed)[0])
                await place.clock.run_until_idle()
                if (await rt.get_run(run_id)).status is PAUSED:
                    await rt.resume(run_id)
            else:
                crashed.cancel()
                await working
            result = await rt.wait(run_id, 60)
            timeline = await rt.timeline(run_id)
            assert timeline.types().count("state:migrated") == 1
            assert timeline.state_at(timeline.entries[-1].seq) == {"count": 1, "done": True}
            return (result.status, result.state), store.commits
        finally:
            await place.close()

    expected, commits = await once("undisturbed", None)
    assert expected == (COMPLETED, After(count=1, done=True))
    assert commits >= 2
    for number in range(1, commits + 1):
        assert (await once(str(number), (number, where)))[0] == expected, f"commit {number}"


@pytest.mark.parametrize(
    ("function", "code"),
    [
        pytest.param(lambda state: state["no such key"], None, id="raises"),
        pytest.param(lambda state: {"n": 1}, "STATE_INVALID", id="does not fit"),
        pytest.param(lambda state: None, "STATE_INVALID", id="returns nothing"),
        pytest.param(lambda state: {"count": object()}, "NOT_STORABLE", id="is no data"),
    ],
)
async def test_a_migration_that_fails_pauses_the_run(stores, function, code):
    """Its error is that of the run, nothing is written, and a better version goes on with the state as it was."""
    rt, run_id = await paused(stores, deployed(model=Before)[0])
    rt = await replaced(stores, rt, migrating(After, function)[0])
    await rt.emit("ok")
    info = await at_rest(stores, rt, run_id)
    assert info.status is PAUSED
    assert info.error.code in (code, "STATE_INVALID", "NOT_STORABLE") if code else info.error.type == "KeyError"
    wf, _, _ = migrating(After, renamed)
    rt = await replaced(stores, rt, wf)
    assert (await rt.wait(run_id, 60)).state == After(count=1, done=True)


async def test_migrate_without_a_model(stores):
    """A state without a model is migrated too: keys that are left out are removed, nested ones replaced."""
    rt, run_id = await paused(stores, deployed()[0], order={"id": 1, "old": 2})
    wf, _, _ = migrating(None, lambda state: {"order": {"id": state["order"]["id"]}}, more=["new"])
    rt = await replaced(stores, rt, wf)
    assert dict((await rt.resume(run_id, {"by": "ada"})).state) == {"order": {"id": 1}, "by": "ada", "done": True}


# ---------------------------------------------------------------------------------------------------------- definitions
def hash_of(*stages, model=None):
    return Workflow("w", pipelines=[Pipeline("main", stages)], state=model).definition.hash


def step(id="s"):
    return Step(id, lambda: None)


def test_what_the_hash_is_made_of():
    """What stored runs refer to changes the hash: targets, waits, and the fields of the state's model."""

    class Same(BaseModel):
        n: int = 5
        done: bool = True

    class Other(BaseModel):
        n: str = ""
        done: bool = False

    class Strict(BaseModel):
        n: int
        done: bool = False

    one, two = Stage("one", [step()]), Stage("two", [step()])
    by_jump = [Stage("one", [step()], router=Jump(target)) for target in ("two", "one")]
    waits = [
        Stage("one", router=Pause(wait, resume_at=after))
        for wait, after in ((Wait("ok"), None), (Wait("ok", id="gate"), None), (Wait("ok"), "two"))
    ]
    hashes = [
        hash_of(one, two),
        *(hash_of(stage, two) for stage in (*by_jump[:1], *waits)),
        *(hash_of(one, two, model=model) for model in (Before, Other, Strict)),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hash_of(one, two, model=Before) == hash_of(one, two, model=Same)


@pytest.mark.parametrize("rule", ["stop", None, 3], ids=str)
def test_an_unknown_rule_is_a_fault(rule):
    """`on_change` is one of three words."""
    with pytest.raises(InvalidDefinition) as refused:
        _ = deployed(on_change=rule)[0].definition
    assert "on_change" in dict(refused.value.faults)


async def coroutine(state, definition_hash):
    pass


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(coroutine, id="async"),
        pytest.param(lambda state: state, id="one parameter"),
        pytest.param("migrate", id="text"),
    ],
)
async def test_a_migrate_that_cannot_be_called_is_a_fault(runtime, function):
    """`migrate` is a plain function of the state and the hash."""
    rt = await runtime()
    with pytest.raises(InvalidDefinition) as refused:
        await rt.register(deployed(migrate=function)[0])
    assert list(dict(refused.value.faults)) == ["migrate"]
