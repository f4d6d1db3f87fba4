"""What the holds of triggers mean for the decisions about events: which have to be read, and what is held.

House rule: as `admission.py`, this file writes nothing and imports no command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from poundlock.codecs import dump, load, pack, pack_data, pack_patch
from poundlock.model.drafts import new_tuple
from poundlock.model.events import Event, new_event
from poundlock.model.hold_checks import LARGEST_BATCH
from poundlock.model.holds import HeldEvent, HeldRow, Hold, HoldKey, HoldRule, Taken, is_over, take
from poundlock.model.outbox import HeldBy, Letter, error_text
from poundlock.model.receipts import ReceiptLine
from poundlock.pipeline.states import as_data
from poundlock.records import NamedTuple, dataclass, field
from poundlock.runtime.core import Core
from poundlock.runtime.dispatch import Route
from poundlock.runtime.hold_desk import Turn
from poundlock.runtime.runs import as_mapping


@dataclass(slots=True)
class Holding:
    """What the triggers of an event hold, and what that makes of it.

    Attributes:
        turn: the turn to decide on it, to be given back once the decision is submitted; None if nothing is written.
        now: when this was read.
        found: the holds as they will be when everything submitted is durable.
        taken: what each of them makes of the event.
        over: holds that have to end before the event can be decided; then there is nothing else.
        batches: what is held by the batches that this event completes.
    """

    turn: Turn | None
    now: float
    found: dict[HoldKey, Hold | None]
    taken: dict[HoldKey, Taken] = field(default_factory=dict)
    over: tuple[HoldKey, ...] = ()
    batches: dict[HoldKey, list[HeldRow]] = field(default_factory=dict)

    def give_back(self) -> None:
        """Let others decide on the same holds."""
        if self.turn is not None:
            self.turn.give_back()


class Whole(NamedTuple):
    """A batch as one event: the last one of it, with the payloads of all; `text` is the JSON text of that payload."""

    event: Event
    text: str


async def read_holding(core: Core, rules: Mapping[HoldKey, HoldRule], event: Event, *, dry: bool) -> Holding:
    """Wait for the turn to decide on holds, and read them. `dry` takes no turn, and ends no hold that is over."""
    turn = None if dry else await core.holds.turn(rules)
    try:
        found = dict(zip(rules, await core.holds.read([*rules]), strict=True))
        holding = Holding(turn, core.clock.now(), found)
        await _take_in(core, holding, rules, (event.source, event.id))
    except BaseException:
        if turn is not None:
            turn.give_back()
        raise
    return holding


async def _take_in(core: Core, holding: Holding, rules: Mapping[HoldKey, HoldRule], event: tuple[str, str]) -> None:
    now, found, dry = holding.now, holding.found, holding.turn is None
    over = [key for key, hold in found.items() if hold is not None and is_over(rules[key], hold, now)]
    if dry:  # they will have ended by then
        found.update(dict.fromkeys(over))
    elif over:
        holding.over = tuple(over)
        holding.give_back()
        return
    for key, hold in found.items():
        taken = holding.taken[key] = take(rules[key], hold, event, now, core.ids.token())
        if rules[key].kind == "batch" and not taken.held:
            if not dry:
                await core.holds.quiet(key)  # only what is durable can be read
            holding.batches[key] = [] if hold is None else await core.store.held_events(key, LARGEST_BATCH)


def as_held(route: Route, event: Event, text: str, load_key: str, initial: Any) -> HeldEvent:
    """Return an event as it is held, with what the trigger's `map` returned.

    Raises:
        InvalidEvent, NotStorable: a run cannot begin with that.
    """
    if route.hold is not None and route.hold.kind == "batch":
        whole_batch([initial], event)  # it nests deeper in there: else neither it nor its batch could be decided
    if initial is event.payload:
        return HeldEvent(event, text, load_key)
    if route.hold is not None and route.hold.kind == "batch":
        return HeldEvent(event, text, load_key, pack_data(initial, "events")[1])
    model = route.entry.definition.state_of(route.pipeline_id)
    return HeldEvent(event, text, load_key, pack_patch(as_mapping(as_data(model, initial)), "state")[1])


def value_of(row: HeldRow) -> Any:
    """Return what a held event means to its trigger: its mapped value, or its payload."""
    if row.initial is not None:
        return load(row.initial)
    return {} if row.event.payload is None else row.event.payload


def whole_batch(values: Sequence[Any], last: Event) -> Whole:
    """Return a batch as one event.

    Raises:
        NotStorable: a value is not data.
    """
    payload, text = pack({"events": list(values)}, "events", "none")
    return Whole(
        new_event(last.type, payload, last.id, last.time, last.source, last.key, last.headers),
        text,
    )


def letter_of(event: Event, text: str | None, held_by: HeldBy, line: ReceiptLine, now: float) -> Letter:
    """Return the dead letter of an event that was held, and refused with this line."""
    error = error_text(str(line.verdict), f"workflow '{line.workflow_id}': {line.reason}", None)
    whole = text if text is not None else "null" if event.payload is None else dump(event.payload, "payload")
    return new_tuple(Letter, (event, whole, held_by, error, now))
