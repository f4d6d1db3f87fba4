"""Every primitive of pipelines, killed at every commit: it comes to what an undisturbed run comes to.

The scenarios are in `pipeline_scenarios.py`; a further primitive is one more entry there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest
from pipeline_scenarios import SCENARIOS, Calls, counted, finished, outcome, play
from support import GatedStore, Stores

from poundlock.testing import VirtualClock

QUICK = {name: scenario for name, scenario in SCENARIOS.items() if scenario.quick}
AT_ONCE = 4
"""How many calls may be in flight in the scenarios: two elements, three steps, children beside each other."""


class AtStore(GatedStore):
    """A GatedStore that can also die while a commit is being written: whether it is durable is up to the real store."""

    last = None

    async def commit(self, work):
        if self.crash is not None and not self.dead and self.crash == (self.commits + 1, "at"):
            return await self._amid(self.inner.commit(work))
        return await super().commit(work)

    async def claim(self, *args):
        if self.crash is not None and not self.dead and self.crash == (self.commits + 1, "at"):
            return await self._amid(self.inner.claim(*args))
        return await super().claim(*args)

    async def _amid(self, writing):
        self.commits += 1
        self.last = asyncio.ensure_future(writing)
        await asyncio.sleep(0)  # noqa: TID251 - the commit begins
        self.die()
        return await self._alive()


class Place(Stores):
    """Stores whose crashes may come in the middle of a commit."""

    def store(self):
        return AtStore(super().store().inner, self.clock)

    async def crash(self, runtime):
        runtime.store.die()
        if runtime.store.last is not None:
            with contextlib.suppress(Exception):
                await runtime.store.last
        await super().crash(runtime)


async def lives(scenario, kind, folder, crashes):
    """Play a scenario, killed in turn at each of these commits; returns what it came to, and what each life was."""
    clock = VirtualClock(autojump=False)
    start = clock.now()
    place, done, lives, over = Place(kind, folder, clock), set(), [], set()
    calls = Calls(clock)
    try:
        for crash in (*crashes, None):
            store = place.store()
            store.crash = crash
            made = scenario.make(calls)
            rt = await place.enter(store=store)
            before = len(calls.made)
            over = await finished(rt, calls.made) if before else set()
            store.commits = 0

            async def live(rt=rt, made=made):
                for each in made if isinstance(made, tuple) else (made,):
                    await rt.register(each)
                await play(scenario, rt, clock, start, done)

            living = asyncio.create_task(live())
            crashed = asyncio.create_task(store.crashed.wait())
            await asyncio.wait([living, crashed], return_when=asyncio.FIRST_COMPLETED)
            if store.dead:
                living.cancel()
                await asyncio.wait([living])
                await place.crash(rt)
            else:
                crashed.cancel()
                await living
            lives.append((store.commits, calls.made[before:], over))
            if not store.dead:
                break
        found, run_ids = await outcome(rt)
        await rt.stop()
        assert clock.now() - start == max([0, *(getattr(each, "seconds", 0) for each in scenario.script)])
        return found, counted(calls.made, run_ids), Counter(c for c in calls.made if c.run_id in run_ids), lives
    finally:
        await place.close()
        clock.close()


def check_repeats(scenario, lived, where):
    """Only what was in flight at a death ran again after it."""
    for number, (_, made, over) in enumerate(lived):
        again = sorted({call.place for call in made if call in over})
        assert again == [], f"{where}: {again} ran again in life {number}, though their end was durable"


async def undisturbed(scenario, kind, folder):
    folder.mkdir()
    found, counts, each, [(commits, made, _)] = await lives(scenario, kind, folder, [])
    [first] = [run for run in found if run["depth"] == 0 and run["run"].startswith("w/")]
    assert first["status"] == scenario.status, first
    if first["error"] is not None:
        assert scenario.expected in " ".join(map(str, first["error"])), first
    elif isinstance(scenario.expected, dict):
        assert {key: first["state"].get(key) for key in scenario.expected} == scenario.expected, first
    else:
        assert first["result"] == scenario.expected, first
    assert len(made) == scenario.calls, made
    assert set(each.values()) == {1}
    return found, counts, commits


@pytest.mark.parametrize("where", ["before", "at", "after"])
@pytest.mark.parametrize("scenario", QUICK.values(), ids=QUICK)
async def test_killed_at_any_commit(store_kind, tmp_path, scenario, where):
    """Status, result, state, error and path of all runs are as if undisturbed; nothing that is finished runs again."""
    found, counts, commits = await undisturbed(scenario, store_kind, tmp_path / "undisturbed")
    # On a file each life takes a while; what is written there in the middle of a commit is seen by every second one.
    for number in range(1, commits + 1, 2 if (store_kind, where) == ("sqlite", "at") else 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        again, counts_again, each, lived = await lives(scenario, store_kind, folder, [(number, where)])
        assert again == found, f"commit {number}"
        assert counts_again == counts, f"commit {number}"
        if scenario.exact:
            assert max(each.values()) <= 2, f"commit {number}"
            assert sum(each.values()) - len(each) <= AT_ONCE, f"commit {number}"
            check_repeats(scenario, lived, f"commit {number}")


@pytest.mark.parametrize("scenario", QUICK.values(), ids=QUICK)
async def test_killed_again_and_again(store_kind, tmp_path, scenario):
    """Each process lives for a few commits only, claims among them: together they come to the same."""
    found, counts, commits = await undisturbed(scenario, store_kind, tmp_path / "undisturbed")
    crashes = [(3 + number % 4, ("after", "at", "before")[number % 3]) for number in range(commits * 3)]
    again, counts_again, _, lived = await lives(scenario, store_kind, tmp_path, crashes)
    assert len(lived) <= len(crashes), "it makes no progress"
    assert again == found
    assert counts_again == counts
    if scenario.exact:
        check_repeats(scenario, lived, "again and again")
