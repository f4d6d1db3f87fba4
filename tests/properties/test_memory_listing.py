"""The memory store finds, claims and counts by index exactly what a look at all runs would find, claim and count."""

from __future__ import annotations

import asyncio

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from poundlock.model.lifecycle import MOVES, RunStatus
from poundlock.model.priorities import rank
from poundlock.model.runs import RunQuery
from poundlock.stores import MemoryStore
from poundlock.testing.store_contract import Scribe, wait_of

IDS = st.sampled_from("abcdefghij")
WORKFLOWS = ("orders", "other", "third")
KEYS = st.sampled_from([None, "k", "l"])
TIMES = st.integers(1, 5).map(float)
OWNED = [RunStatus.RUNNING]
DUE = (RunStatus.PAUSED, RunStatus.DELAYED)
LIVE = [RunStatus.READY, RunStatus.RUNNING, *DUE]
queries = st.builds(
    RunQuery,
    workflow=st.sampled_from([None, *WORKFLOWS, "unknown"]),
    status=st.lists(st.sampled_from([*LIVE, RunStatus.COMPLETED, RunStatus.FAILED]), max_size=3).map(tuple),
    key=KEYS,
    text=st.sampled_from([None, None, "k", "B"]),
    since=st.none() | TIMES,
    until=st.none() | TIMES,
    limit=st.integers(1, 4),
)


def age(record):
    """The order of lists."""
    return (record.identity.created_at, record.identity.run_id)


def fits(query, record):
    """What a query means, run by run."""
    identity, head = record.identity, record.head
    texts = (identity.run_id, identity.key, "order.placed", head.outcome)
    return (
        query.workflow in (None, identity.workflow_id)
        and (not query.status or head.status in query.status)
        and query.key in (None, identity.key)
        and (query.since is None or identity.created_at >= query.since)
        and (query.until is None or identity.created_at < query.until)
        and (query.text is None or any(query.text.lower() in (text or "").lower() for text in texts))
    )


class Indexes(RuleBasedStateMachine):
    """A memory store, beside a look at all its runs."""

    @initialize()
    def open(self):
        self.runner = asyncio.Runner()
        self.store = MemoryStore(keep=3)
        self.scribe = Scribe(self.store)
        self.runner.run(self.store.open("w1"))

    def teardown(self):
        self.runner.close()

    def records(self):
        """All runs, one by one by their ids."""
        found = [self.runner.run(self.store.load(run_id)) for run_id in "abcdefghij"]
        return [record for record in found if record is not None]

    # ------------------------------------------------------------------------------------------------------ writes
    @rule(
        run_id=IDS,
        status=st.sampled_from([*LIVE, RunStatus.COMPLETED]),
        workflow=st.sampled_from(WORKFLOWS),
        key=KEYS,
        created_at=TIMES,
        wake_at=TIMES,
        priority=st.integers(0, 1),
    )
    def create(self, run_id, status, wake_at, **options):
        """Create a run, also one that is older than others; one that was deleted may be created again."""
        if self.runner.run(self.store.load(run_id)) is None:
            wake_at = wake_at if status in DUE else None
            self.runner.run(self.scribe.create(run_id, status=status, wake_at=wake_at, **options))

    @rule(run_id=IDS, wake_at=st.none() | TIMES, unfit=st.booleans(), waits=st.integers(0, 2), data=st.data())
    def move(self, run_id, wake_at, unfit, waits, data):
        """Move a run to any status that the life cycle allows."""
        record = self.runner.run(self.store.load(run_id))
        if record is None or record.head.status.terminal:
            return
        status = data.draw(st.sampled_from(sorted(MOVES[record.head.status])))
        self.runner.run(
            self.scribe.move(
                run_id,
                status=status,
                owner="w1" if status in OWNED else None,
                wake_at=wake_at if status in DUE else None,
                outcome='{"error":null}' if unfit and status is RunStatus.PAUSED else None,
                waits=None if status.terminal else tuple(wait_of(f"w{number}") for number in range(waits)),
            )
        )

    @rule()
    def reopen(self):
        """Another runtime takes the store over."""
        self.runner.run(self.store.open("w2"))

    @rule(workflows=st.sets(st.sampled_from(WORKFLOWS)), now=TIMES, limit=st.integers(1, 3))
    def claim(self, workflows, now, limit):
        """A claim takes the most urgent of all runs that are ready or due; the clock may have been set back."""
        expected = sorted(
            (
                rank(record.identity.priority, record.head.updated_at if ready else record.head.wake_at),
                record.identity.run_id,
            )
            for record in self.records()
            if record.identity.workflow_id in workflows
            and (
                (ready := record.head.status is RunStatus.READY)
                or (record.head.status in DUE and record.head.wake_at is not None and record.head.wake_at <= now)
            )
        )
        claims = self.runner.run(self.store.claim("w1", dict.fromkeys(workflows, 99), now, limit))
        assert [claim.checkpoint.record.identity.run_id for claim in claims] == [
            run_id for _, run_id in expected[:limit]
        ]

    # ------------------------------------------------------------------------------------------------------- reads
    @rule(query=queries)
    def find(self, query):
        """Pages, one after another, have every run that fits once, newest first."""
        expected = sorted((record for record in self.records() if fits(query, record)), key=age, reverse=True)
        cursor = None
        while True:
            page = self.runner.run(self.store.find(RunQuery(**{**vars_of(query), "cursor": cursor})))
            assert page.items == expected[: query.limit]
            assert (page.next_cursor is None) == (len(expected) <= query.limit)
            expected = expected[query.limit :]
            cursor = page.next_cursor
            if cursor is None:
                return

    @rule(workflows=st.sets(st.sampled_from(WORKFLOWS)))
    def next_due(self, workflows):
        """The next time is the earliest of all runs of these workflows that are paused or delayed until one."""
        times = [
            record.head.wake_at
            for record in self.records()
            if record.identity.workflow_id in workflows and record.head.status in DUE
        ]
        earliest = min((when for when in times if when is not None), default=None)
        assert self.runner.run(self.store.next_due(workflows)) == earliest

    @invariant()
    def counts_and_unfit(self):
        """Counters are what counting gives, and the runs paused with an error are found."""
        records = self.records()
        stats = self.runner.run(self.store.stats())
        for status in RunStatus:
            assert stats.get(str(status), 0) == sum(record.head.status is status for record in records)
        assert stats["waits"] == sum(len(record.waits) for record in records)
        for workflow in WORKFLOWS:
            unfit = {
                record.identity.run_id
                for record in records
                if record.identity.workflow_id == workflow
                and record.head.status is RunStatus.PAUSED
                and record.head.outcome is not None
            }
            assert {record.identity.run_id for record in self.runner.run(self.store.unfit(workflow))} == unfit


def vars_of(query):
    """A query's fields; it has slots, so `vars` does not know them."""
    return {name: getattr(query, name) for name in query.__dataclass_fields__}


TestIndexes = Indexes.TestCase
