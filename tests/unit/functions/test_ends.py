"""How a pass of a durable function ends, whatever the function does with the exceptions that end it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

import pytest

from poundlock import (
    Event,
    InvalidDefinition,
    NonRetryable,
    Retry,
    RetryAfter,
    StepContext,
    StepError,
    Steps,
    Terminate,
    Use,
    Wait,
    Workflow,
    WorkflowRuntime,
    workflow,
)
from poundlock.testing import run_until_idle


# ------------------------------------------------------------------------------------------------------ divergence
def versions(calls):
    """Two versions of a function: the second one asks for something else under the same key."""

    async def charge():
        return await calls.work("charge")

    async def refund():
        return await calls.work("refund")

    def of(call):
        @workflow("pays")
        async def pays(step):
            try:
                await step.run(call, key="money")
            except BaseException:
                calls.append("swallowed")
                raise
            await step.wait_for("go on")
            return "done"

        return pays

    return of(charge), of(refund)


async def test_a_function_that_diverges_is_paused_until_it_fits(stores, calls):
    """A mismatch names both operations and parks the run; the function that fits the record lets it go on."""
    old, new = versions(calls)
    first = await stores.enter(old)
    run = await first.run("pays")
    await stores.crash(first)
    second = await stores.enter(new)
    await second.emit("go on")
    run = await second.wait(run.run_id, until="rest")
    assert (run.status, run.error.type, run.error.code) == ("paused", "ReplayDivergence", "REPLAY_DIVERGENCE")
    assert "operation 'money' is run 'refund' now, but run 'charge' on record" in run.error.message
    assert (await second.resume(run.run_id)).error.type == "ReplayDivergence"
    await stores.crash(second)
    third = await stores.enter(old)
    run = await third.wait(run.run_id)
    assert (run.status, run.result) == ("completed", "done")
    assert calls.count("charge") == 1
    assert "refund" not in calls


async def test_other_branches_run_what_they_ask_for(stores, calls):
    """With keys by name, a branch that turns out differently runs its own step, and takes no other's result."""
    turns = iter([True, False])

    async def left():
        return "left"

    async def right():
        return "right"

    @workflow("flips")
    async def flips(step):
        found = await step.run(left if next(turns) else right)
        await step.wait_for("go on")
        return found

    runtime = await stores.enter(flips)
    run = await runtime.run("flips")
    assert (await runtime.resume(run.run_id)).result == "right"


# ------------------------------------------------------------------------------------------------- swallowed ends
async def test_a_suspension_cannot_be_swallowed(stores, calls, caplog):
    """`except Exception` does not see a suspension, and one that takes BaseException is called again all the same."""

    @workflow("swallows")
    async def swallows(step):
        try:
            event = await step.wait_for("said")
        except Exception:  # noqa: BLE001 - it must not catch it
            calls.append("exception")
        except BaseException:  # noqa: BLE001 - it must not help
            await step.run(calls.work, "never")
            return "wrong"
        return event.payload["n"]

    runtime = await stores.enter(swallows)
    run = await runtime.run("swallows")
    assert run.status == "paused"
    await runtime.emit("said", n=4)
    assert (await runtime.wait(run.run_id)).result == 4
    assert calls == []


async def test_a_function_that_returns_after_its_suspension_is_named(stores, caplog):
    """A result after the end of the pass does not count, and the log says what the function did."""

    @workflow("returns")
    async def returns(step):
        try:
            return (await step.wait_for("said")).payload["n"]
        except BaseException:  # noqa: BLE001 - it must not help
            return "wrong"

    runtime = await stores.enter(returns)
    run = await runtime.run("returns")
    assert run.status == "paused"
    assert "took the exception that ends its pass" in caplog.text
    await runtime.emit("said", n=4)
    assert (await runtime.wait(run.run_id)).result == 4


@pytest.mark.parametrize("kind", ["coroutine", "generator"])
async def test_a_loop_that_swallows_everything_blocks_nobody(stores, kind, caplog):
    """A function that swallows each exception for ever is left behind, and its run is paused all the same."""
    goes_on = [True]
    if kind == "coroutine":

        @workflow("loops")
        async def loops(step):
            while goes_on:
                with contextlib.suppress(BaseException):
                    await step.wait_for("said")
    else:

        @workflow("loops")
        def loops(step):
            for number in range(3):
                with contextlib.suppress(BaseException):
                    yield step.wait_for("said", key=str(number))

    runtime = await stores.enter(loops)
    run = await runtime.run("loops")
    assert run.status == "paused"
    goes_on.clear()  # else this very loop could not end
    await runtime.abort(run.run_id)
    assert (await runtime.wait(run.run_id)).status == "aborted"


async def test_a_gather_that_is_not_awaited_fails_the_run(stores, calls):
    """Its coroutines would never run: it is named, also where its parts are operations and there is another gather."""

    @workflow("function")
    async def function(step):
        async def part():
            await step.run(calls.work)

        step.gather(part(), step.sleep(0))
        await step.gather(step.run(calls.work, key="a"), step.run(calls.work, key="b"))

    runtime = await stores.enter(function)
    run = await runtime.run("function")
    assert (run.status, run.error.type, len(calls)) == ("failed", "StepFailed", 2)
    assert "step.gather('gather of 2') was made and never awaited" in run.error.message


async def test_a_part_that_was_given_up_and_goes_on_for_ever_fails_the_run(stores):
    """What gathers such a part is not waited for: the run would be running for ever."""
    goes_on = [True]

    async def fails():
        raise ValueError("no")

    @workflow("function")
    async def function(step):
        async def part():
            while goes_on:
                with contextlib.suppress(BaseException):
                    await step.wait_for("said")

        await step.gather(part(), step.run(fails))

    runtime = await stores.enter(function)
    run = await runtime.run("function")
    goes_on.clear()  # else this very loop could not end
    assert (run.status, run.error.type, "was given up" in run.error.message) == ("failed", "StepFailed", True)


async def test_steps_of_an_earlier_call_are_refused(stores):
    """A function that keeps `step` from an earlier call gets an error that says so, and fails."""
    kept = []

    @workflow("function")
    async def function(step):
        kept.append(step)
        await step.sleep("1h")
        await kept[0].sleep("1h", key="late")

    runtime = await stores.enter(function)
    run = await runtime.run("function")
    assert (run.status, run.error.type, "keep no operation" in run.error.message) == ("failed", "StepFailed", True)


async def test_clean_up_runs_when_a_pass_ends(stores, calls):
    """`finally` and context managers of the function run at each suspension, in all kinds of functions."""

    @workflow("coroutine")
    async def coroutine(step):
        try:
            await step.wait_for("x")
        finally:
            calls.append("coroutine")

    @workflow("generator")
    def generator(step):
        try:
            yield step.wait_for("x")
        finally:
            calls.append("generator")

    @workflow("async")
    async def async_generator(step):
        try:
            yield step.wait_for("x")
        finally:
            calls.append("async")

    runtime = await stores.enter(coroutine, generator, async_generator)
    for id in ("coroutine", "generator", "async"):
        assert (await runtime.run(id)).status == "paused"
    assert calls == ["coroutine", "generator", "async"]


# -------------------------------------------------------------------------------------------------- abort and stop
async def test_an_abort_ends_a_function_at_its_step(stores, calls, make_gate):
    """An abort interrupts the step, and the function cannot keep the run."""
    gate = make_gate()

    @workflow("aborted", on="go")
    async def aborted(step):
        try:
            await step.run(gate, key="gate")
        except BaseException:  # noqa: BLE001 - it must not help
            await step.run(calls.work)

    runtime = await stores.enter(aborted)
    run_id = (await runtime.emit("go")).run_ids[0]
    await run_until_idle(stores.clock)
    await runtime.abort(run_id, "no more")
    run = await runtime.wait(run_id)
    assert (run.status, calls) == ("aborted", [])


async def test_an_abort_while_it_waits(stores):
    """A function that waits or sleeps is aborted at once."""

    @workflow("waits")
    async def waits(step):
        await step.gather(step.wait_for("x"), step.sleep("1d"))

    runtime = await stores.enter(waits)
    run = await runtime.run("waits")
    await runtime.abort(run.run_id)
    assert (await runtime.get_run(run.run_id)).status == "aborted"


async def test_a_stop_lets_the_step_end_and_goes_on_later(stores, calls, make_gate):
    """A runtime that stops lets the step in flight end and be recorded, and begins no other one."""
    gate = make_gate()

    @workflow("stopped", on="go")
    async def stopped(step):
        await step.run(gate, key="gate")
        return await step.run(calls.work)

    first = await stores.enter(stopped)
    run_id = (await first.emit("go")).run_ids[0]
    await run_until_idle(stores.clock)
    stopping = asyncio.create_task(first.stop())
    await run_until_idle(stores.clock)
    gate.open()
    await stopping
    assert calls == []
    second = await stores.enter(stopped)
    assert (await second.wait(run_id)).result == 1
    assert gate.came == [None]


async def test_a_stop_gives_up_nothing_that_was_to_begin(stores, calls, make_gate):
    """Beside a part that has failed, the step that a stop keeps from beginning begins in the next runtime."""
    gate = make_gate()

    async def fails():
        raise LookupError("no")

    @workflow("stopped", on="go")
    async def stopped(step):
        async def part():
            await step.run(gate, key="gate")
            await step.run(calls.work)

        await step.gather(part(), step.run(fails))

    first = await stores.enter(stopped)
    run_id = (await first.emit("go")).run_ids[0]
    await run_until_idle(stores.clock)
    stopping = asyncio.create_task(first.stop())
    await run_until_idle(stores.clock)
    gate.open()
    await stopping
    second = await stores.enter(stopped)
    assert (await second.wait(run_id)).error.type == "LookupError"
    assert (gate.came, calls) == ([None], ["work"])


# --------------------------------------------------------------------------------------------------------- failures
async def test_a_failed_function_goes_on_where_it_failed(stores, calls):
    """With on_failure="pause", resuming calls the function again by its record, and tries what failed anew."""
    broken = [True]

    async def sends():
        calls.append("send")
        if broken:
            raise ConnectionError("down")
        return "sent"

    @workflow("mends", on_failure="pause")
    async def mends(step):
        await step.run(calls.work, "first")
        return await step.run(sends)

    first = await stores.enter(mends)
    run = await first.run("mends")
    assert (run.status, run.ok, str(run.error)) == ("paused", False, "ConnectionError: down")
    await stores.crash(first)
    broken.clear()
    second = await stores.enter(mends)
    run = await second.resume(run.run_id)
    assert (run.status, run.result, calls) == ("completed", "sent", ["first", "send", "send"])


@pytest.mark.parametrize("kind", ["poll", "start"])
async def test_a_failed_poll_or_start_is_tried_anew(stores, calls, kind):
    """With on_failure="pause" a poll begins anew, and a run is started, as soon as that works."""
    broken = [True]

    async def ready():
        if broken:
            raise ConnectionError("down")
        return "ready"

    @workflow("target")
    async def target(step, event):
        if broken:
            raise LookupError
        await step.run(calls.work)

    @workflow("mends", on_failure="pause")
    async def mends(step):
        if kind == "poll":
            return await step.poll(ready, every="1m", max_wait="1h")
        return await step.start("target") and "ready"

    runtime = await stores.enter(mends) if kind == "start" else await stores.enter(mends, target)
    run = await runtime.run("mends")
    assert (run.status, run.error.type) == ("paused", "ConnectionError" if kind == "poll" else "NotRegistered")
    broken.clear()
    if kind == "start":
        await runtime.register(target)
    run = await runtime.resume(run.run_id)
    assert (run.status, run.result) == ("completed", "ready")


@pytest.mark.parametrize("on_failure", ["fail", "pause"])
@pytest.mark.parametrize(
    "fields",
    [{"path": "nothing"}, {"type": ValueError}, {"path": ["a", "list"]}, {}],
    ids=["unknown", "class", "list", "plain"],
)
async def test_a_step_error_of_the_functions_own_is_an_error_like_any_other(stores, fields, on_failure):
    """A StepError that no operation has raised ends or pauses the run, whatever is in it."""

    @workflow("raises", on_failure=on_failure)
    async def raises(step):
        raise StepError("mine", **fields)

    runtime = await stores.enter(raises)
    run = await runtime.run("raises")
    assert run.status == ("paused" if on_failure == "pause" else "failed")
    assert (run.error.type, "mine" in run.error.message) == ("StepError", True)
    if on_failure == "pause":
        assert (await runtime.resume(run.run_id)).status == "paused"


async def test_an_error_of_the_function_itself_fails_the_run(stores):
    """What the function raises between operations is the run's error, with its type and message."""

    @workflow("raises")
    async def raises(step):
        await step.sleep(0)
        raise LookupError("nobody there")

    runtime = await stores.enter(raises)
    run = await runtime.run("raises")
    assert (run.status, str(run.error), run.error.stage) == ("failed", "LookupError: nobody there", "raises")


async def test_retries_are_counted_across_crashes(stores, calls, vclock):
    """Attempts and the remaining delay survive a crash; a long delay leaves no task behind."""
    vclock.autojump = False

    async def flaky():
        calls.append(vclock.now())
        raise ValueError("again")

    @workflow("retries")
    async def retries(step):
        try:
            await step.run(flaky, retry=Retry(3, backoff="10m", factor=1, max="1h"))
        except StepError as error:
            return error.message

    first = await stores.enter(retries)
    await first.invoke("retries", run_id="R", until="accepted")
    await run_until_idle(vclock)
    assert (await first.get_run("R")).status == "delayed"
    await stores.crash(first)
    begun = calls[0]
    vclock.autojump = True
    second = await stores.enter(retries)
    run = await second.wait("R")
    assert (run.result, [time - begun for time in calls]) == ("again", [0, 600, 1200])


async def test_the_budget_of_the_latest_error_counts(stores, calls):
    """RetryAfter may say how many attempts there are; NonRetryable ends them; each step has its own budget."""

    async def stops_at_three():
        calls.append("a")
        raise RetryAfter(0, "later", attempts=10 if len(calls) < 2 else 3)

    async def never():
        calls.append("b")
        raise NonRetryable

    async def third():
        calls.append("c")
        if calls.count("c") < 3:
            raise ValueError

    @workflow("budgets")
    async def budgets(step):
        said = []
        for function in (stops_at_three, never, third):
            try:
                await step.run(function, retry=Retry(5, backoff=0))
            except StepError as error:
                said.append(error.type)
        return said

    runtime = await stores.enter(budgets)
    assert (await runtime.run("budgets")).result == ["RetryAfter", "NonRetryable"]
    assert "".join(calls) == "aaabccc"


async def test_a_timeout_ends_an_attempt(stores, make_gate):
    """`timeout=` cancels the attempt, which fails with a StepTimeout."""
    gate = make_gate()

    @workflow("slow")
    async def slow(step):
        try:
            await step.run(gate, timeout="5s", key="gate")
        except StepError as error:
            return [error.type, error.message]

    runtime = await stores.enter(slow)
    said = (await runtime.run("slow")).result
    assert said == ["StepTimeout", "'gate' took longer than 5 s: raise its timeout or make it faster"]


# ----------------------------------------------------------------------------------------------------- gathered
async def test_a_failure_in_a_gather_waits_for_what_runs_and_gives_up_what_waits(stores, calls, make_gate):
    """What runs beside a failure is recorded; what only waits is given up, also when the event comes later."""
    gate = make_gate()

    async def fails():
        raise ValueError("no")

    @workflow("gathers")
    async def gathers(step):
        try:
            await step.gather(step.wait_for("said"), step.run(fails), step.run(gate, key="gate"))
        except StepError as error:
            event = await step.wait_for("said", key="second")
            return [error.message, event.payload["n"]]

    first = await stores.enter(gathers)
    await first.invoke("gathers", run_id="R", until="accepted")
    await run_until_idle(stores.clock)
    gate.open()
    run = await first.wait("R", until="rest")
    assert [wait.id for wait in run.waits] == ["second"]
    await stores.crash(first)
    second = await stores.enter(gathers)
    await second.emit("said", n=1)
    assert (await second.wait("R")).result == ["no", 1]
    assert gate.came == [None]


async def test_tasks_of_the_function_itself_are_refused(stores, calls):
    """An operation in asyncio.gather or create_task is refused, with the way to do it; so is one within a step."""

    @workflow("tasks")
    async def tasks(step):
        said = []
        for wrong in (
            lambda: asyncio.gather(step.run(calls.work), step.run(calls.work)),
            lambda: asyncio.create_task(nested(step)),
            lambda: step.run(nested, step, key="outer"),
        ):
            try:
                await wrong()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
                said.append(str(error))
        return said

    async def nested(step):
        await step.run(calls.work)

    runtime = await stores.enter(tasks)
    run = await runtime.run("tasks")
    assert ["step.gather" in said for said in run.result[:2]] == [True, True]
    assert "is awaited inside of step.run('outer')" in run.result[2]
    assert calls == []


async def test_gather_keeps_the_order_and_runs_at_once(stores, make_gate):
    """Results are in order, whatever ends first; parts may be coroutines that use operations, also nested ones."""
    gate = make_gate()

    @workflow("ordered")
    async def ordered(step):
        async def part(name):
            inner = await step.gather(step.run(lambda: name, key=f"{name} 1"), step.run(lambda: 2, key=f"{name} 2"))
            return [name, *inner]

        return await step.gather(step.run(gate, key="gate"), part("a"), part("b"), step.run(let_on), step.gather())

    async def let_on():
        gate.open()

    runtime = await stores.enter(ordered)
    assert (await runtime.run("ordered")).result == [None, ["a", "a", 2], ["b", "b", 2], None, []]


# ------------------------------------------------------------------------------------------------- continue as new
async def test_continue_as_new_keeps_the_run_and_forgets_the_record(stores, calls):
    """The same run begins again with the new input and an empty record, and goes on so after a crash."""

    @workflow("generations", on="go")
    async def generations(step, event):
        left = event.payload["left"]
        await step.run(calls.work, left)
        if left == 1:
            await step.wait_for("end")
            return [event.type, left, step.uuid()]
        return step.continue_as_new({"left": left - 1})

    first = await stores.enter(generations)
    [run] = await (await first.emit("go", left=3)).results()
    assert (run.status, calls) == ("paused", [3, 2, 1])
    await stores.crash(first)
    second = await stores.enter(generations)
    await second.emit("end")
    run = await second.wait(run.run_id)
    assert run.result[:2] == ["go", 1]
    assert calls == [3, 2, 1]


async def test_continue_as_new_in_a_generator(stores, calls):
    """A generator yields or returns it."""

    @workflow("yields")
    def yields(step, event):
        n = event.payload["n"]
        if n == 1:
            return "end"
        if n == 2:
            return step.continue_as_new({"n": 1})
        yield step.continue_as_new({"n": n - 1})

    runtime = await stores.enter(yields)
    assert (await runtime.run("yields", n=3)).result == "end"


# --------------------------------------------------------------------------------------------------- other runs
async def test_another_run_is_started_once(stores, calls):
    """`start` gives the id of a durable run of another workflow; called again, it starts no second one."""
    child = Workflow("child")

    @child.step
    async def work(n: int):
        calls.append(n)
        return Terminate(n)

    @workflow("parent")
    async def parent(step):
        run_id = await step.start("child", {"n": 5})
        try:
            await step.start("nobody")
        except StepError as error:
            said = error.type
        await step.wait_for("go on")
        return [run_id, said]

    first = await stores.enter(child, parent)
    run = await first.run("parent")
    await run_until_idle(stores.clock)  # the child has ended: a crash in the middle of it repeats its step
    await stores.crash(first)
    second = await stores.enter(child, parent)
    await second.emit("go on")
    child_id, said = (await second.wait(run.run_id)).result
    assert (await second.wait(child_id)).result == 5
    assert (said, calls) == ("NotRegistered", [5])


# ------------------------------------------------------------------------------------------------------- injection
async def test_what_a_function_is_given(stores):
    """Parameters follow the rules of steps, and `step` is the operations, by name or by type."""

    class Mail:
        pass

    @workflow("given", on="go")
    async def given(ops: Steps, event: Event, state, ctx: StepContext, n: int, mail: Annotated[Mail, Use("mail")]):
        return [ops.run_id == ctx.run_id, event.payload, dict(state), n, type(mail).__name__, ctx.stage_id]

    given.service(Mail, id="mail")
    runtime = await stores.enter(given)
    assert (await runtime.run("given", n=1)).result == [True, {"n": 1}, {"n": 1}, 1, "Mail", "given"]


async def test_log_records_are_not_repeated(stores):
    """`step.logger` writes to the timeline, and is silent while the function is replayed."""

    @workflow("logs")
    async def logs(step):
        step.logger.warning("once")
        await step.run(int)
        step.logger.warning("twice")
        await step.wait_for("go on")
        step.logger.warning("thrice")
        return step.replaying

    runtime = await stores.enter(logs)
    run = await runtime.run("logs")
    run = await runtime.resume(run.run_id)
    entries = (await runtime.timeline(run.run_id)).entries
    assert [entry.payload["message"] for entry in entries if entry.type == "log:warning"] == ["once", "twice", "thrice"]


async def test_faults_are_found_at_registration(stores):
    """A function that cannot wait, wrong waits, other stages and unknown parameters are reported together."""

    @workflow("wrong", waits=[Wait("a", timeout=5), Wait([]), Wait("b", id="x"), Wait("c", id="x"), 5])
    def wrong(step):
        return 5

    @wrong.step
    async def more():
        pass

    with pytest.raises(InvalidDefinition) as caught:
        wrong.definition  # noqa: B018 - reading it checks it
    paths = [path for path, _ in caught.value.faults]
    assert {"stages", "function", "waits.0", "waits.1.events", "waits.3.id", "waits.4"} <= set(paths)


async def test_the_name_step_is_reserved():
    """A state with a field called step is a fault, and so is a parameter that nothing can give."""
    from pydantic import BaseModel

    class State(BaseModel):
        step: int

    @workflow("reserved", state=State)
    async def reserved(step, nobody):
        pass

    with pytest.raises(InvalidDefinition) as caught:
        async with WorkflowRuntime(reserved):
            pass
    assert [path for path, _ in caught.value.faults] == ["state.step", "pipelines.main.reserved.reserved.nobody"]


async def test_a_decorator_without_an_id():
    """`@workflow` needs an id, and says so."""
    with pytest.raises(InvalidDefinition, match="an-id"):

        @workflow
        async def bare(step):
            pass

    with pytest.raises(InvalidDefinition, match="pipelines"):
        workflow("x", pipelines=[])


async def test_a_function_that_diverges_fails_where_the_workflow_says_so(stores, calls):
    """With on_change="fail", a function that does not fit its record fails its run."""

    def of(call):
        @workflow("strict", on_change="fail")
        async def strict(step):
            await step.run(call, key="it")
            await step.wait_for("go on")

        return strict

    first = await stores.enter(of(int))
    run = await first.run("strict")
    await stores.crash(first)
    second = await stores.enter(of(float))
    await second.emit("go on")
    run = await second.wait(run.run_id)
    assert (run.status, run.error.code, run.error.step) == ("failed", "REPLAY_DIVERGENCE", "it")
