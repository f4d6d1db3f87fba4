"""Short faults of the store, callers that go away, copies that fail: what was committed is carried out all the same."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Annotated

import pytest
from pydantic import BaseModel, PrivateAttr
from support import GatedStore, parks

from poundlock import (
    Exclusive,
    Pause,
    Pipeline,
    Serialized,
    Service,
    SingletonLoop,
    Stage,
    Step,
    StepContext,
    Trigger,
    Use,
    Wait,
    Workflow,
    WorkflowRuntime,
)
from poundlock.errors import RuntimeStopped, StoreUnavailable
from poundlock.model.modes.decisions import Load
from poundlock.runtime.commands import Cancel


class FaultyStore(GatedStore):
    """A gated store whose reads fail as often as a test says, or wait for it.

    Attributes:
        faults: by method, how many of its next calls fail.
        slow: by method, what its calls wait for before they are answered.
    """

    def __init__(self, inner, clock=None):
        super().__init__(inner, clock)
        self.faults = {}
        self.slow = {}

    def __getattr__(self, name):
        call = super().__getattr__(name)

        async def faulty(*args):
            if name in self.slow:
                await self.slow[name].wait()
            if self.faults.get(name):
                self.faults[name] -= 1
                raise StoreUnavailable(f"{name} fails for a moment: try again")
            return await call(*args)

        return faulty


@pytest.fixture
async def faulty(stores):
    """Enter a runtime on a store whose reads can be made to fail."""

    async def enter(*workflows, **options):
        return await stores.enter(*workflows, store=FaultyStore(stores.store().inner, stores.clock), **options)

    return enter


def waiting(id="wf", **options):
    """A workflow that pauses until "ok"."""
    wf = Workflow(id, **options)
    wf.on("go")
    wf.wait("w", on="ok")

    @wf.step
    async def after():
        return {"after": True}

    return wf


def one_step(action, id="wf", **options):
    """A workflow of one step, started by "go"."""
    wf = Workflow(id, **options)
    wf.on("go")
    wf.step(id="work")(action)
    return wf


async def idle(clock):
    """Let pass whatever time a repeated attempt takes."""
    await clock.run_for(60)
    await clock.run_until_idle()


# -- the end of a run that nobody drives
async def test_an_abort_is_told_although_reading_the_run_fails(faulty, vclock):
    """One failing read after an abort's commit loses neither the hooks nor the answer, and `abort` does not raise."""
    told = []
    rt = await faulty()
    await rt.register(waiting(), on_complete=lambda r: told.append(r.status), on_cleanup=lambda: told.append("cleanup"))
    [run_id] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    waiter = asyncio.create_task(rt.wait(run_id))
    await vclock.run_until_idle()
    rt.store.faults["checkpoint"] = 1
    await rt.abort(run_id)
    assert (await waiter).status == "aborted"
    assert told == ["aborted", "cleanup"]
    assert rt.list_all_runs() == []


async def test_emit_does_not_raise_for_a_superseded_run_that_cannot_be_read(faulty, gate, vclock):
    """All of the event is committed: `emit` returns its receipt, and the superseded run's hooks are called later."""
    told = []
    rt = await faulty()
    wf = one_step(lambda_gate(gate), mode=Exclusive(on_busy="queue_single"))
    await rt.register(wf, on_complete=lambda r: told.append(r.run_id), on_dispatch=lambda line: told.append("line"))
    await rt.emit("go")
    [second] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    told.clear()
    rt.store.faults["checkpoint"] = 1
    assert [str(v) for v in (await rt.emit("go")).verdicts] == ["queued"]
    await idle(vclock)
    assert sorted(told) == sorted(["line", second])
    gate.open()


async def test_who_emits_keeps_its_cancellation(faulty, gate, vclock):
    """Whoever is cancelled in `emit` while a superseded run's hook is called ends as cancelled; the hooks all come."""
    told = []
    slow = asyncio.Event()
    rt = await faulty()

    async def on_complete(_):
        await slow.wait()
        told.append("complete")

    wf = one_step(lambda_gate(gate), mode=Exclusive(on_busy="queue_single"))
    await rt.register(wf, on_complete=on_complete, on_cleanup=lambda: told.append("cleanup"))
    await rt.emit("go")
    await rt.emit("go")

    async def caller():
        await rt.emit("go")
        await asyncio.get_running_loop().create_future()

    emitting = asyncio.create_task(caller())
    await vclock.run_until_idle()
    emitting.cancel()
    await vclock.run_until_idle()
    assert emitting.cancelled()
    slow.set()
    await vclock.run_until_idle()
    assert told == ["complete", "cleanup"]
    gate.open()
    await vclock.run_until_idle()


def lambda_gate(gate):
    async def work():
        await gate()

    return work


# -- results that cannot be copied
class Locked(BaseModel):
    """A state that no deep copy can be made of."""

    n: int = 0
    _lock: object = PrivateAttr(default_factory=threading.Lock)


class Closed(Locked):
    """One that cannot be validated anew either."""

    def model_dump(self, **_):
        raise RuntimeError("not now")


@pytest.mark.parametrize("model", [Locked, Closed])
@pytest.mark.parametrize("ends", ["by itself", "aborted"])
async def test_a_state_that_cannot_be_copied_is_given_all_the_same(faulty, vclock, model, ends):
    """Hooks are called and all who wait are answered although the state's model cannot be copied."""
    told = []
    rt = await faulty()
    await rt.register(
        waiting(state=model), on_complete=lambda r: told.append(r.state.n), on_cleanup=lambda: told.append("cleanup")
    )
    [run_id] = (await rt.emit("go", n=7)).run_ids
    await vclock.run_until_idle()
    waiters = [asyncio.create_task(rt.wait(run_id)) for _ in range(3)]
    await vclock.run_until_idle()
    if ends == "aborted":
        await rt.abort(run_id)
    else:
        await rt.emit("ok")
    assert [(await waiter).state.n for waiter in waiters] == [7, 7, 7]
    assert told == [7, "cleanup"]


# -- aborting
async def test_a_replaced_run_is_aborted_although_reading_it_fails(faulty, gate, vclock):
    """One failing read while a replaced run is aborted only delays that; its successor starts."""
    started = []

    async def work(n: int = 0):
        started.append(n)
        await gate()

    rt = await faulty(one_step(work, mode=SingletonLoop(on_busy="replace")), abort_grace=1)
    [first] = (await rt.emit("go", n=1)).run_ids
    await vclock.run_until_idle()
    rt.store.faults["status"] = 1
    await rt.emit("go", n=2)
    await idle(vclock)
    assert started == [1, 2]
    assert (await rt.get_run(first)).status == "aborted"
    gate.open()


@pytest.mark.parametrize("what", ["load", "commit"])
async def test_a_deaf_run_is_left_behind_although_the_store_fails(faulty, vclock, what):
    """A fault of the store when the grace of an abort is over only delays its end; `deregister` hears of it."""
    leave = asyncio.Event()

    async def deaf():
        while not leave.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.wait()

    rt = await faulty(one_step(deaf), abort_grace=1)
    [run_id] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    await rt.abort(run_id)
    leaving = asyncio.create_task(rt.deregister("wf"))
    await vclock.run_until_idle()
    if what == "load":
        rt.store.faults["load"] = 1
    else:
        after = rt.store.commits + 1
        rt.store.failing = lambda number, _: StoreUnavailable("for a moment: try again") if number == after else None
    await leaving
    assert (await rt.get_run(run_id)).status == "aborted"
    leave.set()


async def test_a_deaf_run_with_new_messages_is_left_behind(faulty, vclock):
    """A message that comes while a deaf run is left behind only has its end decided anew."""
    leave = asyncio.Event()

    async def deaf():
        while not leave.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await leave.wait()

    rt = await faulty(one_step(deaf), abort_grace=1)
    [run_id] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    await rt.abort(run_id)
    rt.store.hold = lambda changes: bool(changes.moves)
    await vclock.run_for(1)
    [held] = await rt.store.until_held()
    rt.store.hold = None
    await rt.signal(run_id, {"n": 1})
    held.release()
    await idle(vclock)
    assert (await rt.get_run(run_id)).status == "aborted"
    leave.set()


async def test_an_abort_whose_caller_goes_away_is_told(faulty, vclock):
    """Where `abort` is cancelled while its request is written, the run hears of the request all the same."""

    async def forever():
        await asyncio.get_running_loop().create_future()

    rt = await faulty(one_step(forever))
    [run_id] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    rt.store.hold_after = lambda changes: bool(changes.posts)
    aborting = asyncio.create_task(rt.abort(run_id))
    [held] = await rt.store.until_held()
    rt.store.hold_after = None
    aborting.cancel()
    await vclock.run_until_idle()
    held.release()
    assert (await rt.wait(run_id)).status == "aborted"


async def test_a_step_that_aborts_its_run_interrupts_the_others(faulty, vclock):
    """Its siblings are cancelled; it goes on to its own end, across what it awaits after the abort."""
    told = []
    waits = asyncio.Event()

    async def a(ctx: StepContext):
        await rt.abort(ctx.run_id)
        await waits.wait()
        told.append("a done")

    async def b():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            told.append("b cancelled")

    wf = Workflow(
        "wf",
        triggers={"go": Trigger("go")},
        pipelines=[Pipeline("main", [Stage("s", [Step("a", a, timeout="1h"), Step("b", b)])])],
    )
    rt = await faulty(wf)
    [run_id] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    assert told == ["b cancelled"]
    waits.set()
    assert (await rt.wait(run_id)).status == "aborted"
    assert told == ["b cancelled", "a done"]


async def test_a_step_alone_that_aborts_its_run_ends_by_itself(faulty, vclock):
    """A step that aborts its own run learns of it at its end."""
    told = []

    async def work(ctx: StepContext):
        await rt.abort(ctx.run_id)
        await vclock.run_until_idle()
        told.append("done")

    rt = await faulty(one_step(work))
    [run_id] = (await rt.emit("go")).run_ids
    assert (await rt.wait(run_id)).status == "aborted"
    assert told == ["done"]


async def test_a_watchdog_of_a_step_interrupts_it(faulty, vclock):
    """A task that a step started aborts the run like anybody else: the step is cancelled."""
    told = []

    async def work(ctx: StepContext):
        async def watchdog():
            await rt.abort(ctx.run_id, "watchdog")
            told.append("returned")

        watching = asyncio.create_task(watchdog())
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            told.append(("cancelled", watching.cancelled()))

    rt = await faulty(one_step(work))
    [run_id] = (await rt.emit("go")).run_ids
    assert (await rt.wait(run_id)).status == "aborted"
    await vclock.run_until_idle()
    assert sorted(map(str, told)) == ["('cancelled', False)", "returned"]


@pytest.mark.parametrize("hook", ["on_prepare", "on_resume"])
async def test_a_hook_may_abort_its_run(faulty, vclock, hook):
    """A run whose hook aborts it ends aborted, and who waits for it is told so."""
    rt = await faulty()

    async def leave(ctx):
        await rt.abort(ctx.run_id, "not today")

    await rt.register(waiting(), **{hook: leave})
    [run_id] = (await rt.emit("go")).run_ids
    waiter = asyncio.create_task(rt.wait(run_id))
    await vclock.run_until_idle()
    await rt.emit("ok")
    result = await waiter
    assert (result.status, "not today" in result.error.message) == ("aborted", True)


# -- reading while a run is driven
async def test_what_a_service_exported_is_read_again(faulty, vclock):
    """One failing read of the log, where a resumed run looks for its services' exports, does not strand it."""

    def cart() -> dict:
        return {"n": 1}

    async def use(cart: Annotated[object, Use("cart")]):
        return {}

    async def two():
        return {}

    stages = [Stage("a", [Step("a", use)], router=Pause(Wait("ok", id="w"))), Stage("two", [Step("two", two)])]
    wf = Workflow(
        "wf",
        services=[Service("cart", cart, scope="run", options={"serializable": True})],
        triggers={"go": Trigger("go")},
        pipelines=[Pipeline("main", stages)],
    )
    rt = await faulty(wf, pause_window=0)
    [run_id] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    rt.store.faults["history"] = 1
    await rt.emit("ok")
    assert (await rt.wait(run_id)).status == "completed"


async def test_messages_that_came_last_are_read_again(faulty, vclock):
    """One failing read of the messages for which a pause was refused does not strand the run."""
    rt = await faulty(waiting(mode=Serialized()))
    rt.store.hold = parks
    [run_id] = (await rt.emit("go")).run_ids
    [held] = await rt.store.until_held()
    rt.store.hold = None
    await rt.signal(run_id, {"a": 1})
    rt.store.faults["inbox"] = 1
    held.release()
    await idle(vclock)
    await rt.emit("ok")
    assert (await rt.wait(run_id)).state == {"a": 1, "after": True}


# -- threads
async def test_a_thread_that_cannot_be_started_is_not_counted(faulty, monkeypatch):
    """The step fails with the error of the system; the next one gets its thread."""
    start, refused = threading.Thread.start, []

    def failing(thread):
        if thread.name.startswith("poundlock-step") and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", failing)

    def work():
        return {"done": True}

    rt = await faulty(one_step(work))
    first = await rt.run("wf")
    assert (first.status, "can't start new thread" in first.error.message) == ("failed", True)
    assert (await rt.run("wf")).state == {"done": True}


# -- registering and taking out
@pytest.mark.parametrize("how", ["fails", "is slow"])
async def test_registering_does_not_wait_for_runs_that_do_not_fit(faulty, vclock, how):
    """A fault, or a slow answer, where runs with unfit states are looked for does not undo `register` half-way."""
    rt = await faulty(waiting("other"))
    slow = asyncio.Event()
    if how == "fails":
        rt.store.faults["unfit"] = 1
    else:
        rt.store.slow["unfit"] = slow
    registering = asyncio.create_task(rt.register(waiting()))
    await vclock.run_until_idle()
    assert registering.done()
    await registering
    assert rt.has_workflow("wf")
    slow.set()
    await idle(vclock)
    [run_id] = (await rt.emit("go")).run_ids[:1]
    assert (await rt.get_run(run_id)).status in ("running", "paused")
    assert not rt.store.faults.get("unfit")


async def test_deregistering_goes_on_without_its_caller(faulty, gate, vclock):
    """A caller that goes away does not leave the workflow half-way out; a second call waits for the same end."""
    rt = await faulty(one_step(lambda_gate(gate)))
    await rt.emit("go")
    await vclock.run_until_idle()
    first = asyncio.create_task(rt.deregister("wf"))
    await vclock.run_until_idle()
    first.cancel()
    second = asyncio.create_task(rt.deregister("wf"))
    await vclock.run_until_idle()
    assert not second.done()
    gate.open()
    await second
    assert not rt.has_workflow("wf")
    await rt.register(one_step(lambda_gate(gate)))
    assert (await rt.run("wf")).status == "completed"


async def test_deregistering_waits_out_a_fault(faulty, vclock):
    """A failing read while the runs of a workflow are aborted only delays that."""

    async def forever():
        await asyncio.get_running_loop().create_future()

    rt = await faulty(one_step(forever))
    [run_id] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    rt.store.faults["load"] = 1
    await rt.deregister("wf", active="abort")
    assert (await rt.get_run(run_id)).status == "aborted"
    assert not rt.has_workflow("wf")


async def test_deregistering_from_a_hook_outlives_the_hook(faulty, gate, vclock):
    """A hook whose time is over while it waits for another run does not end the deregistration that it began."""

    async def work(n: int = 0):
        if n == 2:
            await gate()

    async def leave():
        await rt.deregister("wf")

    rt = await faulty(hook_timeout=5)
    await rt.register(one_step(work), on_cleanup=leave)
    await rt.emit("go", n=2)
    await vclock.run_until_idle()
    await rt.emit("go", n=1)
    await vclock.run_for(60)
    assert rt.has_workflow("wf")
    gate.open()
    await vclock.run_until_idle()
    assert not rt.has_workflow("wf")


# -- stopping
async def test_a_stop_while_entering_closes_the_store(stores):
    """`stop` while the store is being opened ends the entering; the store is closed after it was opened, not before."""
    told = []

    class Slow(GatedStore):
        async def open(self, worker):
            await opening.wait()
            await super().open(worker)
            told.append("open")

        async def close(self):
            await super().close()
            told.append("closed")

    opening = asyncio.Event()
    store = Slow(stores.store().inner, stores.clock)
    rt = WorkflowRuntime(waiting(), store=store, clock=stores.clock)
    entering = asyncio.create_task(rt.__aenter__())
    await stores.clock.run_until_idle()
    stopping = asyncio.create_task(rt.stop())
    await stores.clock.run_until_idle()
    assert not stopping.done()
    opening.set()
    await stopping
    with pytest.raises(RuntimeStopped):
        await entering
    assert told == ["open", "closed"]


AFTER = {
    "wait": lambda rt, run_id: rt.wait(run_id),
    "abort": lambda rt, run_id: rt.abort(run_id),
    "signal": lambda rt, run_id: rt.signal(run_id, {}),
    "resume": lambda rt, run_id: rt.resume(run_id),
    "recover": lambda rt, _: rt.recover(),
    "deregister": lambda rt, _: rt.deregister("wf"),
    "dispatch": lambda rt, run_id: rt.dispatch(Cancel(run_id)),
}


@pytest.mark.parametrize("call", AFTER)
async def test_calls_after_the_stop_are_refused(faulty, vclock, call):
    """After the stop nothing is written, and nobody waits for what this runtime will not see."""
    rt = await faulty(waiting())
    [run_id] = (await rt.emit("go")).run_ids
    await vclock.run_until_idle()
    await rt.stop()
    before = rt.store.commits
    with pytest.raises(RuntimeStopped):
        await AFTER[call](rt, run_id)
    assert rt.store.commits == before


async def test_a_hook_that_hears_of_an_event_may_stop(faulty, vclock):
    """`stop` from `on_dispatch` returns at once and takes no grace, also if an emitter outside of any run called it."""
    rt = await faulty(abort_grace=9)
    returned = []

    async def stop(_):
        await rt.stop(drain=0)
        returned.append(rt.has_workflow("wf"))

    await rt.register(waiting(), on_dispatch=stop)
    began = vclock.now()
    await rt.emit("go")
    assert returned == [True]
    await rt.stop()
    assert vclock.now() == began


async def test_who_waits_for_a_run_that_was_not_written_hears_so(faulty, vclock):
    """A stop tells whoever invoked a run that was never written that it does not go on."""

    async def forever():
        await asyncio.get_running_loop().create_future()

    rt = await faulty(one_step(forever))
    running = asyncio.create_task(rt.run("wf"))
    await vclock.run_until_idle()
    await rt.stop(drain=0)
    with pytest.raises(RuntimeStopped, match="was not stored"):
        await running


# -- who is active
def test_a_load_without_a_name_is_put_into_words():
    """A mode that refuses an event names the active run, or says that it does not know which."""
    for mode in (SingletonLoop(), Exclusive()):
        assert mode.accept(Load(1, "r1")).reason == "run r1 is active"
        assert mode.accept(Load(1)).reason == "another run is active"
