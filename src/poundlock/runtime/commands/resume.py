"""Resuming a paused run by hand. Of concurrent calls exactly one succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from poundlock.errors import InvalidEvent, LeaseLost, NotPaused, NotStorable, StaleResume, StaleVersion
from poundlock.model.changes import Changes, Committed, Post, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.operator_pause import is_held, pauses_of
from poundlock.model.quoting import shown
from poundlock.model.runs import CHILDREN_WAIT, Message, RunRecord, WaitRow, parked_waits, paused_children
from poundlock.model.while_paused import paused_text
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.at_wait import check_answer, check_form
from poundlock.pipeline.changing import check_resumable
from poundlock.pipeline.durable_waits import waits_for_function
from poundlock.pipeline.writing import boundary_of, take_commit
from poundlock.records import dataclass
from poundlock.runtime.commands.signal import as_patch
from poundlock.runtime.core import Core
from poundlock.runtime.driver import start, take_up, written_behind
from poundlock.runtime.parked_run import ParkedRun
from poundlock.runtime.phases import Phase
from poundlock.runtime.reading import with_children_now
from poundlock.runtime.returning import back_in_line
from poundlock.runtime.run_table import LiveRun
from poundlock.runtime.runs import restored_run, unparked
from poundlock.stores.answers import finished, not_found


@dataclass(frozen=True, slots=True)
class Resume:
    """Resume a paused run.

    Args:
        patch: merged into its state; None merges nothing.
        wait: id of the wait that is answered, or the token of its question; None means the question that is open when
            this call begins.
        event: the event type that the answer stands for; needed where the wait's event types lead to different stages.
    """

    run_id: str
    patch: Mapping[str, Any] | None = None
    wait: str | None = None
    event: str | None = None


async def resume(core: Core, command: Resume) -> str | None:
    """Handle `Resume`; returns when the answer is durable.

    Returns:
        The run that continues: the one of the command, or a child of it, by the address of its wait. None if its
        workflow is unknown here: then it is left `ready`.

    Raises:
        RunNotFound, RunFinished: there is nothing to resume.
        NotPaused: the run is not paused, an operator has paused it, or another call resumed it first.
        StaleResume: this wait has been answered; the run is paused at another one now.
        InvalidEvent: the answer has to say which of the wait's events it stands for, or names another one.
        AnswerInvalid: it does not fit the form of the wait; nothing was changed.
        NotStorable, StateInvalid: the patch does not fit; nothing was changed.
        StageGone, DefinitionChanged: the run cannot go on with its workflow as it is now; nothing was changed.
    """
    core.check_accepting()
    run_id = command.run_id
    given = _taken(command.patch)
    epoch = _epoch_now(core, command)
    while True:
        parked = core.runs.parked(run_id)
        if parked is not None and parked.entry.closing:
            parked = None
        found = parked or await core.store.checkpoint(run_id)
        if found is None:
            raise not_found(run_id)
        if isinstance(found, ParkedRun):
            status, waits, workflow_id = found.status, found.waits, found.identity.workflow_id
        else:
            identity, head, waits = found.record
            status, workflow_id = head.status, identity.workflow_id
        if (child := await _for_child(core, command, status, waits)) is not None:
            return await resume(core, child)  # by its own row: it may have gone on to another wait
        row = _paused_at(command, status, waits, epoch)
        if core.pauses and (paused := core.pause_of(workflow_id)) is not None:
            raise NotPaused(
                f"run '{run_id}' is not resumed, because {paused_text(paused)}: unpause "
                f"{'it' if paused.workflow_id else 'all'} first",
                run_id=run_id,
                status=status,
            )
        epoch, several = row.epoch, sum(each.parked for each in waits) > 1
        entry = core.entries.get(workflow_id)
        if entry is None or entry.closing:
            record = found.record() if isinstance(found, ParkedRun) else found.record
            try:
                patch = None if given is None else as_patch(given)
                await _leave_ready(core, _body(command, patch, row if several else None), record)
            except (StaleVersion, LeaseLost):
                continue  # another call was quicker here too
            return None
        run = unparked(core, found) if isinstance(found, ParkedRun) else restored_run(core, entry, found)
        live = LiveRun(run, entry)
        if core.runs.phase(run_id) in (Phase.ABSENT, Phase.PARKED):
            core.runs.resume(live)
        try:
            check_resumable(run, command.event)
            await _take(core, live, _body(command, _fitting(run, row, given), row if several else None))
        except (StaleVersion, LeaseLost):
            if core.runs.is_current(live):
                core.runs.drop(run_id)
            continue  # another call was quicker: see which wait it is paused at now
        except asyncio.CancelledError:
            raise  # the commit may be in flight: `_after_all` deals with it
        except BaseException:
            if core.runs.is_current(live):
                core.runs.park(live)
            raise
        return run_id


async def _for_child(core: Core, command: Resume, status: RunStatus, waits: Sequence[WaitRow]) -> Resume | None:
    """Return the answer as one to a child of the run, if that is what the run waits for; None if it is not.

    Raises:
        NotPaused: it has to say which wait of which child it answers.
    """
    row = next((row for row in waits if row.parked and row.wait_id == CHILDREN_WAIT), None)
    if row is None or status is not RunStatus.PAUSED:
        return None
    above = {f"{row.resume_at}/{child['child']}/": child["run_id"] for child in paused_children(row)}
    wait = command.wait or ""
    for child in paused_children(row):
        asked = {child["run_id"], *(_run_of(below.get("token")) for below in child["waits"])}
        if _run_of(wait) in asked:  # a token: it names the run that asks, whatever that asks by now
            return replace(command, run_id=child["run_id"])
    address = max((address for address in above if wait.startswith(address)), key=len, default=None)
    if address is None:
        record = await core.store.load(command.run_id)
        found = (
            () if record is None else parked_waits(command.run_id, (await with_children_now(core.store, record)).waits)
        )
        raise NotPaused(
            f"run '{command.run_id}' is paused because its children are: answer one of them, by wait= "
            f"{', '.join(repr(info.id) for info in found)}",
            run_id=command.run_id,
            status=status,
        )
    return replace(command, run_id=above[address], wait=wait[len(address) :])


def _run_of(token: str | None) -> str:
    """Return the run that a token names; "" if it is none."""
    return "/".join((token or "").split("/")[:-2])


def _taken(patch: Any) -> Any:
    """Return a copy of a patch that its caller cannot change, as far as it is data without the state's model.

    Raises:
        StateInvalid: it is not a mapping.
    """
    try:
        return None if patch is None else as_patch(patch)
    except NotStorable:
        return _Raw(patch)  # fields of a model may know how to encode its values; else it is refused later


class _Raw(dict[str, Any]):
    """A patch with values that are no data without the state's model."""


def _fitting(run: ActiveRun, row: WaitRow, given: Any) -> dict[str, Any] | None:
    """Return the answer as it is stored: the run can continue with it.

    Raises:
        StateInvalid, NotStorable: it cannot.
    """
    if waits_for_function(run, row):
        patch = None if given is None else as_patch(given, None, run.state)
        check_form(row, None, patch)
        return patch
    model = run.plan.state_model
    if model is None and row.rules is None and type(given) is not _Raw:
        return given  # type: ignore[no-any-return]  # it was taken as data, and all data fits
    patch = None if given is None else as_patch(given, model, run.state)
    if model is not None or row.rules is not None:
        check_answer(run, row, patch)
    return patch


def _epoch_now(core: Core, command: Resume) -> int | None:
    """Return the epoch of the wait the run is paused at when this call begins; None if no task works for it now.

    Raises:
        NotPaused: the run is being driven and not paused.
    """
    live = core.runs.live(command.run_id)
    if live is None:
        return None
    row = live.run.parked
    if row is None:
        raise _not_paused(command.run_id, live.run.status, live.run.waits)
    return row.epoch


def _body(command: Resume, patch: dict[str, Any] | None, row: WaitRow | None) -> dict[str, Any]:
    """Return the answer as the run's inbox holds it. `row`: which wait it answers, if the run is paused at several."""
    body = {"patch": patch} if command.event is None else {"patch": patch, "event": command.event}
    return body if row is None else {**body, "wait": row.wait_id}


async def _take(core: Core, live: LiveRun, body: dict[str, Any]) -> None:
    """Commit answer and ownership together. The run leaves its wait when it is driven, as for an event."""
    run = live.run
    run_id = run.run_id
    move = boundary_of(run, RunStatus.RUNNING, taken_over=True)
    assert type(move) is RunMove  # noqa: S101 - a paused run is stored
    move = back_in_line(core, run.identity, move)
    now = move.updated_at
    changes = Changes(moves=(move,), posts=(Post(run_id, "resume", body, now),), now=now)
    try:
        committed = await core.commit(changes)
    except asyncio.CancelledError:
        # The caller was cancelled; the commit continues, and the run it resumes needs a task to drive it.
        core.tasks.follow_up(_after_all(core, live, changes))
        raise
    _go_on(core, live, changes, committed)


def _go_on(core: Core, live: LiveRun, changes: Changes, committed: Committed) -> None:
    """Drive a run whose answer is durable, unless it has to wait for a slot first."""
    run = live.run
    if committed.waiting:
        core.waits_for_slot(run.run_id)
        core.runs.drop(run.run_id)  # what is needed to go on is in its row
        return
    take_commit(run, changes.moves[0])
    message = Message(run.run_id, committed.posted[0], "resume", changes.now, changes.posts[0].body, None)
    run.inbox.append(message)
    start(core, live)


async def _after_all(core: Core, live: LiveRun, changes: Changes) -> None:
    """Drive the run if the commit became durable after its caller was cancelled."""
    await written_behind(core)
    run = live.run
    run_id = run.run_id
    if changes.committed is None or not (core.runs.is_current(live) or core.runs.phase(run_id) is Phase.ABSENT):
        take_up(core, [run_id])
        return
    _go_on(core, live, changes, changes.committed)


def _paused_at(command: Resume, status: RunStatus, waits: Sequence[WaitRow], epoch: int | None) -> WaitRow:
    """Return the wait a run is paused at."""
    if status.terminal:
        raise finished(command.run_id, status)
    rows = [row for row in waits if row.parked and (row.events or row.wait_id.startswith("__"))]
    row = next((row for row in rows if names(command.wait, command.run_id, row)), rows[0] if rows else None)
    if status is not RunStatus.PAUSED or row is None or is_held(waits):
        raise _not_paused(command.run_id, status, waits)
    _check_wait(command, row, epoch)
    return row


def names(wait: str | None, run_id: str, row: WaitRow) -> bool:
    """Whether an id or a token names this wait of a run."""
    return wait is not None and wait in (row.wait_id, row.token(run_id))


def _not_paused(run_id: str, status: RunStatus, waits: Sequence[WaitRow]) -> NotPaused:
    if status is RunStatus.PAUSED and (pauses := pauses_of(waits)):
        why = f" ({pauses[0].reason})" if pauses[0].reason else ""
        whom = "the run that started it" if pauses[0].scope == "parent" else "it"
        said = f"run '{run_id}' is paused by {pauses[0].by}{why}, beyond its waits: unpause {whom} first"
    elif status is RunStatus.PAUSED:
        said = f"run '{run_id}' is paused between two stages, and goes on by itself: it waits for no answer"
    else:
        said = f"run '{run_id}' is {status}, not paused: wait until it pauses, or send it a signal"
    return NotPaused(said, run_id=run_id, status=status)


def _check_wait(command: Resume, row: WaitRow, epoch: int | None) -> None:
    by_token = command.wait == row.token(command.run_id)  # the same question may have been asked again meanwhile
    by_id = command.wait is None or command.wait == row.wait_id
    if not by_token and (not by_id or (epoch is not None and epoch != row.epoch)):
        raise StaleResume(
            f"run '{command.run_id}' is paused at '{row.wait_id}' now: read it again before you answer",
            run_id=command.run_id,
            wait=row.wait_id,
        )
    events = [event for event, _ in row.leads_to] or row.events
    if command.event is None and row.leads_to:
        ways = ", ".join(f"event='{event}' (to '{stage}')" for event, stage in row.leads_to)
        raise InvalidEvent(
            f"the events of wait '{row.wait_id}' lead to different stages: say which one the answer stands for: {ways}",
            path="event",
        )
    if command.event is not None and command.event not in events:
        raise InvalidEvent(
            f"{shown(command.event)} is not an event of wait '{row.wait_id}': it has {', '.join(events)}", path="event"
        )


async def _leave_ready(core: Core, body: dict[str, Any], record: RunRecord) -> None:
    """Resume a run whose workflow is unknown here: it continues in a process that registers it."""
    now = core.clock.now()
    move = back_in_line(core, record.identity, RunMove.of(record, RunStatus.READY, now=now))
    answer = Post(record.identity.run_id, "resume", body, now)
    await core.commit(Changes(moves=(move,), posts=(answer,), now=now))
