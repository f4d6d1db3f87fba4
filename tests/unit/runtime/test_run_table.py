"""Who drives a run: the table of phases, pair by pair."""

from __future__ import annotations

import asyncio
from itertools import product
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from poundlock.runtime.phases import MOVES, Phase, check_phase
from poundlock.runtime.run_table import LiveRun, RunTable

LEGAL = {
    ("absent", "loading"),
    ("absent", "driving"),
    ("absent", "resuming"),
    ("absent", "unsure"),
    ("absent", "stranded"),
    ("loading", "driving"),
    ("loading", "stranded"),
    ("loading", "absent"),
    ("driving", "closing"),
    ("driving", "loading"),
    ("driving", "driving"),
    ("driving", "stranded"),
    ("driving", "absent"),
    ("closing", "loading"),
    ("closing", "parked"),
    ("closing", "driving"),
    ("closing", "loading"),
    ("closing", "absent"),
    ("parked", "resuming"),
    ("parked", "driving"),
    ("parked", "unsure"),
    ("parked", "absent"),
    ("resuming", "driving"),
    ("resuming", "parked"),
    ("resuming", "unsure"),
    ("resuming", "absent"),
    ("unsure", "driving"),
    ("unsure", "loading"),
    ("unsure", "stranded"),
    ("unsure", "absent"),
    ("stranded", "driving"),
    ("stranded", "absent"),
}


@pytest.mark.parametrize(("source", "target"), [(str(a), str(b)) for a, b in product(Phase, Phase)])
def test_every_pair_of_phases(source, target):
    """A phase follows another exactly where the table says so; every other move is refused as a bug."""
    if (source, target) in LEGAL:
        check_phase(Phase(source), Phase(target))
    else:
        with pytest.raises(AssertionError):
            check_phase(Phase(source), Phase(target))


def test_every_move_says_why():
    """Each move of the table has a reason for people to read, and every phase has its row."""
    assert set(MOVES) == set(Phase)
    assert all(why for targets in MOVES.values() for why in targets.values())


def live(run_id="r", *, written=True):
    identity = SimpleNamespace(run_id=run_id)
    run = MagicMock(identity=identity, run_id=run_id, written=written, inbox=[], buffer=(), backlog=())
    return LiveRun(run, None)


async def test_a_run_taken_over_leaves_its_old_task_without_say(vclock):
    """The newest driver of a run is its entry; the older one is handed back to be waited for, and is not `mine`."""
    table = RunTable(vclock, 60.0)
    never = asyncio.get_running_loop().create_future()

    async def work():
        await never

    old, new = live(), live()
    assert table.begin(old) is None
    old.task = asyncio.get_running_loop().create_task(work())
    assert table.begin(new) is old
    assert table.is_current(new)
    assert not table.is_current(old)
    assert old.phase is Phase.ABSENT
    old.task.cancel()
    await asyncio.wait([old.task])


def test_messages_that_come_while_a_checkpoint_is_read_reach_the_run(vclock):
    """A message that became durable while a run was loading is in its inbox once it is driven."""
    table = RunTable(vclock, 60.0)
    table.load("r")
    message = SimpleNamespace(run_id="r")
    table.deliver(message)
    driven = live()
    table.begin(driven)
    assert driven.run.inbox == [message]


async def test_parked_runs_leave_memory_after_their_window(vclock):
    """A parked run is kept for the pause window and is then absent; without a window it never is kept."""
    table = RunTable(vclock, 60.0)
    kept = live()
    table.begin(kept)
    table.rest(kept)
    table.park(kept)
    assert table.phase("r") is Phase.PARKED
    assert table.live("r") is None
    await vclock.run_for(59)
    assert table.parked("r").identity is kept.run.identity
    await vclock.run_for(2)
    assert table.phase("r") is Phase.ABSENT
    assert len(table) == 0
    none = RunTable(vclock, 0.0)
    gone = live("s")
    none.begin(gone)
    none.rest(gone)
    none.park(gone)
    assert none.phase("s") is Phase.ABSENT


def test_only_runs_that_were_never_written_are_looked_up_in_memory(vclock):
    """An invoked run is found for events while the store does not know it, and no longer once it is written or gone."""
    table = RunTable(vclock, 60.0)
    one, two = live("one", written=False), live("two", written=False)
    table.begin(one)
    table.begin(two)
    assert list(table.unwritten()) == [one, two]
    table.written("one")
    table.drop("two")
    assert list(table.unwritten()) == []
