"""A step with `poll`: its function begins something slow, and another one is called until that is done.

What the step returned, the job, is kept in the memo, so it is begun once. Between two checks the run sleeps, or is
parked if it takes long; a check that finds nothing writes nothing but the moment of the next one.
"""

from __future__ import annotations

from typing import Any, Final

from poundlock.codecs import detach, dump, pack_data
from poundlock.errors import StepFailed, StepTimeout
from poundlock.guard import name_of
from poundlock.model.definitions import INSTRUCTIONS, Pending
from poundlock.model.durations import seconds
from poundlock.model.runs import RunError
from poundlock.model.timeline_entry import job_key
from poundlock.pipeline.active import ActiveRun, KeptSoFar, Rest
from poundlock.pipeline.attempts import Attempts, Work
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.interrupting import Scope
from poundlock.pipeline.kept_values import sent_as_data, sent_of
from poundlock.pipeline.memo import memo_of
from poundlock.pipeline.plan import PollPlan, StepPlan
from poundlock.pipeline.run_view import RunView
from poundlock.pipeline.step_results import StepDone, digest, failure_of

NEXT: Final = "next:"
"""Before the id of a step, the key under which it keeps the moment of its next check while its run is parked."""
_SMALL: Final = 2000
"""Characters of a job that is written with each park; a larger one is read from the log instead."""


class PollContext(StepContext):
    """One attempt of one check."""

    __slots__ = ("_job",)

    def __init__(self, run: RunView, step: StepPlan, attempt: int, job: Any) -> None:
        super().__init__(run, step, attempt)
        self._job = job

    def _place(self) -> str:
        return f"{super()._place()}/poll"

    @property
    def job(self) -> Any:
        """What the step returned; a copy for each attempt."""
        return detach(self._job)


class Polled(Work):
    """A step with `poll`: what it begins, and all checks of that."""

    __slots__ = ("_failing", "_poll")

    def __init__(self, run: ActiveRun, step: StepPlan, poll: PollPlan, scope: Scope | None) -> None:
        super().__init__(run, step, scope)
        self._poll = poll
        self._failing: Attempts | None = None

    async def _result(self) -> StepDone:
        run, poll = self.run, self._poll
        resting = run.resting
        assert resting is not None  # noqa: S101 - a stage with such a step has it
        memo = memo_of(run)
        begun = memo.kept.get(job_key(self.step.id)) or await self._begin(memo)
        until = float(memo.kept.get(NEXT + self.step.id, begun["next"]))
        deadline = None if poll.max_wait is None else begun["since"] + poll.max_wait
        while True:
            late = deadline is not None and until > deadline
            await self._rest(memo, resting, until, deadline if late and deadline is not None else until)
            if late:
                raise self._too_late(poll.max_wait)
            check = self._failing = _Check(self, begun["job"])
            found = await check.all_attempts()
            if isinstance(found, StepDone):
                # Those of the call that began it, and of the check that found it done.
                found.outgoing = [*sent_of(begun.get("sent", ())), *(check.outgoing or ())]
                return found
            self._failing = None
            until = run.clock.now() + found
            if check.made > 1:  # the attempts of this check are not those of the next one
                memo.drop(f"poll:retry:{self.step.id}")
                await memo.keep()

    async def _begin(self, memo: KeptSoFar) -> Any:
        """Call the step's function, and keep what it returned."""
        run, poll = self.run, self._poll
        submit = self._failing = _Submit(run, self.step, self.scope)
        job, text = await submit.all_attempts()
        self._failing = None
        now = run.clock.now()
        begun = {"job": job, "since": now, "next": now + poll.every}
        if submit.outgoing:
            begun["sent"] = sent_as_data(submit.outgoing)
        if len(text) <= _SMALL and not submit.outgoing:
            kept = memo.put(job_key(self.step.id), begun)
        else:
            kept = memo.note(self.step.path_json, job_key(self.step.id), begun)
        said = dump({"every": poll.every, "max_wait": poll.max_wait})
        run.journal.add(now, "pipeline", "step:pending", self.step.path_json, said)
        await memo.keep()
        return kept

    async def _rest(self, memo: KeptSoFar, resting: Rest, check_at: float, until: float) -> None:
        delay = until - self.run.clock.now()
        if resting.long(delay):
            memo.put(NEXT + self.step.id, check_at)
        await resting.rest(until, max(0.0, delay), quiet=True)

    def _too_late(self, max_wait: float | None) -> StepTimeout:
        run, step = self.run, self.step
        run.journal.add(run.clock.now(), "pipeline", "step:timeout", step.path_json, dump({"max_wait": max_wait}))
        return StepTimeout(
            f"what step '{step.id}' began was not done within {max_wait:g} s: raise its max_wait, or see why it takes "
            f"so long",
            path=step.path,
        )

    def _succeeded(self, result: StepDone) -> StepDone:
        if self.run.journal.full:
            self.run.journal.put(self.run.clock.now(), self.step.success_entry)
        return result

    def _failed(self, error: BaseException) -> RunError:
        made = 1 if self._failing is None else self._failing.made
        return failure_of(self.run, self.step, error, made)


class _Submit(Attempts):
    """The call that begins something; its result is the job, as data and as text."""

    __slots__ = ()

    async def all_attempts(self) -> tuple[Any, str]:
        """Return the job; raises what the last attempt raised."""
        job: tuple[Any, str] = await self._result()
        return job

    def _begin(self, number: int) -> StepContext:
        run, step = self.run, self.step
        if number > 1:
            detail = dump(self._detail(number))
            run.journal.add(run.clock.now(), "pipeline", "step:start", step.path_json, detail)
        elif run.journal.full:
            run.journal.put(run.clock.now(), step.start_entry)
        return StepContext(run, step, number)

    def _take(self, result: Any) -> tuple[Any, str]:
        _refuse_instruction(self.step, result, "for its job")
        return pack_data(result, "job")


class _Check(Attempts):
    """One check: the attempts of the poll function."""

    __slots__ = ("_job", "_polled")

    def __init__(self, polled: Polled, job: Any) -> None:
        super().__init__(polled.run, polled._poll.check, polled.scope)  # noqa: SLF001 - a part of the same thing
        self._polled = polled.step
        self._job = job

    async def all_attempts(self) -> StepDone | float:
        """Return the result of the step, or in how many seconds to check again; raises what the last attempt raised."""
        found: StepDone | float = await self._result()
        return found

    def _begin(self, number: int) -> StepContext:
        return PollContext(self.run, self.step, number, self._job)

    def _take(self, result: Any) -> StepDone | float:
        if not isinstance(result, Pending):
            _refuse_instruction(self._polled, result, "from its poll function")
            return digest(self.run, self._polled, result)
        if result.after is None:
            return self._every
        try:
            return seconds(result.after)
        except ValueError as fault:
            raise StepFailed(f"Pending(after=) cannot be read: {fault}", path=self._polled.path) from None

    @property
    def _every(self) -> float:
        assert self._polled.poll is not None  # noqa: S101 - it is the step of this check
        return self._polled.poll.every


def _refuse_instruction(step: StepPlan, result: Any, where: str) -> None:
    if isinstance(result, (*INSTRUCTIONS, Pending)):
        raise StepFailed(
            f"step '{step.id}' returned {name_of(type(result))} {where}: return data, and let a router or the next "
            f"step decide where the run goes",
            path=step.path,
        )
