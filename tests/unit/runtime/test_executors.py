"""Steps whose executor is a service: a `concurrent.futures.Executor` that the workflow is given."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import support_processes as work

from poundlock import InvalidDefinition, Pipeline, RunStatus, Service, Stage, Step, StepContext, Workflow
from poundlock.testing import run_until_idle


class ByHand(Executor):
    """An executor whose calls end when the test says so."""

    def __init__(self):
        self.calls = []
        self.came = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.calls.append((fn, args, kwargs, future))
        self._loop.call_soon_threadsafe(self.came.set)
        return future


def flow(action, executor="pool", service=None, **options):
    step = Step("s", action, executor=executor, **options)
    services = [Service("pool", lambda: service)]
    return Workflow("wf", pipelines=[Pipeline("main", [Stage("one", [step])])], services=services)


async def test_a_pool_of_threads(runtime, any_store):
    """The function is called by the executor, with everything that is injected into steps."""
    seen = []

    def step(ctx: StepContext, number: int):
        seen.append((ctx.step_id, number, threading.current_thread().name))
        return {"number": number + 1}

    with ThreadPoolExecutor(1, "mine") as pool:
        rt = await runtime(flow(step, service=pool), store=any_store)
        assert (await rt.run("wf", number=1)).state["number"] == 2
    ((step_id, number, thread),) = seen
    assert (step_id, number, thread) == ("s", 1, "mine_0")


async def test_a_pool_that_breaks(runtime):
    """A broken pool of processes is the same typed error as a lost process of the runtime."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        rt = await runtime(flow(work.ends, service=pool))
        result = await rt.run("wf", how="exit")
        again = await rt.run("wf", how="exit")
    assert (result.status, result.error.code) == (RunStatus.FAILED, "PROCESS_LOST")
    assert again.error.code == "PROCESS_LOST"
    assert "executor 'pool' is broken" in again.error.message


async def test_a_context_cannot_leave_the_process(runtime):
    """A step that asks for `ctx` and is sent to another process fails with a text that says so."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        rt = await runtime(flow(work.of_context, service=pool))
        result = await rt.run("wf")
    assert result.error.type == "TypeError"
    assert "cannot be sent to another process" in result.error.message


async def test_a_timeout_cancels_the_call(runtime, vclock, any_store):
    """A call that is given up is cancelled at its executor; what still comes of it changes nothing."""
    pool = ByHand()
    rt = await runtime(flow(work.double, service=pool, timeout=5), store=any_store)
    running = asyncio.ensure_future(rt.run("wf", number=1))
    await pool.came.wait()
    vclock.advance(5)
    assert (await running).error.code == "STEP_TIMEOUT"
    (call,) = pool.calls
    assert call[0] is work.double
    # The thread that submits may have had the call, but not its future, when the time was over: then it cancels it.
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    call[3].add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    await ended.wait()
    assert call[3].cancelled()


async def test_an_abort_cancels_the_call(runtime, any_store):
    """So does an abort; a call that has begun ends late, and nobody takes its result."""
    pool = ByHand()
    rt = await runtime(flow(work.double, service=pool), store=any_store)
    running = asyncio.ensure_future(rt.run("wf", number=1))
    await pool.came.wait()
    future = pool.calls[0][3]
    future.set_running_or_notify_cancel()
    run_id = rt.list_all_runs()[0].run_id
    await rt.abort(run_id)
    assert (await running).status is RunStatus.ABORTED
    future.set_result({"number": 7})
    await run_until_idle()
    assert (await rt.wait(run_id)).state == {"number": 1}


async def test_an_executor_that_cancels_the_call(runtime):
    """A call that its executor gave up is not taken for a cancellation of the run."""
    pool = ByHand()
    rt = await runtime(flow(work.double, service=pool))
    running = asyncio.ensure_future(rt.run("wf", number=1))
    await pool.came.wait()
    pool.calls[0][3].cancel()
    result = await running
    assert (result.status, result.error.code) == (RunStatus.FAILED, "PROCESS_LOST")


@pytest.mark.parametrize("error", [ValueError("no"), StopIteration("stop"), SystemExit(3)], ids=repr)
async def test_its_errors_are_those_of_the_step(runtime, error):
    """Whatever error a future holds is the step's."""
    pool = ByHand()
    rt = await runtime(flow(work.double, service=pool))
    running = asyncio.ensure_future(rt.run("wf", number=1))
    await pool.came.wait()
    pool.calls[0][3].set_exception(error)
    assert (await running).error.type == type(error).__name__


async def test_elements_by_an_executor(runtime):
    """Elements of a step with `each` are calls of their own."""
    with ThreadPoolExecutor(2) as pool:
        rt = await runtime(flow(work.square, service=pool, each="items"))
        assert (await rt.run("wf", items=[3, 4])).state["s"] == [[0, 9], [1, 16]]


async def test_a_service_that_is_no_executor(runtime):
    """The step fails, and its error names the service and what it is."""
    rt = await runtime(flow(work.double, service=7))
    result = await rt.run("wf", number=1)
    assert result.error.code == "STEP_FAILED"
    assert "'pool' is a int" in result.error.message


@pytest.mark.parametrize(("name", "near"), [("pol", "pool"), ("proces", "process")])
async def test_an_unknown_service_is_a_fault(runtime, name, near):
    """Registration names the executor that does not exist, and what is there."""
    rt = await runtime()
    with pytest.raises(InvalidDefinition) as refused:
        await rt.register(flow(work.double, name))
    assert list(dict(refused.value.faults)) == ["pipelines.main.one.s.executor"]
    assert near in str(refused.value)


async def test_an_async_function_is_a_fault(runtime):
    """An async step is no call that could be sent anywhere."""

    async def step():
        pass

    rt = await runtime()
    with pytest.raises(InvalidDefinition) as refused:
        await rt.register(flow(step))
    assert list(dict(refused.value.faults)) == ["pipelines.main.one.s.executor"]
