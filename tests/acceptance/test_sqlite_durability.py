"""What the SQLite store promises across processes: kills, locks, full disks, and a log that stays small."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from support import LAST_RESORT, unmeasured

from poundlock.errors import StoreUnavailable
from poundlock.model.runs import RunQuery
from poundlock.stores.sqlite import SqliteStore
from poundlock.testing.store_contract import Scribe

pytestmark = pytest.mark.acceptance

BEGIN = """
import asyncio, os, sys
from poundlock.errors import PoundlockError
from poundlock.model.changes import Changes
from poundlock.model.lifecycle import RunStatus
from poundlock.stores.sqlite import SqliteStore
from poundlock.testing.store_contract import Scribe, log_of, move_of, wait_of

path, arguments = sys.argv[1], sys.argv[2:]

def say(*words):
    print(*words, flush=True)
"""

# Eight workers, each with one run after another: created, moved twice, parked or ended. What is acknowledged is said.
WORKING = (
    BEGIN
    + """
async def work(scribe, name, start):
    for n in range(start, start + 10_000):
        run = f"{name}-{n}"
        await scribe.create(run, log=log_of(1, {"n": n}))
        say(run, 1)
        record = await scribe.record(run)
        for version in (1, 2):
            move = move_of(record, version=version, log=log_of(version + 1, {"at": version}))
            await scribe.store.commit(Changes(moves=(move,)))
            say(run, version + 1)
        last = {"waits": (wait_of(),), "status": RunStatus.PAUSED} if n % 2 else {"status": RunStatus.COMPLETED}
        await scribe.store.commit(Changes(moves=(move_of(record, version=3, owner=None, inbox=0, **last),)))
        say(run, 4)

async def main():
    store = SqliteStore(path)
    await store.open("w1")
    say("open")
    async with asyncio.TaskGroup() as tasks:
        for name in "abcdefgh":
            tasks.create_task(work(Scribe(store), name, int(arguments[0])))

asyncio.run(main())
"""
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.db"


@pytest.fixture
def run(path):
    """Start a script on the store's file and leave it running; it does not outlive the test.

    `measured=False` is for one that gets killed, or has no room to write down what it covered.
    """
    begun = []

    def start(script, *arguments, measured=True, **options):
        options["env"] = dict(os.environ) if measured else unmeasured()
        command = [sys.executable, "-c", script, str(path), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def ended(process):
    """Wait for a script and return the lines it printed."""
    out, err = process.communicate(timeout=LAST_RESORT)
    assert process.returncode == 0, err
    return out.splitlines()


def versions_said(lines):
    """Return the highest acknowledged version per run; a line that was cut off by the kill says nothing."""
    said = {}
    for line in lines:
        if line.endswith("\n") and line != "open\n":
            run, version = line.split()
            said[run] = max(said.get(run, 0), int(version))
    return said


async def test_what_was_acknowledged_survives_kill_nine(run, path):
    """After each of 24 SIGKILLs amid work all acknowledged commits are there, whole, and the file is sound."""
    acknowledged = {}
    for kill in range(24):
        process = run(WORKING, kill * 10_000, measured=False)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if len(lines) > 3 + 17 * kill:
                break
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        said = versions_said(lines)
        assert said
        acknowledged |= said
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    store = SqliteStore(path)
    await store.open("w2")
    for run_id, version in acknowledged.items():
        checkpoint = await store.checkpoint(run_id)
        head = checkpoint.record.head
        assert head.version >= version
        written = head.version - (1 if head.status == "ready" else 0)  # being given back is a move of its own
        assert head.log_seq == min(written, 3)
        assert checkpoint.state == {
            "n": checkpoint.state["n"],
            **({"at": head.log_seq - 1} if head.log_seq > 1 else {}),
        }
        assert len(checkpoint.record.waits) == (head.status == "paused")
    statuses = {record.head.status for record in (await store.find(RunQuery(limit=100_000))).items}
    assert statuses <= {"ready", "paused", "completed"}
    await store.close()


HOLDING = (
    BEGIN
    + """
async def main():
    store = SqliteStore(path)
    await store.open("w1")
    await Scribe(store).create()
    say("open")
    await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""
)


async def test_the_lock_dies_with_its_owner(run, path):
    """A second process is refused and told the owner's pid; once the owner is killed the file is free at once."""
    owner = run(HOLDING, measured=False)
    assert owner.stdout.readline() == "open\n"
    with pytest.raises(StoreUnavailable, match=f"in use by process {owner.pid}"):
        await SqliteStore(path).open("w2")
    looking = SqliteStore(path, readonly=True)
    await looking.open("cli")
    assert (await looking.load("r1")).head.status == "running"
    await looking.close()
    owner.kill()
    owner.wait()
    store = SqliteStore(path)
    await store.open("w2")
    assert (await store.load("r1")).head.status == "ready"
    await store.close()


async def test_a_child_of_the_owner_does_not_keep_the_lock(run, path):
    """A program that the owner started and that outlives it does not hold the file."""
    # Popen returns once the child has become the other program; right after a mere fork it would still hold everything.
    started = 'import subprocess; say(subprocess.Popen(["sleep", "60"], close_fds=False).pid)'
    owner = run(HOLDING.replace('say("open")', started), measured=False)
    child = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    try:
        store = SqliteStore(path)
        await store.open("w2")
        await store.close()
    finally:
        os.kill(child, signal.SIGKILL)


FULL = (
    BEGIN
    + """
import resource

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def attempt(scribe, run, size=10_000):
    try:
        await scribe.create(run, log=log_of(1, {"text": "x" * size}))
        return "written"
    except PoundlockError as error:
        return error.code

async def main():
    store = SqliteStore(path)
    await store.open("w1")
    scribe = Scribe(store)
    limit(1_000_000)
    for n in range(10_000):
        fates = await asyncio.gather(*(attempt(scribe, f"r{n}-{k}") for k in range(4)))
        for k, fate in enumerate(fates):
            say(f"r{n}-{k}", fate)
        if "STORE_FULL" in fates:
            break
    say("alone", await attempt(scribe, "alone", 100_000))
    say("reads", (await scribe.record("r0-0")).head.version)
    limit(resource.RLIM_INFINITY)
    fates = await asyncio.gather(*(attempt(scribe, f"after-{k}") for k in range(50)))
    say("after", *set(fates))
    await store.close()

asyncio.run(main())
"""
)


async def test_a_full_disk_loses_nothing_and_is_forgotten(run, path):
    """On a full disk commits fail typed, reads work, nothing acknowledged is lost, and with space all goes on."""
    pytest.importorskip("resource", reason="no limits on file sizes here")
    lines = [line.split() for line in ended(run(FULL))]
    fates = {words[0]: words[1] for words in lines if words[0].startswith("r") and "-" in words[0]}
    assert set(fates.values()) == {"written", "STORE_FULL"}
    assert ["alone", "STORE_FULL"] in lines
    assert ["reads", "1"] in lines
    assert ["after", "written"] in lines
    store = SqliteStore(path)
    await store.open("w2")
    for run_id, fate in fates.items():
        assert (await store.load(run_id) is not None) is (fate == "written")
    assert len((await store.find(RunQuery(text="after-", limit=100))).items) == 50
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


NO_ROOM = (
    BEGIN
    + """
import resource

async def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, resource.RLIM_INFINITY))
    try:
        await SqliteStore(path).open("w1")
    except PoundlockError as error:
        say(error.code)
    say(*os.listdir(os.path.dirname(path)))

asyncio.run(main())
"""
)


def test_a_store_that_has_no_room_is_not_half_made(run):
    """Making a store on a full disk is `StoreFull` and leaves no file behind."""
    pytest.importorskip("resource", reason="no limits on file sizes here")
    assert ended(run(NO_ROOM, measured=False)) == ["STORE_FULL", ""]


LONG = (
    BEGIN
    + """
from poundlock.model.runs import RunQuery
from poundlock.stores.sqlite import writer

writer.LOG_LIMIT = 20_000_000  # so that the test need not write as much as a server does

async def read(store, ended):
    while not ended.is_set():
        if arguments[0] == "searching":
            await store.find(RunQuery(text="not to be found"))
        else:
            await store.find(RunQuery(limit=1))
            await asyncio.sleep(0)

async def main():
    store = SqliteStore(path, synchronous="OFF")
    await store.open("w1")
    scribe = Scribe(store)
    ended = asyncio.Event()
    highest = 0
    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(read(store, ended))
        for n in range(100):
            log = log_of(1, {"text": f"{n}" * 1_000})
            await asyncio.gather(*(scribe.create(f"r{n}-{k}", log=log) for k in range(200)))
            highest = max(highest, os.path.getsize(path + "-wal"))
        ended.set()
    say(os.path.getsize(path), highest)
    await store.close()

asyncio.run(main())
"""
)


@pytest.mark.parametrize("readers", ["glancing", "searching"])
def test_the_log_stays_bounded(run, readers):
    """However much is written, the write-ahead log begins anew now and then, also if others never stop reading."""
    [line] = ended(run(LONG, readers))
    size, highest = map(int, line.split())
    # A hundred megabytes were written. The log may grow for as long as the read takes that is under way.
    assert size > 40_000_000
    assert highest < 70_000_000


FORKED = (
    BEGIN
    + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what this is about

async def main():
    store = SqliteStore(path)
    await store.open("w1")
    scribe = Scribe(store)
    await scribe.create("parent")
    child = os.fork()
    if not child:
        try:
            await scribe.create("child")
        except PoundlockError as error:
            os.write(1, f"{error.code} {error.message}\\n".encode())
        os._exit(0)
    os.waitpid(child, 0)
    await scribe.create("after")
    await store.close()
    other = SqliteStore(path)
    await other.open("w2")
    await other.close()
    say("fine")

asyncio.run(main())
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_cannot_use_its_parents_store(run):
    """In a forked child the store refuses everything instead of hanging, and the parent's goes on undisturbed."""
    refused, fine = ended(run(FORKED))
    assert refused.startswith("STORE_UNAVAILABLE")
    assert refused.endswith("was forked from: open another there")
    assert fine == "fine"


async def test_two_looks_at_one_file_agree(run, path):
    """While one process works, others see whole commits only: every run has the log that its version says."""
    process = run(WORKING, 0, measured=False)
    assert process.stdout.readline() == "open\n"
    store = SqliteStore(path, readonly=True)
    await store.open("cli")
    scribe = Scribe(store)
    for _ in range(30):
        process.stdout.readline()
        for record in (await store.find(RunQuery(limit=20))).items:
            checkpoint = await store.checkpoint(record.identity.run_id)
            assert checkpoint.record.head.log_seq == min(checkpoint.record.head.version, 3)
            assert json.dumps(checkpoint.state)
    assert len((await scribe.everything())["loads"]) == 1
    await store.close()
