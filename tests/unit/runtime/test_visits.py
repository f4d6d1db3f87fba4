"""How often a run enters its stages: counted in its head, and anew after each pause or delay."""

from __future__ import annotations

import pytest

from poundlock import Delay, Jump, Pause, StateRef, Wait, Workflow
from poundlock.codecs import load

LIMIT = 5


def looping(rounds, *, rest=None, limit=LIMIT, gate=None, came=None):
    """A loop of two stages; `rest` says how it rests in each round, if it does."""
    wf = Workflow("loop", visit_limit=limit)

    @wf.on("go")
    @wf.step
    async def work(n):
        if came is not None:
            came.append(n)
        if gate is not None:
            await gate(n)
        return {"n": n + 1}

    if rest == "delay":
        wf.route(after="work")(lambda state: Delay("1m"))
    elif rest == "pause":
        wf.route(after="work")(lambda state: Pause(Wait("next", id="next", correlate={"id": StateRef("id")})))

    @wf.step
    def again():
        return {"again": True}

    @wf.route(after="again")
    def back(state):
        return Jump("work") if state["n"] < rounds else None

    return wf


async def visits(rt, run_id):
    record = await rt.store.load(run_id)
    return record.head.visits


async def test_a_loop_that_delays_each_round_is_not_endless(runtime, any_store, vclock):
    """A delay in each round: no number of rounds is too many."""
    rt = await runtime(looping(4 * LIMIT, rest="delay"), store=any_store)
    result = await rt.run("loop", {"n": 0, "id": 1})
    while not result.status.terminal:
        result = await rt.wait(result.run_id)
    assert (str(result.status), result.state["n"]) == ("completed", 4 * LIMIT)


@pytest.mark.parametrize("window", [0, 60], ids=["from the row", "from memory"])
@pytest.mark.parametrize("by", ["event", "hand"])
async def test_a_loop_that_pauses_each_round_is_not_endless(runtime, any_store, vclock, window, by):
    """The same for pauses, whether the run stayed in memory or not, and whoever resumes it."""
    rt = await runtime(looping(3 * LIMIT, rest="pause"), store=any_store, pause_window=window)
    run_id = (await rt.run("loop", {"n": 0, "id": 1})).run_id
    for number in range(3 * LIMIT):
        if by == "event":
            await rt.emit("next", id=1, number=number)
            await vclock.run_until_idle()
        else:
            await rt.resume(run_id, {"number": number})
    result = await rt.wait(run_id)
    assert (str(result.status), result.state["n"]) == ("completed", 3 * LIMIT)


async def test_events_that_came_early_are_pauses_too(runtime, any_store, vclock):
    """A run that goes on at once at its wait, because what it waits for has come, has waited all the same."""
    wf = Workflow("loop", visit_limit=LIMIT)

    @wf.step
    def work(n):
        return {"n": n + 1}

    wf.wait("next", on="next", correlate={"id": StateRef("id")})

    @wf.step
    def again():
        return {"again": True}

    @wf.route(after="again")
    def back(state):
        return Jump("work") if state["n"] < 3 * LIMIT else None

    rt = await runtime(wf, store=any_store)
    run_id = (await rt.run("loop", {"n": 0, "id": 1})).run_id
    for number in range(3 * LIMIT):
        await rt.emit("next", id=1, number=number)
    result = await rt.wait(run_id)
    assert (str(result.status), result.state["n"]) == ("completed", 3 * LIMIT)


async def test_counts_begin_anew_after_a_pause(runtime, any_store, vclock):
    """A run may go round as often as the limit says before its pause, and as often after it, but not once more."""
    wf = Workflow("loop", visit_limit=LIMIT)

    @wf.step
    def work(n, rounds):
        return {"n": n + 1}

    @wf.route(after="work")
    def around(state):
        if state["n"] == LIMIT:
            return Pause(Wait("next", id="next"), resume_at="work")
        return Jump("work") if state["n"] < state["rounds"] else None

    rt = await runtime(wf, store=any_store, pause_window=0)
    for rounds, status in ((2 * LIMIT, "completed"), (2 * LIMIT + 1, "failed")):
        parked = await rt.run("loop", {"n": 0, "rounds": rounds})
        assert str(parked.status) == "paused"
        result = await rt.resume(parked.run_id)
        assert (str(result.status), result.state["n"]) == (status, 2 * LIMIT)
    assert result.error.code == "VISIT_LIMIT"


@pytest.mark.parametrize("how", ["crash", "stop"])
async def test_counts_go_on_where_another_owner_goes_on(stores, gate, how):
    """A run that loops without pausing fails at its limit, also if its owner died or stopped half-way."""
    came = []

    async def held_once(n):
        if n == 3 and not gate.came:
            await gate(n)

    wf = looping(100, gate=held_once, came=came)
    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("go", n=0)).run_ids
    await stores.clock.run_until_idle()
    assert gate.came == [3]
    await (stores.crash(rt) if how == "crash" else rt.stop(drain=0))
    rt = await stores.enter(wf)
    result = await rt.wait(run_id)
    assert (str(result.status), result.error.code) == ("failed", "VISIT_LIMIT")
    assert came == [0, 1, 2, 3, 3, 4]
    assert load(await visits(rt, run_id)) == {"work": LIMIT + 1, "again": LIMIT}


async def test_a_run_that_goes_straight_on_writes_no_counts(runtime, any_store):
    """From the first stage on, counts follow from where the run is; after a pause from the stage it went on at."""
    wf = Workflow("straight")
    wf.step(id="first")(lambda: {"a": 1})
    wf.step(id="second")(lambda: {"b": 1})
    wf.wait("next", on="next")
    wf.step(id="third")(lambda: {"c": 1})
    wf.step(id="fourth")(lambda: {"d": 1})
    rt = await runtime(wf, store=any_store)
    parked = await rt.run("straight")
    assert await visits(rt, parked.run_id) is None
    assert (await rt.resume(parked.run_id)).ok
    assert await visits(rt, parked.run_id) == '"third"'
