"""The effect of an event that answers a wait: the patch of the run's state, or why it cannot be applied.

Computed twice: when the event is admitted, for a paused run, and when the run uses it. So a malformed event is
refused at `emit`, and one that was buffered before the run got there cannot end the run either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from poundlock.clock import Clock
from poundlock.errors import StepFailed
from poundlock.guard import Answer, call_now, name_blocking, name_of
from poundlock.model.events import Event
from poundlock.model.patches import merge
from poundlock.model.paths import MISSING
from poundlock.model.runs import WaitRow
from poundlock.pipeline.plan import DeclaredWait
from poundlock.pipeline.states import Written, brought, settle, shown, written


class Answers:
    """Results of patch functions for events that were judged and not used yet, so that each is called once.

    Bounded: beyond the limit the oldest are dropped, and those functions are called again.
    """

    LIMIT: Final = 4096

    def __init__(self) -> None:
        self._given: dict[tuple[str, ...], tuple[dict[str, Any], Mapping[str, Any] | None]] = {}

    def keep(
        self, run_id: str, row: WaitRow, event: Event, state: dict[str, Any], given: Mapping[str, Any] | None
    ) -> None:
        """Keep a function's result for an event and a state; detached data, or None for nothing to merge."""
        self._given[_named(run_id, row, event)] = (state, given)
        if len(self._given) > self.LIMIT:
            del self._given[next(iter(self._given))]

    def get(self, run_id: str, row: WaitRow, event: Event, state: dict[str, Any]) -> Any:
        """Return the result kept for the event and this state, or MISSING."""
        kept = self._given.get(_named(run_id, row, event)) if self._given else None
        if kept is None:
            return MISSING
        before, given = kept
        # Guarded, because a comparison with a signalling NaN raises.
        return given if before is state or call_now(lambda: before == state).value is True else MISSING

    def forget(self, run_id: str, row: WaitRow, event: Event) -> None:
        """Forget it: the event was used."""
        self._given.pop(_named(run_id, row, event), None)


def _named(run_id: str, row: WaitRow, event: Event) -> tuple[str, ...]:
    return (run_id, row.wait_id, event.source, event.id)


def collected(row: WaitRow, events: Sequence[Event], model: Any, state: dict[str, Any]) -> Answer:
    """Return the patch (`Written`) that puts the payloads of events where a wait collects them; or why it cannot."""
    return call_now(_collected, row, events, model, state)


def _collected(row: WaitRow, events: Sequence[Event], model: Any, state: dict[str, Any]) -> Written:
    key = collects(row)
    assert key is not None  # noqa: S101 - asked by the caller
    patch = brought(model, {key: [event.payload for event in events]}, state)
    settle(model, merge(state, patch.patch))
    return patch


def collects(row: WaitRow) -> str | None:
    """Return the key of the state where a wait collects payloads; None if it merges them."""
    return None if row.rules is None else row.rules.collect


def can_be_refused(row: WaitRow, model: Any) -> bool:
    """Whether events may match a wait and not be applicable: without a patch function and model all are."""
    return model is not None or row.patch == "call"


def patch_of_event(
    row: WaitRow,
    declared: DeclaredWait | None,
    event: Event,
    model: Any,
    state: dict[str, Any],
    clock: Clock,
    known: Any = MISSING,
) -> Answer:
    """Return the patch (`Written`) of an event for a run at a wait; None if it changes nothing.

    Args:
        row: the wait the run is paused at.
        declared: the wait as the workflow declares it, if it does.
        event: the event that matches.
        model: of the state, or None.
        state: which the patch is going to be merged into.
        clock: measures whether the patch function blocked the event loop.
        known: the patch function's earlier result, if it was called already.

    Returns:
        The patch; or the error of the patch function, or why the state would not fit its model.
    """
    return call_now(_patch_of, row, declared, event, model, state, clock, known)


def _patch_of(
    row: WaitRow,
    declared: DeclaredWait | None,
    event: Event,
    model: Any,
    state: dict[str, Any],
    clock: Clock,
    known: Any,
) -> Written | None:
    if row.patch is None:
        if not isinstance(event.payload, Mapping):
            return None  # there is nothing to merge; routers see it as resume.event
        patch = brought(model, event.payload, state)
    else:
        given: Any = row.patch
        if row.patch == "call":
            given = _called(row, declared, event, model, state, clock) if known is MISSING else known
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise StepFailed(
                f"the patch function of wait '{row.wait_id}' returned a {name_of(type(given))}: return a mapping",
                path=row.wait_id,
            )
        patch = written(model, given, state)
    settle(model, merge(state, patch.patch))
    return patch


def _called(
    row: WaitRow, declared: DeclaredWait | None, event: Event, model: Any, state: dict[str, Any], clock: Clock
) -> Any:
    if declared is None or declared.patch is None:
        raise StepFailed(
            f"the patch function of wait '{row.wait_id}' is no longer in the workflow: restore it", path=row.wait_id
        )
    since = clock.monotonic()
    try:
        return declared.patch(own_event(event), lambda: shown(model, state))
    finally:
        name_blocking(clock, since, declared.wait.patch)  # type: ignore[arg-type]  # it is a function


def own_event(event: Event) -> Event:
    """Return an event for user code, with a copy of the payload: the store's is shared by all its runs."""
    own = event.detached()
    if event.time is not None:
        return own
    return Event.trusted(
        own.type, own.payload, id=own.id, time=0.0, source=own.source, key=own.key, headers=own.headers
    )
