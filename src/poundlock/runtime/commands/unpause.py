"""Unpausing a run by its id: it is again what it was when it was paused, and events that came meanwhile count."""

from __future__ import annotations

from contextlib import suppress

from poundlock.codecs import dump
from poundlock.errors import InboxAhead, LeaseLost, RunFinished, RunNotFound, StaleVersion
from poundlock.model.changes import Changes, Post, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.operator_pause import Scope, has_pause, is_held, is_new, lifted, operator_row, then_of, without_row
from poundlock.model.runs import FAILURE_WAIT, Message, RunRecord, WaitRow
from poundlock.pipeline.journal import Journal
from poundlock.pipeline.operator_requests import UNPAUSED
from poundlock.records import dataclass
from poundlock.runtime.commands.pause import asked_to_end, check_texts, children_of
from poundlock.runtime.core import Core
from poundlock.runtime.returning import back_in_line
from poundlock.stores.answers import finished, not_found


@dataclass(frozen=True, slots=True)
class Unpause:
    """Let a run go on that `Pause` has paused, with its children; one that is not paused is left as it is.

    Args:
        by: who: "api", "cli" or a name.
        scope: "run", or "parent" for a child that was paused with the run that started it.
    """

    run_id: str
    by: str = "api"
    scope: Scope = "run"


async def unpause(core: Core, command: Unpause) -> None:
    """Handle `Unpause`; durable when this returns.

    Raises:
        RunNotFound: no such run. RunFinished: it has ended.
    """
    check_texts("", command.by)
    # Its children first: a crash in between leaves them free and the run paused, as everybody can see. And again: it
    # may have been about to start one.
    await _unpause_children(core, command)
    await _unpause(core, command)
    await _unpause_children(core, command)


async def _unpause_children(core: Core, command: Unpause) -> None:
    for run_id in await children_of(core, command.run_id):
        with suppress(RunFinished, RunNotFound):
            await unpause(core, Unpause(run_id, command.by, "parent"))


async def _unpause(core: Core, command: Unpause) -> None:
    while True:
        record = await core.store.load(command.run_id)
        if record is None:
            if core.runs.live(command.run_id) is not None:
                return  # it is not stored yet, so nobody has paused it
            raise not_found(command.run_id)
        head = record.head
        if head.status.terminal:
            raise finished(command.run_id, head.status)
        messages = await core.store.inbox(command.run_id, 0) if head.inbox_seq else []
        # A request to pause that is still in the inbox: it must not act after this.
        asked = any(message.kind == "pause" for message in messages)
        # A child that was just created may be paused with its parent in memory only.
        with_parent = command.scope == "parent" and head.status is RunStatus.RUNNING
        if not (asked or with_parent or has_pause(record.waits, command.scope)):
            return
        try:
            if head.status is RunStatus.RUNNING:
                await core.tasks.to_the_end(_ask(core, command))
                record = await core.store.load(command.run_id)
                if record is not None and record.head.status is not RunStatus.RUNNING:
                    continue  # it was paused before it saw the request
            else:
                await core.tasks.to_the_end(_unpause_unowned(core, command, record, messages))
        except (StaleVersion, LeaseLost, InboxAhead, RunFinished):
            continue  # it changed between read and write: look again
        return


async def _ask(core: Core, command: Unpause) -> None:
    now, body = core.clock.now(), _body(command)
    committed = await core.commit(Changes(posts=(Post(command.run_id, "unpause", body, now),), now=now))
    core.runs.deliver(Message(command.run_id, committed.posted[0], "unpause", now, body, None))


def _body(command: Unpause) -> dict[str, str]:
    return {"scope": command.scope, "reason": "", "by": command.by}


async def _unpause_unowned(core: Core, command: Unpause, record: RunRecord, messages: list[Message]) -> None:
    identity, head, waits = record
    run_id, now = identity.run_id, core.clock.now()
    posts: tuple[Post, ...] = ()
    if any(message.kind == "pause" for message in messages):
        posts = (Post(run_id, "unpause", _body(command), now),)
    moves: tuple[RunMove, ...] = ()
    if has_pause(waits, command.scope):
        journal = Journal(full=core.timeline)
        detail = {"scope": command.scope, "by": command.by}
        journal.add(now, "dispatch", UNPAUSED, dump(identity.pipeline_id), dump(detail))
        left = lifted(waits, command.scope, head.version + 1)
        move = RunMove.of(
            record,
            head.status,
            now=now,
            owner=head.owner,
            guard_inbox=True,
            outcome=head.outcome,
            log=journal.row(head.log_seq + 1),
            wake_at=head.wake_at,
            waits=left,
        )
        if not is_held(left):
            move = _as_it_was(record, move, left, messages, now)
        if move.status is RunStatus.READY:
            move = back_in_line(core, identity, move)
        moves = (move,)
    committed = await core.commit(Changes(moves=moves, posts=posts, now=now))
    if not moves:
        return
    core.runs.moved_to(run_id, moves[0].new_epoch)
    if committed.waiting:
        core.waits_for_slot(run_id)
        return
    if moves[0].status is RunStatus.QUEUED:
        core.note_queued(identity)
    elif moves[0].status is RunStatus.READY:
        core.wake_at(now)
    elif moves[0].wake_at is not None:
        core.wake_at(moves[0].wake_at)


def _as_it_was(
    record: RunRecord, move: RunMove, left: tuple[WaitRow, ...], messages: list[Message], now: float
) -> RunMove:
    """Return the move by which a run becomes what it was when it was paused."""
    head = record.head
    if head.status is not RunStatus.PAUSED:
        return move  # queued: it keeps its place
    row = operator_row(record.waits)
    assert row is not None  # noqa: S101 - it was paused
    then, aborted = then_of(row), asked_to_end(messages)
    if then.status == RunStatus.DELAYED:
        wake_at = now if aborted else then.wake_at
        return move._replace(status=RunStatus.DELAYED, wake_at=wake_at, waits=without_row(left))
    parked = any(wait.parked for wait in record.waits)
    # One that is paused with an error may fit by now; one whose stage failed waits for a person.
    unfit = head.outcome is not None and not any(wait.wait_id == FAILURE_WAIT and wait.parked for wait in left)
    if then.status == RunStatus.PAUSED and parked and not unfit:
        came = aborted or any(message.event is not None for message in messages)
        wake_at = now if came else then.wake_at  # it looks at its wait itself
        return move._replace(wake_at=wake_at, waits=without_row(left))
    ready = move._replace(status=RunStatus.READY, owner=then.owner, wake_at=then.wake_at, outcome=None)
    # Between two stages the row stays: it says whether the run has begun.
    stays = is_new(left) or (then.status is None and not parked)
    return ready if stays else ready._replace(waits=without_row(left))
