"""The maintainer's desk is killed again and again, and ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from support import DONE, LAST_RESORT

from poundlock.model.runs import RunQuery
from poundlock.model.timeline import Timeline, read_entries
from poundlock.stores.sqlite import SqliteStore

pytestmark = pytest.mark.acceptance

DESK = Path(__file__).resolve().parents[2] / "examples" / "maintainer_desk.py"
KILLS = 10
INF = float("inf")
SAME = ("triage", "gate", "releases")
"""Workflows that must end alike. How a deployment or a status fares depends on what else is going on right then."""


class Desk:
    """A store file, and the processes that feed real events to the desk on it."""

    def __init__(self, start, file, events):
        self._start = start
        words = ("--store", f"sqlite:///{file}", "--receipts", "--json", "--timeout", LAST_RESORT / 2)
        self._command = ("run", DESK, "--events", events, *words)
        self.file = file
        self.handed_out = Counter()

    def kill_after(self, receipts, grace):
        """Let a process work until it has printed so many receipts or all, then `grace` seconds more, and kill it."""
        process = self._start(*self._command, victim=True, stderr=subprocess.STDOUT)
        while receipts and (text := process.stdout.readline()) != DONE:
            assert text, "it ended before it was killed"
            receipts -= bool(self._took(text))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
        process.kill()
        for text in process.communicate()[0].splitlines(keepends=True):
            if text != DONE:
                self._took(text)
        return process.returncode

    def finish(self):
        """Let a process work to the end and return what it says at the end."""
        process = self._start(*self._command, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=LAST_RESORT)
        lines = output.splitlines()
        assert process.returncode == 0, output
        for text in lines[:-1]:
            self._took(text)
        return json.loads(lines[-1])

    def _took(self, text):
        """Note a printed receipt; a line cut off by the kill says nothing."""
        try:
            receipt = json.loads(text)
        except ValueError:
            assert text.startswith('{"'), text  # anything else than a receipt is a complaint
            return 0
        if "line" not in receipt:
            return 0
        self.handed_out[receipt["line"]] += 1
        return receipt["line"]

    def read(self):
        """Return all runs with their checkpoints and timelines, and the receipts of these events."""
        lines = Path(self._command[3]).read_text(encoding="utf-8").splitlines()
        return asyncio.run(self._read([json.loads(line) for line in lines]))

    async def _read(self, events):
        store = SqliteStore(self.file, readonly=True)
        await store.open("test")
        try:
            runs = []
            cursor = None
            while True:
                page = await store.find(RunQuery(limit=500, cursor=cursor))
                for record in page.items:
                    run_id = record.identity.run_id
                    timeline = Timeline(run_id, read_entries(await store.history(run_id)))
                    runs.append((await store.checkpoint(run_id), timeline))
                cursor = page.next_cursor
                if cursor is None:
                    break
            receipts = [await store.receipt(event["source"], event["id"]) for event in events]
        finally:
            await store.close()
        return runs, receipts


def outcome(runs):
    """Return what has to be alike, by workflow and the event that began the run."""
    told = {}
    for checkpoint, timeline in runs:
        identity, head, waits = checkpoint.record
        if identity.workflow_id not in SAME:
            continue
        told[identity.workflow_id, checkpoint.event.id] = {
            "key": identity.key,
            "status": head.status,
            "stage": head.stage,
            "outcome": head.outcome,
            "state": checkpoint.state,
            "waits": sorted((row.wait_id, row.parked, row.events, row.correlate) for row in waits),
            "stages": timeline.path(),
        }
    return told


def spans(runs, workflow):
    """Return, per key, from when to when runs were active, in order; None where they still are."""
    by_key = {}
    for checkpoint, timeline in runs:
        identity, head, _ = checkpoint.record
        if identity.workflow_id == workflow:
            begun = timeline.entries[0].time
            end = timeline.entries[-1].time if head.status.terminal else None
            by_key.setdefault(identity.load_key, []).append((begun, end))
    return {key: sorted(found) for key, found in by_key.items()}


def assert_one_at_a_time(runs, workflow):
    for key, found in spans(runs, workflow).items():
        for (_, end), (begun, _) in pairwise(found):
            assert (end or INF) <= begun, f"two runs of {workflow} at once for {key!r}: {found}"


def assert_nothing_twice(runs):
    begun = Counter((checkpoint.record.identity.workflow_id, checkpoint.event.id) for checkpoint, _ in runs)
    assert [what for what, times in begun.items() if times > 1] == []
    for _, timeline in runs:
        types = Counter(timeline.types())
        assert types["run:created"] == 1
        # A stage that was finished is never begun again: each beginning that was written has its own end.
        ended = types["stage:success"] + types["stage:failure"]
        assert types["stage:start"] - ended in (0, 1)
        used = Counter(entry.payload["event"]["id"] for entry in timeline.entries if entry.type == "wait:matched")
        assert [event for event, times in used.items() if times > 1] == []


def assert_releases_in_order(runs):
    """Serialized: a release begins its first stage only after the one before it has ended."""
    releases = sorted(
        (checkpoint.record.identity.created_at, timeline)
        for checkpoint, timeline in runs
        if checkpoint.record.identity.workflow_id == "releases"
    )
    worked = [
        (next(entry.time for entry in timeline.entries if entry.type == "stage:start"), timeline.entries[-1].time)
        for _, timeline in releases
    ]
    assert [begun for (_, end), (begun, _) in pairwise(worked) if begun < end] == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, real_events):
    """What the events come to when nobody disturbs them."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def begin(*words, **options):
        options = {"stdout": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen([sys.executable, "-m", "poundlock", *map(str, words)], **options)

    desk = Desk(begin, folder / "desk.db", real_events)
    desk.finish()
    return desk.read()


def test_undisturbed_desk_shows_every_workflow(undisturbed):
    """The real events begin runs of all five workflows, some of which end and some of which wait."""
    runs, receipts = undisturbed
    statuses = {(checkpoint.record.identity.workflow_id, str(checkpoint.record.head.status)) for checkpoint, _ in runs}
    assert statuses >= {
        ("triage", "completed"),
        ("triage", "paused"),
        ("gate", "paused"),
        ("releases", "completed"),
        ("deployments", "completed"),
        ("deployments", "paused"),
        ("watcher", "completed"),
    }
    verdicts = {str(line.verdict) for receipt in receipts for line in receipt}
    # On a slow machine nothing is queued or signalled: a run has ended before the next line comes.
    # The repeated events are not seen here: a copy leaves the receipt of the first one.
    assert verdicts >= {"started", "rejected", "resumed", "filtered", "unmatched"}
    assert_nothing_twice(runs)
    assert_one_at_a_time(runs, "deployments")
    assert_one_at_a_time(runs, "watcher")
    assert_releases_in_order(runs)


def test_killed_desk_ends_like_an_undisturbed_one(start, tmp_path, real_events, undisturbed):
    """Killed ten times and started again on the same file, the desk comes to the same end; no event counts twice."""
    seed = int(os.environ.get("POUNDLOCK_SEED") or random.SystemRandom().randrange(10**6))
    print(f"repeat with POUNDLOCK_SEED={seed}")  # noqa: T201 - shown where the test fails
    chance = random.Random(seed)
    total = len(real_events.read_text(encoding="utf-8").splitlines())
    desk = Desk(start, tmp_path / "desk.db", real_events)
    codes = []
    for kills_left in range(KILLS, 0, -1):
        lines_left = total - len(desk.handed_out)
        if chance.random() < 0.3:  # at any moment of starting and taking over, or soon after
            when = (0, chance.uniform(0.1, 0.5))
        else:
            when = (chance.randint(1, max(1, 2 * lines_left // (kills_left + 2))), chance.choice([0, 0.01]))
        print(f"kill after {when[0]} receipts and {when[1]:.3f} s")  # noqa: T201 - the same
        codes.append(desk.kill_after(*when))
    assert codes == [-9] * KILLS
    # Once more when all lines are fed and runs may still be on their way.
    assert desk.kill_after(total - len(desk.handed_out), chance.uniform(0, 0.1)) == -9
    summary = desk.finish()
    runs, receipts = desk.read()

    assert summary["already_handled"] + summary["emitted"] == summary["lines"] == total
    assert summary["rested"]
    assert [line for line, receipt in enumerate(receipts, 1) if receipt is None] == []
    # Its receipt was durable when a line was printed, so no other process has fed it again; but of an event that was
    # sent twice the second line has no receipt of its own to be known by.
    ids = [json.loads(line)["id"] for line in real_events.read_text(encoding="utf-8").splitlines()]
    assert [line for line, times in desk.handed_out.items() if times > 1 and ids[line - 1] not in ids[: line - 1]] == []
    assert_nothing_twice(runs)
    assert_one_at_a_time(runs, "deployments")
    assert_one_at_a_time(runs, "watcher")
    assert_releases_in_order(runs)
    assert outcome(runs) == outcome(undisturbed[0])
