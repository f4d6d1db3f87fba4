"""Events that come while a run is still on its way to the wait they are for."""

from __future__ import annotations

import asyncio

from support import in_parts

from poundlock import Event, Jump, RunStatus, Serialized, StateRef, Terminate, Verdict, Workflow, WorkflowRuntime
from poundlock.stores import MemoryStore


def waiting_workflow(gate, **options):
    wf = Workflow("w", **options)

    @wf.on("begin")
    @wf.step
    async def first(n: int):
        await gate(n)

    wf.wait("answer", on="answer", correlate={"n": StateRef("n")})
    return wf


async def test_event_for_a_run_in_its_first_stage_is_buffered(any_store, gate):
    """A declared wait is armed from the run's creation on: what comes during its first stage is used at the pause."""
    async with WorkflowRuntime(waiting_workflow(gate), store=any_store) as runtime:
        begun = await runtime.emit("begin", n=1)
        early = await runtime.emit("answer", n=1, text="yes")
        assert [(line.verdict, line.run_id) for line in early.lines] == [(Verdict.BUFFERED, begun.run_ids[0])]
        gate.open()
        [result] = await begun.results()
        assert (result.status, result.state["text"]) == (RunStatus.COMPLETED, "yes")


async def test_event_before_the_run_exists_is_not_kept(any_store, gate):
    """An event that comes before the run it is meant for is `unmatched`, and the run waits for another one."""
    gate.open()
    async with WorkflowRuntime(waiting_workflow(gate), store=any_store) as runtime:
        assert (await runtime.emit("answer", n=1, text="too early")).verdicts == [Verdict.UNMATCHED]
        [result] = await (await runtime.emit("begin", n=1)).results()
        assert (result.status, "text" in result.state) == (RunStatus.PAUSED, False)


async def test_event_for_a_queued_run_is_buffered(any_store, gate):
    """A run that is still queued keeps what comes for its wait."""
    serialized = waiting_workflow(gate, mode=Serialized())
    async with WorkflowRuntime(serialized, store=any_store) as runtime:
        first = await runtime.emit("answer", n=1, text="too early")
        assert first.verdicts == [Verdict.UNMATCHED]
        await runtime.emit("begin", n=1)
        queued = await runtime.emit("begin", n=2)
        early = await runtime.emit("answer", n=2, text="yes")
        assert [(line.verdict, line.run_id) for line in early.lines] == [(Verdict.BUFFERED, queued.run_ids[0])]
        await runtime.emit("answer", n=1, text="go on")
        gate.open()
        [result] = await queued.results()
        assert (result.status, result.state["text"]) == (RunStatus.COMPLETED, "yes")


async def test_event_for_an_invoked_run_in_its_first_stage_is_buffered(any_store, gate):
    """A run that was invoked and is not written yet is written by the first event for it, which it keeps."""
    there = asyncio.Event()

    async def arrive(n):
        there.set()
        await gate(n)

    async with WorkflowRuntime(waiting_workflow(arrive), store=any_store) as runtime, asyncio.TaskGroup() as group:
        running = group.create_task(runtime.run("w", n=1))
        await there.wait()
        early = await runtime.emit("answer", n=1, text="yes")
        assert early.verdicts == [Verdict.BUFFERED]
        gate.open()
        result = await running
        assert (result.status, result.state["text"]) == (RunStatus.COMPLETED, "yes")


async def test_event_buffered_in_the_first_stage_survives(any_store, gate):
    """What was buffered before the first boundary is there after a restart, and the same event again is a duplicate."""
    async with WorkflowRuntime(waiting_workflow(gate), store=any_store) as runtime:
        begun = await runtime.emit("begin", n=1)
        answer = Event("answer", {"n": 1})
        assert (await runtime.emit(answer)).verdicts == [Verdict.BUFFERED]
        assert (await runtime.emit(answer)).verdicts == [Verdict.DUPLICATE]
        await runtime.stop(drain=0)
    async with WorkflowRuntime(waiting_workflow(gate), store=any_store) as runtime:
        gate.open()
        assert (await runtime.wait(begun.run_ids[0])).status is RunStatus.COMPLETED


class Interrupting(MemoryStore):
    """Lets a test do something right before a run's pause is committed, when it is too late for the run to see it."""

    def __init__(self):
        super().__init__()
        self.before_pausing = []

    async def commit(self, changes):
        if self.before_pausing and any(move.status is RunStatus.PAUSED for move in in_parts(changes).moves):
            await self.before_pausing.pop(0)()
        return await super().commit(changes)


async def test_used_event_is_not_used_again_after_a_refused_pause():
    """An event that a run went on with stays used, though its next pause was refused for an event that came late."""
    wf = Workflow("w")
    wf.on("begin")
    wf.wait("answer", on="answer", correlate={"n": StateRef("n")}, patch=lambda event: {"last": event.payload["text"]})

    @wf.step
    def note(last, heard=()):
        return {"heard": [*heard, last]}

    @wf.route(after="note")
    def enough(state):
        return Terminate() if state["last"] == "c" else Jump("answer")

    store = Interrupting()
    async with WorkflowRuntime(wf, store=store) as runtime:
        begun = await runtime.emit("begin", n=1)
        await begun.results()
        pausing = asyncio.Event()

        async def late():
            await runtime.emit("answer", n=1, text="b")

        async def seen():
            pausing.set()

        store.before_pausing = [late, seen]
        await runtime.emit("answer", n=1, text="a")
        await pausing.wait()
    async with WorkflowRuntime(wf, store=store) as runtime:
        await runtime.emit("answer", n=1, text="c")
        result = await runtime.wait(begun.run_ids[0])
    assert list(result.state["heard"]) == ["a", "b", "c"]
