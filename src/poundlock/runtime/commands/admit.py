"""Admitting an event: the decisions of all triggers and all waiting runs are one commit.

Optimistic: read the loads, decide with pure functions, commit if the loads are unchanged; if they changed, decide
again. Nothing is started, buffered or remembered before all changes of the event are durable.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Final

from poundlock.errors import (
    Contended,
    HoldMoved,
    IdempotencyConflict,
    InboxAhead,
    KeysTaken,
    LeaseLost,
    LoadMoved,
    RunFinished,
    RunNotFound,
    StaleVersion,
    StoreUnavailable,
    WaitMoved,
)
from poundlock.model.changes import NOTHING, Changes, Committed, LoadChange, Remember, Token
from poundlock.model.drafts import new_tuple
from poundlock.model.events import Event, accepted
from poundlock.model.lifecycle import RunStatus
from poundlock.model.outbox import Sending
from poundlock.model.receipts import Delivered, Delivery, Fate, ReceiptLine, Verdict, answer_note, settle_lines
from poundlock.model.runs import Message, StoredEvent
from poundlock.pipeline.writing import take_creation
from poundlock.records import NamedTuple, dataclass
from poundlock.runtime.admission import AdmissionPlan, Firing, Offer, decide, dry_lines, pairs_of
from poundlock.runtime.commands.cancel import Cancel, cancel, interrupt_replaced
from poundlock.runtime.core import Core, log
from poundlock.runtime.driver import start, take_up, wake, written_behind
from poundlock.runtime.entries import Registered, call_hook
from poundlock.runtime.healing import patiently
from poundlock.runtime.held_events import Holding
from poundlock.runtime.hold_desk import Turn
from poundlock.runtime.pending_hooks import ending
from poundlock.runtime.phases import Phase
from poundlock.runtime.replacing import reason_of
from poundlock.runtime.settling import announce_end, announce_if_written
from poundlock.runtime.unmatched import call_unmatched

Copy = tuple[str, str]
"""(source, id): by these an event is recognised as a copy."""
_COUNTER: Final = {verdict.value: f"event:{verdict}" for verdict in Verdict}
_TOGETHER = 8
"""Attempts to decide concurrently with other refused events of this process."""
_ATTEMPTS = 32
"""Attempts to decide alone, after that."""


@dataclass(slots=True)
class Admit:
    """Decide about an event. The `decided` (workflow, trigger) pairs were decided elsewhere, and then the waits too."""

    event: Event
    decided: frozenset[tuple[str, str]] = frozenset()
    waits: bool = True
    dry: bool = False
    """Return what would happen; change nothing."""
    sending: Sending | None = None
    """The event's row of the outbox, which leaves it in the same commit."""
    firing: Firing | None = None
    """The time of a trigger that the event stands for; the row of that trigger changes in the same commit."""


class Admitted(NamedTuple):
    """What became of an event: the receipt's lines, and the event as it was accepted.

    Attributes:
        pairs: of a dry run, the workflow and the key in whose load the runs would count that it would make, by run.
    """

    event: Event
    lines: tuple[ReceiptLine, ...]
    pairs: Mapping[str, tuple[str, str]] = {}


async def admit(core: Core, command: Admit) -> Admitted:
    """Handle `Admit`.

    Raises:
        NotStorable: the payload is not data.
        IdempotencyConflict: the event's id was used before with another type or payload; nothing was decided.
        Contended: too many concurrent decisions; nothing was decided.
        OutboxMoved, ScheduleMoved: the row of the outbox or of the trigger has changed; nothing was decided.
        NotRegistered: the trigger whose time has come is being deregistered; nothing was decided.
    """
    if not core.accepting:
        core.check_accepting()
    event, text = accepted(command.event, core.clock.now())
    if core.redaction.active:
        event, text = core.redaction.of_type(event, text)
    fingerprint = hashlib.blake2s(f"{event.type}\n{text}".encode(), digest_size=16).hexdigest()
    offer = Offer(
        event, text, fingerprint, command.decided, command.waits, command.dry, command.sending, command.firing
    )
    core.tasks.admitting += 1  # a stop waits until accepted events are carried out
    name, copies = (event.source, event.id), core.loads.deciding
    first = name not in copies
    try:
        if first:
            copies[name] = None
        else:
            await _decided_before(copies, name)
        plan, committed = await _attempt(core, offer) or await _again(core, offer)
        event = offer.event  # a waiting run may redact more of it
        if command.dry:
            return Admitted(event, dry_lines(plan), pairs_of(plan))
        lines = carry_out(core, plan, committed, event)
    finally:
        core.tasks.admitted()
        if first and (waiting := copies.pop(name)) is not None and not waiting.done():
            waiting.set_result(None)
    await tell(core, plan, lines)
    return new_tuple(Admitted, (event, lines, {}))


async def _decided_before(copies: dict[Copy, asyncio.Future[None] | None], name: Copy) -> None:
    """Wait until the first copy of an event has been decided: only then can this one be recognised as a duplicate.

    Queued behind it this one would be refused, and with it all events queued behind this one. The copies wait for the
    first one only, not for each other: then all of them are answered at the same time.
    """
    waiting = copies[name]
    if waiting is None:
        waiting = copies[name] = asyncio.get_running_loop().create_future()
    await asyncio.shield(waiting)


async def _again(core: Core, offer: Offer) -> tuple[AdmissionPlan, Committed]:
    """Decide again after a conflict, together with all other refused events, at last one after another."""
    for _ in range(_TOGETHER - 1):
        # The conflicting commit may not be durable yet: a new attempt before that would fail again.
        await core.store.written_behind()
        if done := await _attempt(core, offer):
            return done
    # If some conflict again and again, each one decides alone.
    async with core.loads.turn:
        for _ in range(_ATTEMPTS):
            await core.store.written_behind()
            if done := await _attempt(core, offer):
                return done
    raise Contended(
        f"event '{offer.event.id}' was not admitted: others decided on the same workflow and key {_ATTEMPTS} times "
        f"in a row; emit it again",
        event_id=offer.event.id,
    )


async def _attempt(core: Core, offer: Offer) -> tuple[AdmissionPlan, Committed] | None:
    """Decide once; None if it has to be repeated with newer data."""
    try:
        plan = await decide(core, offer)
        if offer.dry:
            return plan, await _check_only(core, plan)
        if offer.holding is not None and offer.holding.over:
            for key in offer.holding.over:
                await core.end_hold(key)  # what came before is decided first
            return None
        if plan.hooks:
            with ending(core, plan.hooks):
                return plan, await write(core, plan, offer.event, offer.holding)
        answer = write(core, plan, offer.event, offer.holding)
        return plan, answer if isinstance(answer, Committed) else await answer
    except KeysTaken as taken:
        _check_same(offer.event, offer.fingerprint, taken.taken)
        offer.known |= taken.taken
    except (LoadMoved, WaitMoved, HoldMoved, StaleVersion, InboxAhead, LeaseLost, RunFinished, RunNotFound):
        pass
    finally:
        if offer.holding is not None:
            offer.holding.give_back()
            offer.holding = None
    return None


async def _check_only(core: Core, plan: AdmissionPlan) -> Committed:
    """Check without a write whether the keys are free: a key that has expired already is checked and not kept."""
    if not plan.remember:
        return NOTHING
    keys = tuple(key._replace(expires_at=plan.now) for key in plan.remember)
    return await core.commit(Changes(remember=keys, now=plan.now))


def _check_same(event: Event, fingerprint: str, taken: Mapping[str, Remember]) -> None:
    for scope, remembered in taken.items():
        if remembered.fingerprint != fingerprint:
            raise IdempotencyConflict(
                f"event id '{event.id}' from source '{event.source}' was used before with another type or payload: "
                f"give this event a new id",
                path="id",
                event_id=event.id,
                scope=scope,
            )


def write(
    core: Core, plan: AdmissionPlan, event: Event | None, turn: Holding | Turn | None = None
) -> Awaitable[Committed]:
    """Commit a plan.

    Args:
        core: of the runtime.
        plan: what was decided.
        event: which is delivered, if the plan has deliveries.
        turn: given back as soon as the plan is submitted.

    Raises:
        LoadMoved, HoldMoved: what it is based on has changed already; and what `Store.commit` raises.
    """
    try:
        answer = _submit(core, plan)
    except BaseException:
        if turn is not None:
            turn.give_back()
        raise
    # Where there is nothing to wait for, nobody can see it in flight.
    return answer if isinstance(answer, Committed) else _in_flight(core, plan, event, answer, turn)


def _submit(core: Core, plan: AdmissionPlan) -> Awaitable[Committed]:
    if core.loads.moved(plan.seen):
        raise LoadMoved("the load changed during the decision: read it again", workflow_id="")
    if plan.holds and core.holds.moved_since(plan.holds):
        raise HoldMoved("a hold changed during the decision: read it again", workflow_id="")
    # A load that was only read is guarded too: what was dropped, rejected or signalled because of it must still be
    # right when this becomes durable.
    for (workflow_id, load_key), (load, token) in plan.seen.items():
        if token is None and load.idle:
            continue
        following = new_tuple(Token, (core.ids.token(), 0))
        plan.loads += (new_tuple(LoadChange, (workflow_id, load_key, token, load, following)),)
    return core.commit(plan)


async def _in_flight(
    core: Core,
    plan: AdmissionPlan,
    event: Event | None,
    answer: Awaitable[Committed],
    turn: Holding | Turn | None,
) -> Committed:
    """Wait for a commit; meanwhile others see the loads as they will be, and the runs as about to be driven."""
    lines = [
        core.loads.submitted(pair, change.load, change.token, plan.queued.get(pair))
        for change in plan.loads
        for pair in [(change.workflow_id, change.load_key)]
    ]
    holds = [core.holds.join(change.key, change.hold) for change in plan.holds]
    if turn is not None:
        turn.give_back()
    if any(move.release is not None for move in plan.moves):
        for line in lines:
            line.broken = True  # a replaced run that rests ends with this: which load that leads to is not known here
    applied = False
    task = asyncio.current_task() if plan.started else None
    for live, _ in plan.started:
        core.runs.expect(live.run.run_id, task)
    try:
        committed = await answer
        applied = True
    except asyncio.CancelledError:
        # The emitter was cancelled; the commit continues, and what follows it has to be done.
        after = core.tasks.follow_up(_after_all(core, plan, event))
        for live, _ in plan.started:
            core.runs.lose(live.run.run_id, after)
        raise
    except StoreUnavailable:
        # It may have been written all the same. Then these runs are ours, and nobody else would drive them; and what is
        # held ends by our timer.
        _watch_holds(core, plan)
        resumed = [delivery.run_id for delivery in plan.deliveries if delivery.owner is not None]
        take_up(core, [*(live.run.run_id for live, _ in plan.started), *resumed])
        if plan.replaced:
            core.tasks.spawn(_look_after(core, plan))
        for move in plan.moves:
            if move.status.terminal:
                announce_if_written(core, move)
        raise
    except BaseException:
        for live, _ in plan.started:
            core.runs.drop(live.run.run_id)
        raise
    finally:
        for line in lines:
            core.loads.settled(line, applied=applied)
        for held in holds:
            core.holds.settled(held, applied=applied)
    return committed


async def _after_all(core: Core, plan: AdmissionPlan, event: Event | None) -> None:
    """Carry out what became durable after the emitter was cancelled."""
    await written_behind(core)
    if plan.committed is not None:
        await tell(core, plan, carry_out(core, plan, plan.committed, event))
        return
    for live, _ in plan.started:
        core.runs.drop(live.run.run_id)


def carry_out(core: Core, plan: AdmissionPlan, committed: Committed, event: Event | None) -> tuple[ReceiptLine, ...]:
    """Do what follows the commit; returns the receipt's lines."""
    for live, create in plan.started:
        take_creation(live.run, create)
        start(core, live)
    _watch_holds(core, plan)
    if not (plan.posts or plan.deliveries or plan.queued):  # then it started runs, or nothing
        return tuple(plan.lines)
    if plan.queued:
        for create in plan.creates:
            if create.start.status is RunStatus.QUEUED:
                core.note_queued(create.identity)
    for post, seq in zip(plan.posts, committed.posted, strict=True):
        core.runs.deliver(Message(post.run_id, seq, post.kind, post.time, post.body, None))
    for delivery, outcome in zip(plan.deliveries, committed.delivered, strict=True):
        if outcome.fate.accepted and event is not None:
            if outcome.dropped:
                core.runs.withdraw(delivery.run_id, outcome.dropped)
            _delivered(core, delivery, outcome, event, plan.now)
    for move in plan.moves:
        if move.status.terminal:
            announce_end(core, move)  # not waited for: it calls hooks
        else:
            core.runs.drop(move.run_id)  # it goes on to be aborted
    if plan.replaced:
        core.wake_at(plan.now)
        _abort_replaced(core, plan)
    return settle_lines(plan.lines, plan.deliveries, committed.delivered)


def _delivered(core: Core, delivery: Delivery, outcome: Delivered, event: Event, now: float) -> None:
    if delivery.held and core.runs.phase(delivery.run_id) is Phase.PARKED:
        core.runs.drop(delivery.run_id)  # its row was changed: it is due now
        return
    stored = StoredEvent(delivery.event_ref, event)
    core.runs.deliver(Message(delivery.run_id, outcome.seq, "event", now, answer_note(outcome.answers), stored))
    if outcome.waits:
        core.waits_for_slot(delivery.run_id)
    if outcome.waits or outcome.fate is not Fate.RESUMED or delivery.owner is None:
        return
    wake(core, delivery.run_id, now)


def _abort_replaced(core: Core, plan: AdmissionPlan) -> None:
    """End replaced runs: their aborts are requested."""
    ended = {move.run_id for move in plan.moves}
    for active, successor in plan.replaced:
        abort = Cancel(active, reason_of(successor), "replaced")
        if active in ended:
            continue
        if interrupt_replaced(core, abort):
            core.tasks.spawn(_unless_it_rests(core, abort))
        else:
            core.tasks.spawn(_abort(core, abort))  # it may be stranded, or at rest


async def _unless_it_rests(core: Core, abort: Cancel) -> None:
    """Abort a run that was paused before it saw the request: nobody drives it, so it would not see it either."""
    status = await patiently(core, partial(core.store.status, abort.run_id), f"reading run '{abort.run_id}'")
    if status in (RunStatus.PAUSED, RunStatus.DELAYED):
        await _abort(core, abort)


async def _look_after(core: Core, plan: AdmissionPlan) -> None:
    """Do the same if the answer to the commit was lost, but it was written."""
    await written_behind(core)
    for active, successor in plan.replaced:
        core.wake_at(plan.now)
        found = await patiently(core, partial(core.store.load, successor), f"reading run '{successor}'")
        if found is not None:
            await _abort(core, Cancel(active, reason_of(successor), "replaced"))


async def _abort(core: Core, abort: Cancel) -> None:
    try:
        await patiently(core, lambda: cancel(core, abort), f"aborting run '{abort.run_id}'")
    except (RunFinished, RunNotFound):
        log.debug("run '%s' had ended before it was replaced", abort.run_id)


def _watch_holds(core: Core, plan: AdmissionPlan) -> None:
    for change in plan.holds:
        if change.hold is not None:
            core.hold_until(change.hold.due_at)


async def tell(core: Core, plan: AdmissionPlan, lines: Sequence[ReceiptLine]) -> None:
    """Count the lines of a receipt and those that were rewritten, and call the hooks that are told of them."""
    if plan.rewrites:
        lines = (*lines, *(rewrite.line for rewrite in plan.rewrites))
    for entry, line in _counted(core, lines):
        await call_hook(core, entry, "on_dispatch", line)
    if plan.unwanted is not None:
        await call_unmatched(core, plan.unwanted)


def _counted(core: Core, lines: Sequence[ReceiptLine]) -> list[tuple[Registered, ReceiptLine]]:
    """Count what was decided; returns the lines to call `on_dispatch` with."""
    hooked = []
    counters = core.counters
    for line in lines:
        counter = _COUNTER[line.verdict._value_]
        counters[counter] = counters.get(counter, 0) + 1
        entry = core.entries.get(line.workflow_id or "")
        if entry is not None and entry.hooks.on_dispatch is not None:
            hooked.append((entry, line))
    return hooked
