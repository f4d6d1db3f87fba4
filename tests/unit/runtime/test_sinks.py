"""Sinks: other places get the entries of all runs, behind their commits, and never delay or fail a run."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import threading

import pytest

from poundlock import InvalidDefinition, StoreUnavailable, Terminate, Workflow, WorkflowRuntime
from poundlock.codecs import dump
from poundlock.model.changes import Committed, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import LogRow
from poundlock.runtime import sinks as sinks_module
from poundlock.runtime.watching import Watching
from poundlock.sinks import JsonLines
from poundlock.testing import memory_timeline, run_until_idle


def looping(rounds=3):
    wf = Workflow("w")
    wf.on("begin")

    @wf.step(then="go")
    def go(n: int = 0):
        return Terminate("done", patch={"n": n + 1}) if n + 1 == rounds else {"n": n + 1}

    return wf


def hooked(gate):
    wf = Workflow("w")
    wf.on("begin")

    @wf.step
    async def first():
        await gate()
        return {"a": 1}

    wf.wait("answer", on="answered")
    return wf


class Plain:
    """A sink with a plain method; it notes in which threads it was called."""

    def __init__(self):
        self.got = {}
        self.threads = set()

    def write(self, run_id, entries):
        self.threads.add(threading.get_ident())
        self.got.setdefault(run_id, []).extend(entries)


async def test_every_kind_of_sink_gets_every_entry(stores):
    """Async or plain, function or object: each gets the entries of all runs, in order; plain ones in a thread."""
    kept, plain, seen, lines = memory_timeline(), Plain(), [], []
    rt = await stores.enter(
        looping(), sinks=[kept, plain, lambda run_id, entries: seen.append(run_id), lambda *each: later(lines, *each)]
    )
    runs = [await rt.run("w") for _ in range(3)]
    await run_until_idle(stores)
    for run in runs:
        whole = await rt.timeline(run.run_id)
        assert kept.of(run.run_id).entries == whole.entries
        assert plain.got[run.run_id] == list(whole.entries)
        assert [entry for run_id, entries in lines if run_id == run.run_id for entry in entries] == list(whole.entries)
    assert kept.runs == [run.run_id for run in runs]
    assert set(seen) == set(kept.runs)
    assert threading.get_ident() not in plain.threads
    assert kept.of("nobody").entries == ()
    assert not {name for name in rt.statistics() if name.startswith("sinks")}


async def later(lines, run_id, entries):
    lines.append((run_id, entries))


async def test_nothing_comes_before_it_is_durable(stores, gate):
    """While a commit is held a sink gets nothing of it."""
    kept = memory_timeline()
    rt = await stores.enter(hooked(gate), sinks=[kept])
    run_id = (await rt.emit("begin")).run_ids[0]
    await run_until_idle(stores)
    before = len(kept.of(run_id))
    rt.store.hold = lambda _changes: True
    gate.open()
    [held] = await rt.store.until_held()
    await run_until_idle(stores)
    assert len(kept.of(run_id)) == before == len(await rt.timeline(run_id))
    rt.store.hold = None
    held.release()
    await rt.wait(run_id, until="rest")
    await run_until_idle(stores)
    assert kept.of(run_id).entries == (await rt.timeline(run_id)).entries


@pytest.mark.parametrize("error", [ValueError("full"), SystemExit(1), asyncio.CancelledError(), BaseException("odd")])
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_sink_that_raises(stores, caplog, error, kind):
    """The run does not notice; it is logged once, and what it did not take is counted; the others get everything."""

    async def failing(_run_id, _entries):
        raise error

    def plainly(_run_id, _entries):
        raise error

    kept = memory_timeline()
    with caplog.at_level(logging.ERROR):
        rt = await stores.enter(looping(), sinks=[failing if kind == "async" else plainly, kept])
        runs = [await rt.run("w") for _ in range(3)]
        await run_until_idle(stores)
    assert all(run.ok for run in runs)
    entries = [entry for run in runs for entry in (await rt.timeline(run.run_id)).entries]
    assert rt.statistics()["sinks:failed"] == len(entries)
    assert sum(len(kept.of(run.run_id)) for run in runs) == len(entries)
    assert len([record for record in caplog.records if "sink" in record.message]) == 1


async def test_a_sink_that_hangs(stores, caplog, monkeypatch):
    """What waits for it is bounded: beyond that entries are dropped and counted. The stop does not wait for it long."""
    monkeypatch.setattr(sinks_module, "MOST_FOR_SINK", 2)
    never, got = asyncio.Event(), []

    async def hanging(_run_id, entries):
        got.extend(entries)
        await never.wait()

    with caplog.at_level(logging.WARNING):
        rt = await stores.enter(looping(20), sinks=[hanging], hook_timeout=1e9)
        run = await rt.run("w", {})
        assert run.ok
        dropped = rt.statistics()["sinks:dropped"]
        whole = (await rt.timeline(run.run_id)).entries
        assert 0 < dropped < len(whole)
        await rt.stop()
    assert rt.statistics()["sinks:dropped"] == len(whole) - len(got)
    assert len([record for record in caplog.records if "is too slow" in record.message]) == 1


async def test_a_sink_that_takes_too_long_once(stores):
    """A call that does not end is given up after `hook_timeout`, and the next entries come all the same."""
    kept, never, calls = memory_timeline(), asyncio.Event(), []

    async def slow(run_id, entries):
        calls.append(run_id)
        if len(calls) == 1:
            await never.wait()
        await kept.write(run_id, entries)

    rt = await stores.enter(looping(), sinks=[slow], hook_timeout=5)
    first, second = await rt.run("w"), await rt.run("w")
    await stores.clock.run_for(seconds=20)
    assert len(kept.of(second.run_id)) == len(await rt.timeline(second.run_id))
    assert rt.statistics()["sinks:failed"] == len(await rt.timeline(first.run_id)) - len(kept.of(first.run_id))


async def test_a_sink_that_blocks_its_thread(stores):
    """Runs go on meanwhile; what came is written as soon as it can."""
    let_on, plain = threading.Event(), Plain()

    def blocking(run_id, entries):
        let_on.wait()
        plain.write(run_id, entries)

    rt = await stores.enter(looping(), sinks=[blocking])
    runs = [await rt.run("w") for _ in range(3)]
    assert plain.got == {}
    let_on.set()
    await rt.stop()
    assert set(plain.got) == {run.run_id for run in runs}


async def test_leaving_the_runtime_writes_the_rest(vclock, tmp_path):
    """After `async with` the file has a line per entry, in order, of each run."""
    path = tmp_path / "timeline.jsonl"
    async with WorkflowRuntime(looping(), clock=vclock, sinks=[JsonLines(path)]) as rt:
        runs = [await rt.run("w") for _ in range(2)]
        whole = [(run.run_id, entry) for run in runs for entry in (await rt.timeline(run.run_id)).entries]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines == [{"run_id": run_id, **entry.to_dict()} for run_id, entry in whole]


async def test_a_file_that_cannot_be_written(vclock, tmp_path):
    """A sink that comes with Poundlock fails no run either."""
    async with WorkflowRuntime(looping(), clock=vclock, sinks=[JsonLines(tmp_path / "no" / "file")]) as rt:
        assert (await rt.run("w")).ok
        await run_until_idle(vclock)
        assert rt.statistics()["sinks:failed"] > 0


async def test_without_a_timeline(stores):
    """With `timeline=False` sinks get what is stored: the changes of the state."""
    kept = memory_timeline()
    rt = await stores.enter(looping(), sinks=[kept], timeline=False)
    run = await rt.run("w")
    await run_until_idle(stores)
    assert kept.of(run.run_id).state_at()["n"] == 3
    assert all(entry.patch is not None for entry in kept.of(run.run_id).entries)


async def test_followers_come_and_go(stores):
    """Sinks go on when the last follower has left."""
    kept = memory_timeline()
    rt = await stores.enter(looping(), sinks=[kept])
    first = await rt.run("w")
    assert [entry.seq async for entry in rt.follow(first.run_id)]
    second = await rt.run("w")
    await run_until_idle(stores)
    assert kept.of(second.run_id).entries == (await rt.timeline(second.run_id)).entries


def test_what_is_no_sink():
    """It is refused with its place."""
    with pytest.raises(InvalidDefinition, match=r"sinks\[1\] is 3: give a function"):
        WorkflowRuntime(sinks=[print, 3])


class Futures:
    """A store whose commits are futures; whether one was written is seen in the log only."""

    def __init__(self, rows):
        self.rows = rows
        self.commits = []

    def commit(self, work):
        self.commits.append(asyncio.get_running_loop().create_future())
        return self.commits[-1]

    async def written_behind(self):
        pass

    async def history(self, _run_id, _last, after, limit):
        return [row for row in self.rows if row.first_seq > after][:limit]


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_a_commit_whose_answer_is_lost(vclock, written, how):
    """Its entries come if, and only if, they are in the store."""
    row = LogRow(4, 1, dump([[0.0, "state", "state:patch", "main", None, {"a": 1}]]))
    store, tasks, commits, got = Futures([row] if written else []), [], [], []

    def spawn(work):
        tasks.append(asyncio.create_task(work))

    class Sink:
        def put(self, run_id, row):
            got.append((run_id, row))

    watching = Watching(store, spawn, commits.append)
    watching.send_to([Sink()])
    head = (RunStatus.RUNNING, "w", 1, "s", 1, None, None, False, 0.0)
    move = RunMove("r1", 1, 1, None, *head, row, None, (), None, None)
    answer = commits[-1](move)
    if how == "cancelled":
        answer.cancel()
    else:
        answer.set_exception(StoreUnavailable("unknown"))
    await run_until_idle(vclock)
    await asyncio.wait(tasks)
    assert got == ([("r1", row)] if written else [])
    commits[-1](move).set_result(Committed(()))
    await run_until_idle(vclock)
    assert got[-1] == ("r1", row)


async def test_a_sink_is_inside_no_run(stores):
    """What a run has in its context is not the sink's, which serves all runs: it may wait for any of them."""
    name = contextvars.ContextVar("name", default="nobody")
    seen = []

    async def sink(run_id, _entries):
        seen.append((name.get(), (await rt.wait(run_id)).status))

    wf = Workflow("w")

    @wf.step
    async def work():
        return {"a": 1}

    rt = await stores.enter(wf, sinks=[sink])
    name.set("somebody")
    run = await rt.run("w")
    await run_until_idle(stores.clock)
    assert run.ok
    assert set(seen) == {("nobody", "completed")}


async def test_a_sink_whose_task_somebody_cancels(stores):
    """What waits is written by the stop, although the task that writes was cancelled by foreign code."""
    got = Plain()
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(run_id, entries):
        inside.set()
        await go_on.wait()
        got.write(run_id, entries)

    wf = Workflow("w")

    @wf.step
    async def work():
        return {"a": 1}

    rt = await stores.enter(wf, sinks=[slow])
    first = await rt.run("w")
    await inside.wait()
    second = await rt.run("w")
    for task in asyncio.all_tasks():
        if task.get_name() == "poundlock-sink":
            task.cancel()
    go_on.set()
    await run_until_idle(stores.clock)
    await rt.stop()
    assert first.ok
    assert [entry.type for entry in got.got[second.run_id]][-1] == "pipeline:success"
