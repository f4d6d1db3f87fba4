"""The dispatch index: from an event's type to its triggers. The cost does not grow with the number of workflows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar

from poundlock.clock import Clock
from poundlock.errors import InvalidEvent
from poundlock.guard import BLOCKING, call_now, clear_cancellation, describe, name_blocking, repr_of, shortened
from poundlock.model.conditions import Condition, all_match
from poundlock.model.definitions import Trigger
from poundlock.model.durations import seconds
from poundlock.model.events import Event
from poundlock.model.holds import HoldRule, rule_of
from poundlock.model.paths import MISSING, get_path
from poundlock.model.patterns import is_pattern, type_matches
from poundlock.model.waits import canonical
from poundlock.pipeline.binding import TriggerFunctions
from poundlock.records import dataclass, field
from poundlock.runtime.entries import Registered
from poundlock.sensitive import HIDDEN, Masks, conceal, hides

A = TypeVar("A")
Asked = tuple[str, Any, str]
"""What an event means to a trigger: its key value, the initial state, and the key for which it is held."""


@dataclass(slots=True, eq=False)
class Route:
    """One trigger of one registered workflow."""

    entry: Registered
    trigger_id: str
    trigger: Trigger
    pipeline_id: str
    window: float | None
    functions: TriggerFunctions
    workflow_id: str = field(init=False)
    scope: str = field(init=False)
    """The scope in which deduplication remembers an event."""
    called: tuple[Callable[..., Any], ...] = field(init=False)
    """The user's functions of the event; without any, only data is compared."""
    priority: int = field(init=False)
    hold: HoldRule | None = field(init=False)
    """How it holds events back, if it does."""
    plain: bool = field(init=False)
    """Whether it takes each event of its type, and the event's payload as it is: then there is nothing to ask."""

    def __post_init__(self) -> None:
        self.workflow_id = self.entry.id
        self.scope = f"{self.workflow_id}/{self.trigger_id}"
        trigger = self.trigger
        self.priority = trigger.priority if self.entry.mode.by_priority else 0
        self.hold = rule_of(trigger)
        by = self.entry.mode.key
        functions = (trigger.when, trigger.key, trigger.map, by)
        self.called = tuple(function for function in functions if callable(function))
        self.plain = not self.called and not trigger.when and trigger.key is None and by is None

    def wants(self, event: Event) -> bool:
        """Whether the trigger's `when` matches the event; errors of a function are raised to the caller."""
        when = self.functions.when
        if when is not None:
            return bool(when(event.detached()))
        conditions: Any = self.trigger.when  # they are, if it is not a function
        return not conditions or all_match(conditions, event.payload)

    def partition(self, event: Event) -> str:
        """Return the key value for the mode's rule: by the mode's key, else the trigger's, else "" for all.

        Raises:
            InvalidEvent: the payload has no value at the key's path, or one that cannot be a key.
        """
        if self.entry.mode.key:
            return _key_value(self.entry.mode.key, self.entry.functions.mode_key, event)
        return _key_value(self.trigger.key, self.functions.key, event)

    def hold_key(self, event: Event, load_key: str) -> str:
        """Return for which value of the trigger's key an event is held; a batch without one has the mode's key.

        Raises:
            InvalidEvent: as `partition` does.
        """
        if self.hold is None or not self.entry.mode.key:
            return load_key
        if self.trigger.key is None:
            return load_key if self.hold.kind == "batch" else ""
        return _key_value(self.trigger.key, self.functions.key, event)

    def initial_state(self, event: Event) -> Any:
        """Return the initial state of a run: `map(event)`, or the payload."""
        if self.functions.map is not None:
            return self.functions.map(event.detached())
        return {} if event.payload is None else event.payload


class DispatchIndex:
    """Exact types in a dictionary; patterns, of which there are few, in a list with a cache of their matches.

    The cache maps an event type to its routes and is dropped when a workflow is registered or deregistered.
    """

    CACHED_TYPES = 4096

    def __init__(self) -> None:
        self._exact: dict[str, list[Route]] = {}
        self._named: dict[tuple[str, str], Route] = {}
        self._patterns: list[tuple[str, Route]] = []
        self._cache: dict[str, tuple[Route, ...]] = {}

    def add(self, entry: Registered) -> None:
        """Add a workflow's triggers."""
        for route in routes_of(entry):
            self._named[route.workflow_id, route.trigger_id] = route
            pattern = route.trigger.event
            if pattern is None:
                continue
            if is_pattern(pattern):
                self._patterns.append((pattern, route))
                self._cache.clear()
            else:
                self._exact.setdefault(pattern, []).append(route)
                self._cache.pop(pattern, None)

    def remove(self, entry: Registered) -> None:
        """Remove a workflow's triggers."""
        for trigger_id in entry.definition.triggers:
            self._named.pop((entry.id, trigger_id), None)
        for pattern in {trigger.event for trigger in entry.definition.triggers.values() if trigger.event}:
            kept = [route for route in self._exact.get(pattern, ()) if route.entry is not entry]
            if kept:
                self._exact[pattern] = kept
            else:
                self._exact.pop(pattern, None)
        self._patterns = [(pattern, route) for pattern, route in self._patterns if route.entry is not entry]
        self._cache.clear()

    def find(self, workflow_id: str, trigger_id: str) -> Route | None:
        """Return the route of a trigger."""
        return self._named.get((workflow_id, trigger_id))

    def match(self, event_type: str) -> tuple[Route, ...]:
        """Return the routes whose type fits, in order of registration within exact types, then patterns."""
        found = self._cache.get(event_type)
        if found is None:
            by_pattern = [route for pattern, route in self._patterns if type_matches(pattern, event_type)]
            found = (*self._exact.get(event_type, ()), *by_pattern)
            if len(self._cache) >= self.CACHED_TYPES:
                self._cache.clear()  # types come from outside: a flood of new ones must not fill memory
            self._cache[event_type] = found
        return found


def routes_of(entry: Registered) -> Iterator[Route]:
    """Yield a workflow's triggers as routes."""
    for trigger_id, trigger in entry.definition.triggers.items():
        window = None if trigger.dedupe is None else seconds(trigger.dedupe)
        pipeline_id = entry.definition.pipeline_of(trigger)
        yield Route(entry, trigger_id, trigger, pipeline_id, window, entry.functions.triggers[trigger_id])


def _key_value(by: Any, function: Callable[[Event], Any] | None, event: Event) -> str:
    """Return the value of a key for an event, by its path or function; "" without a key."""
    if by is None:
        return ""
    value = function(event.detached()) if function is not None else get_path(event.payload, by)
    if value is MISSING or value is None or isinstance(value, dict | list):
        where = f"'{by}'" if isinstance(by, str) else "the key function"
        raise InvalidEvent(
            f"{where} gives no key for event '{event.id}': send the field, or change the workflow's key",
            path=by if isinstance(by, str) else "key",
        )
    if isinstance(value, float | Decimal):
        # 2 and 2.0 are equal in a condition, and JSON encoders may write either.
        value = canonical(value)
    return str(value)


def answer_of(route: Route, event: Event) -> Asked | BaseException | None:
    """Find out what a trigger makes of an event; never raises the errors of its functions.

    Returns:
        What the event means to it; None if `when` does not match; or the error that a function raised.
    """
    if route.plain:
        return "", {} if event.payload is None else event.payload, ""
    value, error = call_now(_asked, route, event)
    return value if error is None else error


def initial_of(route: Route, event: Event) -> Asked | BaseException:
    """Do as `answer_of` for an event that the trigger has taken before: only `map` is asked again."""
    value, error = call_now(route.initial_state, event)
    return ("", value, "") if error is None else error


async def ask(
    route: Route,
    event: Event,
    clock: Clock,
    what: Callable[[Route, Event], A] = answer_of,  # type: ignore[assignment]  # what it is without this argument
) -> A | BaseException:
    """Do as `answer_of` for a trigger with functions: one that blocks is named, a cancellation it left is cleared."""
    caller = asyncio.current_task()
    before = 0 if caller is None else caller.cancelling()
    since = clock.monotonic()
    answer = what(route, event)
    for function in route.called if clock.monotonic() - since >= BLOCKING else ():
        name_blocking(clock, since, function)
    if caller is not None and caller.cancelling() > before:
        await clear_cancellation(caller, before)  # the functions caused it: the emitter was not cancelled
        return answer if isinstance(answer, BaseException) else asyncio.CancelledError()
    return answer


def _asked(route: Route, event: Event) -> Asked | None:
    if not route.wants(event):
        return None
    load_key = route.partition(event)
    return load_key, route.initial_state(event), route.hold_key(event, load_key)


_LONGEST: Final = 60
"""Maximum characters of a value in a reason: reasons are stored, and values may have any size."""


def unmet(conditions: Sequence[Condition], payload: Any, masks: Masks = ()) -> str:
    """Return the first condition that a payload does not meet, with its value; "" if it meets all. Never raises."""
    for condition in conditions:
        if not condition.matches(payload):
            found = get_path(payload, condition.field)
            field = condition.field[:_LONGEST]
            asked = condition.op if condition.op == "exists" else f"{condition.op} {_brief(condition.value)}"
            if condition.op == "exists" and condition.value is False:
                asked = "exists is False"
            held = HIDDEN if masks and hides(masks, condition.field) else _brief(found)
            saw = f"the payload has no '{field}'" if found is MISSING else f"it is {held}"
            return f"{field} {asked} does not hold: {saw}"
    return ""


def _brief(value: Any) -> str:
    """Return a value in a few characters, without reading all of it."""
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str | bytes) and len(value) > _LONGEST:
        return f"{repr_of(value[:_LONGEST])} and {len(value) - _LONGEST} more"
    if isinstance(value, int) and value.bit_length() > 4 * _LONGEST:
        return f"an integer of {value.bit_length()} bits"
    return repr_of(value, _LONGEST)


def code_of(error: BaseException, secrets: Iterable[str] = ()) -> str:
    """Return an error as the reason of a `rejected` line: its code if it has one, and its text without secrets."""
    said = describe(error)
    return f"{said.code or said.type}: {shortened(conceal(said.message, secrets))}"


def masks_of(entry: Registered | None, pipeline_id: str) -> Masks:
    """Return where sensitive values are in the events of a pipeline."""
    plan = None if entry is None else entry.plans.get(pipeline_id)
    return () if plan is None or plan.secrets is None else plan.secrets.of_events


def secrets_of(entry: Registered | None, pipeline_id: str, *data: Any) -> set[str]:
    """Return the texts that a reason must not show, of these data and of the environment."""
    plan = None if entry is None else entry.plans.get(pipeline_id)
    return set() if plan is None or plan.secrets is None else plan.secrets.of(*data)
