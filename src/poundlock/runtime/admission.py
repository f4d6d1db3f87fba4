"""What becomes of one event: each trigger and each waiting run that fits gets a decision. Nothing is written here.

House rule: this file imports no command. It returns an `AdmissionPlan`, which `commands/admit.py` commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from poundlock.guard import for_the_process
from poundlock.model.changes import Changes, Post, Remember, RunCreate, RunMove, Token
from poundlock.model.conditions import Condition
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.modes import Drop, Load, Queue, Reject, Replace, Signal, Start
from poundlock.model.patterns import type_matches
from poundlock.model.receipts import Delivery, Fate, ReceiptLine, ReceiptRow, Verdict
from poundlock.model.runs import LOOSE, RunRecord, StoredEvent
from poundlock.model.waits import fate_of
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.states import signalled
from poundlock.pipeline.writing import admission_of, creation_of
from poundlock.records import dataclass, field
from poundlock.runtime.core import Core
from poundlock.runtime.dispatch import Route, ask, code_of, unmet
from poundlock.runtime.judging import Waiting, judged
from poundlock.runtime.loads import Pair
from poundlock.runtime.run_table import LiveRun
from poundlock.runtime.runs import as_mapping, ensure_written, new_run
from poundlock.runtime.transitions import superseding

_RUNNING, _STARTED = RunStatus.RUNNING, Verdict.STARTED
_WAIT_WINDOW = 86_400.0


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
        self.queued: dict[Pair, RunCreate] = {}
        self.started: list[tuple[ActiveRun, RunCreate, Route]] = []
        self.replaced: list[tuple[str, str]] = []
        """(active run, the run that takes its place)"""
        self.superseded: list[str] = []


async def decide(core: Core, offer: Offer) -> tuple[AdmissionPlan, Changes]:
    """Return all decisions about an event, with their changes; changes of loads are added by the committer."""
    plan = AdmissionPlan()
    event = offer.event
    decided = offer.decided
    # The look-up of waits takes time. It comes first, so that no other task of this process runs between reading a load
    # and submitting the decision on it.
    waiting = await waiting_for(core, event, dry=offer.dry) if offer.waits else ()
    for route in core.index.match(event.type):
        if not decided or (route.entry.id, route.trigger_id) not in decided:
            await _decide_route(core, plan, route, offer)
    # A run keeps the event it begins with; an event that is only delivered is kept as long as a message refers to it.
    ref = offer.ref if plan.creates else LOOSE + offer.ref
    _decide_waits(core, plan, offer, ref, waiting)
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


async def _decide_route(core: Core, plan: AdmissionPlan, route: Route, offer: Offer) -> None:
    entry, event = route.entry, offer.event
    line = partial(_add_line, plan, route)
    if route.scope in offer.known:
        line(Verdict.DUPLICATE, offer.known[route.scope].run_id, "this event id was handled before")
        return
    asked = await ask(route, event, core.clock)
    if isinstance(asked, BaseException):
        line(Verdict.REJECTED, None, code_of(asked))
        return
    if asked is None:
        when = route.trigger.when
        why = "`when` did not match" if callable(when) else unmet(when, event.payload)
        line(Verdict.FILTERED, None, why)
        return
    load_key, initial = asked
    pair = (entry.id, load_key)
    if pair not in plan.loads:
        [plan.loads[pair]] = await core.loads.read([pair])
    load, token = plan.loads[pair]
    decision = entry.mode.accept(load)
    patch: dict[str, Any] = {}
    try:
        if isinstance(decision, Signal):  # a patch for a state that is valid already, so it need not be valid alone
            patch = signalled(entry.definition.state, as_mapping(initial), "state").patch
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
    except BaseException as error:  # its data may not be a valid state; the other lines continue
        if for_the_process(error):
            raise
        line(Verdict.REJECTED, None, code_of(error))
        return
    window = route.window
    match decision:
        case Start():
            plan.loads[pair] = (load.started(run_id), token)
            create = admission_of(run, _RUNNING)
            plan.creates.append(create)
            plan.started.append((run, create, route))
            line(_STARTED, run_id)
        case Queue(supersedes=old) | Replace(supersedes=old):
            if old is not None:
                plan.moves.append(await superseding(core, pair, old, run_id))
                plan.superseded.append(old)
            plan.loads[pair] = (load.lined_up(run_id, instead=old is not None), token)
            plan.queued[pair] = admission_of(run, RunStatus.QUEUED)
            plan.creates.append(plan.queued[pair])
            if isinstance(decision, Replace):
                plan.replaced.append((decision.run_id, run_id))
                line(Verdict.REPLACED, run_id, f"replaces {decision.run_id}")
            else:
                line(Verdict.QUEUED, run_id, f"supersedes {old}" if old is not None else "")
        case Signal(run_id=active):
            plan.posts.append(Post(active, "signal", patch, core.clock.now()))
            line(Verdict.SIGNALLED, active)
        case Drop(reason=reason):
            line(Verdict.DROPPED, None, reason)
            window = 0.0  # checked, because the id may be known already; but not remembered
        case Reject(reason=reason):
            line(Verdict.REJECTED, None, reason)
            window = 0.0
    if route.window is not None:
        expires = core.clock.now() + (window or 0.0)
        plan.remember.append(Remember(event.source, event.id, route.scope, offer.fingerprint, run_id, expires))


def _add_line(plan: AdmissionPlan, route: Route, verdict: Verdict, run_id: str | None = None, reason: str = "") -> None:
    plan.lines.append(ReceiptLine(verdict, route.entry.id, route.trigger_id, run_id, reason))


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
    [create] = creation_of(run).creates
    return Waiting(
        RunRecord(run.identity, create.head, run.waits), tuple(row for row in run.waits if row.matches(event))
    )
