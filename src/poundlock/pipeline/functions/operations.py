"""How each operation of a durable function is performed, or taken from the record."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from poundlock.callables import is_coroutine_function
from poundlock.clock import sleep_for
from poundlock.codecs import pack
from poundlock.errors import (
    LeaseLost,
    NonRetryable,
    RetryAfter,
    RuntimeStopped,
    StaleVersion,
    StateInvalid,
    StepFailed,
    StepTimeout,
    StoreFull,
    StoreUnavailable,
)
from poundlock.guard import Interrupted, answer_of, describe, passes
from poundlock.model.definitions import Pending, Retry
from poundlock.model.durations import seconds
from poundlock.model.events import Event
from poundlock.model.waits import arm, lacking_paths
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.durable_steps import Call, Operation
from poundlock.pipeline.durable_waits import arm_row, recorded_event, take_first
from poundlock.pipeline.functions.emitting import FunctionContext
from poundlock.pipeline.functions.fibers import Again, Broken
from poundlock.pipeline.functions.recording import Recording
from poundlock.pipeline.interrupting import Scope, Withdrawn, asked_for, beside, current_task, disturbed, judge
from poundlock.pipeline.plan import StagePlan
from poundlock.pipeline.waits import note

SHORT: Final = 1.0
"""Seconds: a sleep up to this is done in memory."""


class Operations(Recording):
    """The operations of one pass.

    Attributes:
        unasked: operations that were made and not awaited, in order.
    """

    def __init__(self, run: ActiveRun, stage: StagePlan, context: FunctionContext) -> None:
        super().__init__(run, stage, context)
        self.unasked: dict[Operation[Any], None] = {}
        self._ways: dict[str, Callable[[Operation[Any]], Coroutine[Any, Any, Any]]] = {
            "run": self._run,
            "poll": self._poll,
            "sleep": self._sleep,
            "wait": self._wait,
            "start": self._start,
            "gather": self._gather,
            "again": self._again,
        }

    # -------------------------------------------------------------------------------------- what `Steps` needs
    def created(self, operation: Operation[Any]) -> None:
        self.unasked[operation] = None

    def forgotten(self) -> Operation[Any] | None:
        """Return an operation that was not awaited: rather the one that was to gather others than one of those."""
        gathers = [each for each in self.unasked if each.kind == "gather"]
        for each in gathers:
            for part in each.asked:
                if inspect.iscoroutine(part):
                    part.close()  # else it is reported as never awaited once more
        return next(iter([*gathers, *self.unasked]), None)

    async def perform(self, operation: Operation[Any]) -> Any:
        self.unasked.pop(operation, None)
        fiber = await self.fibers.enter(operation)
        operation.begun = True
        fiber.busy = operation
        try:
            return await self._ways[operation.kind](operation)
        finally:
            fiber.busy = None

    # ------------------------------------------------------------------------------------------------------ waiting
    async def _begin(self, operation: Operation[Any]) -> None:
        """Called before something is done that has effects: what it may depend on is durable by then."""
        self._live = True
        while self.run.leaving:
            await self.fibers.block(operation, None)
        await self._keep()

    async def _block(self, operation: Operation[Any], until: float | None, row: Any = None) -> None:
        if self.fibers.running > 1:
            await self._keep()
        await self.fibers.block(operation, until, row)

    async def _until(self, operation: Operation[Any], until: float) -> None:
        """Wait until a time: briefly in memory, else as a run without a task."""
        left = until - self.run.clock.now()
        if left > SHORT:
            self._live = True
            await self._block(operation, until)
        else:
            self._live = self._live or left > 0
            # Also where nothing is left: without a commit in between, a poll would keep the loop to itself.
            await self._turn(sleep_for(self.run.clock, max(left, 0)))

    # --------------------------------------------------------------------------------------------------- each kind
    async def _run(self, operation: Operation[Any]) -> Any:
        record = self._record(operation)
        if record is not None:
            if "result" in record or "error" in record:
                return await self._replay(operation, record)
            if "gone" in record:
                await self.fibers.block(operation, None)
        result = await self._attempts(operation, record or {}, {})
        return await self._done(operation, result)

    async def _poll(self, operation: Operation[Any]) -> Any:
        call: Call = operation.asked
        record = self._record(operation)
        if record is not None:
            if "result" in record or "error" in record:
                return await self._replay(operation, record)
            if "gone" in record:
                await self.fibers.block(operation, None)
        since = self.run.clock.now() if record is None else record.get("since", self.run.clock.now())
        checks = 0 if record is None else record.get("checks", 0)
        while True:
            result = await self._attempts(operation, record or {}, {"since": since, "checks": checks})
            if not isinstance(result, Pending):
                return await self._done(operation, result)
            now, checks = self.run.clock.now(), checks + 1
            try:
                until = now + (call.every if result.after is None else seconds(result.after))
            except ValueError as error:
                await self._failed(operation, StepFailed(f"the time of Pending cannot be read: {error}"))
            if call.max_wait is not None and until > since + call.max_wait:
                if now >= since + call.max_wait:
                    late = StepTimeout(
                        f"'{operation.key}' was pending for longer than {call.max_wait:g} s", path=operation.key
                    )
                    await self._failed(operation, late, checks)
                until = since + call.max_wait  # a last look at the end of its time
            record = self._note(operation, since=since, checks=checks, until=until)

    async def _attempts(self, operation: Operation[Any], record: Mapping[str, Any], more: Mapping[str, Any]) -> Any:
        """Call the function until an attempt succeeds; returns its result."""
        call: Call = operation.asked
        failed, until = record.get("failed", 0), record.get("until")
        while True:
            if until is not None:
                await self._until(operation, until)
            await self._begin(operation)
            try:
                return await self._attempt(operation, call)
            except (Interrupted, Withdrawn):
                raise
            except BaseException as error:
                if passes(error, current_task()):
                    raise
                failed += 1
                try:
                    delay = _delay(call.retry, failed, error)
                except ValueError as fault:
                    error, delay = StepFailed(f"the delay of RetryAfter cannot be read: {fault}"), None
                if delay is None:
                    await self._failed(operation, error, failed)
                until = self.run.clock.now() + delay
                said = describe(error)
                last = {"type": said.type, "message": said.message}
                self._note(operation, **more, failed=failed, until=until, last=last)
            await self._keep()

    async def _attempt(self, operation: Operation[Any], call: Call) -> Any:
        """One attempt; raises its error, Interrupted or Withdrawn."""
        run, outer = self.run, self.fibers.scope
        if call.timeout is None:
            return await self._once(call, outer)
        scope = Scope(outer)
        attempt = asyncio.get_running_loop().create_task(
            answer_of(self._once(call, scope)), name=f"{self.stage.path}/{operation.key}"
        )
        try:
            await beside(run, [attempt], scope, call.timeout)
        except asyncio.CancelledError as error:
            await judge(run, current_task(), error, outer)
            raise
        if asked_for(run) is not None or outer.given_up:
            await judge(run, current_task(), None, outer)
        if scope.timed_out:
            raise StepTimeout(
                f"'{operation.key}' took longer than {call.timeout:g} s: raise its timeout or make it faster",
                path=operation.key,
            )
        answer = attempt.result()
        try:
            if answer.error is not None:
                raise answer.error
            return answer.value
        finally:
            del answer, attempt  # else the error refers to itself through its traceback

    async def _once(self, call: Call, scope: Scope) -> Any:
        run, task = self.run, current_task()
        try:
            if is_coroutine_function(call.function):
                result = await call.function(*call.args, **call.kwargs)
            else:
                result = await run.threads.call(call.function, call.args, call.kwargs)
                if inspect.iscoroutine(result):
                    result = await result
        except BaseException as error:
            await judge(run, task, error, scope)
            raise
        if disturbed(run, task) or scope.given_up:
            stray = await judge(run, task, None, scope)
            if stray is not None:
                raise stray
        return result

    async def _sleep(self, operation: Operation[Any]) -> None:
        record = self._record(operation)
        if record is not None and "done" in record:
            return
        if record is not None and "gone" in record:
            await self.fibers.block(operation, None)
        duration, at = operation.asked
        until = record["until"] if record is not None else at if at is not None else self.run.clock.now() + duration
        if record is None and until - self.run.clock.now() > SHORT:
            self._note(operation, until=until)
        await self._until(operation, until)
        self._note(operation, until=until, done=True)

    async def _wait(self, operation: Operation[Any]) -> Event | None:
        run, wait = self.run, operation.asked
        if self._record(operation) is None:
            timeout = None if wait.timeout is None else seconds(wait.timeout)
            self._note(operation, until=None if timeout is None else run.clock.now() + timeout)
        while True:
            record = self._memo.kept[operation.key]
            if "event" in record:
                return recorded_event(record["event"])
            if "expired" in record:
                return None
            self._live = True
            if "gone" in record:
                await self.fibers.block(operation, None)
            row = arm(wait, operation.key, run.state, epoch=run.version + 1, resume_at=self.stage.id)
            if row is None:
                lacking = ", ".join(f"'{path}'" for path in lacking_paths(wait, run.state))
                raise StateInvalid(f"{operation!r} refers to state that is not there: {lacking}", path=operation.key)
            self._serve()
            if take_first(run, row, self.stage.path):
                continue
            until = record["until"]
            if until is not None and run.clock.now() >= until:
                note(run, "wait:expired", row, {})
                self._note(operation, until=until, expired=True)
                continue
            arm_row(run, row)
            await self._block(operation, until, row._replace(expires_at=until))

    async def _start(self, operation: Operation[Any]) -> Any:
        record = self._record(operation)
        if record is not None and ("result" in record or "error" in record):
            return await self._replay(operation, record)
        await self._begin(operation)
        payload = {} if operation.asked is None else operation.asked
        key = f"{self.run.run_id}/{self.run.visit_key}/{operation.key}"
        try:
            run_id = await self._turn(self.run.start_run_patiently(operation.name, payload, key))
        except (LeaseLost, RuntimeStopped, StaleVersion, StoreFull, StoreUnavailable) as error:
            self.fibers.finish(Broken(error))  # no failure of the function, nor one that it could handle
            raise Withdrawn from None
        except Exception as error:  # noqa: BLE001 - a workflow that is not there, or cannot begin with that payload
            await self._failed(operation, error)
        return await self._done(operation, run_id)

    async def _gather(self, operation: Operation[Any]) -> list[Any]:
        parts = operation.asked
        works = [_part(part) for part in parts]
        try:
            answers = await self.fibers.together(works) if works else []
        finally:
            for work in parts:
                if inspect.iscoroutine(work):
                    work.close()  # one that was cancelled before it began
        errors = [answer.error for answer in answers if answer.error is not None]
        # One that was given up beside a failure has not failed itself.
        errors.sort(key=lambda error: isinstance(error, Withdrawn | Interrupted))
        try:
            if errors:
                raise errors[0]
            return [answer.value for answer in answers]
        finally:
            del answers, errors  # else an error refers to itself through its traceback

    async def _again(self, operation: Operation[Any]) -> None:
        self.fibers.finish(Again(pack(operation.asked, "input")[0]))
        raise Withdrawn


async def _part(part: Any) -> Any:
    return await part


def _delay(retry: Retry | None, failed: int, error: BaseException) -> float | None:
    """Return the seconds until the next attempt; None if there is none. The latest error's own budget counts most.

    Raises:
        ValueError: the delay of a RetryAfter is no duration.
    """
    from poundlock.artifacts.retry import delay_before, worth_another  # not before something fails

    if isinstance(error, NonRetryable):
        return None
    budget = 1 if retry is None else retry.attempts
    if isinstance(error, RetryAfter):
        own = error.fields.get("attempts")
        budget = own if isinstance(own, int) else budget
        return None if failed >= budget else seconds(error.delay)
    if retry is None or failed >= budget or not worth_another(retry, error):
        return None
    return delay_before(retry, failed)
