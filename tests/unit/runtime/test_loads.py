"""The load desk: what decisions are made on while earlier ones are on their way to the disk."""

from __future__ import annotations

import asyncio

import pytest

from poundlock.model.changes import Token
from poundlock.model.modes.decisions import Load
from poundlock.runtime.loads import LoadDesk

PAIR = ("orders", "")
OTHER = ("orders", "k")


class Stored:
    """A store of loads that says what the test puts in."""

    def __init__(self):
        self.loads = {}

    async def read_loads(self, pairs):
        return [self.loads.get(pair, (Load(), None)) for pair in pairs]


@pytest.fixture
def stored():
    return Stored()


@pytest.fixture
def desk(stored):
    return LoadDesk(stored)


async def test_what_is_on_its_way_counts(desk, stored):
    """While a change is on its way, its load is what the next one is decided on; then the store is asked again."""
    line = desk.submitted(PAIR, Load(1, "a"), Token(7, 0))
    assert await desk.read([PAIR, OTHER]) == [(Load(1, "a"), Token(7, 0)), (Load(), None)]
    stored.loads[PAIR] = (Load(1, "a"), Token(7, 0))
    desk.settled(line, applied=True)
    assert await desk.read([PAIR]) == [(Load(1, "a"), Token(7, 0))]


async def test_a_load_that_will_be_idle_has_no_token(desk):
    """The last change of a load takes its row away: the next one makes a new one."""
    desk.submitted(PAIR, Load(), Token(7, 4))
    assert await desk.read([PAIR]) == [(Load(), None)]


async def test_a_refusal_only_ends_its_own_line(desk):
    """Who hears of an old refusal does not take away the line that was begun since."""
    old = desk.submitted(PAIR, Load(1, "a"), Token(7, 0))
    desk.settled(old, applied=False)
    desk.submitted(PAIR, Load(5, "e"), Token(8, 4))
    other = desk.submitted(OTHER, Load(9), Token(9, 0))
    desk.settled(other, applied=False)
    assert await desk.read([PAIR]) == [(Load(5, "e"), Token(8, 4))]


async def test_nobody_joins_a_broken_line(desk, stored):
    """After a refusal readers wait until all that was lined up is durable or refused, and then read the store."""
    lines = [desk.submitted(PAIR, Load(number), Token(7, number)) for number in range(1, 4)]
    desk.settled(lines[0], applied=False)
    assert desk.moved({PAIR: (Load(3), Token(7, 3))})
    readers = [asyncio.ensure_future(desk.read([PAIR])) for _ in range(3)]
    free = asyncio.ensure_future(desk.read([OTHER]))
    assert await free == [(Load(), None)]
    desk.settled(lines[1], applied=False)
    assert not any(reader.done() for reader in readers)
    stored.loads[PAIR] = (Load(2, "x"), Token(9, 9))
    readers[0].cancel()
    desk.settled(lines[2], applied=True)
    assert await asyncio.gather(*readers[1:]) == [[(Load(2, "x"), Token(9, 9))]] * 2


async def test_a_decision_on_an_older_load_is_known_to_be_late(desk):
    """What was decided on another load than the one lined up behind now need not be tried."""
    read = dict(zip([PAIR, OTHER], await desk.read([PAIR, OTHER]), strict=True))
    assert not desk.moved(read)
    desk.submitted(OTHER, Load(1, "a"), Token(7, 0))
    assert desk.moved(read)
    assert not desk.moved({OTHER: (Load(1, "a"), Token(7, 0))})
