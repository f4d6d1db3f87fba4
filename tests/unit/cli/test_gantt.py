"""Drawing timelines."""

from __future__ import annotations

import pytest

from poundlock import Delay, Fail, Jump, Serialized, StateRef, Terminate, Workflow, WorkflowRuntime
from poundlock.cli.gantt import gantt
from poundlock.clock import sleep_until
from poundlock.drawing.charts import PAUSE, QUEUE, WORK, Bar
from poundlock.drawing.texts import duration
from poundlock.model.run_chart import read_chart
from poundlock.model.timeline import Timeline
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.testing import VirtualClock


def timeline(*happened):
    """Return a timeline of (time, type, path, payload)."""
    entries = []
    for seq, (time, kind, *rest) in enumerate(happened, 1):
        path, payload = (*rest, None, None)[:2]
        entries.append(TimelineEntry(seq, time, "pipeline", kind, path or "main", payload, None))
    return Timeline("run", entries)


def chart_of(timeline, now):
    return read_chart(timeline.entries, now)


PAUSED = [
    (0.0, "run:created"),
    (0.0, "stage:start", "main/check"),
    (0.0, "step:start", "main/check/size"),
    (0.0, "step:start", "main/check/words"),
    (1.0, "step:success", "main/check/size"),
    (2.0, "step:success", "main/check/words"),
    (2.0, "stage:success", "main/check"),
    (2.0, "stage:start", "main/review"),
    (2.0, "stage:success", "main/review"),
    (2.0, "pipeline:pause", "main", {"wait": "review", "expires_at": None}),
]
RESUMED = [
    (259_202.0, "wait:matched", "main", {"wait": "review", "event": {"type": "approved"}}),
    (259_202.0, "pipeline:resume", "main", {"wait": "review", "reason": "event"}),
    (259_202.0, "stage:start", "main/merge"),
    (259_202.0, "step:start", "main/merge/merge"),
    (259_204.0, "step:success", "main/merge/merge"),
    (259_204.0, "stage:success", "main/merge"),
    (259_204.0, "pipeline:success"),
]


def test_finished_run_is_drawn_with_all_its_parts():
    """A chart has a row per stage and per further step, true durations, and says what a pause ended with."""
    lines = gantt(timeline(*PAUSED, *RESUMED), 60, now=0.0)
    assert lines == [
        "check    █████████                                     2.0 s",
        "  size   █████                                         1.0 s",
        "  words  █████████                                     2.0 s",
        "review           ░░░░░░░░░░░░░░░░░░░░░░░░░               3 d",
        "merge                                    █████████     2.0 s",
        "         0                                     3 d",
        "",
        "█ working   ░ paused   (waiting is not drawn to scale)",
        "review: resumed by approved after 3 d",
    ]


def test_a_deadline_ends_what_was_going_on():
    """The bar of the interrupted stage ends there, and the chart says where the run went on."""
    late = [
        (0.0, "run:created"),
        (0.0, "stage:start", "main/first"),
        (0.0, "step:start", "main/first/first"),
        (60.0, "step:call", "main/first/first", {"model": "m"}),
        (60.0, "pipeline:timeout", "main", {"timeout": 60.0, "on_timeout": "late"}),
        (60.0, "stage:start", "main/late"),
        (80.0, "stage:success", "main/late"),
        (80.0, "pipeline:success"),
    ]
    chart = chart_of(timeline(*late), 100.0)
    assert [(row.label, row.bars) for row in chart.rows] == [
        ("first", [Bar(WORK, 0.0, 60.0)]),
        ("late", [Bar(WORK, 60.0, 80.0)]),
    ]
    assert chart.notes == ["its time was over: it went on at late"]
    failed = [*late[:4], (60.0, "pipeline:timeout", "main", {"on_timeout": "fail"})]
    chart = chart_of(
        timeline(*failed, (60.0, "pipeline:failure", "main", {"type": "RunTimeout", "message": "m"})), 100.0
    )
    assert chart.notes == ["failed: RunTimeout: m"]


def test_what_hooks_and_routers_report_is_no_bar():
    """Their entries have shorter paths than those of steps."""
    entries = [(1.0, "step:call", "main", {"model": "m"}), (1.0, "step:progress", "main/check", {"done": 1})]
    assert chart_of(timeline(*PAUSED[:1], *entries, *PAUSED[1:]), 9.0).rows == chart_of(timeline(*PAUSED), 9.0).rows


def test_paused_run_is_drawn_up_to_now():
    """The bar of a run that still waits reaches to now, and is open at its end."""
    lines = gantt(timeline(*PAUSED), 60, now=10.0)
    assert lines[3].rstrip().endswith("8.0 s")
    assert "░>" in lines[3]
    assert lines[-1] == "review: still waiting"


QUEUED = [(0.0, "run:created"), (0.0, "pipeline:start"), (0.0, "run:queued")]
BEGUN = [(0.02, "stage:start", "main/a"), (1.0, "stage:success", "main/a"), (1.0, "pipeline:success")]


def test_only_a_run_that_was_queued_is_drawn_as_queued():
    """A run that begins late, on a machine that has much to do, was not queued; one that was, however shortly, was."""
    late = [(0.0, "run:created"), (0.0, "pipeline:start"), (5.0, "stage:start", "main/a"), (6.0, "pipeline:success")]
    assert [row.label for row in chart_of(timeline(*late), 0.0).rows] == ["a"]
    queued, work = chart_of(timeline(*QUEUED, *BEGUN), 0.0).rows
    assert (queued.label, queued.bars, work.label) == ("(queued)", [Bar(QUEUE, 0.0, 0.02)], "a")


def test_a_run_that_is_still_queued_is_drawn_up_to_now():
    """The bar of a run that waits in a queue is open; it ends where the run is aborted in the queue."""
    [queued] = chart_of(timeline(*QUEUED), 8.0).rows
    assert queued.bars == [Bar(QUEUE, 0.0, 8.0, open=True)]
    [ended] = chart_of(timeline(*QUEUED, (3.0, "pipeline:abort", "main", {"reason": "enough"})), 8.0).rows
    assert ended.bars == [Bar(QUEUE, 0.0, 3.0)]


@pytest.mark.parametrize("width", [20, 40, 79, 80, 120, 200])
def test_bars_keep_to_the_width(width):
    """However wide the terminal is, no bar is wider, every row shows at least one mark, and marks keep their order."""
    for now, happened in ((10.0, PAUSED), (0.0, [*PAUSED, *RESUMED])):
        lines = gantt(timeline(*happened), width, now=now)
        rows = lines[: lines.index("")]
        assert max(map(len, rows)) <= max(width, 34)
        assert all(set(row) & {"█", "░"} for row in rows[:-1])


def test_waiting_takes_no_more_than_its_share():
    """A pause of days leaves most of the width to the milliseconds of work; work alone is drawn to scale."""
    chart = gantt(timeline(*PAUSED, *RESUMED), 100, now=0.0)
    work = sum(line.count("█") for line in chart if line.startswith(("check", "merge")))
    pause = sum(line.count("░") for line in chart if line.startswith("review"))
    assert 0.3 * (work + pause) < work
    assert 0.3 * (work + pause) < pause
    even = gantt(
        timeline(
            (0.0, "stage:start", "m/a"),
            (1.0, "stage:success", "m/a"),
            (1.0, "stage:start", "m/b"),
            (4.0, "stage:success", "m/b"),
            (4.0, "pipeline:success"),
        ),
        100,
        now=0.0,
    )
    assert even[1].count("█") == pytest.approx(3 * even[0].count("█"), abs=3)


def test_loops_share_a_row():
    """A stage that is entered again adds a bar to its row instead of a row."""
    happened = []
    for turn in range(3):
        happened += [(turn * 2.0, "stage:start", "m/look"), (turn * 2.0 + 1, "stage:success", "m/look")]
    chart = chart_of(timeline(*happened, (6.0, "pipeline:success")), 0.0)
    assert [(row.label, len(row.bars)) for row in chart.rows] == [("look", 3)]


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ((5.0, "pipeline:failure", "m", {"type": "ValueError", "message": "no"}), "failed: ValueError: no"),
        ((5.0, "pipeline:abort", "m", {"reason": "enough", "by": "api"}), "aborted: enough"),
        ((5.0, "pipeline:abort", "m", {"reason": "", "by": "api"}), "aborted: no reason was given"),
    ],
)
def test_sad_ends_are_told(last, told):
    """A chart ends with why a run failed or was aborted."""
    lines = gantt(timeline((0.0, "stage:start", "m/a"), last), 80, now=99.0)
    assert lines[0].rstrip().endswith("5.0 s")
    assert lines[-1] == told


def test_terminal_without_unicode():
    """Where only ASCII can be shown the chart is made of it."""
    long = [(0.0, "run:created"), (0.0, "stage:start", f"main/{'long' * 9}"), (1.0, "stage:success", "main/long")]
    for entries in (PAUSED, long):
        assert all(line.isascii() for line in gantt(timeline(*entries), 80, now=9.0, ascii_only=True))


def test_run_without_timeline():
    """A run that kept only its state, or has not begun, says so."""
    assert gantt(timeline((0.0, "run:created")), 80, now=0.0) == ["This run has no timeline, only its state."]
    assert gantt(Timeline("run", []), 80, now=0.0) == ["This run has no timeline, only its state."]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1.0 s"),
        (59.9, "59.9 s"),
        (59.97, "1 min"),
        (60, "1 min"),
        (125.7, "2 min 5 s"),
        (3600, "1 h"),
        (3725, "1 h 2 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_read_well(seconds, text):
    """A duration has one or two units, whichever are of interest."""
    assert duration(seconds) == text


async def test_real_runs_of_every_kind():
    """What the runtime writes is understood: pauses, time-outs, delays, loops, failures."""
    wf = Workflow("w")

    @wf.on("go")
    @wf.step
    def first(n: int):
        return Fail("seven") if n == 7 else None

    wf.wait("answer", on="answer", correlate={"n": StateRef("n")}, timeout=60, on_timeout="late")

    @wf.step
    def weigh():
        return Delay(seconds=30)

    @wf.step
    def end(turns: int = 0):
        return {"turns": turns + 1}

    @wf.route(after="end")
    def again(state):
        return Jump("weigh") if state["turns"] < 2 else Terminate("done")

    @wf.step
    def late():
        return Terminate("late")

    async with WorkflowRuntime(wf, clock=VirtualClock()) as runtime:
        answered = await runtime.emit("go", n=1)
        await answered.results()
        await runtime.emit("answer", n=1)
        timed_out = await runtime.emit("go", n=2)
        failed = await runtime.emit("go", n=7)
        charts = {}
        for name, receipt in (("answered", answered), ("late", timed_out), ("failed", failed)):
            [run_id] = receipt.run_ids
            await runtime.wait(run_id)
            charts[name] = chart_of(await runtime.timeline(run_id), runtime.clock.now())
    rows = {row.label: row for row in charts["answered"].rows}
    assert list(rows) == ["first", "answer", "weigh", "end"]
    assert [bar.kind for bar in rows["weigh"].bars].count("delay") == 2
    assert rows["weigh"].total == pytest.approx(60, abs=1)
    tardy = {row.label: row for row in charts["late"].rows}
    assert [bar.kind for bar in tardy["answer"].bars] == [WORK, PAUSE]
    assert tardy["answer"].total == pytest.approx(60, abs=1)
    assert charts["late"].notes == ["answer: timed out after 1 min"]
    assert charts["failed"].notes == ["failed: Fail: seven"]


async def test_a_real_run_that_was_queued(stores):
    """A run that waited for a slot is drawn as queued for that time, one that had it at once is not."""
    wf = Workflow("w", mode=Serialized())

    @wf.on("go")
    @wf.step
    async def work():
        await sleep_until(stores.clock, stores.clock.now() + 60)

    rt = await stores.enter(wf)
    begun, queued = await rt.emit("go"), await rt.emit("go")
    await queued.results()
    charts = [chart_of(await rt.timeline(receipt.run_ids[0]), rt.clock.now()).rows[0] for receipt in (begun, queued)]
    assert [row.label for row in charts] == ["work", "(queued)"]
    assert charts[1].bars == [Bar(QUEUE, stores.clock.now() - 120, stores.clock.now() - 60)]
