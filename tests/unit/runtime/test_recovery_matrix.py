"""A crash before and after every single commit of a workload that goes through every primitive."""

from __future__ import annotations

import asyncio

import pytest
from crash_workload import agrees, extra, outcome, work, workflows
from support import Stores


async def run_through(place, clock, crash=None):
    """Run the workload, crashing at most once; returns what it came to, the answers, executions and commits."""
    ran, answers = [], {}
    store = place.store()
    store.crash = crash
    made = workflows(lambda run, stage: ran.append((run, stage)))
    entering = asyncio.create_task(place.enter(*made, store=store))
    crashed = asyncio.create_task(store.crashed.wait())
    await asyncio.wait([entering, crashed], return_when=asyncio.FIRST_COMPLETED)
    rt = await entering
    working = asyncio.create_task(work(rt, clock, answers, answers.__setitem__))
    await asyncio.wait([working, crashed], return_when=asyncio.FIRST_COMPLETED)
    if store.dead:
        working.cancel()
        await asyncio.wait([working])
        await place.crash(rt)
        rt = await place.enter(*made)
        await work(rt, clock, answers, answers.__setitem__)
    else:
        crashed.cancel()
        await working
    found = await outcome(rt)
    live = rt.list_all_runs()
    await rt.stop()
    assert [info for info in live if not info.waits] == []
    return found, answers, ran, store.commits


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_crash_at_every_commit_changes_nothing(store_kind, tmp_path, vclock, where):
    """Whichever commit the process dies at, states, statuses and answers are those of an undisturbed run.

    No finished stage runs again: at most the one step that was under way.
    """
    vclock.autojump = False

    async def once(name, crash):
        (tmp_path / name).mkdir()
        place = Stores(store_kind, tmp_path / name, vclock)
        try:
            return await run_through(place, vclock, crash)
        finally:
            await place.close()

    expected, answers, ran, commits = await once("undisturbed", None)
    assert {status for status, _, _ in expected.values()} == {"completed"}
    assert extra(ran) == 0
    assert commits > 25
    for number in range(1, commits + 1):
        found, again, executed, _ = await once(str(number), (number, where))
        assert found == expected, f"commit {number}"
        assert agrees(answers, again), f"commit {number}: {again}"
        assert extra(executed) <= 1, f"commit {number}: {executed}"
        assert set(executed) == set(ran), f"commit {number}"
