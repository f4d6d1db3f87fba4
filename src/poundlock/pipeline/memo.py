"""What the steps of one visit of a stage have come to so far: kept before the stage is concluded.

A stage whose run is paused, delayed or killed in the middle of it is entered again. With a memo it continues there.
What grows with the work is noted: each entry is a log entry with an empty patch, so it is kept without a timeline too.
What is small and replaced again and again is put into a row of the run's waits, which costs no log. The row also says
at which entry of the log the visit began, so that idempotency keys stay the same, and why the run was resumed before.

House rules: entries are written by a commit in a task of its own, because a step that is cancelled must not cut it
short, and the run makes no other commit meanwhile. A value is data, and read back as it was kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from poundlock.codecs import load, pack
from poundlock.errors import NotRegistered, StepFailed
from poundlock.guard import Interrupted, Interruption, clear_cancellation, name_of
from poundlock.model.runs import ADDRESS_WAIT, CHILD_ENDED, CHILDREN_WAIT, VISIT_WAIT, LogRow, WaitRow, own_row
from poundlock.model.timeline_entry import KEPT
from poundlock.pipeline.active import JUMPED, ActiveRun, KeptSoFar
from poundlock.pipeline.interrupting import asked_for
from poundlock.pipeline.kept_values import resume_as_data, resume_of

QUIET: Final = "quiet"
"""Key: whether parks in this visit are not told in the timeline any more."""
_NO_CHANGE: Final = "{}"
_OF_VISIT: Final = (VISIT_WAIT, CHILDREN_WAIT, ADDRESS_WAIT)


class Memo:
    """The memo of a run's current visit of a stage.

    Attributes:
        kept: the values by key; the latest one counts.
        writing: whether a commit is in flight.
    """

    __slots__ = ("_commit", "_durable", "_error", "_noted", "_run", "kept")

    def __init__(self, run: ActiveRun) -> None:
        self.kept: dict[str, Any] = {}
        self._run = run
        self._noted = 0
        self._durable = 0
        self._commit: asyncio.Task[None] | None = None
        self._error: BaseException | None = None

    @property
    def writing(self) -> bool:
        return self._commit is not None

    def note(self, path_json: str, key: str, value: Any) -> Any:
        """Note a value, and return it as it will be read back. It is durable after `keep`, or with the next boundary.

        Raises:
            NotStorable: it is not data.
        """
        run = self._run
        entry, text = pack([key, value])
        row = _row_of(run)
        if "logged" not in row:
            _set_row(run, {**row, "logged": True})
        run.journal.add(run.clock.now(), "pipeline", KEPT, path_json, text, _NO_CHANGE)
        self._noted += 1
        self.kept[key] = entry[1]
        return entry[1]

    def put(self, key: str, value: Any) -> Any:
        """Put a small value into the row, in place of the last one of this key, and return it as it will be read back.

        It is durable after `keep`, or with the next boundary.

        Raises:
            NotStorable: it is not data.
        """
        run = self._run
        stored = pack(value)[0]
        row = _row_of(run)
        _set_row(run, {**row, "small": {**row.get("small", {}), key: stored}})
        self._noted += 1
        self.kept[key] = stored
        return stored

    def drop(self, key: str) -> None:
        """Take a value out of the row."""
        run = self._run
        self.kept.pop(key, None)
        row = _row_of(run)
        _set_row(run, {**row, "small": {name: held for name, held in row.get("small", {}).items() if name != key}})
        self._noted += 1

    async def keep(self, *, needed: bool = False) -> None:
        """Return once all that was noted is durable; calls at the same time share commits.

        At once if the workflow's durability writes nothing in the middle of a stage, unless it is `needed`.

        Raises:
            PoundlockError: the commit failed; the run cannot continue in this process.
        """
        if not (needed or self._run.plan.midway):
            return
        noted = self._noted
        while self._durable < noted:
            if self._error is not None:
                raise self._error
            if self._commit is None:
                self._commit = asyncio.get_running_loop().create_task(self._write(), name=f"keep {self._run.run_id}")
                self._run.supervision.keep(self._commit)
            await asyncio.wait([self._commit])

    async def finish(self, task: asyncio.Task[Any]) -> None:
        """Wait for the commit in flight, before the run makes another one. `task` is the current one.

        A cancellation meanwhile is cleared: the run has an interruption if it is to stop. Only where the run makes no
        other commit here, because the runtime stops or it has another owner, this does not wait any longer.

        Raises:
            PoundlockError: that commit failed, or an earlier one.
            Interrupted: the run makes no other commit here.
        """
        while self._commit is not None:
            why = asked_for(self._run)
            if why is Interruption.STOP or why is Interruption.LOST:
                raise Interrupted(why)
            try:
                await asyncio.wait([self._commit])
            except asyncio.CancelledError:
                await clear_cancellation(task)
        if self._error is not None:
            raise self._error

    async def _write(self) -> None:
        noted = self._noted
        try:
            await self._run.commit_midway()
        except BaseException as error:  # noqa: BLE001 - raised by `keep` and `finish`, in the tasks that need it
            self._error = error
        else:
            self._durable = noted
        finally:
            self._commit = None


def memo_of(run: ActiveRun) -> KeptSoFar:
    """Return the memo of the run's current visit; a new one at its first use."""
    if run.memo is None:
        run.memo = Memo(run)
    return run.memo


def visit_row(run: ActiveRun) -> WaitRow | None:
    """Return the row of the visit that has a memo, if there is one."""
    for row in run.waits:
        if row.wait_id == VISIT_WAIT:
            return row
    return None


def forget(run: ActiveRun) -> None:
    """End the visit: it has been concluded, or the run has left its stage in another way."""
    run.memo = None
    for row in run.waits:
        if row.wait_id in _OF_VISIT:
            run.waits = tuple([other for other in run.waits if other.wait_id not in _OF_VISIT])
            drop_notices(run)
            return


def leave_visit(run: ActiveRun) -> None:
    """End the visit of a stage in which the run ends: its row is noted with the end, so that a retry goes on with it.

    There is none for most runs: their timelines tell where the visit began.
    """
    row = visit_row(run)
    if row is None and (run.resume is not None or not run.journal.full):
        _set_row(run, _row_of(run))
    run.memo = None
    if row is not None:
        run.waits = tuple([other for other in run.waits if other is row or other.wait_id not in _OF_VISIT])
        drop_notices(run)


def lead_below(run: ActiveRun, address: str) -> None:
    """Set the run to the first stage of an address; what is below it is kept until that stage has started its children.

    Raises:
        StepFailed: it is no text.
        NotRegistered: there is no such stage, or it has no children.
    """
    if not isinstance(address, str):
        raise StepFailed(f"the address of JumpTo is a {name_of(type(address))}: give 'stage/child/stage'")
    first, _, below = address.partition("/")
    run.stage = run.plan.existing(first)
    run.walk = JUMPED
    if below:
        if all(step.children is None for step in run.plan.by_id[first].steps):
            raise NotRegistered(f"stage '{first}' has no children, so there is no '{below}' below it", path=run.plan.id)
        row = own_row(ADDRESS_WAIT, epoch=run.version + 1, on_timeout="resume", patch={"stage": first, "below": below})
        run.waits = (*(other for other in run.waits if other.wait_id != ADDRESS_WAIT), row)


def address_below(run: ActiveRun, stage_id: str) -> tuple[str, str] | None:
    """Return which child of a stage begins elsewhere, and where; None if none does."""
    row = next((row for row in run.waits if row.wait_id == ADDRESS_WAIT), None)
    if row is None or not isinstance(row.patch, dict) or row.patch["stage"] != stage_id:
        return None
    child, _, address = row.patch["below"].partition("/")
    return child, address


def has_children(waits: Iterable[WaitRow]) -> bool:
    """Whether a run with these waits has children that may not have ended."""
    return any(row.wait_id == CHILDREN_WAIT for row in waits)


def drop_notices(run: ActiveRun) -> bool:
    """Consume the notices of children that have ended, as far as they are taken in; returns whether there were some."""
    others = []
    before = len(run.consumed)
    for message in run.buffer:
        if message.event is not None and message.event.event.type == CHILD_ENDED:
            run.consumed.append(message.seq)
        else:
            others.append(message)
    if len(run.consumed) == before:
        return False
    run.buffer = tuple(others)
    return True


def is_logged(row: WaitRow) -> bool:
    """Whether a part of the memo is in the log, and not all of it in the row."""
    assert isinstance(row.patch, Mapping)  # noqa: S101 - written here
    return "logged" in row.patch


def recall(run: ActiveRun, row: WaitRow, rows: Iterable[LogRow]) -> None:
    """Set the run's memo to what its log, and the row, have of this visit."""
    memo = memo_of(run)
    assert isinstance(row.patch, Mapping)  # noqa: S101 - written here
    for key, value in kept_entries(rows, row.patch["entered_at"]):
        memo.kept[key] = value
    memo.kept.update(row.patch.get("small", {}))


def recall_reason(run: ActiveRun, row: WaitRow) -> None:
    """Set why the run was resumed before its current visit, unless it was resumed for another reason within it."""
    assert isinstance(row.patch, Mapping)  # noqa: S101 - written here
    if run.resume is None or run.resume.reason == "delay":
        run.resume = resume_of(row.patch.get("resume"))


def began(run: ActiveRun) -> float:
    """Return when the run's current visit of its stage began, in seconds since 1970; now, if it has no memo yet."""
    row = visit_row(run)
    if row is None or not isinstance(row.patch, Mapping):
        return run.clock.now()
    return float(row.patch.get("since", run.clock.now()))


def _row_of(run: ActiveRun) -> Mapping[str, Any]:
    """Return what the row of the current visit says, or is to say."""
    row = visit_row(run)
    if row is not None:
        assert isinstance(row.patch, Mapping)  # noqa: S101 - written here
        return row.patch
    since = run.clock.now() if run.resting is None else run.resting.began
    begun: dict[str, Any] = {"stage": run.stage, "entered_at": run.entered_at, "since": since}
    if run.visit_key != run.entered_at:
        begun["key"] = run.visit_key
    if run.resume is not None:
        begun["resume"] = resume_as_data(run.resume)
    return begun


def _set_row(run: ActiveRun, said: Mapping[str, Any]) -> None:
    others = [row for row in run.waits if row.wait_id != VISIT_WAIT]
    # The other rows stay the same objects, in their order.
    run.waits = (*others, own_row(VISIT_WAIT, epoch=run.version + 1, on_timeout="resume", patch=said))


def kept_entries(rows: Iterable[LogRow], after: int) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values that a log has after an entry."""
    for row in rows:
        if row.first_seq + row.size <= after:
            continue
        for place, entry in enumerate(load(row.text)):
            if entry[2] == KEPT and row.first_seq + place > after:
                yield entry[4][0], entry[4][1]
