"""Loops that wait in each round: what a round costs does not depend on how many there were before."""

from __future__ import annotations

from typing import Annotated

import pytest

from poundlock import Delay, Jump, Service, StateRef, Use, Workflow
from poundlock.codecs import dump
from poundlock.model.timeline import fold, fold_entries
from poundlock.stores import MemoryStore, memory
from poundlock.stores.sqlite import SqliteStore, reads

ROUNDS = 150


@pytest.fixture
def folded(monkeypatch):
    """How much log was read each time a state was put together: (rows, characters)."""
    seen = []

    def counting(rows, state=None):
        rows = list(rows)
        seen.append((len(rows), sum(len(row.text) for row in rows)))
        return fold(rows, state)

    def counting_entries(logs, state=None):
        seen.append((len(logs), sum(len(dump(entries)) for entries in logs)))
        return fold_entries(logs, state)

    monkeypatch.setattr(memory, "fold", counting)
    monkeypatch.setattr(reads, "fold_entries", counting_entries)
    return seen


class Remembering:
    """A store that notes how many rows of history it was asked for."""

    def __init__(self, inner):
        self._inner = inner
        self.rows = []

    async def history(self, *args):
        found = await self._inner.history(*args)
        self.rows.append(len(found))
        return found

    def __getattr__(self, name):
        return getattr(self._inner, name)


@pytest.fixture
def store(store_kind, tmp_path, vclock):
    if store_kind == "memory":
        return Remembering(MemoryStore())
    return Remembering(SqliteStore(tmp_path / "runs.db", synchronous="OFF", clock=vclock))


def delaying(rounds=ROUNDS):
    """A run that looks after something once a minute."""
    wf = Workflow("watch")

    @wf.step
    def look(n):
        return {"n": n + 1}

    @wf.route(after="look")
    def later(state):
        return Delay("1m")

    @wf.step
    def again(n):
        return {"seen": "x" * 40}

    @wf.route(after="again")
    def back(state):
        return Jump("look") if state["n"] < rounds else None

    return wf


def pausing(rounds=ROUNDS, **service):
    """A run that waits for the same event again and again; its service may outlive the pauses."""
    wf = Workflow("listen", services=[Service("counter", lambda: {"made": 1}, scope="run", options=service)])

    @wf.step
    def take(n):
        return {"n": n + 1}

    wf.wait("next", on="next", correlate={"id": StateRef("id")})

    @wf.step
    def count(n, counter: Annotated[dict, Use("counter")]):
        return {"seen": "x" * 40, "made": counter["made"]}

    @wf.route(after="count")
    def back(state):
        return Jump("take") if state["n"] < rounds else None

    return wf


def is_bounded(folded):
    """Whether late rounds read no more than early ones, a snapshot's worth aside."""
    return max(size for _, size in folded) < 2 * 4096 and max(rows for rows, _ in folded) < 60


async def test_a_loop_of_delays_reads_the_same_in_each_round(runtime, store, folded, vclock):
    """Each claim folds what was written since the last snapshot, and there is one every 4 kB of it."""
    rt = await runtime(delaying(), store=store, clock=vclock)
    result = await rt.run("watch", {"n": 0})
    while not result.status.terminal:
        result = await rt.wait(result.run_id)
    assert result.state["n"] == ROUNDS
    assert len(folded) >= ROUNDS - 1
    assert is_bounded(folded)


@pytest.mark.parametrize("exported", [False, True], ids=["plain", "exported services"])
async def test_a_loop_of_pauses_reads_the_same_in_each_round(runtime, store, folded, vclock, exported):
    """The same for runs that come back from their row for an event, whether their services are stored or not."""
    wf = pausing(serializable=exported)
    rt = await runtime(wf, store=store, clock=vclock, pause_window=0)
    run_id = (await rt.run("listen", {"n": 0, "id": 1})).run_id
    for number in range(1, ROUNDS):
        await rt.emit("next", id=1, round=number)
        await vclock.run_until_idle()
    await rt.emit("next", id=1, round=ROUNDS)
    result = await rt.wait(run_id)
    assert (result.state["n"], str(result.status)) == (ROUNDS, "completed")
    assert len(folded) >= ROUNDS - 1
    assert is_bounded(folded)
    assert len(store.rows) <= ROUNDS + 1 if exported else store.rows == []
    assert max(store.rows, default=0) <= 16


async def test_services_are_found_however_long_ago_they_were_stored(stores, gate):
    """A run whose owner died many boundaries after the last pause gets its stored services back."""
    built = []

    def counter():
        built.append(1)
        return {"made": len(built)}

    wf = Workflow("listen", services=[Service("counter", counter, scope="run", options={"serializable": True})])

    @wf.step
    def take(counter: Annotated[dict, Use("counter")]):
        return {"first": counter["made"], "n": 0}

    wf.wait("next", on="next")

    @wf.step
    def count(n):
        return {"n": n + 1}

    @wf.route(after="count")
    def back(state):
        return Jump("count") if state["n"] < 40 else None

    @wf.step
    async def use(counter: Annotated[dict, Use("counter")]):
        await gate()
        return {"last": counter["made"]}

    rt = await stores.enter(wf, pause_window=0)
    run_id = (await rt.run("listen", {})).run_id
    await rt.emit("next")
    await stores.clock.run_until_idle()
    assert gate.came
    await stores.crash(rt)
    gate.open()
    rt = await stores.enter(wf)
    result = await rt.wait(run_id)
    assert (str(result.status), result.state["last"], len(built)) == ("completed", 1, 1)
