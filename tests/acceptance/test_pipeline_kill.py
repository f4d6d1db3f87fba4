"""Pipelines on a real file, in a process that is killed at random moments and started again."""

from __future__ import annotations

import random
from collections import Counter

import pipeline_workload
import pytest
from pipeline_scenarios import SCENARIOS, counted
from support import run_workload

pytestmark = pytest.mark.acceptance

KILLS = 6
AT_ONCE = 4


async def start(folder, seconds="never", said="undisturbed"):
    """Run the scenarios on a folder until they end or the process is killed; returns whether they ended."""
    return await run_workload(pipeline_workload, folder, seconds, said=said) == 0


async def test_killed_at_random_moments(tmp_path):
    """Killed again and again, all scenarios come to their end; only what was in flight runs again."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert await start(undisturbed)
    expected = pipeline_workload.Notes(undisturbed)
    [took] = expected.read("took", "all")
    seed = random.randrange(1_000_000)
    draw = random.Random(seed)
    for life in range(3):
        folder = tmp_path / str(life)
        folder.mkdir()
        kills = 0
        moments = [draw.uniform(0, took / 4), *(draw.uniform(0, took) for _ in range(KILLS - 1))]
        told = f"life {life}, seed {seed}"
        while kills < KILLS and not await start(folder, moments[kills], told):
            kills += 1
        assert kills, told
        assert kills < KILLS or await start(folder, said=told)
        notes = pipeline_workload.Notes(folder)
        for name in pipeline_workload.NAMES:
            said = f"{name}, seed {seed}"
            [[whole, run_ids]], [[found, found_ids]] = expected.read("outcome", name), notes.read("outcome", name)
            assert found == whole, said
            calls = notes.calls(name)
            assert counted(calls, set(found_ids)) == counted(expected.calls(name), set(run_ids)), said
            extra = sum(count - 1 for count in Counter(calls).values())
            assert extra <= kills * AT_ONCE, said
            assert SCENARIOS[name].exact
