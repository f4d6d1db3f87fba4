"""Two calls for one run at once: each is stopped at each of its accesses to the store, while the other one goes on."""

from __future__ import annotations

import itertools

import pytest
from support_stepping import SteppedStore, begin

from poundlock import (
    Event,
    NotPaused,
    Pause,
    Pipeline,
    Retry,
    RunFinished,
    RunStatus,
    Serialized,
    Stage,
    StaleResume,
    StateRef,
    Step,
    Transient,
    Trigger,
    Wait,
    Workflow,
)
from poundlock.errors import NotRegistered, PoundlockError, RunNotFinished, RuntimeStopped, StoreUnavailable

ABORTED, COMPLETED, PAUSED, FAILED = RunStatus.ABORTED, RunStatus.COMPLETED, RunStatus.PAUSED, RunStatus.FAILED
TIME = 3600
KINDS = {"row": (0, Transient(concurrency=1)), "memory": (4 * TIME, Serialized())}
"""Where a paused run is, and what becomes of its slot: (pause window, mode)."""


class Desk:
    """A run with two gates, what may be done to it, and what is known of that afterwards."""

    def __init__(self, stores, begins, kind):
        self.stores = stores
        self.begins = begins
        self.window, self.mode = KINDS[kind]
        self.began = 0
        self.passed = []
        self.other = None

    def workflow(self):
        async def first(id):
            self.began += 1
            if self.begins in ("delayed", "failed") and self.began == 1:
                raise ConnectionError("come again")

        async def passed(ctx, state):
            self.passed.append((ctx.resume.reason, state.get("n"), state.get("by")))
            return {"n": None, "by": None}

        retry = Retry(2, backoff=TIME, jitter=0) if self.begins == "delayed" else None
        own = {"id": StateRef("id")}
        stages = [
            Stage("first", [Step("first", first, retry=retry)]),
            Stage("a", router=Pause(Wait("go", id="a", correlate=own, timeout=2 * TIME, on_timeout="resume"))),
            Stage("behind-a", [Step("behind-a", passed)]),
            Stage("b", router=Pause(Wait("go", id="b", correlate=own))),
            Stage("behind-b", [Step("behind-b", passed)]),
        ]
        triggers = {"begin": Trigger("begin")}
        return Workflow("w", mode=self.mode, triggers=triggers, pipelines=[Pipeline("main", stages)])

    async def enter(self, store=None):
        self.rt = await self.stores.enter(self.workflow(), store=store, pause_window=self.window)
        return self.rt

    async def come_to(self, store):
        """Bring the run to where the two calls find it."""
        rt = await self.enter(store)
        if self.begins == "queued":
            self.mode = Serialized()
            await rt.deregister("w")
            await rt.register(self.workflow())
            [self.other] = (await rt.emit("begin", id="other")).run_ids
            await self.stores.clock.run_until_idle()
        [self.run_id] = (await begin(store.claimer, rt.emit("begin", id="mine"))).run_ids
        await self.stores.clock.run_until_idle()
        if self.begins == "paused":  # it is due at the same time as others
            await self.stores.clock.run_for(TIME)
        in_memory = self.begins == "delayed" and self.window > TIME  # it waits for its next attempt in a task
        assert await self.status() == ("running" if in_memory else self.begins)

    async def status(self):
        return (await self.rt.get_run(self.run_id)).status

    # ---------------------------------------------------------------------------------------- what may be done
    async def event(self, n):
        event = Event("go", {"id": "mine", "n": n}, id=f"{self.run_id}-{n}")
        return [str(line.verdict) for line in (await self.rt.emit(event)).lines]

    async def resume(self, n):
        await self.rt.resume(self.run_id, {"by": n}, until="accepted")

    async def abort(self, _):
        await self.rt.abort(self.run_id)

    async def signal(self, n):
        await self.rt.signal(self.run_id, {f"told-{n}": True})

    async def timer(self, _):
        self.stores.clock.advance(TIME)

    async def pause(self, _):
        await self.rt.pause(self.run_id)

    async def retry(self, _):
        await self.rt.retry(self.run_id)

    async def free(self, _):
        await self.rt.abort(self.other)

    async def deregister(self, _):
        await self.rt.deregister("w")

    async def take_out(self, _):
        await self.rt.deregister("w", active="abort")

    async def stop(self, _):
        await self.rt.stop(drain=0)


TWICE = {"event", "resume", "abort", "signal", "retry"}
EVERYWHERE = ["event", "resume", "abort", "signal", "deregister", "take_out", "stop"]
ACTS = {"paused": ["timer", "pause"], "delayed": ["timer", "pause"], "queued": ["free", "pause"], "failed": ["retry"]}
WAYS_OUT = {"deregister", "take_out", "stop"}
REFUSALS = (NotPaused, StaleResume, RunFinished, RunNotFinished, RuntimeStopped, NotRegistered)


def pairs():
    """Yield (where the run is, both acts), if the two say something about each other."""
    for begins, own in ACTS.items():
        for first, second in itertools.product([*EVERYWHERE, *own], repeat=2):
            told_elsewhere = begins != "paused" and first not in own and second not in own
            if told_elsewhere or {first, second} <= WAYS_OUT or (first == second and first not in TWICE):
                continue
            yield pytest.param(begins, (first, second), id=f"{begins}-{first}-{second}")


@pytest.mark.parametrize(("begins", "acts"), [*pairs()])
async def test_two_calls_for_one_run(stores, begins, acts):
    """Whichever access the first one is stopped at, the run comes to rest, and nothing is lost or counted twice."""
    for kind in KINDS:
        for number in itertools.count(1):
            access = await two_at_once(stores, begins, acts, (number, "after"), kind)
            if access is None:
                break
            if access in SteppedStore.WRITES:
                await two_at_once(stores, begins, acts, (number, "before"), kind)


async def two_at_once(stores, begins, acts, stop, kind):
    """Stop the first act at one access while the second one goes on; returns the access, if there was one."""
    clock = stores.clock
    clock.autojump = False
    desk = Desk(stores, begins, kind)
    claimer = str(1 + acts.index("timer")) if "timer" in acts else ""
    store = SteppedStore(stores.store().inner, clock, None, claimer)
    await desk.come_to(store)
    store.stop = ("1", *stop)
    first = begin("1", getattr(desk, acts[0])(1))
    await clock.run_until_idle()
    second = begin("2", getattr(desk, acts[1])(2))
    await clock.run_until_idle()
    reached = store.stopped_at
    store.let_on()
    await clock.run_until_idle()
    if "stop" in acts:
        await clock.run_for(30)
    said = f"{acts[0]} stopped {stop[1]} its access {stop[0]}, {reached}, and {acts[1]}; {kind}"
    for task in (first, second):
        assert task.done(), f"{said}: {task} waits for ever"
    answers = [task.exception() or task.result() for task in (first, second)]
    refusals = (*REFUSALS, StoreUnavailable) if "stop" in acts else REFUSALS  # it was closed in the middle of a call
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, refusals):
            raise AssertionError(said) from answer
    try:
        await judge(desk, acts, answers)
    except (AssertionError, PoundlockError) as error:
        raise AssertionError(f"{said}: {answers}, {desk.passed}: {error}") from error
    return reached


async def come_to_rest(desk, acts):
    """Let the run go on where a call has left it to others."""
    clock = desk.stores.clock
    if "stop" in acts:
        await desk.enter()
    elif "deregister" in acts or "take_out" in acts:
        await desk.rt.register(desk.workflow())
    await clock.run_until_idle()
    if desk.other is not None:
        await desk.rt.abort(desk.other)
        await clock.run_until_idle()
    if "pause" in acts and await desk.status() is PAUSED:
        await desk.rt.unpause(desk.run_id)
        await clock.run_until_idle()
    if desk.begins == "delayed" and "timer" not in acts:
        await clock.run_for(TIME)


async def judge(desk, acts, answers):
    """Check that the run is where the answers say, that it is at rest, and that nothing was lost or used twice."""
    await come_to_rest(desk, acts)
    run_id, rt, status = desk.run_id, desk.rt, await desk.status()
    assert status in (ABORTED, COMPLETED, PAUSED, FAILED), f"the run is {status}"
    said = [*enumerate(zip(acts, answers, strict=True), 1)]
    done = {act for _, (act, answer) in said if not isinstance(answer, BaseException)}
    assert (status is FAILED) == (desk.begins == "failed" and "retry" not in done)
    if "abort" in done:
        assert status is ABORTED
    elif "take_out" not in done:
        assert status is not ABORTED
    events = {number for number, (act, answer) in said if act == "event" and answer in (["resumed"], ["buffered"])}
    answered = {number for number, (act, answer) in said if act == "resume" and answer is None}
    signals = {number for number, (act, answer) in said if act == "signal" and answer is None}
    by = [answer for reason, _, answer in desk.passed if reason == "api"]
    used = [n for reason, n, _ in desk.passed if reason == "event"]
    late = [reason for reason, _, _ in desk.passed if reason == "timeout"]
    inbox = await rt.store.inbox(run_id, 0)
    kept = [message.event.event.payload["n"] for message in inbox if message.event]
    timeline = await rt.timeline(run_id)
    told = [key for key in timeline.state_at(len(timeline)) if key.startswith("told")]
    told += [key for message in inbox if message.kind == "signal" for key in message.body]
    assert len(by) + len(used) + len(late) == len(desk.passed)
    for counted in (used, by, late, told):
        assert len(set(counted)) == len(counted), "something counted twice"
    if status is ABORTED or status is FAILED:
        assert set(by) <= answered
        assert set(used) <= events
    else:
        unknown = {number for number, (act, answer) in said if act == "resume" and type(answer) is StoreUnavailable}
        assert answered <= set(by) <= answered | unknown, "an answer was lost"
        assert {*used, *kept} == events, f"an event was lost: {used}, {kept}"
        assert {int(key[-1]) for key in told} == signals, "a signal was lost"
        behind = 2 if status is COMPLETED else 1 if (await rt.get_run(run_id)).stage == "b" else 0
        assert len(desk.passed) == behind
    ends = timeline.types().count("pipeline:success") + timeline.types().count("pipeline:abort")
    assert ends == (status in (COMPLETED, ABORTED))
    if status is PAUSED:
        await rt.abort(run_id)
        await desk.stores.clock.run_until_idle()
    [(load, _)] = await rt.store.read_loads([("w", "")])
    assert load.idle, f"a slot is taken for ever: {load}"
    assert rt.list_all_runs() == []
    await rt.stop(drain=0)
