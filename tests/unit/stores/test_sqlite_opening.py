"""Opening a SQLite store: what is refused, with what words, and that nothing is changed by it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import sys

import pytest

from poundlock.codecs import CODEC_ID
from poundlock.errors import StoreCorrupt, StoreTooNew, StoreUnavailable, UnknownCodec
from poundlock.model.changes import Changes
from poundlock.model.modes.decisions import Load
from poundlock.model.runs import RunQuery
from poundlock.stores import open as open_url
from poundlock.stores.sqlite import SqliteStore, lock, opening, schema
from poundlock.testing.store_contract import Scribe


def contents(folder):
    """Return every file below a folder with its bytes."""
    return {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


async def refused(path, error, **options):
    """Return the sentence with which opening is refused, after checking that it changed nothing."""
    before = contents(path.parent) if path.parent.is_dir() else {}
    store = SqliteStore(path, **options)
    with pytest.raises(error) as info:
        await store.open("w1")
    assert (contents(path.parent) if path.parent.is_dir() else {}) == before
    await store.close()
    return info.value.message


def make_sqlite(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


async def make_store(path):
    store = SqliteStore(path)
    await store.open("w1")
    await Scribe(store).create()
    await store.close()


def spoil(path, table):
    """Damage the first page of a table."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        [(page, size)] = connection.execute(
            "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_master WHERE name = ?", (table,)
        )
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


# ------------------------------------------------------------------------------------------------------- refusals
async def test_a_missing_folder_is_not_made(tmp_path):
    """A path in a folder that does not exist is `StoreUnavailable`, saying what to give instead."""
    message = await refused(tmp_path / "missing" / "store.db", StoreUnavailable)
    assert message.endswith("give a path in a directory that exists and can be written to")


async def test_a_file_is_no_folder(tmp_path):
    """A path below a file is `StoreUnavailable`."""
    (tmp_path / "file").write_text("here")
    assert "Not a directory" in await refused(tmp_path / "file" / "store.db", StoreUnavailable)


async def test_a_folder_is_no_store(tmp_path):
    """The path of a folder, or none, is `StoreUnavailable`."""
    (tmp_path / "store.db").mkdir()
    assert "is a directory" in await refused(tmp_path / "store.db", StoreUnavailable)
    with pytest.raises(StoreUnavailable):
        await SqliteStore("").open("w1")


async def test_a_text_file_is_no_store(path):
    """A file that is no SQLite database is `StoreCorrupt` and stays as it is."""
    path.write_text("dear diary, " * 1_000)
    assert "give another path" in await refused(path, StoreCorrupt)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_somebody_elses_database_is_no_store(path, mode):
    """A SQLite database of another program is `StoreCorrupt`, whatever its journal mode, and stays as it is."""
    make_sqlite(path, f"PRAGMA journal_mode = {mode}", "CREATE TABLE runs (id)", "PRAGMA user_version = 1")
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="another program"):
        await SqliteStore(path).open("w1")
    assert path.read_bytes() == before


async def test_a_newer_schema_is_refused(path):
    """A store that a newer Poundlock wrote is `StoreTooNew`, naming both versions."""
    await make_store(path)
    newer = schema.SCHEMA_VERSION + 1
    make_sqlite(path, f"PRAGMA user_version = {newer}")
    message = await refused(path, StoreTooNew)
    assert f"schema {newer}, this one reads up to {schema.SCHEMA_VERSION}" in message
    assert "upgrade Poundlock" in message
    assert "upgrade Poundlock" in await refused(path, StoreTooNew, readonly=True)


async def test_an_unknown_codec_is_refused(path):
    """A store whose values another codec wrote is `UnknownCodec`; they are not guessed at."""
    await make_store(path)
    make_sqlite(path, "UPDATE meta SET value = 'msgpack/1' WHERE name = 'codec'")
    message = await refused(path, UnknownCodec)
    assert "'msgpack/1'" in message
    assert f"'{CODEC_ID}'" in message


@pytest.mark.parametrize("statement", ["DELETE FROM meta", "DROP TABLE meta"])
async def test_a_store_without_its_description_is_damaged(path, statement):
    """A store that does not say what it is is `StoreCorrupt`."""
    await make_store(path)
    make_sqlite(path, statement)
    await refused(path, StoreCorrupt)


@pytest.mark.parametrize(("start", "length"), [(16, 84), (100, 900), (0, 100)], ids=["header", "schema", "magic"])
async def test_a_damaged_file_is_refused(path, start, length):
    """A file whose first page is damaged is `StoreCorrupt`, with the way out."""
    await make_store(path)
    damaged = bytearray(path.read_bytes())
    damaged[start : start + length] = b"\xa5" * length
    path.write_bytes(damaged)
    with pytest.raises(StoreCorrupt, match="restore it from a backup, or give another path"):
        await SqliteStore(path).open("w1")
    assert path.read_bytes() == damaged


async def test_damage_that_opening_meets_is_told_and_leaves_no_lock(path):
    """Whoever opens a file whose runs cannot be read gets `StoreCorrupt`, each time: nothing is held after it."""
    store = SqliteStore(path)
    await store.open("w1")
    await Scribe(store).create()
    await Scribe(store).end()
    await store.close()
    spoil(path, "runs")
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="restore it from a backup"):
            await SqliteStore(path).open("w1")


async def test_damage_further_in_is_told_when_it_is_met(path):
    """Damage that opening does not meet is `StoreCorrupt` for whoever needs the page; the rest stays readable."""
    store = SqliteStore(path)
    await store.open("w1")
    await Scribe(store).create("whole")
    await store.close()
    spoil(path, "events")
    store = SqliteStore(path)
    await store.open("w1")
    try:
        with pytest.raises(StoreCorrupt):
            await store.checkpoint("whole")
        assert (await store.load("whole")).identity.run_id == "whole"
        with pytest.raises(StoreCorrupt):
            await Scribe(store).create("new")
    finally:
        await store.close()


# ----------------------------------------------------------------------------------------------------------- making
async def test_a_new_file_is_private(opened, path):
    """A new store's files can be read and written by their owner alone, whatever the process's umask says."""
    before = os.umask(0)
    try:
        await Scribe(await opened()).create()
    finally:
        os.umask(before)
    files = sorted(path.parent.iterdir())
    assert [file.name for file in files] == ["store.db", "store.db-shm", "store.db-wal", "store.db.lock"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_an_empty_file_becomes_a_store(opened, path):
    """An empty file is as good as none."""
    path.touch()
    await Scribe(await opened()).create()


async def test_the_file_says_what_it_is(opened, path):
    """Application id and schema version stand in the header, and what sqlite-utils applied stands in its table."""
    await opened()
    reader = sqlite3.connect(path)
    assert reader.execute("PRAGMA application_id").fetchone() == (0x504C636B,)
    assert reader.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA_VERSION,)
    assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    applied = [name for (name,) in reader.execute("SELECT name FROM _sqlite_migrations ORDER BY id")]
    assert applied[0] == "m0001_first"
    assert len({name.partition("_")[0] for name in applied}) == schema.SCHEMA_VERSION
    assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    reader.close()


async def test_closing_tidies_up(opened, path):
    """After closing everything stands in the one file; only the lock file stays."""
    store = await opened()
    await Scribe(store).create()
    await store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db.lock"]


async def test_a_url_names_the_file(path):
    """`sqlite:///` with a path opens that file; other schemes are refused."""
    store = open_url(f"sqlite:///{path}")
    await store.open("w1")
    await store.close()
    assert path.exists()
    with pytest.raises(StoreUnavailable):
        open_url("carrier-pigeon://loft")


@pytest.mark.parametrize(
    ("synchronous", "pragma", "durability"),
    [("FULL", 2, "fsynced"), ("NORMAL", 1, "committed"), ("OFF", 0, "committed")],
)
async def test_durability_is_chosen_and_told(opened, synchronous, pragma, durability):
    """`synchronous` is what the writing connection uses, and `durability` says what it means."""
    store = await opened(synchronous=synchronous)
    assert store._writer._connection.execute("PRAGMA synchronous").fetchone() == (pragma,)
    assert store.durability == durability


# ------------------------------------------------------------------------------------------------------------- lock
async def test_a_second_runtime_is_refused(opened, path):
    """A second opener, in the same process too, is told which process owns the file, and may have it afterwards."""
    store = await opened()
    message = await refused(path, StoreUnavailable)
    assert f"is in use by process {os.getpid()}: stop it first" in message
    await store.close()
    await opened()


async def test_all_names_of_a_file_share_its_lock(opened, path, monkeypatch):
    """A relative path and a link lead to the same lock as the file itself."""
    await opened()
    link = path.with_name("link.db")
    link.symlink_to(path)
    monkeypatch.chdir(path.parent)
    for name in (link, "store.db", "./link.db"):
        with pytest.raises(StoreUnavailable, match="is in use"):
            await SqliteStore(name).open("w2")


async def test_a_store_is_opened_once(opened):
    """Opening an open store again is refused and leaves it as it is."""
    store = await opened()
    with pytest.raises(StoreUnavailable, match="open already"):
        await store.open("w2")
    await Scribe(store).create()


async def test_an_opening_that_nobody_waits_for_leaves_nothing(path):
    """If whoever opens a store is cancelled, the file is free for the next one."""
    store = SqliteStore(path)
    begun = asyncio.create_task(store.open("w1"))
    await asyncio.sleep(0)  # noqa: TID251 - lets it begin
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await begun
    other = SqliteStore(path)
    while True:
        with contextlib.suppress(StoreUnavailable):  # the thread that opened it has not let go yet
            await other.open("w2")
            break
    await Scribe(other).create()
    await other.close()


# -------------------------------------------------------------------------------------------------- unopened, closed
async def test_a_store_that_is_not_open_says_so(path):
    """Reading and writing before `open` and after `close` is `StoreUnavailable`, saying what to do."""
    store = SqliteStore(path)
    with pytest.raises(StoreUnavailable, match=r"await open\(\) first"):
        await store.commit(Changes())
    await store.written_behind()
    await store.open("w1")
    await store.close()
    with pytest.raises(StoreUnavailable, match="was closed"):
        await store.commit(Changes())
    for read in (store.load("r1"), store.find(RunQuery()), store.claim("w1", {"orders": 9}, 0.0, 1)):
        with pytest.raises(StoreUnavailable, match="was closed"):
            await read
    await store.open("w1")
    await Scribe(store).create()
    await store.close()


# --------------------------------------------------------------------------------------------------------- readonly
async def test_looking_on_while_somebody_works(opened, path):
    """A store opened to be read shows what is committed, gives nobody's runs back, and takes no lock."""
    scribe = Scribe(await opened())
    await scribe.create("r1")
    await scribe.park("r2")
    await scribe.change_load(Load(active=2))
    looking = Scribe(await opened(readonly=True))
    assert looking.store.store_id == scribe.store.store_id
    assert await looking.everything() == await scribe.everything()
    assert (await looking.record("r1")).head.status == "running"
    await scribe.move("r1", stage="second")
    assert (await looking.record("r1")).head.stage == "second"
    assert (await looking.load())[0] == Load(active=2)
    event = (await scribe.store.checkpoint("r2")).event
    assert await looking.store.match_waits(event) == await scribe.store.match_waits(event)


async def test_who_only_looks_cannot_write(opened, path):
    """Writing through a store opened to be read is `StoreUnavailable`, naming the way."""
    await make_store(path)
    store = await opened(readonly=True)
    with pytest.raises(StoreUnavailable, match="ask the runtime that owns it"):
        await Scribe(store).create("r2")
    with pytest.raises(StoreUnavailable):
        await store.claim("w1", {"orders": 9}, 0.0, 1)
    await store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["store.db", "store.db.lock"]


async def test_looking_makes_nothing(path):
    """Opening to read refuses a file that is missing or empty instead of making one."""
    await refused(path, StoreUnavailable, readonly=True)
    path.touch()
    assert "run something on it first" in await refused(path, StoreUnavailable, readonly=True)


@pytest.mark.skipif(sys.platform == "win32", reason="locks there keep readers out of the locked byte")
async def test_the_lock_file_names_its_owner(opened, path):
    """While a store is open its lock file holds the owner's process id."""
    await opened()
    assert path.with_name("store.db.lock").read_text() == str(os.getpid())


async def test_a_file_that_cannot_be_made_leaves_nothing(opened, path, monkeypatch):
    """If the operating system refuses to make the file, its reason is told and the lock file goes again."""

    def refuse(_path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(opening, "create_private", refuse)
    with pytest.raises(StoreUnavailable, match=r"cannot be created \(No space left on device\)"):
        await opened()
    assert list(path.parent.iterdir()) == []


async def test_a_schema_that_cannot_be_made_leaves_nothing(opened, path, monkeypatch):
    """If making the tables fails half way, no half-made store stays behind, and the next try starts afresh."""
    whole = schema.statements

    def cut_off(script):
        yield from list(whole(script))[:5]
        yield "CREATE TABLE runs (again)"

    with monkeypatch.context() as patched:
        patched.setattr(schema, "statements", cut_off)
        with pytest.raises(StoreUnavailable):
            await opened()
    assert list(path.parent.iterdir()) == []
    await Scribe(await opened()).create()


async def test_a_file_that_cannot_be_locked_is_refused(opened, path, monkeypatch):
    """Where files cannot be locked at all, nothing would keep a second runtime out, so the first is refused as well."""

    def refuse(_descriptor):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock, "_lock", refuse)
    with pytest.raises(StoreUnavailable, match="put it on a local disk"):
        await opened()
