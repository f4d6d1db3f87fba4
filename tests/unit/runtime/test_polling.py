"""A step that begins something slow, and is asked for it until it is done."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from pydantic import BaseModel
from support import Stores

from poundlock import (
    Advance,
    InvalidDefinition,
    Jump,
    NonRetryable,
    Pending,
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
    Workflow,
)


class Jobs:
    """Something slow outside: a job is done after so many checks; notes when what was called."""

    def __init__(self, clock, checks=3, raises=None):
        self.clock = clock
        self.checks = checks
        self.raises = raises or {}
        self.began = clock.now()
        self.submitted, self.checked, self.keys, self.got = [], [], set(), []

    async def submit(self, ctx: StepContext):
        self.submitted.append(self.clock.now() - self.began)
        self.keys.add(ctx.idempotency_key)
        return {"id": f"job-{len(self.submitted)}"}

    async def check(self, job, ctx: StepContext):
        self.checked.append((ctx.attempt, self.clock.now() - self.began))
        self.keys.add(ctx.idempotency_key)
        self.got.append(job)
        error = self.raises.get(len(self.checked))
        if error is not None:
            raise error
        return Pending() if len(self.checked) < self.checks else {"done": job["id"]}

    def step(self, id="s", **options):
        return Step(id, self.submit, poll=self.check, **{"every": "1m", **options})

    @property
    def times(self):
        return [time for _, time in self.checked]


def flow(*steps, mode=None, services=(), state=None, router=None, **stage):
    stages = [Stage("work", steps, router=router, **stage), Stage("end", [Step("end", lambda: {"end": True})])]
    triggers, pipelines = {"begin": Trigger("begin")}, [Pipeline("main", stages)]
    return Workflow("w", triggers=triggers, pipelines=pipelines, mode=mode, services=services, state=state)


async def begin(rt, **payload):
    [run_id] = (await rt.emit("begin", payload)).run_ids
    return run_id


async def left(rt, run_id):
    record = await rt.store.load(run_id)
    return [row.wait_id for row in record.waits]


# ------------------------------------------------------------------------------------------------------------- checks
@pytest.mark.parametrize("every", [10, 60, 3600], ids=["short", "limit", "long"])
async def test_checked_until_it_is_done(stores, every):
    """The first check comes after `every`, then again after each; what is not `Pending` is the step's result."""
    jobs = Jobs(stores.clock)
    rt = await stores.enter(flow(jobs.step(every=every)))
    run_id = await begin(rt)
    result = await rt.wait(run_id)
    assert (result.status, dict(result.state)) == ("completed", {"done": "job-1", "end": True})
    assert (jobs.submitted, jobs.times) == ([0], [every, 2 * every, 3 * every])
    assert jobs.got == [{"id": "job-1"}] * 3
    assert len(jobs.keys) == 1
    assert await left(rt, run_id) == []


async def test_a_run_that_waits_is_a_row(stores):
    """Between checks that are a minute or more apart, the run is delayed, and shows no waits."""
    jobs = Jobs(stores.clock, 9)
    stores.clock.autojump = False
    rt = await stores.enter(flow(jobs.step(every="1m")))
    run_id = await begin(rt)
    for _ in range(3):
        await stores.clock.run_for(61)
        info = await rt.get_run(run_id)
        assert (info.status, info.waits) == ("delayed", ())


@pytest.mark.parametrize("every", [10, 3600], ids=["short", "long"])
@pytest.mark.parametrize("timeline", [True, False])
async def test_not_begun_again_after_a_crash(stores, every, timeline):
    """The job survives a restart: it is not submitted again, and checks go on."""
    jobs = Jobs(stores.clock, 4)
    stores.clock.autojump = False
    for _ in range(4):
        rt = await stores.enter(flow(jobs.step(every=every)), timeline=timeline)
        if not jobs.submitted:
            run_id = await begin(rt)
        await stores.clock.run_for(every)
        await stores.crash(rt)
    rt = await stores.enter(flow(jobs.step(every=every)), timeline=timeline)
    await stores.clock.run_for(hours=9)
    assert (await rt.wait(run_id)).status == "completed"
    assert len(jobs.submitted) == 1
    assert jobs.got == [{"id": "job-1"}] * len(jobs.got)
    assert len(jobs.keys) == 1


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("every", [10, 3600], ids=["short", "long"])
async def test_a_crash_at_every_commit(store_kind, tmp_path, vclock, every, where):
    """Whichever commit the process dies at: one job, submitted again only if its commit was the one."""

    async def ended(rt):
        found = (await rt.find_runs(workflow="w")).items
        return await rt.wait(found[0].run_id if found else await begin(rt))

    async def once(name, crash):
        (tmp_path / name).mkdir()
        place = Stores(store_kind, tmp_path / name, vclock)
        store = place.store()
        store.crash = crash
        jobs = Jobs(vclock)
        try:
            rt = await place.enter(flow(jobs.step(every=every)), store=store)
            working = asyncio.create_task(ended(rt))
            dead = asyncio.create_task(store.crashed.wait())
            await asyncio.wait([working, dead], return_when=asyncio.FIRST_COMPLETED)
            dead.cancel()
            if store.dead:
                working.cancel()
                await asyncio.wait([working])
                await place.crash(rt)
                rt = await place.enter(flow(jobs.step(every=every)))
                result = await ended(rt)
            else:
                result = await working
            return (
                result.status,
                len(jobs.submitted),
                result.state["done"],
                await left(rt, result.run_id),
                store.commits,
            )
        finally:
            await place.close()

    *expected, commits = await once("undisturbed", None)
    assert expected == ["completed", 1, "job-1", []]
    again = []
    for number in range(1, commits + 1):
        status, submitted, done, rows, _ = await once(str(number), (number, where))
        assert (status, rows) == ("completed", []), number
        again.append(submitted)
        assert done == f"job-{submitted}", number
    assert again.count(2) <= 2  # the commit of the job, and one at the same moment
    assert max(again) <= 2


async def test_the_log_does_not_grow(stores):
    """A day of checks each minute adds nothing to the log, with a timeline or without one."""
    sizes = []
    for checks in (2, 1440):
        jobs = Jobs(stores.clock, checks)
        rt = await stores.enter(flow(jobs.step()))
        run_id = await begin(rt)
        assert (await rt.wait(run_id)).status == "completed"
        assert len(jobs.checked) == checks
        sizes.append(sum(row.size for row in await rt.store.history(run_id)))
        await rt.stop()
    assert sizes[0] == sizes[1]


async def test_what_the_timeline_tells(stores):
    """The job is begun, is pending, and is done; the polls in between are not told one by one."""
    jobs = Jobs(stores.clock)
    rt = await stores.enter(flow(jobs.step(max_wait="1h")))
    run_id = await begin(rt)
    await rt.wait(run_id)
    entries = [entry for entry in (await rt.timeline(run_id)).entries if entry.path == "main/work/s"]
    assert [entry.type for entry in entries if entry.source == "pipeline" and entry.type != "step:kept"] == [
        "step:start",
        "step:pending",
        "step:success",
    ]
    assert next(entry.payload for entry in entries if entry.type == "step:pending") == {
        "every": 60.0,
        "max_wait": 3600.0,
    }


async def test_pending_says_when(stores):
    """`Pending(after)` puts off the next check only."""
    jobs = Jobs(stores.clock)
    answers = [Pending("2h"), Pending(5), Pending(), {"x": 1}]

    async def check():
        jobs.checked.append((1, stores.clock.now() - jobs.began))
        return answers.pop(0)

    rt = await stores.enter(flow(Step("s", jobs.submit, poll=check, every="1m")))
    assert (await rt.wait(await begin(rt))).state["x"] == 1
    assert jobs.times == [60, 7260, 7265, 7325]


@pytest.mark.parametrize(
    ("every", "max_wait", "checks"),
    [("1m", "150s", 2), (10, 30, 3), ("1h", "1h", 1), ("2h", "1h", 0)],
    ids=["long", "short", "exact", "none"],
)
async def test_it_takes_too_long(stores, every, max_wait, checks):
    """Past `max_wait` the step fails with `StepTimeout`, without another check, and `on_failure` applies."""
    jobs = Jobs(stores.clock, 99)
    rt = await stores.enter(flow(jobs.step(every=every, max_wait=max_wait), on_failure="end"))
    run_id = await begin(rt)
    result = await rt.wait(run_id)
    assert (result.status, len(jobs.checked)) == ("completed", checks)
    entries = (await rt.timeline(run_id)).entries
    [failure] = [entry.payload for entry in entries if entry.type == "step:failure"]
    assert failure["type"] == "StepTimeout"
    assert "was not done within" in failure["message"]
    ended = next(entry.time for entry in entries if entry.type == "step:failure") - jobs.began
    assert ended == {"150s": 150, 30: 30, "1h": 3600}[max_wait]
    assert await left(rt, run_id) == []


async def test_the_time_goes_on_while_nobody_is_there(stores):
    """A check that is due is made, however late; if that finds nothing past `max_wait`, the step fails."""
    for checks, status in ((1, "completed"), (9, "failed")):
        jobs = Jobs(stores.clock, checks)
        stores.clock.autojump = False
        rt = await stores.enter(flow(jobs.step(max_wait="1h")))
        run_id = await begin(rt)
        await stores.clock.run_until_idle()
        await rt.stop()
        await stores.clock.run_for(hours=5)
        rt = await stores.enter(flow(jobs.step(max_wait="1h")))
        await stores.clock.run_until_idle()
        assert (await rt.wait(run_id)).status == status
        assert len(jobs.checked) == 1
        await rt.stop()


# ------------------------------------------------------------------------------------------------------------- errors
async def test_errors_of_a_check(stores):
    """A check that raises is repeated by the step's Retry: each check has all attempts, whatever the last one used."""
    jobs = Jobs(stores.clock, 6, raises={1: OSError("a"), 2: OSError("b"), 4: OSError("c"), 5: OSError("d")})
    rt = await stores.enter(flow(jobs.step(retry=Retry(3, backoff=5, factor=1))))
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).status == "completed"
    assert jobs.checked == [(1, 60), (2, 65), (3, 70), (1, 130), (2, 135), (3, 140)]
    assert (await rt.timeline(run_id)).types().count("poll:retry") == 4


@pytest.mark.parametrize("crash", [False, True])
async def test_a_check_that_fails_for_good(stores, crash):
    """After the last attempt of a check the step fails; the attempts of a check survive a crash."""
    jobs = Jobs(stores.clock, 9, raises={number: OSError(str(number)) for number in range(1, 9)})
    stores.clock.autojump = False

    def made():
        return flow(jobs.step(retry=Retry(3, backoff=5, factor=1)))

    rt = await stores.enter(made())
    run_id = await begin(rt)
    await stores.clock.run_for(62)
    if crash:
        await stores.crash(rt)
        rt = await stores.enter(made())
    await stores.clock.run_for(600)
    result = await rt.wait(run_id)
    assert (result.status, str(result.error), result.error.attempt) == ("failed", "OSError: 3", 3)
    assert jobs.checked == [(1, 60), (2, 65), (3, 70)]
    assert len(jobs.submitted) == 1


async def test_retry_after_in_a_check(stores):
    """`RetryAfter` and `NonRetryable` mean the same as in a step."""
    jobs = Jobs(stores.clock, 9, raises={1: RetryAfter("3h"), 2: NonRetryable("gone")})
    rt = await stores.enter(flow(jobs.step(retry=Retry(3))))
    result = await rt.wait(await begin(rt))
    assert (result.error.type, jobs.times) == ("NonRetryable", [60, 60 + 3 * 3600])


async def test_errors_of_the_submission(stores):
    """The step's own call has all attempts of its Retry, and the checks have theirs."""
    jobs = Jobs(stores.clock, 1)
    calls = []

    async def submit(ctx: StepContext):
        calls.append(ctx.attempt)
        if len(calls) < 3:
            raise OSError("busy")
        return await jobs.submit(ctx)

    step = Step("s", submit, poll=jobs.check, every="1m", retry=Retry(3, backoff="2h", factor=1, max="9h"))
    rt = await stores.enter(flow(step))
    assert (await rt.wait(await begin(rt))).status == "completed"
    assert (calls, jobs.submitted, jobs.checked) == ([1, 2, 3], [4 * 3600], [(1, 4 * 3600 + 60)])


async def test_a_check_that_hangs(stores):
    """`timeout` limits each check."""
    jobs, calls = Jobs(stores.clock), []

    async def check():
        calls.append(1)
        if len(calls) == 1:
            await asyncio.Event().wait()
        return {"x": 1}

    step = Step("s", jobs.submit, poll=check, every="1m", timeout=5, retry=Retry(2, backoff=1))
    rt = await stores.enter(flow(step))
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).status == "completed"
    assert "poll:timeout" in (await rt.timeline(run_id)).types()


@pytest.mark.parametrize("kind", ["job", "check", "text", "pending job", "after"])
async def test_what_may_not_be_returned(stores, kind):
    """The job and the result are data: instructions are refused, and so is text as a result, or a bad duration."""

    async def submit():
        return {"job": Jump("end"), "pending job": Pending()}.get(kind, {"id": 1})

    async def check():
        return {"check": Advance(), "text": "end", "after": Pending("soon")}.get(kind)

    rt = await stores.enter(flow(Step("s", submit, poll=check, every="1m")))
    result = await rt.wait(await begin(rt))
    assert (result.status, result.error.type) == ("failed", "StepFailed")


# ---------------------------------------------------------------------------------------------------- kinds and values
@pytest.mark.parametrize("kind", ["async", "thread", "inline", "method", "builtin"])
async def test_kinds_of_poll_functions(stores, kind):
    """Async functions, functions in threads and on the loop, and callables that do not show their parameters."""

    async def later(job):
        return {"got": job}

    def plain(job):
        return {"got": job}

    class Works:
        def check(self, job):
            return {"got": job}

    poll = {"async": later, "method": Works().check, "builtin": dict}.get(kind, plain)
    step = Step("s", lambda: {"n": 1}, poll=poll, every="1m", executor="inline" if kind == "inline" else None)
    rt = await stores.enter(flow(step))
    result = await rt.wait(await begin(rt))
    assert result.status == "completed"
    assert result.state.get("got", result.state.get("n")) in ({"n": 1}, 1)


class Ticket(BaseModel):
    number: int


class Order(BaseModel):
    item: str
    price: int = 0


@pytest.mark.parametrize("crash", [False, True])
async def test_models(stores, crash):
    """A job may be a model, and is read as the poll function asks for it; the result may be the state's model."""
    got = []

    async def submit(item: str):
        return Ticket(number=len(item))

    async def check(job: Ticket, state: Order, add: Annotated[int, Use("add")]):
        got.append(job)
        return state.model_copy(update={"price": job.number + add})

    def made():
        services = [Service("add", lambda: 100, scope="run")]
        return flow(Step("s", submit, poll=check, every="1m"), state=Whole, services=services)

    class Whole(Order):
        end: bool = False

    check.__annotations__["state"] = Whole
    stores.clock.autojump = False
    rt = await stores.enter(made())
    run_id = await begin(rt, item="abc")
    await stores.clock.run_until_idle()
    if crash:
        await stores.crash(rt)
        rt = await stores.enter(made())
    await stores.clock.run_for(61)
    assert (await rt.wait(run_id)).state.price == 103
    assert got == [Ticket(number=3)]


@pytest.mark.parametrize("job", [None, [], "text", 7, "x" * 50_000], ids=["none", "list", "text", "number", "large"])
async def test_any_data_is_a_job(stores, job):
    """A job is any data, also nothing, also much of it; each check has a copy of its own."""
    got = []

    async def check(job):
        got.append(job)
        if len(got) < 3:
            if isinstance(job, list):
                job.append("changed")
            return Pending()
        return {"same": got[0] == got[-1] or isinstance(job, list)}

    rt = await stores.enter(flow(Step("s", lambda: job, poll=check, every="1m")))
    result = await rt.wait(await begin(rt))
    assert (result.status, result.state["same"], got[-1]) == ("completed", True, job)


async def test_nothing_is_a_result(stores):
    """A poll function that returns None is done, and changes nothing."""
    rt = await stores.enter(flow(Step("s", lambda: 1, poll=lambda job: None, every="1m")))
    result = await rt.wait(await begin(rt))
    assert (result.status, dict(result.state)) == ("completed", {"end": True})


# ------------------------------------------------------------------------------------------------------------- others
@pytest.mark.parametrize("crash", [False, True])
async def test_two_of_them_and_a_plain_step(stores, crash):
    """Each has a job of its own; the plain step runs once, and all is committed together."""
    clock, ran = stores.clock, []
    one, two = Jobs(clock, 2), Jobs(clock, 3)
    clock.autojump = False

    async def check_two(job, ctx: StepContext):
        found = await two.check(job, ctx)
        return found if isinstance(found, Pending) else {"two": "done"}

    def made():
        steps = [
            one.step("one", every="2m"),
            Step("two", two.submit, poll=check_two, every="3m"),
            Step("plain", lambda: ran.append(1) or {"plain": True}),
        ]
        return flow(*steps, router=lambda results: Jump("end", patch={"seen": sorted(results)}))

    rt = await stores.enter(made())
    run_id = await begin(rt)
    await clock.run_for(minutes=5)
    assert dict((await rt.get_run(run_id, state=True)).state) == {}
    if crash:
        await stores.crash(rt)
        rt = await stores.enter(made())
    await clock.run_for(minutes=10)
    result = await rt.wait(run_id)
    assert dict(result.state) == {
        "done": "job-1",
        "two": "done",
        "plain": True,
        "seen": ["one", "plain", "two"],
        "end": True,
    }
    assert (ran, one.submitted, two.submitted) == ([1], [0], [0])
    assert (one.times, two.times) == ([120, 240], [180, 360, 540])


async def test_a_loop_begins_a_new_job(stores):
    """Each visit of the stage begins a job of its own."""
    jobs = Jobs(stores.clock, 1)
    wf = flow(jobs.step(), router=lambda state: Jump("work") if state["done"] != "job-3" else None)
    rt = await stores.enter(wf)
    result = await rt.wait(await begin(rt))
    assert (result.status, [job["id"] for job in jobs.got], len(jobs.keys)) == (
        "completed",
        ["job-1", "job-2", "job-3"],
        3,
    )


async def test_it_is_undone(stores):
    """A polling step that was committed is undone as others are; one that is still pending has nothing to undo."""
    undone = []
    jobs = Jobs(stores.clock, 1)

    async def undo(done):
        undone.append(done)

    wf = flow(jobs.step(undo=undo), router=lambda: Jump("end"))
    wf._pipelines[0] = Pipeline("main", [wf._pipelines[0].stages[0], Stage("end", [Step("end", lambda: 1 / 0)])])
    rt = await stores.enter(wf)
    assert (await rt.wait(await begin(rt))).status == "failed"
    assert undone == ["job-1"]


@pytest.mark.parametrize("holds", [True, False])
async def test_its_slot_follows_the_rule_of_a_delay(stores, holds):
    """A run that polls keeps its slot or gives it back between checks, as one behind a `Delay` does."""
    clock, jobs = stores.clock, Jobs(stores.clock, 2)
    clock.autojump = False
    rt = await stores.enter(flow(jobs.step(), mode=Serialized(holds_slot_while_paused=holds)))
    first = await begin(rt)
    await clock.run_for(1)
    second = await begin(rt)
    await clock.run_until_idle()
    assert (await rt.get_run(second)).status == ("queued" if holds else "delayed")
    await clock.run_for(minutes=9)
    assert [(await rt.wait(run_id)).status for run_id in (first, second)] == ["completed"] * 2


async def test_it_can_be_aborted_and_signalled(stores):
    """Between checks a run is aborted at once, and a check sees signals."""
    clock, seen = stores.clock, []
    clock.autojump = False

    async def check(ctx: StepContext):
        seen.append(ctx.latest().get("n"))
        return Pending()

    rt = await stores.enter(flow(Step("s", lambda: 1, poll=check, every="1m")))
    run_id = await begin(rt)
    await clock.run_for(61)
    await rt.signal(run_id, {"n": 1})
    await clock.run_for(60)
    await rt.abort(run_id)
    assert (await rt.get_run(run_id)).status == "aborted"
    assert seen == [None, 1]


@pytest.mark.parametrize("how", ["abort", "stop"])
async def test_in_the_middle_of_a_check(stores, how):
    """A check that is under way is interrupted like a step."""
    clock, reached = stores.clock, asyncio.Event()
    clock.autojump = False
    calls = []

    async def check():
        calls.append(1)
        reached.set()
        if len(calls) == 1:
            await asyncio.Event().wait()
        return {"x": 1}

    def made():
        return flow(Step("s", lambda: 1, poll=check, every="1m"))

    rt = await stores.enter(made())
    run_id = await begin(rt)
    await clock.run_for(61)
    await reached.wait()
    if how == "abort":
        await rt.abort(run_id)
        assert (await rt.wait(run_id)).status == "aborted"
        return
    await rt.stop(drain=0)
    rt = await stores.enter(made())
    await clock.run_until_idle()
    assert (await rt.wait(run_id)).status == "completed"


async def test_decorated(stores):
    """`@workflow.step(poll=, every=, max_wait=)` and `aside` take the same options."""
    jobs = Jobs(stores.clock, 1)
    wf = Workflow("w")
    wf.on("begin")
    wf.step(jobs.submit, id="a", poll=jobs.check, every="1m", max_wait="24h", then="b")
    wf.aside(jobs.submit, id="b", poll=jobs.check, every="1m", max_wait="24h")
    rt = await stores.enter(wf)
    result = await rt.wait(await begin(rt))
    assert (result.state["done"], len(jobs.submitted)) == ("job-2", 2)


def test_faults():
    """All that is wrong with a polling step is found at registration."""

    def refused(**options):
        wf = Workflow("w")
        wf.step(lambda: 1, id="s", **options)
        with pytest.raises(InvalidDefinition) as raised:
            wf.definition  # noqa: B018 - builds it
        return [path for path, _ in raised.value.faults]

    for options, place in [
        ({"every": "1m"}, "every"),
        ({"max_wait": "1m"}, "max_wait"),
        ({"poll": 1, "every": "1m"}, "poll"),
        ({"poll": print}, "every"),
        ({"poll": print, "every": 0}, "every"),
        ({"poll": print, "every": "soon"}, "every"),
        ({"poll": print, "every": "1m", "max_wait": "soon"}, "max_wait"),
        ({"poll": print, "every": "1m", "each": "items"}, "poll"),
    ]:
        assert [path.rpartition(".")[2] for path in refused(**options)] == [place], options


async def test_parameters_of_a_poll_function(stores):
    """A parameter that nothing can give is a fault; `job` is for poll functions, and no field of a state."""

    class State(BaseModel):
        a: int = 0

    class Taken(BaseModel):
        job: int = 0

    rt = await stores.enter()
    for state, poll, place in [
        (State, lambda job, nothing: None, "pipelines.main.work.s.poll.nothing"),
        (Taken, lambda job: None, "state.job"),
    ]:
        with pytest.raises(InvalidDefinition) as raised:
            await rt.register(flow(Step("s", lambda: 1, poll=poll, every="1m"), state=state))
        assert place in [path for path, _ in raised.value.faults]
