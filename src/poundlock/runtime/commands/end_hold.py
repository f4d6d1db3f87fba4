"""Ending a hold of a trigger: what was held is decided in the commit that removes it.

What is then dropped or rejected is a dead letter: nobody reads a receipt here. `readmit` decides such a letter again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poundlock.codecs import dump
from poundlock.errors import (
    HoldMoved,
    InboxAhead,
    LeaseLost,
    LoadMoved,
    NotRegistered,
    NotStorable,
    RunFinished,
    RunNotFound,
    StaleVersion,
)
from poundlock.model.events import Event
from poundlock.model.hold_checks import LARGEST_BATCH
from poundlock.model.holds import HeldRow, HoldChange, HoldKey, after_window
from poundlock.model.outbox import HeldBy, OutboxMark, OutboxMove, OutboxRow, error_text
from poundlock.model.receipts import ReceiptLine, Rewrite, Verdict, new_line
from poundlock.records import NamedTuple, dataclass
from poundlock.runtime.admission import REFUSED, AdmissionPlan, decide_for, end_superseded
from poundlock.runtime.commands.admit import carry_out, tell, write
from poundlock.runtime.core import Core
from poundlock.runtime.dead_letters import not_here
from poundlock.runtime.dispatch import Route, ask, code_of, initial_of, secrets_of
from poundlock.runtime.healing import patiently
from poundlock.runtime.held_events import letter_of, value_of, whole_batch
from poundlock.runtime.hold_desk import Turn
from poundlock.runtime.pending_hooks import ending

_PORTION = 64
"""Events that are decided in one commit, if each is for itself."""
_MOVED = (LoadMoved, HoldMoved, StaleVersion, InboxAhead, LeaseLost, RunFinished, RunNotFound)
"""Refusals after which it is decided again."""


@dataclass(frozen=True, slots=True)
class EndHold:
    """Decide what is held under a key, if its time is up or its trigger now holds in another way."""

    key: HoldKey


class _Item(NamedTuple):
    """What one decision is about: an event, or a batch as one event, and the held rows in it.

    `error`: why no run can begin with it.
    """

    event: Event
    text: str
    load_key: str
    initial: Any
    rows: Sequence[HeldRow]
    whole: bool
    error: NotStorable | None = None


async def end_hold(core: Core, command: EndHold) -> None:
    """Handle `EndHold`. It goes on if the caller is cancelled; without such a hold, or its workflow, nothing is done.

    Raises:
        PoundlockError: what is held cannot be read; it is held on.
    """
    await core.tasks.to_the_end(_end(core, command.key))


async def _end(core: Core, key: HoldKey) -> None:
    what = f"ending what trigger '{key.trigger_id}' of '{key.workflow_id}' holds"
    while await patiently(core, lambda: _portion(core, key), what):
        await core.store.written_behind()  # if it was refused: by a commit that may not be durable yet


async def _portion(core: Core, key: HoldKey) -> bool:
    """Decide some of what is held; returns whether there may be more, or it has to be decided again."""
    turn = await core.holds.turn((key,))
    try:
        await core.holds.quiet(key)  # only what is durable can be read
        [hold] = await core.store.read_holds([key])
        entry, now = core.entries.get(key.workflow_id), core.clock.now()
        if hold is None or entry is None or entry.closing:
            return False
        route = core.index.find(key.workflow_id, key.trigger_id)
        rule = None if route is None else route.hold
        if hold.due_at > now and (rule is None or rule.kind == hold.kind):
            return False
        # As the trigger is now; if it is gone, as it was.
        kind = hold.kind if route is None else None if rule is None else rule.kind
        limit = LARGEST_BATCH if kind == "batch" else _PORTION
        rows = await core.store.held_events(key, limit)
        plan = AdmissionPlan(now)
        await _decide(core, plan, key, route, _items(rows, batch=kind == "batch"))
        through = any(line.verdict not in REFUSED for line in plan.lines)
        token = core.ids.token()
        after = after_window(rule, hold, now, token) if through else None
        if len(rows) == limit:
            after = hold._replace(token=token, last=None)
        plan.holds = (HoldChange(key, hold.token, after, rows[-1].seq if rows else 0),)
        return not await _written(core, plan, turn) or len(rows) == limit
    finally:
        turn.give_back()


def _items(rows: Sequence[HeldRow], *, batch: bool) -> list[_Item]:
    """Return what is to be decided: each event by itself, or all of them as a batch."""
    if not batch or not rows:
        return [_Item(row.event, _text_of(row.event), row.load_key, value_of(row), (row,), False) for row in rows]
    try:
        return [_batch(rows)]
    except NotStorable:
        # Held before its trigger had batches: it is refused by itself, else nothing under this key would be decided.
        return [_alone(row) for row in rows]


def _batch(rows: Sequence[HeldRow]) -> _Item:
    whole = whole_batch([value_of(row) for row in rows], rows[-1].event)
    return _Item(whole.event, whole.text, rows[-1].load_key, whole.event.payload, rows, True)


def _alone(row: HeldRow) -> _Item:
    """Return a batch of one event, or the event that cannot be in any."""
    try:
        return _batch((row,))
    except NotStorable as error:
        return _Item(row.event, _text_of(row.event), row.load_key, None, (row,), False, error)


def _text_of(event: Event) -> str:
    return "null" if event.payload is None else dump(event.payload, "payload")


async def _decide(core: Core, plan: AdmissionPlan, key: HoldKey, route: Route | None, items: Sequence[_Item]) -> None:
    """Add the decisions to a plan: the runs, the rewritten lines, and what is a dead letter."""
    if route is None:
        gone = NotRegistered(
            f"workflow '{key.workflow_id}' has no trigger '{key.trigger_id}' any more: give it back, then replay"
        )
        plan.lines += [new_line(Verdict.REJECTED, *key[:2], None, code_of(gone)) for _ in items]
    else:
        pairs = dict.fromkeys((key.workflow_id, item.load_key) for item in items)
        plan.seen.update(zip(pairs, await core.loads.read([*pairs]), strict=True) if pairs else ())
        for item in items:
            event, text, load_key, initial, _, _, error = item
            said: tuple[Verdict, str | None, str] = (Verdict.REJECTED, None, "" if error is None else code_of(error))
            if error is None:
                said, _ = decide_for(core, plan, route, event, text, load_key, initial)
            plan.lines.append(new_line(said[0], *key[:2], said[1], said[2]))
        await end_superseded(core, plan)
    for item, line in zip(items, plan.lines, strict=True):
        plan.rewrites += tuple([Rewrite(row.event.source, row.event.id, line) for row in item.rows])
        if line.verdict in REFUSED:
            held_by = HeldBy(*key[:2], item.load_key, item.whole)
            plan.letters += (letter_of(item.event, item.text, held_by, line, plan.now),)


async def _written(core: Core, plan: AdmissionPlan, turn: Turn | None = None) -> bool:
    """Commit a plan, and do what follows; returns False if it was refused, and has to be decided again."""
    try:
        with ending(core, plan.hooks):
            committed = await write(core, plan, None, turn)
    except _MOVED:
        return False
    carry_out(core, plan, committed, None)
    await tell(core, plan, ())
    return True


async def readmit(core: Core, row: OutboxRow) -> ReceiptLine:
    """Decide again about a dead letter that a trigger held; it does not go to the bus, and no id is remembered.

    Raises:
        NotRegistered: the trigger is not registered here; nothing was changed.
        OutboxMoved: the row has changed; nothing was decided.
    """
    held_by = row.held_by
    assert held_by is not None  # noqa: S101 - its caller looked
    while True:
        route = core.index.find(held_by.workflow_id, held_by.trigger_id)
        if route is None:
            raise not_here(held_by)
        line = await _readmitted(core, row, held_by, route)
        if line is not None:
            return line
        await core.store.written_behind()


async def _readmitted(core: Core, row: OutboxRow, held_by: HeldBy, route: Route) -> ReceiptLine | None:
    event, pair = row.event, (held_by.workflow_id, held_by.load_key)
    answer = ("", event.payload, "") if held_by.batch else await ask(route, event, core.clock, initial_of)
    plan = AdmissionPlan(core.clock.now())
    plan.seen[pair] = (await core.loads.read([pair]))[0]
    said: tuple[Verdict, str | None, str]
    if isinstance(answer, BaseException):
        said = (Verdict.REJECTED, None, code_of(answer, secrets_of(route.entry, route.pipeline_id, event.payload)))
    else:
        said, _ = decide_for(core, plan, route, event, _text_of(event), held_by.load_key, answer[1])
        await end_superseded(core, plan)
    line = new_line(said[0], route.workflow_id, route.trigger_id, said[1], said[2])
    mark = None
    if line.verdict in REFUSED:
        text = error_text(str(line.verdict), f"workflow '{line.workflow_id}': {line.reason}", None)
        mark = OutboxMark(False, row.attempts + 1, text, plan.now)
    plan.outbox = (OutboxMove(row.seq, row.version, mark),)
    plan.rewrites = (Rewrite(event.source, event.id, line),)
    return line if await _written(core, plan) else None
