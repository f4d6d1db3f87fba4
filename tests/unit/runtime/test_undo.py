"""Compensation: what a run's stages committed is undone when it fails, or is aborted if the workflow says so."""

from __future__ import annotations

import asyncio
from typing import Annotated

import pytest
from pydantic import BaseModel

from poundlock import (
    Delay,
    Fail,
    InvalidDefinition,
    Jump,
    Pipeline,
    Retry,
    Service,
    Stage,
    Step,
    StepContext,
    Trigger,
    Use,
    Workflow,
)


class Trip:
    """A workflow of three stages with undos, behind which it fails, waits, or does what `last` does."""

    def __init__(self, last=None, **options):
        self.undone = []
        self.reached, self.through = asyncio.Event(), asyncio.Event()
        self.blocked = None
        self.last = last
        self.options = options

    async def undo(self, name):
        if name == self.blocked:
            self.reached.set()
            await self.through.wait()
        self.undone.append(name)

    def workflow(self):
        wf = Workflow("trip", **self.options)

        async def free_seat(seat):
            await self.undo(seat)

        async def free_room(room):
            await self.undo(room)
            return {"room": "returned values have no meaning"}

        async def free_car(car):
            await self.undo(car)
            return object()

        @wf.on("begin")
        @wf.step(undo=free_seat)
        async def seat():
            return {"seat": "seat"}

        @wf.step(undo=free_room)
        async def room():
            return {"room": "room"}

        @wf.step(undo=free_car)
        async def car():
            return {"car": "car"}

        if self.last is None:

            @wf.step
            async def pay():
                raise ValueError("refused")

        else:
            self.last(wf)
        return wf


async def begin(rt):
    [line] = (await rt.emit("begin")).lines
    return line.run_id


def finished(timeline):
    """The undos that ended, in order."""
    ends = ("undo:success", "undo:failure")
    return [(entry.type, entry.path.rpartition("/")[2]) for entry in timeline.entries if entry.type in ends]


# ------------------------------------------------------------------------------------------------------- a failure
async def test_the_latest_commit_is_undone_first(stores):
    """A failed run undoes its stages in reverse; error and state stay, and it is noted in the timeline."""
    trip = Trip()
    rt = await stores.enter(trip.workflow())
    run_id = await begin(rt)
    result = await rt.wait(run_id)
    assert (result.status, str(result.error), result.error.stage) == ("failed", "ValueError: refused", "pay")
    assert dict(result.state) == {"seat": "seat", "room": "room", "car": "car"}
    assert trip.undone == ["car", "room", "seat"]
    timeline = await rt.timeline(run_id)
    assert finished(timeline) == [("undo:success", "car"), ("undo:success", "room"), ("undo:success", "seat")]
    types = timeline.types()
    assert types.count("undo:start") == 3
    assert (types.count("pipeline:failure"), types[-1]) == (1, "pipeline:failure")


async def test_a_wait_answers_after_it(stores):
    """While it undoes, a run is running; the waiting caller is answered at its end, as is `on_complete`."""
    trip, ended = Trip(), []
    trip.blocked = "room"
    rt = await stores.enter()
    await rt.register(trip.workflow(), on_complete=lambda result: ended.append((result.status, *trip.undone)))
    run_id = await begin(rt)
    waiting = asyncio.create_task(rt.wait(run_id))
    await trip.reached.wait()
    info = await rt.get_run(run_id)
    assert (info.status, info.waits, waiting.done(), ended) == ("running", (), False, [])
    trip.through.set()
    assert (await waiting).status == "failed"
    assert ended == [("failed", "car", "room", "seat")]


async def test_a_run_that_completes_undoes_nothing(stores):
    """Nor does one whose failure is handled by a stage."""

    def last(wf):
        @wf.step(on_failure="tidy")
        async def pay():
            raise ValueError("refused")

        @wf.aside
        async def tidy(): ...

    trip = Trip(last)
    rt = await stores.enter(trip.workflow())
    assert (await rt.wait(await begin(rt))).status == "completed"
    assert trip.undone == []


async def test_a_failure_on_its_way_undoes(stores):
    """If the failure's stage fails too, the run fails, and so its stages are undone."""

    def last(wf):
        @wf.step(on_failure="tidy")
        async def pay():
            raise ValueError("refused")

        @wf.aside
        async def tidy():
            raise ValueError("tidy")

    trip = Trip(last)
    rt = await stores.enter(trip.workflow())
    assert str((await rt.wait(await begin(rt))).error) == "ValueError: tidy"
    assert trip.undone == ["car", "room", "seat"]


@pytest.mark.parametrize("timeline", [True, False])
async def test_once_per_visit_with_the_state_of_that_commit(stores, timeline):
    """A stage that was visited three times is undone three times, each with the state which that visit left."""
    seen, keys = [], set()

    async def take_back(n: int, ctx: StepContext):
        seen.append((n, ctx.state["n"]))
        keys.add(ctx.idempotency_key)

    wf = Workflow("w")

    @wf.on("begin")
    @wf.step(undo=take_back)
    async def add(ctx: StepContext, n: int = 0):
        keys.add(ctx.idempotency_key)
        return Jump("add", patch={"n": n + 1}) if n < 2 else {"n": n + 1}

    @wf.step
    async def fail():
        return Fail("no", patch={"n": 100})

    rt = await stores.enter(wf, timeline=timeline)
    result = await rt.wait(await begin(rt))
    assert (result.status, result.error.message, result.state["n"]) == ("failed", "no", 100)
    assert seen == [(3, 3), (2, 2), (1, 1)]
    assert len(keys) == 6


async def test_steps_of_one_stage_in_reverse(stores):
    """Steps that were committed together are undone one after another, the last one first; `def` and `inline` too."""
    undone = []

    def by(name):
        return lambda ctx: undone.append((name, ctx.step_id, ctx.stage_id))

    async def action(): ...

    steps = [
        Step("a", action, undo=by("a")),
        Step("b", action),
        Step("c", lambda: None, undo=by("c"), executor="inline"),
    ]
    fail = Stage("fail", router=Fail("no"))
    wf = Workflow("w", triggers={"t": Trigger("begin")}, pipelines=[Pipeline("main", [Stage("s", steps), fail])])
    rt = await stores.enter(wf)
    assert (await rt.wait(await begin(rt))).status == "failed"
    assert undone == [("c", "c", "s"), ("a", "a", "s")]


@pytest.mark.parametrize("who", ["step", "router", "error"])
async def test_a_stage_that_fails_itself(stores, who):
    """A stage that raises has committed nothing; `Fail` commits it: undone is what did not return the `Fail`."""
    undone = []

    async def first():
        if who == "error":
            raise ValueError("no")
        return Fail("no") if who == "step" else {"n": 1}

    async def other(): ...

    steps = [
        Step("first", first, undo=lambda: undone.append("first")),
        *([Step("other", other, undo=lambda: undone.append("other"))] if who != "step" else []),
    ]
    stage = Stage("s", steps, router=(lambda: Fail("no")) if who == "router" else None)
    wf = Workflow("w", triggers={"t": Trigger("begin")}, pipelines=[Pipeline("main", [stage])])
    rt = await stores.enter(wf)
    assert (await rt.wait(await begin(rt))).status == "failed"
    assert undone == (["other", "first"] if who == "router" else [])


async def test_a_run_that_was_not_stored_yet(runtime):
    """`run` without a boundary yet: a stage that is committed with the next one is undone as well."""
    undone = []

    def take_back(n):
        undone.append(n)

    step = Step("a", lambda: {"n": 1}, undo=take_back)
    wf = Workflow("w", pipelines=[Pipeline("main", [Stage("s", [step]), Stage("end", router=Fail("no"))])])
    rt = await runtime(wf)
    assert (await rt.run("w")).status == "failed"
    assert undone == [1]


# -------------------------------------------------------------------------------------------- retry, timeout, errors
async def test_an_undo_is_retried_and_limited(stores, caplog):
    """It is retried by the step's Retry and limited by its timeout; one that fails for good is noted, others go on."""
    tries = []

    async def stubborn():
        tries.append("stubborn")
        raise ValueError("stuck")

    async def second_time():
        tries.append("second")
        if tries.count("second") == 1:
            await asyncio.Event().wait()

    wf = Workflow("w")

    @wf.on("begin")
    @wf.step(undo=second_time, retry=Retry(2, backoff="1h"), timeout=5)
    async def a(): ...

    @wf.step(undo=stubborn, retry=Retry(3, backoff=1))
    async def b(): ...

    @wf.step
    async def c():
        raise KeyError("first")

    rt = await stores.enter(wf)
    run_id = await begin(rt)
    result = await rt.wait(run_id)
    assert (result.status, result.error.type) == ("failed", "KeyError")
    assert tries == ["stubborn"] * 3 + ["second"] * 2
    timeline = await rt.timeline(run_id)
    assert finished(timeline) == [("undo:failure", "b"), ("undo:success", "a")]
    assert [kind for kind in timeline.types() if kind in ("undo:retry", "undo:timeout")] == [
        "undo:retry",
        "undo:retry",
        "undo:timeout",
        "undo:retry",
    ]
    [failure] = [entry.payload for entry in timeline.entries if entry.type == "undo:failure"]
    assert (failure["type"], failure["message"]) == ("ValueError", "stuck")
    assert "could not be undone, so undo it by hand: ValueError: stuck" in caplog.text


@pytest.mark.parametrize("kind", ["cancels", "base", "stop iteration", "field"])
async def test_whatever_an_undo_raises(stores, kind):
    """An undo may raise anything, cancel itself, or lack a field of the state: the others go on."""

    class Own(BaseException): ...

    async def undo():
        if kind == "cancels":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)  # noqa: TID251 - its own cancellation arrives here
        raise Own("own") if kind == "base" else StopAsyncIteration

    async def lacking(missing: int): ...

    undone = []
    wf = Workflow("w")
    wf.on("begin")
    wf.step(lambda: None, id="a", undo=lambda: undone.append("a"))
    wf.step(lambda: None, id="b", undo=lacking if kind == "field" else undo)
    wf.step(lambda: Fail("no"), id="c")
    rt = await stores.enter(wf)
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).status == "failed"
    assert undone == ["a"]
    assert finished(await rt.timeline(run_id)) == [("undo:failure", "b"), ("undo:success", "a")]


# ---------------------------------------------------------------------------------------------------- other owners
@pytest.mark.parametrize("timeline", [True, False])
@pytest.mark.parametrize("end", ["crash", "stop"])
async def test_the_next_owner_goes_on(stores, end, timeline):
    """After a crash, or a stop, in the middle of an undo: that undo runs again, finished ones do not."""
    trip = Trip()
    trip.blocked = "room"
    rt = await stores.enter(trip.workflow(), timeline=timeline)
    run_id = await begin(rt)
    await trip.reached.wait()
    await (stores.crash(rt) if end == "crash" else rt.stop())
    assert trip.undone == ["car"]
    trip.through.set()
    rt = await stores.enter(trip.workflow(), timeline=timeline)
    result = await rt.wait(run_id)
    assert (result.status, str(result.error)) == ("failed", "ValueError: refused")
    assert trip.undone == ["car", "room", "seat"]
    assert dict(result.state) == {"seat": "seat", "room": "room", "car": "car"}


async def test_a_crash_before_the_last_commit(stores):
    """A run that has undone everything, but whose end was not written, ends without undoing anything again."""
    trip = Trip()
    trip.blocked = "seat"
    rt = await stores.enter(trip.workflow())
    run_id = await begin(rt)
    await trip.reached.wait()
    await stores.crash(rt)
    trip.through.set()
    rt = await stores.enter(trip.workflow())
    assert (await rt.wait(run_id)).status == "failed"
    assert finished(await rt.timeline(run_id)) == [("undo:success", name) for name in ("car", "room", "seat")]


@pytest.mark.parametrize("left", ["nothing", "a stage", "another pipeline"])
async def test_a_definition_without_the_undo(stores, left):
    """The next owner may not know an undo any more: that is noted as its failure, and the run ends as decided."""
    trip = Trip()
    trip.blocked = "car"
    rt = await stores.enter(trip.workflow())
    run_id = await begin(rt)
    await trip.reached.wait()
    await stores.crash(rt)
    undone = []

    def take_back(room):
        undone.append(room)

    stages = [Stage("other", [Step("other", lambda: None)])]
    if left == "a stage":
        stages.append(Stage("room", [Step("room", lambda: None, undo=take_back)]))
    pipelines = [Pipeline("else" if left == "another pipeline" else "main", stages)]
    rt = await stores.enter(Workflow("trip", triggers={"t": Trigger("begin")}, pipelines=pipelines))
    result = await rt.wait(run_id)
    assert (result.status, str(result.error)) == ("failed", "ValueError: refused")
    assert undone == (["room"] if left == "a stage" else [])
    kinds = [kind for kind, _ in finished(await rt.timeline(run_id))]
    assert kinds.count("undo:failure") == (2 if left == "a stage" else 3)


async def test_what_comes_meanwhile(stores):
    """A signal during the undoing is merged in the end, an event is not wanted any more, and both change nothing."""
    trip = Trip()
    trip.blocked = "room"
    wf = trip.workflow()
    wf.wait("gate", on="go")
    rt = await stores.enter(wf)
    run_id = await begin(rt)
    await trip.reached.wait()
    await rt.signal(run_id, {"note": "n"})
    assert [line.verdict for line in (await rt.emit("go")).lines] == ["unmatched"]
    trip.through.set()
    result = await rt.wait(run_id)
    assert (result.status, result.state["note"]) == ("failed", "n")
    assert trip.undone == ["car", "room", "seat"]


# ------------------------------------------------------------------------------------------------------- an abort
async def test_an_abort_does_not_stop_the_undoing(stores):
    """A failed run that is undoing stays failed, whatever is requested: at that moment, later, or of its next owner."""
    trip = Trip()
    trip.blocked = "room"
    rt = await stores.enter(trip.workflow())
    run_id = await begin(rt)
    await trip.reached.wait()
    await rt.abort(run_id)
    await stores.clock.run_for(minutes=5)
    assert (await rt.get_run(run_id)).status == "running"
    await rt.stop()
    other = await stores.enter()
    await other.abort(run_id)
    await other.stop()
    trip.through.set()
    rt = await stores.enter(trip.workflow())
    assert (await rt.wait(run_id)).status == "failed"
    assert trip.undone == ["car", "room", "seat"]


async def test_an_abort_undoes_nothing(stores):
    """By default an abort is an end without undoing."""
    reached = asyncio.Event()

    def last(wf):
        @wf.step
        async def hang():
            reached.set()
            await asyncio.Event().wait()

    trip = Trip(last)
    rt = await stores.enter(trip.workflow())
    run_id = await begin(rt)
    await reached.wait()
    await rt.abort(run_id)
    assert (await rt.wait(run_id)).status == "aborted"
    assert trip.undone == []


@pytest.mark.parametrize("kind", ["running", "swallowing", "paused", "delayed", "ready", "parked elsewhere"])
async def test_an_abort_may_undo(stores, kind):
    """With `undo_on_abort`, an aborted run undoes its stages, wherever it is; then it is aborted, with the reason."""
    reached, over = asyncio.Event(), asyncio.Event()

    def last(wf):
        if kind in ("paused", "parked elsewhere"):
            wf.wait("gate", on="go")
            return
        if kind == "delayed":
            wf.route(Delay("1h"), after="car")

        @wf.step
        async def hang():
            reached.set()
            while not over.is_set():
                try:
                    await over.wait()
                except asyncio.CancelledError:
                    if kind != "swallowing":
                        raise

    trip = Trip(last, undo_on_abort=True)
    rt = await stores.enter(trip.workflow())
    run_id = await begin(rt)
    if kind in ("running", "swallowing", "ready"):
        await reached.wait()
    else:
        await stores.clock.run_for(minutes=1)
    if kind in ("ready", "parked elsewhere"):
        await stores.crash(rt)
        rt = await stores.enter(trip.workflow())
    await rt.abort(run_id, "too late")
    if kind == "swallowing":
        await stores.clock.run_for(minutes=1)
    result = await rt.wait(run_id)
    over.set()
    assert (result.status, result.error.message) == ("aborted", "aborted by api: too late")
    assert trip.undone == ["car", "room", "seat"]
    timeline = await rt.timeline(run_id)
    assert (timeline.types().count("pipeline:abort"), timeline.types()[-1]) == (1, "pipeline:abort")


async def test_an_abort_goes_on_after_a_crash(stores):
    """An aborted run that was undoing when its owner died is undone by the next one, and is aborted."""
    trip = Trip(lambda wf: wf.wait("gate", on="go"), undo_on_abort=True)
    trip.blocked = "room"
    rt = await stores.enter(trip.workflow())
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    await rt.abort(run_id, "too late")
    await trip.reached.wait()
    await stores.crash(rt)
    trip.through.set()
    rt = await stores.enter(trip.workflow())
    result = await rt.wait(run_id)
    assert (result.status, result.error.message) == ("aborted", "aborted by api: too late")
    assert trip.undone == ["car", "room", "seat"]


async def test_an_undo_of_an_abort_is_not_cancelled(stores):
    """`ctx.cancelled` is False in it: a thread that looks at it goes on."""
    seen = []
    wf = Workflow("w", undo_on_abort=True)
    wf.on("begin")
    wf.step(lambda: None, id="a", undo=lambda ctx: seen.append(ctx.cancelled))
    wf.wait("gate", on="go")
    rt = await stores.enter(wf)
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    await rt.abort(run_id)
    assert (await rt.wait(run_id)).status == "aborted"
    assert seen == [False]


async def test_a_run_with_nothing_to_undo_is_aborted_at_once(stores):
    """A parked run that has committed nothing with an undo is aborted when `abort` returns."""
    wf = Workflow("w", undo_on_abort=True)
    wf.on("begin")
    wf.wait("gate", on="go")
    wf.step(lambda: None, id="a", undo=lambda: None)
    rt = await stores.enter(wf)
    run_id = await begin(rt)
    await rt.wait(run_id, until="rest")
    await rt.abort(run_id)
    assert (await rt.get_run(run_id)).status == "aborted"


# ------------------------------------------------------------------------------------------------------ injection
async def test_services_and_models(stores):
    """An undo gets services, also those of a stage, which are closed with its result; and the state's model."""

    class State(BaseModel):
        n: int = 0

    log = []

    def connection():
        log.append("open")
        try:
            yield "tx"
        except ValueError:
            log.append("rollback")
            raise
        else:
            log.append("commit")

    async def undo(tx: Annotated[str, Use("tx")], state: State, event):
        log.append((tx, state.n, event.type))
        if state.n == 1:
            raise ValueError("stuck")

    wf = Workflow("w", state=State, services=[Service("tx", connection, scope="stage")])

    @wf.on("begin")
    @wf.step(undo=undo)
    async def a():
        return {"n": 1}

    @wf.step(undo=undo)
    async def b():
        return {"n": 2}

    wf.step(lambda: Fail("no", patch={"n": 3}), id="c")
    rt = await stores.enter(wf)
    result = await rt.wait(await begin(rt))
    assert (result.status, result.state.n) == ("failed", 3)
    assert log == ["open", ("tx", 2, "begin"), "commit", "open", ("tx", 1, "begin"), "rollback"]


async def test_a_service_that_cannot_be_closed(stores):
    """An undo whose services cannot be closed has failed: its work may be lost."""

    def connection():
        yield "tx"
        raise OSError("commit failed")

    async def undo(tx: Annotated[str, Use("tx")]): ...

    wf = Workflow("w", services=[Service("tx", connection, scope="stage")])
    wf.on("begin")
    wf.step(lambda: None, id="a", undo=undo)
    wf.step(lambda: Fail("no"), id="b")
    rt = await stores.enter(wf)
    run_id = await begin(rt)
    assert (await rt.wait(run_id)).error.message == "no"
    assert finished(await rt.timeline(run_id)) == [("undo:failure", "a")]


def test_faults_of_definitions():
    """An undo that is no function, or asks for what nothing can give, is a fault with its path."""

    class State(BaseModel):
        n: int = 0

    wf = Workflow("w", state=State, undo_on_abort="yes")
    wf.step(lambda: None, id="a", undo="b")
    wf.step(lambda: None, id="b", undo=lambda seat: None)
    with pytest.raises(InvalidDefinition) as raised:
        _ = wf.definition
    paths = dict(raised.value.faults)
    assert paths["pipelines.main.a.a.undo"] == "'b' is not a function: give one that takes the step back"
    assert "undo_on_abort" in paths
