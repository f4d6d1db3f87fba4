"""The events that a run has buffered: what is too much or too old leaves, and what counts for a wait is noted."""

from __future__ import annotations

from poundlock.model.buffers import DEFAULT_BUFFER
from poundlock.model.counting import surplus, tally_of
from poundlock.model.runs import Message, WaitRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.waits import fits_of, note

DROPPED = "wait:dropped"
"""Type of the entry that buffered events were dropped, because there were more than a wait keeps."""
EXPIRED = "wait:expired"
"""Type of the entry that buffered events were not used in time, or that a wait was not answered in time."""


def trim(run: ActiveRun) -> None:
    """Drop the buffered events that no wait has room for, and those that are too old; both are noted.

    While a run has an owner only the owner drops what is buffered: it may be using it.
    """
    waits = run.waits
    if not waits:
        return
    for row in waits:
        if row.tally is not None and (row.tally.dropped or row.tally.expired):
            _note_lost(run, row)
    buffer = run.buffer
    if not buffer or not _may_be_too_much(waits, len(buffer)):
        return
    many, late = surplus([row for row in run.waits if not row.own], buffer, run.clock.now(), fits_of(run))
    if not many and not late:
        return
    for message, row in many:
        limit = DEFAULT_BUFFER if row.rules is None else row.rules.limit
        _note(run, DROPPED, row, message, f"more than {limit}")
    for message, row in late:
        _note(run, EXPIRED, row, message, "too old")
    gone = {message.seq for message, _ in (*many, *late)}
    take_out(run, gone)


def take_out(run: ActiveRun, seqs: set[int]) -> None:
    """Let buffered events leave with the next boundary."""
    if not seqs:
        return
    run.buffer = tuple([message for message in run.buffer if message.seq not in seqs])
    run.consumed += sorted(seqs)


def _may_be_too_much(waits: tuple[WaitRow, ...], buffered: int) -> bool:
    for row in waits:
        rules = row.rules
        if rules is None:
            if buffered > DEFAULT_BUFFER and not row.own:
                return True
        elif buffered > rules.limit or rules.ttl is not None:
            return True
    return False


def _note(run: ActiveRun, kind: str, row: WaitRow, message: Message, reason: str) -> None:
    assert message.event is not None  # noqa: S101 - only events are buffered
    event = message.event.event
    note(run, kind, row, {"event": {"id": event.id, "type": event.type, "source": event.source}, "reason": reason})


def _note_lost(run: ActiveRun, row: WaitRow) -> None:
    """Note what left the inbox while the run had no owner. The wait gets a new epoch: its tally begins anew."""
    assert row.tally is not None  # noqa: S101 - asked before
    for kind, count in ((DROPPED, row.tally.dropped), (EXPIRED, row.tally.expired)):
        if count:
            note(run, kind, row, {"events": count, "reason": "while the run was not running"})
    anew = row._replace(epoch=run.version + 1, tally=None)
    run.waits = tuple([anew if other is row else other for other in run.waits])


def with_tallies(run: ActiveRun) -> tuple[WaitRow, ...]:
    """Return the run's waits with what is buffered for those that the next boundary arms; the others keep theirs."""
    known = {(row.wait_id, row.epoch) for row in run.stored_waits}
    now, fits = run.clock.now(), fits_of(run)
    rows = []
    for row in run.waits:
        if (row.wait_id, row.epoch) in known or row.own:
            rows.append(row)
        else:
            tally = tally_of(row, run.buffer, now, fits)
            rows.append(row if tally == row.tally else row._replace(tally=tally))
    return tuple(rows)
