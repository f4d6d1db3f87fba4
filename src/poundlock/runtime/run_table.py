"""The runs this process drives or holds."""

from __future__ import annotations

import asyncio

from poundlock.pipeline.active import ActiveRun
from poundlock.runtime.entries import Registered


class LiveRun:
    """A run this process owns, and the task that drives it."""

    __slots__ = ("creation", "entry", "gate", "left", "new", "run", "task")

    def __init__(self, run: ActiveRun, entry: Registered, *, new: bool = False) -> None:
        self.run = run
        self.entry = entry
        self.new = new
        self.task: asyncio.Task[None] | None = None
        self.gate: asyncio.Event | None = None
        self.creation: asyncio.Task[None] | None = None
        """The run's creation while somebody else writes it; its own boundaries come after that."""
        self.left: asyncio.Future[None] | None = None
        """Done when the run's task is left behind, if anybody asked."""

    def open_gate(self) -> None:
        """Let deliveries in again: the run has stopped, or goes on after all."""
        gate = self.gate
        if gate is not None:
            gate.set()
            self.gate = None
