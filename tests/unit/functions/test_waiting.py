"""A durable function waits for events and time; meanwhile its run is only a row."""

from __future__ import annotations

import asyncio

import pytest

from poundlock import Condition, Event, Pending, Retry, StateRef, StepError, Wait, workflow
from poundlock.testing import run_until_idle


def nested(depth):
    """Return a payload with so many mappings around its value."""
    payload = {"n": 1}
    for _ in range(depth):
        payload = {"n": payload}
    return payload


def approval(calls, **options):
    @workflow("approval", on="asked", **options)
    async def approval(step, event):
        await step.run(calls.work, "before")
        answer = await step.wait_for("answered", correlate={"n": event.payload["n"]}, timeout="3d")
        await step.run(calls.work, "after")
        return None if answer is None else [answer.type, answer.payload, answer.source]

    return approval


async def test_an_event_answers_a_wait_in_another_process(stores, calls):
    """A paused function goes on in another runtime with the event; nothing on record is called again."""
    first = await stores.enter(approval(calls))
    [run] = await (await first.emit("asked", n=1)).results()
    assert (run.status, [wait.id for wait in run.waits]) == ("paused", ["answered"])
    await stores.crash(first)
    second = await stores.enter(approval(calls))
    lines = (await second.emit("answered", n=2)).lines
    assert [line.verdict for line in lines] == ["unmatched"]
    lines = (await second.emit("answered", n=1, by="Ada")).lines
    assert [(line.verdict, line.reason) for line in lines] == [("resumed", "wait answered")]
    run = await second.wait(run.run_id)
    assert run.result == ["answered", {"n": 1, "by": "Ada"}, ""]
    assert run.state == {"n": 1}  # the event is the function's, not the state's
    assert calls == ["before", "after"]


async def test_a_wait_that_expires_gives_none(stores, calls, vclock):
    """At its timeout a wait gives None, measured from the moment it was reached first."""
    first = await stores.enter(approval(calls))
    run = await first.run("approval", n=1)
    assert (await first.get_run(run.run_id)).wake_at == vclock.now() + 3 * 86400
    await stores.crash(first)
    second = await stores.enter(approval(calls))
    await vclock.run_for(days=3, seconds=1)
    run = await second.wait(run.run_id)
    assert (run.status, run.result, calls) == ("completed", None, ["before", "after"])


async def test_an_answer_by_hand_is_an_event(stores, calls):
    """`resume` answers the wait: the function gets an event with the patch as payload, also with a typed state."""
    from pydantic import BaseModel

    class State(BaseModel):
        n: int

    runtime = await stores.enter(approval(calls, state=State))
    run = await runtime.run("approval", n=1)
    run = await runtime.resume(run.run_id, {"by": "Bob"}, wait="answered")
    assert (run.status, run.result) == ("completed", ["answered", {"by": "Bob"}, "/resume"])
    assert run.state == State(n=1)


async def test_events_before_a_wait_are_kept_where_it_is_armed_from_the_start(stores, calls, make_gate):
    """`waits=` keeps events from the start; without it, what comes before the wait is reached is not wanted."""
    gate = make_gate()

    def of(id, **options):
        @workflow(id, on=id, **options)
        async def function(step, event):
            await step.run(gate, key="gate")
            answer = await step.wait_for("said", correlate={"n": event.payload["n"]})
            return answer.payload["n"]

        return function

    declared = Wait("said", correlate={"n": StateRef("n")})
    runtime = await stores.enter(of("armed", waits=[declared]), of("later"))
    armed, later = [(await runtime.emit(id, n=5)).run_ids[0] for id in ("armed", "later")]
    lines = (await runtime.emit("said", n=5)).lines
    assert [(line.verdict, line.run_id) for line in lines] == [("buffered", armed)]
    gate.open()
    assert (await runtime.wait(armed)).result == 5
    assert (await runtime.wait(later, until="rest")).status == "paused"
    await runtime.emit("said", n=5)
    assert (await runtime.wait(later)).result == 5


async def test_events_between_two_waits_are_kept(stores):
    """A loop that waits for the same events loses none that come while it works, and takes them in order."""
    started = asyncio.Event()
    release = asyncio.Event()

    async def work():
        started.set()
        await release.wait()

    @workflow("chat")
    async def chat(step):
        said = [(await step.wait_for("say")).payload["n"]]
        await step.run(work)
        while len(said) < 4:
            said.append((await step.wait_for("say")).payload["n"])
        return said

    runtime = await stores.enter(chat)
    run = await runtime.run("chat")
    await runtime.emit("say", n=1)
    await started.wait()
    for n in (2, 3):
        assert [line.verdict for line in (await runtime.emit("say", n=n)).lines] == ["buffered"]
    release.set()
    assert (await runtime.wait(run.run_id, until="rest")).status == "paused"
    await runtime.emit("say", n=4)
    assert (await runtime.wait(run.run_id)).result == [1, 2, 3, 4]


async def test_two_waits_at_once(stores, vclock):
    """A function may wait for several things at once; each goes on with its own, in any order, also after a crash."""

    @workflow("both", on="go")
    async def both(step):
        async def branch(name):
            event = await step.wait_for(name, key=name)
            await step.run(seen, name, key=f"seen {name}")
            return event.payload["n"]

        return await step.gather(branch("a"), branch("b"), step.wait_for("c", timeout="1h"))

    noted = []

    async def seen(name):
        noted.append(name)

    first = await stores.enter(both)
    [run] = await (await first.emit("go")).results()
    assert sorted(wait.id for wait in run.waits) == ["a", "b", "c"]
    assert (await first.get_run(run.run_id)).wake_at == vclock.now() + 3600
    await stores.crash(first)
    second = await stores.enter(both)
    await second.emit("b", n=2)
    run = await second.wait(run.run_id, until="rest")
    assert (noted, sorted(wait.id for wait in run.waits)) == (["b"], ["a", "c"])
    await vclock.run_for(hours=1, seconds=1)
    run = await second.wait(run.run_id, until="rest")
    assert sorted(wait.id for wait in run.waits) == ["a"]
    run = await second.resume(run.run_id, {"n": 1})
    assert (run.result, noted) == ([1, 2, None], ["b", "a"])


async def test_one_of_several_waits_is_answered_by_hand(stores):
    """`resume(wait=)` names which of a function's waits is answered; without it, the first one is."""

    @workflow("both")
    async def both(step):
        return [each.payload for each in await step.gather(step.wait_for("a"), step.wait_for("b"))]

    runtime = await stores.enter(both)
    run = await runtime.run("both")
    run = await runtime.resume(run.run_id, {"n": 2}, wait="b")
    assert [wait.id for wait in run.waits] == ["a"]
    assert (await runtime.resume(run.run_id, {"n": 1})).result == [{"n": 1}, {"n": 2}]


async def test_what_runs_beside_a_wait_is_recorded(stores, calls, make_gate):
    """A step beside a wait is let to its end and recorded; after a crash it is not called again."""
    gate = make_gate()

    @workflow("beside")
    async def beside(step):
        event, _, done = await step.gather(step.wait_for("said"), step.run(gate, key="gate"), step.run(calls.work))
        return [event.payload["n"], done]

    first = await stores.enter(beside)
    accepted = await first.invoke("beside", run_id="R", until="accepted")
    gate.open()
    run = await first.wait(accepted.run_id, until="rest")
    assert run.status == "paused"
    await stores.crash(first)
    second = await stores.enter(beside)
    await second.emit("said", n=3)
    assert (await second.wait("R")).result == [3, 1]
    assert (calls, gate.came) == (["work"], [None])


async def test_an_event_is_taken_while_other_parts_work(stores, calls, make_gate, vclock):
    """A wait in a gather is armed once reached, and goes on with its event while its siblings still work."""
    gate = make_gate()

    @workflow("live", on="go")
    async def live(step):
        async def branch():
            event = await step.wait_for("said")
            return await step.run(calls.work, event.payload["n"])

        return await step.gather(branch(), step.run(gate, key="gate"), step.run(calls.work, "x", key="x"))

    runtime = await stores.enter(live)
    run_id = (await runtime.emit("go")).run_ids[0]
    await run_until_idle(vclock)
    assert [wait.parked for wait in (await runtime.get_run(run_id)).waits] == [False]
    assert [line.verdict for line in (await runtime.emit("said", n="it")).lines] == ["buffered"]
    gate.open()
    assert (await runtime.wait(run_id)).result == [1, None, 1]


async def test_a_long_sleep_is_a_row_and_no_rest(stores, calls, vclock):
    """A function that sleeps is delayed: nothing is at rest, no task is left, and it goes on after a crash."""
    vclock.autojump = False

    @workflow("sleeper")
    async def sleeper(step):
        await step.run(calls.work, "before")
        await step.sleep("30d")
        await step.run(calls.work, "after")
        await step.sleep_until(step.now() + 5)
        return "up"

    first = await stores.enter(sleeper)
    await first.invoke("sleeper", run_id="R", until="accepted")
    await run_until_idle(vclock)
    assert (await first.get_run("R")).status == "delayed"
    assert first.statistics()["runs:live"] == 0
    await stores.crash(first)
    vclock.autojump = True
    second = await stores.enter(sleeper)
    since = vclock.now()
    run = await second.wait("R")
    assert (run.result, calls) == ("up", ["before", "after"])
    assert vclock.now() >= since + 30 * 86400


async def test_a_short_sleep_stays_in_memory(stores, vclock):
    """Up to a second a function sleeps in its task: the run is never delayed."""

    @workflow("nap")
    async def nap(step):
        await step.sleep(0.5)
        await step.sleep("100ms")

    runtime = await stores.enter(nap)
    since = vclock.now()
    run = await runtime.run("nap")
    assert run.status == "completed"
    assert vclock.now() - since == pytest.approx(0.6)
    assert "delayed" not in runtime.statistics()


async def test_polling(stores, vclock):
    """A function is called until it gives something other than Pending; between two calls the run is only a row."""
    answers = [Pending(), Pending(after="10m"), {"done": 1}]
    times = []

    async def check(job):
        times.append(vclock.now())
        return answers[len(times) - 1]

    @workflow("polls")
    async def polls(step):
        return await step.poll(check, "j", every="1m", max_wait="1h")

    runtime = await stores.enter(polls)
    begun = vclock.now()
    run = await runtime.run("polls")
    assert run.result == {"done": 1}
    assert [time - begun for time in times] == [0, 60, 660]
    assert runtime.statistics()["delayed"] == 2


async def test_polling_that_takes_too_long(stores, vclock):
    """A poll is looked at once more at the end of its time, and then fails with a StepTimeout."""
    times = []

    @workflow("polls")
    async def polls(step):
        try:
            await step.poll(lambda: times.append(vclock.now()) or Pending(), every=40, max_wait=100, key="poll")
        except StepError as error:
            return error.type

    runtime = await stores.enter(polls)
    begun = vclock.now()
    assert (await runtime.run("polls")).result == "StepTimeout"
    assert [time - begun for time in times] == [0, 40, 80, 100]


async def test_conditions_and_types_of_a_wait(stores):
    """Types may be patterns and several, and conditions leave out the rest."""

    @workflow("picky")
    async def picky(step):
        event = await step.wait_for(["order.*", "cancelled"], where=[Condition("total", ">", 10)])
        return [event.type, event.key, event.headers, event.id]

    runtime = await stores.enter(picky)
    run = await runtime.run("picky")
    assert [line.verdict for line in (await runtime.emit("order.placed", total=5)).lines] == ["filtered"]
    await runtime.emit(Event("order.paid", {"total": 50}, key="K", id="I", headers={"trace": "t"}))
    assert (await runtime.wait(run.run_id)).result == ["order.paid", "K", {"trace": "t"}, "I"]


async def test_polling_that_fails(stores, calls):
    """A poll whose function raises fails at once, unless `retry=` repeats it; a good call begins the count anew."""
    answers = iter([ValueError, Pending(), ValueError, Pending(), "done"])

    async def check(name):
        calls.append(name)
        answer = next(answers) if name == "repeated" else ValueError
        if answer is ValueError:
            raise ValueError(name)
        return answer

    @workflow("polls")
    async def polls(step):
        try:
            await step.poll(check, "once", every=1)
        except StepError as error:
            said = error.message
        return [said, await step.poll(check, "repeated", every=60, retry=Retry(2, backoff="30s"))]

    runtime = await stores.enter(polls)
    assert (await runtime.run("polls")).result == ["once", "done"]
    assert calls == ["once", *["repeated"] * 5]


async def test_two_waits_for_the_same_events(stores):
    """One event answers one wait, in the order in which the function asked."""

    @workflow("twins")
    async def twins(step):
        return [each.payload["n"] for each in await step.gather(step.wait_for("said"), step.wait_for("said"))]

    runtime = await stores.enter(twins)
    run = await runtime.run("twins")
    await runtime.emit("said", n=1)
    run = await runtime.wait(run.run_id, until="rest")
    assert [wait.id for wait in run.waits] == ["said#2"]
    await runtime.emit("said", n=2)
    assert (await runtime.wait(run.run_id)).result == [1, 2]


async def test_an_event_that_is_too_deep_for_a_record(stores):
    """An event that cannot be recorded is refused in the timeline, and the function waits on."""

    @workflow("deep")
    async def deep(step):
        return (await step.wait_for("said")).payload["n"]

    runtime = await stores.enter(deep)
    run = await runtime.run("deep")
    await runtime.emit("said", nested(61))
    assert (await runtime.wait(run.run_id, until="rest")).status == "paused"
    assert "wait:refused" in (await runtime.timeline(run.run_id)).types()
    await runtime.emit("said", n=2)
    assert (await runtime.wait(run.run_id)).result == 2


@pytest.mark.parametrize("depth", [61, 62])
async def test_an_answer_by_hand_that_is_too_deep_for_a_record(stores, depth):
    """It is refused in the timeline, as an event is, and another answer can be given."""

    @workflow("deep")
    async def deep(step):
        return (await step.wait_for("said")).payload["n"]

    runtime = await stores.enter(deep)
    run = await runtime.run("deep")
    assert (await runtime.resume(run.run_id, nested(depth))).status == "paused"
    assert "wait:refused" in (await runtime.timeline(run.run_id)).types()
    assert (await runtime.resume(run.run_id, {"n": 2})).result == 2
