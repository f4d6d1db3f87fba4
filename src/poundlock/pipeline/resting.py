"""Steps that wait in the middle of their stage: for their next attempt, or for the next check of what they began.

A short wait sleeps in memory. During a long one the run is parked, once no step of the stage has anything else to do:
what has finished is kept in the memo, the run becomes delayed, and its stage is entered again when the first wait ends.

House rules: only stages whose plan says `keeps` have this. The work of a stage is counted in pieces (a step, or a
worker of a step with `each`); a piece either works, or rests, or has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from poundlock.clock import Clock, sleep_for
from poundlock.errors import NotStorable
from poundlock.guard import Interrupted
from poundlock.model.runs import RunError
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.interrupting import Scope, Withdrawn, current_task, judge
from poundlock.pipeline.kept_values import result_as_data, result_of, wait_as_data, wait_of
from poundlock.pipeline.memo import QUIET, began, memo_of
from poundlock.pipeline.plan import StagePlan, StepPlan
from poundlock.pipeline.step_results import StepDone

_REGISTERED: Final = "registered"
_ROUNDING: Final = 0.001
"""Seconds: two times of the clock are subtracted."""


class Parked(Withdrawn):
    """Unwinds a step whose run is parked now. It goes on by the memo when its stage is entered again."""


class Resting:
    """The waits of the steps of one visit of a stage.

    Attributes:
        began: when the visit began, in seconds since 1970, also if its run was parked since then.
        parked: whether the run is to be parked.
        until: when its stage is to be entered again, in seconds since 1970.
        quiet: whether that is not told in the timeline.
    """

    __slots__ = ("_run", "_short", "_sleeping", "_stage", "_working", "began", "parked", "quiet", "until")

    def __init__(self, run: ActiveRun, stage: StagePlan) -> None:
        self._run = run
        self._stage = stage
        self._working = len(stage.steps)
        self._sleeping: dict[asyncio.Future[bool], tuple[float, bool]] = {}
        self._short = 0
        """How many of these are short: they stay in memory, unless an operator pauses the run."""
        self.began = began(run)
        self.parked = False
        self.until = 0.0
        self.quiet = False
        if run.memo is not None and run.registered is None and _REGISTERED in run.memo.kept:
            run.registered = {name: wait_of(data) for name, data in run.memo.kept[_REGISTERED].items()}

    # ---------------------------------------------------------------------------------------------------- pieces
    def more(self, pieces: int) -> None:
        """Count further pieces of work."""
        self._working += pieces

    def less(self) -> None:
        """Count a piece of work that has ended."""
        self._working -= 1
        self._park_if_idle()

    def long(self, delay: float) -> bool:
        """Whether a wait of so many seconds is one that the run is parked for; any is, if an operator pauses it."""
        run = self._run
        return delay > 0 and (delay >= run.supervision.pause_window or run.pausing) and run.plan.parks

    def let_go(self) -> None:
        """Have the run parked, if an operator pauses it and all its steps only wait."""
        if self._run.pausing:
            self._park_if_idle()

    async def rest(self, until: float, delay: float, *, quiet: bool = False) -> None:
        """Wait.

        Args:
            until: the end, in seconds since 1970: for a run that is parked.
            delay: seconds from now: for one that stays in memory.
            quiet: whether a park for it is not told in the timeline: it is one of many.

        Raises:
            Parked: the run is parked; the memo has how the caller goes on.
        """
        clock = self._run.clock
        if delay <= 0 or not self._run.plan.parks:
            await sleep_for(clock, delay)
            return
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        timer = clock.call_later(delay, partial(_wake, turn, False))
        short = not self.long(delay)
        self._short += short
        self._sleeping[turn] = (min(until, clock.now() + delay) if short else until, quiet)
        self.less()
        try:
            parked = await turn
        finally:
            timer.cancel()
            del self._sleeping[turn]
            self._short -= short
            self._working += 1
        if parked:
            raise Parked

    def _park_if_idle(self) -> None:
        if self._working or self.parked or not self._sleeping or (self._short and not self._run.pausing):
            return
        first = min(until for until, _ in self._sleeping.values())
        if not self.long(first - self._run.clock.now() + _ROUNDING):
            return  # it ends soon, and then this is asked again
        self.parked = True
        self.quiet = all(quiet for _, quiet in self._sleeping.values())
        limit = self._stage.timeout
        self.until = first if limit is None else min(first, self.began + limit)
        for turn in self._sleeping:
            _wake(turn, True)

    # ----------------------------------------------------------------------------------------------------- results
    def left_of(self, timeout: float | None) -> float | None:
        """Return how many seconds of the stage's timeout are left."""
        return None if timeout is None else min(timeout, self.began + timeout - self._run.clock.now())

    def known(self, step: StepPlan) -> StepDone | None:
        """Return the result that a step had before its run was parked, or its owner died; None if it has none yet."""
        memo = self._run.memo
        data = None if memo is None else memo.kept.get(_key(step))
        return None if data is None else result_of(step, data)

    def suspend(self, finished: Sequence[StepDone]) -> None:
        """Keep what has finished, because the run is parked."""
        for done in finished:
            self.note(done)
        memo = memo_of(self._run)
        if memo.kept.get(QUIET, False) is not self.quiet:
            memo.put(QUIET, self.quiet)

    def note(self, done: StepDone) -> None:
        """Put a step's result into the memo; one that is no data has to be made again."""
        run = self._run
        memo = memo_of(run)
        if _key(done.step) in memo.kept:
            return
        try:
            if run.registered:  # first, as the step that registered them may not run again
                waits = {name: wait_as_data(wait) for name, wait in run.registered.items()}
                if waits != memo.kept.get(_REGISTERED):
                    memo.note(self._stage.path_json, _REGISTERED, waits)
            memo.note(done.step.path_json, _key(done.step), result_as_data(done))
        except NotStorable:
            return

    async def outcome(
        self, step: StepPlan, scope: Scope | None, work: Callable[[], Coroutine[Any, Any, StepDone | RunError | None]]
    ) -> StepDone | RunError | None:
        """Return the outcome of a step of the stage: from the memo, or of its work. None: given up, or parked.

        Raises:
            Interrupted: the run was interrupted, and there is no scope.
            PoundlockError: a commit of the memo failed; the run cannot continue in this process.
        """
        try:
            done = self.known(step)
            if done is not None:
                return done
            outcome = await work()
            if self._run.plan.keeps_steps and isinstance(outcome, StepDone) and step.each is None:
                await self._keep(outcome, scope)
            return outcome
        except Parked:
            return None
        except (Interrupted, Withdrawn):
            if scope is None:
                raise
            return None
        finally:
            self.less()

    async def _keep(self, done: StepDone, scope: Scope | None) -> None:
        self.note(done)
        try:
            await memo_of(self._run).keep()
        except asyncio.CancelledError as error:
            await judge(self._run, current_task(), error, scope)  # user code's own cancellation has no effect here


class Awake:
    """The waits of an undo: in memory, whatever they are, because the end of its run is decided."""

    __slots__ = ("_clock", "began", "parked")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.began = clock.now()
        self.parked = False

    def more(self, pieces: int) -> None:
        pass

    def less(self) -> None:
        pass

    def long(self, _delay: float) -> bool:
        return False

    async def rest(self, _until: float, delay: float, *, quiet: bool = False) -> None:  # noqa: ARG002 - as others
        await sleep_for(self._clock, delay)


def _key(step: StepPlan) -> str:
    return f"done:{step.id}"


def _wake(turn: asyncio.Future[bool], parked: bool) -> None:
    if not turn.done():
        turn.set_result(parked)
