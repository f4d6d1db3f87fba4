"""The promises of every store, as tests: for the built-in stores and for custom ones.

```python
class TestMyStore(StoreContract):
    @pytest.fixture
    def store_factory(self):
        return MyFactory()
```

A factory creates stores, not opened yet, that all use the same data; `crash` ends one of them like a killed process.
House rules: the tests use only the port, so they check what is visible from outside. Each test's docstring is the
promise. The tests are async: pytest-asyncio runs them with `asyncio_mode = auto`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import pytest

from poundlock.codecs import dump
from poundlock.errors import (
    HoldMoved,
    InboxAhead,
    InvalidEvent,
    KeysTaken,
    LeaseLost,
    LoadMoved,
    NotStorable,
    OutboxMoved,
    PoundlockError,
    RunExists,
    RunFinished,
    RunNotFound,
    ScheduleMoved,
    StaleVersion,
    UnknownCodec,
    WaitMoved,
)
from poundlock.marks import DELETE
from poundlock.model.buffers import Hit, WaitRules
from poundlock.model.changes import (
    WITH_ITS_RUN,
    Changes,
    Committed,
    LoadChange,
    Post,
    Promotion,
    Release,
    Remember,
    RunCreate,
    RunDelete,
    RunMove,
    Token,
    Work,
)
from poundlock.model.conditions import Condition
from poundlock.model.events import Event
from poundlock.model.holds import ALL, HeldEvent, Hold, HoldChange, HoldKey
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes.decisions import Load
from poundlock.model.operator_pause import WorkflowPause
from poundlock.model.outbox import HeldBy, Letter, OutboxMark, OutboxMove, OutboxQuery, OutboxRow, Outgoing, Refused
from poundlock.model.priorities import rank
from poundlock.model.receipts import Delivered, Delivery, Fate, ReceiptLine, ReceiptRow, Rewrite, Verdict
from poundlock.model.retention import EndedRun
from poundlock.model.runs import (
    LOOSE,
    NEEDS_SLOT,
    OPERATOR_WAIT,
    LogRow,
    RunHead,
    RunIdentity,
    RunQuery,
    RunRecord,
    StoredEvent,
    WaitRow,
    own_row,
)
from poundlock.model.schedules import ScheduleMove, ScheduleRow
from poundlock.model.waits import wait_keys
from poundlock.ports import Store

__all__ = ["Scribe", "StoreContract", "StoreFactory"]

QUEUED, READY, RUNNING = RunStatus.QUEUED, RunStatus.READY, RunStatus.RUNNING
PAUSED, DELAYED, COMPLETED = RunStatus.PAUSED, RunStatus.DELAYED, RunStatus.COMPLETED

NOW: Final = 1_000.0
DAY: Final = 86_400.0
FIRST: Final = Token(7, 0)  # the token of a load that was set once


class StoreFactory(Protocol):
    """Creates stores that use the same data."""

    def __call__(self) -> Store:
        """Return a store that is not opened yet."""

    async def crash(self, store: Store) -> None:
        """End an open store as a killed process would, so that the next one can be opened."""


# ------------------------------------------------------------------------------------------- what a runtime writes
def event_of(ref: str, type: str = "order.placed", payload: Any = None, **fields: Any) -> StoredEvent:
    """Return an accepted event; its id is its reference."""
    fields = {"id": ref.strip(), "time": NOW, "source": "/shop", **fields}
    return StoredEvent(ref, Event(type, {"id": 1} if payload is None else payload, **fields))


def log_of(first_seq: int, *patches: Any, time: float = NOW) -> LogRow:
    """Return the log of a commit with one entry per patch; None for an entry without one."""
    entries = [[time, "state", "state:patch", "main", None, patch] for patch in patches]
    return LogRow(first_seq, len(entries), dump(entries))


def wait_of(
    wait_id: str = "approval",
    *events: str,
    epoch: int = 1,
    parked: bool = True,
    where: Sequence[Condition] = (),
    correlate: Iterable[tuple[str, Any]] = (),
    expires_at: float | None = None,
    patch: Any = None,
    rules: WaitRules | None = None,
) -> WaitRow:
    """Return an armed wait."""
    types = events or ("order.approved",)
    pairs = tuple(correlate)
    keys = wait_keys(types, pairs)
    of_wait = (wait_id, epoch, parked, types, tuple(where), pairs, "ship", "fail", expires_at, patch, keys)
    return WaitRow(*of_wait, rules=rules)


def outgoing_of(*ids: str) -> tuple[Outgoing, ...]:
    """Return events for the outbox, by their ids."""
    events = [event_of(event_id, "order.shipped", {"n": event_id}).event for event_id in ids]
    return tuple([Outgoing(event, dump(event.payload)) for event in events])


def held_of(event_id: str, initial: str | None = None, **event: Any) -> HeldEvent:
    """Return an event to be held."""
    made = event_of(event_id, "order.placed", event.pop("payload", {"n": event_id}), **event).event
    return HeldEvent(made, dump(made.payload), "key", initial)


def move_of(record: RunRecord, **changes: Any) -> RunMove:
    """Return a move that changes only the given fields."""
    head = record.head
    move = RunMove(
        record.identity.run_id,
        head.version,
        head.epoch,
        None,
        head.status,
        head.owner,
        head.epoch,
        head.stage,
        head.attempt,
        head.wake_at,
        head.outcome,
        head.slot,
        NOW,
    )
    return move._replace(**changes)


class Scribe:
    """Writes what a runtime would write, and reads all there is.

    Args:
        store: an opened store.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    async def commit(self, work: Work) -> Committed:
        """Commit a unit of work; errors come when this is awaited, whatever the store does."""
        return await self.store.commit(work)

    async def create(self, run_id: str = "r1", **options: Any) -> Committed:
        """Commit a new run; options are those of `creation`."""
        return await self.commit(self.creation(run_id, **options))

    def creation(
        self,
        run_id: str = "r1",
        *,
        status: RunStatus = RUNNING,
        owner: str | None = "w1",
        workflow: str = "orders",
        key: str | None = None,
        load_key: str | None = None,
        priority: int = 0,
        slot: bool = False,
        wake_at: float | None = None,
        outcome: str | None = None,
        visits: str | None = None,
        created_at: float = NOW,
        event: StoredEvent | None = None,
        parent: str | None = None,
        log: LogRow | None = None,
        waits: tuple[WaitRow, ...] = (),
        **rest: Any,
    ) -> Changes:
        """Return the changes that create a run: running and owned by default."""
        event = event or event_of(f"e-{run_id}")
        identity = RunIdentity(
            run_id,
            workflow,
            "placed",
            "main",
            "hash",
            key,
            load_key,
            priority,
            parent,
            () if parent is None else (parent,),
            created_at,
            event.ref,
        )
        start = RunMove(
            run_id=run_id,
            version=0,
            epoch=1,
            inbox=None,
            status=status,
            owner=owner if status is RUNNING else None,
            new_epoch=1,
            stage="first",
            attempt=1,
            wake_at=wake_at,
            outcome=outcome,
            slot=slot,
            updated_at=created_at,
            log=log,
            waits=waits,
            visits=visits,
        )
        return Changes(creates=(RunCreate(identity, start),), events=(event,), now=NOW, **rest)

    async def move(self, run_id: str = "r1", *, rest: dict[str, Any] | None = None, **changes: Any) -> Committed:
        """Move a run in its current version; `rest` are further parts, which make it Changes."""
        move = move_of(await self.record(run_id), **changes)
        return await self.commit(move if rest is None else Changes(moves=(move,), **{"now": NOW, **rest}))

    async def park(self, run_id: str = "r1", *waits: WaitRow, **changes: Any) -> None:
        """Create a run and park it."""
        if await self.store.load(run_id) is None:
            await self.create(run_id)
        parked = {"status": PAUSED, "owner": None, "waits": waits or (wait_of(),), **changes}
        await self.move(run_id, **parked)

    async def end(self, run_id: str = "r1") -> None:
        """Complete a run."""
        await self.move(run_id, status=COMPLETED, owner=None, outcome='{"result":1}', wake_at=None)

    async def deliver(
        self,
        ref: str,
        *targets: tuple[str, str, int],
        owner: str | None = "w2",
        now: float = NOW,
        slots: int = 9,
    ) -> tuple[Delivered, ...]:
        """Deliver a new event to (run, wait, epoch) targets and return the result of each."""
        line = ReceiptLine(Verdict.BUFFERED, "orders")
        deliveries = tuple(Delivery(run, (Hit(wait, epoch),), ref, owner, line, slots) for run, wait, epoch in targets)
        event = event_of(ref, "order.approved")
        return (await self.commit(Changes(events=(event,), deliveries=deliveries, now=now))).delivered

    async def hold(
        self,
        key: str = "",
        *events: str,
        expect: int | None = None,
        token: int = 1,
        due_at: float = NOW + 5,
        workflow: str = "orders",
        clear: int = 0,
        **hold: Any,
    ) -> HoldKey:
        """Put a hold of this key, and events into it, one commit each; the tokens grow by one."""
        name = HoldKey(workflow, "placed", key)
        for event_id in events or (None,):
            add = None if event_id is None else held_of(event_id)
            put = Hold(hold.get("kind", "batch"), NOW, hold.get("size", 1), due_at, token, hold.get("last"))
            await self.commit(Changes(holds=(HoldChange(name, expect, put, clear, add),), now=NOW))
            expect, token = token, token + 1
        return name

    async def read_hold(self, key: HoldKey) -> Hold | None:
        """Return a hold."""
        [found] = await self.store.read_holds([key])
        return found

    async def held(self, key: HoldKey, limit: int = 100) -> list[str]:
        """Return the ids of the events in a hold."""
        return [row.event.id for row in await self.store.held_events(key, limit)]

    async def outbox(self, **query: Any) -> list[OutboxRow]:
        """Return rows of the outbox."""
        return await self.store.outbox(OutboxQuery(**query))

    async def mark(self, row: OutboxRow, *mark: Any) -> None:
        """Change a row of the outbox; without a mark it is deleted."""
        move = OutboxMove(row.seq, row.version, OutboxMark(*mark) if mark else None)
        await self.commit(Changes(outbox=(move,), now=NOW))

    async def time_passes(self, now: float) -> None:
        """Make some commits at a time, for a store that prunes with its commits."""
        for _ in range(60):
            await self.commit(Changes(receipt=ReceiptRow("/time", "passes", now, ()), now=now))

    async def change_load(self, load: Load, *, pair: tuple[str, str] = ("orders", "")) -> Committed:
        """Set a load, with its next token."""
        [(_, token)] = await self.store.read_loads([pair])
        following = Token(7, 0) if token is None else Token(7, token.turn + 1)
        return await self.commit(Changes(loads=(LoadChange(*pair, token, load, following),), now=NOW))

    async def release(
        self,
        run_id: str = "r0",
        *,
        pair: tuple[str, str] = ("orders", ""),
        queued: bool = False,
        slots: int = 1,
        owner: str | None = "w1",
    ) -> tuple[str, ...]:
        """Remove a run from its load, and return the promoted runs."""
        release = Release(*pair, run_id, queued, slots, owner)
        return (await self.commit(Changes(releases=(release,), now=NOW))).promoted

    async def ended(self, limit: int = 100) -> list[EndedRun]:
        """Return all ended runs, page after page."""
        found: list[EndedRun] = []
        cursor: str | None = None
        while True:
            page = await self.store.ended(cursor, limit)
            found += page.items
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def delete(self, *run_ids: str, **rest: Any) -> Committed:
        """Delete ended runs as they are now."""
        records = [await self.record(run_id) for run_id in run_ids]
        deletes = tuple(RunDelete(record.identity.run_id, record.head.version) for record in records)
        return await self.commit(Changes(deletes=deletes, now=NOW, **rest))

    async def prune(self, now: float, limit: int = 5) -> tuple[int, int]:
        """Prune until there is nothing left to look at; returns how many receipts and keys were deleted."""
        begin, receipts, remembered = True, 0, 0
        for _ in range(1000):
            pruned = await self.store.prune(now, limit, begin=begin)
            begin = False
            receipts += pruned.receipts
            remembered += pruned.remembered
            if pruned.done:
                return receipts, remembered
        raise AssertionError("pruning does not come to an end")

    async def record(self, run_id: str = "r1") -> RunRecord:
        """Return the record of a run that exists."""
        record = await self.store.load(run_id)
        assert record is not None
        return record

    async def state(self, run_id: str = "r1") -> dict[str, Any]:
        """Return the state of a run that exists."""
        checkpoint = await self.store.checkpoint(run_id)
        assert checkpoint is not None
        return checkpoint.state

    async def load(self, pair: tuple[str, str] = ("orders", "")) -> tuple[Load, Token | None]:
        """Return one load and its token."""
        [found] = await self.store.read_loads([pair])
        return found

    async def everything(
        self, pairs: Sequence[tuple[str, str]] = (("orders", ""),), receipts: Sequence[str] = ()
    ) -> dict[Any, Any]:
        """Return all that can be read through the port, so that two moments can be compared."""
        store = self.store
        records = (await store.find(RunQuery(limit=1_000))).items
        passing = ("commits", "syncs", "bytes")
        stats = {name: count for name, count in (await store.stats()).items() if name not in passing}
        seen: dict[Any, Any] = {"stats": stats, "loads": await store.read_loads(pairs)}
        seen["outbox"] = [await self.outbox(dead=dead) for dead in (False, True)]
        seen["schedules"] = await store.schedules("orders")
        seen["holds"] = await store.due_holds(["orders", "kinds"], 100)
        for _, key in seen["holds"]:
            seen[key] = (await self.read_hold(key), await store.held_events(key, 100))
        seen["pauses"] = await store.pauses()
        for record in records:
            run_id = record.identity.run_id
            seen[run_id] = (await store.checkpoint(run_id), await store.history(run_id), await store.inbox(run_id, 0))
        for ref in receipts:
            seen["receipt", ref] = await store.receipt("/shop", ref)
        return seen


PAUSED_ORDERS: Final = WorkflowPause("orders", "queue", "deployment", "api", NOW - 1 / 3)
SCHEDULED: Final = ScheduleRow("cron 0 6 * * * Europe/Berlin", NOW - 1 / 3)
"""The row of a time trigger."""
DELAYED_LINE: Final = ReceiptLine(Verdict.DELAYED, "orders", "placed", None, "batch")
STARTED_LINE: Final = ReceiptLine(Verdict.STARTED, "orders", "placed", "r9")


def letter_of(event_id: str) -> Letter:
    """Return the dead letter of an event that was held."""
    held = held_of(event_id)
    return Letter(held.event, held.text, HeldBy("orders", "placed", "key", True), "{}", NOW)


REFUSALS: Final[dict[str, tuple[dict[str, Any], type[PoundlockError]]]] = {
    "the run exists": ({"creates": ("taken",)}, RunExists),
    "old version": ({"moves": {"version": 9}}, StaleVersion),
    "other epoch": ({"moves": {"epoch": 9}}, LeaseLost),
    "unseen messages": ({"moves": {"inbox": 9}}, InboxAhead),
    "no run to move": ({"moves": {"run_id": "unknown"}}, RunNotFound),
    "load is not idle": ({"expect": None}, LoadMoved),
    "load has changed": ({"expect": Token(7, 9)}, LoadMoved),
    "key is known": ({"remember": "e-known"}, KeysTaken),
    "wait armed again": ({"wait_epoch": 2}, WaitMoved),
    "no run to post to": ({"posts": "unknown"}, RunNotFound),
    "post to an ended run": ({"posts": "ended"}, RunFinished),
    "outbox row has changed": ({"outbox": 9}, OutboxMoved),
    "no run to delete": ({"deletes": RunDelete("unknown", 1)}, RunNotFound),
    "run to delete has not ended": ({"deletes": RunDelete("mover", 2)}, StaleVersion),
    "run to delete has changed": ({"deletes": RunDelete("ended", 1)}, StaleVersion),
    "schedule has changed": ({"schedule": ScheduleRow("cron * * * * * UTC", 1.0)}, ScheduleMoved),
    "hold has changed": ({"hold": 9}, HoldMoved),
    "there is a hold": ({"hold": None}, HoldMoved),
    "body is not data": ({"body": {"x": object()}}, NotStorable),
}
"""Each condition of a change, broken alone: what is different, and the error it is refused with."""


class StoreContract:
    """Inherit, define a `store_factory` fixture, and let pytest find the tests."""

    @pytest.fixture
    async def scribe(self, store_factory: StoreFactory) -> AsyncIterator[Scribe]:
        """Writes to an open store, which is closed after the test."""
        store = store_factory()
        await store.open("w1")
        yield Scribe(store)
        await store.close()

    # ---------------------------------------------------------------------------------------- creating and moving
    async def test_a_created_run_reads_back_as_it_was_written(self, scribe: Scribe) -> None:
        """`load`, `checkpoint`, `history` and `inbox` of a new run return what was committed."""
        wait = wait_of(
            "w",
            "a.b",
            "a.*",
            parked=False,
            where=(Condition("n", ">", 3), Condition("who", "exists")),
            correlate=(("id", 12), ("who", "Zoë")),
            expires_at=NOW + 5.5,
            patch={"x": [1, {"y": None}]},
        )
        event = event_of("e1", payload={"id": 7, "ü": [1.5, True, None]}, key="k", headers={"traceparent": "00-ab"})
        identity = RunIdentity("r1", "wf", None, "main", "h", "k", "lk", 3, "p", ("root", "p"), NOW + 0.25, "e1")
        head = RunHead(RUNNING, 1, "w1", 2, "second", 5, None, None, True, 0, 2, NOW + 0.5)
        log = log_of(1, {"a": 1}, {"b": {"c": 2}})
        start = RunMove(
            "r1", 0, 2, None, RUNNING, "w1", 2, "second", 5, None, None, True, NOW + 0.5, log=log, waits=(wait,)
        )
        await scribe.commit(RunCreate(identity, start, event))
        checkpoint = await scribe.store.checkpoint("r1")
        assert checkpoint is not None
        assert checkpoint.record == RunRecord(identity, head, (wait,)) == await scribe.store.load("r1")
        assert checkpoint.state == {"a": 1, "b": {"c": 2}}
        assert (checkpoint.event, checkpoint.inbox) == (event.event, ())
        assert await scribe.store.history("r1") == [log]
        assert await scribe.store.inbox("r1", 0) == []

    async def test_a_boundary_is_a_unit_of_work_by_itself(self, scribe: Scribe) -> None:
        """A creation and a move are committed alone just as within Changes, with all they carry, or are refused."""
        [create] = scribe.creation("r1", load_key="", slot=True, log=log_of(1, {"a": 1})).creates
        event = event_of("e-r1")
        assert await scribe.commit(create._replace(event=event)) == Committed()
        [twin] = scribe.creation("r2", load_key="", slot=True, log=log_of(1, {"a": 1}), event=event).creates
        await scribe.commit(Changes(creates=(twin,), events=(event,), now=NOW))
        for run_id in ("r1", "r2"):
            move = move_of(
                await scribe.record(run_id),
                stage="next",
                log=log_of(2, {"b": 2}),
                waits=(wait_of(),),
                snapshot='{"s":3}',
            )
            alone = run_id == "r1"
            assert await scribe.commit(move if alone else Changes(moves=(move,), now=NOW)) == Committed()
            with pytest.raises(StaleVersion):
                await scribe.commit(move if alone else Changes(moves=(move,), now=NOW))
        with pytest.raises(RunExists):
            await scribe.commit(create._replace(event=event))
        with pytest.raises(RunNotFound):
            await scribe.commit(move._replace(run_id="unknown"))
        first, second = await scribe.store.checkpoint("r1"), await scribe.store.checkpoint("r2")
        assert first is not None
        assert second is not None
        same = first.record.identity._replace(run_id="r2")
        assert first._replace(record=first.record._replace(identity=same)) == second
        assert first.state == {"s": 3}
        assert [run.identity.run_id for run in await scribe.store.match_waits(event_of("x", "order.approved").event)]
        assert await scribe.store.history("r1") == await scribe.store.history("r2")

    async def test_reads_that_are_asked_for_together_are_answered_each(self, scribe: Scribe) -> None:
        """However many reads a store does at once, each caller gets its own run, as if it had asked alone."""
        shared, waits = event_of("shared"), (wait_of(parked=False),)
        for n in range(70):
            run_id = f"r{n}"
            log = log_of(1, {"n": n}, {"m": n})
            await scribe.create(run_id, log=log, event=shared if n % 3 else event_of(run_id), waits=waits)
            await scribe.move(run_id, log=log_of(3, {"n": -n}), snapshot=None if n % 2 else f'{{"n":{-n},"m":{n}}}')
            if n % 5 == 0:
                await scribe.deliver(f"e{n}", (run_id, "approval", 1))
                await scribe.deliver(f"f{n}", (run_id, "approval", 1))
        await scribe.end("r7")
        asked = [*(f"r{n}" for n in range(70)), "unknown", "r8", "r8"]
        alone = [await scribe.store.checkpoint(run_id) for run_id in asked]
        together = await asyncio.gather(*map(scribe.store.checkpoint, asked))
        assert together == alone
        states = [checkpoint.state for checkpoint in together if checkpoint is not None]
        assert states == [{"n": -n, "m": n} for n in [*range(70), 8, 8]]
        assert len({id(state) for state in states}) == len(states)
        assert [len(checkpoint.inbox) for checkpoint in together[:6] if checkpoint is not None] == [2, 0, 0, 0, 0, 2]
        statuses = await asyncio.gather(*map(scribe.store.status, asked))
        expected = [None if each is None else each.record.head.status for each in alone]
        assert statuses == expected
        assert statuses[6:9] == [RUNNING, COMPLETED, RUNNING]

    async def test_unknown_runs_and_events_read_as_nothing(self, scribe: Scribe) -> None:
        """Reading what does not exist returns None or an empty list, not an error."""
        store = scribe.store
        assert await store.load("unknown") is None
        assert await store.status("unknown") is None
        assert await store.checkpoint("unknown") is None
        assert await store.history("unknown") == []
        assert await store.inbox("unknown", 0) == []
        assert await store.receipt("/shop", "nothing") is None
        assert await store.next_due(["orders"]) is None
        assert (await store.find(RunQuery())).items == []

    async def test_a_move_changes_what_it_names(self, scribe: Scribe) -> None:
        """A move writes its fields, appends its log, and the version grows by one."""
        await scribe.create(log=log_of(1, {"a": 1}))
        before = await scribe.record()
        log = log_of(2, {"b": 2}, None)
        await scribe.move(stage="second", attempt=2, updated_at=NOW + 1, log=log)
        head = (await scribe.record()).head
        assert head == RunHead(RUNNING, 2, "w1", 1, "second", 2, None, None, False, 0, 3, NOW + 1)
        assert (await scribe.record()).identity == before.identity
        assert await scribe.store.history("r1") == [log_of(1, {"a": 1}), log]

    async def test_visits_are_kept_until_a_move_names_others(self, scribe: Scribe) -> None:
        """Visit counts are written by the moves that have them; other moves and a claim do not change them."""
        await scribe.create("r1")
        await scribe.create("r2", visits='{"first":1}')
        seen = []
        for changes in (
            {"stage": "second"},
            {"visits": '"second"'},
            {"stage": "third", "log": log_of(1, {"a": 1})},
            {"status": PAUSED, "owner": None, "waits": (wait_of(),)},
            {"status": RUNNING, "owner": "w1", "new_epoch": 2, "visits": '{"second":2}'},
            {"status": DELAYED, "owner": None, "wake_at": NOW},
        ):
            await scribe.move("r1", **changes)
            await scribe.move("r2", **changes)
            records = [await scribe.record(run) for run in ("r1", "r2")]
            seen.append([record.head.visits for record in records])
        assert seen == [
            [None, '{"first":1}'],
            ['"second"', '"second"'],
            ['"second"', '"second"'],
            ['"second"', '"second"'],
            ['{"second":2}', '{"second":2}'],
            ['{"second":2}', '{"second":2}'],
        ]
        claims = await scribe.store.claim("w2", {"orders": 9}, NOW, 5)
        assert {claim.checkpoint.record.head.visits for claim in claims} == {'{"second":2}'}
        await scribe.end("r1")
        assert (await scribe.record("r1")).head.visits == '{"second":2}'

    async def test_boundaries_with_and_without_visits_go_together(self, scribe: Scribe) -> None:
        """Of many concurrent boundaries each writes its own counts, or does not change them."""
        texts = [None, '"first"', '{"first":3}']
        for number in range(12):
            await scribe.create(f"r{number:02}", visits=texts[number // 4])
        records = [await scribe.record(f"r{number:02}") for number in range(12)]
        moves = [move_of(record, stage="on", visits=texts[number % 3]) for number, record in enumerate(records)]
        await asyncio.gather(*(scribe.commit(Changes(moves=(move,), now=NOW)) for move in moves))
        after = [(await scribe.record(f"r{number:02}")).head.visits for number in range(12)]
        assert after == [texts[number % 3] or texts[number // 4] for number in range(12)]

    async def test_a_move_without_log_keeps_the_sequence(self, scribe: Scribe) -> None:
        """Without a log row the run's log sequence is unchanged."""
        await scribe.create(log=log_of(1, {"a": 1}, None))
        await scribe.move(stage="second")
        assert (await scribe.record()).head.log_seq == 2

    async def test_the_end_clears_inbox_and_waits(self, scribe: Scribe) -> None:
        """A run that has ended has no messages and no waits, and no event matches it; its log is kept."""
        await scribe.create(waits=(wait_of(parked=False),), log=log_of(1, {"a": 1}))
        await scribe.deliver("e2", ("r1", "approval", 1))
        await scribe.end()
        record = await scribe.record()
        assert (record.head.status, record.head.outcome, record.waits) == (COMPLETED, '{"result":1}', ())
        assert await scribe.store.inbox("r1", 0) == []
        assert await scribe.store.match_waits(event_of("e3", "order.approved").event) == []
        assert await scribe.state() == {"a": 1}
        assert (await scribe.store.stats())["waits"] == 0

    async def test_an_ended_run_may_go_on(self, scribe: Scribe) -> None:
        """A move makes a run `ready` that has ended: with its log, event and state; it is claimed like any other."""
        await scribe.create(log=log_of(1, {"a": 1}))
        await scribe.end()
        ended = await scribe.record()
        move = move_of(ended, status=READY, owner=None, new_epoch=2, outcome=None, attempt=2, log=log_of(2, {"b": 2}))
        await scribe.commit(move._replace(waits=(wait_of(parked=False),)))
        head = (await scribe.record()).head
        assert (head.status, head.outcome, len((await scribe.record()).waits)) == (READY, None, 1)
        [claim] = await scribe.store.claim("w2", {"orders": 9}, NOW, 10)
        checkpoint = claim.checkpoint
        assert (checkpoint.state, claim.recovered, checkpoint.record.head.attempt) == ({"a": 1, "b": 2}, False, 2)
        with pytest.raises(LeaseLost):
            await scribe.commit(move)
        assert (await scribe.store.stats()).get("completed", 0) == 0

    async def test_one_unit_of_work_may_create_and_move_many(self, scribe: Scribe) -> None:
        """Several creations and moves of different runs are one commit."""
        await scribe.create("r1")
        await scribe.create("r2")
        parts = [scribe.creation("r3"), scribe.creation("r4")]
        records = [await scribe.record("r1"), await scribe.record("r2")]
        await scribe.commit(
            Changes(
                creates=tuple(create for part in parts for create in part.creates),
                events=tuple(event for part in parts for event in part.events),
                moves=tuple(move_of(record, stage="second") for record in records),
            )
        )
        assert [(await scribe.record(run)).head.version for run in ("r1", "r2", "r3", "r4")] == [2, 2, 1, 1]

    async def test_what_was_read_is_a_copy(self, scribe: Scribe) -> None:
        """Changing an object that the store returned does not change the store."""
        await scribe.create(log=log_of(1, {"a": {"b": 1}}))
        record, state = await scribe.record(), await scribe.state()
        record.head.stage = "elsewhere"
        state["a"]["b"] = 2
        (await scribe.store.history("r1")).clear()
        assert (await scribe.record()).head.stage == "first"
        assert await scribe.state() == {"a": {"b": 1}}
        assert len(await scribe.store.history("r1")) == 1

    async def test_what_was_written_belongs_to_the_store(self, scribe: Scribe) -> None:
        """A commit does not change its arguments, and keeps no object that the caller could change later."""
        changes = scribe.creation(waits=(wait_of(parked=False),))
        await scribe.commit(changes)
        body = {"a": [1]}
        await scribe.commit(Changes(posts=(Post("r1", "signal", body, NOW),)))
        await scribe.move(stage="second")
        head = changes.creates[0].head
        assert (head.version, head.inbox_seq, head.stage) == (1, 0, "first")
        head.stage = "elsewhere"
        body["a"].append(2)
        assert (await scribe.record()).head.stage == "second"
        assert (await scribe.store.inbox("r1", 0))[0].body == {"a": [1]}

    # --------------------------------------------------------------------------------------------------- refusals
    async def test_a_move_of_an_old_version_is_stale(self, scribe: Scribe) -> None:
        """A move with another version than the stored one is refused with `StaleVersion`."""
        await scribe.create()
        await scribe.move()
        for version in (1, 3):
            with pytest.raises(StaleVersion):
                await scribe.move(version=version)

    async def test_a_move_of_another_epoch_has_lost_its_lease(self, scribe: Scribe) -> None:
        """A move with another epoch is refused with `LeaseLost`, for any version."""
        await scribe.create()
        for version in (1, 2):
            with pytest.raises(LeaseLost):
                await scribe.move(version=version, epoch=2)

    async def test_stopping_is_refused_while_messages_are_unseen(self, scribe: Scribe) -> None:
        """A move with an inbox sequence raises `InboxAhead` if there are newer messages; others are written."""
        await scribe.create()
        await scribe.commit(Changes(posts=(Post("r1", "signal", {}, NOW),)))
        with pytest.raises(InboxAhead):
            await scribe.move(status=PAUSED, owner=None, inbox=0)
        await scribe.move(stage="second")
        await scribe.move(status=PAUSED, owner=None, inbox=1)
        assert (await scribe.record()).head.status is PAUSED

    async def test_a_run_id_is_taken_once(self, scribe: Scribe) -> None:
        """Creating a run whose id exists is refused with `RunExists`, also after its end."""
        await scribe.create()
        with pytest.raises(RunExists) as refused:
            await scribe.create(event=event_of("e2"))
        assert refused.value.fields["run_id"] == "r1"
        await scribe.end()
        with pytest.raises(RunExists):
            await scribe.create(event=event_of("e2"))
        assert (await scribe.store.stats())["events"] == 1

    async def test_all_of_a_move_is_written(self, scribe: Scribe) -> None:
        """A move between two stages may also change owner, attempt, wake time and outcome."""
        await scribe.create()
        changes: dict[str, Any] = {
            "owner": "w9",
            "stage": "second",
            "attempt": 3,
            "wake_at": NOW + 5,
            "outcome": '{"result":1}',
        }
        await scribe.move(**changes)
        head = (await scribe.record()).head
        assert {name: getattr(head, name) for name in changes} == changes

    async def test_moving_an_unknown_run_is_refused(self, scribe: Scribe) -> None:
        """A move of an unknown run is refused with `RunNotFound`."""
        await scribe.create()
        move = move_of(await scribe.record())._replace(run_id="unknown")
        with pytest.raises(RunNotFound):
            await scribe.commit(Changes(moves=(move,)))

    async def test_a_post_may_go_to_a_run_of_the_same_commit(self, scribe: Scribe) -> None:
        """A message to a run that the same changes create is the first in its inbox."""
        changes = scribe.creation("r1")
        changes.posts = (Post("r1", "signal", {"a": 1}, NOW),)
        assert (await scribe.store.commit(changes)).posted == (1,)
        [message] = await scribe.store.inbox("r1", 0)
        assert (message.seq, message.kind, message.body) == (1, "signal", {"a": 1})

    async def test_posts_go_to_runs_that_live(self, scribe: Scribe) -> None:
        """A message to an unknown run raises `RunNotFound`, to an ended run `RunFinished`."""
        await scribe.create()
        await scribe.end()
        with pytest.raises(RunNotFound):
            await scribe.commit(Changes(posts=(Post("unknown", "signal", {}, NOW),)))
        with pytest.raises(RunFinished) as refused:
            await scribe.commit(Changes(posts=(Post("r1", "abort", {}, NOW),)))
        assert refused.value.fields["status"] == "completed"

    @pytest.mark.parametrize("case", REFUSALS)
    async def test_a_refused_change_writes_nothing(self, scribe: Scribe, case: str) -> None:
        """If one condition does not hold, no part is written; if it holds, all parts are written."""
        refused, by = REFUSALS[case]
        await scribe.create("taken")
        await scribe.create("mover")
        await scribe.move("mover", outgoing=outgoing_of("o-sent"))
        [sent] = await scribe.outbox()
        await scribe.create("ended")
        await scribe.end("ended")
        await scribe.park("parked")
        await scribe.create("queued", status=QUEUED, load_key="")
        await scribe.change_load(Load(active=1, queued=1))
        held = await scribe.hold("", "h1")
        await scribe.commit(Changes(receipt=ReceiptRow("/shop", "h1", NOW, (DELAYED_LINE,)), now=NOW))
        await scribe.commit(Changes(remember=(Remember("/shop", "e-known", "", "f", None, NOW + 9),), now=NOW))
        mover = await scribe.record("mover")
        await scribe.create("over")
        await scribe.end("over")
        over = (await scribe.record("over")).head.version

        def unit(
            *,
            creates: Sequence[str] = ("new",),
            moves: dict[str, Any] | None = None,
            expect: Token | None = FIRST,
            remember: str = "e-new",
            wait_epoch: int = 1,
            posts: str = "mover",
            body: Any = None,
            outbox: int = 1,
            deletes: RunDelete | None = None,
            schedule: ScheduleRow | None = None,
            hold: int | None = 1,
        ) -> Changes:
            made = [scribe.creation(run_id) for run_id in creates]
            line = ReceiptLine(Verdict.BUFFERED, "orders")
            return Changes(
                creates=tuple(create for part in made for create in part.creates),
                events=(*(event for part in made for event in part.events), event_of("e-new", "order.approved")),
                moves=(
                    move_of(
                        mover,
                        stage="second",
                        log=log_of(1, {"a": 1}),
                        waits=(wait_of(),),
                        outgoing=outgoing_of("o-new"),
                        **(moves or {}),
                    ),
                ),
                outbox=(OutboxMove(sent.seq, outbox),),
                schedules=(ScheduleMove("orders", "cron", schedule, SCHEDULED),),
                holds=(HoldChange(held, hold, None),),
                rewrites=(Rewrite("/shop", "h1", STARTED_LINE),),
                letters=(letter_of("h1"),),
                loads=(LoadChange("orders", "", expect, Load(active=1, queued=1), Token(7, 1)),),
                releases=(Release("orders", "", "r0", False, 1, "w1"),),
                remember=(Remember("/shop", remember, "", "f", None, NOW + 9),),
                deliveries=(Delivery("parked", (Hit("approval", wait_epoch),), "e-new", "w1", line),),
                posts=(Post(posts, "signal", {} if body is None else body, NOW),),
                receipt=ReceiptRow("/shop", "e-new", NOW, ()),
                deletes=(deletes or RunDelete("over", over),),
                paused=(PAUSED_ORDERS,),
                now=NOW,
            )

        before = await scribe.everything(receipts=["e-new", "h1"])
        with pytest.raises(by):
            await scribe.commit(unit(**refused))
        assert await scribe.everything(receipts=["e-new", "h1"]) == before
        committed = await scribe.commit(unit())
        assert committed == Committed(("queued",), (Delivered(Fate.RESUMED, 1),), (1,))
        assert [row.event.id for row in await scribe.outbox()] == ["o-new"]
        assert await scribe.store.schedules("orders") == {"cron": SCHEDULED}
        assert (await scribe.read_hold(held), scribe.store.holding, scribe.store.undelivered) == (None, 0, (1, 1))
        assert await scribe.store.receipt("/shop", "h1") == (STARTED_LINE,)
        assert await scribe.store.pauses() == [PAUSED_ORDERS]

    # ---------------------------------------------------------------------------------------------------- holds
    async def test_holds_and_their_events_are_read_as_written(self, scribe: Scribe) -> None:
        """A hold has its events in order, whole; it is found by its key, and what is not there is None."""
        assert (scribe.store.holding, await scribe.read_hold(HoldKey("orders", "placed", ""))) == (0, None)
        key = HoldKey("orders", "placed", "a")
        event = held_of("h1", '{"a":1}', payload={"deep": [{"a": None}]}, key="k", headers={"trace": "ab"})
        put = Hold("debounce", NOW + 0.25, 3, NOW + 1 / 3, 2**61 + 1, ("/shop", "h1"))
        await scribe.commit(Changes(holds=(HoldChange(key, None, put, 0, event),), now=NOW))
        assert await scribe.store.read_holds([HoldKey("orders", "placed", "b"), key]) == [None, put]
        [row] = await scribe.store.held_events(key, 10)
        assert row[1:] == (event.event, "key", '{"a":1}')
        await scribe.hold("b", "h2", "h3", "h4")
        assert await scribe.held(HoldKey("orders", "placed", "b")) == ["h2", "h3", "h4"]
        assert await scribe.held(HoldKey("orders", "placed", "b"), 2) == ["h2", "h3"]
        stats = await scribe.store.stats()
        assert (stats["holds"], stats["held"], scribe.store.holding) == (2, 4, 2)

    async def test_events_leave_a_hold_one_by_one_or_with_it(self, scribe: Scribe) -> None:
        """What is cleared is gone, what came later stays; without a hold there are no events; counts follow."""
        key = await scribe.hold("", "h1", "h2", "h3")
        second = (await scribe.store.held_events(key, 10))[1].seq
        await scribe.hold("", "h4", expect=3, token=4, clear=second)
        assert await scribe.held(key) == ["h3", "h4"]
        await scribe.hold("", "h5", expect=4, token=5, clear=ALL)
        assert await scribe.held(key) == ["h5"]
        assert (await scribe.store.stats())["held"] == 1
        await scribe.commit(Changes(holds=(HoldChange(key, 5, None),), now=NOW))
        assert (await scribe.held(key), await scribe.read_hold(key), scribe.store.holding) == ([], None, 0)
        stats = await scribe.store.stats()
        assert (stats.get("holds", 0), stats.get("held", 0)) == (0, 0)

    async def test_of_many_changes_of_one_hold_one_wins(self, scribe: Scribe) -> None:
        """A change that is based on another state of the hold is refused, also among changes submitted at once."""
        key = await scribe.hold("", "h1")
        changes = [scribe.hold("", f"w{n}", expect=1, token=n) for n in range(2, 10)]
        done = await asyncio.gather(*changes, return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["HoldKey"] + ["HoldMoved"] * 7
        assert len(await scribe.held(key)) == 2

    async def test_what_ends_first_is_found_for_each_workflow(self, scribe: Scribe) -> None:
        """The earliest ends come, up to a number of each workflow that is asked for, also those that were moved."""
        for number in range(5):
            await scribe.hold(f"a{number}", due_at=NOW + 10 - number)
            await scribe.hold(f"b{number}", due_at=NOW + number, workflow="bills")
            await scribe.hold(f"c{number}", due_at=NOW, workflow="others")
        due = sorted(await scribe.store.due_holds(["orders", "bills", "unknown"], 2))
        assert [(when, key.key) for when, key in due] == [
            (NOW, "b0"),
            (NOW + 1, "b1"),
            (NOW + 6, "a4"),
            (NOW + 7, "a3"),
        ]
        await scribe.hold("a4", due_at=NOW + 20, expect=1, token=2)
        await scribe.commit(Changes(holds=(HoldChange(HoldKey("orders", "placed", "a3"), 1, None),), now=NOW))
        due = sorted(await scribe.store.due_holds(["orders"], 9))
        assert [(when, key.key) for when, key in due] == [
            (NOW + 8, "a2"),
            (NOW + 9, "a1"),
            (NOW + 10, "a0"),
            (NOW + 20, "a4"),
        ]
        assert await scribe.store.due_holds([], 9) == []

    async def test_a_line_of_a_receipt_is_rewritten(self, scribe: Scribe) -> None:
        """The line of the same trigger is replaced, the others stay; a receipt that is gone begins again."""
        other = ReceiptLine(Verdict.FILTERED, "bills", "placed", None, "no")
        key = await scribe.hold("", "h1")
        both = ReceiptRow("/shop", "h1", NOW, (other, DELAYED_LINE))
        rewrites = (Rewrite("/shop", "h1", STARTED_LINE), Rewrite("/shop", "gone", STARTED_LINE))
        await scribe.commit(Changes(receipt=both, now=NOW))
        await scribe.commit(Changes(holds=(HoldChange(key, 1, None),), rewrites=rewrites, now=NOW))
        assert await scribe.store.receipt("/shop", "h1") == (other, STARTED_LINE)
        assert await scribe.store.receipt("/shop", "gone") == (STARTED_LINE,)
        assert (await scribe.store.stats())["receipts"] == 2
        await scribe.commit(Changes(rewrites=(Rewrite("/shop", "gone", DELAYED_LINE),), now=NOW))
        assert await scribe.store.receipt("/shop", "gone") == (DELAYED_LINE,)

    async def test_a_rewritten_receipt_is_kept_anew(self, scribe: Scribe) -> None:
        """A receipt that was rewritten can be read for as long as one that is written at that time."""
        key = await scribe.hold("", "h1")
        await scribe.commit(Changes(receipt=ReceiptRow("/shop", "h1", NOW, (DELAYED_LINE,)), now=NOW))
        later = NOW + 6 * DAY
        rewrites = (Rewrite("/shop", "h1", STARTED_LINE),)
        await scribe.commit(Changes(holds=(HoldChange(key, 1, None),), rewrites=rewrites, now=later))
        await scribe.time_passes(NOW + 9 * DAY)
        assert await scribe.store.receipt("/shop", "h1") == (STARTED_LINE,)

    async def test_what_was_held_can_become_a_dead_letter(self, scribe: Scribe) -> None:
        """Such a letter names the trigger and the partition, and is changed and deleted like the others."""
        await scribe.create("r1")
        await scribe.move("r1", outgoing=outgoing_of("o1"))
        key = await scribe.hold("", "h1")
        letter = letter_of("h1")
        await scribe.commit(Changes(holds=(HoldChange(key, 1, None),), letters=(letter,), now=NOW))
        [row] = await scribe.outbox(dead=True)
        assert (row.run_id, row.event, row.attempts, row.error, row.dead_at) == ("", letter.event, 1, "{}", NOW)
        assert row.held_by == HeldBy("orders", "placed", "key", True)
        assert scribe.store.undelivered == (1, 1)
        await scribe.mark(row, False, 0)
        [due] = await scribe.outbox(run_id="")
        assert (due.held_by, due.version, due.dead_at, due.seq) == (row.held_by, 2, None, row.seq)
        await scribe.mark(due)
        assert scribe.store.undelivered == (1, 0)

    async def test_holds_outlive_their_owner(self, store_factory: StoreFactory) -> None:
        """After a crash the next owner finds the holds, their events and when they end."""
        store = store_factory()
        await store.open("w1")
        scribe = Scribe(store)
        key = await scribe.hold("", "h1", "h2", last=("/shop", "h2"))
        before = (await scribe.read_hold(key), await store.held_events(key, 9), await store.due_holds(["orders"], 9))
        await store_factory.crash(store)
        store = store_factory()
        await store.open("w2")
        scribe = Scribe(store)
        assert (
            await scribe.read_hold(key),
            await store.held_events(key, 9),
            await store.due_holds(["orders"], 9),
        ) == before
        assert store.holding == 1
        await store.close()

    # -------------------------------------------------------------------------------------------------- the outbox
    async def test_events_leave_with_the_boundary_of_their_run(self, scribe: Scribe) -> None:
        """What moves and creations have outgoing is in the outbox, whole, in the order of the commits."""
        assert (await scribe.outbox(), scribe.store.undelivered) == ([], (0, 0))
        event = event_of("o1", "kinds.*", {"deep": [{"a": None}], "n": 0.1}, key="k", headers={"trace": "ab"}).event
        await scribe.create("r1")
        await scribe.move("r1", outgoing=(Outgoing(event, dump(event.payload)), *outgoing_of("o2")))
        await scribe.create("r2")
        record = RunRecord((await scribe.record("r1")).identity._replace(run_id="r3"), (await scribe.record()).head, ())
        start = move_of(record, version=0, outgoing=outgoing_of("o3"))._replace(run_id="r3")
        await scribe.commit(RunCreate(record.identity, start))
        await scribe.move("r2", outgoing=outgoing_of("o4"), rest={})
        rows = await scribe.outbox()
        assert [(row.event.id, row.run_id) for row in rows] == [("o1", "r1"), ("o2", "r1"), ("o3", "r3"), ("o4", "r2")]
        assert rows[0].event == event
        assert [row.seq for row in rows] == sorted({row.seq for row in rows})
        assert {row[3:8] for row in rows} == {(1, False, 0, None, None)}
        assert scribe.store.undelivered == (4, 0)
        stats = await scribe.store.stats()
        assert (stats["outbox"], stats.get("dead_letters", 0)) == (4, 0)

    async def test_the_outbox_is_read_by_run_and_in_portions(self, scribe: Scribe) -> None:
        """Rows of one run, or of all, come by number, after one and up to a limit."""
        await scribe.create("r1")
        await scribe.create("r2")
        for number in range(3):
            await scribe.move("r1", outgoing=outgoing_of(f"a{number}"))
            await scribe.move("r2", outgoing=outgoing_of(f"b{number}"))
        rows = await scribe.outbox()
        assert [row.event.id for row in rows] == ["a0", "b0", "a1", "b1", "a2", "b2"]
        assert await scribe.outbox(limit=2) == rows[:2]
        assert await scribe.outbox(after=rows[1].seq, limit=3) == rows[2:5]
        assert await scribe.outbox(run_id="r2") == rows[1::2]
        assert await scribe.outbox(run_id="r2", after=rows[1].seq, limit=1) == [rows[3]]
        assert await scribe.outbox(run_id="unknown") == []

    async def test_a_delivered_row_is_gone(self, scribe: Scribe) -> None:
        """A delivery deletes its row, once: a second one, or one of an old version, is refused."""
        await scribe.create("r1")
        await scribe.move("r1", outgoing=outgoing_of("o1", "o2"))
        first, second = await scribe.outbox()
        await scribe.mark(first)
        assert await scribe.outbox() == [second]
        for stale in (first, second._replace(version=2), second._replace(seq=second.seq + 1)):
            with pytest.raises(OutboxMoved):
                await scribe.mark(stale)
        assert (await scribe.outbox(), scribe.store.undelivered) == ([second], (1, 0))

    async def test_exactly_one_of_many_deliveries_wins(self, scribe: Scribe) -> None:
        """Of deliveries of one row that are submitted at once, one is written."""
        await scribe.create("r1")
        await scribe.move("r1", outgoing=outgoing_of("o1"))
        [row] = await scribe.outbox()
        done = await asyncio.gather(*(scribe.mark(row) for _ in range(8)), return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["NoneType"] + ["OutboxMoved"] * 7
        assert scribe.store.undelivered == (0, 0)

    async def test_a_number_is_not_used_again(self, scribe: Scribe) -> None:
        """A row has a larger number than all before it, also if those are gone."""
        await scribe.create("r1")
        numbers = []
        for _ in range(3):
            await scribe.move("r1", outgoing=outgoing_of("o1"))
            [row] = await scribe.outbox()
            numbers.append(row.seq)
            await scribe.mark(row)
        assert numbers == sorted(set(numbers))

    async def test_a_row_may_be_marked(self, scribe: Scribe) -> None:
        """What a failed delivery has come to is kept, and the row stays in its place."""
        await scribe.create("r1")
        await scribe.move("r1", outgoing=outgoing_of("o1", "o2"))
        first, second = await scribe.outbox()
        await scribe.mark(first, True, 3, '{"message":"no"}')
        marked = first._replace(version=2, admitted=True, attempts=3, error='{"message":"no"}')
        assert await scribe.outbox() == [marked, second]
        assert await scribe.outbox(run_id="r1", limit=1) == [marked]
        with pytest.raises(OutboxMoved):
            await scribe.mark(first)

    async def test_dead_letters_are_apart_and_come_back(self, scribe: Scribe) -> None:
        """A dead letter is not delivered, and counted; replayed, it is in its place again, before later events."""
        await scribe.create("r1")
        await scribe.create("r2")
        await scribe.move("r1", outgoing=outgoing_of("o1", "o2"))
        await scribe.move("r2", outgoing=outgoing_of("o3"))
        first, second, third = await scribe.outbox()
        await scribe.mark(first, False, 1, "{}", NOW)
        await scribe.mark(third, False, 1, "{}", NOW + 1)
        assert await scribe.outbox() == await scribe.outbox(run_id="r1") == [second]
        dead = await scribe.outbox(dead=True)
        assert [(row.seq, row.dead_at) for row in dead] == [(first.seq, NOW), (third.seq, NOW + 1)]
        assert await scribe.outbox(dead=True, run_id="r2") == [dead[1]]
        assert await scribe.outbox(dead=True, after=first.seq, limit=5) == [dead[1]]
        stats = await scribe.store.stats()
        assert ((stats["outbox"], stats["dead_letters"]), scribe.store.undelivered) == ((1, 2), (1, 2))
        await scribe.mark(dead[0], False, 0)
        assert [row.seq for row in await scribe.outbox(run_id="r1")] == [first.seq, second.seq]
        assert [row.seq for row in await scribe.outbox()] == [first.seq, second.seq]
        await scribe.mark(dead[1])
        assert scribe.store.undelivered == (2, 0)

    async def test_what_a_wait_refused_is_a_dead_letter_at_once(self, scribe: Scribe) -> None:
        """An event that leaves as refused is a dead letter with its error, beside those that are to be delivered."""
        await scribe.create()
        event = event_of("e2", "order.approved", {"by": 1}).event
        error = dump({"type": "ValueError", "message": "no", "code": None, "wait": "approval"})
        await scribe.move(outgoing=(*outgoing_of("o1"), Refused(event, dump(event.payload), error)))
        [due] = await scribe.outbox()
        [dead] = await scribe.outbox(dead=True)
        assert (due.event.id, dead.event, dead.run_id, dead.error) == ("o1", event, "r1", error)
        assert (dead.dead_at, dead.attempts, scribe.store.undelivered) == (NOW, 0, (1, 1))
        await scribe.mark(dead, False, 0, error)
        assert [row.event.id for row in await scribe.outbox()] == ["o1", "e2"]
        assert scribe.store.undelivered == (2, 0)

    async def test_the_outbox_outlives_runs_and_owners(self, store_factory: StoreFactory) -> None:
        """After the end of its run and a crash, an event is still in the outbox, as a dead letter is."""
        store, scribe = await self._opened(store_factory)
        await scribe.create("r1")
        await scribe.move("r1", outgoing=outgoing_of("o1", "o2"))
        await scribe.move("r1", status=COMPLETED, owner=None, outgoing=outgoing_of("o3"))
        await scribe.mark((await scribe.outbox())[0], False, 9, "{}", NOW)
        before = [await scribe.outbox(dead=dead) for dead in (False, True)]
        await store_factory.crash(store)
        store, scribe = await self._opened(store_factory)
        assert [await scribe.outbox(dead=dead) for dead in (False, True)] == before
        assert ([row.event.id for row in before[0]], store.undelivered) == (["o2", "o3"], (2, 1))
        await store.close()

    # ------------------------------------------------------------------------------------------------ pending hooks
    async def test_hooks_are_pending_from_an_end_until_they_were_called(self, scribe: Scribe) -> None:
        """They are listed per workflow, in the order of the ends, until they were called; a refused end adds none."""
        for run_id in ("r1", "r2", "r3"):
            await scribe.create(run_id)
        await scribe.create("o1", workflow="other")
        for run_id in ("r2", "o1", "r1"):
            await scribe.move(run_id, status=COMPLETED, owner=None, rest={"hooks": (run_id,)})
        stale = move_of(await scribe.record("r3"), status=COMPLETED, owner=None)._replace(version=9)
        with pytest.raises(StaleVersion):
            await scribe.commit(Changes(moves=(stale,), hooks=("r3",), now=NOW))
        assert await scribe.store.pending_hooks("orders") == ["r2", "r1"]
        await scribe.store.hooks_called(["r2", "unknown"])
        assert await scribe.store.pending_hooks("orders") == ["r1"]
        assert await scribe.store.pending_hooks("other") == ["o1"]
        assert await scribe.store.pending_hooks("nothing") == []

    async def test_pending_hooks_outlive_their_owner(self, store_factory: StoreFactory) -> None:
        """They are pending after a crash; those that were called are not, once a later commit is durable."""
        store, scribe = await self._opened(store_factory)
        for run_id in ("r1", "r2"):
            await scribe.create(run_id)
            await scribe.move(run_id, status=COMPLETED, owner=None, rest={"hooks": (run_id,)})
        await store.hooks_called(["r1"])
        await scribe.create("later")
        await store_factory.crash(store)
        store, scribe = await self._opened(store_factory)
        assert await store.pending_hooks("orders") == ["r2"]
        await store.hooks_called(["r2"])
        await store.close()
        store, scribe = await self._opened(store_factory)
        assert await store.pending_hooks("orders") == []
        await store.close()

    # --------------------------------------------------------------------------------------------------- schedules
    async def test_the_row_of_a_time_trigger_is_changed_by_who_has_read_it(self, scribe: Scribe) -> None:
        """A row is written where there was none, and changed by whoever names it as it is; a workflow has its own."""
        later = SCHEDULED._replace(upto=SCHEDULED.upto + 1 / 3)

        async def change(expect: ScheduleRow | None, row: ScheduleRow, workflow_id: str = "orders") -> None:
            await scribe.commit(Changes(schedules=(ScheduleMove(workflow_id, "cron", expect, row),), now=NOW))

        await change(None, SCHEDULED)
        await change(None, later, "other")
        with pytest.raises(ScheduleMoved):
            await change(None, later)
        with pytest.raises(ScheduleMoved):
            await change(later, SCHEDULED)
        await change(SCHEDULED, later)
        assert await scribe.store.schedules("orders") == {"cron": later}
        other = later._replace(rule="every 60.0")
        await change(later, other)
        moves = tuple(ScheduleMove("orders", name, None, SCHEDULED) for name in ("a", "b"))
        await scribe.commit(Changes(schedules=moves, now=NOW))
        assert await scribe.store.schedules("orders") == {"cron": other, "a": SCHEDULED, "b": SCHEDULED}
        assert await scribe.store.schedules("other") == {"cron": later}
        assert await scribe.store.schedules("nothing") == {}

    async def test_one_of_several_changes_of_a_schedule_wins(self, scribe: Scribe) -> None:
        """Of two that name the same row, also in one batch, one is written and the other is refused."""
        rows = [SCHEDULED._replace(upto=float(number)) for number in range(8)]
        moves = [Changes(schedules=(ScheduleMove("orders", "cron", None, row),), now=NOW) for row in rows]
        done = await asyncio.gather(*(scribe.commit(move) for move in moves), return_exceptions=True)
        assert sorted(type(each).__name__ for each in done if each is not None) == ["Committed"] + ["ScheduleMoved"] * 7
        assert await scribe.store.schedules("orders") == {"cron": rows[0]}

    async def test_schedules_outlive_their_owner(self, store_factory: StoreFactory) -> None:
        """The row of a time trigger says after a crash what was committed."""
        store, scribe = await self._opened(store_factory)
        await scribe.commit(Changes(schedules=(ScheduleMove("orders", "cron", None, SCHEDULED),), now=NOW))
        await store_factory.crash(store)
        store, scribe = await self._opened(store_factory)
        assert await store.schedules("orders") == {"cron": SCHEDULED}
        await store.close()

    # ----------------------------------------------------------------------------------------------------- pauses
    async def test_workflows_are_paused_and_unpaused(self, scribe: Scribe) -> None:
        """A workflow has one pause, the latest; taking away one that is not there does nothing."""
        everything = WorkflowPause("", "reject", "", "cli", NOW)
        assert await scribe.store.pauses() == []
        await scribe.commit(Changes(paused=(PAUSED_ORDERS, everything), now=NOW))
        assert await scribe.store.pauses() == [everything, PAUSED_ORDERS]
        later = PAUSED_ORDERS._replace(incoming="reject", reason="closed", since=NOW)
        await scribe.commit(Changes(paused=(later,), unpaused=("",), now=NOW))
        assert await scribe.store.pauses() == [later]
        await scribe.commit(Changes(unpaused=("orders", "nothing"), now=NOW))
        assert await scribe.store.pauses() == []

    async def test_pauses_outlive_their_owner(self, store_factory: StoreFactory) -> None:
        """A workflow that was paused before a crash is paused after it."""
        store, scribe = await self._opened(store_factory)
        await scribe.commit(Changes(paused=(PAUSED_ORDERS,), now=NOW))
        await store_factory.crash(store)
        store, scribe = await self._opened(store_factory)
        assert await store.pauses() == [PAUSED_ORDERS]
        await store.close()

    async def test_a_run_that_an_operator_has_paused_is_not_woken(self, scribe: Scribe) -> None:
        """An event for a run that has the row of an operator's pause is buffered; the run is unchanged."""
        row = own_row(OPERATOR_WAIT, epoch=1, on_timeout="resume", patch={"holds": {}})
        await scribe.park("r1", wait_of(), row)
        before = (await scribe.record()).head
        assert await scribe.deliver("e2", ("r1", "approval", 1)) == (Delivered(Fate.BUFFERED, 1),)
        assert (await scribe.record()).head == replace(before, inbox_seq=1)
        assert await scribe.store.claim("w2", {"orders": 9}, NOW, 10) == []

    async def test_a_run_of_a_paused_workflow_is_due_at_once(self, scribe: Scribe) -> None:
        """An event that is held buffers what it would resume; the run is due then, in a new version, at its wait."""
        await scribe.park("r1", wait_of(expires_at=NOW + 60), wake_at=NOW + 60)
        version = (await scribe.record()).head.version
        line = ReceiptLine(Verdict.BUFFERED, "orders", None, "r1")
        held = Delivery("r1", (Hit("approval", 1),), "e2", "w1", line, held=True)
        stored = event_of("e2", "order.approved")
        committed = await scribe.commit(Changes(events=(stored,), deliveries=(held,), now=NOW + 1))
        assert committed == Committed((), (Delivered(Fate.BUFFERED, 1),), ())
        head = (await scribe.record()).head
        assert (head.status, head.version, head.wake_at) == (PAUSED, version + 1, NOW + 1)
        assert await scribe.store.next_due(["orders"]) == NOW + 1
        [claim] = await scribe.store.claim("w2", {"orders": 9}, NOW + 1, 10)
        assert [message.seq for message in claim.checkpoint.inbox] == [1]
        assert await scribe.store.claim("w2", {"orders": 9}, NOW + 99, 10) == []

    # ------------------------------------------------------------------------------------------------- concurrency
    async def test_submitted_one_after_another_means_applied_in_that_order(self, scribe: Scribe) -> None:
        """Changes of one run that are submitted without waiting for each other are applied in that order."""
        creation = scribe.creation(log=log_of(1, {"n": 0}))
        record = RunRecord(creation.creates[0].identity, creation.creates[0].head, ())
        moves = [move_of(record, version=n, log=log_of(n + 1, {"n": n}), stage=f"s{n}") for n in range(1, 30)]
        await asyncio.gather(*map(scribe.commit, [creation, *(Changes(moves=(move,)) for move in moves)]))
        assert (await scribe.record()).head.version == 30
        assert await scribe.state() == {"n": 29}

    async def test_written_behind_waits_for_what_was_submitted(self, scribe: Scribe) -> None:
        """`written_behind` returns when everything submitted before it is durable."""
        async with asyncio.TaskGroup() as tasks:
            commits = [tasks.create_task(scribe.create(f"r{n}")) for n in range(20)]
            behind = tasks.create_task(scribe.store.written_behind())
            await behind
            assert all(commit.done() for commit in commits)
        await scribe.store.written_behind()

    @pytest.mark.parametrize("bad", [0, 99, 199])
    async def test_one_bad_change_among_many_fails_alone(self, scribe: Scribe, bad: int) -> None:
        """Of 200 concurrent commits with one refused, 199 are written; only the refused caller gets an error."""
        await scribe.create("bad")
        changes = [scribe.creation("bad" if n == bad else f"r{n:03}") for n in range(200)]
        answers = await asyncio.gather(*map(scribe.commit, changes), return_exceptions=True)
        assert [n for n, answer in enumerate(answers) if answer != Committed()] == [bad]
        assert isinstance(answers[bad], RunExists)
        assert (await scribe.store.stats())["running"] == 200

    async def test_one_stale_boundary_among_many_fails_alone(self, scribe: Scribe) -> None:
        """Of 200 concurrent boundaries with three refused for different reasons, all others are written, once each."""
        await asyncio.gather(*(scribe.create(f"r{n:03}") for n in range(200)))
        records = [await scribe.record(f"r{n:03}") for n in range(200)]
        faults: dict[int, dict[str, Any]] = {10: {"version": 5}, 70: {"epoch": 5}, 130: {"inbox": 5}}
        moves = [move_of(record, log=log_of(1, {"n": n}), **faults.get(n, {})) for n, record in enumerate(records)]
        commits = [scribe.commit(Changes(moves=(move,))) for move in moves]
        answers = await asyncio.gather(*commits, return_exceptions=True)
        failed = {n: type(answer) for n, answer in enumerate(answers) if answer != Committed()}
        assert failed == {10: StaleVersion, 70: LeaseLost, 130: InboxAhead}
        versions = [record.head.version for record in (await scribe.store.find(RunQuery(limit=200))).items]
        assert (versions.count(1), versions.count(2)) == (3, 197)
        assert [await scribe.store.history(f"r{n:03}") for n in faults] == [[], [], []]

    async def test_a_cancelled_committer_affects_no_other(self, scribe: Scribe) -> None:
        """If a caller of `commit` is cancelled, its change is written as a whole or not at all; others are written."""
        async with asyncio.TaskGroup() as tasks:
            commits = [
                tasks.create_task(scribe.create(f"r{n:02}", log=log_of(1, {"n": n}), waits=(wait_of(),)))
                for n in range(40)
            ]
            await asyncio.sleep(0)  # noqa: TID251 - lets all of them submit
            for commit in commits[::4]:
                commit.cancel()
        await scribe.store.written_behind()
        for n, commit in enumerate(commits):
            checkpoint = await scribe.store.checkpoint(f"r{n:02}")
            if checkpoint is None:
                assert commit.cancelled()
            else:
                assert (checkpoint.state, checkpoint.record.waits) == ({"n": n}, (wait_of(),))
        await scribe.create("after")
        found = await scribe.store.match_waits(event_of("e", "order.approved").event)
        assert len(found) == (await scribe.store.stats())["waits"]

    async def test_exactly_one_of_many_creations_wins(self, scribe: Scribe) -> None:
        """Of many concurrent creations of one id exactly one is written."""
        answers = await asyncio.gather(
            *(scribe.create("r1", event=event_of(f"e{n}")) for n in range(50)), return_exceptions=True
        )
        assert sum(answer == Committed() for answer in answers) == 1
        assert sum(isinstance(answer, RunExists) for answer in answers) == 49

    async def test_exactly_one_of_many_resumes_wins(self, scribe: Scribe) -> None:
        """Of many concurrent moves of one paused run exactly one is written; the others see a new owner."""
        await scribe.park()
        record = await scribe.record()
        moves = [move_of(record, status=RUNNING, owner=f"w{n}", new_epoch=record.head.epoch + 1) for n in range(50)]
        commits = [scribe.commit(Changes(moves=(move,))) for move in moves]
        answers = await asyncio.gather(*commits, return_exceptions=True)
        assert sum(answer == Committed() for answer in answers) == 1
        assert sum(isinstance(answer, LeaseLost) for answer in answers) == 49

    # ---------------------------------------------------------------------------------------------------- loads
    async def test_a_load_lives_while_it_is_not_idle(self, scribe: Scribe) -> None:
        """An idle pair has no token; a load is read with the token it was written with, and removed when idle again."""
        assert await scribe.load() == (Load(), None)
        await scribe.change_load(Load(active=1, active_id="r1"))
        assert await scribe.load() == (Load(1, "r1"), Token(7, 0))
        await scribe.change_load(Load(active=1, active_id="r1", queued=2, tail_id="r3"))
        assert await scribe.load() == (Load(1, "r1", 2, "r3"), Token(7, 1))
        await scribe.change_load(Load(active_id="r1"))
        assert await scribe.load() == (Load(), None)

    async def test_loads_are_read_in_the_order_asked_for(self, scribe: Scribe) -> None:
        """`read_loads` answers in the order of its pairs; keys of one workflow are separate."""
        await scribe.change_load(Load(active=1), pair=("orders", "a"))
        await scribe.change_load(Load(active=2), pair=("orders", "b"))
        await scribe.change_load(Load(active=3), pair=("other", "a"))
        loads = await scribe.store.read_loads([("other", "a"), ("orders", "b"), ("orders", ""), ("orders", "a")])
        assert [load.active for load, _ in loads] == [3, 2, 0, 1]
        assert await scribe.store.read_loads([]) == []

    async def test_changes_of_a_load_may_be_lined_up(self, scribe: Scribe) -> None:
        """Each next token follows from the one before, so changes can be submitted before the first is durable."""
        tokens = [Token(9, turn) for turn in range(20)]
        changes = [
            LoadChange("orders", "", tokens[n - 1] if n else None, Load(active=n + 1), tokens[n]) for n in range(20)
        ]
        await asyncio.gather(*(scribe.commit(Changes(loads=(change,))) for change in changes))
        assert await scribe.load() == (Load(active=20), tokens[-1])

    async def test_promotion_takes_priority_then_acceptance(self, scribe: Scribe) -> None:
        """Queued runs of the pair are promoted: higher priority first, and among equals in order of acceptance."""
        for run_id, priority in (("c", 0), ("b", 5), ("a", 0), ("d", 5), ("e", -1)):
            await scribe.create(run_id, status=QUEUED, load_key="", priority=priority)
        await scribe.create("z", status=QUEUED, load_key="other", priority=9)
        await scribe.change_load(Load(active=1, queued=5, tail_id="e"))
        assert await scribe.release(slots=3) == ("b", "d", "c")
        assert await scribe.load() == (Load(3, "c", 2, "e"), FIRST.next("r0"))
        assert await scribe.release("b", slots=9) == ("a", "e")
        assert await scribe.load() == (Load(4, "e"), FIRST.next("r0").next("b"))

    async def test_who_has_waited_long_is_promoted_before_higher_priorities(self, scribe: Scribe) -> None:
        """A point of priority is worth a minute of waiting; runs of one priority come in order of acceptance."""
        runs = (("old", 0, 0.0), ("high", 1, 59.0), ("late", 1, 61.0), ("low", -2, 0.0), ("set back", 0, -9.0))
        for run_id, priority, seconds in runs:
            created_at = NOW + seconds
            await scribe.create(run_id, status=QUEUED, load_key="", priority=priority, created_at=created_at)
        await scribe.change_load(Load(active=1, queued=5, tail_id="set back"))
        assert await scribe.release(slots=1) == ("high",)
        assert await scribe.release("high", slots=1) == ("old",)
        assert await scribe.release("old", slots=9) == ("set back", "late", "low")

    async def test_a_promoted_run_has_slot_and_owner(self, scribe: Scribe) -> None:
        """A promoted run has an owner, a new epoch and version, and a slot, and is the load's active run."""
        await scribe.create("r1", status=QUEUED, load_key="")
        await scribe.change_load(Load(1, "r0", 1, "r1"))
        assert await scribe.release("r0", owner="w7") == ("r1",)
        head = (await scribe.record()).head
        assert head == RunHead(RUNNING, 2, "w7", 2, "first", 1, None, None, True, 0, 0, NOW)
        assert await scribe.load() == (Load(active=1, active_id="r1"), FIRST.next("r0"))

    async def test_a_run_promoted_without_an_owner_is_ready(self, scribe: Scribe) -> None:
        """Without an owner a promoted run becomes `ready`; claiming it does not count as recovery."""
        await scribe.create("r1", status=QUEUED, load_key="")
        await scribe.change_load(Load(active=1, queued=1))
        assert await scribe.release(owner=None) == ("r1",)
        assert (await scribe.record()).head.status is READY
        [claim] = await scribe.store.claim("w2", {"orders": 9}, NOW, 10)
        assert (claim.recovered, claim.checkpoint.record.head.attempt) == (False, 1)
        assert (await scribe.load())[0].active == 1

    async def test_runs_that_left_the_queue_are_not_promoted(self, scribe: Scribe) -> None:
        """A queued run that was aborted meanwhile is skipped."""
        for run_id in ("a", "b", "c"):
            await scribe.create(run_id, status=QUEUED, load_key="")
        await scribe.change_load(Load(active=1, queued=3, tail_id="c"))
        leave = Release("orders", "", "a", True, 1, "w1")
        await scribe.move("a", status=RunStatus.ABORTED, rest={"releases": (leave,)})
        assert (await scribe.load())[0] == Load(active=1, queued=2, tail_id="c")
        assert await scribe.release() == ("b",)

    async def test_a_queue_is_that_of_its_key(self, scribe: Scribe) -> None:
        """Promotion in one (workflow, key) does not change the queues of others."""
        await scribe.create("a", status=QUEUED, load_key="x")
        await scribe.create("b", status=QUEUED, load_key="y")
        await scribe.create("c", status=QUEUED, load_key="x", workflow="other")
        await scribe.change_load(Load(active=1, queued=1), pair=("orders", "y"))
        assert await scribe.release(pair=("orders", "y"), slots=9) == ("b",)
        assert [(await scribe.record(run)).head.status for run in ("a", "b", "c")] == [QUEUED, RUNNING, QUEUED]

    async def test_giving_a_slot_back_is_never_refused(self, scribe: Scribe) -> None:
        """A release applies to the current load, even if another caller changed it, and advances its token."""
        await scribe.create("back", load_key="")
        await scribe.change_load(Load(2, "b"))
        foreseen = LoadChange("orders", "", Token(7, 0), Load(3, "c"), Token(7, 1))
        commits = [
            Changes(moves=(move_of(await scribe.record("back"), slot=True, slots=9),), now=NOW),  # takes its slot again
            Changes(releases=(Release("orders", "", "a", False, 2, "w1"),), now=NOW),
            Changes(loads=(foreseen,), now=NOW),
            Changes(releases=(Release("orders", "", "back", False, 2, "w1"),), now=NOW),
        ]
        _, first, refused, second = await asyncio.gather(*map(scribe.commit, commits), return_exceptions=True)
        assert isinstance(refused, LoadMoved)
        assert first == second == Committed()
        assert await scribe.load() == (Load(1), FIRST.next("back").next("a").next("back"))

    async def test_releases_and_load_changes_may_be_lined_up(self, scribe: Scribe) -> None:
        """`Load.left` predicts the load after a release, so further changes can be submitted before it is durable."""
        load, token = Load(), Token(9, 0)
        changes: list[Changes] = []
        for number in range(12):
            expect = token if changes else None
            token, load = Token(9, number), load.started(f"r{number}")
            changes.append(Changes(loads=(LoadChange("orders", "", expect, load, token),), now=NOW))
            if number % 3 == 2:
                token, load = token.next(f"r{number}"), load.left(f"r{number}", 9, queued=False).load
                changes.append(Changes(releases=(Release("orders", "", f"r{number}", False, 9, "w1"),), now=NOW))
        await asyncio.gather(*map(scribe.commit, changes))
        assert await scribe.load() == (load, token)
        assert load == Load(8)

    async def test_a_change_that_nobody_foresaw_does_not_stand_in_for_another(self, scribe: Scribe) -> None:
        """A load change behind a refused one is refused too, though as many others were made as were foreseen."""
        await scribe.create("back", load_key="")
        await scribe.change_load(Load(2, "b"))
        foreseen = Token(8, 0), Token(8, 0).next("a")
        commits = [
            Changes(moves=(move_of(await scribe.record("back"), slot=True, slots=9),), now=NOW),  # not foreseen
            Changes(loads=(LoadChange("orders", "", FIRST, Load(2, "b"), foreseen[0]),), now=NOW),
            Changes(releases=(Release("orders", "", "a", False, 2, "w1"),), now=NOW),
            Changes(loads=(LoadChange("orders", "", foreseen[1], Load(2, "c"), Token(9, 0)),), now=NOW),
        ]
        _, refused, _, behind = await asyncio.gather(*map(scribe.commit, commits), return_exceptions=True)
        assert (type(refused), type(behind)) == (LoadMoved, LoadMoved)
        assert await scribe.load() == (Load(2, "back"), FIRST.next("back").next("a"))

    async def test_the_last_release_leaves_an_idle_load(self, scribe: Scribe) -> None:
        """When no run is active or queued any more, the load is removed; another release changes nothing."""
        await scribe.change_load(Load(1, "r0"))
        assert await scribe.release("r0") == ()
        assert await scribe.load() == (Load(), None)
        assert await scribe.release("r0") == ()
        assert await scribe.load() == (Load(), None)

    async def test_a_refused_unit_releases_nothing(self, scribe: Scribe) -> None:
        """A release in one commit with a stale move does not change the load or the queue."""
        await scribe.create("r1", load_key="", slot=True)
        await scribe.create("r2", status=QUEUED, load_key="")
        await scribe.change_load(Load(1, "r1", 1, "r2"))
        release = Release("orders", "", "r1", False, 1, "w1")
        with pytest.raises(StaleVersion):
            await scribe.move("r1", status=COMPLETED, version=9, release=release)
        assert await scribe.load() == (Load(1, "r1", 1, "r2"), FIRST)
        assert (await scribe.record("r2")).head.status is QUEUED
        ended = await scribe.move("r1", status=COMPLETED, owner=None, slot=False, release=release)
        assert ended.promoted == ("r2",)
        assert (await scribe.record("r2")).head.status is RUNNING

    async def test_slots_that_free_up_together_go_to_the_queue_in_order(self, scribe: Scribe) -> None:
        """Many concurrent releases, also of runs that leave the queue, promote each queued run once, in order."""
        for number in range(20):
            await scribe.create(f"a{number:02}", load_key="", slot=True)
            await scribe.create(f"q{number:02}", status=QUEUED, load_key="")
        await scribe.change_load(Load(20, "a19", 20, "q19"))

        def ends(run_id: str, record: RunRecord, *, queued: bool) -> Changes:
            status = RunStatus.ABORTED if queued else COMPLETED
            move = move_of(record, status=status, owner=None, slot=False)
            return Changes(moves=(move,), releases=(Release("orders", "", run_id, queued, 20, "w1"),), now=NOW)

        units = []
        for number in range(20):
            run_id = f"a{number:02}"
            units.append(ends(run_id, await scribe.record(run_id), queued=False))
            if number < 10 and number % 2 == 0:
                run_id = f"q{19 - number // 2:02}"
                units.append(ends(run_id, await scribe.record(run_id), queued=True))
        answers = await asyncio.gather(*map(scribe.commit, units))
        promoted = [run_id for answer in answers for run_id in answer.promoted]
        assert promoted == [f"q{number:02}" for number in range(15)]
        assert (await scribe.load())[0] == Load(15, "q14", 0, None)
        assert (await scribe.store.stats())["running"] == 15

    async def test_a_run_that_goes_on_takes_its_slot_again(self, scribe: Scribe) -> None:
        """A run that goes on with a move and gets a slot counts as active again; one that has a slot needs no other."""
        await scribe.create("r1", load_key="")
        await scribe.change_load(Load(active=1, active_id="r0"))
        await scribe.move("r1", slot=True, slots=2)
        assert await scribe.load() == (Load(active=2, active_id="r1"), FIRST.next("r1"))
        assert (await scribe.record("r1")).head.slot is True
        assert await scribe.move("r1", slot=True, slots=2) == Committed()
        assert (await scribe.load())[0].active == 2

    async def test_taking_a_slot_of_an_idle_load_makes_a_new_token(self, scribe: Scribe) -> None:
        """A load that was idle starts again, with a token that was never used."""
        await scribe.create("r1", load_key="")
        await scribe.move("r1", slot=True, slots=9)
        load, token = await scribe.load()
        assert load == Load(active=1, active_id="r1")
        with pytest.raises(LoadMoved):
            await scribe.commit(Changes(loads=(LoadChange("orders", "", None, Load(), Token(1, 1)),)))
        assert token is not None
        await scribe.change_load(Load())
        await scribe.create("r2", load_key="")
        await scribe.move("r2", slot=True, slots=9)
        assert (await scribe.load())[1] != token

    async def test_runs_without_load_key_count_nowhere(self, scribe: Scribe) -> None:
        """An invoked run takes no slot of its workflow's load."""
        await scribe.create("r1", load_key=None)
        assert await scribe.move("r1", slots=0) == Committed()
        assert await scribe.load() == (Load(), None)

    # ------------------------------------------------------------------------------- resumed runs and their slots
    async def in_line(self, scribe: Scribe, *run_ids: str, slots: int = 1) -> None:
        """Pause runs without their slots and resume them while another run is active: they wait, in this order."""
        await scribe.change_load(Load(slots, "r0"))
        for run_id in run_ids:
            await scribe.create(run_id, load_key="")
            await scribe.park(run_id, slot=False)
        for run_id in run_ids:
            [delivered] = await scribe.deliver(f"e-{run_id}-2", (run_id, "approval", 1), slots=slots)
            assert delivered == Delivered(Fate.RESUMED, 1, waits=True)

    async def test_a_resumed_run_without_a_slot_is_ready_and_waits(self, scribe: Scribe) -> None:
        """It has no owner, a new epoch and version, and `NEEDS_SLOT`; its load counts it; the receipt says so."""
        await scribe.create("r1", load_key="")
        await scribe.park("r1", wait_of(expires_at=NOW + 9), wake_at=NOW + 9)
        await scribe.change_load(Load(1, "r0"))
        line = ReceiptLine(Verdict.BUFFERED, "orders", None, "r1", "wait approval")
        delivery = Delivery("r1", (Hit("approval", 1),), "e2", "w2", line, 1)
        receipt = ReceiptRow("/shop", "e2", NOW, ())
        event = event_of("e2", "order.approved")
        await scribe.commit(Changes(events=(event,), deliveries=(delivery,), receipt=receipt, now=NOW + 1))
        head = (await scribe.record()).head
        assert head == RunHead(READY, 3, None, 2, "first", 1, None, None, NEEDS_SLOT, 1, 0, NOW + 1)
        assert await scribe.load() == (Load(1, "r0", returning=1), FIRST.next("r1"))
        [said] = await scribe.store.receipt("/shop", "e2") or ()
        assert (said.verdict, said.reason) == (Verdict.RESUMED, "waits for a slot")
        assert await scribe.store.claim("w2", {"orders": 9}, NOW + 99, 10) == []
        assert await scribe.store.next_due(["orders"]) is None

    async def test_the_line_is_first_in_first_out_and_before_the_queue(self, scribe: Scribe) -> None:
        """Freed slots go to resumed runs in the order of their resumption, then to queued ones."""
        await self.in_line(scribe, "c", "a", "b")
        await scribe.create("q", status=QUEUED, load_key="", priority=9)
        load, token = await scribe.load()
        assert load == Load(1, "r0", returning=3)
        change = LoadChange("orders", "", token, load.lined_up("q"), Token(8, 0))
        await scribe.commit(Changes(loads=(change,), now=NOW))
        assert await scribe.release("r0", owner="w7") == ("c",)
        head = (await scribe.record("c")).head
        assert (head.status, head.owner, head.slot, head.epoch) == (RUNNING, "w7", True, 3)
        assert await scribe.load() == (Load(1, "c", 1, "q", 2), Token(8, 0).next("r0"))
        assert await scribe.release("c", slots=3) == ("a", "b", "q")
        assert (await scribe.load())[0] == Load(3, "q")

    async def test_a_run_behind_others_waits_although_a_slot_is_free(self, scribe: Scribe) -> None:
        """Nobody overtakes the line: a run that comes back behind others waits, whatever is free by then."""
        await self.in_line(scribe, "a")
        await scribe.create("b", load_key="")
        await scribe.park("b", slot=False)
        assert await scribe.deliver("e9", ("b", "approval", 1), slots=5) == (Delivered(Fate.RESUMED, 1, waits=True),)
        assert (await scribe.load())[0] == Load(1, "r0", returning=2)

    async def test_a_move_takes_a_slot_or_waits(self, scribe: Scribe) -> None:
        """A move with `slots` is written as it is if a slot is free; if not, the run becomes `ready` and waits."""
        await scribe.change_load(Load(1, "r0"))
        for run_id in ("a", "b"):
            await scribe.create(run_id, load_key="")
            await scribe.park(run_id, slot=False)
        going_on: dict[str, Any] = {"status": RUNNING, "owner": "w2", "slot": True, "slots": 2, "wake_at": None}
        assert await scribe.move("a", new_epoch=2, **going_on) == Committed()
        assert (await scribe.record("a")).head.slot is True
        assert await scribe.move("b", new_epoch=2, **going_on) == Committed(waiting=("b",))
        head = (await scribe.record("b")).head
        assert (head.status, head.owner, head.slot, head.epoch, head.version) == (READY, None, NEEDS_SLOT, 2, 3)
        assert (await scribe.load())[0] == Load(2, "a", returning=1)
        move = move_of(await scribe.record("b"), status=READY, slot=NEEDS_SLOT)
        post = Post("b", "signal", {}, NOW)
        assert (await scribe.commit(Changes(moves=(move,), posts=(post,), now=NOW))).waiting == ()
        assert (await scribe.load())[0] == Load(2, "a", returning=1)

    async def test_who_leaves_the_line_is_counted_no_more(self, scribe: Scribe) -> None:
        """A run that ends or pauses while it waits for a slot lowers `returning` in that commit; the others stay."""
        await self.in_line(scribe, "a", "b", "c")
        await scribe.move("b", status=RunStatus.ABORTED, slot=False)
        await scribe.move("a", status=PAUSED, slot=False)
        assert (await scribe.load())[0] == Load(1, "r0", returning=1)
        assert await scribe.release("r0", slots=3) == ("c",)
        await scribe.end("c")
        assert await scribe.release("c") == ()
        assert await scribe.load() == (Load(), None)

    async def test_a_claim_lines_due_runs_up(self, scribe: Scribe) -> None:
        """Due runs take the slots that are free, in order; the others wait for one and keep their wake times."""
        await scribe.change_load(Load(1, "r0"))
        for number in range(4):
            await scribe.create(f"r{number + 1}", status=DELAYED, load_key="", wake_at=NOW - 9 + number)
        await scribe.create("free", status=DELAYED, wake_at=NOW)
        claims = await scribe.store.claim("w2", {"orders": 3}, NOW, 10)
        assert [claim.checkpoint.record.identity.run_id for claim in claims] == ["r1", "r2", "free"]
        assert list(claims.waiting) == ["r3", "r4"]
        head = (await scribe.record("r3")).head
        assert (head.status, head.slot, head.wake_at, head.owner) == (READY, NEEDS_SLOT, NOW - 7, None)
        assert (await scribe.load())[0] == Load(3, "r2", returning=2)
        assert await scribe.store.next_due(["orders"]) is None
        assert await scribe.release("r1", slots=3, owner="w2") == ("r3",)
        head = (await scribe.record("r3")).head
        assert (head.status, head.wake_at) == (RUNNING, NOW - 7)
        assert await scribe.release("r2", slots=3, owner=None) == ("r4",)
        [claim] = await scribe.store.claim("w2", {"orders": 3}, NOW, 10)
        assert (claim.delayed, claim.recovered, claim.checkpoint.record.head.wake_at) == (True, False, NOW - 6)

    async def test_a_claim_with_a_run_that_cannot_be_read(self, scribe: Scribe) -> None:
        """A run that cannot be read takes no slot, and does not keep others from taking it."""
        for run_id in ("a", "b"):
            await scribe.create(run_id, load_key="")
            value = '{"x":{"$type":"of another program","value":1}}' if run_id == "a" else "{}"
            await scribe.move(run_id, snapshot=value, log=log_of(1, {}))
            await scribe.move(run_id, status=DELAYED, owner=None, wake_at=NOW)
        claims = await scribe.store.claim("w2", {"orders": 1}, NOW, 10)
        assert [claim.checkpoint.record.identity.run_id for claim in claims] == ["b"]
        assert (await scribe.load())[0].active == 1

    async def test_promotions_use_slots_that_are_free(self, scribe: Scribe) -> None:
        """A promotion gives free slots to resumed and then to queued runs, and changes nothing if there is none."""
        await self.in_line(scribe, "a", "b")
        before = await scribe.load()
        idle = Promotion("orders", "idle", 5, None)
        changes = Changes(promotions=(Promotion("orders", "", 1, None), idle), now=NOW)
        assert await scribe.commit(changes) == Committed()
        assert await scribe.load() == before
        assert (await scribe.commit(Changes(promotions=(Promotion("orders", "", 2, None),), now=NOW))).promoted == (
            "a",
        )
        head = (await scribe.record("a")).head
        assert (head.status, head.owner, head.slot) == (READY, None, True)
        load, token = await scribe.load()
        assert load == Load(2, "a", returning=1)
        assert token != before[1]
        assert len(await scribe.store.claim("w2", {"orders": 2}, NOW, 10)) == 1

    async def test_loads_in_which_runs_wait(self, scribe: Scribe) -> None:
        """`waiting_loads` finds those of known workflows with resumed runs, and with queued ones on request."""
        store = scribe.store
        await self.in_line(scribe, "a")
        await scribe.change_load(Load(1, "x", 1, "y"), pair=("orders", "k"))
        await scribe.change_load(Load(1, "z"), pair=("orders", "busy"))
        await scribe.change_load(Load(1, "x", 1, "y"), pair=("other", ""))
        returning = (("orders", ""), Load(1, "r0", returning=1))
        assert list(await store.waiting_loads(["orders"], False)) == [returning]
        queued = (("orders", "k"), Load(1, "x", 1, "y"))
        assert sorted(await store.waiting_loads(["orders"], True)) == [returning, queued]
        assert list(await store.waiting_loads(["unknown"], True)) == []
        await scribe.release("r0")
        assert list(await store.waiting_loads(["orders", "other"], False)) == []

    async def test_the_line_is_kept_when_the_store_is_opened_again(self, store_factory: StoreFactory) -> None:
        """After a crash the line has the same order, also for runs that join it later."""
        store = store_factory()
        await store.open("w1")
        scribe = Scribe(store)
        await self.in_line(scribe, "c", "a")
        await store_factory.crash(store)
        store = store_factory()
        await store.open("w2")
        scribe = Scribe(store)
        await scribe.create("b", load_key="")
        await scribe.park("b", slot=False)
        await scribe.deliver("e9", ("b", "approval", 1), slots=1)
        assert (await scribe.load())[0] == Load(1, "r0", returning=3)
        assert await scribe.release("r0", slots=3) == ("c", "a", "b")
        await store.close()

    # ------------------------------------------------------------------------------------------------ deliveries
    async def test_a_parked_run_is_resumed(self, scribe: Scribe) -> None:
        """An event for the wait a run is paused at goes into its inbox and resumes it: new owner, epoch and version."""
        wait = wait_of(expires_at=NOW + 60)
        await scribe.park("r1", wait, wake_at=NOW + 60)
        assert await scribe.deliver("e2", ("r1", "approval", 1), now=NOW + 1) == (Delivered(Fate.RESUMED, 1),)
        record = await scribe.record()
        assert record.head == RunHead(RUNNING, 3, "w2", 2, "first", 1, None, None, False, 1, 0, NOW + 1)
        assert record.waits == (wait,)
        [message] = await scribe.store.inbox("r1", 0)
        event = event_of("e2", "order.approved")
        assert (message.seq, message.kind, message.time, message.body) == (1, "event", NOW + 1, None)
        assert message.event == event

    @pytest.mark.parametrize("rules", [None, WaitRules(ttl=9.0), WaitRules(2)], ids=["usual", "ttl", "two"])
    async def test_what_answers_a_wait_is_noted_with_the_message(self, scribe: Scribe, rules: WaitRules | None) -> None:
        """The next owner of the run learns which event completed the answer; a wait without rules needs no note."""
        await scribe.park("r1", wait_of(rules=rules))
        before = rules is not None and rules.several
        if before:
            assert await scribe.deliver("e1", ("r1", "approval", 1)) == (
                Delivered(Fate.BUFFERED, 1, "wait approval: 1 of 2"),
            )
        [delivered] = await scribe.deliver("e2", ("r1", "approval", 1))
        assert (delivered.fate, delivered.answers) == (Fate.RESUMED, None if rules is None else ("approval", 1))
        bodies = [message.body for message in await scribe.store.inbox("r1", 0)]
        assert bodies == [None] * before + [None if rules is None else {"answers": ["approval", 1]}]

    async def test_a_run_resumed_without_an_owner_is_ready(self, scribe: Scribe) -> None:
        """Without an owner a resumed run becomes `ready`; claiming it does not count as recovery."""
        await scribe.park()
        await scribe.deliver("e2", ("r1", "approval", 1), owner=None)
        head = (await scribe.record()).head
        assert (head.status, head.owner) == (READY, None)
        [claim] = await scribe.store.claim("w2", {"orders": 9}, NOW, 10)
        assert (claim.recovered, len(claim.checkpoint.inbox)) == (False, 1)

    async def test_a_run_between_two_pauses_gets_it_buffered(self, scribe: Scribe) -> None:
        """An event for an armed wait of a running run is put into its inbox; the owner may continue but not stop."""
        await scribe.create(waits=(wait_of(parked=False),))
        assert await scribe.deliver("e2", ("r1", "approval", 1)) == (Delivered(Fate.BUFFERED, 1),)
        assert await scribe.deliver("e3", ("r1", "approval", 1)) == (Delivered(Fate.BUFFERED, 2),)
        head = (await scribe.record()).head
        assert (head.status, head.version, head.epoch, head.inbox_seq) == (RUNNING, 1, 1, 2)
        with pytest.raises(InboxAhead):
            await scribe.move(status=PAUSED, inbox=0)
        await scribe.move(stage="second")

    async def test_a_parked_run_is_only_woken_by_the_wait_it_stands_at(self, scribe: Scribe) -> None:
        """A wait that only buffers does not resume a paused run; no wait resumes a delayed run."""
        await scribe.park("r1", wait_of("stands"), wait_of("buffers", "order.noted", parked=False))
        assert await scribe.deliver("e2", ("r1", "buffers", 1)) == (Delivered(Fate.BUFFERED, 1),)
        assert (await scribe.record()).head.status is PAUSED
        await scribe.create("r2", waits=(wait_of(parked=False),))
        await scribe.move("r2", status=DELAYED, owner=None, wake_at=NOW + 9)
        assert await scribe.deliver("e3", ("r2", "approval", 1)) == (Delivered(Fate.BUFFERED, 1),)
        assert (await scribe.record("r2")).head.status is DELAYED

    async def test_a_run_paused_with_an_error_is_not_woken(self, scribe: Scribe) -> None:
        """An event for a run whose state does not match its model is buffered; making it `ready` removes the error."""
        await scribe.park("r1", outcome='{"error":{"type":"StateInvalid","message":"no"}}')
        await scribe.park("r2")
        assert [record.identity.run_id for record in await scribe.store.unfit("orders")] == ["r1"]
        assert await scribe.store.unfit("others") == []
        assert await scribe.deliver("e2", ("r1", "approval", 1)) == (Delivered(Fate.BUFFERED, 1),)
        head = (await scribe.record()).head
        assert (head.status, head.outcome is None) == (PAUSED, False)
        await scribe.move(status=READY, owner=None, new_epoch=2, outcome=None)
        assert await scribe.store.unfit("orders") == []
        [claim] = await scribe.store.claim("w2", {"orders": 9}, NOW, 10)
        assert (claim.recovered, claim.checkpoint.record.head.outcome, len(claim.checkpoint.inbox)) == (False, None, 1)
        assert [wait.parked for wait in claim.checkpoint.record.waits] == [True]

    async def test_paused_runs_in_a_slot_are_found(self, scribe: Scribe) -> None:
        """Those of one workflow that are paused and hold a slot, in order, until they give it back or go on."""
        for run_id in ("r1", "r2", "r3", "r4"):
            await scribe.create(run_id, load_key="", slot=True)
        await scribe.create("o1", workflow="others", load_key="", slot=True)
        await scribe.create("r5")
        for run_id in ("r1", "r2", "r3", "o1", "r5"):
            await scribe.park(run_id)

        async def found(workflow: str) -> list[str]:
            return [record.identity.run_id for record in await scribe.store.paused_in_slot(workflow)]

        assert [await found(workflow) for workflow in ("orders", "others", "none")] == [["r1", "r2", "r3"], ["o1"], []]
        await scribe.move("r1", slot=False)
        await scribe.move("r2", status=READY, owner=None, new_epoch=2)
        await scribe.end("r4")
        assert await found("orders") == ["r3"]

    async def test_what_comes_too_late_is_gone(self, scribe: Scribe) -> None:
        """A delivery to an ended or unknown run, or to a wait that is no longer armed, has no effect."""
        await scribe.park()
        await scribe.create("ended", waits=(wait_of(),))
        await scribe.end("ended")
        targets = [("ended", "approval", 1), ("unknown", "approval", 1), ("r1", "other", 1)]
        assert await scribe.deliver("e2", *targets) == (Delivered(Fate.GONE, 0),) * 3
        assert (await scribe.record()).head == (await scribe.record()).head
        assert await scribe.store.inbox("r1", 0) == []

    async def test_a_wait_armed_anew_makes_the_sender_look_again(self, scribe: Scribe) -> None:
        """A delivery to an older epoch of a wait is refused with `WaitMoved`: its conditions may differ now."""
        await scribe.park("r1", wait_of(epoch=2))
        with pytest.raises(WaitMoved):
            await scribe.deliver("e2", ("r1", "approval", 1))
        assert await scribe.deliver("e2", ("r1", "approval", 2)) == (Delivered(Fate.RESUMED, 1),)

    async def test_a_resumed_run_takes_its_slot_again(self, scribe: Scribe) -> None:
        """A run that released its slot at its pause counts as active again when it is resumed."""
        await scribe.create("r1", load_key="", slot=True)
        await scribe.park("r1", slot=False)
        await scribe.deliver("e2", ("r1", "approval", 1))
        assert (await scribe.load())[0] == Load(active=1, active_id="r1")
        assert (await scribe.record()).head.slot

    async def test_a_run_that_kept_its_slot_does_not_count_twice(self, scribe: Scribe) -> None:
        """A run that holds its slot while paused is resumed without a change of its load."""
        await scribe.create("r1", load_key="", slot=True)
        await scribe.change_load(Load(active=1, active_id="r1"))
        await scribe.park("r1")
        await scribe.deliver("e2", ("r1", "approval", 1))
        assert await scribe.load() == (Load(active=1, active_id="r1"), Token(7, 0))

    async def test_several_deliveries_in_one_unit_see_each_other(self, scribe: Scribe) -> None:
        """Two deliveries to one paused run in one commit: the first resumes it, the second is buffered."""
        await scribe.park("r1")
        await scribe.park("r2")
        delivered = await scribe.deliver("e2", ("r1", "approval", 1), ("r1", "approval", 1), ("r2", "approval", 1))
        assert delivered == (Delivered(Fate.RESUMED, 1), Delivered(Fate.BUFFERED, 2), Delivered(Fate.RESUMED, 1))

    async def test_consumed_messages_are_gone_and_the_others_stay(self, scribe: Scribe) -> None:
        """A move consumes the messages it names; the others keep their sequence."""
        await scribe.create(waits=(wait_of(parked=False),))
        await scribe.deliver("e2", ("r1", "approval", 1))
        posted = (await scribe.commit(Changes(posts=(Post("r1", "signal", {"a": [1]}, NOW + 2),)))).posted
        await scribe.deliver("e3", ("r1", "approval", 1))
        assert posted == (2,)
        await scribe.move(consumed=(1,))
        first, second = await scribe.store.inbox("r1", 0)
        assert (first.seq, first.kind, first.time, first.body, first.event) == (2, "signal", NOW + 2, {"a": [1]}, None)
        assert (second.seq, second.event) == (3, event_of("e3", "order.approved"))
        assert await scribe.store.inbox("r1", 2) == [second]
        checkpoint = await scribe.store.checkpoint("r1")
        assert checkpoint is not None
        assert checkpoint.inbox == (first, second)
        await scribe.move(consumed=(2, 3), inbox=3)
        assert await scribe.store.inbox("r1", 0) == []
        assert (await scribe.record()).head.inbox_seq == 3

    async def test_posts_get_their_sequence(self, scribe: Scribe) -> None:
        """Posts return their sequence in the inbox, also several in one commit, and do not move the run."""
        await scribe.create()
        posts = (Post("r1", "signal", {"a": 1}, NOW), Post("r1", "abort", {"reason": "no", "by": "me"}, NOW))
        assert (await scribe.commit(Changes(posts=posts))).posted == (1, 2)
        assert [message.kind for message in await scribe.store.inbox("r1", 0)] == ["signal", "abort"]
        assert (await scribe.record()).head.version == 1

    @pytest.mark.parametrize("status", [PAUSED, DELAYED])
    async def test_a_run_at_rest_that_is_asked_to_end_is_due(self, scribe: Scribe, status: RunStatus) -> None:
        """A request to abort makes a run that rests due, in a new version; other messages do not, nor other runs."""
        await scribe.create("r1", status=status, wake_at=NOW + 60, outcome=None)
        await scribe.create("r2", status=READY)
        await scribe.create("r3", status=QUEUED, load_key="")
        await scribe.create("r4")
        await scribe.commit(Changes(posts=(Post("r1", "signal", {"a": 1}, NOW),)))
        assert (await scribe.record()).head.version == 1
        assert await scribe.store.next_due(["orders"]) == NOW + 60
        posts = tuple(Post(f"r{n}", "abort", {"reason": "no", "by": "me"}, NOW + 1) for n in (1, 2, 3, 4))
        assert (await scribe.commit(Changes(posts=posts))).posted == (2, 1, 1, 1)
        head = (await scribe.record()).head
        assert (head.status, head.version, head.epoch, head.wake_at) == (status, 2, 1, NOW + 1)
        assert [(await scribe.record(f"r{n}")).head.version for n in (2, 3, 4)] == [1, 1, 1]
        assert await scribe.store.next_due(["orders"]) == NOW + 1
        claims = await scribe.store.claim("w2", {"orders": 9}, NOW + 1, 9)
        [claim] = [claim for claim in claims if claim.checkpoint.record.identity.run_id == "r1"]
        assert [message.kind for message in claim.checkpoint.inbox] == ["signal", "abort"]

    async def test_a_run_that_is_moved_and_asked_to_end_is_as_moved(self, scribe: Scribe) -> None:
        """A request in the unit of work that makes its run `ready` does not change that."""
        await scribe.park("r1")
        request = Post("r1", "abort", {"reason": "no", "by": "me"}, NOW)
        await scribe.move("r1", status=READY, rest={"posts": (request,)})
        head = (await scribe.record()).head
        assert (head.status, head.version, head.wake_at) == (READY, 3, None)

    async def test_many_runs_are_answered_at_once(self, scribe: Scribe) -> None:
        """Each run that moves on with a message gets its sequence, also in a batch; a stale move gets none."""
        run_ids = [f"r{number}" for number in range(20)]
        for run_id in run_ids:
            await scribe.park(run_id)
        await scribe.commit(Changes(posts=(Post("r3", "signal", {"first": True}, NOW),)))
        records = [await scribe.record(run_id) for run_id in run_ids]
        goes_on = {"status": RUNNING, "owner": "w2", "new_epoch": 2}
        changes = [
            Changes(
                moves=(move_of(record, **goes_on, **({"version": 7} if number == 5 else {})),),
                posts=(Post(record.identity.run_id, "resume", {"patch": {"n": number}}, NOW),),
                now=NOW,
            )
            for number, record in enumerate(records)
        ]
        answers = await asyncio.gather(*map(scribe.commit, changes), return_exceptions=True)
        assert isinstance(answers.pop(5), StaleVersion)
        assert [answer.posted for answer in answers if isinstance(answer, Committed)] == [
            (2,) if run_id == "r3" else (1,) for run_id in run_ids if run_id != "r5"
        ]
        assert await scribe.store.inbox("r5", 0) == []
        [first, second] = await scribe.store.inbox("r3", 0)
        assert (first.body, second.kind, second.body) == ({"first": True}, "resume", {"patch": {"n": 3}})
        for run_id in run_ids:
            if run_id != "r5":
                await scribe.end(run_id)
                assert await scribe.store.inbox(run_id, 0) == []

    # ----------------------------------------------------------------------------------- remembering and receipts
    async def test_a_remembered_key_is_taken_until_it_expires(self, scribe: Scribe) -> None:
        """A stored key is refused, with its value, until it expires; from its expiry on it counts as absent."""
        key = Remember("/shop", "e1", "orders/placed", "f", "r1", NOW + 10)
        await scribe.commit(Changes(remember=(key,), now=NOW))
        other = key._replace(fingerprint="g", run_id=None, expires_at=NOW + 20)
        with pytest.raises(KeysTaken) as refused:
            await scribe.commit(Changes(remember=(other,), now=NOW + 9.5))
        assert refused.value.fields["taken"] == {"orders/placed": key}
        await scribe.commit(Changes(remember=(other,), now=NOW + 10))
        with pytest.raises(KeysTaken) as refused:
            await scribe.commit(Changes(remember=(key,), now=NOW + 11))
        assert refused.value.fields["taken"] == {"orders/placed": other}

    async def test_a_key_that_has_expired_already_is_not_remembered(self, scribe: Scribe) -> None:
        """A key that has expired when it is written is not stored, and replaces nothing."""
        key = Remember("/shop", "e1", "orders/placed", "f", "r1", NOW)
        for now in (NOW, NOW + 1, NOW - 1, NOW + 1):
            await scribe.commit(Changes(remember=(key,), now=now))
        with pytest.raises(KeysTaken):
            await scribe.commit(Changes(remember=(key,), now=NOW - 1))

    async def test_the_key_of_all_waits_is_remembered_if_one_took_the_event(self, scribe: Scribe) -> None:
        """An event whose waits have all ended may come again; one that a wait has accepted may not."""
        await scribe.park("r1")
        await scribe.park("r2")
        await scribe.end("r1")
        line = ReceiptLine(Verdict.BUFFERED, "orders")
        key = Remember("/shop", "e1", "", "f", None, NOW + 10)
        trigger = key._replace(scope="orders/placed")
        for targets, refused in ((["r1"], {"orders/placed"}), (["r1", "r2"], {"orders/placed", ""})):
            event = event_of("e-" + "-".join(targets))
            deliveries = tuple(Delivery(run_id, (Hit("approval", 1),), event.ref, "w2", line) for run_id in targets)
            remember = (key, trigger) if targets == ["r1"] else (key,)
            await scribe.commit(Changes(events=(event,), deliveries=deliveries, remember=remember, now=NOW))
            with pytest.raises(KeysTaken) as taken:
                await scribe.commit(Changes(remember=(key, trigger), now=NOW + 1))
            assert set(taken.value.fields["taken"]) == refused

    async def test_keys_differ_by_source_id_and_scope(self, scribe: Scribe) -> None:
        """Another source, event id or scope is another key; the error lists all taken keys."""
        keys = [
            Remember(source, event_id, scope, "f", None, NOW + 10)
            for source in ("/a", "/b")
            for event_id in ("1", "2")
            for scope in ("", "orders/placed")
        ]
        for key in keys:
            await scribe.commit(Changes(remember=(key,), now=NOW))
        fresh = Remember("/a", "1", "orders/changed", "f", None, NOW + 10)
        with pytest.raises(KeysTaken) as refused:
            await scribe.commit(Changes(remember=(keys[0], fresh, keys[1]), now=NOW))
        assert refused.value.fields["taken"] == {"": keys[0], "orders/placed": keys[1]}
        await scribe.commit(Changes(remember=(fresh,), now=NOW))

    async def test_exactly_one_of_many_duplicates_wins(self, scribe: Scribe) -> None:
        """Of many concurrent commits with the same key exactly one is written."""
        key = Remember("/shop", "e1", "", "f", None, NOW + 10)
        answers = await asyncio.gather(
            *(scribe.commit(Changes(remember=(key,), now=NOW)) for _ in range(50)), return_exceptions=True
        )
        assert sum(isinstance(answer, KeysTaken) for answer in answers) == 49

    async def test_what_has_expired_goes_bit_by_bit(self, scribe: Scribe) -> None:
        """Expired keys, and receipts after seven days, are deleted by later commits; others stay."""
        line = ReceiptLine(Verdict.STARTED, "orders", "placed", "r1")
        for number in range(200):
            name = f"e{number}"
            keys = tuple(Remember("/shop", name, f"orders/{scope}", "f", "r1", NOW + DAY) for scope in "ab")
            receipt = ReceiptRow("/shop", name, NOW, (line,))
            await scribe.commit(Changes(remember=keys, receipt=receipt, now=NOW))
        stats = await scribe.store.stats()
        assert (stats["remembered"], stats["receipts"]) == (400, 200)
        await scribe.time_passes(NOW + 6 * DAY)
        stats = await scribe.store.stats()
        assert (stats["remembered"], stats["receipts"]) == (0, 201)
        assert await scribe.store.receipt("/shop", "e7") == (line,)
        await scribe.time_passes(NOW + 8 * DAY)
        assert (await scribe.store.stats())["receipts"] == 1
        assert await scribe.store.receipt("/shop", "e7") is None

    async def test_a_receipt_stays_while_its_event_is_remembered(self, scribe: Scribe) -> None:
        """If an event's key is stored for longer than seven days, its receipt is kept for as long."""
        line = ReceiptLine(Verdict.STARTED, "orders", "placed", "r1")
        key = Remember("/shop", "e1", "orders/placed", "f", "r1", NOW + 30 * DAY)
        await scribe.commit(Changes(remember=(key,), receipt=ReceiptRow("/shop", "e1", NOW, (line,)), now=NOW))
        again = ReceiptLine(Verdict.DUPLICATE, "orders", "placed", "r1")
        await scribe.commit(Changes(receipt=ReceiptRow("/shop", "e1", NOW + DAY, (again,)), now=NOW + DAY))
        await scribe.time_passes(NOW + 29 * DAY)
        assert await scribe.store.receipt("/shop", "e1") == (line,)
        assert (await scribe.store.stats())["remembered"] == 1
        await scribe.time_passes(NOW + 31 * DAY)
        assert await scribe.store.receipt("/shop", "e1") is None
        assert (await scribe.store.stats())["remembered"] == 0

    async def test_a_key_may_live_as_long_as_its_run(self, scribe: Scribe) -> None:
        """A key that expires with its run is kept as long as the store has the run, ended or not."""
        key = Remember("/invoke/orders", "k", "/", "f", "r1", WITH_ITS_RUN)
        await scribe.commit(scribe.creation("r1", remember=(key,)))
        await scribe.end("r1")
        await scribe.time_passes(NOW + 1000 * DAY)
        with pytest.raises(KeysTaken) as refused:
            await scribe.commit(Changes(remember=(key,), now=NOW + 1000 * DAY))
        assert refused.value.fields["taken"] == {"/": key}

    async def test_a_key_that_is_remembered_again_has_its_new_time(self, scribe: Scribe) -> None:
        """A key that has expired and was stored again is kept for its new time, also when the old one is deleted."""
        key = Remember("/shop", "e1", "orders/placed", "f", "r1", NOW + 10)
        await scribe.commit(Changes(remember=(key,), now=NOW))
        again = key._replace(expires_at=NOW + 30 * DAY)
        await scribe.commit(Changes(remember=(again,), now=NOW + 20))
        await scribe.time_passes(NOW + 29 * DAY)
        with pytest.raises(KeysTaken):
            await scribe.commit(Changes(remember=(key,), now=NOW + 29 * DAY))

    async def test_delivered_events_go_when_no_message_refers_to_them(self, scribe: Scribe) -> None:
        """An event that started no run is kept as long as it is in an inbox of a run it was delivered to."""
        waits = (wait_of(parked=False),)
        await scribe.create("r1", waits=waits)
        await scribe.create("r2", waits=waits)
        await scribe.deliver(f"{LOOSE}used", ("r1", "approval", 1), ("r2", "approval", 1))
        await scribe.deliver(f"{LOOSE}kept", ("r1", "approval", 1), ("r2", "approval", 1))
        await scribe.deliver(f"{LOOSE}missed", ("gone", "approval", 1))
        await scribe.move("r1", consumed=(1,))
        await scribe.end("r2")
        await scribe.time_passes(NOW + DAY)
        [message] = await scribe.store.inbox("r1", 0)
        assert message.event == event_of(f"{LOOSE}kept", "order.approved")
        assert (await scribe.store.stats())["events"] == 3  # that one, and those of the runs
        await scribe.end("r1")
        await scribe.time_passes(NOW + 2 * DAY)
        assert (await scribe.store.stats())["events"] == 2
        assert await scribe.store.checkpoint("r1")

    async def test_a_receipt_says_what_its_deliveries_came_to(self, scribe: Scribe) -> None:
        """A stored receipt has the decided lines, then one per delivery with its verdict; a copy changes nothing."""
        await scribe.park("r1")
        await scribe.create("r2", waits=(wait_of(parked=False),))
        started = ReceiptLine(Verdict.STARTED, "orders", "placed", "r9", "")
        deliveries = [
            Delivery(run, (Hit("approval", 1),), "e2", "w1", ReceiptLine(Verdict.BUFFERED, "orders", None, run, "wait"))
            for run in ("r1", "r2", "gone")
        ]
        changes = Changes(
            events=(event_of("e2", "order.approved"),),
            deliveries=tuple(deliveries),
            receipt=ReceiptRow("/shop", "e2", NOW, (started,)),
            now=NOW,
        )
        await scribe.commit(changes)
        lines = (
            started,
            ReceiptLine(Verdict.RESUMED, "orders", None, "r1", "wait"),
            ReceiptLine(Verdict.BUFFERED, "orders", None, "r2", "wait"),
            ReceiptLine(Verdict.FILTERED, "orders", None, "gone", "the run has continued meanwhile"),
        )
        assert await scribe.store.receipt("/shop", "e2") == lines
        assert await scribe.store.receipt("/other", "e2") is None
        line = ReceiptLine(Verdict.DUPLICATE, "orders", "placed", "r9", "again")
        await scribe.commit(Changes(receipt=ReceiptRow("/shop", "e2", NOW + 1, (line,))))
        assert await scribe.store.receipt("/shop", "e2") == lines

    async def test_the_last_of_two_receipts_stays(self, scribe: Scribe) -> None:
        """Of two receipts for one event that are submitted together, the later one is stored."""
        await scribe.park("r1")
        line = ReceiptLine(Verdict.BUFFERED, "orders", None, "r1", "wait")
        first = Changes(receipt=ReceiptRow("/shop", "e2", NOW, (ReceiptLine(Verdict.UNMATCHED),)), now=NOW)
        second = Changes(
            events=(event_of("e2", "order.approved"),),
            deliveries=(Delivery("r1", (Hit("approval", 1),), "e2", "w1", line),),
            receipt=ReceiptRow("/shop", "e2", NOW, ()),
            now=NOW,
        )
        await asyncio.gather(scribe.commit(first), scribe.commit(second))
        found = await scribe.store.receipt("/shop", "e2")
        assert found is not None
        assert [line.verdict for line in found] == [Verdict.RESUMED]

    # -------------------------------------------------------------------------------------------------- claiming
    async def test_many_due_runs_are_claimed_in_portions(self, scribe: Scribe) -> None:
        """For any limit, consecutive claims follow one order over all priorities: that of `rank`."""
        for n in range(30):
            status, wake_at = (READY, None) if n % 5 == 0 else (DELAYED, NOW - n % 7)
            await scribe.create(f"r{n:02}", status=status, priority=n % 3, wake_at=wake_at)
        claims = []
        while portion := await scribe.store.claim("w2", {"orders": 9}, NOW, 4):
            claims += [claim.checkpoint.record.identity for claim in portion]
        due = {f"r{n:02}": NOW if n % 5 == 0 else NOW - n % 7 for n in range(30)}
        assert claims == sorted(claims, key=lambda run: (rank(run.priority, due[run.run_id]), run.run_id))
        assert len(claims) == 30

    async def test_claims_come_by_priority_and_waiting_time_then_id(self, scribe: Scribe) -> None:
        """Ready runs, and paused and delayed ones that are due, are claimed in one order: by `rank`."""
        for run_id, status, priority, wake_at in (
            ("late", DELAYED, 0, NOW - 1),
            ("b", READY, 0, None),
            ("early", PAUSED, 0, NOW - 2),
            ("a", READY, 0, None),
            ("urgent", DELAYED, 7, NOW),
            ("future", DELAYED, 9, NOW + 0.5),
        ):
            await scribe.create(run_id, status=status, priority=priority, wake_at=wake_at)
        claims = await scribe.store.claim("w2", {"orders": 9}, NOW, 4)
        assert [claim.checkpoint.record.identity.run_id for claim in claims] == ["urgent", "early", "late", "a"]
        claims = await scribe.store.claim("w2", {"orders": 9}, NOW, 4)
        assert [claim.checkpoint.record.identity.run_id for claim in claims] == ["b"]
        assert await scribe.store.claim("w2", {"orders": 9}, NOW, 4) == []

    async def test_a_run_that_is_moved_while_it_is_ready_has_waited_since_then(self, scribe: Scribe) -> None:
        """The rank of a ready run follows from its last move, also if it was ready before."""
        for run_id in ("a", "b"):
            await scribe.create(run_id, status=READY)
        await scribe.move("a", status=READY, owner=None, updated_at=NOW + 5)
        claims = await scribe.store.claim("w2", {"orders": 9}, NOW + 9, 1)
        assert [claim.checkpoint.record.identity.run_id for claim in claims] == ["b"]

    async def test_a_claim_gives_all_that_is_needed_to_go_on(self, scribe: Scribe) -> None:
        """A claimed run is owned by the claimer in a new epoch; record, state, event and inbox come with it."""
        await scribe.create(log=log_of(1, {"a": 1}), waits=(wait_of(parked=False),))
        await scribe.deliver("e2", ("r1", "approval", 1))
        await scribe.move(status=DELAYED, owner=None, wake_at=NOW + 5, inbox=1)
        [claim] = await scribe.store.claim("w9", {"orders": 9}, NOW + 5, 1)
        checkpoint = claim.checkpoint
        assert checkpoint.record.head == RunHead(RUNNING, 3, "w9", 2, "first", 1, NOW + 5, None, False, 1, 1, NOW + 5)
        assert (checkpoint.state, checkpoint.event) == ({"a": 1}, event_of("e-r1").event)
        assert (claim.recovered, claim.delayed) == (False, True)
        assert [message.event for message in checkpoint.inbox] == [event_of("e2", "order.approved")]
        assert checkpoint == await scribe.store.checkpoint("r1")

    async def test_only_known_workflows_are_claimed(self, scribe: Scribe) -> None:
        """Runs of workflows that the claimer does not know are unchanged and do not block others."""
        await scribe.create("a", status=READY, workflow="foreign", priority=9)
        await scribe.create("b", status=DELAYED, workflow="foreign", priority=9, wake_at=NOW - 9)
        await scribe.create("c", status=READY)
        claims = await scribe.store.claim("w2", {"orders": 9, "other": 9}, NOW, 1)
        assert [claim.checkpoint.record.identity.run_id for claim in claims] == ["c"]
        assert await scribe.store.claim("w2", {}, NOW, 10) == []
        claims = await scribe.store.claim("w2", {"foreign": 9}, NOW, 10)
        assert [claim.checkpoint.record.identity.run_id for claim in claims] == ["b", "a"]

    async def test_nothing_is_claimed_before_its_time_or_twice(self, scribe: Scribe) -> None:
        """A run is due at its wake time and not before; of many claimers one gets it."""
        await scribe.create(status=DELAYED, wake_at=NOW + 5)
        assert await scribe.store.claim("w2", {"orders": 9}, NOW + 4.999, 10) == []
        claims = await asyncio.gather(*(scribe.store.claim(f"w{n}", {"orders": 9}, NOW + 5, 10) for n in range(20)))
        assert sum(map(len, claims)) == 1

    async def test_parking_again_with_the_same_time_is_due_once(self, scribe: Scribe) -> None:
        """A run that paused twice until the same time is claimed once."""
        await scribe.park("r1", wait_of(epoch=1), wake_at=NOW + 5)
        await scribe.deliver("e2", ("r1", "approval", 1))
        await scribe.move("r1", status=PAUSED, owner=None, wake_at=NOW + 5, waits=(wait_of(epoch=2),))
        assert await scribe.store.next_due(["orders"]) == NOW + 5
        claims = await scribe.store.claim("w2", {"orders": 9}, NOW + 5, 10)
        assert [claim.checkpoint.record.head.version for claim in claims] == [5]

    @pytest.mark.parametrize("how", ["released", "reopened"])
    async def test_a_delay_stays_the_reason_of_a_claimed_run(self, store_factory: StoreFactory, how: str) -> None:
        """A run that was claimed and comes to no boundary is delayed for the next claimer too; after a boundary not."""
        store, scribe = await self._opened(store_factory)
        await scribe.create("r1", status=DELAYED, wake_at=NOW + 5)
        await scribe.create("r2", status=DELAYED, wake_at=NOW + 5)
        await scribe.store.claim("w2", {"orders": 9}, NOW + 6, 9)
        await scribe.move("r2", wake_at=None, log=log_of(1, {"a": 1}))
        if how == "released":
            for run_id in ("r1", "r2"):
                await scribe.move(run_id, status=READY, owner=None, updated_at=NOW + 7)
        else:
            await store_factory.crash(store)
            store, scribe = await self._opened(store_factory)
        claims = await scribe.store.claim("w3", {"orders": 9}, NOW + 8, 9)
        found = {
            claim.checkpoint.record.identity.run_id: (claim.delayed, claim.checkpoint.record.head.wake_at)
            for claim in claims
        }
        assert found == {"r1": (True, NOW + 5), "r2": (False, None)}
        await store.close()

    async def test_a_due_paused_run_stays_at_its_wait(self, scribe: Scribe) -> None:
        """Claiming a run whose wait timed out does not change the wait: the claimer decides what the timeout means."""
        wait = wait_of(expires_at=NOW + 5)
        await scribe.park("r1", wait, wake_at=NOW + 5)
        [claim] = await scribe.store.claim("w2", {"orders": 9}, NOW + 6, 10)
        assert claim.checkpoint.record.waits == (wait,)
        assert claim.checkpoint.record.head.wake_at is None

    async def test_a_claimed_run_takes_its_slot_again(self, scribe: Scribe) -> None:
        """A claimed run that had released its slot counts as active again."""
        await scribe.create("r1", status=DELAYED, load_key="", wake_at=NOW)
        await scribe.create("r2", status=READY, load_key="", slot=True)
        await scribe.store.claim("w2", {"orders": 9}, NOW, 10)
        assert (await scribe.load())[0] == Load(active=1, active_id="r1")
        assert [(await scribe.record(run)).head.slot for run in ("r1", "r2")] == [True, True]

    async def test_a_run_that_cannot_be_read_blocks_no_other(self, scribe: Scribe) -> None:
        """A run whose state has an unknown type is unchanged; the error is raised when no other run can be claimed."""
        await scribe.create("b", priority=9)
        await scribe.move("b", snapshot='{"x":{"$type":"of another program","value":1}}', log=log_of(1, {}))
        await scribe.move("b", status=READY, owner=None)
        await scribe.create("c", status=READY)
        await scribe.create("a", status=DELAYED, wake_at=NOW)
        claims = await scribe.store.claim("w2", {"orders": 9}, NOW, 1)
        claims += await scribe.store.claim("w2", {"orders": 9}, NOW, 5)
        assert [claim.checkpoint.record.identity.run_id for claim in claims] == ["a", "c"]
        with pytest.raises(UnknownCodec):
            await scribe.store.claim("w2", {"orders": 9}, NOW, 5)
        assert (await scribe.record("b")).head.version == 3

    async def test_whatever_reading_a_run_raises_blocks_no_other(self, scribe: Scribe) -> None:
        """The code that decodes a type may raise anything: the runs claimed before are claimed, the others later."""
        for run, priority in (("a", 9), ("b", 8), ("c", 7)):
            await scribe.create(run, priority=priority)
            value = '{"x":{"$type":"decimal","value":"none"}}' if run == "b" else "{}"
            await scribe.move(run, snapshot=value, log=log_of(1, {}))
            await scribe.move(run, status=READY, owner=None)
        claims = await scribe.store.claim("w2", {"orders": 9}, NOW, 5)
        assert [claim.checkpoint.record.identity.run_id for claim in claims] == ["a", "c"]
        for _ in range(2):  # it stays where it can be claimed
            with pytest.raises(ArithmeticError):
                await scribe.store.claim("w2", {"orders": 9}, NOW, 5)
        assert (await scribe.record("b")).head.status is READY

    async def test_next_due_is_the_earliest_of_known_workflows(self, scribe: Scribe) -> None:
        """`next_due` counts paused and delayed runs of the given workflows, not running or ended ones."""
        await scribe.create("a", status=DELAYED, wake_at=NOW + 3)
        await scribe.park("b", wait_of(), wake_at=NOW + 2)
        await scribe.create("c", status=DELAYED, wake_at=NOW + 1, workflow="foreign")
        store = scribe.store
        assert await store.next_due(["orders"]) == NOW + 2
        assert await store.next_due(["foreign", "orders"]) == NOW + 1
        assert await store.next_due([]) is None
        await store.claim("w2", {"orders": 9}, NOW + 2, 10)
        assert await store.next_due(["orders"]) == NOW + 3
        await scribe.end("a")
        assert await store.next_due(["orders"]) is None

    # ---------------------------------------------------------------------------------------------- matching waits
    async def test_waits_are_found_by_exact_type_and_pattern(self, scribe: Scribe) -> None:
        """An event finds the runs whose waits have its type or a matching pattern, each once."""
        await scribe.park("exact", wait_of("w", "order.approved"))
        await scribe.park("star", wait_of("w", "order.*"))
        await scribe.park("deep", wait_of("w", "order.**", "order.approved"))
        await scribe.park("all", wait_of("w", "*"))
        await scribe.park("other", wait_of("w", "order.rejected"))
        found = await self._found(scribe, "order.approved")
        assert sorted(found) == ["all", "deep", "exact", "star"]
        assert sorted(await self._found(scribe, "order")) == ["all", "deep"]
        assert sorted(await self._found(scribe, "order.line.added")) == ["all", "deep"]

    async def test_waits_are_found_by_correlated_values(self, scribe: Scribe) -> None:
        """Only runs that wait for exactly these values are found; numbers compare by value, not by type."""
        await scribe.park("two", wait_of(correlate=(("order.id", 2),)))
        await scribe.park("2.0", wait_of(correlate=(("order.id", 2.0),)))
        await scribe.park("text", wait_of(correlate=(("order.id", "2"),)))
        await scribe.park("none", wait_of(correlate=(("order.id", None),)))
        await scribe.park("pair", wait_of(correlate=(("order.id", 2), ("who", "Zoë"))))
        assert sorted(await self._found(scribe, payload={"order": {"id": 2}})) == ["2.0", "two"]
        assert sorted(await self._found(scribe, payload={"order": {"id": 2.0}})) == ["2.0", "two"]
        assert await self._found(scribe, payload={"order": {"id": "2"}}) == ["text"]
        assert await self._found(scribe, payload={"order": {"id": None}}) == ["none"]
        assert sorted(await self._found(scribe, payload={"order": {"id": 2}, "who": "Zoë"})) == ["2.0", "pair", "two"]

    async def test_an_event_without_the_correlated_path_finds_no_run(self, scribe: Scribe) -> None:
        """A payload without the path, or that is not a mapping, matches no correlated wait and raises nothing."""
        await scribe.park("r1", wait_of(correlate=(("order.id", 2),)))
        payloads: list[Any] = [{}, {"order": 2}, {"order": {}}, [2], "text", 2]
        for payload in payloads:
            assert await self._found(scribe, payload=payload) == []

    async def test_found_runs_come_oldest_first_with_all_their_waits(self, scribe: Scribe) -> None:
        """Runs are found in order of creation, as records with all waits, also those that only buffer."""
        buffering, standing = wait_of("buffers", parked=False), wait_of("stands", "other")
        await scribe.create("b", created_at=NOW + 2, waits=(buffering, standing))
        await scribe.create("c", created_at=NOW + 1, waits=(buffering,))
        await scribe.create("a", created_at=NOW + 2, waits=(buffering,))
        found = await scribe.store.match_waits(event_of("e", "order.approved").event)
        assert [record.identity.run_id for record in found] == ["c", "a", "b"]
        assert found[2] == await scribe.record("b")
        assert found[2].waits == (buffering, standing)

    async def test_waits_that_were_replaced_are_not_found(self, scribe: Scribe) -> None:
        """New waits replace all old ones; a move without waits does not change them."""
        await scribe.create(waits=(wait_of("w", "first"), wait_of("v", "first", "both")))
        await scribe.move(stage="second")
        assert await self._found(scribe, "first") == ["r1"]
        await scribe.move(waits=(wait_of("w", "second", epoch=2), wait_of("v", "both")))
        assert await self._found(scribe, "first") == []
        assert await self._found(scribe, "second") == ["r1"]
        assert await self._found(scribe, "both") == ["r1"]
        await scribe.move(waits=())
        assert await self._found(scribe, "second") == []
        assert (await scribe.store.stats())["waits"] == 0

    @staticmethod
    async def _found(scribe: Scribe, type: str = "order.approved", payload: Any = None) -> list[str]:
        event = Event(type, {} if payload is None else payload)
        return [record.identity.run_id for record in await scribe.store.match_waits(event)]

    # ------------------------------------------------------------------------------------------- state and history
    async def test_state_is_the_fold_of_all_patches(self, scribe: Scribe) -> None:
        """The state is the result of the patches in order: nested ones merge, DELETE removes, None is a value."""
        await scribe.create(log=log_of(1, {"a": {"x": 1, "y": 2}, "b": [1], "c": 1}))
        await scribe.move(log=log_of(2, {"a": {"x": DELETE}, "b": [2, 3]}, None, {"c": None, "d": {"e": DELETE}}))
        assert await scribe.state() == {"a": {"y": 2}, "b": [2, 3], "c": None, "d": {}}
        assert [row.first_seq for row in await scribe.store.history("r1")] == [1, 2]

    async def test_state_keeps_its_types(self, scribe: Scribe) -> None:
        """Dates, decimals and bytes in the state are read back unchanged, also from a snapshot."""
        state = {
            "when": dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
            "day": dt.date(2024, 2, 29),
            "price": decimal.Decimal("1.10"),
            "raw": b"\x00\xff",
            "big": 2**70,
        }
        await scribe.create(log=log_of(1, state))
        assert await scribe.state() == state
        await scribe.move(log=log_of(2, {"n": 1}), snapshot=dump({**state, "n": 1}))
        assert await scribe.state() == {**state, "n": 1}

    async def test_a_snapshot_stands_for_all_before_it(self, scribe: Scribe) -> None:
        """State is read from the last snapshot and the log after it; the history stays complete."""
        await scribe.create(log=log_of(1, {"a": 1}))
        await scribe.move(log=log_of(2, {"a": 2}, None), snapshot=dump({"from": "snapshot"}))
        assert await scribe.state() == {"from": "snapshot"}
        await scribe.move(log=log_of(4, {"b": 3}))
        assert await scribe.state() == {"from": "snapshot", "b": 3}
        await scribe.move(log=log_of(5, {"b": 4}), snapshot=dump({"second": True}))
        assert await scribe.state() == {"second": True}
        assert len(await scribe.store.history("r1")) == 4

    async def test_a_checkpoint_says_how_much_was_folded(self, scribe: Scribe) -> None:
        """A checkpoint has the size of the log since the last snapshot, and of that snapshot, to plan the next one."""

        async def sizes() -> tuple[int, int]:
            checkpoint = await scribe.store.checkpoint("r1")
            assert checkpoint is not None
            return checkpoint.log_size, checkpoint.snapshot_size

        first, second, third = log_of(1, {"a": 1}), log_of(2, {"b": "x" * 50}), log_of(3, {"c": 3}, None)
        await scribe.create(log=first)
        assert await sizes() == (len(first.text), 0)
        await scribe.move(log=second, stage="second")
        assert await sizes() == (len(first.text) + len(second.text), 0)
        snapshot = dump({"a": 1})
        await scribe.move(log=third, snapshot=snapshot)
        assert await sizes() == (0, len(snapshot))
        fourth = log_of(5, {"d": 4})
        await scribe.move(log=fourth, status=READY, owner=None)
        [claim] = await scribe.store.claim("w2", {"orders": 9}, NOW, 1)
        assert (claim.checkpoint.log_size, claim.checkpoint.snapshot_size) == (len(fourth.text), len(snapshot))

    async def test_the_end_of_a_history_can_be_read_alone(self, scribe: Scribe) -> None:
        """The last rows of a log come in order; a larger number than there are rows returns all."""
        rows = [log_of(1, {"n": 0})]
        await scribe.create(log=rows[0])
        for number in range(1, 6):
            rows.append(log_of(2 * number, {"n": number}, None))
            await scribe.move(log=rows[-1])
        for last in range(1, 9):
            assert await scribe.store.history("r1", last) == rows[-last:]
        assert await scribe.store.history("r1") == rows
        assert await scribe.store.history("unknown", 3) == []

    async def test_a_history_can_be_read_from_a_sequence_on(self, scribe: Scribe) -> None:
        """The rows with entries after a sequence come in order, in portions if wanted, also between silent commits."""
        rows: list[LogRow] = []
        await scribe.create()
        for number in range(1, 12):
            first_seq = rows[-1].first_seq + rows[-1].size if rows else 1
            rows.append(log_of(first_seq, *([{"n": number}] * (number % 3 + 1))))
            await scribe.move(log=rows[-1])
            if number % 2:
                await scribe.move()
        last_seq = rows[-1].first_seq + rows[-1].size - 1
        for after in range(last_seq + 3):
            left = [row for row in rows if row.first_seq + row.size - 1 > after]
            assert await scribe.store.history("r1", None, after) == left
            for limit in (1, 3, 100):
                assert await scribe.store.history("r1", None, after, limit) == left[:limit]
        assert await scribe.store.history("unknown", None, 1) == []
        await scribe.create("r2")
        assert await scribe.store.history("r2", None, 1) == []

    async def test_an_event_is_stored_once(self, scribe: Scribe) -> None:
        """Runs and messages with the same event share it; writing it again under its reference adds nothing."""
        event = event_of("shared", "order.approved")
        await scribe.create("r1", event=event)
        await scribe.create("r2", event=event)
        await scribe.park("r2")
        await scribe.deliver("shared", ("r2", "approval", 1))
        assert (await scribe.store.stats())["events"] == 1
        [message] = await scribe.store.inbox("r2", 0)
        assert message.event == event

    @pytest.mark.parametrize("payload", [None, {}, [], 0, "", "text", {"deep": [{"a": None}]}], ids=repr)
    async def test_events_come_back_whole(self, scribe: Scribe, payload: Any) -> None:
        """Every field of an event, and any payload, is read back as it was written."""
        event = Event("a.b", payload, id="i", time=12.25, source="", key="k", headers={"x": "1", "n": 2})
        await scribe.create(event=StoredEvent("e", event))
        checkpoint = await scribe.store.checkpoint("r1")
        assert checkpoint is not None
        assert checkpoint.event == event

    # ------------------------------------------------------------------------------------------------------ lists
    async def test_lists_are_newest_first_and_come_in_pages(self, scribe: Scribe) -> None:
        """`find` orders by creation, then id, newest first; cursors visit every run once."""
        times = [NOW + n // 3 for n in range(20)]
        for n, time in enumerate(times):
            await scribe.create(f"r{n:02}", created_at=time, status=RUNNING if n % 2 else READY)
        expected = [f"r{n:02}" for n in range(20)][::-1]
        for limit in (1, 3, 7, 20, 50):
            assert await self._pages(scribe, limit) == expected

    async def test_pages_are_stable_while_others_write(self, scribe: Scribe) -> None:
        """Runs that are created or change status between two pages are not shown twice and do not hide others."""
        for n in range(10):
            await scribe.create(f"r{n}", created_at=NOW + n)
        page = await scribe.store.find(RunQuery(limit=4))
        assert [record.identity.run_id for record in page.items] == ["r9", "r8", "r7", "r6"]
        await scribe.create("newer", created_at=NOW + 99)
        await scribe.end("r6")
        await scribe.end("r5")
        page = await scribe.store.find(RunQuery(limit=4, cursor=page.next_cursor))
        assert [record.identity.run_id for record in page.items] == ["r5", "r4", "r3", "r2"]

    async def test_the_last_page_has_no_cursor(self, scribe: Scribe) -> None:
        """The last page has no cursor, also when it is full."""
        for n in range(4):
            await scribe.create(f"r{n}")
        assert (await scribe.store.find(RunQuery(limit=4))).next_cursor is None
        first = await scribe.store.find(RunQuery(limit=2))
        assert first.next_cursor is not None
        assert (await scribe.store.find(RunQuery(limit=2, cursor=first.next_cursor))).next_cursor is None

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"workflow": "other"}, ["d"]),
            ({"workflow": "oth"}, []),
            ({"status": (PAUSED,)}, ["b"]),
            ({"status": (PAUSED, COMPLETED, PAUSED)}, ["c", "b"]),
            ({"key": "K1"}, ["c", "a"]),
            ({"key": "k1"}, []),
            ({"since": NOW + 1}, ["d", "c", "b"]),
            ({"until": NOW + 1}, ["a"]),
            ({"since": NOW + 1, "until": NOW + 3}, ["c", "b"]),
            ({"text": "K1"}, ["c", "a"]),
            ({"text": "k1"}, ["c", "a"]),
            ({"text": "ÄRGER"}, ["b"]),
            ({"text": "order.PLACED"}, ["c", "b", "a"]),
            ({"text": "kaputt"}, ["c"]),
            ({"text": "%"}, []),
            ({"text": "_"}, []),
            ({"text": "'; DROP TABLE runs; --"}, []),
            ({"text": ""}, ["d", "c", "b", "a"]),
            ({"key": "K1", "status": (RUNNING,), "workflow": "orders", "text": "A"}, ["a"]),
        ],
        ids=str,
    )
    async def test_lists_can_be_narrowed(self, scribe: Scribe, query: dict[str, Any], expected: list[str]) -> None:
        """Workflow, status, key are exact, `since` inclusive, `until` exclusive; text matches anywhere, in any case."""
        await scribe.create("a", key="K1", created_at=NOW)
        await scribe.create("b", key="ärger", created_at=NOW + 1)
        await scribe.park("b")
        await scribe.create("c", key="K1", created_at=NOW + 2)
        await scribe.move("c", status=COMPLETED, owner=None, outcome='{"error":{"message":"Kaputt"}}')
        event = event_of("e9", "shipment.sent")
        await scribe.create("d", created_at=NOW + 3, workflow="other", event=event)
        found = [record.identity.run_id for record in (await scribe.store.find(RunQuery(**query))).items]
        assert found == expected

    async def test_narrowed_lists_have_pages_too(self, scribe: Scribe) -> None:
        """Cursors also work with filters."""
        for n in range(12):
            await scribe.create(f"r{n:02}", created_at=NOW + n, key="even" if n % 2 == 0 else None)
        expected = ["r10", "r08", "r06", "r04", "r02", "r00"]
        assert await self._pages(scribe, 2, key="even") == expected
        assert await self._pages(scribe, 4, text="EVEN") == expected

    @pytest.mark.parametrize(
        "cursor",
        ["", "x", "%%%", "bnVsbA==", "e30=", "WzEsMiwzXQ==", "W3siJHR5cGUiOiJkZWNpbWFsIiwidmFsdWUiOiJ4In0sMV0="],
    )
    async def test_a_cursor_that_is_none_is_refused(self, scribe: Scribe, cursor: str) -> None:
        """An invalid cursor raises `InvalidEvent`, which names the field."""
        await scribe.create()
        with pytest.raises(InvalidEvent) as refused:
            await scribe.store.find(RunQuery(cursor=cursor))
        assert refused.value.path == "cursor"

    async def test_lists_show_what_runs_wait_for(self, scribe: Scribe) -> None:
        """A listed record is the run's record, waits included."""
        await scribe.park("r1")
        [record] = (await scribe.store.find(RunQuery())).items
        assert record == await scribe.record("r1")
        assert record.waits == (wait_of(),)

    @staticmethod
    async def _pages(scribe: Scribe, limit: int, **filters: Any) -> list[str]:
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = await scribe.store.find(RunQuery(limit=limit, cursor=cursor, **filters))
            assert len(page.items) <= limit
            seen += [record.identity.run_id for record in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return seen

    async def test_stats_count(self, scribe: Scribe) -> None:
        """`stats` counts runs per status, waits, events and successful commits."""
        before = await scribe.store.stats()
        await scribe.create("r1")
        await scribe.create("r2")
        await scribe.park("r3", wait_of("a"), wait_of("b"))
        with pytest.raises(RunExists):
            await scribe.create("r1")
        stats = await scribe.store.stats()
        assert (stats["running"], stats["paused"], stats["waits"], stats["events"]) == (2, 1, 2, 3)
        assert stats["commits"] - before["commits"] == 4
        assert stats["syncs"] - before["syncs"] <= 4

    # ---------------------------------------------------------------------------------------- closing and crashing
    async def test_closing_twice_does_nothing(self, store_factory: StoreFactory) -> None:
        """A store can be closed twice, and also if it was never opened."""
        store = store_factory()
        await store.close()
        await store.open("w1")
        await store.close()
        await store.close()

    async def test_data_outlives_the_store_that_wrote_it(self, store_factory: StoreFactory) -> None:
        """What was acknowledged is there for the next store that opens the data, which has the same id."""
        store, scribe = await self._opened(store_factory)
        await self._furnish(scribe)
        before = await scribe.everything(receipts=["e2"])
        store_id = store.store_id
        await store.close()
        store, scribe = await self._opened(store_factory)
        assert store.store_id == store_id
        after = await scribe.everything(receipts=["e2"])
        running = after.pop("running")
        assert {**before, "stats": after["stats"], "running": None} == {**after, "running": None}
        assert running[1:] == before["running"][1:]
        await store.close()

    @pytest.mark.parametrize("worker", ["w1", "w2"])
    async def test_a_dead_owners_runs_are_given_back(self, store_factory: StoreFactory, worker: str) -> None:
        """After a crash, runs that were running are `ready` in a new epoch, for any name of the new worker."""
        store, scribe = await self._opened(store_factory)
        await scribe.create("r1", log=log_of(1, {"a": 1}))
        await scribe.park("parked")
        await scribe.create("queued", status=QUEUED, load_key="")
        stale = move_of(await scribe.record("r1"), stage="second")
        await store_factory.crash(store)
        store, scribe = await self._opened(store_factory, worker)
        head = (await scribe.record("r1")).head
        assert (head.status, head.epoch, head.version) == (READY, 2, 2)
        assert [(await scribe.record(run)).head.version for run in ("parked", "queued")] == [2, 1]
        with pytest.raises(LeaseLost):
            await store.commit(Changes(moves=(stale,)))
        [claim] = await store.claim(worker, {"orders": 9}, NOW, 10)
        head = claim.checkpoint.record.head
        assert (claim.recovered, head.status, head.owner, head.attempt, head.epoch) == (True, RUNNING, worker, 2, 3)
        assert claim.checkpoint.state == {"a": 1}
        await store.close()

    async def test_a_run_released_by_its_owner_counts_no_attempt(self, scribe: Scribe) -> None:
        """A run that its owner released at its stop is claimed without a new attempt, because nothing was lost."""
        await scribe.create()
        await scribe.move(status=READY, owner=None)
        [claim] = await scribe.store.claim("w2", {"orders": 9}, NOW, 10)
        assert (claim.recovered, claim.checkpoint.record.head.attempt) == (False, 1)

    async def test_waits_and_loads_work_on_after_a_crash(self, store_factory: StoreFactory) -> None:
        """After a crash waits are found, tokens are valid, keys are stored, and the queue keeps its order."""
        store, scribe = await self._opened(store_factory)
        await self._furnish(scribe)
        await store_factory.crash(store)
        store, scribe = await self._opened(store_factory)
        event = event_of("e9", "order.approved", {"id": 5}).event
        assert [record.identity.run_id for record in await store.match_waits(event)] == ["parked"]
        assert await scribe.load() == (Load(active=1, queued=2, tail_id="q2"), Token(7, 0))
        with pytest.raises(KeysTaken):
            await store.commit(Changes(remember=(Remember("/shop", "e2", "", "f", None, NOW + 9),), now=NOW))
        await scribe.create("q0", status=QUEUED, load_key="")
        await scribe.change_load(Load(active=1, queued=3, tail_id="q0"))
        assert await scribe.release(slots=3) == ("q9", "q2", "q0")
        assert await scribe.deliver("e9", ("parked", "approval", 1)) == (Delivered(Fate.RESUMED, 1),)
        assert await store.match_waits(event) != []
        await scribe.end("parked")
        assert await store.match_waits(event) == []
        await store.close()

    async def test_closing_finishes_what_was_submitted(self, store_factory: StoreFactory) -> None:
        """Commits that were submitted before `close` are written and acknowledged."""
        store, scribe = await self._opened(store_factory)
        async with asyncio.TaskGroup() as tasks:
            commits = [tasks.create_task(scribe.create(f"r{n}")) for n in range(20)]
            await asyncio.sleep(0)  # noqa: TID251 - lets all of them submit
            await store.close()
        assert all(commit.result() == Committed() for commit in commits)
        store, scribe = await self._opened(store_factory)
        assert len((await store.find(RunQuery(limit=50))).items) == 20
        await store.close()

    # ------------------------------------------------------------------------------------------ deleting ended runs
    async def test_a_deleted_run_is_gone_with_all_its_rows(self, scribe: Scribe) -> None:
        """Run, log, snapshot and event are gone, and the figures are as if it had never been; others stay."""
        await self._furnish(scribe)
        before = await scribe.everything()
        await scribe.create("gone", log=log_of(1, {"a": 1}))
        await scribe.move("gone", log=log_of(2, {"b": 2}), snapshot='{"a":1,"b":2}')
        await scribe.end("gone")
        assert (await scribe.record("gone")).head.status is COMPLETED
        await scribe.delete("gone")
        await scribe.prune(NOW)
        assert await scribe.store.load("gone") is None
        assert await scribe.store.checkpoint("gone") is None
        assert await scribe.store.history("gone") == []
        assert await scribe.everything() == before
        await scribe.create("gone", log=log_of(1, {"again": True}))
        assert await scribe.state("gone") == {"again": True}

    async def test_a_run_is_deleted_only_as_it_was_read(self, scribe: Scribe) -> None:
        """One that has not ended, or has changed since it was read, stays; so do all others of the same commit."""
        await scribe.create("r1")
        await scribe.create("r2")
        await scribe.end("r2")
        version = (await scribe.record("r2")).head.version
        with pytest.raises(StaleVersion):
            await scribe.delete("r2", "r1")
        with pytest.raises(StaleVersion):
            await scribe.commit(Changes(deletes=(RunDelete("r2", version - 1),), now=NOW))
        assert [run.run_id for run in await scribe.ended()] == ["r2"]

    async def test_a_run_takes_the_place_of_a_deleted_one(self, scribe: Scribe) -> None:
        """One commit deletes an ended run and creates another one of its id, which has nothing of the first."""
        await scribe.create("r1", log=log_of(1, {"old": 1}))
        await scribe.commit(Changes(posts=(Post("r1", "signal", {"a": 1}, NOW),)))
        await scribe.move("r1", log=log_of(2, {"b": 2}), snapshot='{"old":1,"b":2}')
        await scribe.end("r1")
        version = (await scribe.record("r1")).head.version
        made = scribe.creation("r1", log=log_of(1, {"new": 1}))
        stale = replace(made, deletes=(RunDelete("r1", version - 1),), now=NOW)
        with pytest.raises(StaleVersion):
            await scribe.commit(stale)
        assert await scribe.state("r1") == {"old": 1, "b": 2}
        key = Remember("/invoke", "k", "/", "f", "r1", WITH_ITS_RUN)
        await scribe.commit(replace(made, deletes=(RunDelete("r1", version),), remember=(key,), now=NOW))
        record = await scribe.record("r1")
        assert (record.head.status, record.head.version, record.head.inbox_seq, record.waits) == (RUNNING, 1, 0, ())
        assert await scribe.state("r1") == {"new": 1}
        assert await scribe.store.history("r1") == [log_of(1, {"new": 1})]
        assert await scribe.store.inbox("r1", 0) == []
        assert [run.identity.run_id for run in (await scribe.store.find(RunQuery(limit=9))).items] == ["r1"]
        with pytest.raises(KeysTaken):
            await scribe.commit(Changes(remember=(key,), now=NOW))
        await scribe.end("r1")
        assert [run.run_id for run in await scribe.ended()] == ["r1"]
        await scribe.delete("r1")
        assert await scribe.store.load("r1") is None
        await scribe.commit(Changes(remember=(key,), now=NOW))

    async def test_ended_runs_are_read_in_the_order_of_their_creation(self, scribe: Scribe) -> None:
        """Page after page, parents before their children; runs that have not ended are left out."""
        await scribe.create("b", workflow="other")
        await scribe.create("c", parent="b")
        await scribe.create("a")
        await scribe.create("lost", parent="unknown")
        await scribe.park("waiting")
        for run_id in ("a", "c", "b", "lost"):
            await scribe.end(run_id)
        for limit in (1, 2, 100):
            found = await scribe.ended(limit)
            assert [(run.run_id, run.workflow_id, run.parent_id, run.orphan) for run in found] == [
                ("b", "other", None, False),
                ("c", "orders", "b", False),
                ("a", "orders", None, False),
                ("lost", "orders", "unknown", True),
            ], limit
        assert {run.status for run in found} == {COMPLETED}
        assert {run.ended_at for run in found} == {(await scribe.record("a")).head.updated_at}
        await scribe.delete("b")
        assert [(run.run_id, run.orphan) for run in await scribe.ended()] == [("c", True), ("a", False), ("lost", True)]

    async def test_an_idempotency_key_goes_with_its_run(self, scribe: Scribe) -> None:
        """Once the run is deleted the key can be used again; keys of other runs stay taken."""
        keys = {
            run_id: Remember("/invoke/orders", f"k-{run_id}", "/", "f", run_id, WITH_ITS_RUN) for run_id in ("r1", "r2")
        }
        for run_id, key in keys.items():
            await scribe.create(run_id, remember=(key,))
            await scribe.end(run_id)
        await scribe.delete("r1")
        with pytest.raises(KeysTaken):
            await scribe.commit(Changes(remember=(keys["r2"],), now=NOW))
        await scribe.create("r1", remember=(keys["r1"],))
        with pytest.raises(KeysTaken):
            await scribe.commit(Changes(remember=(keys["r1"],), now=NOW))

    async def test_an_event_stays_while_a_run_or_an_inbox_refers_to_it(self, scribe: Scribe) -> None:
        """An event that started several runs goes with the last of them; one in an inbox stays for that run."""
        store = scribe.store
        await scribe.park("waiting", wait_of("w", parked=False))
        event = event_of("shared", "order.approved")
        line = ReceiptLine(Verdict.BUFFERED, "orders")
        creates = [create for run_id in ("r1", "r2") for create in scribe.creation(run_id, event=event).creates]
        delivery = Delivery("waiting", (Hit("w", 1),), "shared", None, line)
        await scribe.commit(Changes(creates=tuple(creates), events=(event,), deliveries=(delivery,), now=NOW))
        for run_id in ("r1", "r2"):
            await scribe.end(run_id)
        await scribe.delete("r1")
        await scribe.prune(NOW)
        checkpoint = await store.checkpoint("r2")
        assert checkpoint is not None
        assert checkpoint.event == event.event
        await scribe.delete("r2")
        await scribe.prune(NOW)
        [message] = await store.inbox("waiting", 0)
        assert message.event is not None
        assert message.event.event == event.event
        before = (await store.stats())["events"]
        await scribe.move("waiting", consumed=(1,))
        await scribe.prune(NOW)
        assert (await store.stats())["events"] == before - 1

    async def test_the_outbox_does_not_depend_on_its_run(self, scribe: Scribe) -> None:
        """What a deleted run has left in the outbox is deleted by its own moves, not with the run."""
        await scribe.create("r1")
        await scribe.move("r1", outgoing=outgoing_of("o1", "o2"))
        await scribe.end("r1")
        await scribe.delete("r1")
        rows = await scribe.outbox()
        assert [row.run_id for row in rows] == ["r1", "r1"]
        await scribe.mark(rows[0])
        assert len(await scribe.outbox()) == 1

    async def test_the_log_of_a_deleted_run_may_be_long(self, scribe: Scribe) -> None:
        """Nothing of it is left in the end, and a new run of the same id has a log of its own."""
        await scribe.create("r1", log=log_of(1, {"n": 0}))
        for number in range(1, 600):
            await scribe.move("r1", log=log_of(number + 1, {"n": number}))
        await scribe.end("r1")
        await scribe.delete("r1")
        assert await scribe.store.history("r1") == []
        await scribe.create("r1", log=log_of(1, {"m": 1}))
        await scribe.prune(NOW, 50)
        assert await scribe.state("r1") == {"m": 1}
        assert len(await scribe.store.history("r1")) == 1

    async def test_pruning_on_request_comes_to_an_end(self, scribe: Scribe) -> None:
        """Expired receipts and keys are deleted in steps and counted; what has not expired stays."""
        line = ReceiptLine(Verdict.DROPPED, "orders", "placed", None, "full")
        for number in range(30):
            name = f"e{number:02}"
            key = Remember("/shop", name, "orders/placed", "f", None, NOW + (DAY if number < 20 else 30 * DAY))
            receipt = ReceiptRow("/shop", name, NOW, (line,))
            await scribe.commit(Changes(remember=(key,), receipt=receipt, now=NOW))
        assert await scribe.prune(NOW + 60) == (0, 0)
        assert await scribe.prune(NOW + 2 * DAY) == (0, 20)
        assert await scribe.prune(NOW + 20 * DAY) == (20, 0)
        assert await scribe.store.receipt("/shop", "e00") is None
        assert await scribe.store.receipt("/shop", "e29") is not None
        assert await scribe.prune(NOW + 60 * DAY) == (10, 10)

    async def test_receipts_are_kept_as_long_as_retention_says(self, scribe: Scribe) -> None:
        """A store that can be told keeps receipts so long, and those of events that nobody wanted for another time."""
        retain = getattr(scribe.store, "retain", None)
        if retain is None:
            return
        retain(20 * DAY, 2 * DAY)
        for name, verdict in (("wanted", Verdict.DROPPED), ("unwanted", Verdict.UNMATCHED)):
            row = ReceiptRow("/shop", name, NOW, (ReceiptLine(verdict),))
            await scribe.commit(Changes(receipt=row, now=NOW))
        assert await scribe.prune(NOW + DAY) == (0, 0)
        assert await scribe.prune(NOW + 3 * DAY) == (1, 0)
        assert await scribe.store.receipt("/shop", "unwanted") is None
        assert await scribe.prune(NOW + 19 * DAY) == (0, 0)
        assert await scribe.prune(NOW + 21 * DAY) == (1, 0)

    @staticmethod
    async def _opened(store_factory: StoreFactory, worker: str = "w1") -> tuple[Store, Scribe]:
        store = store_factory()
        await store.open(worker)
        return store, Scribe(store)

    @staticmethod
    async def _furnish(scribe: Scribe) -> None:
        """Write data of every kind."""
        store = scribe.store
        await scribe.create("running", log=log_of(1, {"a": 1}), waits=(wait_of("w", "never", parked=False),))
        await store.commit(Changes(posts=(Post("running", "signal", {"x": 1}, NOW),)))
        await scribe.move("running", log=log_of(2, {"b": 2}), snapshot=dump({"a": 1, "b": 2}))
        await scribe.park("parked", wait_of(correlate=(("id", 5),)), wake_at=NOW + 60)
        await scribe.create("ended")
        await scribe.end("ended")
        await scribe.move("running", outgoing=outgoing_of("o1", "o2"))
        await scribe.mark((await scribe.outbox())[0], True, 2, "{}", NOW)
        await scribe.create("q9", status=QUEUED, load_key="")
        await scribe.create("q2", status=QUEUED, load_key="")
        await scribe.change_load(Load(active=1, queued=2, tail_id="q2"))
        line = ReceiptLine(Verdict.DROPPED, "orders", "placed", None, "full")
        await store.commit(
            Changes(
                remember=(Remember("/shop", "e2", "", "f", None, NOW + 90),),
                receipt=ReceiptRow("/shop", "e2", NOW, (line,)),
                now=NOW,
            )
        )
