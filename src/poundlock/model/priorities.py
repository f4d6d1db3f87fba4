"""Which of several runs comes first: the one of the higher priority, unless another one has waited for long.

A point of priority is worth a minute of waiting. So a run is overtaken only by runs that came at most so many minutes
after it as their priority is higher, and none waits for ever behind others that keep coming. A rank never changes while
a run waits, so nothing has to be sorted again. Runs of the same priority are first in, first out.
"""

from __future__ import annotations

from typing import Final

AGEING: Final = 60.0
"""Seconds that a run with one point more may come later and still be first."""


def rank(priority: int, since: float) -> float:
    """Return the rank of a run; the lowest one is first.

    Args:
        priority: of the run.
        since: when it began to wait, in seconds since 1970.
    """
    return since - AGEING * priority
