"""Holds: triggers that keep events back for a time, and decide about them later.

What happens to an event is decided here, from the rule of its trigger and from what is held for the trigger and key.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from poundlock.model.definitions import Debounce, Throttle, Trigger
from poundlock.model.durations import seconds
from poundlock.model.events import Event
from poundlock.model.moments import utc_text
from poundlock.records import NamedTuple

HoldKind: TypeAlias = Literal["debounce", "throttle", "batch", "delay"]
ALL: Final = 2**63 - 1
"""As `HoldChange.clear`: everything that is held."""


class HoldRule(NamedTuple):
    """The hold of a trigger.

    Attributes:
        kind: which hold it is.
        span: the quiet time, the window, the time of a batch, or the delay, in seconds.
        size: n of a throttle or a batch; otherwise 0.
        longest: of a debounce, in seconds; None without a limit.
    """

    kind: HoldKind
    span: float
    size: int = 0
    longest: float | None = None


def rule_of(trigger: Trigger) -> HoldRule | None:
    """Return the hold of a valid trigger; None if it has none."""
    if trigger.debounce is not None:
        given = trigger.debounce if isinstance(trigger.debounce, Debounce) else Debounce(trigger.debounce)
        longest = None if given.longest is None else seconds(given.longest)
        return HoldRule("debounce", seconds(given.quiet), 0, longest)
    if trigger.throttle is not None:
        limit = trigger.throttle if isinstance(trigger.throttle, Throttle) else Throttle(1, trigger.throttle)
        return HoldRule("throttle", seconds(limit.per), limit.n)
    if trigger.batch is not None:
        return HoldRule("batch", seconds(trigger.batch.within), trigger.batch.n)
    return None if trigger.delay is None else HoldRule("delay", seconds(trigger.delay))


# -------------------------------------------------------------------------------------------------- what is stored
class HoldKey(NamedTuple):
    """For what events are held together: a trigger and a value of its key. Each event of a delay has its own."""

    workflow_id: str
    trigger_id: str
    key: str


class Hold(NamedTuple):
    """What is held for one `HoldKey`, without the events themselves.

    Attributes:
        kind: which hold of the trigger it came from; the trigger may have another one by now.
        since: when it began.
        size: how many events are held; of a throttle, how many were let through.
        due_at: when it ends.
        token: random, new with each change.
        last: (source, id) of the latest event held, where the next one would supersede it.
    """

    kind: HoldKind
    since: float
    size: int
    due_at: float
    token: int
    last: tuple[str, str] | None = None


class HeldEvent(NamedTuple):
    """An event that is held.

    Attributes:
        event: as it was accepted.
        text: JSON text of its payload.
        load_key: the partition it counts in, for the mode's rule.
        initial: JSON text of what the trigger's `map` returned; None: it is the payload.
    """

    event: Event
    text: str
    load_key: str
    initial: str | None = None


class HeldRow(NamedTuple):
    """An event that is held, as it is read; `seq` grows in the order in which events came."""

    seq: int
    event: Event
    load_key: str
    initial: str | None


class HoldChange(NamedTuple):
    """A change of a hold.

    Must hold: the stored token is `expect`, or there is no such hold if that is None (`HoldMoved`).

    Attributes:
        key: which one.
        expect: its token as it was read.
        hold: what it is from now on; None deletes it, with all its events.
        clear: events up to this number are no longer held.
        add: an event that is held from now on.
    """

    key: HoldKey
    expect: int | None
    hold: Hold | None
    clear: int = 0
    add: HeldEvent | None = None


# -------------------------------------------------------------------------------------------------- decisions
class Taken(NamedTuple):
    """What a trigger's hold makes of an event.

    Attributes:
        hold: what the hold is then; None if it is over with this event.
        held: whether the event is held; otherwise it is decided now, with what was held, if the hold is over.
        supersedes: (source, id) of a held event in whose place it comes.
        reason: of a held event: by which hold, and until when.
    """

    hold: Hold | None
    held: bool
    supersedes: tuple[str, str] | None = None
    reason: str = ""


def is_over(rule: HoldRule, hold: Hold, now: float) -> bool:
    """Whether a hold has to end before another event of its trigger can be taken: its time is up, or the rule is new.

    A throttle's window in which nothing is held is simply replaced by the next.
    """
    if hold.kind == "throttle" and hold.last is None and (hold.due_at <= now or rule.kind != hold.kind):
        return False
    return hold.due_at <= now or hold.kind != rule.kind


def take(rule: HoldRule, hold: Hold | None, event: tuple[str, str], now: float, token: int) -> Taken:
    """Decide what a hold makes of an event.

    Args:
        rule: of the trigger.
        hold: what there is so far; not over (see `is_over`).
        event: source and id of the event.
        now: the time, in seconds since 1970.
        token: of the hold afterwards.
    """
    kind, span, size, longest = rule
    if hold is not None and (hold.kind != kind or hold.due_at <= now):
        hold = None
    # The clock may have been set back since: no hold lasts longer for that than it would from now on.
    since = now if hold is None else min(hold.since, now)
    latest = now + span
    due = latest if hold is None else min(hold.due_at, latest)
    before = None if hold is None else hold.last
    if kind == "delay":
        return _held(Hold(kind, now, 1, latest, token), None, "")
    if kind == "debounce":
        due = latest if longest is None else min(latest, since + longest)
        return _held(Hold(kind, since, 1, due, token, event), before, "")
    sofar = 0 if hold is None else hold.size
    if kind == "throttle":
        if sofar < size:
            return Taken(Hold(kind, since, sofar + 1, due, token), held=False)
        return _held(Hold(kind, since, sofar, due, token, event), before, "")
    if sofar + 1 >= size:
        return Taken(None, held=False)
    return _held(Hold(kind, since, sofar + 1, due, token), None, f" {sofar + 1} of {size},")


def _held(hold: Hold, supersedes: tuple[str, str] | None, so_far: str) -> Taken:
    return Taken(hold, True, supersedes, f"{hold.kind}:{so_far} until {utc_text(hold.due_at)}")


def after_window(rule: HoldRule | None, hold: Hold, now: float, token: int) -> Hold | None:
    """Return what follows a hold that has ended with an event that was let through: the next window of a throttle."""
    if rule is None or rule.kind != "throttle" or hold.kind == "delay":
        return None
    return Hold("throttle", now, 1, now + rule.span, token)
