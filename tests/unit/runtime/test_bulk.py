"""Work in bulk: what many runs do at the same moment shares commits' syncs, and is not done over and over."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from poundlock import Event, Exclusive, SingletonLoop, StateRef, Transient, Trigger, Verdict, Workflow
from poundlock.errors import Refused
from poundlock.stores.sqlite import SqliteStore

MANY = 200


class Counting:
    """A store that counts the commits it was asked for, and those it refused by the kind of refusal."""

    def __init__(self, inner):
        self._inner = inner
        self.asked = 0
        self.refused = Counter()

    async def commit(self, changes):
        self.asked += 1
        try:
            return await self._inner.commit(changes)
        except Refused as error:
            self.refused[type(error).__name__] += 1
            raise

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def syncs(self):
        return (await self._inner.stats())["syncs"]


@pytest.fixture
def store(tmp_path, vclock):
    return Counting(SqliteStore(tmp_path / "runs.db", synchronous="OFF", clock=vclock))


def approvals(mode=None, **wait):
    """Runs that park until they are approved, and then take one step more."""
    wf = Workflow("orders", mode=mode or Transient(MANY, capacity=None), triggers={"placed": Trigger("placed")})

    @wf.step
    async def take(id):
        return {"taken": id}

    wf.wait("approval", on="approved", correlate={"id": StateRef("id")}, **wait)

    @wf.step
    async def ship(id):
        return {"shipped": id}

    return wf


async def parked(rt, count=MANY):
    """Start runs and wait until all of them are parked."""
    receipts = await asyncio.gather(*(rt.emit("placed", id=number) for number in range(count)))
    results = [result for receipt in receipts for result in await receipt.results()]
    assert {str(result.status) for result in results} == {"paused"}
    return [result.run_id for result in results]


async def rest_of(rt, run_ids):
    return Counter([str((await rt.wait(run_id)).status) for run_id in run_ids])


async def idle(rt):
    [(load, token)] = await rt.store.read_loads([("orders", "")])
    return load.idle and token is None


async def test_a_burst_of_approvals_is_refused_nothing(runtime, store, vclock):
    """Runs that were approved at once take their slots again and end: no commit is tried twice, and all share syncs."""
    rt = await runtime(approvals(), store=store, clock=vclock)
    run_ids = await parked(rt)
    before, refused = await store.syncs(), store.refused.copy()
    await asyncio.gather(*(rt.emit("approved", id=number) for number in range(MANY)))
    assert await rest_of(rt, run_ids) == {"completed": MANY}
    assert store.refused == refused
    assert await store.syncs() - before < MANY / 4
    assert await idle(rt)


async def test_a_burst_of_answers_by_hand_is_refused_nothing(runtime, store, vclock):
    """The same for runs that were resumed by hand."""
    rt = await runtime(approvals(), store=store, clock=vclock)
    run_ids = await parked(rt)
    before, refused = await store.syncs(), store.refused.copy()
    results = await asyncio.gather(*(rt.resume(run_id, {"by": "me"}) for run_id in run_ids))
    assert {str(result.status) for result in results} == {"completed"}
    assert store.refused == refused
    assert await store.syncs() - before < MANY / 4
    assert await idle(rt)


@pytest.mark.parametrize("on_timeout", ["resume", "fail"])
async def test_waits_that_ran_out_while_nobody_looked(runtime, store, vclock, on_timeout):
    """Runs that are all due as a process starts are claimed in portions and end; none of it is tried twice."""
    rt = await runtime(approvals(timeout=60, on_timeout=on_timeout), store=store, clock=vclock)
    run_ids = await parked(rt)
    await rt.stop()
    store.refused.clear()
    vclock.advance(120)
    rt = await runtime(approvals(timeout=60, on_timeout=on_timeout), store=store, clock=vclock)
    before = await store.syncs()
    assert await rest_of(rt, run_ids) == {"completed" if on_timeout == "resume" else "failed": MANY}
    assert store.refused == {}
    assert await store.syncs() - before < MANY / 4
    assert await idle(rt)


async def test_decisions_that_somebody_got_in_the_way_of_are_made_again_together(runtime, store, vclock):
    """Of events decided on a load that a resumed run has changed meanwhile, all are decided again side by side."""
    rt = await runtime(approvals(Transient(MANY, capacity=None)), store=store, clock=vclock)
    [first, _] = await parked(rt, 2)
    before, asked = await store.syncs(), store.asked
    answer = rt.resume(first, {"by": "me"})  # takes its slot again, which nobody could foresee
    _, *receipts = await asyncio.gather(answer, *(rt.emit("placed", id=number) for number in range(MANY)))
    assert Counter(line.verdict for receipt in receipts for line in receipt.lines) == {Verdict.STARTED: MANY}
    assert store.refused["LoadMoved"] <= 2 * MANY
    assert store.asked - asked < 8 * MANY
    assert await store.syncs() - before < MANY / 4


async def test_new_events_among_approvals_all_get_their_receipt(runtime, store, vclock):
    """Events that start runs and events that resume others of the same workflow, all at once, share their syncs."""
    rt = await runtime(approvals(Transient(MANY, capacity=None)), store=store, clock=vclock)
    await parked(rt)
    before = await store.syncs()
    emits = []
    for number in range(MANY):
        emits += [rt.emit("approved", id=number), rt.emit("placed", id=MANY + number)]
    verdicts = Counter(line.verdict for receipt in await asyncio.gather(*emits) for line in receipt.lines)
    assert verdicts[Verdict.RESUMED] == MANY
    assert verdicts[Verdict.STARTED] + verdicts[Verdict.QUEUED] == MANY
    assert await store.syncs() - before < MANY / 2


@pytest.mark.parametrize("copies", [2, 5])
async def test_events_that_come_several_times_at_once_share_their_syncs(runtime, store, vclock, copies):
    """Of events that come more than once at the same moment one copy each is decided; the others hear so together."""
    rt = await runtime(approvals(Transient(MANY, capacity=None)), store=store, clock=vclock)
    events = [Event("placed", {"id": number}, id=f"e{number}") for number in range(MANY)]
    before, asked = await store.syncs(), store.asked
    receipts = await asyncio.gather(*(rt.emit(event) for event in events for _ in range(copies)))
    verdicts = Counter(line.verdict for receipt in receipts for line in receipt.lines)
    assert verdicts == {Verdict.STARTED: MANY, Verdict.DUPLICATE: (copies - 1) * MANY}
    assert store.asked - asked < 8 * copies * MANY
    assert await store.syncs() - before < MANY / 4


@pytest.mark.parametrize("mode", [Exclusive("queue_single"), SingletonLoop("replace")], ids=["exclusive", "singleton"])
async def test_a_burst_of_which_the_latest_wins_shares_its_syncs(runtime, store, vclock, gate, mode):
    """Events that take each other's place in the queue at the same moment need not wait for one another's sync."""
    wf = Workflow("latest", mode=mode)
    done = []

    @wf.on("go")
    @wf.step
    async def work(n):
        done.append(n)
        if n == 0:
            await gate()

    rt = await runtime(wf, store=store, clock=vclock)
    await rt.emit("go", n=0)
    before = await store.syncs()
    receipts = await asyncio.gather(*(rt.emit("go", n=number) for number in range(1, MANY)))
    assert await store.syncs() - before < MANY / 4
    gate.open()
    results = [result for receipt in receipts for result in await receipt.results()]
    assert Counter(str(result.status) for result in results) == {"aborted": MANY - 2, "completed": 1}
    assert done == [0, MANY - 1]
