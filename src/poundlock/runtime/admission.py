"""What becomes of one event: each trigger and each waiting run that fits gets a decision. Nothing is written here.

House rule: this file imports no command. It returns an `AdmissionPlan`, which `commands/admit.py` commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from poundlock.guard import call_now
from poundlock.model.changes import Changes, Post, Remember, RunCreate, RunMove, Token
from poundlock.model.conditions import Condition
from poundlock.model.drafts import new_tuple
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes import Decision, Drop, Load, Queue, Reject, Replace, Signal, Start
from poundlock.model.patterns import type_matches
from poundlock.model.receipts import Delivery, Fate, ReceiptLine, ReceiptRow, Verdict, new_line
from poundlock.model.runs import LOOSE, RunRecord, StoredEvent
from poundlock.model.waits import fate_of
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.states import signalled
from poundlock.pipeline.writing import admission_of, creation_of
from poundlock.records import dataclass, field
from poundlock.runtime.core import Core
from poundlock.runtime.dispatch import Route, answer_of, ask, code_of, unmet
from poundlock.runtime.judging import Waiting, judged
from poundlock.runtime.loads import Pair
from poundlock.runtime.run_table import LiveRun
from poundlock.runtime.runs import as_mapping, ensure_written, new_run
from poundlock.runtime.transitions import superseding

_RUNNING, _STARTED = RunStatus.RUNNING, Verdict.STARTED
_REFUSALS = (Drop, Reject)
_WAIT_WINDOW = 86_400.0
_UNMATCHED = ReceiptLine(Verdict.UNMATCHED)

_Said = tuple[Verdict, str | None, str]
"""What a receipt says of a trigger: verdict, run id, reason."""


@dataclass(slots=True)
class Offer:
    """An accepted event, and what has to be decided about it.

    Attributes:
        event: as it is stored.
        payload_text: JSON text of its payload.
        ref: the reference it is stored under if a run begins with it.
        fingerprint: of type and payload; the same id with another fingerprint is a conflict.
        decided: (workflow, trigger) pairs that were decided elsewhere.
        waits: whether waiting runs are considered too.
        dry: only find out what would happen.
        known: what this event id has done before, by scope; grows from attempt to attempt.
    """

    event: Event
    payload_text: str
    ref: str
    fingerprint: str
    decided: frozenset[tuple[str, str]] = frozenset()
    waits: bool = True
    dry: bool = False
    known: dict[str, Remember] = field(default_factory=dict)


class AdmissionPlan:
    """What one attempt will commit, and what has to be done when it is durable."""

    def __init__(self) -> None:
        self.lines: list[ReceiptLine] = []
        self.creates: list[RunCreate] = []
        self.moves: list[RunMove] = []
        self.posts: list[Post] = []
        self.remember: list[Remember] = []
        self.deliveries: list[Delivery] = []
        self.loads: dict[Pair, tuple[Load, Token | None]] = {}
        """With the token that was read, and the load after the decisions."""
        self.queued: dict[Pair, RunCreate] = {}
        self.started: list[tuple[ActiveRun, RunCreate, Route]] = []
        self.replaced: list[tuple[str, str]] = []
        """(active run, the run that takes its place)"""
        self.superseded: list[tuple[Pair, str, str]] = []
        """(workflow and key, queued run, the run that takes its place)"""


async def decide(core: Core, offer: Offer) -> tuple[AdmissionPlan, Changes]:
    """Return all decisions about an event, with their changes; changes of loads are added by the committer."""
    plan = AdmissionPlan()
    event, decided = offer.event, offer.decided
    # The look-up of waits takes time. It comes first, so that no other task of this process runs between reading a load
    # and submitting the decision on it.
    waiting = await waiting_for(core, event, dry=offer.dry) if offer.waits else None
    routes: Sequence[Route] = core.index.match(event.type)
    if decided:
        routes = [route for route in routes if (route.entry.id, route.trigger_id) not in decided]
    if routes:
        await _decide_routes(core, plan, routes, offer)
    # A run keeps the event it begins with; an event that is only delivered is kept as long as a message refers to it.
    ref = offer.ref if plan.creates else LOOSE + offer.ref
    if waiting:
        _decide_waits(core, plan, offer, ref, waiting)
    if not plan.lines and not plan.deliveries:
        plan.lines.append(_UNMATCHED)
    return plan, _changes_of(plan, StoredEvent(ref, event, offer.payload_text), core.clock.now())


def _changes_of(plan: AdmissionPlan, stored: StoredEvent, now: float) -> Changes:
    event = stored.event
    changes = Changes.of_event(new_tuple(ReceiptRow, (event.source, event.id, now, tuple(plan.lines))))
    creates, deliveries = plan.creates, plan.deliveries
    if creates or deliveries:
        changes.creates = tuple(creates)
        changes.deliveries = tuple(deliveries)
        changes.events = (stored,)
    if plan.remember:
        changes.remember = tuple(plan.remember)
    if plan.moves:
        changes.moves = tuple(plan.moves)
    if plan.posts:
        changes.posts = tuple(plan.posts)
    return changes


# ---------------------------------------------------------------------------------------------------- triggers
async def _decide_routes(core: Core, plan: AdmissionPlan, routes: Sequence[Route], offer: Offer) -> None:
    """Decide for all triggers of the event's type, in three phases: ask them all, read all loads, decide.

    So nothing is awaited between a load and the decision on it, and the loads are read together.
    """
    event, known = offer.event, offer.known
    answers: list[tuple[str, Any] | BaseException | None] = []
    pairs: list[Pair] = []
    for route in routes:
        if route.scope in known:
            answers.append(None)
            continue
        answer = await ask(route, event, core.clock) if route.called else answer_of(route, event)
        answers.append(answer)
        if type(answer) is tuple:
            pairs.append((route.entry.id, answer[0]))
    if pairs:
        plan.loads = dict(zip(pairs, await core.loads.read(pairs), strict=True))
    for route, answer in zip(routes, answers, strict=True):
        if type(answer) is tuple:
            verdict, run_id, reason = _decide_route(core, plan, route, offer, answer)
        else:
            verdict, run_id, reason = _not_wanted(route, offer, answer)
        plan.lines.append(new_line(verdict, route.entry.id, route.trigger_id, run_id, reason))
    if plan.superseded:
        plan.moves = [await superseding(core, pair, old, run_id) for pair, old, run_id in plan.superseded]


def _not_wanted(route: Route, offer: Offer, answer: object) -> _Said:
    """Return what to say of a trigger that does not match, has failed, or was decided before."""
    if route.scope in offer.known:
        return Verdict.DUPLICATE, offer.known[route.scope].run_id, "this event id was handled before"
    if isinstance(answer, BaseException):
        return Verdict.REJECTED, None, code_of(answer)
    when = route.trigger.when
    return Verdict.FILTERED, None, "`when` did not match" if callable(when) else unmet(when, offer.event.payload)


def _decide_route(core: Core, plan: AdmissionPlan, route: Route, offer: Offer, answer: tuple[str, Any]) -> _Said:
    """Decide for a trigger that wants the event, by the mode of its workflow."""
    load_key, initial = answer
    pair = (route.entry.id, load_key)
    decision = route.entry.mode.accept(plan.loads[pair][0])
    made, error = call_now(_made, core, route, offer, load_key, initial, decision)
    if error is not None:  # its data may not be a valid state; the other lines continue
        return Verdict.REJECTED, None, code_of(error)
    said = _take(core, plan, route, pair, decision, made)
    window = route.window
    if window is not None:
        # What was dropped or rejected is checked, because the id may be known already; but it is not remembered.
        expires = core.clock.now() + (window if type(decision) not in _REFUSALS else 0.0)
        event = offer.event
        key = (event.source, event.id, route.scope, offer.fingerprint, said[1], expires)
        plan.remember.append(new_tuple(Remember, key))
    return said


def _made(
    core: Core, route: Route, offer: Offer, load_key: str, initial: Any, decision: Decision
) -> ActiveRun | dict[str, Any]:
    """Return the new run for a decision, also for a refusal, as a check; for a signal its patch."""
    if type(decision) is Signal:  # a patch for a state that is valid already, so it need not be valid alone
        return signalled(route.entry.definition.state, as_mapping(initial), "state").patch
    return new_run(
        core,
        route.entry,
        offer.event,
        initial,
        pipeline_id=route.pipeline_id,
        trigger_id=route.trigger_id,
        payload_text=offer.payload_text,
        event_ref=offer.ref,
        load_key=load_key,
        priority=route.trigger.priority,
    )


def _take(core: Core, plan: AdmissionPlan, route: Route, pair: Pair, decision: Decision, made: Any) -> _Said:
    """Add what a decision leads to; `made` is from `_made`."""
    match decision:
        case Start():
            load, token = plan.loads[pair]
            run_id = made.identity.run_id
            plan.loads[pair] = (load.started(run_id), token)
            create = admission_of(made, _RUNNING)
            plan.creates.append(create)
            plan.started.append((made, create, route))
            return _STARTED, run_id, ""
        case Signal(run_id=active):
            plan.posts.append(Post(active, "signal", made, core.clock.now()))
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
            plan.replaced.append((active, run_id))
            return Verdict.REPLACED, run_id, f"replaces {active}"


def _line_up(plan: AdmissionPlan, pair: Pair, run: ActiveRun, tail: str | None) -> str | None:
    """Queue a new run: behind the last one, or instead of it (`tail`). Returns the stored run that it supersedes."""
    load, token = plan.loads[pair]
    run_id = run.identity.run_id
    before = plan.queued.get(pair)
    if tail is not None and before is not None and before.identity.run_id == tail:
        old = _withdraw(plan, tail, run_id)
    else:
        old = tail
    if old is not None:
        plan.superseded.append((pair, old, run_id))
    plan.loads[pair] = (load.lined_up(run_id, instead=tail is not None), token)
    create = admission_of(run, RunStatus.QUEUED)
    plan.queued[pair] = create
    plan.creates.append(create)
    return old


def _withdraw(plan: AdmissionPlan, run_id: str, by: str) -> str | None:
    """Take back a run that another trigger of this event queued: it is not stored, so it cannot be ended.

    The event was taken all the same, by the run in its place: so it stays remembered for that trigger.

    Returns:
        The stored run that it superseded.
    """
    plan.creates = [create for create in plan.creates if create.identity.run_id != run_id]
    plan.replaced = [pair for pair in plan.replaced if pair[1] != run_id]
    plan.remember = [key._replace(run_id=None) if key.run_id == run_id else key for key in plan.remember]
    for at, line in enumerate(plan.lines):
        if line.run_id == run_id:
            plan.lines[at] = replace(line, verdict=Verdict.DROPPED, run_id=None, reason=f"superseded by {by}")
    stored = next((old for _, old, new in plan.superseded if new == run_id), None)
    plan.superseded = [each for each in plan.superseded if each[2] != run_id]
    return stored


# ------------------------------------------------------------------------------------------------------- waits
def _decide_waits(core: Core, plan: AdmissionPlan, offer: Offer, ref: str, found: Sequence[Waiting]) -> None:
    event, dry = offer.event, offer.dry
    for waiting in found:
        identity = waiting.record.identity
        line = ReceiptLine(Verdict.BUFFERED, identity.workflow_id, None, identity.run_id)
        if not waiting.hit:
            plan.lines.append(replace(line, verdict=Verdict.FILTERED, reason=_unmet(waiting, event)))
        elif "" in offer.known:
            plan.lines.append(replace(line, verdict=Verdict.DUPLICATE, reason="this event id was handled before"))
        elif waiting.refused:
            plan.lines.append(replace(line, verdict=Verdict.REJECTED, reason=waiting.refused))
        else:
            if dry and fate_of(waiting.record.head.status, [row.parked for row in waiting.hit]) is Fate.RESUMED:
                line = replace(line, verdict=Verdict.RESUMED)
            plan.deliveries.append(_delivery(core, waiting, ref, line))
    refused = any(waiting.hit and waiting.refused for waiting in found)
    if plan.deliveries or (refused and "" not in offer.known):
        # An event that was only refused is not remembered, but looked up: it may have resumed another run before.
        expires = core.clock.now() + (_WAIT_WINDOW if plan.deliveries else 0.0)
        plan.remember.append(Remember(event.source, event.id, "", offer.fingerprint, None, expires))


def _delivery(core: Core, waiting: Waiting, event_ref: str, line: ReceiptLine) -> Delivery:
    record: RunRecord = waiting.record
    entry = core.entries.get(record.identity.workflow_id)
    owner = core.worker if entry is not None and not entry.closing else None
    waits = tuple((row.wait_id, row.epoch) for row in waiting.hit)
    return Delivery(record.identity.run_id, waits, event_ref, owner, replace(line, reason=_names(waiting)))


def _unmet(waiting: Waiting, event: Event) -> str:
    """Return the condition of a wait that does not match the event."""
    for row in waiting.record.waits:
        correlated = all(Condition(path, "==", value).matches(event.payload) for path, value in row.correlate)
        if correlated and any(type_matches(pattern, event.type) for pattern in row.events):
            found = unmet(row.where, event.payload)
            if found:
                return f"wait {row.wait_id}: {found}"
    return "the wait's conditions do not match"


def _names(waiting: Waiting) -> str:
    return "wait " + ", ".join(row.wait_id for row in waiting.hit)


def dry_lines(plan: AdmissionPlan) -> tuple[ReceiptLine, ...]:
    """Return the lines of a dry run. They say what is likely: only a commit decides a delivery."""
    return (*plan.lines, *(delivery.line for delivery in plan.deliveries))


async def waiting_for(core: Core, event: Event, *, dry: bool = False) -> list[Waiting]:
    """Return the runs with a wait for this event; `hit` is empty if only the conditions do not match.

    Invoked runs that are not stored yet are stored first, so that the event can be delivered to them; `dry` only
    reads. For paused runs whose workflow is registered here it is checked whether they could continue with the event.
    """
    found = []
    for live in core.runs.unwritten():
        if any(row.matches(event) for row in live.run.waits):
            if dry:
                found.append(_unwritten(live, event))
            else:
                await ensure_written(core, live)
    for record in await core.store.match_waits(event):
        live_run = core.runs.driven(record.identity.run_id)
        if live_run is not None and live_run.gate is not None:
            await live_run.gate.wait()  # its stop was refused often: let it stop first
        waiting = Waiting(record, tuple(row for row in record.waits if row.matches(event)))
        found.append(await judged(core, event, waiting) if waiting.hit else waiting)
    return found


def _unwritten(live: LiveRun, event: Event) -> Waiting:
    run = live.run
    return Waiting(creation_of(run).record, tuple(row for row in run.waits if row.matches(event)))
