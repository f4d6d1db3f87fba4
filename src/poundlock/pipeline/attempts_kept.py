"""How often something of a step was tried, kept so that further attempts go on from there after a crash or a park.

Before the delay of an attempt its number and its moment are durable; so a crash neither gives a step more attempts than
its Retry allows, nor begins the next one too early. A step that succeeds at once keeps nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from poundlock.clock import sleep_for
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.memo import memo_of
from poundlock.pipeline.plan import StepPlan


class AttemptsKept:
    """The attempts of one call of a step's function.

    Args:
        run: the run.
        step: the step.
        place: returns which of several calls of the step this is; empty if it is the only one. Those of many calls grow
            with them, so they are kept in the log, and at once only if the workflow keeps each result at once.
    """

    __slots__ = ("_place", "_run", "_step")

    def __init__(self, run: ActiveRun, step: StepPlan, place: Callable[[], str]) -> None:
        self._run = run
        self._step = step
        self._place = place

    def _key(self) -> str:
        place = self._place()
        return f"{self._step.kind}:retry:{self._step.id}{'/' if place else ''}{place}"

    def _known(self) -> Mapping[str, Any] | None:
        memo = self._run.memo
        return None if memo is None or not memo.kept else memo.kept.get(self._key())

    async def number(self) -> int:
        """Return the number of the first attempt to be made now, once the rest of its delay is over.

        Raises:
            Parked: the run is parked meanwhile.
        """
        known = self._known()
        if known is None:
            return 1
        # Not more than the delay itself, if the clock was set back.
        await self._rest(known["at"], min(known["delay"], known["at"] - self._run.clock.now()))
        return int(known["attempt"])

    def failed(self, number: int, delay: float, error: Mapping[str, Any]) -> None:
        """Note that an attempt failed, and that another one follows after `delay` seconds."""
        run = self._run
        if run.resting is None:
            return
        until = run.clock.now() + delay
        said = {"attempt": number + 1, "at": until, "delay": delay, "error": dict(error)}
        if not self._step.each:
            memo_of(run).put(self._key(), said)
        elif run.plan.keeps_steps or run.resting.long(delay):
            memo_of(run).note(self._step.path_json, self._key(), said)

    async def wait(self, delay: float) -> None:
        """Wait for the next attempt, once what `failed` noted is durable.

        Raises:
            Parked: the run is parked meanwhile.
        """
        run = self._run
        known = self._known()
        if run.resting is None or known is None:
            await sleep_for(run.clock, delay)
            return
        due = run.clock.monotonic() + delay
        if not self._step.each or run.plan.keeps_steps:
            await memo_of(run).keep()
        await self._rest(known["at"], due - run.clock.monotonic())

    async def _rest(self, until: float, delay: float) -> None:
        if self._run.resting is None:
            await sleep_for(self._run.clock, delay)
        else:
            await self._run.resting.rest(until, max(0.0, delay))
