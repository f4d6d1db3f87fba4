"""The page of limits says what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from poundlock import Event, Transient, Trigger, Wait, Workflow, WorkflowRuntime
from poundlock.codecs import pack
from poundlock.errors import InvalidEvent, NotStorable
from poundlock.model.hold_checks import LARGEST_BATCH
from poundlock.pipeline.context import _TimelineHandler
from poundlock.pipeline.reports import LONGEST_MESSAGE, LONGEST_TEXT, MOST_TEXTS
from poundlock.pipeline.threads import StepThreads
from poundlock.runtime.durability import MOST_BEHIND
from poundlock.runtime.holding import REST
from poundlock.runtime.outbox import ATTEMPTS, HELD
from poundlock.runtime.reading import LARGEST_PAGE
from poundlock.runtime.sinks import MOST_FOR_SINK
from poundlock.runtime.watching import MOST_REPORTS

PAGE = (Path(__file__).resolve().parents[2] / "docs/reference/limits.md").read_text(encoding="utf-8")


def default(function, name):
    return inspect.signature(function).parameters[name].default


VALUES = {
    "visits of one stage": default(Workflow, "visit_limit"),
    "active runs of a workflow": Transient().concurrency,
    "queued runs in the default": Transient().capacity,
    "plain `def` steps": default(StepThreads, "limit"),
    "records of `ctx.logger`": _TimelineHandler.LIMIT,
    "boundaries of a run that are written behind": MOST_BEHIND,
    "a prompt, an answer": LONGEST_TEXT,
    "calls that an attempt records": MOST_TEXTS,
    "a message of `ctx.progress`": LONGEST_MESSAGE,
    "reports of progress that are kept": MOST_REPORTS,
    "commits of runs that wait for one sink": MOST_FOR_SINK,
    "failed deliveries of an event": ATTEMPTS,
    "an event of a step that an earlier": HELD,
    "events that a wait": Wait("e").limit,
    "events of a batch": LARGEST_BATCH,
    "a hold that cannot be ended": REST,
    "runs per page": default(WorkflowRuntime.find_runs, "limit"),
    "a step that does not end": default(WorkflowRuntime, "abort_grace"),
    "an async hook": default(WorkflowRuntime, "hook_timeout"),
    "letting runs reach": default(WorkflowRuntime.stop, "drain"),
    "a paused run in memory": default(WorkflowRuntime, "pause_window"),
    "paused runs in memory": default(WorkflowRuntime, "pause_window_runs"),
    "an event id is remembered": Trigger().dedupe / 3600,
}


@pytest.mark.parametrize("row", VALUES)
def test_defaults(row):
    """Each default on the page is the one in the code."""
    [cell] = re.findall(rf"^\| {re.escape(row)}[^|]*\| ([^|]+) \|", PAGE, re.MULTILINE)
    assert float(re.match(r"\d+", cell)[0]) == VALUES[row]


def test_the_largest_page():
    """The largest page of runs is the one in the code."""
    assert f"at most {LARGEST_PAGE}" in PAGE


def nested(levels):
    value = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def test_nesting():
    """64 levels are taken, the next one is refused."""
    assert "| 64 levels |" in PAGE
    assert pack(nested(64))[0] == nested(64)
    with pytest.raises(NotStorable, match="64 levels"):
        pack(nested(65))


def test_digits():
    """4300 digits are taken, the next one is refused."""
    assert "| 4300 digits |" in PAGE
    assert pack(10**4299)[0] == 10**4299
    with pytest.raises(NotStorable, match="4300 digits"):
        pack(10**4301)


def test_names():
    """1024 characters are taken, the next one is refused."""
    assert "| 1024 characters" in PAGE
    assert Event("a" * 1024).type == "a" * 1024
    with pytest.raises(InvalidEvent):
        Event("a" * 1025)
