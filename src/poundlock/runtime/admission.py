"""What becomes of one event: each trigger and each waiting run that fits gets a decision. Nothing is written here.

House rule: this file imports no command. It returns an `AdmissionPlan`, which `commands/admit.py` commits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from poundlock.callables import called_name
from poundlock.errors import NotRegistered
from poundlock.guard import call_now
from poundlock.model.changes import Changes, Post, Remember, RunCreate, Token
from poundlock.model.drafts import new_tuple
from poundlock.model.events import CONTROL_EVENTS, Event
from poundlock.model.holds import ALL, HeldEvent, HeldRow, HoldChange, HoldKey, HoldRule, take
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes import Decision, Drop, Load, Queue, Reject, Replace, Signal, SingletonLoop, Start
from poundlock.model.outbox import HeldBy, OutboxMove, Sending
from poundlock.model.receipts import (
    Delivered,
    Delivery,
    ReceiptLine,
    ReceiptRow,
    Rewrite,
    Verdict,
    new_line,
    settle_lines,
)
from poundlock.model.runs import LOOSE, RunRecord, StoredEvent
from poundlock.model.schedules import ScheduleMove
from poundlock.model.waits import Unanswerable, fate, hit_of
from poundlock.model.while_paused import paused_text, while_paused
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.states import check_signal, signalled
from poundlock.pipeline.writing import admission_of, creation_of
from poundlock.ports import AtHand
from poundlock.records import NamedTuple, dataclass, field
from poundlock.runtime.core import Core
from poundlock.runtime.dispatch import Asked, Route, answer_of, ask, code_of, masks_of, secrets_of, unmet
from poundlock.runtime.entries import slots_of
from poundlock.runtime.held_events import Holding, as_held, letter_of, read_holding, value_of, whole_batch
from poundlock.runtime.judging import Waiting, counting, fitting, judged, paused_by_operator
from poundlock.runtime.loads import Pair
from poundlock.runtime.misses import why_not
from poundlock.runtime.pending_hooks import has_pending
from poundlock.runtime.replacing import abortion
from poundlock.runtime.run_table import LiveRun
from poundlock.runtime.runs import as_mapping, ensure_written, new_run, state_here
from poundlock.runtime.transitions import superseding
from poundlock.runtime.unmatched import is_telling

_NOBODY: Final[AtHand[Waiting]] = AtHand()
"""Waits for the event."""
_UNREAD = (Load(), None)
_NONE_QUEUED: Final[Mapping[Pair, RunCreate]] = MappingProxyType({})
_RUNNING, _STARTED = RunStatus.RUNNING, Verdict.STARTED
_REFUSALS = (Drop, Reject)
REFUSED: Final = (Verdict.DROPPED, Verdict.REJECTED)
"""Verdicts of what a mode or a trigger refuses."""
_WAIT_WINDOW = 86_400.0
_UNMATCHED = ReceiptLine(Verdict.UNMATCHED)

_Said = tuple[Verdict, str | None, str]
"""What a receipt says of a trigger: verdict, run id, reason."""


class Firing(NamedTuple):
    """A time of a trigger that has come: only that trigger is offered the event."""

    route: Route
    move: ScheduleMove
    """Written with the decision, so that the time is decided once."""


@dataclass(slots=True)
class Offer:
    """An accepted event, and what has to be decided about it.

    Attributes:
        event: as it is stored.
        payload_text: JSON text of its payload.
        fingerprint: of type and payload; the same id with another fingerprint is a conflict.
        decided: (workflow, trigger) pairs that were decided elsewhere.
        waits: whether waiting runs are considered too.
        dry: only find out what would happen.
        sending: the event's row of the outbox, if it has one.
        firing: the time of a trigger, if the event stands for one.
        known: what this event id has done before, by scope; grows from attempt to attempt.
        holding: what its triggers hold, in this attempt; None if none of them holds events together.
    """

    event: Event
    payload_text: str
    fingerprint: str
    decided: frozenset[tuple[str, str]] = frozenset()
    waits: bool = True
    dry: bool = False
    sending: Sending | None = None
    firing: Firing | None = None
    known: dict[str, Remember] = field(default_factory=dict)
    holding: Holding | None = None


class AdmissionPlan(Changes):
    """What one attempt will commit, and what has to be done when it is durable.

    Attributes:
        lines: what the receipt says; the lines of deliveries come after these.
        ref: the reference under which the event is stored if several may refer to it; else None.
        seen: by workflow and key, the load after the decisions, and the token with which it was read.
        queued: by workflow and key, the last run that the event queues.
        started: runs that begin, with their creations.
        replaced: (active run, the run that takes its place).
        superseded: (workflow and key, queued run, the run that takes its place).
        unwanted: the event, if `on_unmatched` is to be told of it: no workflow and no run took it, here or where it was
            emitted. A control event is for the runtime itself.
    """

    __slots__ = ("lines", "queued", "ref", "replaced", "seen", "started", "superseded", "unwanted")

    def __init__(self, now: float) -> None:
        Changes.__init__(self, now=now)
        self.lines: list[ReceiptLine] = []
        self.ref: str | None = None
        self.seen: dict[Pair, tuple[Load, Token | None]] = {}
        self.queued: Mapping[Pair, RunCreate] = _NONE_QUEUED
        self.started: tuple[tuple[LiveRun, RunCreate], ...] = ()
        self.replaced: tuple[tuple[str, str], ...] = ()
        self.superseded: tuple[tuple[Pair, str, str], ...] = ()
        self.unwanted: Event | None = None


async def decide(core: Core, offer: Offer) -> AdmissionPlan:
    """Return all decisions about an event; the changes of loads are added by the committer.

    If `offer.holding` has holds that are over, nothing is decided: they have to end first.
    """
    event = offer.event
    # The look-up of waits takes time. It comes first, so that no other task of this process runs between reading a load
    # and submitting the decision on it.
    found = waiting_for(core, event, dry=offer.dry) if offer.waits else _NOBODY
    waiting = found if isinstance(found, AtHand) else await found
    only = None if offer.sending is None else offer.sending.only
    if only is not None:  # a wait of this run had refused it
        waiting = [each for each in waiting if each.record.identity.run_id == only]
    if waiting and core.redaction.active:
        workflows = {each.record.identity.workflow_id for each in waiting}
        offer.event, offer.payload_text = core.redaction.of_run(workflows, event, offer.payload_text)
        event = offer.event
    plan = AdmissionPlan(core.clock.now())
    routes: Sequence[Route] = core.index.match(event.type) if offer.firing is None else _firing(plan, offer.firing)
    if only is not None:
        routes = ()
    if offer.decided:
        routes = [route for route in routes if (route.entry.id, route.trigger_id) not in offer.decided]
    if waiting or len(routes) > 1:  # else a run that begins with it is the only one, and brings it along
        plan.ref = core.ids.sortable(plan.now)
    said_first = await _said_first(core, offer, routes) if offer.known else {}
    # Three phases: ask all triggers, read all loads, decide. So the loads are read together, and nothing is awaited
    # between a load and the decision on it.
    known, seen = offer.known, plan.seen
    asked: list[tuple[Route, Asked | BaseException | None]] = []
    rules: dict[HoldKey, HoldRule] | None = None
    for route in routes:
        answer = None
        if not known or route.scope not in known:
            answer = await ask(route, event, core.clock) if route.called else answer_of(route, event)
            if type(answer) is tuple:
                if route.hold is None:
                    seen[route.workflow_id, answer[0]] = _UNREAD
                elif route.hold.kind != "delay":
                    rules = rules or {}
                    rules[HoldKey(route.workflow_id, route.trigger_id, answer[2])] = route.hold
        asked.append((route, answer))
    if rules is not None:
        offer.holding = holding = await read_holding(core, rules, event, dry=offer.dry)
        if holding.over:
            return plan
        plan.now = holding.now
        for route, answer in asked:
            if type(answer) is tuple and route.hold is not None:
                taken = holding.taken.get(HoldKey(route.workflow_id, route.trigger_id, answer[2]))
                if taken is not None and not taken.held:
                    seen[route.workflow_id, answer[0]] = _UNREAD
    if seen:
        loads = core.loads.read([*seen])
        seen.update(zip(seen, loads if isinstance(loads, AtHand) else await loads, strict=True))
    lines = plan.lines
    for route, answer in asked:
        if type(answer) is tuple:
            decide_now = _decide_route if route.hold is None else _hold
            verdict, run_id, reason = decide_now(core, plan, route, offer, answer)
        else:
            verdict, run_id, reason = _not_wanted(route, offer, answer)
            if verdict is Verdict.DUPLICATE and run_id is None:
                run_id = said_first.get((route.workflow_id, route.trigger_id))
        lines.append(new_line(verdict, route.workflow_id, route.trigger_id, run_id, reason))
    if plan.superseded:
        await end_superseded(core, plan)
    for active, run_id in plan.replaced:
        request, move, hooks = await abortion(core, active, run_id)
        plan.posts += () if request is None else (request,)
        plan.moves += () if move is None else (move,)
        plan.hooks += hooks
    if plan.ref is not None:
        # A run keeps the event it begins with; one that is only delivered is kept as long as a message refers to it.
        begins = any(create.identity.event_ref == plan.ref for create in plan.creates)  # a batch has its own event
        ref = plan.ref if begins else LOOSE + plan.ref
        if waiting:
            _decide_waits(core, plan, offer, ref, waiting)
        if begins or plan.deliveries:
            plan.events = (StoredEvent(ref, event, offer.payload_text),)
    if not lines and not plan.deliveries:
        lines.append(_UNMATCHED)
        if core.on_unmatched is not None and only is None and not offer.decided and event.type not in CONTROL_EVENTS:
            plan.unwanted = None if is_telling() else event
    if offer.sending is not None:
        plan.outbox = (_sent(core, offer.sending, plan),)
    if only is None:  # else the receipt of the whole event stays
        plan.receipt = new_tuple(ReceiptRow, (event.source, event.id, plan.now, tuple(lines)))
    return plan


async def end_superseded(core: Core, plan: AdmissionPlan) -> None:
    """Add the ends of the runs that a plan supersedes. Their workflows may be deregistered meanwhile."""
    plan.moves = tuple([await superseding(core, pair, old, run_id) for pair, old, run_id in plan.superseded])
    plan.hooks = tuple([old for (workflow_id, _), old, _ in plan.superseded if has_pending(core, workflow_id)])


def _sent(core: Core, sending: Sending, plan: AdmissionPlan) -> OutboxMove:
    """Return what becomes of the event's row of the outbox."""
    refused = refusal_among(core, plan.lines)
    if refused is not None:
        return sending.refused(str(refused.verdict), said_by(refused), plan.now)
    if sending.only is not None and not plan.deliveries:
        return sending.refused("NotPaused", f"run '{sending.only}' does not wait for this event now", plan.now)
    return sending.admitted(stays=plan.unwanted is not None)


def refusal_among(core: Core, lines: Sequence[ReceiptLine]) -> ReceiptLine | None:
    """Return the first line by which an event is lost for somebody who was to get it; None if there is none.

    A SingletonLoop that drops what comes while it is busy loses nothing: that is what it is for.
    """
    for line in lines:
        if line.verdict is Verdict.REJECTED:
            return line
        if line.verdict is Verdict.DROPPED:
            entry = core.entries.get(line.workflow_id or "")
            if entry is None or not isinstance(entry.mode, SingletonLoop):
                return line
    return None


def said_by(line: ReceiptLine) -> str:
    """Return what a line says, with the workflow or run that says it."""
    who = f"workflow '{line.workflow_id}'" if line.trigger_id is not None else f"run '{line.run_id}'"
    return f"{who}: {line.reason}"


# ---------------------------------------------------------------------------------------------------- triggers
def _firing(plan: AdmissionPlan, firing: Firing) -> tuple[Route]:
    """Return the trigger whose time has come.

    Raises:
        NotRegistered: its workflow is being deregistered.
    """
    route, move = firing
    if route.entry.closing:
        raise NotRegistered(f"workflow '{route.workflow_id}' was deregistered", workflow_id=route.workflow_id)
    plan.schedules = (move,)
    return (route,)


async def _said_first(core: Core, offer: Offer, routes: Sequence[Route]) -> Mapping[tuple[str, str], str | None]:
    """Return the runs that the event has come to by trigger, where it was held: its key is older than the run."""
    known, event = offer.known, offer.event
    if not any(route.scope in known and known[route.scope].run_id is None for route in routes):
        return {}
    lines = await core.store.receipt(event.source, event.id) or ()
    return {(line.workflow_id or "", line.trigger_id or ""): line.run_id for line in lines}


def _not_wanted(route: Route, offer: Offer, answer: object) -> _Said:
    """Return what to say of a trigger that does not match, has failed, or was decided before."""
    if route.scope in offer.known:
        return Verdict.DUPLICATE, offer.known[route.scope].run_id, "this event id was handled before"
    if isinstance(answer, BaseException):
        return Verdict.REJECTED, None, code_of(answer, secrets_of(route.entry, route.pipeline_id, offer.event.payload))
    when = route.trigger.when
    if callable(when):
        return Verdict.FILTERED, None, _function_says(when)
    return Verdict.FILTERED, None, unmet(when, offer.event.payload, masks_of(route.entry, route.pipeline_id))


def _function_says(when: Callable[..., Any]) -> str:
    name = called_name(when)
    return "`when` did not match" if name in (None, "<lambda>") else f"`when` did not match: {name:.60}()"


def _decide_route(core: Core, plan: AdmissionPlan, route: Route, offer: Offer, answer: Asked) -> _Said:
    """Decide for a trigger that wants the event, by the mode of its workflow."""
    load_key, initial, _ = answer
    said, decision = decide_for(core, plan, route, offer.event, offer.payload_text, load_key, initial, plan.ref)
    window = route.window
    if window is not None and decision is not None:
        # What was dropped or rejected is checked, because the id may be known already; but it is not remembered.
        expires = plan.now + (window if type(decision) not in _REFUSALS else 0.0)
        _remember(plan, route, offer, said[1], expires)
    return said


def _remember(plan: AdmissionPlan, route: Route, offer: Offer, run_id: str | None, expires: float) -> None:
    key = (offer.event.source, offer.event.id, route.scope, offer.fingerprint, run_id, expires)
    plan.remember += (new_tuple(Remember, key),)


def decide_for(
    core: Core,
    plan: AdmissionPlan,
    route: Route,
    event: Event,
    payload_text: str,
    load_key: str,
    initial: Any,
    event_ref: str | None = None,
) -> tuple[_Said, Decision | None]:
    """Decide for a trigger by the mode of its workflow, and add what that leads to.

    Args:
        event_ref: under which the event is stored for several runs; None: a run keeps its own.

    Returns:
        What to say of it, and the decision; None if a run cannot begin with this event.
    """
    pair = (route.workflow_id, load_key)
    entry = route.entry
    load, mode = plan.seen[pair][0], entry.mode
    paused = core.pause_of(entry.id) if core.pauses else None
    decision = mode.accept(load) if paused is None else while_paused(paused, load, mode.accept, mode.slots)
    if type(decision) is Signal:
        made, error = call_now(_signal, core, route, initial, decision.run_id)
    else:  # also for a refusal, as a check
        made, error = call_now(
            new_run,
            core,
            entry,
            event,
            initial,
            route.pipeline_id,
            route.trigger_id,
            payload_text,
            plan.now,
            None,
            event_ref,
            load_key,
            route.priority,
        )
    if error is not None:  # its data may not be a valid state; the other lines continue
        return (Verdict.REJECTED, None, code_of(error, secrets_of(entry, route.pipeline_id, event.payload))), None
    said = _take(plan, route, pair, decision, made)
    if paused is not None and said[0] is Verdict.QUEUED:
        said = (said[0], said[1], "; ".join(filter(None, (said[2], paused_text(paused)))))
    return said, decision


# ------------------------------------------------------------------------------------------------------- holds
def _hold(core: Core, plan: AdmissionPlan, route: Route, offer: Offer, answer: Asked) -> _Said:
    """Decide for a trigger that holds events: this one is held, or decided now, alone or with what was held."""
    load_key, initial, hold_key = answer
    event, rule = offer.event, route.hold
    assert rule is not None  # noqa: S101 - else it is decided at once
    key, before, name = HoldKey(route.workflow_id, route.trigger_id, hold_key), None, (event.source, event.id)
    if rule.kind == "delay":
        key = key._replace(key=core.ids.uuid7(plan.now))  # each event by itself, in the order in which they come
        taken = take(rule, None, name, plan.now, core.ids.token())
    else:
        assert offer.holding is not None  # noqa: S101 - it was read
        before, taken = offer.holding.found[key], offer.holding.taken[key]
    expect = None if before is None else before.token
    if taken.held or rule.kind == "batch":
        held, error = call_now(as_held, route, event, offer.payload_text, load_key, initial)
        if error is None and rule.kind != "batch":
            error = call_now(_check_alone, core, plan, route, offer, load_key, initial).error
        if error is not None:
            return Verdict.REJECTED, None, code_of(error, secrets_of(route.entry, route.pipeline_id, event.payload))
        if not taken.held:
            return _complete(core, plan, route, offer, key, expect, held)
        assert taken.hold is not None  # noqa: S101 - what is held has a hold
        plan.holds += (HoldChange(key, expect, taken.hold, ALL if taken.supersedes else 0, held),)
        if taken.supersedes is not None and taken.supersedes != name:
            dropped = new_line(Verdict.DROPPED, *key[:2], None, f"superseded by {event.id}")
            plan.rewrites += (Rewrite(*taken.supersedes, dropped),)
        if route.window is not None:  # it must not be forgotten before it is decided
            _remember(plan, route, offer, None, taken.hold.due_at + route.window)
        return Verdict.DELAYED, None, taken.reason
    said = _decide_route(core, plan, route, offer, answer)
    if said[0] not in REFUSED:
        plan.holds += (HoldChange(key, expect, taken.hold),)
    return said


def _check_alone(core: Core, plan: AdmissionPlan, route: Route, offer: Offer, load_key: str, initial: Any) -> None:
    """Raise what would refuse a held event once it is decided: its emitter is to see that now."""
    mode = route.entry.mode
    if isinstance(mode, SingletonLoop) and mode.on_busy == "signal":
        _patch(route, initial)
        return
    ids = (route.pipeline_id, route.trigger_id)
    new_run(core, route.entry, offer.event, initial, *ids, offer.payload_text, plan.now, load_key=load_key)


def _complete(
    core: Core, plan: AdmissionPlan, route: Route, offer: Offer, key: HoldKey, expect: int | None, last: HeldEvent
) -> _Said:
    """Decide for a batch that this event completes. If it is refused, the whole batch is a dead letter."""
    assert offer.holding is not None  # noqa: S101 - it was read
    rows = offer.holding.batches[key]
    values = [value_of(row) for row in (*rows, HeldRow(0, last.event, last.load_key, last.initial))]
    whole = whole_batch(values, last.event)
    said, decision = decide_for(core, plan, route, *whole, last.load_key, whole.event.payload)
    line = new_line(said[0], *key[:2], said[1], said[2])
    refused = said[0] in REFUSED
    if expect is not None:
        plan.holds += (HoldChange(key, expect, None),)
        plan.rewrites += tuple([Rewrite(row.event.source, row.event.id, line) for row in rows])
        if refused:
            held_by = HeldBy(*key[:2], last.load_key, True)
            plan.letters += (letter_of(*whole, held_by, line, plan.now),)
    kept = expect is not None or not refused  # with what was held before it is a dead letter, so it is not lost
    if route.window is not None and (kept or decision is not None):
        _remember(plan, route, offer, said[1], plan.now + (route.window if kept else 0.0))
    return said


# ------------------------------------------------------------------------------------------------ by the mode
def _patch(route: Route, initial: Any) -> dict[str, Any]:
    """Return the patch of a signal. It is for a state that is valid already, so it need not be valid alone."""
    return signalled(route.entry.definition.state_of(route.pipeline_id), as_mapping(initial), "state").patch


def _signal(core: Core, route: Route, initial: Any, active: str) -> dict[str, Any]:
    """Return the patch of a signal to a run, checked with its state if that is in memory here; else the run checks."""
    patch = _patch(route, initial)
    here = state_here(core, active)
    if here is not None:
        check_signal(*here, patch)
    return patch


def _take(plan: AdmissionPlan, route: Route, pair: Pair, decision: Decision, made: Any) -> _Said:
    """Add what a decision leads to; `made` is the new run, or the patch of a signal."""
    match decision:
        case Start():
            load, token = plan.seen[pair]
            run_id = made.identity.run_id
            plan.seen[pair] = (load.started(run_id), token)
            create = admission_of(made, _RUNNING)
            plan.creates += (create,)
            plan.started += ((LiveRun(made, route.entry, new=True), create),)
            return _STARTED, run_id, ""
        case Signal(run_id=active):
            plan.posts += (Post(active, "signal", made, plan.now),)
            return Verdict.SIGNALLED, active, ""
        case Drop(reason=reason):
            return Verdict.DROPPED, None, reason
        case Reject(reason=reason):
            return Verdict.REJECTED, None, reason
        case Queue(supersedes=old):
            old = _line_up(plan, pair, made, old)
            return Verdict.QUEUED, made.identity.run_id, f"supersedes {old}" if old is not None else ""
        case Replace(run_id=active, supersedes=old):
            run_id = made.identity.run_id
            _line_up(plan, pair, made, old)
            plan.replaced += ((active, run_id),)
            return Verdict.REPLACED, run_id, f"replaces {active}"


def _line_up(plan: AdmissionPlan, pair: Pair, run: ActiveRun, tail: str | None) -> str | None:
    """Queue a new run: behind the last one, or instead of it (`tail`). Returns the stored run that it supersedes."""
    load, token = plan.seen[pair]
    run_id = run.run_id
    before = plan.queued.get(pair)
    if tail is not None and before is not None and before.identity.run_id == tail:
        old = _withdraw(plan, tail, run_id)
    else:
        old = tail
    if old is not None:
        plan.superseded += ((pair, old, run_id),)
    plan.seen[pair] = (load.lined_up(run_id, instead=tail is not None), token)
    create = admission_of(run, RunStatus.QUEUED)
    plan.queued = {**plan.queued, pair: create}
    plan.creates += (create,)
    return old


def _withdraw(plan: AdmissionPlan, run_id: str, by: str) -> str | None:
    """Take back a run that another trigger of this event queued: it is not stored, so it cannot be ended.

    The event was taken all the same, by the run in its place: so it stays remembered for that trigger.

    Returns:
        The stored run that it superseded.
    """
    plan.creates = tuple([create for create in plan.creates if create.identity.run_id != run_id])
    plan.replaced = tuple([pair for pair in plan.replaced if pair[1] != run_id])
    plan.remember = tuple([key._replace(run_id=None) if key.run_id == run_id else key for key in plan.remember])
    for at, line in enumerate(plan.lines):
        if line.run_id == run_id:
            plan.lines[at] = replace(line, verdict=Verdict.DROPPED, run_id=None, reason=f"superseded by {by}")
    stored = next((old for _, old, new in plan.superseded if new == run_id), None)
    plan.superseded = tuple([each for each in plan.superseded if each[2] != run_id])
    return stored


# ------------------------------------------------------------------------------------------------------- waits
def _decide_waits(core: Core, plan: AdmissionPlan, offer: Offer, ref: str, found: Sequence[Waiting]) -> None:
    event, dry = offer.event, offer.dry
    again = offer.sending is not None and offer.sending.only is not None
    for waiting in found:
        identity = waiting.record.identity
        line = ReceiptLine(Verdict.BUFFERED, identity.workflow_id, None, identity.run_id)
        if not waiting.hit:
            plan.lines.append(replace(line, verdict=Verdict.FILTERED, reason=_unmet(core, waiting, event)))
        elif "" in offer.known and not again:
            plan.lines.append(replace(line, verdict=Verdict.DUPLICATE, reason="this event id was handled before"))
        elif waiting.refused:
            plan.lines.append(replace(line, verdict=Verdict.REJECTED, reason=waiting.refused))
        else:
            delivery = _delivery(core, waiting, event, ref, line)
            plan.deliveries += (_as_likely(waiting.record, delivery, plan.now) if dry else delivery,)
    if again:
        return  # it is remembered since it was taken for the first time
    refused = any(waiting.hit and waiting.refused for waiting in found)
    if plan.deliveries or (refused and "" not in offer.known):
        # An event that was only refused is not remembered, but looked up: it may have resumed another run before.
        expires = plan.now + (_WAIT_WINDOW if plan.deliveries else 0.0)
        plan.remember += (Remember(event.source, event.id, "", offer.fingerprint, None, expires),)


def _as_likely(record: RunRecord, delivery: Delivery, now: float) -> Delivery:
    """Return a delivery with the line that it would have now."""
    head = record.head
    unfit, seq = head.outcome is not None or delivery.held, head.inbox_seq + 1
    decided = fate(delivery, head.status, record.waits, now=now, seq=seq, unfit=unfit)
    [line] = settle_lines((), (delivery,), (Delivered(decided.fate, 0, decided.reason),))
    return delivery._replace(line=line)


def _delivery(core: Core, waiting: Waiting, event: Event, event_ref: str, line: ReceiptLine) -> Delivery:
    record: RunRecord = waiting.record
    entry = core.entries.get(record.identity.workflow_id)
    known = entry is not None and not entry.closing
    hits = [hit_of(row, event) for row in waiting.hit]
    waits = tuple([hit for hit in hits if not isinstance(hit, Unanswerable)])
    owner, slots = (core.worker, slots_of(entry)) if known else (None, 0)
    held = bool(core.pauses) and core.pause_of(record.identity.workflow_id) is not None
    reason = _names(waiting)
    if paused_by_operator(core, record):
        reason += "; paused by an operator"
    return Delivery(record.identity.run_id, waits, event_ref, owner, replace(line, reason=reason), slots, held)


def _unmet(core: Core, waiting: Waiting, event: Event) -> str:
    identity = waiting.record.identity
    masks = masks_of(core.entries.get(identity.workflow_id), identity.pipeline_id)
    return why_not(waiting.record.waits, event, masks) or "the wait's conditions do not match"


def _names(waiting: Waiting) -> str:
    return "wait " + ", ".join(row.wait_id for row in waiting.hit)


def dry_lines(plan: AdmissionPlan) -> tuple[ReceiptLine, ...]:
    """Return the lines of a dry run. They say what is likely: only a commit decides a delivery."""
    return (*plan.lines, *(delivery.line for delivery in plan.deliveries))


def pairs_of(plan: AdmissionPlan) -> dict[str, Pair]:
    """Return in which loads the runs of a dry run would count."""
    identities = [create.identity for create in plan.creates]
    return {each.run_id: (each.workflow_id, each.load_key) for each in identities if each.load_key is not None}


def waiting_for(core: Core, event: Event, *, dry: bool = False) -> Awaitable[list[Waiting]]:
    """Return the runs with a wait for this event; `hit` is empty if only the conditions do not match.

    Invoked runs that are not stored yet are stored first, so that the event can be delivered to them; `dry` only
    reads. For paused runs whose workflow is registered here it is checked whether they could continue with the event.
    """
    unwritten = core.runs.unwritten()
    if unwritten:
        return _waiting_unwritten(core, event, unwritten, dry=dry)
    records = core.store.match_waits(event)
    return _NOBODY if isinstance(records, AtHand) and not records else _waiting(core, event, records)


async def _waiting_unwritten(core: Core, event: Event, unwritten: Sequence[LiveRun], *, dry: bool) -> list[Waiting]:
    found = []
    for live in unwritten:
        if any(row.matches(event) for row in live.run.waits):
            if dry:
                found.append(_unwritten(live, event))
            else:
                await ensure_written(core, live)
    return [*found, *await _waiting(core, event, core.store.match_waits(event))]


async def _waiting(core: Core, event: Event, records: Awaitable[Sequence[RunRecord]]) -> list[Waiting]:
    found = []
    for record in await records:
        live_run = core.runs.driven(record.identity.run_id)
        if live_run is not None and live_run.gate is not None:
            await live_run.gate.wait()  # its stop was refused often: let it stop first
        seen = event
        if core.redaction.active:
            seen = core.redaction.of_run([record.identity.workflow_id], event, "")[0]
        waiting = fitting(core, seen, Waiting(record, await counting(core, seen, record)))
        found.append(await judged(core, seen, waiting) if waiting.hit else waiting)
    return found


def _unwritten(live: LiveRun, event: Event) -> Waiting:
    run = live.run
    return Waiting(creation_of(run).record, tuple(row for row in run.waits if row.counting and row.matches(event)))
