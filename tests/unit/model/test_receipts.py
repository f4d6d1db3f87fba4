"""Receipts: what became of an event, line by line."""

from __future__ import annotations

import pytest

from poundlock.codecs import load
from poundlock.model.receipts import (
    Delivered,
    Delivery,
    Fate,
    ReceiptLine,
    ReceiptRow,
    Verdict,
    changes_nothing,
    lines_text,
    merged,
    settle_lines,
)

STARTED = ReceiptLine(Verdict.STARTED, "orders", "placed", "run-1")
DELIVERY = Delivery(
    "run-2", (("gate", 3),), "ref", None, ReceiptLine(Verdict.BUFFERED, "orders", None, "run-2", "1 of 2")
)


@pytest.mark.parametrize("verdict", Verdict)
def test_lines_survive_the_store(verdict):
    """A line written as plain data and read back is the same line."""
    line = ReceiptLine(verdict, "w", None, "r", "why")
    assert ReceiptLine.from_dict(line.to_dict()) == line
    assert type(line.to_dict()["verdict"]) is str


@pytest.mark.parametrize(
    ("fate", "verdict", "reason"),
    [
        (Fate.RESUMED, Verdict.RESUMED, "1 of 2"),
        (Fate.BUFFERED, Verdict.BUFFERED, "1 of 2"),
        (Fate.GONE, Verdict.FILTERED, "the run has continued meanwhile"),
    ],
)
def test_deliveries_say_what_they_came_to(fate, verdict, reason):
    """The lines decided come first, then one per delivery with what the commit made of it."""
    lines = settle_lines([STARTED], [DELIVERY], [Delivered(fate, 4)])
    assert lines == (STARTED, ReceiptLine(verdict, "orders", None, "run-2", reason))


def test_every_delivery_has_an_outcome():
    """A delivery without an outcome is a mistake of the store, not a missing line."""
    with pytest.raises(ValueError, match="zip"):
        settle_lines([], [DELIVERY], [])


def test_rows_hold_the_settled_lines():
    """The stored text is the receipt as it was given, deliveries included."""
    row = ReceiptRow("/shop", "e1", 5.0, (STARTED,))
    text = lines_text(row.settled([DELIVERY], [Delivered(Fate.RESUMED, 1)]))
    assert [ReceiptLine.from_dict(line) for line in load(text)] == [
        STARTED,
        ReceiptLine(Verdict.RESUMED, "orders", None, "run-2", "1 of 2"),
    ]


def test_every_fate_is_a_verdict_or_gone():
    """What a delivery can come to has a word in the receipt."""
    assert {fate.value for fate in Fate} - {verdict.value for verdict in Verdict} == {"gone"}


def line_of(verdict, trigger="placed", run_id=None):
    return ReceiptLine(Verdict(verdict), "orders", trigger, run_id)


HELD, ENDED, AGAIN = line_of("delayed"), line_of("started", run_id="r1"), line_of("duplicate")
DROPPED, REJECTED = line_of("dropped", "other"), line_of("rejected", "other")
OTHER, WAITED = line_of("started", "other", "r3"), line_of("resumed", None, "r2")
COPIES = {
    "a copy": ([HELD], [AGAIN], [HELD]),
    "of what was refused after its hold": ([DROPPED], [line_of("duplicate", "other")], [DROPPED]),
    "of one of two": ([ENDED, DROPPED], [AGAIN, REJECTED], [ENDED, REJECTED]),
    "taken now": ([ENDED, DROPPED], [AGAIN, OTHER], [ENDED, OTHER]),
    "nobody is there any more": ([WAITED], [ReceiptLine(Verdict.UNMATCHED)], [WAITED]),
    "the run has gone on": ([WAITED], [line_of("filtered", None, "r2")], [WAITED]),
    "another run waits now": ([WAITED], [line_of("duplicate", None, "r4")], [WAITED, line_of("duplicate", None, "r4")]),
    "refused twice": ([DROPPED], [REJECTED], [REJECTED]),
    "wanted now": ([ReceiptLine(Verdict.UNMATCHED)], [ENDED], [ENDED]),
    "started again": ([ENDED, WAITED], [line_of("started", run_id="r5")], [line_of("started", run_id="r5")]),
}


@pytest.mark.parametrize("case", COPIES)
def test_a_copy_leaves_the_receipt_of_the_first(case):
    """What is stored is what the event has led to, in whichever of its copies; what was refused may be taken later."""
    before, lines, after = COPIES[case]
    assert merged(before, lines) == tuple(after)
    if merged(before, lines) != tuple(lines):
        assert changes_nothing(lines)  # so a store reads what is stored
