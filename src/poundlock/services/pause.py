"""`__pause_service__`: lets a step register a wait before the run gets there, so that early events are buffered."""

from __future__ import annotations

import builtins
from typing import Protocol

from poundlock.errors import NotPaused
from poundlock.model.definitions import Wait
from poundlock.model.runs import WaitInfo


class RunWaits(Protocol):
    """The waits of one run, as its owner keeps them."""

    def announce(self, wait: Wait) -> str:
        """Note a wait; it is armed with the stage's commit. Returns its id."""

    def withdraw(self, wait_id: str) -> None:
        """Remove a noted wait."""

    def armed(self) -> builtins.list[WaitInfo]:
        """Return the waits that are armed."""


class NoWaits:
    """Waits without a run: for a container that is only used for checks."""

    def announce(self, wait: Wait) -> str:
        """Refuse: there is no run that could wait (`NotPaused`)."""
        raise NotPaused("there is no run here that could wait: ask for the pause service in a step", wait=wait.id)

    def withdraw(self, wait_id: str) -> None:
        """Nothing is registered."""

    def armed(self) -> builtins.list[WaitInfo]:
        """Nothing is armed."""
        return []


class PauseService:
    """The waits of one run. What is registered is armed, durably, with the stage's commit."""

    __slots__ = ("_waits",)

    def __init__(self, waits: RunWaits) -> None:
        self._waits = waits

    async def register(self, wait: Wait) -> str:
        """Buffer events that match `wait` from the next stage boundary on, until the run pauses for them.

        Returns:
            The wait's id; pause with a Wait of the same id to use what was buffered.

        Raises:
            InvalidDefinition: the wait has faults.
        """
        return self._waits.announce(wait)

    async def cancel(self, id: str) -> None:
        """Stop buffering for a registered wait; an unknown id does nothing."""
        self._waits.withdraw(id)

    async def list(self) -> builtins.list[WaitInfo]:
        """Return the waits that are armed now."""
        return self._waits.armed()
