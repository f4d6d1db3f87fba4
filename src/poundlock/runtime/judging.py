"""Whether a paused run could continue with an event: checked before the event is delivered.

A malformed event is refused at `emit`, and the run stays paused. Only runs whose workflow is registered here can be
checked; for the others this happens when they use the event, see `pipeline/at_wait.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from poundlock.errors import RunDamaged, StateInvalid
from poundlock.guard import clear_cancellation
from poundlock.model.counting import answering
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.operator_pause import operator_row
from poundlock.model.receipts import answer_note
from poundlock.model.runs import Message, RunRecord, StoredEvent, WaitRow
from poundlock.model.waits import Unanswerable, hit_of
from poundlock.pipeline.answers import can_be_refused, collected, collects, patch_of_event
from poundlock.pipeline.forms import fits_with, misfit_of_event
from poundlock.pipeline.plan import PipelinePlan
from poundlock.pipeline.states import fits, with_signals
from poundlock.records import dataclass
from poundlock.runtime.core import Core
from poundlock.runtime.dispatch import code_of
from poundlock.sensitive import masks_of, texts_at


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run found for the event, and those of its waits whose conditions match too.

    Attributes:
        record: the run as it was read.
        hit: its waits that match the event; empty if only their conditions do not.
        refused: why the run could not continue with the event; "" if it can, or was not checked.
    """

    record: RunRecord
    hit: tuple[WaitRow, ...]
    refused: str = ""


async def counting(core: Core, event: Event, record: RunRecord) -> tuple[WaitRow, ...]:
    """Return the waits of a run that match the event and count it."""
    rows = tuple(row for row in record.waits if row.counting and row.matches(event))
    if record.head.status is RunStatus.PAUSED:
        return rows
    return tuple([row for row in rows if row.early or not row.parked or not await _answered(core, record, row)])


async def _answered(core: Core, record: RunRecord, row: WaitRow) -> bool:
    """Whether the question of a wait has been answered: the row says so only from the run's next boundary on."""
    messages = await core.store.inbox(record.identity.run_id, row.asked_at or 0)
    by_hand = any(message.kind == "resume" for message in messages)
    plan = _plan_of(core, record)
    fits = fits_with({} if plan is None else plan.waits)
    return by_hand or bool(answering(row, messages, core.clock.now(), fits))


def fitting(core: Core, event: Event, waiting: Waiting) -> Waiting:
    """Return the waiting run with those of its waits for which the event is an answer, whatever the run's state is.

    If it is none for any of them, all stay, and the run refuses the event.
    """
    for row in waiting.hit:
        if row.rules is not None:
            break
    else:
        return waiting
    plan = _plan_of(core, waiting.record)
    hit, refusals = [], []
    for row in waiting.hit:
        refusal = _unfit_for(row, plan, event)
        if refusal is None:
            hit.append(row)
        else:
            refusals.append(refusal)
    return replace(waiting, hit=tuple(hit)) if hit else replace(waiting, refused="; ".join(refusals))


def _unfit_for(row: WaitRow, plan: PipelinePlan | None, event: Event) -> str | None:
    misfit = misfit_of_event(row, None if plan is None else plan.waits.get(row.wait_id), event.payload)
    if misfit is not None:
        return f"wait {row.wait_id}: {misfit.text}"
    hit = hit_of(row, event)
    return hit.reason if isinstance(hit, Unanswerable) else None


async def judged(core: Core, event: Event, waiting: Waiting) -> Waiting:
    """Return the waiting run with the judgement: as it was found, or as it is now if it had to be read again."""
    if waiting.refused:
        return waiting
    row = None if paused_by_operator(core, waiting.record) else _paused_at(waiting)
    plan = _plan_of(core, waiting.record)
    if row is None or plan is None or not can_be_refused(row, plan.state_model):
        return waiting
    identity = waiting.record.identity
    parked = core.runs.parked(identity.run_id)
    if parked is not None and parked.head.version == waiting.record.head.version:
        kept = parked.checkpoint()
        return await _judged(core, event, waiting, plan, kept.state, (*kept.inbox, *parked.early))
    try:
        checkpoint = await core.store.checkpoint(identity.run_id)
    except RunDamaged as damage:  # the others that the event is for are not concerned
        return replace(waiting, refused=f"wait {row.wait_id}: {code_of(damage)}")
    if checkpoint is None:
        return waiting  # the run was deleted; the delivery reports that
    # The judgement and the delivery need the same version of the run, or the receipt would mix two of them.
    record = checkpoint.record
    now = fitting(core, event, Waiting(record, await counting(core, event, record)))
    if not now.hit or now.refused:
        return now if now.refused else waiting  # the run has moved on; the delivery reports that
    return await _judged(core, event, now, plan, checkpoint.state, checkpoint.inbox)


def paused_by_operator(core: Core, record: RunRecord) -> bool:
    """Whether an operator has paused a run or its workflow: then an event is only buffered."""
    if operator_row(record.waits) is not None and record.head.status is RunStatus.PAUSED:
        return True
    return bool(core.pauses) and core.pause_of(record.identity.workflow_id) is not None


def _paused_at(waiting: Waiting) -> WaitRow | None:
    """Return the wait that the event would resume; None if the event would only be buffered."""
    head = waiting.record.head
    if head.status is not RunStatus.PAUSED or head.outcome is not None:
        return None
    return next((row for row in waiting.hit if row.parked), None)


def _plan_of(core: Core, record: RunRecord) -> PipelinePlan | None:
    entry = core.entries.get(record.identity.workflow_id)
    return None if entry is None or entry.closing else entry.plans.get(record.identity.pipeline_id)


async def _judged(
    core: Core,
    event: Event,
    waiting: Waiting,
    plan: PipelinePlan,
    state: dict[str, Any],
    messages: Sequence[Message],
) -> Waiting:
    row = _paused_at(waiting)
    if row is None:
        return waiting
    model = plan.state_model
    state = with_signals(model, state, messages)
    if not fits(model, state):
        return waiting  # the event is not to blame: it is buffered until the state fits
    if collects(row) is not None:
        return _judged_part(core, event, waiting, row, plan, state, messages)
    caller = asyncio.current_task()
    before = 0 if caller is None else caller.cancelling()
    declared = plan.waits.get(row.wait_id)
    answers, run_id = core.supervision.answers, waiting.record.identity.run_id
    known = answers.get(run_id, row, event, state)
    answer = patch_of_event(row, declared, event, model, state, core.clock, known)
    error = answer.error
    if caller is not None and caller.cancelling() > before:
        await clear_cancellation(caller, before)  # the function caused it: the emitter was not cancelled
        error = error or asyncio.CancelledError()
    if error is None:
        if row.patch == "call":
            answers.keep(run_id, row, event, state, None if answer.value is None else answer.value.patch)
        return waiting
    return replace(waiting, refused=f"wait {row.wait_id}: {code_of(error, _secrets(plan, event, state))}")


def _judged_part(
    core: Core,
    event: Event,
    waiting: Waiting,
    row: WaitRow,
    plan: PipelinePlan,
    state: dict[str, Any],
    messages: Sequence[Message],
) -> Waiting:
    """Judge one of the payloads that a wait collects: the last one with all others, an earlier one alone.

    What a model says of the list as a whole, such as its length, is nothing that an earlier one could be blamed for.
    """
    assert row.rules is not None  # noqa: S101 - asked by the caller
    now, model = core.clock.now(), plan.state_model
    last = max((message.seq for message in messages), default=0) + 1
    note = answer_note((row.wait_id, row.epoch))
    mine = Message(waiting.record.identity.run_id, last, "event", now, note, StoredEvent("", event))
    parts = answering(row, (*messages, mine), now, fits_with(plan.waits))
    events = [part.event.event for part in parts if part.event is not None] if mine in parts else [event]
    error = collected(row, events, model, state).error
    if error is None:
        return waiting
    if len(events) == 1 and isinstance(error, StateInvalid) and error.path == row.rules.collect and row.rules.several:
        return waiting
    return replace(waiting, refused=f"wait {row.wait_id}: {code_of(error, _of_model(model, event, state))}")


def _secrets(plan: PipelinePlan, event: Event, state: dict[str, Any]) -> set[str]:
    return set() if plan.secrets is None else plan.secrets.of(event.payload, state)


def _of_model(model: Any, event: Event, state: dict[str, Any]) -> set[str]:
    masks = masks_of(model)
    return texts_at(event.payload, masks) | texts_at(state, masks)
