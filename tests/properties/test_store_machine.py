"""The SQLite store answers and reads like the memory store, whatever is written to both.

Random units of work, good and bad, alone and many at once, go to both stores side by side; after each step everything
that can be read through the port must be equal. Load tokens are drawn by each store for itself, so they are compared
by what they are good for: a change that names one goes through in both stores or in none.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import in_parts, sqlite_error

from poundlock.clock import SystemClock
from poundlock.codecs import dump
from poundlock.errors import PoundlockError, StoreFull
from poundlock.model.buffers import Hit
from poundlock.model.changes import Changes, LoadChange, Post, Promotion, Release, Remember, Token
from poundlock.model.conditions import Condition
from poundlock.model.events import Event
from poundlock.model.lifecycle import MOVES, RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.receipts import Delivery, ReceiptLine, ReceiptRow, Verdict
from poundlock.model.runs import LOOSE, RunQuery
from poundlock.stores import MemoryStore
from poundlock.stores.sqlite import SqliteStore
from poundlock.testing.store_contract import Scribe, event_of, log_of, move_of, wait_of

RUNS = st.sampled_from("abcdefg")
KEYS = st.sampled_from([None, "", "k"])
PAIRS = [(workflow, key) for workflow in ("orders", "other") for key in ("", "k")]
TYPES = ["order.approved", "order.rejected", "order.*", "*"]
LIVE = [RunStatus.QUEUED, RunStatus.READY, RunStatus.RUNNING, RunStatus.PAUSED, RunStatus.DELAYED]

Tokens = dict[tuple[str, str], Token | None]
Unit = Callable[[Tokens], Changes]
"""Makes the changes for one store, given the load tokens of that store."""

waits = st.lists(
    st.builds(
        wait_of,
        st.sampled_from(["v", "w"]),
        st.sampled_from(TYPES),
        epoch=st.integers(1, 2),
        parked=st.booleans(),
        where=st.sampled_from([(), (Condition("n", ">", 1),)]),
        correlate=st.sampled_from([(), (("id", 1),), (("id", 2.0),)]),
    ),
    max_size=2,
    unique_by=lambda wait: wait.wait_id,
).map(tuple)
patches = st.dictionaries(st.sampled_from("xyz"), st.integers(0, 3) | st.none() | st.just({"in": 1}), max_size=2)
RELEASES = {"queued": st.booleans(), "slots": st.integers(1, 3), "owner": st.sampled_from(["w2", None])}
loads = st.builds(Load, st.integers(0, 3), st.none(), st.integers(0, 2), st.none(), st.integers(0, 2))
events = [
    Event(type, {"id": value, "n": 2}, id="probe", time=0.0)
    for type in ("order.approved", "order.shipped.late")
    for value in (1, 2, "1")
]


def _release(pair, run_id, *, queued=False, slots=2, owner="w1"):
    return Release(*pair, run_id, queued, slots, owner)


def goes_wrong(transaction: Any) -> None:
    """An operation of the writer with a bug: it shows when everything before it has been written."""
    transaction.flush()
    raise ZeroDivisionError


class FailsOnce:
    """A writer's cursor with one statement that fails, the next ones work again."""

    def __init__(self, cursor: Any, error: Exception, after: int) -> None:
        self.cursor = cursor
        self.error = error
        self.left = after

    def execute(self, statement: str, values: Any = ()) -> Any:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.cursor.execute(statement, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)


class Standing(SystemClock):
    """A clock that stands still, at the time at which a machine begins.

    By it the SQLite store prunes nothing while it has nothing to do: how long that is depends on the computer.
    """

    def now(self) -> float:
        return 1_000.0


def outcome(error: BaseException) -> Any:
    """What an error says to its reader."""
    assert isinstance(error, PoundlockError), error
    return type(error), error.message, error.fields


class Stores(RuleBasedStateMachine):
    """Two stores that must not be told apart."""

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "store.db"
        self.memory = MemoryStore()
        self.sqlite = SqliteStore(self.path, synchronous="OFF", clock=Standing())
        self.now = 1_000.0
        self.made = 0
        self.runner.run(self.memory.open("w1"))
        self.runner.run(self.sqlite.open("w1"))

    def teardown(self):
        self.runner.run(self.sqlite.close())
        self.runner.close()
        self.folder.cleanup()

    # ------------------------------------------------------------------------------------------------ both at once
    def both(self, ask: Callable[[Any], Any]) -> Any:
        """Ask both stores, and return the memory store's answer after comparing the two."""
        expected = self.runner.run(ask(self.memory))
        assert self.runner.run(ask(self.sqlite)) == expected
        return expected

    def record(self, run_id):
        return self.runner.run(self.memory.load(run_id))

    def commit(self, *units: Unit, beside: int | None = None) -> None:
        """Submit units of work at the same time to each store; they must be answered alike.

        Args:
            units: what to submit.
            beside: after how many of them something goes wrong in the writer of the SQLite store; None: it does not.
        """

        async def submit(store):
            tokens = {pair: (await store.read_loads([pair]))[0][1] for pair in PAIRS}
            commits = [Scribe(store).commit(unit(tokens)) for unit in units]
            tasks = [asyncio.ensure_future(commit) for commit in commits[:beside]]
            if beside is not None and store is self.sqlite:
                await asyncio.sleep(0)  # noqa: TID251 - those before it are submitted then
                wrong = store._writing.submit(goes_wrong)
                tasks += [asyncio.ensure_future(commit) for commit in commits[beside:]]
                with pytest.raises(ZeroDivisionError):
                    await wrong
            elif beside is not None:
                tasks += [asyncio.ensure_future(commit) for commit in commits[beside:]]
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            return [outcome(answer) if isinstance(answer, Exception) else answer for answer in answers]

        self.both(submit)

    def number(self) -> int:
        self.made += 1
        return self.made

    # ------------------------------------------------------------------------------------------------ units of work
    def creation(self, data) -> Unit:
        status = data.draw(st.sampled_from([*LIVE, RunStatus.COMPLETED]))
        run_id = data.draw(RUNS)
        parts = Scribe(self.memory).creation(
            run_id,
            status=status,
            workflow=data.draw(st.sampled_from(["orders", "other"])),
            key=data.draw(st.sampled_from([None, "K", "kä"])),
            # a run waits in the queue of a load, so it has one
            load_key=data.draw(st.sampled_from(["", "k"]) if status is RunStatus.QUEUED else KEYS),
            priority=data.draw(st.integers(-1, 1)),
            slot=data.draw(st.booleans()),
            wake_at=self.now + data.draw(st.integers(0, 3)) if status is RunStatus.DELAYED else None,
            outcome='{"result":"Done"}' if status.terminal else None,
            created_at=1_000.0 + data.draw(st.integers(0, 3)),
            # an event that shares its run's id is that run's alone
            event=event_of(
                data.draw(st.sampled_from([run_id, f"e{self.number()}"])),
                data.draw(st.sampled_from(["order.placed", "order.Späť"])),
                payload={"id": data.draw(st.integers(1, 2)), "at": Decimal("1.50")},
            ),
            log=data.draw(st.none() | patches.map(lambda patch: log_of(1, patch))),
            waits=() if status.terminal else data.draw(waits),
        )
        alone = parts.creates[0]._replace(event=parts.events[0])
        unit = alone if data.draw(st.booleans()) else parts
        return lambda _: unit

    def step(self, data, run_id) -> Unit | None:
        record = self.record(run_id)
        if record is None or record.head.status.terminal:
            return None
        head = record.head
        target = data.draw(st.sampled_from(list(MOVES[head.status])))
        wake_at = self.now + data.draw(st.integers(0, 3))
        messages = [message.seq for message in self.runner.run(self.memory.inbox(run_id, 0))]
        move = move_of(
            record,
            status=target,
            owner="w1" if target is RunStatus.RUNNING else None,
            new_epoch=head.epoch + (target is RunStatus.RUNNING and head.status is not RunStatus.RUNNING),
            stage=data.draw(st.sampled_from(["first", "second", None])),
            attempt=data.draw(st.integers(1, 2)),
            wake_at=wake_at if target in (RunStatus.PAUSED, RunStatus.DELAYED) else None,
            outcome='{"result":null}' if target.terminal else None,
            slot=data.draw(st.booleans()) and not target.terminal,
            updated_at=self.now,
            log=data.draw(st.none() | patches.map(lambda patch: log_of(head.log_seq + 1, patch, None))),
            waits=None if target.terminal else data.draw(st.none() | waits),
            consumed=tuple(data.draw(st.sets(st.sampled_from(messages)))) if messages else (),
            snapshot=data.draw(st.none() | patches.map(dump)),
            visits=data.draw(st.sampled_from([None, None, '"first"', '{"first":2}'])),
            inbox=data.draw(st.sampled_from([None, head.inbox_seq, head.inbox_seq, head.inbox_seq + 1])),
        )
        wrong = data.draw(st.sampled_from(["", "", "", "", "version", "epoch"]))
        if wrong:
            move = move._replace(**{wrong: getattr(move, wrong) + 7})
        identity = record.identity
        leaves = identity.load_key is not None and data.draw(st.booleans())
        pair = (identity.workflow_id, identity.load_key)
        release = data.draw(st.builds(_release, st.just(pair), st.just(run_id), **RELEASES)) if leaves else None
        if release is None and target in (RunStatus.RUNNING, RunStatus.READY) and data.draw(st.booleans()):
            move = move._replace(slot=identity.load_key is not None, slots=data.draw(st.integers(0, 3)))
        unit = move._replace(release=release)
        alone = data.draw(st.booleans())
        return lambda _: unit if alone else Changes(moves=(unit,), now=self.now)

    def mixture(self, data) -> Unit:
        """One of everything, sometimes: what admitting an event writes."""
        ref = data.draw(st.sampled_from(["e", f"{LOOSE}e"])) + str(self.number())
        line = ReceiptLine(Verdict.BUFFERED, "orders", None, None, "wait")
        targets = data.draw(st.lists(st.tuples(RUNS, st.sampled_from(["v", "w"]), st.integers(1, 2)), max_size=3))
        owner = data.draw(st.sampled_from(["w2", None]))
        slots = data.draw(st.integers(0, 3))
        deliveries = tuple(Delivery(run, (Hit(wait, epoch),), ref, owner, line, slots) for run, wait, epoch in targets)
        promotions = data.draw(st.lists(st.sampled_from(PAIRS), max_size=1))
        kinds = st.sampled_from(["signal", "abort"])
        posts = data.draw(st.lists(st.builds(Post, RUNS, kinds, patches, st.just(self.now)), max_size=2).map(tuple))
        pairs = data.draw(st.lists(st.sampled_from(PAIRS), max_size=2, unique=True))
        wanted = [(pair, data.draw(loads), data.draw(st.booleans())) for pair in pairs]
        leaving = data.draw(
            st.lists(st.builds(_release, st.sampled_from(PAIRS), RUNS, **RELEASES), max_size=2).map(tuple)
        )
        fresh = Token(self.number(), 0)
        expires = self.now + data.draw(st.integers(1, 3))
        scopes = data.draw(st.sets(st.sampled_from(["", "orders/placed"])))
        remember = tuple(Remember("/shop", "same", scope, ref, None, expires) for scope in sorted(scopes))
        creation = data.draw(st.none() | st.just(1)) and in_parts(self.creation(data)({}))

        def unit(tokens: Tokens) -> Changes:
            changes = []
            for pair, load, right in wanted:
                token = tokens[pair]
                changes.append(LoadChange(*pair, token if right else Token(0, 0), load, fresh))
            return Changes(
                creates=creation.creates if creation else (),
                events=(*(creation.stored_events() if creation else ()), event_of(ref, "order.approved")),
                loads=tuple(changes),
                releases=leaving,
                promotions=tuple(Promotion(*pair, slots, owner) for pair in promotions),
                remember=remember,
                deliveries=deliveries,
                posts=posts,
                receipt=ReceiptRow("/shop", "same", self.now, (line,)),
                now=self.now,
            )

        return unit

    # -------------------------------------------------------------------------------------------------------- rules
    @initialize(data=st.data())
    def begin(self, data):
        """Start with something to work on."""
        self.commit(*(self.creation(data) for _ in range(4)))

    @rule(data=st.data())
    def create(self, data):
        self.commit(self.creation(data))

    @rule(data=st.data(), run_id=RUNS)
    def move(self, data, run_id):
        unit = self.step(data, run_id)
        if unit is not None:
            self.commit(unit)

    @rule(data=st.data())
    def admit(self, data):
        self.commit(self.mixture(data))

    @rule(data=st.data(), runs=st.lists(RUNS, min_size=1, max_size=6))
    def many(self, data, runs):
        """Several units at once, also of one run: in a batch they are applied one after another."""
        units = [self.step(data, run_id) for run_id in runs]
        units += [self.creation(data) for _ in range(data.draw(st.integers(0, 3)))]
        units += [self.mixture(data) for _ in range(data.draw(st.integers(0, 2)))]
        units = data.draw(st.permutations([unit for unit in units if unit is not None]))
        self.commit(*units, beside=data.draw(st.none() | st.integers(0, len(units))))

    @rule(data=st.data(), run_id=RUNS, full=st.booleans(), after=st.integers(1, 12))
    def fail(self, data, run_id, full, after):
        """A statement fails: on a full disk nothing of the unit is written, after any other error it is tried again."""
        unit = data.draw(st.sampled_from([self.step(data, run_id), self.creation(data), self.mixture(data)]))
        if unit is None:
            return
        writer = self.sqlite._writer
        cursor = writer._cursor
        error = sqlite_error("SQLITE_FULL") if full else sqlite3.ProgrammingError("odd")
        writer._cursor = FailsOnce(cursor, error, after)

        async def submit(store):
            tokens = {pair: (await store.read_loads([pair]))[0][1] for pair in PAIRS}
            try:
                return await Scribe(store).commit(unit(tokens))
            except PoundlockError as refused:
                return outcome(refused)

        answer = self.runner.run(submit(self.sqlite))
        writer._cursor = cursor
        if not (full and type(answer) is tuple and answer[0] is StoreFull):
            assert self.runner.run(submit(self.memory)) == answer

    @rule(
        workflows=st.lists(st.sampled_from(["orders", "other"]), unique=True),
        limit=st.integers(1, 4),
        slots=st.integers(0, 4),
    )
    def claim(self, workflows, limit, slots):
        known = dict.fromkeys(workflows, slots)
        claims = self.both(lambda store: store.claim("w3", known, self.now, limit))
        assert len(claims) <= limit

    @rule(seconds=st.integers(1, 3))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    @precondition(lambda self: self.made > 6)
    def reopen(self):
        """Another runtime takes over."""
        self.runner.run(self.sqlite.close())
        self.sqlite = SqliteStore(self.path, synchronous="OFF", clock=Standing())
        self.both(lambda store: store.open("w1"))

    # --------------------------------------------------------------------------------------------------- invariants
    @invariant()
    def all_reads_are_equal(self):
        async def read(store):
            scribe = Scribe(store)
            seen = await scribe.everything(PAIRS, ["same"])
            del seen["stats"]["events"]  # one that nobody needs any more goes at once, or by and by
            seen["loads"] = [(load, token is None) for load, token in seen["loads"]]
            seen["due"] = [await store.next_due(workflows) for workflows in (["orders"], ["other", "orders"])]
            seen["waiting"] = [await store.match_waits(event) for event in events]
            return seen

        self.both(read)

    @invariant()
    def counts_are_exact(self):
        """What is counted with each commit is what a count of all rows gives."""
        with closing(sqlite3.connect(f"{self.path.as_uri()}?mode=ro", uri=True)) as connection:
            [(events,)] = connection.execute(
                "SELECT (SELECT count(*) FROM events) + (SELECT count(event) FROM log)"
                " + (SELECT count(event) FROM inbox)"
            )
            assert connection.execute("SELECT name FROM counts WHERE count < 0").fetchall() == []
        assert self.runner.run(self.sqlite.stats())["events"] == events

    @rule(
        status=st.lists(st.sampled_from(list(RunStatus)), max_size=3).map(tuple),
        workflow=st.sampled_from([None, "orders"]),
        key=st.sampled_from([None, "K"]),
        text=st.sampled_from([None, "KÄ", "done", "PLACED", "a"]),
        since=st.sampled_from([None, 1_001.0]),
        limit=st.integers(1, 3),
    )
    def list_runs(self, status, workflow, key, text, since, limit):
        """Both give the same pages."""
        cursor, pages = None, 0
        while pages == 0 or cursor is not None:
            query = RunQuery(workflow, status, key, text, since, None, limit, cursor)
            cursor = self.both(lambda store, query=query: store.find(query)).next_cursor
            pages += 1


TestStores = Stores.TestCase
# Shrinking a failure here takes minutes; what failed can be repeated by the printed blob.
TestStores.settings = settings(max_examples=40, stateful_step_count=25, phases=[Phase.explicit, Phase.generate])
