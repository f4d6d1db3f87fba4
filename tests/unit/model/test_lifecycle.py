"""The table of legal moves."""

from __future__ import annotations

import itertools

import pytest

from poundlock.model.lifecycle import MOVES, RunStatus, check_move, draw

# Written a second time, as text, so that a change to the table is a change to the promise.
LEGAL = {
    "queued": "queued ready running failed aborted",
    "ready": "running ready paused failed aborted",
    "running": "running ready paused delayed completed failed aborted",
    "paused": "running ready paused delayed aborted",
    "delayed": "running ready paused aborted",
    "completed": "ready",
    "failed": "ready",
    "aborted": "ready",
}
PAIRS = [*itertools.product(RunStatus, RunStatus)]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
def test_every_pair(source, target):
    """Exactly the moves of the table are legal; any other raises and says which move it was."""
    if target in LEGAL[source].split():
        check_move(source, target)
    else:
        with pytest.raises(AssertionError, match=f"{source} -> {target}"):
            check_move(source, target)


def test_an_ended_run_only_goes_on_where_it_is_claimed():
    """The only move out of an ended status is to `ready`, where a run was retried or rerun; no other status has one."""
    ended = {status for status in RunStatus if status.terminal}
    assert {status for status in RunStatus if set(MOVES[status]) == {RunStatus.READY}} == ended


def test_every_status_can_be_reached_and_left():
    """From `queued` every status can be reached, and from everywhere an end."""

    def reachable(start):
        seen, todo = set(), [start]
        while todo:
            status = todo.pop()
            if status not in seen:
                seen.add(status)
                todo += MOVES[status]
        return seen

    assert reachable(RunStatus.QUEUED) == set(RunStatus)
    for status in RunStatus:
        assert any(end.terminal for end in reachable(status))


def test_whatever_is_alive_can_be_aborted():
    """Abort reaches queued, ready, running, paused and delayed runs."""
    assert all(RunStatus.ABORTED in MOVES[status] for status in RunStatus if not status.terminal)


def test_the_picture_is_the_table():
    """The diagram has one line per move, with its reason, and an end per terminal status."""
    lines = draw().splitlines()
    assert lines[0] == "stateDiagram-v2"
    assert len(lines) == 1 + sum(len(targets) for targets in MOVES.values()) + 3
    assert "    delayed --> running: claimed when due" in lines
    assert "    failed --> [*]" in lines
    assert all(reason for targets in MOVES.values() for reason in targets.values())
