"""Time triggers: each time fires once, whatever happens to the process, the clock, the store or the definition."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from zoneinfo import ZoneInfo

import pytest
from support import Stores

from poundlock import (
    Condition,
    Event,
    Exclusive,
    InvalidDefinition,
    Overwrite,
    Serialized,
    Trigger,
    Verdict,
    Workflow,
    WorkflowRuntime,
    flow,
)
from poundlock.errors import ScheduleMoved, StoreUnavailable
from poundlock.model.changes import Changes
from poundlock.model.schedules import ScheduleMove, ScheduleRow
from poundlock.runtime.time_triggers import LOOK
from poundlock.stores import MemoryStore
from poundlock.testing import VirtualClock, run_until_idle

HOUR, DAY = 3600.0, 86_400.0


def at(text):
    return dt.datetime.fromisoformat(text + "+00:00").timestamp()


def hourly(fired, name="work", mode=None, **options):
    """A workflow that notes the times it was started for."""
    wf = Workflow(name, mode=mode)

    @wf.on(**({"cron": "0 * * * *"} | options))
    @wf.step
    async def note(scheduled: str):
        fired.append(scheduled[11:16])

    return wf


@pytest.fixture
def vclock():
    """The clock stands at half past five in the morning, and goes on by itself only while a test lets time pass."""
    return VirtualClock(at("2026-06-01T05:30"), autojump=False)


async def until(stores, text):
    await stores.clock.run_until(at(f"2026-06-01T{text}" if len(text) < 9 else text))


# ------------------------------------------------------------------------------------------------- a fire as an event
async def test_a_fire_is_an_event_like_others(stores):
    """It has a type, an id that every process makes in the same way, a receipt, and reaches `on_dispatch` once."""
    lines, fired = [], []
    rt = await stores.enter()
    await rt.register(hourly(fired), on_dispatch=lines.append)
    await until(stores, "06:30")
    assert fired == ["06:00"]
    [line] = lines
    assert (line.verdict, line.workflow_id, line.trigger_id) == (Verdict.STARTED, "work", "cron")
    event_id = "work/cron/2026-06-01T06:00:00+00:00"
    assert await rt.store.receipt("", event_id) == (line,)
    run = await rt.get_run(line.run_id, state=True)
    assert (run.trigger_id, run.state["scheduled"], run.created_at) == (
        "cron",
        "2026-06-01T06:00:00+00:00",
        at("2026-06-01T06:00"),
    )
    assert rt.statistics()["time:fired"] == rt.statistics()["event:started"] == 1


async def test_when_map_and_key_work(stores):
    """A trigger that fires by time asks its functions, and partitions by its key, as for any event."""
    seen = []
    wf = Workflow("work", mode=Exclusive())
    wf.on(
        cron="0 * * * *",
        when=lambda event: event.payload["scheduled"] != "2026-06-01T06:00:00+00:00",
        map=lambda payload: {"hour": payload["scheduled"][11:13]},
        key="scheduled",
    )

    @wf.step
    async def note(hour: str):
        seen.append(hour)

    rt = await stores.enter(wf)
    await until(stores, "07:30")
    assert seen == ["07"]
    [run] = (await rt.find_runs("work")).items
    assert run.key == "2026-06-01T07:00:00+00:00"
    counts = rt.statistics()
    assert (counts["event:filtered"], counts["event:started"], counts["time:fired"]) == (1, 1, 2)


async def test_conditions_as_data_work(stores):
    """So do conditions."""
    fired = []
    rt = await stores.enter(hourly(fired, when=[Condition("scheduled", ">", "2026-06-01T07")]))
    await until(stores, "08:00")
    assert fired == ["07:00", "08:00"]
    assert rt.statistics()["event:filtered"] == 1


async def test_the_mode_decides(stores, caplog):
    """A fire goes through the mode, and one that it does not take is in the log: nobody reads its receipt."""
    going = asyncio.Event()
    wf = Workflow("work", mode=Exclusive())

    @wf.on(cron="0 * * * *")
    @wf.step
    async def work():
        await going.wait()

    rt = await stores.enter(wf)
    with caplog.at_level(logging.WARNING):
        await until(stores, "07:30")
    going.set()
    counts = rt.statistics()
    assert (counts["event:started"], counts["event:rejected"]) == (1, 1)
    assert "trigger 'cron' of workflow 'work' fired for 2026-06-01T07:00:00+00:00 and was rejected" in caplog.text
    assert await rt.dead_letters() == []


async def test_a_function_that_raises_is_in_the_log_and_the_next_time_comes(stores, caplog):
    """A trigger whose function fails has a rejected line for each time, and does not stop to fire."""
    rt = await stores.enter(hourly([], map=lambda event: 1 // 0))
    with caplog.at_level(logging.WARNING):
        await until(stores, "07:30")
    assert rt.statistics()["event:rejected"] == 2
    assert caplog.text.count("ZeroDivisionError") == 2


async def test_only_its_own_trigger_gets_a_fire(stores):
    """A fire is nothing that others could have asked for: neither patterns, nor waits, nor the bus see it."""
    fired, heard = [], []
    other = Workflow("other")
    other.on("**", id="all")
    other.on("poundlock.cron", id="named")
    other.wait("more", on="poundlock.*")
    rt = await stores.enter(hourly(fired), other)
    rt.bus.subscribe("**", heard.append)
    run = await rt.invoke("other", "all", Event("begin"))
    assert run.status == "paused"
    await until(stores, "06:30")
    assert (fired, heard) == (["06:00"], [])
    assert len((await rt.find_runs("other")).items) == 1


async def test_an_event_and_a_time(stores):
    """A trigger may have both: it starts runs for its events, and at its times."""
    fired = []
    wf = Workflow("work")

    @wf.on("refresh", cron="0 * * * *")
    @wf.step
    async def note(event: Event):
        fired.append(event.type)

    rt = await stores.enter(wf)
    await rt.emit("refresh")
    await until(stores, "06:30")
    assert fired == ["refresh", "poundlock.cron"]
    assert list(wf.definition.triggers) == ["refresh"]


async def test_intervals_fire_by_the_clock(stores):
    """`every` fires at its multiples, whenever the runtime was started."""
    fired = []
    rt = await stores.enter(hourly(fired, cron=None, every="20m"))
    await until(stores, "06:30")
    assert fired == ["05:40", "06:00", "06:20"]
    [run, *_] = (await rt.find_runs("work")).items
    assert run.trigger_id == "every"


async def test_one_timer_for_all_triggers(stores):
    """However many triggers there are, one timer waits for the earliest; it is gone with the last workflow."""
    before = stores.clock.pending
    fired = []
    rt = await stores.enter(*[hourly(fired, f"work-{number}", cron=f"{number} * * * *") for number in range(40)])
    await run_until_idle(stores.clock)
    assert stores.clock.pending - before <= 2  # the times, and the look once a day
    assert stores.clock.next_at == at("2026-06-01T05:31")
    await until(stores, "06:29")
    assert len(fired) == 39
    for number in range(40):
        await rt.deregister(f"work-{number}")
    assert stores.clock.pending == before


async def test_stop_cancels_the_timers_first(stores):
    """While a runtime stops, nothing fires any more: the time that comes meanwhile is the next runtime's."""
    fired, hold = [], asyncio.Event()
    slow = Workflow("slow")

    @slow.on("go")
    @slow.step
    async def wait():
        await hold.wait()

    rt = await stores.enter(hourly(fired), slow)
    await rt.emit("go")
    stopping = asyncio.create_task(rt.stop(drain=2 * HOUR))
    await run_until_idle(stores.clock)
    stores.clock.advance(HOUR)
    await run_until_idle(stores.clock)
    assert fired == []
    hold.set()
    await stopping
    await stores.enter(hourly(fired))
    await run_until_idle(stores.clock)
    assert fired == ["06:00"]


# ------------------------------------------------------------------------------------------------------ missed times
@pytest.mark.parametrize(
    ("missed", "expected", "skipped"),
    [("once", ["09:00"], 2), ("all", ["07:00", "08:00", "09:00"], 0), ("skip", [], 3)],
)
@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_what_was_missed_while_nobody_was_there(stores, missed, expected, skipped, end, caplog):
    """After a restart the row in the store says what was missed, and `missed` what becomes of it; skips are told."""
    fired = []
    rt = await stores.enter(hourly(fired, missed=missed))
    await until(stores, "06:30")
    assert fired == ["06:00"]
    await (rt.stop() if end == "stop" else stores.crash(rt))
    fired.clear()
    await until(stores, "09:30")
    with caplog.at_level(logging.WARNING):
        rt = await stores.enter(hourly(fired, missed=missed))
        await run_until_idle(stores.clock)
    assert fired == expected
    assert rt.statistics().get("time:skipped", 0) == skipped
    assert ("passed over" in caplog.text) is bool(skipped)
    await until(stores, "10:30")
    assert fired == [*expected, "10:00"]


async def test_the_first_time_can_be_missed_too(stores):
    """The row is written when a trigger is registered, not only when it fires."""
    fired = []
    rt = await stores.enter(hourly(fired))
    await run_until_idle(stores.clock)
    await stores.crash(rt)
    await until(stores, "06:30")
    await stores.enter(hourly(fired))
    await run_until_idle(stores.clock)
    assert fired == ["06:00"]


async def test_what_was_before_the_first_registration_was_not_missed(stores):
    """A new trigger has no past, whatever its rule for missed times."""
    fired = []
    await stores.enter(hourly(fired, missed="all"))
    await until(stores, "06:00")
    assert fired == ["06:00"]


async def test_being_deregistered_is_like_being_down(stores):
    """Times while a workflow is not registered are missed; the runtime need not have stopped."""
    fired = []
    rt = await stores.enter(hourly(fired))
    await until(stores, "06:30")
    await rt.deregister("work")
    await until(stores, "08:30")
    assert fired == ["06:00"]
    await rt.register(hourly(fired))
    await run_until_idle(stores.clock)
    assert fired == ["06:00", "08:00"]


async def test_another_expression_begins_anew(stores):
    """What another schedule would have fired in the past was never missed; the times of the old one are gone."""
    fired = []
    rt = await stores.enter(hourly(fired, missed="all"))
    await until(stores, "06:30")
    await rt.stop()
    await until(stores, "08:20")
    rt = await stores.enter(hourly(fired, missed="all", cron="*/30 * * * *"))
    await until(stores, "08:40")
    assert fired == ["06:00", "08:30"]
    await rt.stop()
    await until(stores, "09:40")
    await stores.enter(hourly(fired, missed="all", cron=" */30  * * * *"))  # the same, written in another way
    await run_until_idle(stores.clock)
    assert fired == ["06:00", "08:30", "09:00", "09:30"]


async def test_a_long_gap_of_all_times(stores):
    """With "all" each time of a long gap fires, one after another, in order."""
    fired = []
    rt = await stores.enter(hourly(fired, cron="* * * * *", missed="all"))
    await run_until_idle(stores.clock)
    await rt.stop()
    await until(stores, "07:10")
    await stores.enter(hourly(fired, cron="* * * * *", missed="all", mode=Serialized()))
    await run_until_idle(stores.clock)
    assert len(fired) == 100
    assert (fired[0], fired[-1]) == ("05:31", "07:10")
    assert fired == sorted(fired)


# ------------------------------------------------------------------------------------------------------------- clocks
async def test_a_clock_that_is_set_back_repeats_nothing(stores):
    """What has fired does not fire again when the clock comes by a second time."""
    fired = []
    await stores.enter(hourly(fired))
    await until(stores, "07:30")
    stores.clock.set(at("2026-06-01T05:30"))
    await until(stores, "08:30")
    assert fired == ["06:00", "07:00", "08:00"]


@pytest.mark.parametrize(("missed", "more"), [("once", ["09:00"]), ("all", ["06:00", "07:00", "08:00", "09:00"])])
async def test_a_clock_that_is_set_forward(stores, missed, more):
    """The times it passes over were missed."""
    fired = []
    await stores.enter(hourly(fired, missed=missed))
    await run_until_idle(stores.clock)
    stores.clock.set(at("2026-06-01T09:30"))
    await run_until_idle(stores.clock)
    assert fired == more


@pytest.mark.parametrize("restart", [True, False])
async def test_a_clock_that_was_far_ahead_does_not_silence_a_trigger(stores, restart, caplog):
    """After a clock was wrong by a year for a moment, the trigger goes on by the right time again."""
    fired = []
    rt = await stores.enter(hourly(fired))
    await run_until_idle(stores.clock)
    stores.clock.set(at("2027-06-01T05:30"))
    await run_until_idle(stores.clock)
    assert fired == ["05:00"]
    stores.clock.set(at("2026-06-01T05:45"))
    with caplog.at_level(logging.WARNING):
        if restart:
            await rt.stop()
            await stores.enter(hourly(fired))
            await run_until_idle(stores.clock)
        else:
            await stores.clock.run_for(LOOK)
            fired[1:] = []
    assert "it was set back, and the trigger begins anew" in caplog.text
    await stores.clock.run_for(3 * HOUR)
    assert len(fired) == 4


async def test_a_year_passes(stores):
    """A trigger of each month fires twelve times in a year."""
    fired = []
    await stores.enter(hourly(fired, cron="0 6 1 * *", tz="Europe/Berlin"))
    await stores.clock.run_for(days=365)
    assert len(fired) == 12
    assert sorted(set(fired)) == ["04:00", "05:00"]


# ------------------------------------------------------------------------------------------------------------ crashes
@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("missed", ["once", "all", "skip"])
@pytest.mark.parametrize("dedupe", ["24h", None])
async def test_a_crash_at_any_commit(tmp_path, store_kind, where, missed, dedupe):
    """Whichever commit the process dies at, each time has one run in the end, also without deduplication."""
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        clock = VirtualClock(at("2026-06-01T05:30"), autojump=False)
        stores = Stores(store_kind, folder, clock)
        store = stores.store()
        store.crash = (number, where)
        rt = await stores.enter(hourly([], missed=missed, dedupe=dedupe), store=store)
        for text in ("05:31", "06:00", "07:00"):
            await until(stores, text)
        over = not store.dead
        await stores.crash(rt)
        rt = await stores.enter(hourly([], missed=missed, dedupe=dedupe))
        await until(stores, "07:00")
        await until(stores, "08:00")
        runs = (await rt.find_runs("work", limit=100)).items
        states = [(await rt.get_run(run.run_id, state=True)).state["scheduled"][11:16] for run in runs]
        assert {str(run.status) for run in runs} == {"completed"}
        assert len(states) == len(set(states)), number
        known = (number, where) != (1, "before")  # whether it was stored that there is such a trigger
        assert {"08:00"} | ({"07:00"} if known else set()) <= set(states), number
        assert missed != "all" or not known or "06:00" in states, number
        await stores.close()
        clock.close()
        if over:
            assert number > 5
            return


async def test_a_fault_of_the_store_delays_a_fire(stores):
    """While the store fails, the fire is tried again; it comes once the store works."""
    fired = []
    store = stores.store()
    rt = await stores.enter(hourly(fired), store=store)
    await until(stores, "05:59")
    store.failing = lambda _number, changes: StoreUnavailable("locked") if changes.schedules else None
    await until(stores, "06:20")
    assert fired == []
    store.failing = lambda _number, _changes: None
    await until(stores, "06:30")
    assert fired == ["06:00"]
    assert rt.statistics()["time:fired"] == 1


def answers_lost_once(store, lost):
    """Have the store write a unit of work of which this holds, and say that it could not be reached."""
    commit, done = store.inner.commit, []

    async def commit_and_fail(work):
        committed = await commit(work)
        if not done and lost(work):
            done.append(work)
            raise StoreUnavailable("the disk did not answer: it is unknown whether this was written")
        return committed

    store.inner.commit = commit_and_fail
    return done


async def test_a_lost_answer_is_no_lost_fire(stores):
    """A fire that was written although the store failed has its run, once, in this process."""
    fired = []
    store = stores.store()
    rt = await stores.enter(hourly(fired, dedupe=None), store=store)
    await until(stores, "05:59")
    done = answers_lost_once(store, lambda work: isinstance(work, Changes) and work.schedules and work.creates)
    await until(stores, "07:30")
    assert len(done) == 1
    assert fired == ["06:00", "07:00"]
    assert {str(run.status) for run in (await rt.find_runs("work")).items} == {"completed"}


async def test_a_lost_answer_to_an_event_leaves_no_run_behind(stores):
    """The same holds for events: what was written is driven, although its emitter got an error."""
    fired = []
    wf = hourly(fired, event="go", every=None, cron=None)
    store = stores.store()
    rt = await stores.enter(wf, store=store)
    answers_lost_once(store, lambda work: isinstance(work, Changes) and work.creates)
    event = Event("go", {"scheduled": "-" * 16})
    with pytest.raises(StoreUnavailable):
        await rt.emit(event)
    await run_until_idle(stores.clock)
    assert fired == ["-----"]
    assert [line.verdict for line in (await rt.emit(event)).lines] == ["duplicate"]


async def test_a_fault_while_the_row_is_read(stores):
    """A trigger begins although the store failed when it was registered; times since the registration count."""
    fired = []
    store = stores.store()
    store.failing = lambda _number, changes: StoreUnavailable("locked") if changes.schedules else None
    await stores.enter(hourly(fired), store=store)
    await until(stores, "06:20")
    store.failing = lambda _number, _changes: None
    await until(stores, "06:30")
    assert fired == ["06:00"]


async def test_what_another_process_fired_is_not_fired_again(stores):
    """The row that another process has changed meanwhile is read again, and says that the time is decided."""
    fired = []
    rt = await stores.enter(hourly(fired, dedupe=None))
    await until(stores, "05:59")
    row = (await rt.store.schedules("work"))["cron"]
    moved = ScheduleMove("work", "cron", row, ScheduleRow(row.rule, at("2026-06-01T06:00")))
    await rt.store.commit(Changes(schedules=(moved,), now=stores.clock.now()))
    await until(stores, "07:30")
    assert fired == ["07:00"]


async def test_two_runtimes_on_one_store():
    """Each time fires once, however many processes wait for it."""
    clock, store, fired = VirtualClock(at("2026-06-01T05:30"), autojump=False), MemoryStore(), []
    runtimes = [WorkflowRuntime(hourly(fired), store=store, clock=clock) for _ in range(2)]
    async with runtimes[0], runtimes[1]:
        await clock.run_until(at("2026-06-01T09:30"))
        assert fired == ["06:00", "07:00", "08:00", "09:00"]
        assert sum(rt.statistics().get("time:fired", 0) for rt in runtimes) == 4
    clock.close()


async def test_a_conflicting_event_of_a_user_does_not_stop_the_trigger(stores, caplog):
    """Somebody may have used the id of a fire: that time is lost with a word about it, and the next one fires."""
    fired = []
    rt = await stores.enter(hourly(fired, event="taken"))
    await rt.emit(Event("taken", {"scheduled": "2026-06-01T05:45"}, id="work/taken/2026-06-01T06:00:00+00:00"))
    with caplog.at_level(logging.ERROR):
        await until(stores, "07:30")
    assert fired == ["05:45", "07:00"]
    assert "does not fire for 2026-06-01T06:00:00+00:00" in caplog.text


async def test_an_event_that_is_admitted_while_its_workflow_is_registered_anew(stores):
    """The run of an event whose commit was under way belongs to the next registration, however soon that comes."""
    fired = []
    store = stores.store()
    rt = await stores.enter(hourly(fired, event="go", cron=None), store=store)
    store.hold = lambda changes: bool(changes.creates)
    emitting = asyncio.create_task(rt.emit("go", scheduled="-" * 16))
    [held] = await store.until_held()
    store.hold = None
    leaving = asyncio.create_task(rt.deregister("work"))
    held.release()
    await leaving
    await rt.register(hourly(fired, event="go", cron=None))
    await run_until_idle(stores.clock)
    await emitting
    assert fired == ["-----"]


@pytest.mark.parametrize("order", ["fire first", "deregister first"])
async def test_a_fire_and_a_deregistration_at_once(stores, order):
    """Whichever is first: a fire that was decided has its run, and one that was not leaves the time to be missed."""
    fired = []
    store = stores.store()
    rt = await stores.enter(hourly(fired), store=store)
    await until(stores, "05:59")
    store.hold = lambda changes: bool(changes.schedules)
    stores.clock.advance(HOUR / 60)
    [held] = await store.until_held()
    store.hold = None
    if order == "fire first":
        held.release()
        await run_until_idle(stores.clock)
        await rt.deregister("work")
    else:
        leaving = asyncio.create_task(rt.deregister("work"))
        held.release()
        await leaving
    await rt.register(hourly(fired))
    await run_until_idle(stores.clock)
    assert fired == ["06:00"]


async def test_cancelling_every_task_does_not_end_a_trigger(stores):
    """Code that cancels whatever it finds loses no time."""
    fired = []
    store = stores.store()
    await stores.enter(hourly(fired), store=store)
    await until(stores, "05:59")
    store.hold = lambda changes: bool(changes.schedules)
    stores.clock.advance(HOUR / 60)
    [held] = await store.until_held()
    store.hold = None
    for task in asyncio.all_tasks():
        if task.get_name() == "poundlock-time":
            task.cancel()
    held.release()
    await until(stores, "07:30")
    assert fired == ["06:00", "07:00"]


async def test_a_hook_that_hangs_holds_up_its_own_trigger_only(stores):
    """Other triggers fire at their times while `on_dispatch` of one has not returned."""
    slow, fired = [], []
    rt = await stores.enter()

    async def hang(_line):
        await asyncio.get_running_loop().create_future()

    await rt.register(hourly(slow, "slow", cron="* * * * *"), on_dispatch=hang)
    await rt.register(hourly(fired, "quick", cron="* * * * *"))
    await until(stores, "05:40")
    assert len(fired) == 10
    assert len(slow) >= 5


async def test_a_fire_is_not_inside_the_run_that_registered_it(stores):
    """A workflow that is registered by a step has its own fires: they may wait for the run of that step."""
    fired = []
    maker = Workflow("maker")

    @maker.on("make")
    @maker.step
    async def register():
        await rt.register(hourly(fired))
        return {"done": Overwrite(True)}

    rt = await stores.enter(maker)
    receipt = await rt.emit("make")
    await receipt.results()
    insides = []
    inside = type(rt._core).inside
    await rt.register(
        hourly([], "other", when=lambda event: insides.append(inside.fget(rt._core)) or True),
    )
    await until(stores, "06:30")
    assert (fired, insides) == (["06:00"], [None])


# -------------------------------------------------------------------------------------------------------- definitions
FAULTS = {
    "cron": ({"cron": "61 * * * *"}, "triggers.cron.cron", "is not a cron expression: Bad minute"),
    "cron of a wrong type": ({"cron": 5}, "triggers.cron.cron", "is not a cron expression"),
    "tz": ({"cron": "0 6 * * *", "tz": "Europe/Berlni"}, "triggers.cron.tz", "Europe/Berlin"),
    "missed": ({"cron": "0 6 * * *", "missed": "never"}, "triggers.cron.missed", "skip, once, all"),
    "never": ({"cron": "0 0 30 2 *"}, "triggers.cron.cron", "30 2"),
    "every": ({"every": "soon"}, "triggers.every.every", "is not a duration"),
    "too quick": ({"every": 0.5}, "triggers.every.every", "between one second"),
    "too slow": ({"every": "5000d"}, "triggers.every.every", "ten years"),
    "both": ({"cron": "0 6 * * *", "every": 60}, "triggers.cron.every", "not both"),
    "tz of an interval": ({"every": 60, "tz": "UTC"}, "triggers.every.tz", "cron="),
    "tz of an event": ({"event": "a", "tz": "UTC"}, "triggers.a.tz", "cron="),
    "missed of an event": ({"event": "a", "missed": "all"}, "triggers.a.missed", "cron= or every="),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_what_is_wrong_is_said_at_registration(stores, name):
    """A wrong schedule is a fault of the definition, with its path; nothing is registered."""
    given, path, text = FAULTS[name]
    wf = Workflow("work")
    wf.on(**given)
    wf.step(lambda: None, id="step")
    rt = await stores.enter()
    with pytest.raises(InvalidDefinition) as refused:
        await rt.register(wf)
    assert path in dict(refused.value.fields["faults"])
    assert text in str(refused.value)
    assert rt.list_workflows() == []


async def test_a_second_time_trigger_needs_an_id(stores):
    """Two without an id are a fault at registration; with ids there may be any number."""
    wf = Workflow("work")
    wf.on(cron="0 6 * * *")
    wf.on(cron="0 18 * * *")
    wf.step(lambda: None, id="step")
    rt = await stores.enter()
    with pytest.raises(InvalidDefinition) as refused:
        await rt.register(wf)
    assert refused.value.path == "triggers.cron"
    assert "id=" in str(refused.value)
    wf = Workflow("work")
    wf.on(cron="0 6 * * *")
    wf.on(cron="0 18 * * *", id="evening")
    wf.on(every="2h")
    wf.step(lambda: None, id="step")
    await rt.register(wf)
    assert list(wf.definition.triggers) == ["cron", "evening", "every"]


async def test_on_without_anything_is_refused():
    """A trigger has an event or a time."""
    with pytest.raises(InvalidDefinition, match="cron="):
        Workflow("work").on()


async def test_each_way_of_writing(stores):
    """Decorators, a chain and plain definitions say the same."""
    fired = []

    async def note(event: Event):
        fired.append(event.id.split("/")[0])

    chain = flow("chain").on(cron="0 6 * * *", tz="UTC").pipe(note).build()
    spans = flow("spans").on(every="1h", id="tick").pipe(note).build()
    plain = Workflow("plain", triggers={"dawn": Trigger(cron="0 6 * * *", tz=ZoneInfo("UTC"), missed="skip")})
    plain.step(note)
    await stores.enter(chain, spans, plain)
    await until(stores, "06:30")
    assert sorted(fired) == ["chain", "plain", "spans"]


def test_a_chain_collects_its_faults():
    """One time is for one trigger."""
    with pytest.raises(InvalidDefinition) as refused:
        flow("chain").on("a", "b", cron="0 6 * * *").on().on(cron="0 6 * * *").on(cron="0 7 * * *").pipe(print).build()
    assert len(refused.value.fields["faults"]) == 3


def test_the_error_of_a_row_that_has_changed():
    """It is one of those that only stores and the runtime see."""
    assert ScheduleMoved.code == "SCHEDULE_MOVED"


# ------------------------------------------------------------------------------------------------- a loop that ends
def end_of_loop(loop, meanwhile=lambda: None):
    """Cancel all tasks as `asyncio.run` does, wait for them, and return the names of those that were started then."""
    started = []

    def made(loop, work, **options):
        started.append(asyncio.Task(work, loop=loop, **options))
        return started[-1]

    loop.set_task_factory(made)
    loop.call_soon(meanwhile)  # before any task knows that it was cancelled
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    assert asyncio.all_tasks(loop) == set()
    loop.close()
    return {task.get_name() for task in started}


@pytest.mark.parametrize("missed", ["once", "all", "skip"])
def test_a_loop_that_ends_fires_nothing(missed):
    """A time that comes while the loop ends starts no task and no run: the next runtime on the store decides."""
    clock, store, fired = VirtualClock(at("2026-06-01T05:30"), autojump=False), MemoryStore(), []

    async def unstopped():
        rt = WorkflowRuntime(hourly(fired, missed=missed), store=store, clock=clock)
        await rt.__aenter__()
        await run_until_idle(clock)
        return rt

    loop = asyncio.new_event_loop()
    rt = loop.run_until_complete(unstopped())
    assert "poundlock-time" not in end_of_loop(loop, lambda: clock.advance(HOUR))
    assert fired == []
    assert "time:fired" not in rt.statistics()

    async def next_one():
        async with WorkflowRuntime(hourly(fired, missed=missed), store=store, clock=clock) as again:
            await run_until_idle(clock)
            return again.statistics()

    counted = asyncio.run(next_one())
    assert fired == ([] if missed == "skip" else ["06:00"])
    assert counted.get("time:skipped", 0) == (1 if missed == "skip" else 0)


def test_a_loop_that_ends_reads_no_row():
    """A trigger whose row is being read when the loop ends is not read again."""

    class Slow(MemoryStore):
        async def schedules(self, workflow_id):
            await asyncio.Event().wait()

    async def unstopped():
        clock = VirtualClock()
        rt = WorkflowRuntime(hourly([]), store=Slow(), clock=clock)
        await rt.__aenter__()
        await run_until_idle(clock)
        return rt

    loop = asyncio.new_event_loop()
    rt = loop.run_until_complete(unstopped())
    assert "poundlock-time" not in end_of_loop(loop)
    assert rt.list_workflows() == []
