"""Admitting an event: every trigger and every waiting run that fits decides, and all of it is one commit.

Optimistic: read the loads, decide with pure functions, commit on condition that the loads still stand; if not, decide
again. Nothing is started, buffered or remembered unless everything the event touched is durable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from poundlock.errors import (
    Contended,
    IdempotencyConflict,
    KeysTaken,
    LoadMoved,
    RunFinished,
    RunNotFound,
    StaleVersion,
    WaitMoved,
)
from poundlock.model.changes import Changes, Committed, LoadChange, Post, Remember, RunCreate, RunMove, Token
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes import Drop, Load, Queue, Reject, Replace, Signal, Start
from poundlock.model.receipts import Delivery, Fate, ReceiptLine, ReceiptRow, Verdict, settle_lines
from poundlock.model.runs import Message, RunRecord, StoredEvent
from poundlock.pipeline.active import ActiveRun
from poundlock.runtime.commands.cancel import Cancel, cancel
from poundlock.runtime.commands.claim import adopt
from poundlock.runtime.commands.execute import start
from poundlock.runtime.core import Core, LiveRun, log
from poundlock.runtime.dispatch import Route, code_of, public
from poundlock.runtime.loads import Pair
from poundlock.runtime.pausing import Waiting, waiting_for
from poundlock.runtime.registration import call_hook
from poundlock.runtime.runs import accepted, new_run
from poundlock.runtime.supersede import superseding

_ATTEMPTS = 32
_WAIT_WINDOW = 86_400.0


@dataclass(frozen=True, slots=True)
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
class _Plan:
    """Everything one attempt wants to commit, and what has to be done when it is durable."""

    lines: list[ReceiptLine] = field(default_factory=list)
    creates: list[RunCreate] = field(default_factory=list)
    moves: list[RunMove] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    remember: list[Remember] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    loads: dict[Pair, tuple[Token | None, Load]] = field(default_factory=dict)
    started: list[tuple[ActiveRun, Route]] = field(default_factory=list)
    aborts: list[Cancel] = field(default_factory=list)
    superseded: list[str] = field(default_factory=list)


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
    known: dict[str, Remember] = {}
    for _ in range(_ATTEMPTS):
        plan, changes = await _decide(core, command, event, fingerprint, known)
        if command.dry:
            return Admitted(event, _foretold(plan))
        try:
            committed = await _commit(core, plan, changes)
        except KeysTaken as taken:
            _check_same(event, fingerprint, taken.fields["taken"])
            known |= taken.fields["taken"]
        except (LoadMoved, WaitMoved, StaleVersion, RunFinished, RunNotFound):
            continue
        else:
            lines = settle_lines(plan.lines, plan.deliveries, committed.delivered)
            await _carry_out(core, plan, committed, event)
            await _tell(core, lines)
            return Admitted(event, lines)
    raise Contended(
        f"event '{event.id}' was not admitted: others decided on the same workflow and key {_ATTEMPTS} times in a row; "
        f"emit it again",
        event_id=event.id,
    )


# ------------------------------------------------------------------------------------------------------ deciding
async def _decide(
    core: Core, command: Admit, event: Event, fingerprint: str, known: dict[str, Remember]
) -> tuple[_Plan, Changes]:
    plan = _Plan()
    event_ref = core.ids.unique()
    for route in core.index.match(event.type):
        if (route.entry.id, route.trigger_id) not in command.decided:
            await _decide_route(core, plan, route, event, event_ref, fingerprint, known)
    if command.waits:
        await _decide_waits(core, plan, event, event_ref, fingerprint, known)
    if not plan.lines and not plan.deliveries:
        plan.lines.append(ReceiptLine(Verdict.UNMATCHED))
    uses_event = plan.creates or plan.deliveries
    now = core.clock.now()
    changes = Changes(
        creates=tuple(plan.creates),
        moves=tuple(plan.moves),
        events=(StoredEvent(event_ref, event),) if uses_event else (),
        remember=tuple(plan.remember),
        deliveries=tuple(plan.deliveries),
        posts=tuple(plan.posts),
        receipt=ReceiptRow(event.source, event.id, now, tuple(plan.lines)),
        now=now,
    )
    return plan, changes


async def _decide_route(
    core: Core,
    plan: _Plan,
    route: Route,
    event: Event,
    event_ref: str,
    fingerprint: str,
    known: dict[str, Remember],
) -> None:
    entry = route.entry

    def line(verdict: Verdict, run_id: str | None = None, reason: str = "") -> None:
        plan.lines.append(ReceiptLine(verdict, entry.id, route.trigger_id, run_id, reason))

    if route.scope in known:
        line(Verdict.DUPLICATE, known[route.scope].run_id, "this event id was handled before")
        return
    seen = public(event)
    try:
        if not route.wants(seen):
            line(Verdict.FILTERED, reason="`when` does not let it through")
            return
        load_key = route.partition(seen)
        initial = route.initial_state(seen) if route.trigger.map is not None else event.payload
        run = new_run(
            core,
            entry,
            event,
            {} if initial is None else initial,
            pipeline_id=route.pipeline_id,
            trigger_id=route.trigger_id,
            event_ref=event_ref,
            load_key=load_key,
            priority=route.trigger.priority,
        )
    except Exception as error:  # noqa: BLE001 - when, key and map are user code; the other lines go on
        line(Verdict.REJECTED, reason=code_of(error))
        return
    pair = (entry.id, load_key)
    if pair not in plan.loads:
        [(load, token)] = await core.loads.read([pair])
        plan.loads[pair] = (token, load)
    token, load = plan.loads[pair]
    decision = entry.mode.accept(load)
    run_id = run.identity.run_id
    match decision:
        case Start():
            plan.loads[pair] = (token, replace(load, active=load.active + 1, active_id=run_id))
            plan.creates.append(_created(run, RunStatus.RUNNING))
            plan.started.append((run, route))
            line(Verdict.STARTED, run_id)
        case Queue(supersedes=old) | Replace(supersedes=old):
            if old is not None:
                plan.moves.append(await superseding(core, old, run_id))
                plan.superseded.append(old)
            queued = load.queued + (0 if old is not None else 1)
            plan.loads[pair] = (token, replace(load, queued=queued, tail_id=run_id))
            plan.creates.append(_created(run, RunStatus.QUEUED))
            if isinstance(decision, Replace):
                plan.aborts.append(Cancel(decision.run_id, f"replaced by run {run_id}", "replaced"))
                line(Verdict.REPLACED, run_id, f"replaces {decision.run_id}")
            else:
                line(Verdict.QUEUED, run_id, f"supersedes {old}" if old is not None else "")
        case Signal(run_id=active):
            plan.posts.append(Post(active, "signal", run.state, core.clock.now()))
            run_id = active
            line(Verdict.SIGNALLED, active)
        case Drop(reason=reason):
            line(Verdict.DROPPED, reason=reason)
            return
        case Reject(reason=reason):
            line(Verdict.REJECTED, reason=reason)
            return
    if route.window is not None:
        expires = core.clock.now() + route.window
        plan.remember.append(Remember(event.source, event.id, route.scope, fingerprint, run_id, expires))


def _created(run: ActiveRun, status: RunStatus) -> RunCreate:
    [create] = run.create().creates
    if status is RunStatus.RUNNING:
        return create
    head = replace(create.head, status=status, owner=None, slot=False)
    return create._replace(head=head)


async def _decide_waits(
    core: Core, plan: _Plan, event: Event, event_ref: str, fingerprint: str, known: dict[str, Remember]
) -> None:
    for waiting in await waiting_for(core, event):
        identity = waiting.record.identity
        line = ReceiptLine(Verdict.BUFFERED, identity.workflow_id, None, identity.run_id)
        if not waiting.hit:
            plan.lines.append(replace(line, verdict=Verdict.FILTERED, reason="the wait's conditions do not match"))
        elif "" in known:
            plan.lines.append(replace(line, verdict=Verdict.DUPLICATE, reason="this event id was handled before"))
        else:
            plan.deliveries.append(_delivery(core, waiting, event_ref, line))
    if plan.deliveries:
        expires = core.clock.now() + _WAIT_WINDOW
        plan.remember.append(Remember(event.source, event.id, "", fingerprint, None, expires))


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
    for pair, token, load in _changed(plan):
        following = Token(core.ids.token(), 0) if token is None else token.next()
        loads.append(LoadChange(*pair, token, load, following))
        core.loads.submitted(pair, load, following)
    changes.loads = tuple(loads)
    applied = False
    try:
        committed = await core.store.commit(changes)
        applied = True
    finally:
        for change in loads:
            core.loads.settled((change.workflow_id, change.load_key), applied=applied)
    return committed


def _changed(plan: _Plan) -> Iterator[tuple[Pair, Token | None, Load]]:
    """Yield every load that was decided on.

    One that was only read is guarded as well: what was dropped, rejected or signalled because of it must have been so
    when this became durable.
    """
    for pair, (token, load) in plan.loads.items():
        if token is not None or not load.idle:
            yield pair, token, load


# ---------------------------------------------------------------------------------------------------- afterwards
async def _carry_out(core: Core, plan: _Plan, committed: Committed, event: Event) -> None:
    for run, route in plan.started:
        run.committed(Changes(creates=tuple(create for create in plan.creates if create.identity is run.identity)))
        start(core, LiveRun(run, route.entry, new=True))
    for post, seq in zip(plan.posts, committed.posted, strict=True):
        core.tell(Message(post.run_id, seq, post.kind, post.time, post.body, None))
    for delivery, outcome in zip(plan.deliveries, committed.delivered, strict=True):
        if outcome.fate is not Fate.GONE:
            await _delivered(core, delivery, outcome.seq, outcome.fate, event)
    for run_id in plan.superseded:
        await _tell_superseded(core, run_id)
    for abort in plan.aborts:
        core.spawn(_abort(core, abort))


async def _delivered(core: Core, delivery: Delivery, seq: int, fate: Fate, event: Event) -> None:
    now = core.clock.now()
    core.tell(Message(delivery.run_id, seq, "event", now, None, StoredEvent(delivery.event_ref, event)))
    if fate is not Fate.RESUMED or delivery.owner is None:
        return
    live = core.unpark(delivery.run_id)
    if live is None:
        checkpoint = await core.store.checkpoint(delivery.run_id)
        if checkpoint is not None:
            await adopt(core, checkpoint)
        return
    run = live.run
    run.version += 1
    run.epoch += 1
    run.status = RunStatus.RUNNING
    run.slot = run.identity.load_key is not None
    live.resumed = True
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
        core.count(f"event:{line.verdict}")
        entry = core.entries.get(line.workflow_id or "")
        if entry is not None and entry.hooks.on_dispatch is not None:
            await call_hook(entry, "on_dispatch", line)
