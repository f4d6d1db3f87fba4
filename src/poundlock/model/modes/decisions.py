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
        queued: number of new runs that wait for a slot.
        tail_id: the run queued last; only modes with one place in the queue use it.
        returning: number of resumed runs that wait for a slot, because they had given theirs back. They come first.
    """

    active: int = 0
    active_id: str | None = None
    queued: int = 0
    tail_id: str | None = None
    returning: int = 0

    @property
    def idle(self) -> bool:
        """Whether no run is active or waits for a slot; such a load has no row."""
        return not self.active and not self.queued and not self.returning

    @property
    def busy(self) -> str:
        """Why no new run may start, as text. The id of the active run may be unknown where its mode has changed."""
        if not self.active and self.returning:
            return "a resumed run waits for a slot"
        return "another run is active" if self.active_id is None else f"run {self.active_id} is active"

    def started(self, run_id: str) -> Load:
        """Return the load after a run took a slot."""
        active, _, queued, tail_id, returning = self
        return new_tuple(Load, (active + 1, run_id, queued, tail_id, returning))

    def lined_up(self, run_id: str, *, instead: bool = False) -> Load:
        """Return the load after a run was queued: `instead` of the last queued run, or behind it."""
        queued = self.queued if instead else self.queued + 1
        return Load(self.active, self.active_id, queued, run_id, self.returning)

    def returned(self, run_id: str, slots: int) -> tuple[Load, bool]:
        """Return the load after a run that had given its slot back goes on, and whether it takes one of `slots` slots.

        It does if one is free and no other resumed run waits. Otherwise it waits behind those, before all queued runs.
        """
        if self.active < slots and not self.returning:
            return self.started(run_id), True
        return self._replace(returning=self.returning + 1), False

    def withdrawn(self) -> Load:
        """Return the load after a resumed run that waited for a slot does not need one any more."""
        return self._replace(returning=max(0, self.returning - 1))

    def freed(self, run_id: str) -> Load:
        """Return the load after a run released its slot."""
        active, active_id, queued, tail_id, returning = self
        active_id = None if active_id == run_id else active_id
        return new_tuple(Load, (max(0, active - 1), active_id, queued, tail_id, returning))

    def unqueued(self, run_id: str) -> Load:
        """Return the load after a run left the queue without a slot."""
        tail_id = None if self.tail_id == run_id else self.tail_id
        return Load(self.active, self.active_id, max(0, self.queued - 1), tail_id, self.returning)

    def promoted(self, slots: int) -> Promoted:
        """Return the load after runs that wait took the free ones of `slots` slots: resumed ones before queued ones.

        Their ids are known after the commit.
        """
        free = slots - self.active
        if free <= 0 or not (self.queued or self.returning):
            return Promoted(self)
        returning = min(self.returning, free)
        queued = min(self.queued, free - returning)
        emptied = bool(queued) and self.queued == queued
        active_id, tail_id = (self.tail_id, None) if emptied else (None, self.tail_id)
        after = Load(
            self.active + returning + queued, active_id, self.queued - queued, tail_id, self.returning - returning
        )
        return Promoted(after, returning, queued)

    def left(self, run_id: str, slots: int, *, queued: bool) -> Promoted:
        """Return the load after a run left it and others took the free ones of `slots` slots.

        Args:
            run_id: the run that left.
            slots: how many runs may be active in this mode.
            queued: whether it left the queue; otherwise it released its slot.
        """
        return (self.unqueued(run_id) if queued else self.freed(run_id)).promoted(slots)


class Promoted(NamedTuple):
    """A load after a promotion, and how many took a slot: so many `returning` runs, then so many `queued` ones."""

    load: Load
    returning: int = 0
    queued: int = 0


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
