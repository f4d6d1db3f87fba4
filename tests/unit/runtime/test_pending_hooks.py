"""Hooks at the end of a run are called after a crash too, and told so."""

from __future__ import annotations

import asyncio

import pytest
from support import ends

from poundlock import Event, Exclusive, RunStatus, Verdict, Workflow
from poundlock.clock import sleep_for
from poundlock.testing import run_until_idle


def flow(*, fails=False, waits=False, timeout=None):
    wf = Workflow("w", timeout=timeout)
    wf.on("go")

    @wf.step
    async def work():
        if fails:
            raise ValueError("broken")
        return {"a": 1}

    if waits:
        wf.wait("answer", on="answered")
    return wf


class Calls(list):
    """Hooks that note their calls: the id of the run, and whether it is a repetition."""

    def __init__(self):
        super().__init__()
        self.inside = asyncio.Event()
        self.hold = None

    async def completed(self, result):
        self.append(("complete", result.run_id, str(result.status), result.metadata.get("replayed", False)))
        await self._held()

    async def cleaned(self):
        self.append("cleanup")

    async def _held(self):
        self.inside.set()
        if self.hold is not None:
            await self.hold.wait()

    def hooks(self):
        return {"on_complete": self.completed, "on_cleanup": self.cleaned}


async def started(stores, calls, *, store=None, **options):
    rt = await stores.enter(store=store)
    await rt.register(flow(**options), **calls.hooks())
    return rt


async def begin(rt, run_id="r1"):
    await rt.invoke("w", event=Event("go"), run_id=run_id, until="accepted")


async def killed_before_hooks(stores, calls, *run_ids, **options):
    """Have runs end in a process that dies before it has called their hooks."""
    store = stores.store()
    rt = await started(stores, calls, store=store, **options)
    store.hold_after = ends
    run_ids = run_ids or ("r1",)
    for run_id in run_ids:
        await begin(rt, run_id)
    await store.until_held(len(run_ids))
    assert calls == []
    await stores.crash(rt)


async def lost(_run_ids):
    """Stands for a crash before it was written that hooks were called."""


@pytest.mark.parametrize("fails", [False, True], ids=["completed", "failed"])
async def test_a_crash_after_the_end(stores, fails):
    """The end is durable, and nobody was told: the next runtime calls the hooks, and `replayed` is set."""
    calls = Calls()
    await killed_before_hooks(stores, calls, fails=fails)
    await started(stores, calls, fails=fails)
    await run_until_idle(stores.clock)
    assert calls == [("complete", "r1", "failed" if fails else "completed", True), "cleanup"]


async def test_a_crash_in_the_middle_of_a_hook(stores):
    """A hook that was being called is called again."""
    calls = Calls()
    calls.hold = asyncio.Event()
    rt = await started(stores, calls)
    await begin(rt)
    await calls.inside.wait()
    await stores.crash(rt)
    calls.hold = None
    rt = await started(stores, calls)
    await run_until_idle(stores.clock)
    assert calls[0] == ("complete", "r1", "completed", False)
    assert calls[-2:] == [("complete", "r1", "completed", True), "cleanup"]


@pytest.mark.parametrize("written", [True, False])
async def test_hooks_that_were_called_are_called_once(stores, written):
    """After a stop they are not called again; after a crash only if it was not yet written that they were."""
    calls = Calls()
    rt = await started(stores, calls)
    if not written:
        rt.store.hooks_called = lost
    await begin(rt)
    assert (await rt.wait("r1")).ok
    await rt.stop()
    rt = await started(stores, calls)
    await run_until_idle(stores.clock)
    once = [("complete", "r1", "completed", False), "cleanup"]
    assert calls == (once if written else [*once, ("complete", "r1", "completed", True), "cleanup"])


async def test_it_is_written_with_the_next_commit(stores):
    """That hooks were called needs no commit of its own: a later one carries it, so a crash repeats nothing."""
    calls = Calls()
    rt = await started(stores, calls)
    commits = []
    for run_id in ("r1", "r2"):
        before = len(rt.store.written)
        await begin(rt, run_id)
        await rt.wait(run_id)
        await run_until_idle(stores.clock)
        commits.append(len(rt.store.written) - before)
    assert commits[0] == commits[1]
    await rt.store.inner.commit(rt.store.written[-1].__class__(now=stores.clock.now()))
    await stores.crash(rt)
    again = Calls()
    await started(stores, again)
    await run_until_idle(stores.clock)
    assert again == []


async def test_a_stop_in_the_middle_of_a_hook(stores):
    """A hook that the stop has to cancel is called again by the next runtime."""
    calls = Calls()
    calls.hold = asyncio.Event()
    rt = await started(stores, calls)
    await begin(rt)
    await calls.inside.wait()
    await rt.stop(drain=0)
    calls.hold = None
    await started(stores, calls)
    await run_until_idle(stores.clock)
    assert calls[-2:] == [("complete", "r1", "completed", True), "cleanup"]


async def test_ends_of_all_kinds(stores):
    """Aborted while paused, too late while paused, and superseded while queued: each end has its hooks."""
    calls = Calls()
    store = stores.store()
    rt = await started(stores, calls, store=store, waits=True)
    await begin(rt, "paused")
    await rt.wait("paused", until="rest")
    store.hold_after = ends
    aborting = asyncio.ensure_future(rt.abort("paused"))
    await store.until_held()
    await stores.crash(rt)
    aborting.cancel()
    rt = await started(stores, calls, waits=True)
    await run_until_idle(stores.clock)
    assert calls == [("complete", "paused", "aborted", True), "cleanup"]


async def test_a_superseded_run(stores):
    """A queued run that a later event takes the place of has its hooks called too."""
    calls = Calls()
    wf = Workflow("w", mode=Exclusive("queue_single"))
    wf.on("go")
    wf.wait("answer", on="answered")
    store = stores.store()
    rt = await stores.enter(store=store)
    await rt.register(wf, **calls.hooks())
    await rt.emit("go")
    queued = (await rt.emit("go")).run_ids[0]
    store.hold_after = ends
    emitting = asyncio.ensure_future(rt.emit("go"))
    await store.until_held()
    await stores.crash(rt)
    emitting.cancel()
    rt = await stores.enter()
    await rt.register(wf, **calls.hooks())
    await run_until_idle(stores.clock)
    assert calls == [("complete", queued, "aborted", True), "cleanup"]


@pytest.mark.parametrize("when", ["before it is read", "after it is read", "before its end is written", "after"])
async def test_superseded_while_its_workflow_is_taken_out(stores, when):
    """The event is decided for every workflow, and the run's hooks are called by the next registration."""
    calls = Calls()
    wf = Workflow("w", mode=Exclusive("queue_single"))
    wf.on("go")
    wf.wait("answer", on="answered")
    other = Workflow("other")
    other.on("go")
    other.step(lambda: None, id="work")
    store = stores.store()
    rt = await stores.enter(other, store=store)
    await rt.register(wf, **calls.hooks())
    await rt.emit("go")
    await run_until_idle(stores.clock)
    [queued] = [line.run_id for line in (await rt.emit("go")).lines if line.workflow_id == "w"]
    await run_until_idle(stores.clock)

    async def load(run_id):
        if when == "before it is read":
            await rt.deregister("w")
        record = await store.inner.load(run_id)
        if when == "after it is read":
            await rt.deregister("w")
        return record

    if when.endswith("read"):
        store.load = load
    else:
        setattr(store, "hold" if when.startswith("before") else "hold_after", ends)
    emitting = asyncio.ensure_future(rt.emit("go"))
    if not when.endswith("read"):
        [held] = await store.until_held()
        store.hold = store.hold_after = None
        await rt.deregister("w")
        held.release()
    receipt = await emitting
    assert [line.verdict for line in receipt.lines] == [Verdict.STARTED, Verdict.QUEUED]
    assert (await rt.wait(queued)).status is RunStatus.ABORTED
    assert calls == []
    await rt.register(wf, **calls.hooks())
    await run_until_idle(stores.clock)
    assert calls == [("complete", queued, "aborted", True), "cleanup"]


async def test_hooks_that_raise_count_as_called(stores):
    """What a hook raises is logged once, and is no reason to call it again."""
    told = []

    def broken(result):
        told.append(result.run_id)
        raise RuntimeError("broken")

    rt = await stores.enter()
    await rt.register(flow(), on_complete=broken)
    await begin(rt)
    await rt.wait("r1")
    await rt.stop()
    rt = await stores.enter()
    await rt.register(flow(), on_complete=broken)
    await run_until_idle(stores.clock)
    assert told == ["r1"]


async def test_a_workflow_without_hooks_any_more(stores):
    """A deployment that has dropped its hooks drops what was pending."""
    calls = Calls()
    await killed_before_hooks(stores, calls)
    rt = await stores.enter(flow())
    await run_until_idle(stores.clock)
    assert await rt.store.pending_hooks("w") == []
    await rt.stop()
    await started(stores, calls)
    await run_until_idle(stores.clock)
    assert calls == []


async def test_deregister_inside_a_hook_that_is_called_again(stores):
    """It returns at once, as inside any hook, and the other pending hooks wait for the next registration."""
    calls = Calls()
    await killed_before_hooks(stores, calls, "r1", "r2")
    rt = await stores.enter()
    done = []

    async def leave(result):
        await rt.deregister("w")
        done.append(result.run_id)

    await rt.register(flow(), on_complete=leave)
    await run_until_idle(stores.clock)
    assert len(done) == 1
    assert not rt.has_workflow("w")
    await rt.register(flow(), **calls.hooks())
    await run_until_idle(stores.clock)
    assert {call[1] for call in calls if call != "cleanup"} == {"r1", "r2"} - set(done)


async def test_deregistering_while_pending_hooks_are_called(stores):
    """It waits for the hook that is being called, because that may use the workflow's services."""
    calls = Calls()
    await killed_before_hooks(stores, calls)
    calls.hold = asyncio.Event()
    rt = await started(stores, calls)
    await calls.inside.wait()
    leaving = asyncio.ensure_future(rt.deregister("w"))
    await run_until_idle(stores.clock)
    assert not leaving.done()
    calls.hold.set()
    await leaving
    assert calls == [("complete", "r1", "completed", True), "cleanup"]


async def test_registered_again_while_a_hook_is_called(stores):
    """A hook that is being called in this process is not called a second time beside itself."""
    calls = Calls()
    calls.hold = asyncio.Event()
    rt = await started(stores, calls)

    async def anew(result):
        await rt.deregister("w")
        await rt.register(flow(), **calls.hooks())
        await run_until_idle(stores.clock)
        calls.append(result.run_id)

    await rt.deregister("w")
    await rt.register(flow(), on_complete=anew)
    await begin(rt)
    await rt.wait("r1")
    assert calls == ["r1"]


async def test_a_run_that_ends_right_after_the_registration(stores):
    """What ends here while the registration still reads what is pending has its hooks called once."""
    calls = Calls()
    wf = Workflow("w", mode=Exclusive("queue_single"))
    wf.on("go")
    wf.wait("answer", on="answered")
    rt = await stores.enter()
    await rt.register(wf, **calls.hooks())
    receipts = [await rt.emit("go") for _ in range(4)]
    await run_until_idle(stores.clock)
    superseded = [receipt.run_ids[0] for receipt in receipts[1:3]]
    assert sorted(call[1] for call in calls if call != "cleanup") == sorted(superseded)
    assert rt._core.hooks_running == set()


async def test_a_run_that_ends_while_pending_hooks_are_read(stores):
    """A run whose end and hooks happen during that read has them called once, even if the read still shows it."""
    calls = Calls()
    store = stores.store()
    reading, go_on = asyncio.Event(), asyncio.Event()

    async def slow(workflow):
        reading.set()
        await go_on.wait()
        return ["r1"]  # as read before it was written that they were called

    store.pending_hooks = slow
    rt = await started(stores, calls, store=store)
    await reading.wait()
    await begin(rt)
    await rt.wait("r1")
    await run_until_idle(stores.clock)
    go_on.set()
    await run_until_idle(stores.clock)
    assert calls == [("complete", "r1", "completed", False), "cleanup"]


async def test_a_run_whose_workflow_is_not_here(stores):
    """A run that is ended while its workflow is not registered has its hooks called once that is."""
    calls = Calls()
    rt = await started(stores, calls, waits=True)
    await begin(rt)
    await rt.wait("r1", until="rest")
    await rt.stop()
    rt = await stores.enter()
    await rt.abort("r1")
    await rt.register(flow(waits=True), **calls.hooks())
    await run_until_idle(stores.clock)
    assert calls == [("complete", "r1", "aborted", True), "cleanup"]


async def test_a_store_that_fails_when_they_are_read(stores):
    """They are read again until that works."""
    calls = Calls()
    await killed_before_hooks(stores, calls)
    store = stores.store()
    faults = [1, 1]
    real = store.inner.pending_hooks

    async def failing(workflow):
        from poundlock import StoreUnavailable

        if faults:
            faults.pop()
            raise StoreUnavailable("away")
        return await real(workflow)

    store.pending_hooks = failing
    await started(stores, calls, store=store)
    await sleep_for(stores.clock, 1)
    await run_until_idle(stores.clock)
    assert calls == [("complete", "r1", "completed", True), "cleanup"]


async def test_a_workflow_without_hooks_writes_nothing_for_them(stores):
    """No end of such a run mentions hooks."""
    rt = await stores.enter(flow())
    await begin(rt)
    await rt.wait("r1")
    assert not any(changes.hooks for changes in rt.store.written)


async def test_hooks_use_services_when_called_again(stores):
    """A hook that needs a service of the run gets one, made for it and closed after it."""
    from typing import Annotated

    from poundlock import Use

    wf = flow()
    opened = []

    @wf.service(scope="run")
    def mail():
        opened.append("open")
        yield "mail"
        opened.append("closed")

    used = []

    def told(result, mail: Annotated[str, Use("mail")]):
        used.append((result.run_id, mail))

    store = stores.store()
    rt = await stores.enter(store=store)
    await rt.register(wf, on_complete=told)
    store.hold_after = ends
    await begin(rt)
    await store.until_held()
    await stores.crash(rt)
    opened.clear()
    rt = await stores.enter()
    await rt.register(wf, on_complete=told)
    await run_until_idle(stores.clock)
    assert (used, opened) == ([("r1", "mail")], ["open", "closed"])


async def test_a_run_that_ends_while_others_are_called_again(stores):
    """What is read as pending because its hooks are being called is not called again when its turn would come."""
    calls = Calls()
    await killed_before_hooks(stores, calls, "left")
    store = stores.store()
    real, reading, go_on, told = store.inner.pending_hooks, asyncio.Event(), asyncio.Event(), []

    async def slowly(workflow):
        reading.set()
        await inside.wait()
        return await real(workflow)

    inside, leave = asyncio.Event(), asyncio.Event()

    async def completed(result):
        told.append(result.run_id)
        if result.run_id == "live":
            inside.set()
            await leave.wait()
        else:
            leave.set()
            await go_on.wait()

    store.pending_hooks = slowly
    rt = await stores.enter(store=store)
    await rt.register(flow(), on_complete=completed)
    await reading.wait()
    await begin(rt, "live")
    await rt.wait("live")
    go_on.set()
    await run_until_idle(stores.clock)
    assert told == ["live", "left"]
