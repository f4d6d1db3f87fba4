"""A run that is parked in memory: little, bounded in number, and the same as its row."""

from __future__ import annotations

import gc
import sys
from datetime import date
from decimal import Decimal

import pytest
from support import Stores

from poundlock import Condition, Delay, Jump, StateRef, Trigger, Workflow
from poundlock.codecs import register_type
from poundlock.errors import InvalidDefinition
from poundlock.model.counting import any_form, tally_of
from poundlock.runtime import run_table
from poundlock.runtime.results import next_result
from poundlock.runtime.runtime import WorkflowRuntime

PAYLOAD = {
    "id": 12345,
    "amount": 99.5,
    "items": [{"sku": "a-1", "qty": 1}, {"sku": "b-2", "qty": 2}, {"sku": "c-3", "qty": 3}],
}


class Stubborn:
    """A value that lets itself be encoded and decoded only as long as the test wants."""

    refuses = False

    def __eq__(self, other):
        return type(other) is Stubborn

    __hash__ = None


def _encoded(_):
    if Stubborn.refuses:
        raise RuntimeError("not now")
    return 1


def _decoded(_):
    if Stubborn.refuses:
        raise RuntimeError("not now")
    return Stubborn()


register_type(Stubborn, name="test_parked_runs.Stubborn", encode=_encoded, decode=_decoded)


def approvals(**first):
    """One step, a wait for a type of its own, one step, a second wait, and an end."""
    wf = Workflow("w")

    @wf.step(stage="one")
    async def a(id):
        return {"a": id, **first}

    wf.wait("first", on="first.*", correlate={"id": StateRef("id")}, where=[Condition("by", "exists")], timeout="3d")

    @wf.step(stage="two")
    async def b(state):
        return {"b": len(state)}

    wf.wait("second", on="second", correlate={"id": StateRef("id")})

    @wf.route(after="two")
    def twice(state):
        return Jump("one") if state.get("by") == "again" else None

    return wf


async def begin(rt, id, **more):
    return (await rt.run("w", {**PAYLOAD, "id": id, **more})).run_id


def kept(rt, run_id):
    """What the runtime holds of a parked run."""
    return rt._core.runs.parked(run_id)


# ------------------------------------------------------------------------------------------------------- how many
async def test_the_window_is_bounded_by_number(stores):
    """Above the number, the run that paused first leaves memory; each of them goes on all the same."""
    rt = await stores.enter(approvals(), pause_window_runs=2)
    ids = [await begin(rt, number) for number in range(4)]
    assert rt.statistics()["runs:parked"] == 2
    assert [rt.watch("w", run_id) is not None for run_id in ids] == [False, False, True, True]
    assert {info.run_id for info in rt.list_all_runs()} == set(ids[2:])
    for number, run_id in enumerate(ids):
        await rt.emit("first.go", id=number, by="me")
        await rt.emit("second", id=number)
        assert (await rt.wait(run_id)).state["b"] == 5


async def test_a_run_that_pauses_again_is_the_last_to_leave(stores):
    """What counts is the latest pause, not the first one."""
    rt = await stores.enter(approvals(), pause_window_runs=2)
    one, two = await begin(rt, 1), await begin(rt, 2)
    await rt.emit("first.go", id=1, by="me")
    await next_result(rt._core, one)
    three = await begin(rt, 3)
    assert [rt.watch("w", run_id) is not None for run_id in (one, two, three)] == [True, False, True]


async def test_a_refused_answer_does_not_push_others_out(stores):
    """A run whose answer was refused is parked again in its place among the number."""
    rt = await stores.enter(approvals(), pause_window_runs=2)
    one, two = await begin(rt, 1), await begin(rt, 2)
    with pytest.raises(Exception, match="stored"):
        await rt.resume(one, {"x": object()})
    assert [rt.watch("w", run_id) is not None for run_id in (one, two)] == [True, True]


async def test_none_is_kept_if_the_number_is_zero(stores):
    """Zero leaves only rows, as a window without length does."""
    rt = await stores.enter(approvals(), pause_window_runs=0)
    run_id = await begin(rt, 1)
    assert (rt.statistics()["runs:parked"], rt.watch("w", run_id)) == (0, None)


@pytest.mark.parametrize("value", [-1, 1.5, True, "many", None], ids=repr)
def test_the_number_is_checked(value):
    """What is no number of runs is refused by the name of the option."""
    with pytest.raises(InvalidDefinition) as refused:
        WorkflowRuntime(pause_window_runs=value)
    assert refused.value.path == "pause_window_runs"


# ------------------------------------------------------------------------------------------------------- how large
def size_of(*parked):
    """Bytes of all that parked runs refer to, besides their workflow; what they share counts once."""
    seen, todo, size = {id(each.entry) for each in parked}, list(parked), 0
    while todo:
        item = todo.pop()
        if id(item) not in seen and not isinstance(item, type):
            seen.add(id(item))
            size += sys.getsizeof(item)
            todo += gc.get_referents(item)
    return size


async def test_a_parked_run_is_small(stores, monkeypatch):
    """Of a run that is parked a kilobyte and a bit stays: its head, and its state, waits and event as text."""
    monkeypatch.setattr(run_table, "_AS_THEY_ARE", 0)
    rt = await stores.enter(approvals())
    one, two = [kept(rt, await begin(rt, number)) for number in (12345, 12346)]
    assert size_of(one, two) - size_of(one) < 1300


async def test_only_the_latest_are_kept_as_they_are(stores, monkeypatch):
    """Those that were parked before the latest few are text, whatever happened to others in between."""
    monkeypatch.setattr(run_table, "_AS_THEY_ARE", 2)
    rt = await stores.enter(approvals())
    ids = [await begin(rt, number) for number in range(4)]
    await rt.resume(ids[3], {"by": "me"})
    await next_result(rt._core, ids[3])
    assert [kept(rt, run_id).kept is not None for run_id in ids] == [False, False, True, True]


# ------------------------------------------------------------------------------------------------- the same as a row
async def buffered(rt, run_id):
    """Give a parked run messages that do not resume it."""
    await rt.signal(run_id, {"note": {"deep": [1, None]}})
    await rt.emit("second", id=7, extra=[1])
    await rt.signal(run_id, {"note": 2})


async def compare(rt, run_id):
    """A parked run and its row say the same, before and after the large parts became text."""
    parked = kept(rt, run_id)
    stored = await rt.store.checkpoint(run_id)
    early = parked.early
    for _ in range(2):
        held = parked.checkpoint()
        assert held._replace(log_size=0, snapshot_size=0, record=None, inbox=()) == stored._replace(
            log_size=0, snapshot_size=0, record=None, inbox=()
        )
        assert (*held.inbox, *early) == stored.inbox
        assert held.record.identity == stored.record.identity
        now, messages = rt._core.clock.now(), stored.inbox  # what came since counts in the row only
        assert [row._replace(tally=tally_of(row, messages, now, any_form)) for row in held.record.waits] == [
            *stored.record.waits
        ]
        assert [type(wait) for wait in held.record.waits] == [type(wait) for wait in stored.record.waits]
        same = {"inbox_seq": stored.record.head.inbox_seq - len(early)}
        assert {**fields(stored.record.head), **same} == fields(held.record.head)
        parked.shrink()
        assert parked.kept is None
        parked.shrink()  # a second time changes nothing


def fields(head):
    return {name: getattr(head, name) for name in type(head).__dataclass_fields__}


TYPED = {"price": Decimal("1.50"), "day": date(2026, 1, 2), "raw": b"\x00", "$type": "mine", "none": None}


@pytest.mark.parametrize("first", [{}, TYPED], ids=["plain", "typed"])
async def test_a_parked_run_is_what_its_row_is(stores, first):
    """What is held of a parked run is what the store would give: at each pause, with messages, and typed values."""
    rt = await stores.enter(approvals(**first))
    run_id = await begin(rt, 7, deep=nested(60))
    await compare(rt, run_id)
    await buffered(rt, run_id)
    await compare(rt, run_id)
    await rt.emit("first.go", id=7, by="again")  # back to the first stage, and to its wait
    await next_result(rt._core, run_id)
    assert (await rt.get_run(run_id)).waits[0].id == "first"
    await compare(rt, run_id)


async def test_a_delayed_run_is_what_its_row_is(stores):
    """A run that is delayed is parked too, until its time has come."""
    wf = Workflow("w", triggers={"t": Trigger("begin")})

    @wf.step
    async def once():
        return {"n": 1}

    @wf.route(after="once")
    def later():
        return Delay(5)

    @wf.step
    async def after():
        return {"n": 2}

    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("begin", {})).run_ids
    await stores.clock.run_for(1)
    assert (await rt.get_run(run_id)).status == "delayed"
    await compare(rt, run_id)
    assert (await rt.wait(run_id, 60)).state == {"n": 2}


def nested(levels):
    value = 1
    for _ in range(levels):
        value = {"a": value}
    return value


WAYS = ["as it is", "text", "evicted", "its window is over", "no window", "another process", "crash"]


async def outcome_of(stores, way, monkeypatch):
    """The result and the history of a run that paused, got messages and went on, in one of the ways."""
    if way == "text":
        monkeypatch.setattr(run_table, "_AS_THEY_ARE", 0)
    options = {"no window": {"pause_window": 0}, "evicted": {"pause_window_runs": 1}}.get(way, {})
    rt = await stores.enter(approvals(**TYPED), **options)
    run_id = await begin(rt, 7)
    if way == "evicted":
        await begin(rt, 8)
    if way == "its window is over":
        await stores.clock.run_for(61)
    assert (kept(rt, run_id) is not None) == (way not in ("evicted", "its window is over", "no window"))
    await buffered(rt, run_id)
    if way in ("another process", "crash"):
        await (stores.crash(rt) if way == "crash" else rt.stop(drain=0))
        rt = await stores.enter(approvals(**TYPED))
    await rt.emit("first.go", id=7, by="me")
    result = await rt.wait(run_id, 60)
    entries = [(entry.source, entry.type, entry.path, entry.patch) for entry in (await rt.timeline(run_id)).entries]
    # Only a process that had the run in memory notes which events came for later waits.
    noted = [entry for entry in entries if entry[1] != "wait:buffered"]
    return dict(result.state), str(result.status), noted


@pytest.mark.parametrize("way", WAYS[1:])
async def test_a_run_goes_on_alike_from_memory_and_from_its_row(store_kind, tmp_path, vclock, way, monkeypatch):
    """From memory, as it is or as text, after its eviction and in another process a run comes to the same end."""
    ends = []
    for each in (WAYS[0], way):
        (tmp_path / each).mkdir()
        place = Stores(store_kind, tmp_path / each, vclock)
        ends.append(await outcome_of(place, each, monkeypatch))
        await place.close()
    assert ends[0][1] == "completed"
    assert ends[1] == ends[0]


async def test_a_value_that_refuses_to_be_text_leaves_its_run_a_row(stores, monkeypatch):
    """If a value of a registered type cannot be encoded when its run becomes text, only the row stays, and goes on."""
    monkeypatch.setattr(run_table, "_AS_THEY_ARE", 1)
    wf = Workflow("w")

    @wf.step
    async def first(id):
        return {"value": Stubborn()} if id == 1 else {}

    wf.wait("go", on="go", correlate={"id": StateRef("id")})
    rt = await stores.enter(wf)
    one = await begin(rt, 1)
    monkeypatch.setattr(Stubborn, "refuses", True)
    two = await begin(rt, 2)
    assert (kept(rt, one), kept(rt, two) is None) == (None, False)
    monkeypatch.setattr(Stubborn, "refuses", False)
    await rt.emit("go", id=1)
    assert (await rt.wait(one)).state["value"] == Stubborn()


async def test_to_list_parked_runs_takes_no_state(stores, monkeypatch):
    """A value that cannot be decoded hides no run from the list of those in memory, and stops no signal to its run."""
    monkeypatch.setattr(run_table, "_AS_THEY_ARE", 0)
    wf = Workflow("w")

    @wf.step
    async def first(id):
        return {"value": Stubborn()} if id == 1 else {}

    wf.wait("go", on="go", correlate={"id": StateRef("id")}, where=[Condition("by", "==", Decimal("1.50"))])
    rt = await stores.enter(wf)
    ids = [await begin(rt, number) for number in (1, 2)]
    monkeypatch.setattr(Stubborn, "refuses", True)
    assert [(info.run_id, info.waits[0].correlate) for info in rt.list_all_runs()] == [
        (ids[0], {"id": 1}),
        (ids[1], {"id": 2}),
    ]
    assert rt.watch("w", ids[0]) == await rt.get_run(ids[0])
    await rt.signal(ids[0], {"said": True})
    monkeypatch.setattr(Stubborn, "refuses", False)
    await rt.emit("go", id=1, by=Decimal("1.50"))
    result = await rt.wait(ids[0])
    assert (result.state["value"], result.state["said"]) == (Stubborn(), True)
