"""One entry of a timeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from poundlock.records import dataclass

BUFFERED: Final = "wait:buffered"
"""Type of the entry that an event has come, when it is taken in."""
KEPT: Final = "step:kept"
"""Type of the entry of what a step keeps besides the state. Its payload is a key, and the value."""


def job_key(step_id: str) -> str:
    """Return the key under which a step keeps the job that it polls; the job itself is below "job"."""
    return f"job:{step_id}"


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One entry of a timeline.

    Attributes:
        seq: number in the run's timeline, from 1, without gaps.
        time: seconds since 1970 by the runtime's clock.
        source: pipeline, state, container, logger, dispatch or services.
        type: e.g. "stage:start", "state:patch", "wait:matched".
        path: "pipeline/stage/step", as far as it applies.
        payload: details, JSON-like; None if there are none.
        patch: the state delta of this entry; None if the state did not change.
        live: whether it is not stored, but only told to those who follow the run now; its `seq` is then that of the
            last stored entry before it.
    """

    seq: int
    time: float
    source: str
    type: str
    path: str
    payload: Any
    patch: Mapping[str, Any] | None
    live: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as plain data; `live` is only there if it is true."""
        shape: dict[str, Any] = {
            "seq": self.seq,
            "time": self.time,
            "source": self.source,
            "type": self.type,
            "path": self.path,
            "payload": self.payload,
            "patch": self.patch,
        }
        if self.live:
            shape["live"] = True
        return shape
