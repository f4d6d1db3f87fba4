"""When a failed attempt is repeated. The arithmetic is tenacity's; the waiting is done on the container's clock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from poundlock.ids import default_ids
from poundlock.model.definitions import Retry
from poundlock.model.durations import seconds


def worth_another(retry: Retry, error: BaseException) -> bool:
    """Whether this error is one that another attempt may mend."""
    return isinstance(error, retry.on) and not isinstance(error, retry.not_on)


def delay_before(retry: Retry, attempt: int) -> float:
    """Return the seconds to wait after attempt number `attempt` (from 1) has failed."""
    from tenacity.wait import wait_exponential

    grows = wait_exponential(multiplier=seconds(retry.backoff), exp_base=retry.factor, max=seconds(retry.max))
    state: Any = SimpleNamespace(attempt_number=attempt)  # all that the wait looks at
    spread = retry.jitter * (2 * default_ids.fraction() - 1) if retry.jitter else 0.0
    return max(0.0, grows(state) * (1 + spread))
