"""Changes: what moves of runs without an owner carry over, and what the refusals of a commit say."""

from __future__ import annotations

import pickle

import pytest

from poundlock.errors import InboxAhead, KeysTaken, LoadMoved, PoundlockError, Refused, WaitMoved
from poundlock.model.changes import RunMove
from poundlock.model.lifecycle import MOVES, RunStatus
from poundlock.model.runs import LogRow, RunHead, RunIdentity, RunRecord

IDENTITY = RunIdentity("r", "w", None, "main", "h", None, "", 0, None, (), 1.0, "e")


def record(status, *, slot=True):
    head = RunHead(status, 5, "w1", 3, "second", 2, 9.0, None, slot, 4, 7, 2.0)
    return RunRecord(IDENTITY, head, ())


@pytest.mark.parametrize("status", RunStatus)
@pytest.mark.parametrize("target", RunStatus)
def test_a_move_asks_the_table(status, target):
    """A move that the life cycle does not know is never made."""
    if target in MOVES[status]:
        assert RunMove.of(record(status), target, now=3.0).status is target
    else:
        with pytest.raises(AssertionError):
            RunMove.of(record(status), target, now=3.0)


def test_a_move_carries_over_what_does_not_change():
    """Stage, attempt and slot stay, the epoch grows, wake time and owner go, the version is the one that was read."""
    move = RunMove.of(record(RunStatus.PAUSED), RunStatus.READY, now=3.0)
    assert move == RunMove("r", 5, 3, None, RunStatus.READY, None, 4, "second", 2, None, None, True, 3.0)


def test_an_end_gives_the_slot_back():
    """A run that ends holds no slot, and may insist that it has seen all messages."""
    log = LogRow(8, 1, "[]")
    move = RunMove.of(
        record(RunStatus.PAUSED), RunStatus.ABORTED, now=3.0, guard_inbox=True, outcome="{}", log=log, owner="w2"
    )
    assert (move.slot, move.inbox, move.outcome, move.log, move.owner) == (False, 4, "{}", log, "w2")
    assert not RunMove.of(record(RunStatus.READY, slot=False), RunStatus.RUNNING, now=3.0).slot


@pytest.mark.parametrize(
    ("refusal", "fields"),
    [
        (InboxAhead("m", run_id="r", inbox_seq=3), {"run_id": "r", "inbox_seq": 3}),
        (LoadMoved("m", workflow_id="w"), {"workflow_id": "w"}),
        (WaitMoved("m", run_id="r"), {"run_id": "r"}),
        (KeysTaken("m", taken={"": 1}), {"taken": {"": 1}}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_refusals_have_one_root_and_typed_fields(refusal, fields):
    """What a store refuses with is told apart by class, and what it names is an attribute; both survive a pickle."""
    for error in (refusal, pickle.loads(pickle.dumps(refusal))):
        assert isinstance(error, Refused)
        assert isinstance(error, PoundlockError)
        assert error.fields == fields
        assert {name: getattr(error, name) for name in fields} == fields
