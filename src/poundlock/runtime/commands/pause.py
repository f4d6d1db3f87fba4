"""Pausing a run by its id, wherever it is: running, ready, queued, delayed, or paused at a wait.

A running run has a message in its inbox and is paused at its next boundary; any other one is moved by this command.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from poundlock.codecs import dump
from poundlock.errors import InboxAhead, InvalidDefinition, LeaseLost, RunFinished, RunNotFound, StaleVersion
from poundlock.model.changes import Changes, Post, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.operator_pause import Scope, Then, has_pause, noted, operator_row, paused_with
from poundlock.model.runs import UNDO_WAIT, VISIT_WAIT, Message, OperatorPause, RunRecord
from poundlock.pipeline.journal import Journal
from poundlock.pipeline.memo import has_children
from poundlock.pipeline.operator_requests import PAUSED
from poundlock.records import dataclass
from poundlock.runtime.core import Core
from poundlock.runtime.driver import start_promoted
from poundlock.runtime.healing import read_checkpoint
from poundlock.runtime.reading import result_now
from poundlock.runtime.runs import ensure_written
from poundlock.runtime.settling import commit_leaving, leaving
from poundlock.stores.answers import finished, not_found


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause a run at its next boundary, with its children, until it is unpaused; pausing it twice changes nothing.

    Args:
        reason: why, for people.
        by: who: "api", "cli" or a name.
        scope: "run", or "parent" for a child that is paused with the run that started it.
    """

    run_id: str
    reason: str = ""
    by: str = "api"
    scope: Scope = "run"


async def pause(core: Core, command: Pause) -> None:
    """Handle `Pause`; durable when this returns. A running run is paused at its next boundary.

    Raises:
        RunNotFound: no such run. RunFinished: it has ended or is being aborted, or its end is decided and its stages
            are being undone.
    """
    check_texts(command.reason, command.by)
    while True:
        live = core.runs.driven(command.run_id)
        if live is not None and live.alive:
            await ensure_written(core, live)
        record = await core.store.load(command.run_id)
        if record is None:
            raise not_found(command.run_id)
        status = record.head.status
        if status.terminal:
            raise finished(command.run_id, status)
        if any(row.wait_id == UNDO_WAIT for row in record.waits):
            raise RunFinished(
                f"run '{command.run_id}' is about to end, and its stages are being undone: wait for its end",
                run_id=command.run_id,
                status=status,
            )
        if has_pause(record.waits, command.scope) and status is not RunStatus.RUNNING:
            break
        try:
            if status is RunStatus.RUNNING:
                await core.tasks.to_the_end(_ask(core, command))
                record = await core.store.load(command.run_id)
                if record is not None and record.head.status is not RunStatus.RUNNING:
                    continue  # it was paused or ended before it saw the request
            else:
                await core.tasks.to_the_end(_pause_unowned(core, command, record))
        except (StaleVersion, LeaseLost, InboxAhead):
            continue  # it changed between read and write: look again
        core.count("paused_by_operator")
        break
    for run_id in await children_of(core, command.run_id):
        with suppress(RunFinished, RunNotFound):
            await pause(core, Pause(run_id, command.reason, command.by, "parent"))


def check_texts(reason: object, by: object) -> None:
    """Refuse a reason or a name that is no text (`InvalidDefinition`)."""
    for path, text in (("reason", reason), ("by", by)):
        if not isinstance(text, str):
            raise InvalidDefinition(f"{path} is a {type(text).__qualname__}: give text", path=path)
        dump(text, path)


def asked_to_end(messages: Iterable[Message]) -> bool:
    """Whether the abort of a run is requested by one of the messages in its inbox."""
    return any(message.kind == "abort" for message in messages)


async def children_of(core: Core, run_id: str) -> list[str]:
    """Return the children that a run waits for, or may still start."""
    record = await core.store.load(run_id)
    if record is None or not has_children(record.waits):
        return []
    from poundlock.pipeline.children import started  # most runs have none

    visit = next((row for row in record.waits if row.wait_id == VISIT_WAIT), None)
    return started(await core.store.history(run_id), visit)


async def _ask(core: Core, command: Pause) -> None:
    """Make the request durable; then the run leaves its stage as soon as its steps only wait."""
    now = core.clock.now()
    body = {"scope": command.scope, "reason": command.reason, "by": command.by}
    committed = await core.commit(Changes(posts=(Post(command.run_id, "pause", body, now),), now=now))
    core.runs.deliver(Message(command.run_id, committed.posted[0], "pause", now, body, None))
    let_go(core, command.run_id)


def let_go(core: Core, run_id: str) -> None:
    """Have a run that is driven here look at its pauses as soon as its steps only wait."""
    live = core.runs.driven(run_id)
    if live is None or live.run.undoing is not None:
        return
    live.run.pausing = True
    if live.run.let_go is not None:
        live.run.let_go()


async def _pause_unowned(core: Core, command: Pause, record: RunRecord) -> None:
    """Move a run without an owner. A queued one keeps its place, and is paused when its turn has come.

    Raises:
        RunFinished: its abort was requested, and nobody has seen to that yet.
    """
    identity, head, waits = record
    if head.inbox_seq and asked_to_end(await core.store.inbox(identity.run_id, 0)):
        raise RunFinished(
            f"run '{identity.run_id}' is about to end, because it is being aborted: wait for its end",
            run_id=identity.run_id,
            status=head.status,
        )
    entry = core.entries.get(identity.workflow_id)
    now, queued = core.clock.now(), head.status is RunStatus.QUEUED
    shown = OperatorPause(command.scope, command.reason, command.by, now)
    known = operator_row(waits) is not None
    held = paused_with(waits, shown, head.version + 1, new=queued or _is_new(core, record))
    if not known or (head.status is RunStatus.READY):
        then = Then(None if queued else str(head.status), head.wake_at, head.owner)
        held = noted(held, then, head.version + 1)
    journal = Journal(full=core.timeline)
    detail = {"scope": command.scope, "reason": command.reason, "by": command.by}
    journal.add(now, "dispatch", PAUSED, dump(identity.pipeline_id), dump(detail))
    move = RunMove.of(
        record,
        RunStatus.QUEUED if queued else RunStatus.PAUSED,
        now=now,
        guard_inbox=True,
        outcome=head.outcome,
        log=journal.row(head.log_seq + 1),
        waits=held,
    )
    if head.slot is True and entry is not None and not entry.mode.holds_slot_while_paused:
        move = move._replace(slot=False, release=leaving(core, entry, identity))
    committed = await commit_leaving(core, move)
    core.runs.moved_to(identity.run_id, move.new_epoch)
    start_promoted(core, committed.promoted)
    if not queued:
        await answer_rest(core, identity.run_id)


def _is_new(core: Core, record: RunRecord) -> bool:
    """Whether a ready run has not begun: `on_prepare` is still to be called."""
    identity, head, waits = record
    if head.status is not RunStatus.READY or any(row.wait_id == VISIT_WAIT for row in waits):
        return False
    entry = core.entries.get(identity.workflow_id)
    plan = None if entry is None else entry.plans.get(identity.pipeline_id)
    return head.log_seq <= (3 if core.timeline else 1) and (plan is None or head.stage == plan.course[0])


async def answer_rest(core: Core, run_id: str) -> None:
    """Answer those who wait for a run that was paused without being driven."""
    if not core.waiters.has_waiters(run_id):
        return
    checkpoint = await read_checkpoint(core, run_id)
    if checkpoint is not None and checkpoint.record.head.status is RunStatus.PAUSED:
        core.waiters.answer(await result_now(core, checkpoint))
