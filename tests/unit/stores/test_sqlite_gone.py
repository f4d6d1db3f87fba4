"""A store's file that is deleted, moved or replaced while the store is open: nothing is acknowledged any more."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest

from poundlock import StoreUnavailable, Workflow, WorkflowRuntime
from poundlock.stores.sqlite import SqliteStore
from poundlock.stores.sqlite.pruning import PASS_EVERY
from poundlock.testing.store_contract import NOW, Scribe


def delete(path):
    path.unlink()


def delete_all(path):
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()


def move(path):
    path.rename(path.with_name("elsewhere.db"))


def replace_by_a_copy(path):
    copy = path.with_name("copy.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.replace(path)


def delete_the_log(path):
    path.with_name(f"{path.name}-wal").unlink()


def replace_the_log(path):
    log = path.with_name(f"{path.name}-wal")
    copy = shutil.copy(log, f"{log}.copy")
    log.unlink()
    shutil.move(copy, log)


WAYS = [delete, delete_all, move, replace_by_a_copy, delete_the_log, replace_the_log]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_no_commit_is_acknowledged_once_the_file_is_gone(opened, path, way):
    """The first commit after it is refused, and so are all others and all reads; the error says what to do."""
    store = await opened()
    scribe = Scribe(store)
    await scribe.create("r1")
    way(path)
    for run_id in ("r2", "r3"):
        with pytest.raises(StoreUnavailable, match="start again"):
            await scribe.create(run_id)
    with pytest.raises(StoreUnavailable, match="start again"):
        await store.load("r1")
    with pytest.raises(StoreUnavailable, match="start again"):
        await store.claim("w1", {"w": 9}, NOW, 10)


async def test_who_opens_the_path_next_is_not_disturbed(opened, path):
    """A new store made at the path keeps what it acknowledges, also when the old one is closed after it began."""
    old = await opened()
    await Scribe(old).create("r1")
    delete_all(path)
    new = SqliteStore(path)
    await new.open("w2")
    await Scribe(new).create("r2")
    await old.close()
    await Scribe(new).create("r3")
    await new.close()
    again = await opened()
    assert await again.load("r1") is None
    assert {(await again.load(run_id)).identity.run_id for run_id in ("r2", "r3")} == {"r2", "r3"}


async def test_a_reader_does_not_mix_two_files(opened, path):
    """A store that only reads says that the file was replaced, instead of reading on in what nobody else sees."""
    store = await opened()
    await Scribe(store).create("r1")
    reading = await opened(readonly=True)
    assert await reading.load("r1") is not None
    replace_by_a_copy(path)
    with pytest.raises(StoreUnavailable, match="replaced"):
        await reading.load("r1")


async def test_pruning_stops_as_well(opened, path):
    """What is cleared away in quiet moments is not written into a file that is gone either."""
    store = await opened()
    store._writer._now = lambda: NOW + 10 * PASS_EVERY
    delete(path)
    assert store._writer.idle() is None
    with pytest.raises(StoreUnavailable):
        await Scribe(store).create("r1")


async def test_a_runtime_says_so(path):
    """`emit` raises instead of giving a receipt for what would be lost."""
    wf = Workflow("w")

    @wf.on("go")
    @wf.step
    async def work():
        return None

    async with WorkflowRuntime(wf, store=f"sqlite:///{path}") as rt:
        [run] = await (await rt.emit("go")).results()
        assert run.status == "completed"
        delete(path)
        with pytest.raises(StoreUnavailable, match="deleted or moved"):
            await rt.emit("go")
