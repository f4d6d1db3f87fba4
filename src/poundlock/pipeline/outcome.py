"""Outcome: what driving a run came to. A closed union; the value is the only way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from poundlock.model.runs import RunError, WaitRow


@dataclass(slots=True)
class Completed:
    """The last stage is done, or a router terminated the run with `result` (already detached)."""

    result: Any = None


@dataclass(slots=True)
class Paused:
    """The run stands at this wait."""

    wait: WaitRow


@dataclass(slots=True)
class Delayed:
    """The run goes on at `until` (seconds since 1970)."""

    until: float


@dataclass(slots=True)
class Failed:
    """A step failed for good, a wait expired, or a router said so."""

    error: RunError


@dataclass(slots=True)
class Aborted:
    """Somebody asked for the run's end."""

    reason: str
    by: str


@dataclass(slots=True)
class Released:
    """The runtime stops; the run was given back at a boundary and goes on elsewhere or later."""


Outcome = Completed | Paused | Delayed | Failed | Aborted | Released
