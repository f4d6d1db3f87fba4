"""Repeating a step's attempts. The arithmetic and the loop are tenacity's; the clock and the chance are ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from poundlock.clock import Clock, sleep_for
from poundlock.ids import default_ids
from poundlock.model.definitions import Retry
from poundlock.model.durations import seconds


def compile_retry(
    retry: Retry, clock: Clock
) -> Callable[[Callable[[int], Awaitable[Any]], Callable[[int, float, BaseException], None]], Awaitable[Any]]:
    """Return a function `(attempt, on_retry) -> result` that repeats `attempt(number)` as `retry` says.

    `on_retry(number, delay, error)` is called before each wait. The last error is raised as it is.
    """
    import tenacity

    growth = tenacity.wait_exponential(
        multiplier=seconds(retry.backoff), exp_base=retry.factor, max=seconds(retry.max), min=0
    )

    def wait(state: tenacity.RetryCallState) -> float:
        delay = growth(state)
        return delay * (1 + retry.jitter * (2 * default_ids.fraction() - 1)) if retry.jitter else delay

    def worth_it(error: BaseException) -> bool:
        # Whoever retries on everything still means failures: a cancellation is somebody asking for the end.
        return isinstance(error, retry.on) and not isinstance(error, (asyncio.CancelledError, *retry.not_on))

    async def sleep(delay: float) -> None:
        await sleep_for(clock, delay)

    async def run(
        attempt: Callable[[int], Awaitable[Any]], on_retry: Callable[[int, float, BaseException], None]
    ) -> Any:
        def announce(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if error is not None and state.next_action is not None:
                on_retry(state.attempt_number, state.next_action.sleep, error)

        async for turn in tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(retry.attempts),
            wait=wait,
            retry=tenacity.retry_if_exception(worth_it),
            sleep=sleep,
            before_sleep=announce,
            reraise=True,
        ):
            with turn:
                return await attempt(turn.retry_state.attempt_number)
        raise AssertionError("tenacity ends by returning or raising")

    return run
