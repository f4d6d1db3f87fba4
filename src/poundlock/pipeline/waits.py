"""Waits of a run: arming them, and pausing at one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from operator import is_not
from typing import Any, Final

from poundlock.codecs import encode
from poundlock.errors import InvalidDefinition, StateInvalid
from poundlock.model.conditions import equal
from poundlock.model.counting import Fits, answering
from poundlock.model.definitions import Pause, Wait
from poundlock.model.durations import optional_seconds
from poundlock.model.runs import HIDDEN_WAITS, Message, WaitInfo, WaitRow, wait_info
from poundlock.model.wait_checks import wait_faults
from poundlock.model.waits import arm, lacking_paths
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.forms import fits_with, form_as_data_faults
from poundlock.pipeline.plan import DeclaredWait, StagePlan


def rearm(run: ActiveRun, *, pausing: bool = False) -> None:
    """Arm the declared waits, and those registered since the last boundary, with the run's current state.

    Armed registered waits stay unchanged, as does the wait the run was resumed from until it is `pausing`
    again. Both are known by their rows alone, so that a restart changes nothing. Unchanged rows stay the same
    objects, and if none changed so does the tuple: then the commit has nothing to write.

    Raises:
        StateInvalid: a registered wait refers to state that does not exist.
    """
    plan = run.plan
    if not plan.declared and not run.registered and not run.waits:
        return
    if run.waits is run.rearmed and not run.registered and _still_right(run, pausing=pausing):
        return
    known = {row.wait_id: row for row in run.waits}
    rows: list[WaitRow] = []
    wanted = set()
    for entry in plan.declared:
        wanted.add(entry.wait_id)
        row = armed_row(run, entry)
        if row is not None:
            rows.append(_unless_changed(known.get(entry.wait_id), row))
    for wait_id, wait in (run.registered or {}).items():
        wanted.add(wait_id)
        row = arm(wait, wait_id, run.state, epoch=run.version + 1)
        if row is None:
            raise StateInvalid(
                f"the registered wait '{wait_id}' refers to state that is not there: register it once it is",
                path=wait_id,
            )
        rows.append(_unless_changed(known.get(wait_id), row))
    # A row that was parked before knows where it resumed; a registered one does not.
    rows += [row for row in run.waits if row.wait_id not in wanted and not (pausing and row.resume_at is not None)]
    # Rows that have not changed are the same objects, so equal rows of other values are not taken for them.
    if len(rows) != len(run.waits) or any(map(is_not, rows, run.waits)):
        run.waits = tuple(rows)
    run.rearmed = run.waits


def _still_right(run: ActiveRun, *, pausing: bool) -> bool:
    """Whether arming again would give the same rows as the last time."""
    plan = run.plan
    if pausing and not all(row.wait_id in plan.waits for row in run.waits):
        return False
    armed = run.armed or {}
    for entry in plan.declared:
        known = armed.get(entry.wait_id)
        if known is None or (entry.refs and not _alike(known[0], entry.values(run.state))):
            return False
    return True


def armed_row(run: ActiveRun, entry: DeclaredWait) -> WaitRow | None:
    """Return the row of a declared wait for the current state; None while a value it refers to is missing."""
    values = entry.values(run.state)
    if run.armed is None:
        run.armed = {}
    known = run.armed.get(entry.wait_id)
    if known is not None and _alike(known[0], values):
        return known[1]
    row = arm(entry.wait, entry.wait_id, run.state, epoch=run.version + 1, resume_at=entry.resume_at)
    run.armed[entry.wait_id] = (values, row)
    run.rearmed = None  # the run's waits do not have this row yet
    return row


def _unless_changed(old: WaitRow | None, row: WaitRow) -> WaitRow:
    """Return the old row if the new one says the same but for its epoch: its question may be open."""
    if old is None or old is row:
        return row
    # All but the epoch, the second field, and what came since, the last three. To Python 1 equals True; not to us.
    same = old[0] == row[0] and old[2:-3] == row[2:-3] and _alike(_values(old), _values(row))
    return old if same else row


def _alike(before: Sequence[Any], now: Sequence[Any]) -> bool:
    """Whether values are the same for every condition, one by one. NaN is itself here, or it would be new each time."""
    return not any(old is not new and not equal(old, new) for old, new in zip(before, now, strict=True))


def _values(row: WaitRow) -> list[Any]:
    """Return the values a wait compares events with."""
    return [value for _, value in row.correlate] + [condition.value for condition in row.where]


def park(run: ActiveRun, stage: StagePlan, pause: Pause) -> WaitRow:
    """Return the row of the wait a run is about to pause at.

    Raises:
        InvalidDefinition: a wait made by a router has faults.
        StateInvalid: a StateRef of it has no value in the state.
    """
    wait = pause.wait
    plan = run.plan
    for entry in plan.declared:
        if entry.wait is wait:
            break
    else:
        _check_made(wait, f"{stage.path}/wait", list(plan.by_id))
    wait_id = wait.id or stage.id
    declared = plan.waits.get(wait_id)
    if declared is not None and declared.wait is wait:
        row = armed_row(run, declared)
    else:
        row = arm(wait, wait_id, run.state, epoch=0)
    if row is None:
        lacking = ", ".join(f"'{path}'" for path in lacking_paths(wait, run.state))
        default = "" if plan.state_model is None else "; a default of the model counts once a mapping brings it"
        raise StateInvalid(
            f"the wait '{wait_id}' refers to state that is not there: write {lacking} in an earlier stage{default}",
            path=stage.path,
        )
    timeout = optional_seconds(wait.timeout)
    expires_at = None if timeout is None else run.clock.now() + timeout
    before = open_question(run, row)
    if before is not None:
        asked_at, question = before.asked_at, before.question
    else:
        asked_at, question = None if row.early else run.inbox_seen, 0
    return row.parked_until(expires_at, run.version + 1, pause.resume_at or stage.following, asked_at, question)


def open_question(run: ActiveRun, row: WaitRow) -> WaitRow | None:
    """Return the wait as it was asked before, if its question is still open and the same; else None.

    A timeout does not close a question. So if it was asked before, with the same values, it is the same question.
    """
    before = next((other for other in run.waits if other.wait_id == row.wait_id), None)
    if before is None or not before.question:
        return None
    same = (before.events, before.where, before.correlate) == (row.events, row.where, row.correlate)
    return before if same and _alike(_values(before), _values(row)) else None


def _check_made(wait: Wait, path: str, stages: list[str]) -> None:
    """Check a wait that a router made."""
    faults = list(wait_faults(path, wait, stages))
    if isinstance(wait, Wait) and callable(wait.patch):
        faults.append((f"{path}.patch", "a wait made by a router needs its patch as data"))
    if isinstance(wait, Wait):
        faults += form_as_data_faults(f"{path}.form", wait.form)
    if faults:
        raise InvalidDefinition(f"{faults[0][0]}: {faults[0][1]}", path=faults[0][0], faults=tuple(faults))


def pause_at(run: ActiveRun, row: WaitRow) -> None:
    """Pause the run at a wait: it replaces an armed one of the same id, the others continue to buffer."""
    others = [other for other in run.waits if other.wait_id != row.wait_id and not other.parked]
    run.waits = (*others, row)
    if run.registered and row.wait_id in run.registered:  # registered and paused for in one stage
        run.registered = {wait_id: wait for wait_id, wait in run.registered.items() if wait_id != row.wait_id}


_MOST_FITTED: Final = 4096


def fits_of(run: ActiveRun) -> Fits:
    """Return what says whether a message fits the form of one of the run's waits; it asks each form once."""
    ask = fits_with(run.plan.waits)

    def fits(row: WaitRow, message: Message) -> bool:
        if row.rules is None or row.rules.form is None:
            return True
        fitted = run.fitted
        if fitted is None or len(fitted) >= _MOST_FITTED:
            fitted = run.fitted = {}
        key = (row.wait_id, row.epoch, message.seq)
        known = fitted.get(key)
        if known is None:
            known = fitted[key] = ask(row, message)
        return known

    return fits


def first_match(run: ActiveRun, row: WaitRow) -> Message | None:
    """Return the first of the buffered events that answer the wait; None if they do not."""
    return next(iter(answer_at(run, row)), None) if run.buffer else None


def answer_at(run: ActiveRun, row: WaitRow) -> list[Message]:
    """Return the buffered events that answer the wait; none if they do not yet."""
    return answering(row, run.buffer, run.clock.now(), fits_of(run)) if run.buffer else []


def leave(run: ActiveRun, row: WaitRow, *, answered: bool, event_type: str | None = None) -> None:
    """Leave a wait: from now on it only buffers.

    Args:
        run: the run.
        row: the wait it is paused at.
        answered: whether that was an answer; a timeout leaves its question open.
        event_type: of the event that answered it, or that the answer stands for; None without one.
    """
    left = row.left(answered=answered, epoch=run.version + 1)
    run.waits = tuple([left if other.wait_id == row.wait_id else other for other in run.waits])
    run.stage = row.stage_after(event_type)


def note(
    run: ActiveRun, kind: str, row: WaitRow, detail: Mapping[str, Any], write: Callable[[Any], str] = encode
) -> None:
    """Write a wait's entry into the journal; `write` is `dump` where the detail has values or texts of users."""
    if run.journal.full:
        payload = write({"wait": row.wait_id, **detail})
        run.journal.add(run.clock.now(), "pipeline", kind, run.plan.path_json, payload)


def asked(row: WaitRow) -> dict[str, Any]:
    """Return what a wait asks for, for its entry in the timeline."""
    detail: dict[str, Any] = {"events": list(row.events), "correlate": dict(row.correlate)}
    if row.rules is not None and row.rules.several:
        detail["mode"] = row.rules.mode
    return detail


class AnnouncedWaits:
    """The waits that a run's steps register: used by its pause service."""

    __slots__ = ("_run",)

    def __init__(self, run: ActiveRun) -> None:
        self._run = run

    def announce(self, wait: Wait) -> str:
        """Note a wait; it is armed with the stage's commit.

        Raises:
            InvalidDefinition: the wait has faults.
        """
        run = self._run
        faults = wait_faults("wait", wait, list(run.plan.by_id))
        for path, text in faults:
            raise InvalidDefinition(f"{path}: {text}", path=path, faults=((path, text),))
        registered = run.registered or {}
        wait_id = wait.id or self._free_id()
        declared = run.plan.waits.get(wait_id)
        if declared is None:
            if callable(wait.patch):
                raise InvalidDefinition(
                    "wait.patch: a wait that no stage declares needs its patch as data", path="wait.patch"
                )
            for path, text in form_as_data_faults("wait.form", wait.form):
                raise InvalidDefinition(f"{path}: {text}", path=path, faults=((path, text),))
            run.registered = {**registered, wait_id: wait}
        elif declared.wait != wait:
            raise InvalidDefinition(
                f"the workflow declares another wait '{wait_id}': give this one another id", path="wait.id"
            )
        return wait_id

    def _free_id(self) -> str:
        run = self._run
        taken = {*(run.registered or {}), *(row.wait_id for row in run.waits)}
        return next(name for name in (f"wait-{number}" for number in count(1)) if name not in taken)

    def withdraw(self, wait_id: str) -> None:
        """Remove a noted wait; it is disarmed with the stage's commit."""
        run = self._run
        if wait_id in run.plan.waits:
            return
        if run.registered and wait_id in run.registered:
            run.registered = {name: wait for name, wait in run.registered.items() if name != wait_id}
        run.waits = tuple(row for row in run.waits if row.wait_id != wait_id)

    def armed(self) -> list[WaitInfo]:
        """Return the waits that are armed."""
        rows = [row for row in self._run.waits if row.parked or row.wait_id not in HIDDEN_WAITS]
        return [wait_info(self._run.run_id, row, parked=row.parked) for row in rows]
