"""The input of a mode (Load), and its possible decisions."""

from __future__ import annotations

from typing import Any

from poundlock.errors import InvalidDefinition
from poundlock.model.drafts import new_tuple
from poundlock.records import NamedTuple, dataclass


class Load(NamedTuple):
    """The load of one (workflow, key). Its size does not depend on the queue's length.

    Args:
        active: number of runs that hold a slot.
        active_id: the latest run that took a slot; only modes with one slot use it.
        queued: number of runs that wait for a slot.
        tail_id: the run queued last; only modes with one place in the queue use it.
    """

    active: int = 0
    active_id: str | None = None
    queued: int = 0
    tail_id: str | None = None

    @property
    def idle(self) -> bool:
        """Whether no run is active or queued; such a load has no row."""
        return not self.active and not self.queued

    @property
    def holder(self) -> str:
        """The active run as text. Its id is unknown after a resumed run that was active beside it has ended."""
        return "another run" if self.active_id is None else f"run {self.active_id}"

    def started(self, run_id: str) -> Load:
        """Return the load after a run took a slot."""
        active, _, queued, tail_id = self
        return new_tuple(Load, (active + 1, run_id, queued, tail_id))

    def lined_up(self, run_id: str, *, instead: bool = False) -> Load:
        """Return the load after a run was queued: `instead` of the last queued run, or behind it."""
        return Load(self.active, self.active_id, self.queued if instead else self.queued + 1, run_id)

    def freed(self, run_id: str) -> Load:
        """Return the load after a run released its slot."""
        active, active_id, queued, tail_id = self
        return new_tuple(Load, (max(0, active - 1), None if active_id == run_id else active_id, queued, tail_id))

    def unqueued(self, run_id: str) -> Load:
        """Return the load after a run left the queue without a slot."""
        tail_id = None if self.tail_id == run_id else self.tail_id
        return Load(self.active, self.active_id, max(0, self.queued - 1), tail_id)

    def promoted(self, slots: int) -> tuple[Load, int]:
        """Return the load after queued runs took the free ones of `slots` slots, and how many did.

        Their ids are known after the commit.
        """
        count = min(self.queued, slots - self.active)
        if count <= 0:
            return self, 0
        emptied = self.queued == count
        active_id, tail_id = (self.tail_id, None) if emptied else (None, self.tail_id)
        return Load(self.active + count, active_id, self.queued - count, tail_id), count

    def left(self, run_id: str, slots: int, *, queued: bool) -> tuple[Load, int]:
        """Return the load after a run left it and others took the free ones of `slots` slots, and how many did.

        Args:
            run_id: the run that left.
            slots: how many runs may be active in this mode.
            queued: whether it left the queue; otherwise it released its slot.
        """
        after = self.unqueued(run_id) if queued else self.freed(run_id)
        return after.promoted(slots) if after.queued else (after, 0)


@dataclass(frozen=True, slots=True)
class Start:
    """Take a slot and run now."""


@dataclass(frozen=True, slots=True)
class Queue:
    """Wait for a slot; `supersedes` names a queued run that this one replaces: it ends aborted."""

    supersedes: str | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """Drop the event: the emitter's receipt says so, and no retry is expected."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reject:
    """Reject the event: the emitter is expected to try again later."""

    reason: str


@dataclass(frozen=True, slots=True)
class Signal:
    """Merge the event's patch into the run that is active."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Abort the active run; the new one starts when the old one's clean-up is done.

    `supersedes` names an earlier replacement that was still waiting; it ends aborted.
    """

    run_id: str
    supersedes: str | None = None


def check_mode(mode: Any) -> None:
    """Refuse a mode with an invalid limit or choice; every mode calls this when it is created.

    Raises:
        InvalidDefinition: `path` names the argument.
    """
    name = type(mode).__name__
    for argument, least in (("concurrency", 1), ("capacity", 0)):
        limit = getattr(mode, argument, None)
        if argument == "capacity" and limit is None:
            continue
        if hasattr(mode, argument) and (type(limit) is not int or limit < least):
            raise InvalidDefinition(
                f"{name}: {argument} is {limit!r}: use a whole number of at least {least}", path=argument
            )
    choices: tuple[str, ...] = getattr(mode, "CHOICES", ())
    if choices and mode.on_busy not in choices:
        raise InvalidDefinition(f"{name}: on_busy is {mode.on_busy!r}: use {' or '.join(choices)}", path="on_busy")
    if mode.key is not None and not callable(mode.key) and not (isinstance(mode.key, str) and mode.key):
        raise InvalidDefinition(
            f"{name}: key is {mode.key!r}: use a payload path or a function of the event", path="key"
        )


Decision = Start | Queue | Drop | Reject | Signal | Replace
