"""Describing an error never raises, and never keeps a run from ending."""

from __future__ import annotations

import asyncio
import logging
import traceback

import pytest
from support_nasty import RAISES, Bad, Nameless, caused, throw

from poundlock import Pipeline, Retry, RunStatus, Service, Stage, Step, StepContext, Terminate, Workflow


def workflow(*stages, **options):
    return Workflow("wf", pipelines=[Pipeline("main", stages)], **options)


async def entries_of(rt, run_id, type):
    return [entry for entry in (await rt.timeline(run_id)).entries if entry.type == type]


async def test_an_error_without_a_text_is_told_by_its_type(runtime, any_store):
    """`__str__` raises: the run fails, and its error says what can be said, in the result and in the timeline."""

    async def work():
        raise Bad

    rt = await runtime(workflow(Stage("one", [Step("work", work)])), store=any_store)
    result = await rt.run("wf")
    assert (result.status, result.error.type, result.error.step) == (RunStatus.FAILED, "Bad", "work")
    assert "cannot be shown" in result.error.message
    assert "Bad" in result.error.traceback
    [entry] = await entries_of(rt, result.run_id, "step:failure")
    assert entry.payload["type"] == "Bad"
    stored = await rt.get_run(result.run_id)
    assert stored.error == result.error


async def test_a_traceback_that_cannot_be_formatted_is_left_out(runtime, monkeypatch):
    """CPython itself may raise SystemError while it formats a traceback: the run fails without one."""

    def broken(*_args, **_options):
        raise SystemError("AST constructor recursion depth mismatch")

    async def work():
        monkeypatch.setattr(traceback, "format_exception", broken)
        raise ValueError("the reason")

    rt = await runtime(workflow(Stage("one", [Step("work", work)])))
    result = await rt.run("wf")
    monkeypatch.undo()
    assert (result.error.message, result.error.traceback) == ("the reason", "(the traceback cannot be shown)\n")


@pytest.mark.parametrize("name", ["no text", "no name", "odd text", "a cause without text", "a group without text"])
async def test_odd_errors_are_noted_when_a_step_is_repeated(runtime, any_store, name):
    """A retry notes the error it is for, whatever that is."""

    async def work(ctx: StepContext):
        if ctx.attempt == 1:
            throw(name)

    wf = workflow(Stage("one", [Step("work", work, retry=Retry(2, backoff=0))]))
    rt = await runtime(wf, store=any_store)
    result = await rt.run("wf")
    assert result.status is RunStatus.COMPLETED
    [entry] = await entries_of(rt, result.run_id, "step:retry")
    assert entry.payload["attempt"] == 1


async def test_what_is_logged_may_be_impossible_to_show(runtime, any_store, caplog):
    """The step's logger notes that a record cannot be shown; neither it nor its run is disturbed."""
    caplog.set_level(logging.CRITICAL, "poundlock.step")

    class Quiet(logging.Filter):
        def filter(self, _record):
            return False

    async def work(ctx: StepContext):
        ctx.logger.info("%s", Nameless())
        ctx.logger.info("%d", "no number")
        return {"fine": True}

    logging.getLogger("poundlock.step").propagate = False
    try:
        rt = await runtime(workflow(Stage("one", [Step("work", work)])), store=any_store)
        result = await rt.run("wf")
    finally:
        logging.getLogger("poundlock.step").propagate = True
    assert result.status is RunStatus.COMPLETED
    noted = await entries_of(rt, result.run_id, "log:info")
    assert ["cannot be shown" in entry.payload["message"] for entry in noted] == [True, True]


class Odd:
    """A value that cannot be shown."""

    def __repr__(self):
        raise SystemExit("no repr")


class OddDict(dict):
    """Data that cannot be shown."""

    def __repr__(self):
        raise asyncio.CancelledError


@pytest.mark.parametrize("answer", [Odd(), Terminate(Odd())], ids=["no instruction", "a result"])
async def test_a_router_may_answer_what_cannot_be_shown(runtime, any_store, answer):
    """A router's answer that has no `repr` fails the run as any wrong answer does."""
    stage = Stage("one", [Step("work", lambda: None)], router=lambda state: answer)
    rt = await runtime(workflow(stage), store=any_store)
    result = await rt.run("wf")
    assert (result.status, result.error.stage) == (RunStatus.FAILED, "one")


async def test_an_instruction_that_cannot_be_shown_counts_all_the_same(runtime, any_store):
    """The timeline notes what a router decided; where that cannot be shown it says so, and the run ends as decided."""
    stage = Stage("one", [Step("work", lambda: None)], router=lambda state: Terminate(OddDict(fine=True)))
    rt = await runtime(workflow(stage), store=any_store)
    result = await rt.run("wf")
    assert (result.status, result.result) == (RunStatus.COMPLETED, {"fine": True})
    [entry] = await entries_of(rt, result.run_id, "router:evaluated")
    assert "cannot be shown" in entry.payload["instruction"]


@pytest.mark.parametrize("name", RAISES)
async def test_factories_may_fail_as_they_like(runtime, any_store, name):
    """A factory's error is told in the failure of the step that asked for the service."""

    async def asks(ctx: StepContext):
        await ctx.use(lambda deps: deps.require("made"))

    wf = workflow(Stage("one", [Step("asks", asks)]), services=[Service("made", lambda: throw(name), scope="run")])
    rt = await runtime(wf, store=any_store)
    result = await rt.run("wf")
    assert (result.status, result.error.step, result.error.type) == (RunStatus.FAILED, "asks", "ArtifactFailed")


async def test_a_cause_that_cannot_be_shown_is_left_out_of_the_text(runtime):
    """The error itself is told in full, whatever is wrong with its cause."""

    async def work():
        raise caused(ValueError("the reason"), Nameless())

    rt = await runtime(workflow(Stage("one", [Step("work", work)])))
    result = await rt.run("wf")
    assert (result.error.type, result.error.message) == ("ValueError", "the reason")
