"""A failed run is in the log once, at ERROR, with all that is needed to find it."""

from __future__ import annotations

import asyncio
import logging

import pytest
from support import GatedStore, ends

from poundlock import Fail, Pause, Pipeline, Retry, Stage, Step, Wait, Workflow
from poundlock.stores import MemoryStore


@pytest.fixture
def failures(caplog):
    """Return the records that say that a run failed."""
    caplog.set_level(logging.DEBUG, logger="poundlock")
    return lambda: [each for each in caplog.records if each.levelno >= logging.ERROR and "failed" in each.getMessage()]


def flow(action, router=None, **options):
    stage = Stage("one", [Step("s", action, **options)] if action else [], router=router)
    return Workflow("wf", pipelines=[Pipeline("main", [stage])])


async def raises():
    raise ValueError("no such customer")


def plain_raises():
    raise ValueError("no such customer")


async def exits():
    raise SystemExit(3)


class Unshowable(Exception):
    def __str__(self):
        raise RuntimeError("cannot be shown")


async def unshowable():
    raise Unshowable


async def fine():
    return {"a": 1}


async def hangs():
    await asyncio.get_running_loop().create_future()


async def odd_value():
    return {"a": object()}


def broken_router(state):
    raise LookupError("no way")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: flow(raises), ["ValueError: no such customer", "stage 'one'", "step 's'", "in raises"]),
        (lambda: flow(plain_raises), ["ValueError: no such customer", "stage 'one'", "step 's'"]),
        (lambda: flow(raises, retry=Retry(3, backoff=0)), ["ValueError: no such customer"]),
        (lambda: flow(exits), ["SystemExit: it tried to end the process"]),
        (lambda: flow(unshowable), ["Unshowable: (this error cannot be shown"]),
        (lambda: flow(hangs, timeout=1), ["StepTimeout", "step 's'"]),
        (lambda: flow(odd_value), ["NotStorable", "step 's'"]),
        (lambda: flow(fine, broken_router), ["LookupError: no way", "stage 'one'"]),
        (lambda: flow(fine, Fail("out of stock")), ["Fail: out of stock", "stage 'one'"]),
        (lambda: flow(None, Pause(Wait("never", timeout=1))), ["WaitExpired"]),
    ],
    ids=["step", "thread", "retry", "exit", "unshowable", "timeout", "value", "router", "fail", "wait"],
)
async def test_a_failed_run_is_logged_once(runtime, vclock, failures, made, said):
    """Whatever way a run fails: one record, at ERROR, with run id, workflow, place, error and traceback."""
    rt = await runtime(made())
    result = await rt.run("wf")
    if result.status == "paused":
        result = await rt.wait(result.run_id)
    assert result.status == "failed"
    [record] = failures()
    assert (record.name, record.levelname) == ("poundlock.runtime", "ERROR")
    text = record.getMessage()
    assert all(part in text for part in [result.run_id, "'wf'", *said]), text


async def test_a_failing_on_prepare_is_logged(runtime, failures):
    """A run that fails before its first stage names the hook."""

    def on_prepare(ctx):
        raise ValueError("not today")

    rt = await runtime()
    await rt.register(flow(fine), on_prepare=on_prepare)
    assert (await rt.run("wf")).status == "failed"
    [record] = failures()
    assert "on_prepare" in record.getMessage()


async def test_an_aborted_run_and_a_completed_one_are_no_errors(runtime, failures, gate):
    """What somebody asked for is no fault: an abort is not logged as an error."""
    came = asyncio.Event()

    async def step(ctx):
        came.set()
        await gate(ctx.run_id)

    rt = await runtime(flow(step))
    receipt_run = asyncio.ensure_future(rt.run("wf"))
    await came.wait()
    await rt.abort(gate.came[0], "enough")
    assert (await receipt_run).status == "aborted"
    gate.open()
    assert (await rt.run("wf")).ok
    assert failures() == []


async def test_an_end_that_is_committed_while_its_task_is_cancelled_is_logged_once(runtime, failures):
    """Other code cancels the run's task while the commit of its failure is on its way: it is logged all the same."""
    store = GatedStore(MemoryStore())
    store.hold_after = ends
    rt = await runtime(flow(raises), store=store)
    receipt_run = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
    [held] = await store.until_held()
    [task] = [each for each in asyncio.all_tasks() if each.get_name() == "r1"]
    task.cancel()
    held.release()
    assert (await receipt_run).status == "failed"
    [record] = failures()
    assert "'r1'" in record.getMessage()
