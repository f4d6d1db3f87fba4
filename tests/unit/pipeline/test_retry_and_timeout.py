"""Attempts and deadlines, on a clock that jumps."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support import LAST_RESORT

from poundlock import NonRetryable, Pipeline, Retry, RetryAfter, Stage, Step, Workflow


def flow(*steps, **stage):
    return Workflow("wf", pipelines=[Pipeline("main", [Stage("one", steps, **stage)])])


def failing(times, error=RuntimeError, seen=None):
    """An action that raises so many times and then succeeds."""
    left = [times]

    async def action():
        if left[0]:
            left[0] -= 1
            raise error(f"{left[0]} left")
        return {"done": True}

    return action


async def types(rt, result, prefix="step:"):
    return [entry.type for entry in (await rt.timeline(result.run_id)).entries if entry.type.startswith(prefix)]


async def test_attempts_and_growing_delays(runtime, vclock):
    """Attempts follow each other after backoff, backoff * factor, ... up to max, all of it in the timeline."""
    began = vclock.now()
    retry = Retry(5, backoff=2, factor=3, max="15s")
    rt = await runtime(flow(Step("s", failing(4), retry=retry)))
    result = await rt.run("wf")
    assert result.state == {"done": True}
    assert vclock.now() - began == 2 + 6 + 15 + 15
    entries = (await rt.timeline(result.run_id)).entries
    retries = [entry.payload for entry in entries if entry.type == "step:retry"]
    assert [(entry["attempt"], entry["delay"]) for entry in retries] == [(1, 2.0), (2, 6.0), (3, 15.0), (4, 15.0)]
    assert retries[0]["error"]["message"] == "3 left"
    assert await types(rt, result) == ["step:start", "step:retry"] * 4 + ["step:start", "step:success"]


async def test_the_last_error_is_the_runs(runtime):
    """When all attempts have failed the run fails with the last error."""
    rt = await runtime(flow(Step("s", failing(9), retry=Retry(3))))
    result = await rt.run("wf")
    assert str(result.error) == "RuntimeError: 6 left"
    assert (await types(rt, result)).count("step:start") == 3


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [
        (Retry(3, on=(ValueError,)), 3),
        (Retry(3, on=(KeyError,)), 1),
        (Retry(3, not_on=(ValueError,)), 1),
        (Retry(3, on=(Exception,), not_on=(UnicodeError,)), 3),
        (Retry(1), 1),
    ],
)
async def test_only_some_errors_are_worth_another_attempt(runtime, retry, attempts):
    """`on` and `not_on` decide which errors are tried again."""
    rt = await runtime(flow(Step("s", failing(9, ValueError), retry=retry)))
    result = await rt.run("wf")
    assert result.status == "failed"
    assert (await types(rt, result)).count("step:start") == attempts


async def test_a_retried_thread_step(runtime):
    """A `def` step is tried again like an async one."""
    left = [2]

    def action():
        if left[0]:
            left[0] -= 1
            raise RuntimeError("again")
        return {"done": True}

    rt = await runtime(flow(Step("s", action, retry=Retry(3))))
    assert (await rt.run("wf")).state == {"done": True}


async def test_an_async_step_times_out(runtime, vclock):
    """An async step is cancelled when its time is up; the run fails with STEP_TIMEOUT naming step and time."""
    told = []

    async def slow():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            told.append("cancelled")

    began = vclock.now()
    rt = await runtime(flow(Step("s", slow, timeout="90s")))
    result = await rt.run("wf")
    assert (result.status, result.error.code, result.error.step) == ("failed", "STEP_TIMEOUT", "s")
    assert "90 s" in result.error.message
    assert vclock.now() - began == 90
    assert told == ["cancelled"]
    assert "step:timeout" in await types(rt, result)


async def test_each_attempt_has_its_own_time(runtime, vclock):
    """A timeout counts per attempt, and a timed out attempt may be tried again."""
    left = [2]

    async def slow():
        if left[0]:
            left[0] -= 1
            await asyncio.get_running_loop().create_future()
        return {"done": True}

    began = vclock.now()
    rt = await runtime(flow(Step("s", slow, timeout=10, retry=Retry(3, backoff=1, factor=1))))
    assert (await rt.run("wf")).state == {"done": True}
    assert vclock.now() - began == 22


async def test_a_steps_own_timeout_error_is_its_own(runtime):
    """A TimeoutError the step raises itself is an ordinary failure, not our deadline."""

    async def raises():
        raise TimeoutError("theirs")

    rt = await runtime(flow(Step("s", raises, timeout=10)))
    result = await rt.run("wf")
    assert (str(result.error), result.error.code) == ("TimeoutError: theirs", None)


async def test_a_late_result_of_a_thread_is_discarded(runtime, vclock):
    """A `def` step is left behind at its timeout, and what it returns later changes nothing."""
    loop, entered, leave, ended = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), threading.Event()

    def slow():
        loop.call_soon_threadsafe(entered.set)
        leave.wait(LAST_RESORT)
        ended.set()
        return {"late": True}

    vclock.autojump = False
    rt = await runtime(flow(Step("s", slow, timeout=10)))
    running = asyncio.create_task(rt.run("wf"))
    await entered.wait()  # its time runs since before that
    vclock.advance(11)
    result = await running
    assert result.error.code == "STEP_TIMEOUT"
    leave.set()
    assert await asyncio.to_thread(ended.wait, LAST_RESORT)
    assert (await rt.wait(result.run_id)).state == {}
    vclock.autojump = True


async def test_a_stage_times_out(runtime, vclock):
    """A stage's time covers all its steps and their attempts; then all are cancelled and nothing is merged."""
    told = []

    async def slow():
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            told.append("cancelled")

    async def quick():
        return {"quick": True}

    began = vclock.now()
    steps = [Step("a", slow), Step("b", quick), Step("c", failing(99), retry=Retry(50, backoff=10, factor=1))]
    rt = await runtime(flow(*steps, timeout=60))
    result = await rt.run("wf")
    assert (result.error.code, result.error.stage, result.error.step) == ("STEP_TIMEOUT", "one", None)
    assert (dict(result.state), told, vclock.now() - began) == ({}, ["cancelled"], 60.0)


# ------------------------------------------------------------------------------------------- what a step says itself
def raising(*errors):
    """An action that raises these errors one after another, and then succeeds."""
    left = list(errors)

    async def action():
        if left:
            raise left.pop(0)
        return {"done": True}

    return action


async def test_a_step_says_when_to_try_again(runtime, vclock):
    """`RetryAfter` replaces the delay of the Retry once, also beyond its `max`, and whatever `on` says."""
    began = vclock.now()
    retry = Retry(4, backoff=1, max=5, on=(ConnectionError,))
    rt = await runtime(flow(Step("s", raising(RetryAfter("10m"), ConnectionError(), RetryAfter(0)), retry=retry)))
    result = await rt.run("wf")
    assert result.state == {"done": True}
    assert vclock.now() - began == 600 + 2 + 0
    retries = [entry.payload for entry in (await rt.timeline(result.run_id)).entries if entry.type == "step:retry"]
    assert [(entry["delay"], entry["error"]["code"]) for entry in retries] == [
        (600.0, "RETRY_AFTER"),
        (2.0, None),
        (0.0, "RETRY_AFTER"),
    ]


async def test_it_counts_as_an_attempt(runtime):
    """When no attempt is left `RetryAfter` is the failure, with what it says; so it is without `retry=`."""
    error = RetryAfter("1s", "too many requests")
    rt = await runtime(
        flow(Step("s", raising(error, error), retry=Retry(2))),
        Workflow("alone", pipelines=[Pipeline("main", [Stage("one", [Step("s", raising(error))])])]),
    )
    for workflow in ("wf", "alone"):
        result = await rt.run(workflow)
        assert (result.status, result.error.code, result.error.message) == (
            "failed",
            "RETRY_AFTER",
            "too many requests",
        )


async def test_a_step_says_that_no_attempt_is_worth_it(runtime, vclock):
    """`NonRetryable` fails the step at once, also a subclass, and one that `on` lists."""

    class Gone(NonRetryable):
        pass

    began = vclock.now()
    rt = await runtime(flow(Step("s", raising(Gone("no such page")), retry=Retry(5, on=(Exception,)))))
    result = await rt.run("wf")
    assert (result.status, str(result.error), result.error.attempt) == ("failed", "Gone: no such page", 1)
    assert vclock.now() == began


async def test_a_delay_that_cannot_be_read(runtime):
    """A delay that is no duration fails the step, and says so."""
    rt = await runtime(flow(Step("s", raising(RetryAfter("soon")), retry=Retry(5))))
    result = await rt.run("wf")
    assert (result.status, result.error.code) == ("failed", "STEP_FAILED")
    assert "the delay of RetryAfter cannot be read" in result.error.message


def test_it_can_be_sent_between_processes():
    """Both errors survive pickling with all they say."""
    import pickle

    for error in (RetryAfter("2m", "later", path="a", id=1), NonRetryable("never", path="a", id=1)):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.path, again.fields) == (type(error), str(error), "a", {"id": 1})
        assert getattr(again, "delay", None) == getattr(error, "delay", None)
