"""Admitting an event: every trigger and every waiting run that fits decides, and all of it is one commit.

Optimistic: read the loads, decide with pure functions, commit on condition that the loads still stand; if not, decide
again. Nothing is started, buffered or remembered unless everything the event touched is durable.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from poundlock.codecs import pack
from poundlock.errors import (
    Contended,
    IdempotencyConflict,
    InboxAhead,
    KeysTaken,
    LeaseLost,
    LoadMoved,
    RunFinished,
    RunNotFound,
    StaleVersion,
    WaitMoved,
)
from poundlock.model.changes import NOTHING, Changes, Committed, LoadChange, Post, Remember, RunCreate, RunMove, Token
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes import Drop, Load, Queue, Reject, Replace, Signal, Start
from poundlock.model.receipts import Delivery, Fate, ReceiptLine, ReceiptRow, Verdict, settle_lines
from poundlock.model.runs import LOOSE, Message, RunRecord, StoredEvent
from poundlock.pipeline.active import ActiveRun
from poundlock.runtime.commands.cancel import Cancel, cancel
from poundlock.runtime.commands.claim import take_up
from poundlock.runtime.commands.execute import start, start_promoted
from poundlock.runtime.core import Core, LiveRun, log
from poundlock.runtime.dispatch import Route, code_of
from poundlock.runtime.loads import Pair
from poundlock.runtime.pausing import Waiting, waiting_for
from poundlock.runtime.registration import call_hook
from poundlock.runtime.runs import accepted, as_mapping, new_run
from poundlock.runtime.supersede import superseding

_RUNNING, _STARTED = RunStatus.RUNNING, Verdict.STARTED
_ATTEMPTS = 32
_WAIT_WINDOW = 86_400.0


@dataclass(slots=True)
class Admit:
    """Decide about an event. `decided` (workflow, trigger) pairs were decided elsewhere, waits included if any."""

    event: Event
    decided: frozenset[tuple[str, str]] = frozenset()
    waits: bool = True
    dry: bool = False
    """Answer what would happen, and do nothing."""


@dataclass(slots=True)
class Admitted:
    """What became of an event: the receipt's lines, and the event as it was accepted."""

    event: Event
    lines: tuple[ReceiptLine, ...]


@dataclass(slots=True)
class _Offer:
    """An accepted event on its way through the deciders: `known` is what it was found to have done before, by scope."""

    event: Event
    payload_text: str
    ref: str
    fingerprint: str
    known: dict[str, Remember]


class _Plan:
    """Everything one attempt wants to commit, and what has to be done when it is durable."""

    def __init__(self) -> None:
        self.lines: list[ReceiptLine] = []
        self.creates: list[RunCreate] = []
        self.moves: list[RunMove] = []
        self.posts: list[Post] = []
        self.remember: list[Remember] = []
        self.deliveries: list[Delivery] = []
        self.loads: dict[Pair, tuple[Load, Token | None]] = {}
        self.started: list[tuple[ActiveRun, RunCreate, Route]] = []
        self.aborts: list[Cancel] = []
        self.superseded: list[str] = []


async def admit(core: Core, command: Admit) -> Admitted:
    """Handle `Admit`.

    Raises:
        NotStorable: the payload is no data.
        IdempotencyConflict: the event's id was used before with another type or payload; nothing was decided.
        Contended: too many others decided at the same moment; nothing was decided.
    """
    core.check_accepting()
    event, text = accepted(core, command.event)
    fingerprint = hashlib.blake2s(f"{event.type}\n{text}".encode(), digest_size=16).hexdigest()
    offer = _Offer(event, text, core.ids.sortable(core.clock.now()), fingerprint, {})
    plan, committed = await _decided(core, command, offer)
    if command.dry:
        return Admitted(event, _foretold(plan))
    lines = settle_lines(plan.lines, plan.deliveries, committed.delivered)
    await _carry_out(core, plan, committed, event)
    await _tell(core, lines)
    return Admitted(event, lines)


async def _decided(core: Core, command: Admit, offer: _Offer) -> tuple[_Plan, Committed]:
    """Decide and commit: first without regard for others, then, if somebody was quicker, one after another."""
    if not core.loads.turn.locked():
        done = await _attempt(core, command, offer)
        if done is not None:
            return done
    async with core.loads.turn:
        for _ in range(_ATTEMPTS):
            # What was in the way may still be on its way to the disk: trying before it is there would fail again.
            await core.store.written_behind()
            done = await _attempt(core, command, offer)
            if done is not None:
                return done
    raise Contended(
        f"event '{offer.event.id}' was not admitted: others decided on the same workflow and key {_ATTEMPTS} times "
        f"in a row; emit it again",
        event_id=offer.event.id,
    )


async def _attempt(core: Core, command: Admit, offer: _Offer) -> tuple[_Plan, Committed] | None:
    """Decide once; None if it has to be done again, with what became known meanwhile."""
    try:
        plan, changes = await _decide(core, command, offer)
        return plan, await (_check_only(core, changes) if command.dry else _commit(core, plan, changes))
    except KeysTaken as taken:
        _check_same(offer.event, offer.fingerprint, taken.fields["taken"])
        offer.known |= taken.fields["taken"]
    except (LoadMoved, WaitMoved, StaleVersion, InboxAhead, LeaseLost, RunFinished, RunNotFound):
        pass
    return None


async def _check_only(core: Core, changes: Changes) -> Committed:
    """Ask whether the keys are free, writing nothing: a key that has expired already is checked and not kept."""
    if not changes.remember:
        return NOTHING
    keys = tuple(key._replace(expires_at=changes.now) for key in changes.remember)
    return await core.store.commit(Changes(remember=keys, now=changes.now))


# ------------------------------------------------------------------------------------------------------ deciding
async def _decide(core: Core, command: Admit, offer: _Offer) -> tuple[_Plan, Changes]:
    plan = _Plan()
    event = offer.event
    decided = command.decided
    for route in core.index.match(event.type):
        if not decided or (route.entry.id, route.trigger_id) not in decided:
            await _decide_route(core, plan, route, offer)
    # Runs that begin with an event keep it; one that is only delivered is needed as long as a message refers to it.
    ref = offer.ref if plan.creates else LOOSE + offer.ref
    if command.waits:
        await _decide_waits(core, plan, offer, ref, dry=command.dry)
    if not plan.lines and not plan.deliveries:
        plan.lines.append(ReceiptLine(Verdict.UNMATCHED))
    now = core.clock.now()
    changes = Changes(
        creates=tuple(plan.creates),
        moves=tuple(plan.moves),
        events=(StoredEvent(ref, event),) if plan.creates or plan.deliveries else (),
        remember=tuple(plan.remember),
        deliveries=tuple(plan.deliveries),
        posts=tuple(plan.posts),
        receipt=ReceiptRow(event.source, event.id, now, tuple(plan.lines)),
        now=now,
    )
    return plan, changes


async def _decide_route(core: Core, plan: _Plan, route: Route, offer: _Offer) -> None:
    entry, event = route.entry, offer.event
    line = partial(_add_line, plan, route)
    if route.scope in offer.known:
        line(Verdict.DUPLICATE, offer.known[route.scope].run_id, "this event id was handled before")
        return
    try:
        if not route.wants(event):
            line(Verdict.FILTERED, None, "`when` does not let it through")
            return
        load_key = route.partition(event)
        initial = route.initial_state(event)
    except Exception as error:  # noqa: BLE001 - when, key and map are user code; the other lines go on
        line(Verdict.REJECTED, None, code_of(error))
        return
    pair = (entry.id, load_key)
    if pair not in plan.loads:
        [plan.loads[pair]] = await core.loads.read([pair])
    load, token = plan.loads[pair]
    decision = entry.mode.accept(load)
    patch: dict[str, Any] = {}
    try:
        if isinstance(decision, Signal):  # merged into a state that is whole already, so it need not be one itself
            patch = pack(as_mapping(initial), "state")[0]
            run_id = decision.run_id
        else:
            run = new_run(
                core,
                entry,
                event,
                initial,
                pipeline_id=route.pipeline_id,
                trigger_id=route.trigger_id,
                payload_text=offer.payload_text,
                event_ref=offer.ref,
                load_key=load_key,
                priority=route.trigger.priority,
            )
            run_id = run.identity.run_id
    except Exception as error:  # noqa: BLE001 - what the event brings may be no state; the other lines go on
        line(Verdict.REJECTED, None, code_of(error))
        return
    window = route.window
    match decision:
        case Start():
            plan.loads[pair] = (load.started(run_id), token)
            create = run.admitted(_RUNNING)
            plan.creates.append(create)
            plan.started.append((run, create, route))
            line(_STARTED, run_id)
        case Queue(supersedes=old) | Replace(supersedes=old):
            if old is not None:
                plan.moves.append(await superseding(core, old, run_id))
                plan.superseded.append(old)
            plan.loads[pair] = (load.lined_up(run_id, instead=old is not None), token)
            plan.creates.append(run.admitted(RunStatus.QUEUED))
            if isinstance(decision, Replace):
                plan.aborts.append(Cancel(decision.run_id, f"replaced by run {run_id}", "replaced"))
                line(Verdict.REPLACED, run_id, f"replaces {decision.run_id}")
            else:
                line(Verdict.QUEUED, run_id, f"supersedes {old}" if old is not None else "")
        case Signal(run_id=active):
            plan.posts.append(Post(active, "signal", patch, core.clock.now()))
            line(Verdict.SIGNALLED, active)
        case Drop(reason=reason):
            line(Verdict.DROPPED, None, reason)
            window = 0.0  # checked, for it may have been taken before; but not remembered
        case Reject(reason=reason):
            line(Verdict.REJECTED, None, reason)
            window = 0.0
    if route.window is not None:
        expires = core.clock.now() + (window or 0.0)
        plan.remember.append(Remember(event.source, event.id, route.scope, offer.fingerprint, run_id, expires))


def _add_line(plan: _Plan, route: Route, verdict: Verdict, run_id: str | None = None, reason: str = "") -> None:
    plan.lines.append(ReceiptLine(verdict, route.entry.id, route.trigger_id, run_id, reason))


async def _decide_waits(core: Core, plan: _Plan, offer: _Offer, ref: str, *, dry: bool) -> None:
    event = offer.event
    for waiting in await waiting_for(core, event, dry=dry):
        identity = waiting.record.identity
        line = ReceiptLine(Verdict.BUFFERED, identity.workflow_id, None, identity.run_id)
        if not waiting.hit:
            plan.lines.append(replace(line, verdict=Verdict.FILTERED, reason="the wait's conditions do not match"))
        elif "" in offer.known:
            plan.lines.append(replace(line, verdict=Verdict.DUPLICATE, reason="this event id was handled before"))
        else:
            if dry and waiting.record.head.status is RunStatus.PAUSED and any(row.parked for row in waiting.hit):
                line = replace(line, verdict=Verdict.RESUMED)
            plan.deliveries.append(_delivery(core, waiting, ref, line))
    if plan.deliveries:
        expires = core.clock.now() + _WAIT_WINDOW
        plan.remember.append(Remember(event.source, event.id, "", offer.fingerprint, None, expires))


def _delivery(core: Core, waiting: Waiting, event_ref: str, line: ReceiptLine) -> Delivery:
    record: RunRecord = waiting.record
    owner = core.worker if record.identity.workflow_id in core.entries else None
    waits = tuple((row.wait_id, row.epoch) for row in waiting.hit)
    return Delivery(record.identity.run_id, waits, event_ref, owner, replace(line, reason=_names(waiting)))


def _names(waiting: Waiting) -> str:
    return "wait " + ", ".join(row.wait_id for row in waiting.hit)


def _foretold(plan: _Plan) -> tuple[ReceiptLine, ...]:
    return (*plan.lines, *(delivery.line for delivery in plan.deliveries))


def _check_same(event: Event, fingerprint: str, taken: dict[str, Remember]) -> None:
    for scope, remembered in taken.items():
        if remembered.fingerprint != fingerprint:
            raise IdempotencyConflict(
                f"event id '{event.id}' from source '{event.source}' was used before with another type or payload: "
                f"give this event an id of its own",
                path="id",
                event_id=event.id,
                scope=scope,
            )


# ---------------------------------------------------------------------------------------------------- committing
async def _commit(core: Core, plan: _Plan, changes: Changes) -> Committed:
    loads = []
    # One that was only read is guarded as well: what was dropped, rejected or signalled because of it must have been
    # so when this became durable.
    for pair, (load, token) in plan.loads.items():
        if token is None and load.idle:
            continue
        following = Token(core.ids.token(), 0) if token is None else token.next()
        loads.append(LoadChange(*pair, token, load, following))
        core.loads.submitted(pair, load, following)
    changes.loads = tuple(loads)
    applied = False
    try:
        committed = await core.store.commit(changes)
        applied = True
    except asyncio.CancelledError:
        # Whoever emitted went away; the commit goes on. What it starts or resumes must not be left standing.
        started = [run.identity.run_id for run, _, _ in plan.started]
        take_up(core, [*started, *(delivery.run_id for delivery in plan.deliveries)])
        raise
    finally:
        for change in loads:
            core.loads.settled((change.workflow_id, change.load_key), applied=applied)
    return committed


# ---------------------------------------------------------------------------------------------------- afterwards
async def _carry_out(core: Core, plan: _Plan, committed: Committed, event: Event) -> None:
    for run, create, route in plan.started:
        run.created(create)
        start(core, LiveRun(run, route.entry, new=True))
    for post, seq in zip(plan.posts, committed.posted, strict=True):
        core.tell(Message(post.run_id, seq, post.kind, post.time, post.body, None))
    for delivery, outcome in zip(plan.deliveries, committed.delivered, strict=True):
        if outcome.fate is not Fate.GONE:
            _delivered(core, delivery, outcome.seq, outcome.fate, event)
    for run_id in plan.superseded:
        await _tell_superseded(core, run_id)
    for abort in plan.aborts:
        core.spawn(_abort(core, abort))


def _delivered(core: Core, delivery: Delivery, seq: int, fate: Fate, event: Event) -> None:
    now = core.clock.now()
    core.tell(Message(delivery.run_id, seq, "event", now, None, StoredEvent(delivery.event_ref, event)))
    if fate is not Fate.RESUMED or delivery.owner is None:
        return
    live = core.unpark(delivery.run_id)
    if live is None:
        start_promoted(core, (delivery.run_id,))
        return
    run = live.run
    run.version += 1
    run.epoch += 1
    run.status = RunStatus.RUNNING
    run.slot = run.identity.load_key is not None
    start(core, live)


async def _tell_superseded(core: Core, run_id: str) -> None:
    from poundlock.runtime.commands.cancel import tell_end

    await tell_end(core, run_id)


async def _abort(core: Core, abort: Cancel) -> None:
    try:
        await cancel(core, abort)
    except (RunFinished, RunNotFound):
        log.debug("run '%s' had ended before it was replaced", abort.run_id)


async def _tell(core: Core, lines: tuple[ReceiptLine, ...]) -> None:
    for line in lines:
        core.count("event:" + line.verdict)
        entry = core.entries.get(line.workflow_id or "")
        if entry is not None and entry.hooks.on_dispatch is not None:
            await call_hook(entry, "on_dispatch", line)
