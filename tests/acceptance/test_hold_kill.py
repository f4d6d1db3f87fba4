"""Triggers that hold events on a real file, in a process that is killed at random moments and started again."""

from __future__ import annotations

import random

import hold_workload
import pytest
from support import run_workload

from poundlock.stores.sqlite import SqliteStore

pytestmark = pytest.mark.acceptance

KILLS = 6


async def start(folder, seconds="never", said="undisturbed"):
    """Run the workload on a folder until it ends or is killed; returns whether it ended."""
    return await run_workload(hold_workload, folder, seconds, said=said) == 0


async def test_killed_at_random_moments(tmp_path):
    """Each event is decided exactly once: by its own run, in a batch, or by a later event in its place."""
    seed = random.randrange(1_000_000)
    draw = random.Random(seed)
    kills = 0
    while kills < KILLS and not await start(tmp_path, draw.uniform(0.2, 1.2), f"seed {seed}"):
        kills += 1
    assert kills < KILLS or await start(tmp_path, said=f"seed {seed}")
    store = SqliteStore(tmp_path / "runs.db", readonly=True)
    await store.open("looking")
    stats = await store.stats()
    assert (stats.get("held", 0), stats.get("dead_letters", 0)) == (0, 0), f"seed {seed}"
    for kind in hold_workload.KINDS:
        lines = (tmp_path / f"{kind}.runs").read_text(encoding="utf-8").splitlines()
        noted = {run_id: [int(n) for n in rest.split()] for run_id, _, rest in (line.partition(" ") for line in lines)}
        runs = [n for events in noted.values() for n in events]
        assert len(runs) == len(set(runs)), f"{kind}, seed {seed}"
        for n in range(hold_workload.EVENTS):
            said = f"{kind}-{n}, seed {seed}"
            [line] = await store.receipt("/workload", f"{kind}-{n}")
            assert line.verdict != "delayed", said
            if n in runs and line.verdict not in ("duplicate", "queued"):
                assert n in noted[line.run_id], said
            if n not in runs:
                assert kind in ("debounce", "throttle"), said
    await store.close()
