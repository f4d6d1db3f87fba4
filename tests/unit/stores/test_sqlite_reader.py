"""The reader: what is asked for together is read by a few statements, and no read can fail another."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from poundlock import codecs
from poundlock.errors import RunDamaged, UnknownCodec
from poundlock.model.lifecycle import RunStatus
from poundlock.stores.sqlite import reads
from poundlock.stores.sqlite.gate import Gate
from poundlock.stores.sqlite.identity import Watched
from poundlock.stores.sqlite.reader import Keyed, Reader
from poundlock.stores.sqlite.worker import Job
from poundlock.testing.store_contract import NOW, Scribe, log_of, move_of


@pytest.fixture
async def scribe(opened):
    return Scribe(await opened(synchronous="OFF"))


@pytest.fixture
def read(scribe, path):
    """Do reads at once, in the way of the reader's thread; returns the jobs."""
    reader = Reader(str(path), Gate(), Watched(str(path)), together=64)

    def perform(*works):
        jobs = [Job(work, None) for work in works]
        reader.perform(jobs)
        return [job.answer for job in jobs]

    yield perform
    reader.close()


async def test_one_key_that_fails_does_not_fail_the_others(read):
    """An exception in the place of an answer is for its own caller."""

    def many(cursor, keys):
        return {key: ValueError(key) if key == "b" else key.upper() for key in keys if key != "c"}

    first, second, third = read(*(Keyed(many, key) for key in "abc"))
    assert (first, third) == ("A", None)
    assert isinstance(second, ValueError)


@pytest.mark.parametrize("error", [sqlite3.DatabaseError("damaged"), RuntimeError("a bug")])
async def test_a_group_that_fails_is_read_one_by_one(read, error):
    """Damage that only one of them meets is for that one; a plain read beside them is not affected."""
    groups = []

    def many(cursor, keys):
        groups.append(keys)
        if "b" in keys:
            raise error
        return {key: key.upper() for key in keys}

    first, second, third, plain = read(*(Keyed(many, key) for key in "abc"), lambda cursor: "plain")
    assert (first, third, plain) == ("A", "C", "plain")
    assert isinstance(second, Exception)
    assert groups == [["a", "b", "c"], ["a"], ["b"], ["c"]]


async def test_an_answer_is_shared_only_if_it_cannot_be_changed(read):
    """Two who ask for the same get two answers, unless the answer is a plain value."""

    def many(cursor, keys):
        return {key: [key] for key in keys}

    first, second = read(Keyed(many, "a"), Keyed(many, "a"))
    assert first == second
    assert first is not second
    first, second = read(Keyed(many, "a", shared=True), Keyed(many, "a", shared=True))
    assert first is second


async def test_many_waiting_callers_cost_few_statements(scribe, path):
    """The status of a hundred runs takes three queries; their checkpoints three, and three for shared events."""
    for n in range(100):
        await scribe.create(f"r{n}", log=log_of(1, {"n": n}))
    asked = []
    with closing(sqlite3.connect(path)) as connection:
        connection.set_trace_callback(asked.append)
        cursor = connection.cursor()
        found = reads.statuses(cursor, [f"r{n}" for n in range(100)])
        assert len(found) == 100
        assert len(asked) == 3  # 64, 32 and 4 of them
        asked.clear()
        assert len(reads.checkpoints(cursor, [f"r{n}" for n in range(100)])) == 100
        assert len(asked) == 6


async def test_a_state_that_cannot_be_read_is_the_error_of_its_run(scribe, path):
    """One run with a type that nobody knows here does not keep its neighbours from being read."""
    for n in range(3):
        await scribe.create(f"r{n}", log=log_of(1, {"n": n}))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "UPDATE log SET text = ? WHERE run = (SELECT run FROM runs WHERE run_id = 'r1')",
            ('[[1.0,"a","b","c",null,{"n":{"$type":"unheard.of","value":1}}]]',),
        )
        connection.commit()
    read = [scribe.store.checkpoint(f"r{n}") for n in range(3)]
    first, second, third = await asyncio.gather(*read, return_exceptions=True)
    assert (first.state, third.state) == ({"n": 0}, {"n": 2})
    assert isinstance(second, UnknownCodec)


@pytest.mark.parametrize("error", [StopIteration("none"), SystemExit(3), asyncio.CancelledError(), KeyError("x")])
async def test_whatever_a_decoder_raises_is_the_error_of_its_run(scribe, monkeypatch, error):
    """A type of the user's may raise anything: its run's reader is told, the neighbours and the thread go on."""

    def decode(_value):
        raise error

    monkeypatch.setitem(codecs._decoders, "odd", decode)
    for n in range(3):
        await scribe.create(f"r{n}", status=RunStatus.READY)
    move = move_of(await scribe.record("r1"), status=RunStatus.READY, owner=None, log=log_of(1, {}))
    await scribe.commit(move._replace(snapshot='{"n":{"$type":"odd","value":1}}'))
    told = error if isinstance(error, KeyError) else RuntimeError
    for _ in range(2):
        read = [scribe.store.checkpoint(f"r{n}") for n in range(3)]
        first, second, third = await asyncio.gather(*read, return_exceptions=True)
        assert (first.state, third.state) == ({}, {})
        assert second is error if told is error else type(second) is RuntimeError and second.__cause__ is error
    claims = await scribe.store.claim("w2", {"orders": 9}, NOW, 5)
    assert [claim.checkpoint.record.identity.run_id for claim in claims] == ["r0", "r2"]
    with pytest.raises(KeyError if told is error else RuntimeError):
        await scribe.store.claim("w2", {"orders": 9}, NOW, 5)
    assert (await scribe.record("r1")).head.status is RunStatus.READY


async def test_a_damaged_text_blocks_no_other_claim(scribe, path):
    """A text that SQLite itself refuses to read is damage of its run, which the claim tells beside the others."""
    for n in range(5):
        await scribe.create(f"r{n}", status=RunStatus.READY, log=log_of(1, {"n": n}))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "UPDATE log SET text = CAST(x'ff' AS TEXT) WHERE run = (SELECT run FROM runs WHERE run_id = 'r1')"
        )
        connection.commit()
    claims = await scribe.store.claim("w2", {"orders": 9}, NOW, 5)
    assert [claim.checkpoint.state["n"] for claim in claims] == [0, 2, 3, 4]
    for found in (claims, await scribe.store.claim("w2", {"orders": 9}, NOW, 5)):
        assert {run_id: type(error) for run_id, error in found.damaged.items()} == {"r1": RunDamaged}
