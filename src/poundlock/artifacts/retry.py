"""When a failed attempt is repeated. tenacity computes the delay; the wait uses the container's clock."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from poundlock.guard import as_raised
from poundlock.ids import default_ids
from poundlock.model.definitions import Retry
from poundlock.model.durations import seconds


def worth_another(retry: Retry, error: BaseException) -> bool:
    """Whether this error is retried.

    A group is retried if its own type or every error in it is listed in `on`, and no error in it is in `not_on`.
    """
    error = as_raised(error)
    if not isinstance(error, BaseExceptionGroup):
        return isinstance(error, retry.on) and not isinstance(error, retry.not_on)
    within = [error, *_within(error)]
    if any(isinstance(each, retry.not_on) for each in within):
        return False
    leaves = [each for each in within if not isinstance(each, BaseExceptionGroup)]
    return isinstance(error, retry.on) or all(isinstance(each, retry.on) for each in leaves)


def _within(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """Yield all errors in a group and in nested groups. Iterative, so that depth has no limit."""
    left = [group]
    while left:
        for each in left.pop().exceptions:
            yield each
            if isinstance(each, BaseExceptionGroup):
                left.append(each)


def delay_before(retry: Retry, attempt: int) -> float:
    """Return the seconds to wait after attempt number `attempt` (from 1) has failed."""
    from tenacity.wait import wait_exponential

    grows = wait_exponential(multiplier=seconds(retry.backoff), exp_base=retry.factor, max=seconds(retry.max))
    state: Any = SimpleNamespace(attempt_number=attempt)  # the only attribute the wait reads
    spread = retry.jitter * (2 * default_ids.fraction() - 1) if retry.jitter else 0.0
    return max(0.0, grows(state) * (1 + spread))
