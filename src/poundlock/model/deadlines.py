"""The deadline of a run: computed from its creation and its definition; what these do not say is a row of its waits.

Pure functions. A run whose pauses count needs no row until it is delayed beyond its deadline, or has passed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from poundlock.model.runs import DEADLINE_WAIT, WaitRow, own_row
from poundlock.records import NamedTuple


class RunLimit(NamedTuple):
    """How long the runs of a workflow may take.

    Attributes:
        seconds: the limit.
        on_timeout: what passing it leads to: "fail", "abort" or a stage.
        active: whether the time in which a run is paused or delayed does not count.
    """

    seconds: float
    on_timeout: str
    active: bool

    @property
    def ends(self) -> bool:
        """Whether passing it ends a run."""
        return self.on_timeout in ("fail", "abort")


class Kept(NamedTuple):
    """What a run keeps about its deadline.

    Attributes:
        used: the run has none: it has passed and led to a stage, or the run is a child, which ends with its parent.
        paused: seconds in which it was paused or delayed, up to `since`. Only where they do not count.
        since: since when it is paused or delayed, in seconds since 1970; None while that is over.
        until: the end of a delay beyond the deadline, for which it has to wait if the deadline turns out to be later.
        began: since when its time counts, in seconds since 1970; None: since it was created.
    """

    used: bool = False
    paused: float = 0.0
    since: float | None = None
    until: float | None = None
    began: float | None = None


_NOTHING_KEPT = Kept()


def kept_in(waits: Sequence[WaitRow]) -> Kept:
    """Return what a run keeps about its deadline in its waits."""
    for row in waits:
        if row.wait_id == DEADLINE_WAIT and isinstance(row.patch, Mapping):
            return Kept(**row.patch)
    return _NOTHING_KEPT


def keeping(waits: Sequence[WaitRow], kept: Kept, epoch: int) -> tuple[WaitRow, ...]:
    """Return a run's waits with this in place of what it kept before; `epoch` is that of a new row."""
    row = own_row(DEADLINE_WAIT, epoch=epoch, on_timeout="", patch=kept._asdict())
    return (*(other for other in waits if other.wait_id != DEADLINE_WAIT), row)


def deadline_of(limit: RunLimit, created_at: float, waits: Sequence[WaitRow]) -> float | None:
    """Return the deadline of a run, in seconds since 1970; None if it has none, or its time does not count now."""
    kept = kept_in(waits) if waits else _NOTHING_KEPT
    if kept.used or (limit.active and kept.since is not None):
        return None
    began = created_at if kept.began is None else kept.began
    return began + limit.seconds + (kept.paused if limit.active else 0.0)
