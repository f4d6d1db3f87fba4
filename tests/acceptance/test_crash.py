"""A real process on a real file, killed without warning at a commit, and started again."""

from __future__ import annotations

import ast
import asyncio
import os
import signal

import crash_workload
import pytest
from support import run_workload, unmeasured

pytestmark = pytest.mark.acceptance

NEVER = 1_000_000
STEP = 3
"""Every how many commits one is killed at; each of them is killed before it or after it, in turn."""


async def start(folder, number=NEVER, where="before"):
    """Run the workload on the file in a folder until it ends or kills itself; returns the exit code."""
    environment = dict(os.environ) if number == NEVER else unmeasured()
    words = (folder / "runs.db", folder / "notes", number, where)
    return await run_workload(crash_workload, *words, environment=environment)


def notes(folder):
    """Return what the processes noted: the outcome, the commits of the last one, and every execution of a step."""
    lines = (folder / "notes").read_text().splitlines()
    outcome = [line.removeprefix("outcome ") for line in lines if line.startswith("outcome ")]
    commits = [int(line.removeprefix("commits ")) for line in lines if line.startswith("commits ")]
    return ast.literal_eval(outcome[-1]), commits[-1], [line for line in lines if line.startswith("ran ")]


async def test_a_killed_process_loses_and_repeats_nothing(tmp_path):
    """Killed at any commit and started again, it ends like one that was never killed, and repeats one step at most."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    assert await start(undisturbed) == 0
    expected, commits, ran = notes(undisturbed)
    assert crash_workload.extra(ran) == 0
    assert {status for _, (status, _, _) in expected} == {"completed"}
    free = asyncio.Semaphore(os.cpu_count() or 1)

    async def killed(number, where):
        folder = tmp_path / f"{where}-{number}"
        folder.mkdir()
        async with free:
            assert await start(folder, number, where) == -signal.SIGKILL
            assert await start(folder) == 0
        found, _, executed = notes(folder)
        assert found == expected, folder.name
        assert crash_workload.extra(executed) <= 1, folder.name
        assert set(executed) == set(ran), folder.name

    points = [(number, ("before", "after")[number // STEP % 2]) for number in range(1, commits + 1, STEP)]
    await asyncio.gather(*(killed(*point) for point in points))


async def test_a_process_killed_again_and_again_arrives(tmp_path):
    """Killed after every few commits, over and over, it still ends like one that was never killed."""
    folder = tmp_path / "again"
    folder.mkdir()
    kills = 0
    while await start(folder, 6, "after") != 0:
        kills += 1
        assert kills < 40, "it makes no progress"
    found, _, executed = notes(folder)
    assert {status for _, (status, _, _) in found} == {"completed"}
    assert kills > 3
    assert crash_workload.extra(executed) <= kills
