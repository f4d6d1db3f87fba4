"""Repeating a step's attempts. The arithmetic is tenacity's, as for artifacts; the loop is ours.

Tenacity's own loop costs as much as the step's whole stage, and an error with a meaning to the loop ends it
(StopAsyncIteration). An attempt that the runtime ended raises Interrupted or Withdrawn: there is no further one,
whatever `on` says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from poundlock.errors import NonRetryable, RetryAfter, StepFailed
from poundlock.guard import Interrupted, passes
from poundlock.model.definitions import Retry
from poundlock.model.durations import seconds
from poundlock.pipeline.interrupting import Withdrawn, current_task

T = TypeVar("T")


async def repeat(
    retry: Retry,
    attempt: Callable[[int], Awaitable[T]],
    on_retry: Callable[[int, float, BaseException], None],
    wait: Callable[[float], Awaitable[None]],
    number: int = 1,
) -> T:
    """Return the result of `attempt(number)`, repeated by the rules of `retry`.

    `on_retry(number, delay, error)` is called before each `wait(delay)`. The last error is raised as it is.
    `number` is the first attempt's: those before it were made by another owner of the run, or before it was parked.
    """
    task = current_task()
    while True:
        try:
            return await attempt(number)
        except (Interrupted, Withdrawn):
            raise
        except BaseException as error:
            if passes(error, task) or number >= retry.attempts:
                raise
            wanted = _delay(retry, number, error)
            if wanted is None:
                raise
            delay = wanted
            on_retry(number, delay, error)
        await wait(delay)
        number += 1


def _delay(retry: Retry, number: int, error: BaseException) -> float | None:
    """Return the seconds until the next attempt; None if this error is not worth one.

    Raises:
        StepFailed: a `RetryAfter` whose delay is no duration.
    """
    from poundlock.artifacts.retry import delay_before, worth_another  # not before a step fails

    if isinstance(error, NonRetryable):
        return None
    if isinstance(error, RetryAfter):
        try:
            return seconds(error.delay)
        except ValueError as fault:
            raise StepFailed(f"the delay of RetryAfter cannot be read: {fault}") from error
    return delay_before(retry, number) if worth_another(retry, error) else None
