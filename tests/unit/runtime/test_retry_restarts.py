"""Attempts count on after a crash, and a run is parked during long delays between them."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from support import Stores, rests

from poundlock import (
    Delay,
    Jump,
    Pause,
    Pipeline,
    Retry,
    RetryAfter,
    Serialized,
    Service,
    Stage,
    Step,
    StepContext,
    Trigger,
    Use,
    Wait,
    Workflow,
)


class Failing:
    """A step that fails so many times, and notes when each attempt began, and with which number and key."""

    def __init__(self, clock, times=99, error=None):
        self.clock = clock
        self.times = times
        self.error = error or RuntimeError("no")
        self.began = clock.now()
        self.seen = []
        self.keys = set()

    async def __call__(self, ctx: StepContext):
        self.seen.append((ctx.attempt, self.clock.now() - self.began))
        self.keys.add(ctx.idempotency_key)
        if len(self.seen) <= self.times:
            raise self.error
        return {"done": len(self.seen)}

    @property
    def attempts(self):
        return [attempt for attempt, _ in self.seen]


def flow(*steps, mode=None, services=(), state=None, router=None, **stage):
    stages = [Stage("work", steps, router=router, **stage), Stage("end", [Step("end", lambda: {"end": True})])]
    triggers, pipelines = {"begin": Trigger("begin")}, [Pipeline("main", stages)]
    return Workflow("w", triggers=triggers, pipelines=pipelines, mode=mode, services=services, state=state)


async def begin(rt, **payload):
    [run_id] = (await rt.emit("begin", payload)).run_ids
    return run_id


async def ended(rt):
    """Begin a run, unless there is one, and return its end."""
    found = (await rt.find_runs(workflow="w")).items
    return await rt.wait(found[0].run_id if found else await begin(rt))


async def kept(rt, run_id):
    """Whether a row of the visit is stored with the run."""
    record = await rt.store.load(run_id)
    return "__visit__" in [row.wait_id for row in record.waits]


# ---------------------------------------------------------------------------------------------------- after a crash
@pytest.mark.parametrize("timeline", [True, False])
async def test_the_delay_that_remained(stores, timeline):
    """A crash in a delay: the next attempt has the next number, and begins at the moment it would have begun."""
    clock = stores.clock
    clock.autojump = False
    act = Failing(clock, 2)
    wf = flow(Step("s", act, retry=Retry(3, backoff=30, factor=1)))
    rt = await stores.enter(wf, timeline=timeline)
    run_id = await begin(rt)
    await clock.run_until_idle()
    await clock.run_for(10)
    await stores.crash(rt)
    await clock.run_for(5)
    rt = await stores.enter(flow(*wf.definition.pipelines["main"].stages[0].steps), timeline=timeline)
    await clock.run_until_idle()
    assert act.seen == [(1, 0)]
    assert await kept(rt, run_id)
    await clock.run_for(minutes=5)
    result = await rt.wait(run_id)
    assert result.status == "completed"
    assert act.seen == [(1, 0), (2, 30), (3, 60)]
    assert len(act.keys) == 1


async def test_a_stage_that_goes_on_is_not_entered_again(stores):
    """Killed after an attempt was kept, a stage goes on with `stage:resume`, which says so, and is in the path once."""
    stores.clock.autojump = False
    failing = Failing(stores.clock, 1)
    rt = await stores.enter(flow(Step("s", failing, retry=Retry(2, backoff="5s"))))
    [run_id] = (await rt.emit("begin")).run_ids
    await stores.clock.run_until_idle()
    await stores.crash(rt)
    rt = await stores.enter(flow(Step("s", failing, retry=Retry(2, backoff="5s"))))
    await stores.clock.run_for(seconds=5)
    assert (await rt.wait(run_id)).status == "completed"
    timeline = await rt.timeline(run_id)
    assert len(timeline.path()) == len(set(timeline.path()))
    [resumed] = [entry.payload for entry in timeline.entries if entry.type == "stage:resume"]
    assert resumed == {"attempt": 2, "recovered": True}


async def test_three_attempts_are_three_in_total(stores):
    """However often the process dies in a delay, `Retry(3)` means three attempts, and the error says which it was."""
    clock = stores.clock
    clock.autojump = False
    act = Failing(clock)
    retry = Retry(3, backoff=30, factor=1)
    rt = await stores.enter(flow(Step("s", act, retry=retry)))
    run_id = await begin(rt)
    for _ in range(6):
        await clock.run_for(10)
        await stores.crash(rt)
        rt = await stores.enter(flow(Step("s", act, retry=retry)))
    await clock.run_for(minutes=5)
    result = await rt.wait(run_id)
    assert (result.status, result.error.attempt) == ("failed", 3)
    assert act.seen == [(1, 0), (2, 30), (3, 60)]


async def test_a_delay_that_is_over(stores):
    """What became due while nobody was there begins at once."""
    clock = stores.clock
    clock.autojump = False
    act = Failing(clock, 1)
    rt = await stores.enter(flow(Step("s", act, retry=Retry(3, backoff=30))))
    run_id = await begin(rt)
    await clock.run_until_idle()
    await stores.crash(rt)
    await clock.run_for(hours=1)
    rt = await stores.enter(flow(Step("s", act, retry=Retry(3, backoff=30))))
    await clock.run_until_idle()
    assert (await rt.wait(run_id)).status == "completed"
    assert act.seen == [(1, 0), (2, 3600)]


async def test_a_clock_that_was_set_back(stores):
    """The delay that remains is never longer than the delay itself."""
    clock = stores.clock
    clock.autojump = False
    act = Failing(clock, 1)
    rt = await stores.enter(flow(Step("s", act, retry=Retry(3, backoff=30))))
    run_id = await begin(rt)
    await clock.run_until_idle()
    await stores.crash(rt)
    clock.set(clock.now() - 86_400)
    rt = await stores.enter(flow(Step("s", act, retry=Retry(3, backoff=30))))
    await clock.run_for(31)
    assert (await rt.wait(run_id)).status == "completed"


async def test_a_crash_in_an_attempt(stores):
    """An attempt that the process died in is made again, with its number."""
    clock, stuck = stores.clock, asyncio.Event()
    clock.autojump = False
    seen = []

    async def act(ctx: StepContext):
        seen.append(ctx.attempt)
        if len(seen) == 2:
            stuck.set()
            await asyncio.Event().wait()
        raise RuntimeError("no")

    rt = await stores.enter(flow(Step("s", act, retry=Retry(3, backoff=30, factor=1))))
    run_id = await begin(rt)
    await clock.run_for(31)
    await stuck.wait()
    await stores.crash(rt)
    rt = await stores.enter(flow(Step("s", act, retry=Retry(3, backoff=30, factor=1))))
    await clock.run_for(minutes=5)
    assert (await rt.wait(run_id)).status == "failed"
    assert seen == [1, 2, 2, 3]


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("backoff", [0, 10, "2h"], ids=["none", "short", "long"])
async def test_a_crash_at_every_commit(store_kind, tmp_path, vclock, backoff, where):
    """Whichever commit the process dies at, the run ends alike, and no attempt has a number it had before the last."""

    async def once(name, crash):
        (tmp_path / name).mkdir()
        place = Stores(store_kind, tmp_path / name, vclock)
        store = place.store()
        store.crash = crash
        act = Failing(vclock, 2)
        wf = lambda: flow(Step("s", act, retry=Retry(3, backoff=backoff, factor=1)), Step("other", lambda: {"o": 1}))  # noqa: E731 - as often as it is entered
        try:
            rt = await place.enter(wf(), store=store)
            working = asyncio.create_task(ended(rt))
            dead = asyncio.create_task(store.crashed.wait())
            await asyncio.wait([working, dead], return_when=asyncio.FIRST_COMPLETED)
            dead.cancel()
            if store.dead:
                working.cancel()
                await asyncio.wait([working])
                await place.crash(rt)
                rt = await place.enter(wf())
                result = await ended(rt)
            else:
                result = await working
            return result.status, dict(result.state), act.attempts, await kept(rt, result.run_id), store.commits
        finally:
            await place.close()

    status, _state, attempts, row, commits = await once("undisturbed", None)
    assert (status, attempts, row) == ("completed", [1, 2, 3], False)
    for number in range(1, commits + 1):
        again = await once(str(number), (number, where))
        assert again[0] == "completed"
        assert (again[1]["o"], again[1]["end"], again[3]) == (1, True, False), number
        assert again[2] == sorted(again[2]), (number, again[2])
        assert len(again[2]) <= 4, (number, again[2])


async def test_success_at_once_commits_nothing_more(stores):
    """A step with a Retry that succeeds at once costs the same commits as one without."""
    counts = []
    for retry in (None, Retry(3)):
        rt = await stores.enter(flow(Step("s", lambda: {"a": 1}, retry=retry)))
        # Not `commits`: the poller's first claim counts among them, and comes at any time.
        before = len(rt.store.written)
        await rt.run("w")
        counts.append(len(rt.store.written) - before)
        await rt.stop()
    assert counts[0] == counts[1]


# ------------------------------------------------------------------------------------------------------- being parked
async def test_a_long_delay_parks(stores):
    """A run whose only step waits for an hour is delayed meanwhile, then goes on; the order of events is told."""
    clock = stores.clock
    clock.autojump = False
    act = Failing(clock, 1)
    rt = await stores.enter(flow(Step("s", act, retry=Retry(3, backoff="1h", max="1h"))))
    run_id = await begin(rt)
    await clock.run_until_idle()
    info = await rt.get_run(run_id)
    assert (info.status, info.waits) == ("delayed", ())
    await clock.run_for(minutes=61)
    result = await rt.wait(run_id)
    assert (result.status, dict(result.state)) == ("completed", {"done": 2, "end": True})
    assert act.seen == [(1, 0), (2, 3600)]
    assert len(act.keys) == 1
    assert not await kept(rt, run_id)
    types = (await rt.timeline(run_id)).types()
    told = [kind for kind in types if kind in ("step:retry", "pipeline:delay", "stage:resume", "step:success")]
    assert told[:4] == ["step:retry", "pipeline:delay", "stage:resume", "step:success"]


@pytest.mark.parametrize("window", [0, 10, 120])
async def test_the_limit_is_the_pause_window(stores, window):
    """The run is parked for delays that are not shorter than the runtime's `pause_window`."""
    clock = stores.clock
    clock.autojump = False
    rt = await stores.enter(flow(Step("s", Failing(clock), retry=Retry(3, backoff=30))), pause_window=window)
    run_id = await begin(rt)
    await clock.run_until_idle()
    assert (await rt.get_run(run_id)).status == ("running" if window > 30 else "delayed")


async def test_retry_after_hours(stores):
    """`RetryAfter` with hours parks the run, also for a caller that waits for the result of `run`."""
    act = Failing(stores.clock, 1, RetryAfter("6h"))
    rt = await stores.enter(flow(Step("s", act, retry=Retry(2))))
    result = await rt.run("w")
    assert (result.status, act.seen) == ("completed", [(1, 0), (2, 21_600)])


async def test_a_parked_run_survives_a_crash(stores):
    """Its attempt begins when it is due, whoever owns it then; if nobody did, at once."""
    clock = stores.clock
    clock.autojump = False
    act = Failing(clock, 2)
    retry = Retry(3, backoff="1h", factor=1, max="1h")
    rt = await stores.enter(flow(Step("s", act, retry=retry)))
    run_id = await begin(rt)
    await clock.run_for(minutes=30)
    await stores.crash(rt)
    rt = await stores.enter(flow(Step("s", act, retry=retry)))
    await clock.run_for(minutes=31)
    assert act.seen == [(1, 0), (2, 3600)]
    await rt.stop()
    await clock.run_for(hours=5)
    rt = await stores.enter(flow(Step("s", act, retry=retry)))
    await clock.run_until_idle()
    assert (await rt.wait(run_id)).status == "completed"
    assert act.attempts == [1, 2, 3]


class Order:
    """Notes what ran."""

    def __init__(self):
        self.ran = []

    def quick(self, name, patch=None):
        async def act():
            self.ran.append(name)
            return {name: 1} if patch is None else patch

        return Step(name, act)


@pytest.mark.parametrize("crash", [False, True])
async def test_finished_siblings_do_not_run_again(stores, crash):
    """What they returned is kept, of any kind, and the stage is committed as a whole in the end."""
    clock, order = stores.clock, Order()
    clock.autojump = False
    act = Failing(clock, 1)

    def all_of_it():
        steps = [
            order.quick("a", {"a": {"deep": [1]}}),
            Step("nothing", lambda: order.ran.append("nothing")),
            Step("s", act, retry=Retry(3, backoff="1h", max="9h")),
            Step("each", lambda item: order.ran.append("each") or item * 2, each="items", into="out"),
        ]
        return flow(*steps, router=lambda results: Jump("end", patch={"results": results}))

    rt = await stores.enter(all_of_it())
    run_id = await begin(rt, items=[1, 2])
    await clock.run_until_idle()
    info = await rt.get_run(run_id, state=True)
    assert (info.status, dict(info.state)) == ("delayed", {"items": [1, 2]})
    if crash:
        await stores.crash(rt)
        rt = await stores.enter(all_of_it())
    await clock.run_for(hours=2)
    result = await rt.wait(run_id)
    assert result.status == "completed"
    assert sorted(order.ran) == ["a", "each", "each", "nothing"]
    assert (result.state["a"], result.state["out"], result.state["done"]) == ({"deep": [1]}, [2, 4], 2)
    assert result.state["results"] == {"a": {"a": {"deep": [1]}}, "nothing": None, "s": {"done": 2}, "each": [2, 4]}


@pytest.mark.parametrize(
    "told", [Jump("end"), Delay("1m", then="end"), Pause(Wait("go", id="g"), "end")], ids=["jump", "delay", "pause"]
)
async def test_a_siblings_instruction_is_kept(stores, told):
    """A sibling that decided where the run goes has decided."""
    clock, calls = stores.clock, []

    async def decide():
        calls.append(1)
        return told

    rt = await stores.enter(
        flow(Step("d", decide), Step("s", Failing(clock, 1), retry=Retry(2, backoff="1h", max="9h")))
    )
    run_id = await begin(rt)
    await clock.run_for(hours=2)
    if isinstance(told, Pause):
        await rt.emit("go")
    assert (await rt.wait(run_id)).status == "completed"
    assert calls == [1]


async def test_running_siblings_are_awaited(stores):
    """The run is parked only once nothing works any more; if the delay is over by then, it goes on in memory."""
    clock = stores.clock
    clock.autojump = False
    act, free, ended = Failing(clock, 1), asyncio.Event(), []

    async def slow():
        await free.wait()
        ended.append(clock.now())

    rt = await stores.enter(flow(Step("slow", slow), Step("s", act, retry=Retry(3, backoff="1h", max="9h"))))
    run_id = await begin(rt)
    await clock.run_for(minutes=30)
    assert (await rt.get_run(run_id)).status == "running"
    free.set()
    await clock.run_until_idle()
    assert (await rt.get_run(run_id)).status == "delayed"
    await clock.run_for(minutes=31)
    assert (await rt.wait(run_id)).status == "completed"
    assert (len(ended), act.seen) == (1, [(1, 0), (2, 3600)])
    free.clear()
    act.seen.clear()
    act.began = clock.now()
    other = await begin(rt)
    await clock.run_for(hours=2)
    assert act.seen == [(1, 0), (2, 3600)]
    free.set()
    assert (await rt.wait(other)).status == "completed"
    assert "pipeline:delay" not in (await rt.timeline(other)).types()


async def test_two_steps_wait(stores):
    """With two delays the run comes back for the earlier one, and is parked again for the later one."""
    clock = stores.clock
    first, second = Failing(clock, 1), Failing(clock, 2)
    steps = [
        Step("first", first, retry=Retry(3, backoff="1h", max="9h")),
        Step("second", second, retry=Retry(3, backoff="3h", factor=2, max="9h")),
    ]
    rt = await stores.enter(flow(*steps))
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).status == "completed"
    assert first.seen == [(1, 0), (2, 3600)]
    assert second.seen == [(1, 0), (2, 3 * 3600), (3, 9 * 3600)]


async def test_a_final_failure_ends_the_wait_of_others(stores):
    """A sibling that fails for good fails the stage, whatever the others wait for."""
    clock, free = stores.clock, asyncio.Event()
    clock.autojump = False

    async def fails():
        await free.wait()
        raise ValueError("for good")

    rt = await stores.enter(flow(Step("f", fails), Step("s", Failing(clock), retry=Retry(3, backoff="1h", max="9h"))))
    run_id = await begin(rt)
    await clock.run_for(minutes=1)
    free.set()
    result = await rt.wait(run_id)
    assert (result.status, str(result.error)) == ("failed", "ValueError: for good")
    assert not await kept(rt, run_id)


async def test_it_can_be_aborted(stores):
    """A parked run is aborted when the call returns."""
    clock = stores.clock
    clock.autojump = False
    rt = await stores.enter(flow(Step("s", Failing(clock), retry=Retry(3, backoff="1h", max="9h"))))
    run_id = await begin(rt)
    await clock.run_until_idle()
    await rt.abort(run_id)
    assert (await rt.get_run(run_id)).status == "aborted"


async def test_it_can_be_signalled(stores):
    """A signal to a parked run is there when it goes on, and in its state in the end."""
    clock, latest = stores.clock, []
    clock.autojump = False

    async def act(ctx: StepContext):
        latest.append(ctx.latest().get("n"))
        if ctx.attempt == 1:
            raise RuntimeError("no")

    rt = await stores.enter(flow(Step("s", act, retry=Retry(3, backoff="1h", max="9h"))))
    run_id = await begin(rt)
    await clock.run_until_idle()
    await rt.signal(run_id, {"n": 1})
    await clock.run_for(hours=2)
    result = await rt.wait(run_id)
    assert (result.status, result.state["n"], latest) == ("completed", 1, [None, 1])


@pytest.mark.parametrize("holds", [True, False])
async def test_its_slot_follows_the_rule_of_a_delay(stores, holds):
    """A parked run keeps its slot or gives it back, as one behind a `Delay` does."""
    clock = stores.clock
    clock.autojump = False
    act = Failing(clock, 1)
    mode = Serialized(holds_slot_while_paused=holds)
    rt = await stores.enter(flow(Step("s", act, retry=Retry(2, backoff="1h", max="9h")), mode=mode))
    first = await begin(rt)
    await clock.run_until_idle()
    second = await begin(rt)
    await clock.run_until_idle()
    assert (await rt.get_run(second)).status == ("queued" if holds else "completed")
    await clock.run_for(hours=2)
    assert [(await rt.wait(run_id)).status for run_id in (first, second)] == ["completed"] * 2


async def test_why_the_run_was_resumed(stores):
    """`ctx.resume` is the same in the attempts after a park and after a crash as in the first."""
    clock, seen = stores.clock, []
    clock.autojump = False

    async def act(ctx: StepContext):
        seen.append((ctx.attempt, ctx.resume.reason, ctx.resume.wait, ctx.resume.event.payload))
        if ctx.attempt < 3:
            raise RetryAfter("1h" if ctx.attempt == 1 else 10)

    def waiting():
        wf = Workflow("w")

        @wf.on("begin")
        @wf.step
        async def one(): ...

        wf.wait("gate", on="go")
        wf.step(act, id="act", retry=Retry(3))
        return wf

    rt = await stores.enter(waiting())
    run_id = await begin(rt)
    await clock.run_until_idle()
    await rt.emit("go", {"n": 1})
    await clock.run_for(minutes=60, seconds=5)
    await stores.crash(rt)
    rt = await stores.enter(waiting())
    await clock.run_for(10)
    assert (await rt.wait(run_id)).status == "completed"
    assert seen == [(number, "event", "gate", {"n": 1}) for number in (1, 2, 3)]


async def test_the_stages_timeout_counts_on(stores):
    """The time of the stage goes on while its run is parked, and ends it: without another attempt."""
    clock = stores.clock
    act = Failing(clock)
    rt = await stores.enter(flow(Step("s", act, retry=Retry(9, backoff="1h", factor=1, max="1h")), timeout="2h30m"))
    result = await rt.run("w")
    assert (result.status, result.error.type) == ("failed", "StepTimeout")
    assert (act.seen, clock.now() - act.began) == ([(1, 0), (2, 3600), (3, 7200)], 9000)


async def test_services_of_the_stage(stores):
    """Services of the stage are closed when the run is parked, as at a pause, and built anew when it goes on."""
    seen = []

    async def factory():
        seen.append("open")
        try:
            yield object()
        except BaseException:
            seen.append("roll back")
            raise
        seen.append("close")

    async def act(ctx: StepContext, it: Annotated[object, Use("it")]):
        if ctx.attempt == 1:
            raise RuntimeError("no")

    services = [Service("it", factory, scope="stage")]
    rt = await stores.enter(flow(Step("s", act, retry=Retry(2, backoff="1h", max="9h")), services=services))
    assert (await rt.wait(await begin(rt))).status == "completed"
    assert seen == ["open", "close", "open", "close"]


async def test_services_that_cannot_be_closed_at_the_park(stores):
    """If closing them fails then, the stage fails, and nothing is kept of the visit."""
    seen = []

    async def factory():
        yield object()
        seen.append("close")
        raise OSError("no commit")

    async def act(it: Annotated[object, Use("it")]):
        raise RuntimeError("no")

    services = [Service("it", factory, scope="stage")]
    rt = await stores.enter(flow(Step("s", act, retry=Retry(2, backoff="1h", max="9h")), services=services))
    run_id = await begin(rt)
    result = await rt.wait(run_id)
    assert (result.status, result.error.type, seen) == ("failed", "OSError", ["close"])
    assert not await kept(rt, run_id)


async def test_a_loop_over_the_stage(stores):
    """Each visit has its own attempts and its own key, also behind a jump."""
    keys, seen = [], []

    async def act(ctx: StepContext, n: int = 0):
        keys.append(ctx.idempotency_key)
        seen.append((n, ctx.attempt))
        if ctx.attempt == 1:
            raise RetryAfter("1h" if n % 2 else 1)
        return {"n": n + 1}

    def again(state):
        return Jump("work") if state["n"] < 4 else None

    rt = await stores.enter(flow(Step("s", act, retry=Retry(2)), router=again))
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).status == "completed"
    assert seen == [(n, attempt) for n in range(4) for attempt in (1, 2)]
    assert len(set(keys)) == 4
    assert keys[0::2] == keys[1::2]


async def test_a_failure_that_is_handled(stores):
    """After the last attempt the failure route applies; entered again by hand, the stage begins with attempt 1."""
    clock = stores.clock
    act = Failing(clock, 2)
    rt = await stores.enter(flow(Step("s", act, retry=Retry(2, backoff="1h", max="9h")), on_failure="pause"))
    run_id = await begin(rt)
    result = await rt.wait(run_id, until="rest")
    assert (result.status, result.error.attempt) == ("paused", 2)
    result = await rt.resume(run_id)
    assert (result.status, act.attempts) == ("completed", [1, 2, 1])


async def test_the_retry_is_gone_in_the_next_version(stores):
    """A version of the workflow without the Retry runs the step once, and keeps nothing."""
    clock = stores.clock
    clock.autojump = False
    act = Failing(clock, 1)
    rt = await stores.enter(flow(Step("s", act, retry=Retry(3, backoff="1h", max="9h"))))
    run_id = await begin(rt)
    await clock.run_until_idle()
    await stores.crash(rt)
    rt = await stores.enter(flow(Step("s", act)))
    await clock.run_for(hours=2)
    assert (await rt.wait(run_id)).status == "completed"
    assert act.attempts == [1, 1]
    assert len(act.keys) == 1
    assert not await kept(rt, run_id)


async def test_on_prepare_is_called_once(stores):
    """A run that is parked in its first stage has begun: it is not prepared again."""
    clock, prepared = stores.clock, []
    for timeline in (True, False):
        rt = await stores.enter(timeline=timeline)
        wf = flow(Step("s", Failing(clock, 1), retry=Retry(3, backoff="1h", max="9h")))
        await rt.register(wf, on_prepare=lambda ctx: prepared.append(1))
        assert (await rt.wait(await begin(rt))).status == "completed"
        await rt.stop()
    assert prepared == [1, 1]


# ----------------------------------------------------------------------------------------------------- with `each`
@pytest.mark.parametrize("crash", [False, True])
async def test_elements_park(stores, crash):
    """Elements that wait for hours park the run, once the others are done; those are not done again."""
    clock, calls = stores.clock, []
    clock.autojump = False

    async def act(item, ctx: StepContext):
        calls.append((item, ctx.attempt))
        if item % 5 == 0 and ctx.attempt < 3:
            raise RetryAfter("1h")
        return item * 2

    def over():
        return flow(Step("s", act, each="items", into="out", limit=4, retry=Retry(3)))

    rt = await stores.enter(over())
    run_id = await begin(rt, items=list(range(20)))
    await clock.run_for(minutes=1)
    if crash:
        await stores.crash(rt)
        rt = await stores.enter(over())
    await clock.run_for(hours=9)
    result = await rt.wait(run_id)
    assert result.state["out"] == [item * 2 for item in range(20)]
    expected = [(item, attempt) for item in range(20) for attempt in ((1, 2, 3) if item % 5 == 0 else (1,))]
    assert sorted(calls) == expected


async def test_other_elements_than_before(stores):
    """A signal that changes the list while the run is parked comes in at the end of the stage, not in the middle."""
    clock, calls = stores.clock, []
    clock.autojump = False

    async def act(item, ctx: StepContext):
        calls.append(item)
        if item == "late" and ctx.attempt == 1:
            raise RetryAfter("1h")
        return item

    rt = await stores.enter(flow(Step("s", act, each="items", into="out", retry=Retry(3))))
    run_id = await begin(rt, items=["a", "late"])
    await clock.run_until_idle()
    await rt.signal(run_id, {"items": ["x", "y"]})
    await clock.run_for(hours=2)
    result = await rt.wait(run_id)
    assert (result.state["out"], result.state["items"]) == (["a", "late"], ["x", "y"])
    assert calls == ["a", "late", "late"]


async def test_a_failing_element_while_others_wait(stores):
    """One final failure gives up the elements that wait for their next attempt."""
    clock, free = stores.clock, asyncio.Event()
    clock.autojump = False

    async def act(item):
        if item == 0:
            raise RetryAfter("1h")
        await free.wait()
        raise ValueError("for good") if item == 1 else RetryAfter("2h")

    rt = await stores.enter(flow(Step("s", act, each="items", retry=Retry(3, on=(OSError,)))))
    run_id = await begin(rt, items=[0, 1])
    await clock.run_for(1)
    free.set()
    result = await rt.wait(run_id)
    assert (result.status, result.error.message) == ("failed", "element 1: for good")
    assert not any(rests(changes) and changes.moves[0].status == "delayed" for changes in rt.store.written)


# ------------------------------------------------------------------------------------------------------- of an undo
def undoing(undo, ran=None, **options):
    """Two stages whose undos are called because the third one fails; the second undo is the given one."""
    wf = Workflow("w")
    wf.on("begin")
    wf.step(lambda: {"a": 1}, id="a", undo=lambda: ran.append("a"))
    wf.step(lambda: {"b": 1}, id="b", undo=undo, **options)
    wf.step(lambda: {"c": "c" * 20_000}, id="c")

    @wf.step
    async def fail():
        raise ValueError("no")

    return wf


@pytest.mark.parametrize("timeline", [True, False])
async def test_attempts_of_an_undo_count_on(stores, timeline):
    """However often the process dies in the delays of an undo, it has as many attempts as its Retry says."""
    clock, ran = stores.clock, []
    clock.autojump = False
    act = Failing(clock)
    retry = Retry(3, backoff=3600, factor=1, max="9h")
    rt = await stores.enter(undoing(act, ran, retry=retry), timeline=timeline)
    run_id = await begin(rt)
    for _ in range(5):
        await clock.run_for(minutes=20)
        assert (await rt.get_run(run_id)).waits == ()
        await stores.crash(rt)
        rt = await stores.enter(undoing(act, ran, retry=retry), timeline=timeline)
    await clock.run_for(hours=3)
    result = await rt.wait(run_id)
    assert (result.status, str(result.error)) == ("failed", "ValueError: no")
    assert (act.seen, ran) == ([(1, 0), (2, 3600), (3, 7200)], ["a"])
    assert len(act.keys) == 1
    assert dict(result.state) == {"a": 1, "b": 1, "c": "c" * 20_000}
    assert not await kept(rt, run_id)


async def test_undos_of_one_stage_have_attempts_of_their_own(stores):
    """Two steps of one stage are undone one after another, each with all its attempts."""
    clock = stores.clock
    first, second = Failing(clock), Failing(clock)
    retry = Retry(2, backoff=10)
    steps = [Step("one", lambda: None, undo=first, retry=retry), Step("two", lambda: None, undo=second, retry=retry)]
    fails = Stage("end", [Step("end", lambda: 1 / 0)])
    wf = Workflow("w", triggers={"t": Trigger("begin")}, pipelines=[Pipeline("main", [Stage("s", steps), fails])])
    rt = await stores.enter(wf)
    assert (await rt.wait(await begin(rt))).status == "failed"
    assert (first.attempts, second.attempts) == ([1, 2], [1, 2])
    assert first.keys.isdisjoint(second.keys)
